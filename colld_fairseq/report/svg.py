"""Charts as SVG that stands in the page: colors and fonts come from its style sheet, so that they follow dark mode.

Drawn as wide as a phone's screen and enlarged beyond: text stays readable. Every point says what it is when it is
pointed at. All text is escaped by the writer of XML.
"""

import math
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple
from xml.etree import ElementTree

from markupsafe import Markup

WIDTH, HEIGHT = 340, 210  # of a chart with axes, in units of the picture
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 10, 34
_ROW, _HEADING = 15, 17  # heights of an interval and of the heading above several
_COLORS = 8
_SHAPES = "circle square diamond triangle cross plus".split()
_MOST_POINTS = 150  # of a line: more are averaged
_FAR = 3  # times the median: what lies beyond does not stretch an axis

Element = ElementTree.Element


class Series(NamedTuple):
    """A line; `index`: of the system, which gives its color."""

    index: int
    label: str
    points: List[Tuple[float, float]]


class Measured(NamedTuple):
    """A value with its interval, if it has one."""

    index: int
    label: str
    value: float
    low: Optional[float] = None
    high: Optional[float] = None


class Group(NamedTuple):
    """Values under a heading."""

    heading: str
    measured: List[Measured]


class Spot(NamedTuple):
    """A system in a plane; `y` with its interval, if it has one."""

    x: float
    y: Measured


def lines(series: Sequence[Series], x_name: str, y_name: str) -> Markup:
    """Lines over a common x, which begins at 0 unless all lines begin late. How high the first tenth of a line is does
    not stretch the y axis."""
    series = [one._replace(points=averaged(one.points)) for one in series]
    shown = [y for one in series for _, y in one.points[len(one.points) // 10 :]]
    first, last = (end(x for one in series for x, _ in one.points) for end in (min, max))
    x_of = _scale(first if first > 0.3 * last else 0, last, LEFT, WIDTH - RIGHT)
    y_of = _scale(min(shown), max(shown), HEIGHT - BOTTOM, TOP, margin=0.05)
    picture = _picture(HEIGHT, f"{y_name} over {x_name}")
    _axes(picture, x_of, y_of, x_name)
    for one in series:
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in one.points)
        line = _add(picture, "polyline", points=points, class_=f"line c{one.index % _COLORS} d{one.index // _COLORS}")
        _title(line, one.label)
        x, y = one.points[-1]
        _marker(picture, x_of(x), y_of(y), one.index, f"{one.label}: {y:.4g} at {x:g}")
    return _markup(picture)


def intervals(groups: Sequence[Group], name: str) -> Markup:
    """A row for each value, with its interval and the figure; what is far off stands at the edge, as an arrow."""
    measured = [one for group in groups for one in group.measured]
    top = _without_far([one.value for one in measured])
    near = [one for one in measured if one.value <= top]
    ends = [end for one in near for end in (one.low, one.value, one.high) if end is not None]
    highest = max(end for end in (top, *ends) if end <= 2 * top)
    height = sum(_HEADING + _ROW * len(group.measured) for group in groups) + BOTTOM
    x_of = _scale(min(ends), highest, 10, WIDTH - 52, margin=0.03)
    picture = _picture(height, name)
    for tick in ticks(*x_of.range):
        _add(picture, "line", x1=x_of(tick), x2=x_of(tick), y1=0, y2=height - BOTTOM, class_="grid")
        _text(picture, x_of(tick), height - BOTTOM + 14, short(tick), "middle")
    _text(picture, (WIDTH - 42) / 2, height - 4, name, "middle", "name")
    y = 0.0
    for group in groups:
        _text(picture, 4, y + 12, shortened(group.heading), "start", "heading")
        y += _HEADING
        for one in group.measured:
            middle = y + _ROW / 2
            tip = (
                one.label
                + f": {one.value:.2f}"
                + (f" ({one.low:.2f} to {one.high:.2f})" if one.low is not None else "")
            )
            if one.value > x_of.range[1]:
                edge = WIDTH - 52
                arrow = f"{edge - 6},{middle - 4} {edge},{middle} {edge - 6},{middle + 4}"
                _title(_add(picture, "polygon", points=arrow, class_=f"mark c{one.index % _COLORS}"), tip)
            else:
                _whisker(picture, one, lambda value, at=middle: (min(x_of(value), WIDTH - 52), at))
                _marker(picture, x_of(one.value), middle, one.index, tip)
            _text(picture, WIDTH - 2, middle + 4, f"{one.value:.1f}", "end")
            y += _ROW
    return _markup(picture)


def scatter(spots: Sequence[Spot], x_name: str, y_name: str) -> Markup:
    """Systems in a plane that begins at 0, 0; what is far above stands at the upper edge, as an arrow."""
    top = _without_far([spot.y.value for spot in spots])
    highs = [
        spot.y.high for spot in spots if spot.y.value <= top and spot.y.high is not None and spot.y.high <= 2 * top
    ]
    x_of = _scale(0, max(spot.x for spot in spots), LEFT, WIDTH - RIGHT, margin=0.08)
    y_of = _scale(0, max([top, *highs]), HEIGHT - BOTTOM, TOP, margin=0.08)
    picture = _picture(HEIGHT, f"{y_name} over {x_name}")
    _axes(picture, x_of, y_of, x_name)
    for spot in spots:
        x, one = x_of(spot.x), spot.y
        tip = f"{one.label}: {one.value:.2f} at {spot.x:.4g}"
        if one.value > y_of.range[1]:
            arrow = f"{x - 4},{TOP + 6} {x},{TOP} {x + 4},{TOP + 6}"
            _title(_add(picture, "polygon", points=arrow, class_=f"mark c{one.index % _COLORS}"), tip)
        else:
            _whisker(picture, one, lambda value, at=x: (at, max(y_of(value), TOP)))
            _marker(picture, x, y_of(one.value), one.index, tip)
    return _markup(picture)


def heat_map(
    values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], row_name: str, column_name: str
) -> Markup:
    """Values from 0 to 1 as shades; written out where there are few."""
    cell = (WIDTH - LEFT - 4) / len(columns)
    tall = min(cell, 26.0)
    height = tall * len(rows) + BOTTOM + 4
    picture = _picture(height, f"{row_name} beside {column_name}")
    for i, row in enumerate(values):
        _text(picture, LEFT - 5, tall * (i + 0.5) + 4, rows[i], "end")
        for j, value in enumerate(row):
            box = {"x": LEFT + cell * j, "y": tall * i, "width": cell - 1, "height": tall - 1}
            tip = f"{rows[i]} and {columns[j]}: {value:.3f}"
            _title(_add(picture, "rect", **box, class_="heat", fill_opacity=f"{0.05 + 0.95 * value:.3f}"), tip)
            if len(columns) <= 8:
                text = _text(picture, LEFT + cell * (j + 0.5), tall * (i + 0.5) + 4, f"{value:.2f}", "middle")
                text.set("class", "on-dark" if value > 0.5 else "on-light")
    for j, name in enumerate(columns):
        _text(picture, LEFT + cell * (j + 0.5), height - BOTTOM + 10, name, "middle")
    _text(picture, (WIDTH + LEFT) / 2, height - 5, shortened(column_name), "middle", "name")
    _upright(picture, (height - BOTTOM) / 2, shortened(row_name, 28))
    return _markup(picture)


def key(index: int) -> Markup:
    """The marker of a system, for a legend."""
    picture = Element("svg", {"class": "key", "viewBox": "-7 -7 14 14", "aria-hidden": "true"})
    _marker(picture, 0, 0, index, "")
    return _markup(picture)


# -- axes --------------------------------------------------------------------------------------------------------------


class _Scale(NamedTuple):
    """From values to units of the picture, kept inside it."""

    range: Tuple[float, float]
    position: Callable[[float], float]

    def __call__(self, value: float) -> float:
        return self.position(min(max(value, self.range[0]), self.range[1]))


def _scale(low: float, high: float, start: float, end: float, margin: float = 0.0) -> _Scale:
    """With this share of the range above (and below, unless it begins at 0) left free."""
    free = margin * (high - low) or (abs(high) * 0.05 or 1.0) * (margin > 0 or high == low)
    low, high = low - (free if low else 0), high + free
    return _Scale((low, high), lambda value: start + (value - low) / (high - low) * (end - start))


def ticks(low: float, high: float, count: int = 5) -> List[float]:
    """At most `count` + 1 round numbers from `low` to `high`."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(step * index, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """Of a tick."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (abs(value) >= size and size > 1e3):
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def shortened(text: str, length: int = 44) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def averaged(points: Sequence[Tuple[float, float]]) -> List[Tuple[float, float]]:
    """At most 150 points: means of as many neighbors as that takes."""
    size = math.ceil(len(points) / _MOST_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)] if size > 1 else []
    means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
    return means or list(points)


def _without_far(values: Sequence[float]) -> float:
    """The largest value that is not far beyond the (lower) median."""
    median = sorted(values)[(len(values) - 1) // 2]
    return max(value for value in values if value <= _FAR * median or value <= median) or 1.0


def _axes(picture: Element, x_of: _Scale, y_of: _Scale, x_name: str) -> None:
    """The name of y stands in the heading of the chart, where there is room for it."""
    for tick in ticks(*y_of.range, count=4):
        _add(picture, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=y_of(tick), y2=y_of(tick), class_="grid")
        _text(picture, LEFT - 5, y_of(tick) + 4, short(tick), "end")
    for tick in ticks(*x_of.range, count=4):
        _text(picture, x_of(tick), HEIGHT - BOTTOM + 14, short(tick), "middle")
    _add(picture, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM, class_="axis")
    _text(picture, (WIDTH + LEFT - RIGHT) / 2, HEIGHT - 5, x_name, "middle", "name")


# -- parts -------------------------------------------------------------------------------------------------------------


def _whisker(picture: Element, one: Measured, at: Callable[[float], Tuple[float, float]]) -> None:
    if one.low is not None and one.high is not None:
        (x1, y1), (x2, y2) = at(one.low), at(one.high)
        _add(picture, "line", x1=x1, y1=y1, x2=x2, y2=y2, class_=f"whisker c{one.index % _COLORS}")


def _marker(picture: Element, x: float, y: float, index: int, tip: str) -> None:
    """Systems differ in color and in shape."""
    shape, how = _SHAPES[index % len(_SHAPES)], {"class_": f"mark c{index % _COLORS}"}
    if shape == "circle":
        mark = _add(picture, "circle", cx=x, cy=y, r=4, **how)
    else:
        outlines = {
            "square": "-3.5,-3.5 3.5,-3.5 3.5,3.5 -3.5,3.5",
            "diamond": "0,-5 5,0 0,5 -5,0",
            "triangle": "0,-4.5 4.5,3.5 -4.5,3.5",
            "cross": "-4,-2.5 -2.5,-4 0,-1.5 2.5,-4 4,-2.5 1.5,0 4,2.5 2.5,4 0,1.5 -2.5,4 -4,2.5 -1.5,0",
            "plus": "-1,-4.5 1,-4.5 1,-1 4.5,-1 4.5,1 1,1 1,4.5 -1,4.5 -1,1 -4.5,1 -4.5,-1 -1,-1",
        }
        mark = _add(picture, "polygon", points=outlines[shape], transform=f"translate({x:.1f} {y:.1f})", **how)
    if tip:
        _title(mark, tip)


def _picture(height: float, name: str) -> Element:
    box = f"0 0 {WIDTH} {height:.0f}"
    return Element("svg", {"viewBox": box, "role": "img", "aria-label": clean(name), "class": "chart"})


def _text(picture: Element, x: float, y: float, words: str, anchor: str, kind: str = "tick") -> Element:
    text = _add(picture, "text", x=x, y=y, text_anchor=anchor, class_=kind)
    text.text = clean(words)
    return text


def _upright(picture: Element, y: float, words: str) -> None:
    text = _text(picture, 0, 0, words, "middle", "name")
    text.set("transform", f"translate(10 {y:.1f}) rotate(-90)")


def _title(element: Element, words: str) -> None:
    ElementTree.SubElement(element, "title").text = clean(words)


def _add(parent: Element, tag: str, **attributes) -> Element:
    """`class_` is written class, `text_anchor` text-anchor; floats with one decimal."""
    written = {
        name.rstrip("_").replace("_", "-"): f"{value:.1f}" if isinstance(value, float) else str(value)
        for name, value in attributes.items()
    }
    return ElementTree.SubElement(parent, tag, written)


def clean(text: object) -> str:
    """Without what neither HTML nor UTF-8 can hold: control characters, halves of surrogate pairs."""
    kept = "".join(c if c >= " " or c in "\t\n" else "\ufffd" for c in str(text) if c != "\x7f")
    return kept.encode("utf-8", "replace").decode()


def _markup(picture: Element) -> Markup:
    return Markup(ElementTree.tostring(picture, encoding="unicode", short_empty_elements=False))
