"""How a run is going, to be looked at in a browser: metrics.jsonl and report.html.

The page is one file: curves are SVG inside it, sample grids JPEG; no script, nothing from
elsewhere.
"""

import base64
import html
import io
import json
import math

from PIL import Image

from migan_jax import storage

# Title of a chart -> names of its curves; those with a dash before are drawn dashed.
_CHARTS = {
    'Hole PSNR on held-out images, dB; dashed: holes filled with the mean known colour':
        ('eval/hole_psnr', '-eval/mean_fill_hole_psnr'),
    'SSIM on held-out images': ('eval/ssim',),
    'Losses': ('train/g_loss', 'train/d_loss'),
    'Scores of the discriminator': ('train/d_score_real', 'train/d_score_fake'),
    'Images per second': ('train/images_per_second',),
    'Memory of the process and of a device, GiB': ('train/host_gib', 'train/device_gib'),
}
_COLOURS = ('#1f6fb4', '#c2571a')
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 220, 60, 30
# Sample grids on the page, the first and the last among them, and their width in pixels.
_GRIDS, _GRID_WIDTH = 6, 640
# Points of a curve at most: a page of a long run stays small.
_POINTS = 500


class RunReport:
    """The figures of a workdir so far, and their page."""

    def __init__(self, workdir, step):
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

    def add(self, step, images, values):
        """Adds a line: {name: number} after an iteration and so many images."""
        self._rows.append({'step': step, 'kimg': images / 1000, **{
            name: value if math.isfinite(value) else None
            for name, value in values.items()}})

    def write(self):
        """Writes metrics.jsonl and report.html."""
        text = ''.join(json.dumps(row) + '\n' for row in self._rows)
        storage.write_atomically(self._path, text.encode())
        storage.write_atomically(
            storage.path_of(self._workdir, 'report.html'), self._page().encode())

    def _page(self):
        charts = [chart for title, names in _CHARTS.items()
                  if (chart := self._chart(title, names))]
        name = html.escape(storage.path_of(self._workdir).name)
        last = self._rows[-1]['kimg'] if self._rows else 0
        return (
            f'<!doctype html><meta charset="utf-8"><title>{name}</title>'
            '<style>body{font:15px sans-serif;max-width:700px;margin:2em auto}'
            'img,svg{width:100%;height:auto}</style>'
            f'<h1>{name}</h1><p>After {last:.2f} thousand images.</p>'
            + ''.join(charts) + ''.join(self._grids()) + '\n')

    def _curve(self, name):
        points = [(row['kimg'], row[name]) for row in self._rows
                  if row.get(name) is not None]
        every = max(1, -(-len(points) // _POINTS))
        # The last point always: it is what one looks for.
        return points[-1::-every][::-1]

    def _chart(self, title, names):
        curves = {name: self._curve(name.lstrip('-')) for name in names}
        curves = {name: points for name, points in curves.items() if points}
        if not curves:
            return ''
        xs = [x for points in curves.values() for x, _ in points]
        ys = [y for points in curves.values() for _, y in points]
        left, right, low, high = min(xs), max(xs), min(ys), max(ys)
        place = lambda value, begin, end, size: (
            (value - begin) / (end - begin) * size if end > begin else size / 2)
        parts = [f'<h2>{html.escape(title)}</h2><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" '
                 'font-size="12" font-family="sans-serif" role="img">'
                 f'<path d="M{_LEFT} 10V{_HEIGHT - _BOTTOM}H{_WIDTH - 10}" fill="none" '
                 'stroke="#888"/>']
        for y, value in ((18, high), (_HEIGHT - _BOTTOM, low)):
            parts.append(f'<text x="{_LEFT - 6}" y="{y}" text-anchor="end">'
                         f'{value:.4g}</text>')
        for x, value, anchor in ((_LEFT, left, 'start'), (_WIDTH - 10, right, 'end')):
            parts.append(f'<text x="{x}" y="{_HEIGHT - 12}" text-anchor="{anchor}">'
                         f'{value:.4g} kimg</text>')
        for i, (name, points) in enumerate(curves.items()):
            path = ' '.join(
                f'{_LEFT + place(x, left, right, _WIDTH - _LEFT - 10):.1f},'
                f'{_HEIGHT - _BOTTOM - place(y, low, high, _HEIGHT - _BOTTOM - 14):.1f}'
                for x, y in points)
            colour = _COLOURS[i % len(_COLOURS)]
            dashed = ' stroke-dasharray="6 4"' if name.startswith('-') else ''
            # A round cap shows a single point, too.
            parts.append(f'<polyline points="{path} {path.split()[-1]}" fill="none" '
                         f'stroke="{colour}" stroke-width="2" stroke-linecap="round"'
                         f'{dashed}/><text x="{_WIDTH - 16}" y="{24 + 15 * i}" '
                         f'text-anchor="end" fill="{colour}">'
                         f'{html.escape(name.lstrip("-"))} {points[-1][1]:.4g}</text>')
        return ''.join(parts) + '</svg>'

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
