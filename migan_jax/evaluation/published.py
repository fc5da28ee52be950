"""Tables 2 and 3 of the MI-GAN supplement, and a run of one's own beside them."""

from collections.abc import Sequence

# None: not reported.  LaMa's and MAT's FFHQ rows of Table 2 are equal in print.
_NONE5, _NONE4 = (None,) * 5, (None,) * 4

HOLE_RANGES = ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0))

# FID by share of hole pixels: method, Places2 at 512, FFHQ at 256.
TABLE_2 = (
    ('LDM', (0.29, 1.37, 3.89, 9.72, 21.92), _NONE5),
    ('SH-GAN', (0.32, 1.60, 4.22, 8.35, 13.64), (0.68, 1.85, 3.03, 4.32, 5.63)),
    ('Co-Mod-GAN', (0.34, 1.79, 4.80, 9.74, 15.45), (0.69, 1.91, 3.27, 4.76, 6.22)),
    ('MAT', (0.40, 1.75, 4.67, 10.36, 19.10), (0.58, 1.92, 3.95, 6.99, 10.35)),
    ('ZITS', (0.32, 1.54, 4.74, 13.88, 39.78), _NONE5),
    ('LaMa', (0.29, 1.84, 6.42, 18.35, 46.23), (0.58, 1.92, 3.95, 6.99, 10.35)),
    ('HiFill', (0.92, 8.16, 34.02, 85.19, 128.20), _NONE5),
    ('MI-GAN', (0.36, 2.03, 5.74, 12.19, 20.51), (0.71, 1.99, 3.38, 5.04, 6.55)),
)

METRICS_3 = ('psnr', 'ssim', 'p_ids', 'u_ids')

# PSNR, SSIM, P-IDS, U-IDS: method, Places2 at 512, FFHQ at 256.
TABLE_3 = (
    ('LDM', (16.106, 0.605, 0.083, 0.237), _NONE4),
    ('SH-GAN', (16.014, 0.597, 0.149, 0.286), (16.357, 0.591, 0.154, 0.272)),
    ('Co-Mod-GAN', (15.985, 0.595, 0.120, 0.266), (16.247, 0.591, 0.137, 0.262)),
    ('MAT', (15.934, 0.597, 0.104, 0.249), (17.080, 0.627, 0.041, 0.170)),
    ('ZITS', (18.131, 0.657, 0.033, 0.171), _NONE4),
    ('LaMa', (17.950, 0.655, 0.020, 0.143), (17.585, 0.628, 0.002, 0.015)),
    ('HiFill', (15.599, 0.544, 0.002, 0.044), _NONE4),
    ('MI-GAN', (16.118, 0.597, 0.091, 0.234), (16.315, 0.590, 0.119, 0.239)),
)

DATASETS = ('places2', 'ffhq')
# Side in pixels and number of images that the tables' rows were measured on.
MEASURED_ON = {'places2': (512, 36_500), 'ffhq': (256, 10_000)}


def row_mark(dataset: str, side: int, count: int) -> str:
    """What a row of one's own says about its images: '' where they are the table's."""
    same = MEASURED_ON.get(dataset) == (side, count)
    return '' if same else f'other images, {side} x {side}'


def table(number: int, ours: Sequence[float | None], *, name: str, dataset: str = '',
          images: str = '', mark: str = '') -> str:
    """A table of the supplement as Markdown, with a row of one's own.

    Args:
      number: 2 or 3.
      ours: figures of this run, None where left out: five FIDs by hole range, or
        PSNR, SSIM, P-IDS and U-IDS.
      name: of the method in the last row.
      dataset: 'places2' or 'ffhq': under which columns the row belongs; '' gives it
        columns of its own, because it was not measured on either.
      images: what was measured, the title of those columns.
      mark: of `row_mark`, said in the row.

    Returns:
      Markdown; rows from the supplement are marked as published.

    Raises:
      ValueError: another number of figures.
    """
    rows, digits = (TABLE_2, 2) if number == 2 else (TABLE_3, 3)
    ranges = [f'({low:g}, {high:g}]' for low, high in HOLE_RANGES]
    columns = ranges if number == 2 else ['PSNR ↑', 'SSIM ↑', 'P-IDS ↑', 'U-IDS ↑']
    if len(ours) != len(columns):
        raise ValueError(f'table {number} has the columns {", ".join(columns)}; got '
                         f'{len(ours)} figures')
    groups = ['Places2 512', 'FFHQ 256'] + ([] if dataset else [images])
    place = DATASETS.index(dataset) if dataset else 2
    blank = [None] * len(columns)

    def line(first, figures):
        cells = ['-' if x is None else f'{x:.{digits}f}' for x in figures]
        return '| ' + ' | '.join([first, *cells]) + ' |'

    heads = [f'{group}: {column}' for group in groups for column in columns]
    lines = ['| Method | ' + ' | '.join(heads) + ' |', '|---' * (len(heads) + 1) + '|']
    for method, *published in rows:
        figures = sum((list(part) for part in published), [])
        lines.append(line(f'{method} (published)', figures + blank * (len(groups) - 2)))
    figures = sum((list(ours) if i == place else blank for i in range(len(groups))), [])
    run = f'this run, {mark}' if mark else 'this run'
    lines.append(line(f'{name} ({run})', figures))
    title = ('FID by share of hole pixels (the supplement\'s Table 2), lower is better'
             if number == 2 else 'The supplement\'s Table 3')
    return f'{title}\n\n' + '\n'.join(lines) + '\n'
