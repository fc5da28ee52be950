"""How a run is going, to be looked at: metrics.jsonl, report.html and curves.png.

The page is one file: curves are SVG inside it, sample grids JPEG; no script, nothing from
elsewhere. The picture has the same curves, for where a page can't be shown.
"""

import base64
from collections.abc import Mapping
import html
import io
import json
import math
import os

from PIL import Image

from migan_jax.evaluation.figures import BASELINES
from migan_jax import storage
from migan_jax.training import charts

# Title of a chart -> names of its curves; those with a dash before are drawn dashed.
_CHARTS = {
    'Hole PSNR on held-out images, dB; dashed: holes filled without a network':
        ('eval/hole_psnr', *(f'-eval/{name}' for name in BASELINES)),
    'SSIM on held-out images': ('eval/ssim',),
    # Charts of their own, as the two have scales of their own.
    'Loss of the generator': ('train/g_loss',),
    'Loss of the discriminator': ('train/d_loss',),
    'Scores of the discriminator': ('train/d_score_real', 'train/d_score_fake'),
    'Norm of the generator\'s gradient': ('train/g_gradient',),
    'Norm of the discriminator\'s gradient': ('train/d_gradient',),
    'Images per second': ('train/images_per_second',),
    'Memory of the process and of a device, GiB': ('train/host_gib', 'train/device_gib'),
}
# Sample grids on the page, the first and the last among them, and their width in pixels.
_GRIDS, _GRID_WIDTH = 6, 640
# Points of a curve at most: a page of a long run stays small.
_POINTS = 500


class RunReport:
    """The figures of a workdir so far, and their page."""

    def __init__(self, workdir: os.PathLike | str, step: int) -> None:
        """Reads DIR/metrics.jsonl up to an iteration; later lines were not saved.

        Args:
          workdir: of the run.
          step: iteration from which the run goes on.
        """
        self._workdir = workdir
        self._path = storage.path_of(workdir, 'metrics.jsonl')
        self._rows = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                row = json.loads(line)
                if row['step'] <= step:
                    self._rows.append(row)

    def add(self, step: int, images: int, values: Mapping[str, float]) -> None:
        """Adds a line: {name: number} after an iteration and so many images."""
        self._rows.append({'step': step, 'kimg': images / 1000, **{
            name: value if math.isfinite(value) else None
            for name, value in values.items()}})

    def write_rows(self) -> None:
        """Writes metrics.jsonl."""
        text = ''.join(json.dumps(row) + '\n' for row in self._rows)
        storage.write_atomically(self._path, text.encode())

    def write(self) -> None:
        """Writes metrics.jsonl, report.html and curves.png."""
        self.write_rows()
        drawn = [chart for title, names in _CHARTS.items()
                 if (chart := charts.chart(title, self._curves(names)))]
        storage.write_atomically(
            storage.path_of(self._workdir, 'report.html'), self._page(drawn).encode())
        if drawn:
            picture = io.BytesIO()
            charts.picture(drawn).save(picture, 'PNG')
            storage.write_atomically(
                storage.path_of(self._workdir, 'curves.png'), picture.getvalue())

    def _page(self, drawn):
        name = html.escape(storage.path_of(self._workdir).name)
        images = round(1000 * self._rows[-1]['kimg']) if self._rows else 0
        return (
            f'<!doctype html><meta charset="utf-8"><title>{name}</title>'
            '<style>body{font:15px sans-serif;max-width:700px;margin:2em auto}'
            'img,svg{width:100%;height:auto}</style>'
            f'<h1>{name}</h1><p>After {images:,} images.</p>'
            + ''.join(f'<h2>{html.escape(chart.title)}</h2>{charts.svg(chart)}'
                      for chart in drawn)
            + ''.join(self._grids()) + '\n')

    def _curves(self, names):
        """{name: points} of those curves that have any."""
        return {name: points for name in names
                if (points := self._curve(name.lstrip('-')))}

    def _curve(self, name):
        points = [(row['kimg'], row[name]) for row in self._rows
                  if row.get(name) is not None]
        every = max(1, -(-len(points) // _POINTS))
        # The last point always: it is what one looks for.
        return points[-1::-every][::-1]

    def _grids(self):
        """HTML of sample grids over time."""
        folder = storage.path_of(self._workdir, 'samples')
        files = sorted(folder.glob('*kimg.png')) if folder.exists() else []
        count = min(_GRIDS, len(files))
        chosen = sorted({round(i * (len(files) - 1) / max(1, count - 1))
                         for i in range(count)})
        if chosen:
            yield '<h2>Input, mask, output, result, original</h2>'
        for i in chosen:
            with Image.open(io.BytesIO(files[i].read_bytes())) as picture:
                picture = picture.convert('RGB')
            picture.thumbnail((_GRID_WIDTH, 10 * _GRID_WIDTH))
            data = io.BytesIO()
            picture.save(data, 'JPEG', quality=85)
            yield (f'<h3>{html.escape(files[i].name.removesuffix(".png"))}</h3>'
                   f'<img alt="" src="data:image/jpeg;base64,'
                   f'{base64.b64encode(data.getvalue()).decode()}">')
