"""Curves as shapes on a sheet, drawn as SVG or as a picture."""

import html
import math
from typing import NamedTuple

from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

_COLOURS = ('#1f6fb4', '#c2571a', '#5a8f29', '#8a4fae')
_AXIS = '#888888'
_WIDTH, _PLOT, _LEFT, _RIGHT, _BOTTOM = 640, 170, 70, 10, 30
# Heights of letters and of a line of the legend.
_FONT, _LINE = 12, 16
_DASH, _GAP = 6, 4
# Radius of a curve's only point.
_DOT = 4
# SVG's names of a text's ends -> Pillow's, on the baseline.
_ANCHORS = {'start': 'ls', 'middle': 'ms', 'end': 'rs'}
# Pixels of a picture for each unit of a sheet.
_SCALE = 2


class Line(NamedTuple):
    """A line through points [(x, y)]."""
    points: list
    colour: str
    width: float = 1
    dashed: bool = False


class Dot(NamedTuple):
    """A filled circle around (x, y)."""
    x: float
    y: float
    colour: str


class Text(NamedTuple):
    """Words on a baseline at (x, y), which is their 'start', 'middle' or 'end'."""
    x: float
    y: float
    words: str
    colour: str = '#000000'
    anchor: str = 'start'


class Chart(NamedTuple):
    """A chart, `_WIDTH` wide and `height` high, y downwards."""
    title: str
    height: int
    shapes: list


def chart(title: str, curves: dict[str, list[tuple[float, float]]]) -> Chart | None:
    """The chart of some curves over thousands of images; None without any.

    Args:
      title: of it.
      curves: {name: [(thousand images, value)]}, each with a point at least; those whose
        name begins with a dash are drawn dashed.
    """
    if not curves:
        return None
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    top = _LINE * len(curves) + 8
    bottom = top + _PLOT
    place = lambda value, begin, end, size: (
        (value - begin) / (end - begin) * size if end > begin else size / 2)
    across = lambda x: _LEFT + place(x, left, right, _WIDTH - _LEFT - _RIGHT)
    down = lambda y: bottom - place(y, low, high, _PLOT)
    shapes = [Line([(_LEFT, top), (_LEFT, bottom), (_WIDTH - _RIGHT, bottom)], _AXIS)]
    for value in {low, (low + high) / 2, high}:
        shapes.append(Text(_LEFT - 6, down(value) + 4, f'{value:.3g}', anchor='end'))
        shapes.append(Line([(_LEFT - 3, down(value)), (_LEFT, down(value))], _AXIS))
    ends = ((_LEFT, left, 'start'), (_WIDTH - _RIGHT, right, 'end'))
    for x, value, anchor in ends if right > left else [(across(left), left, 'middle')]:
        shapes.append(Text(x, bottom + 18, f'{value:.4g} kimg', anchor=anchor))
    for i, (name, points) in enumerate(curves.items()):
        colour, dashed = _COLOURS[i % len(_COLOURS)], name.startswith('-')
        y = _LINE * (i + 1)
        shapes += [
            Line([(_LEFT, y - 4), (_LEFT + 24, y - 4)], colour, 2, dashed),
            Text(_LEFT + 30, y, f'{name.lstrip("-")}, last {points[-1][1]:.4g}', colour)]
        placed = [(across(x), down(y)) for x, y in points]
        # One point has no length to be seen.
        shapes.append(Line(placed, colour, 2, dashed) if len(placed) > 1
                      else Dot(*placed[0], colour))
    return Chart(title, bottom + _BOTTOM, shapes)


def svg(drawn: Chart) -> str:
    """A chart as an element of HTML; its title is not in it."""
    parts = [f'<svg viewBox="0 0 {_WIDTH} {drawn.height}" font-size="{_FONT}" '
             'font-family="sans-serif" role="img">']
    for shape in drawn.shapes:
        if isinstance(shape, Text):
            parts.append(
                f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" text-anchor="{shape.anchor}" '
                f'fill="{shape.colour}">{html.escape(shape.words)}</text>')
            continue
        if isinstance(shape, Dot):
            parts.append(f'<circle cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{_DOT:g}" '
                         f'fill="{shape.colour}"/>')
            continue
        dashes = f' stroke-dasharray="{_DASH} {_GAP}"' if shape.dashed else ''
        parts.append(
            '<polyline points="' + ' '.join(f'{x:.1f},{y:.1f}' for x, y in shape.points)
            + f'" fill="none" stroke="{shape.colour}" stroke-width="{shape.width:g}" '
            f'stroke-linecap="round"{dashes}/>')
    return ''.join(parts) + '</svg>'


def picture(drawn: list[Chart]) -> Image.Image:
    """Charts below each other under their titles, as an RGB picture."""
    head = 2 * _LINE
    height = sum(head + chart.height for chart in drawn)
    page = Image.new('RGB', (_WIDTH * _SCALE, height * _SCALE), 'white')
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(_FONT * _SCALE)
    top = 0
    for chart in drawn:
        top += head
        at = lambda x, y, top=top: (x * _SCALE, (top + y) * _SCALE)
        draw.text(at(_RIGHT, -_LINE / 2), chart.title, 'black', font, anchor='ls')
        for shape in chart.shapes:
            if isinstance(shape, Text):
                draw.text(at(shape.x, shape.y), shape.words, shape.colour, font,
                          anchor=_ANCHORS[shape.anchor])
                continue
            if isinstance(shape, Dot):
                draw.circle(at(shape.x, shape.y), _DOT * _SCALE, shape.colour)
                continue
            points = [at(x, y) for x, y in shape.points]
            width = round(shape.width * _SCALE)
            for piece in _dashes(points) if shape.dashed else [points]:
                draw.line(piece, shape.colour, width, joint='curve')
        top += chart.height
    return page


def _dashes(points):
    """The drawn parts of a dashed line."""
    period, walked = (_DASH + _GAP) * _SCALE, 0.0
    dash = _DASH * _SCALE
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        length = math.hypot(x1 - x0, y1 - y0)
        start = -(walked % period)
        while length and start < length:
            begin, end = max(start, 0) / length, min(start + dash, length) / length
            if end > begin:
                yield [(x0 + (x1 - x0) * share, y0 + (y1 - y0) * share)
                       for share in (begin, end)]
            start += period
        walked += length
