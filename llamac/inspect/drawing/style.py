"""SVG elements of the diagrams: colours, fonts, strokes and the legend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from llamac.inspect.drawing.sheet import BACKWARD, FORWARD, RECOMPUTED, SAVED, WEIGHTS

Point = tuple[float, float]

PAPER, INK, MUTED = "#fbfaf7", "#1f2937", "#5b6472"
HEADINGS = {
    FORWARD: "forward ↓",
    SAVED: "saved",
    RECOMPUTED: "recomputed ↓",
    WEIGHTS: "gradients of weights",
    BACKWARD: "backward ↑",
}
FLOWS = {"value": "#475569", "kept": "#d97706", "recomputed": "#0d9488", "gradient": "#be3455"}
# Kind of a box → (fill, border).
BOXES = {
    "matmul": ("#dbe7fb", "#2f5fb3"),
    "attention": ("#e8defa", "#6d3fb8"),
    "plain": ("#ffffff", "#9aa3af"),
    "view": ("#fbfaf7", "#b9bfc8"),
    "end": ("#eceae3", "#b5b0a3"),
    "kept": ("#fde9b8", "#d97706"),
}
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SANS = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
LEGEND_BOXES = (
    ("matmul", False, "matmul"),
    ("attention", False, "attention"),
    ("plain", False, "memory-bound"),
    ("view", False, "view, no data of its own"),
    ("kept", False, "saved for the backward pass"),
    ("plain", True, "recomputed"),
)
LEGEND_FLOWS = (
    ("value", "value"),
    ("kept", "saved value"),
    ("recomputed", "recomputed value"),
    ("gradient", "gradient"),
)
STEP, SWATCH = 22.0, 30.0
HATCH = (
    '<defs><pattern id="again" width="7" height="7" patternUnits="userSpaceOnUse" '
    f'patternTransform="rotate(45)"><rect width="2" height="7" fill="{FLOWS["recomputed"]}" '
    'fill-opacity="0.18"/></pattern></defs>'
)
"""SVG definition of the hatching of recomputed ops, referred to as `url(#again)`."""


def open_image(width: float, height: float, title: str) -> Iterator[str]:
    """Yield the opening of a standalone SVG image: title, style sheet and background.

    width, height: in pixels. `</svg>` is left to the caller.
    """
    w, h = _n(width), _n(height)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" '
        f'viewBox="0 0 {w} {h}" role="img" aria-label={quoteattr(title)}>'
    )
    yield f"<title>{escape(title)}</title>"
    yield "<style>"
    yield f"text {{ font: 11px {MONO}; fill: {INK}; }}"
    yield f".h1 {{ font: 600 20px {SANS}; }} .h2 {{ font: 600 15px {SANS}; }}"
    yield f".muted {{ font: 12px {SANS}; fill: {MUTED}; }}"
    yield f".head {{ font: 600 12px {SANS}; text-anchor: middle; fill: {MUTED}; }}"
    for group, flow in ((SAVED, "kept"), (RECOMPUTED, "recomputed"), (WEIGHTS, "gradient")):
        yield f".g{group} {{ fill: {FLOWS[flow]}; }}"
    yield f".g{BACKWARD} {{ fill: {FLOWS['gradient']}; }}"
    yield f".op {{ fill: {MUTED}; }}"
    yield ".name { font-weight: 600; }"
    yield f".type {{ text-anchor: end; fill: {MUTED}; }} .size {{ fill: #92580a; }}"
    for kind in ("matmul", "attention"):
        yield f".op.{kind} {{ fill: {BOXES[kind][1]}; font-weight: 600; }}"
    yield f".op.kept {{ fill: {INK}; font-weight: 600; }}"
    yield "path.line { fill: none; stroke-linejoin: round; }"
    yield "</style>"
    yield HATCH
    yield f'<rect width="{w}" height="{h}" rx="10" fill="{PAPER}"/>'


def open_embedded(width: float, height: float, title: str) -> str:
    """Return the opening tag of an SVG element in an HTML page, which the page's CSS colours.

    width, height: in pixels. title: the label that screen readers read out.
    """
    w, h = _n(width), _n(height)
    return (
        f'<svg class="drawing" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="group" '
        f"aria-label={quoteattr(title)}>{HATCH}"
    )


def text(x: float, y: float, content: str, css: str) -> str:
    """Return an SVG text element.

    x, y: start of the baseline in pixels; some classes centre the text or end it there.
    css: names of the element's classes, separated by spaces.
    """
    return f'<text x="{_n(x)}" y="{_n(y)}" class="{css}">{escape(content)}</text>'


def band(x: float, y: float, width: float, height: float) -> str:
    """Return a tinted rectangle, the background of the column of saved values.

    x, y: upper left corner. All arguments are in pixels.
    """
    return _rect(x, y, width, height, 8, "#fdf3d9", "none", ' class="band"')


def rectangle(
    x: float, y: float, width: float, height: float, kind: str, recomputed: bool
) -> Iterator[str]:
    """Yield the rectangle of a box in the style of its kind, hatched if its op is recomputed.

    x, y: upper left corner in pixels. kind: key of `BOXES`.
    """
    fill, border = BOXES[kind]
    dashed = ' stroke-dasharray="4 3"' if kind == "view" else ""
    heavy = ' stroke-width="1.6"' if kind in ("matmul", "attention") else ""
    radius = {"end": 14.0, "kept": 12.0}.get(kind, 6.0)
    if recomputed:
        border = FLOWS["recomputed"]
    css = f' class="box {kind}{" again" if recomputed else ""}"'
    yield _rect(x, y, width, height, radius, fill, border, dashed + heavy + css)
    if recomputed:
        yield _rect(x, y, width, height, radius, "url(#again)", "none", "")


def plain_rectangle(
    x: float, y: float, width: float, height: float, radius: float, fill: str, border: str
) -> str:
    """Return a rectangle with the given fill and border colours.

    x, y: upper left corner. radius: of the rounded corners. Both are in pixels, as the size is.
    """
    return _rect(x, y, width, height, radius, fill, border, "")


def rail(x: float, y: float, to_x: float, to_y: float | None = None) -> str:
    """Return a faint straight line from (x, y) to (to_x, to_y), in pixels.

    to_y: None draws a horizontal line.
    """
    end = y if to_y is None else to_y
    return (
        f'<path class="line" d="M{_n(x)} {_n(y)}L{_n(to_x)} {_n(end)}" stroke="#d8d5cc" '
        'stroke-width="1"/>'
    )


def halo(points: Sequence[Point]) -> str:
    """Return a wide line in the background colour, drawn under a line to set it off from others.

    points: ends and corners of the line in pixels, in order.
    """
    return (
        f'<path class="line halo" d="{_path(points)}" stroke="{PAPER}" stroke-width="4.5" '
        'stroke-opacity="0.9"/>'
    )


def arrow(points: Sequence[Point], flow: str) -> str:
    """Return a line with rounded corners and an arrow head at its last point.

    points: ends and corners in pixels, in order. flow: key of `FLOWS`, which gives the colour.
    """
    colour = FLOWS[flow]
    width = 2.0 if flow == "kept" else 1.5
    (x0, y0), (x, y) = points[-2], points[-1]
    dx, dy = _sign(x - x0), _sign(y - y0)
    shaft = [*points[:-1], (x - 5 * dx, y - 5 * dy)]
    tip = (
        f"{_n(x - dx)},{_n(y - dy)} {_n(x - 7 * dx + 3.5 * dy)},{_n(y - 7 * dy + 3.5 * dx)} "
        f"{_n(x - 7 * dx - 3.5 * dy)},{_n(y - 7 * dy - 3.5 * dx)}"
    )
    return (
        f'<path class="line {flow}" d="{_path(shaft)}" stroke="{colour}" stroke-width="{width}"/>'
        f'<polygon class="tip {flow}" points="{tip}" fill="{colour}"/>'
    )


def legend(x: float, y: float, width: float) -> Iterator[str]:
    """Yield the legend of a region's diagram, its entries wrapped to the width.

    x, y: upper left corner. All arguments are in pixels.
    """
    places = list(_legend_places(width))
    boxes = len(LEGEND_BOXES)
    for (kind, recomputed, label), (dx, dy) in zip(LEGEND_BOXES, places, strict=False):
        yield from rectangle(x + dx, y + dy, SWATCH, 14, kind, recomputed)
        yield text(x + dx + SWATCH + 8, y + dy + 11.5, label, "legend")
    for (flow, label), (dx, dy) in zip(LEGEND_FLOWS, places[boxes:], strict=True):
        yield arrow([(x + dx, y + dy + 7), (x + dx + SWATCH, y + dy + 7)], flow)
        yield text(x + dx + SWATCH + 8, y + dy + 11.5, label, "legend")


def legend_height(width: float) -> float:
    """Return the height in pixels of the legend when it is wrapped to `width` pixels."""
    return max(y for _, y in _legend_places(width)) + STEP


def _legend_places(width: float) -> Iterator[Point]:
    x = y = 0.0
    labels = [label for *_, label in LEGEND_BOXES] + [label for *_, label in LEGEND_FLOWS]
    for label in labels:
        wide = SWATCH + 8 + 6.8 * len(label) + 20
        if x and x + wide > width:
            x, y = 0.0, y + STEP
        yield x, y
        x += wide


def _rect(
    x: float,
    y: float,
    width: float,
    height: float,
    radius: float,
    fill: str,
    stroke: str,
    extra_attributes: str,
) -> str:
    return (
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" '
        f'rx="{_n(radius)}" fill="{fill}" stroke="{stroke}"{extra_attributes}/>'
    )


def _path(points: Sequence[Point], radius: float = 5.0) -> str:
    """Return the path of a line of level and vertical parts with rounded corners."""
    parts = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        reach = min(radius, _distance(before, corner) / 2, _distance(corner, after) / 2)
        start, end = _towards(corner, before, reach), _towards(corner, after, reach)
        parts.append(f"L{_n(start[0])} {_n(start[1])}")
        parts.append(f"Q{_n(corner[0])} {_n(corner[1])} {_n(end[0])} {_n(end[1])}")
    parts.append(f"L{_n(points[-1][0])} {_n(points[-1][1])}")
    return "".join(parts)


def _towards(start: Point, goal: Point, reach: float) -> Point:
    return (
        start[0] + reach * _sign(goal[0] - start[0]),
        start[1] + reach * _sign(goal[1] - start[1]),
    )


def _distance(one: Point, other: Point) -> float:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _n(value: float) -> str:
    """Format a number with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")
