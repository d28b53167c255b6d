"""Drawing of areas, lines and labels as SVG or PNG, deterministic to the byte."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
LETTER = 0.6  # of a letter's size: its width, with some room


@dataclass(frozen=True)
class Area:
    """A filled polygon. hover: Text that a browser shows over it."""

    points: Sequence[Point]
    fill: str
    hover: str = ""


@dataclass(frozen=True)
class Polyline:
    """A polyline. dashed: draw even dashes; supported for horizontal and vertical lines."""

    points: Sequence[Point]
    stroke: str
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Label:
    """A text. x, y: Where its base line begins, has its middle, or ends."""

    x: float
    y: float
    text: str
    size: float = 12.0
    anchor: Anchor = "start"
    fill: str = "#1f2937"
    bold: bool = False

    @property
    def extent(self) -> tuple[float, float]:
        """Return the leftmost and rightmost x that the text may reach."""
        width = LETTER * self.size * len(self.text)
        begin = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return begin, begin + width


Shape = Area | Polyline | Label


@dataclass(frozen=True)
class Drawing:
    """A list of shapes, drawn in order on a background. width, height: pixels."""

    width: float
    height: float
    title: str
    ground: str = "#fbfaf7"
    shapes: list[Shape] = field(default_factory=list)


def svg(drawing: Drawing) -> str:
    w, h = _n(drawing.width), _n(drawing.height)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" '
            f'viewBox="0 0 {w} {h}" role="img" aria-label={quoteattr(drawing.title)}>',
            f"<title>{escape(drawing.title)}</title>",
            f"<style>text {{ font-family: {FONT}; }}</style>",
            f'<rect width="{w}" height="{h}" fill="{drawing.ground}"/>',
            *map(_element, drawing.shapes),
            "</svg>\n",
        ]
    )


def _element(shape: Shape) -> str:
    match shape:
        case Area(points, fill, hover):
            title = f"<title>{escape(hover)}</title>" if hover else ""
            return f'<polygon points="{_points(points)}" fill="{fill}">{title}</polygon>'
        case Polyline(points, stroke, width, dashed):
            dashes = ' stroke-dasharray="6 4"' if dashed else ""
            return (
                f'<polyline points="{_points(points)}" fill="none" stroke="{stroke}" '
                f'stroke-width="{_n(width)}"{dashes}/>'
            )
        case Label(x, y, text, size, anchor, fill, bold):
            weight = ' font-weight="600"' if bold else ""
            return (
                f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" text-anchor="{anchor}" '
                f'fill="{fill}"{weight}>{escape(text)}</text>'
            )


def png(drawing: Drawing, scale: int = 2) -> bytes:
    """Render the drawing as PNG. scale: pixels of the file per unit of the drawing."""
    from PIL import Image, ImageDraw, ImageFont

    # Polygons have no smooth edges in Pillow: drawn larger, then made smaller, they do.
    finer = 2 * scale
    size = (round(drawing.width * finer), round(drawing.height * finer))
    image = Image.new("RGB", size, drawing.ground)
    draw = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        match shape:
            case Area(points, fill):
                draw.polygon([(x * finer, y * finer) for x, y in points], fill=fill)
            case Polyline(points, stroke, width, dashed):
                for one in _dashes(points) if dashed else [points]:
                    placed = [(x * finer, y * finer) for x, y in one]
                    draw.line(placed, fill=stroke, width=max(1, round(width * finer)))
            case Label(x, y, text, letters, anchor, fill, bold):
                font: Any = ImageFont.load_default(letters * finer)
                where = {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
                heavy = round(0.03 * letters * finer) if bold else 0
                draw.text(
                    (x * finer, y * finer), text, fill, font, anchor=where, stroke_width=heavy
                )
    written = io.BytesIO()
    image.resize((size[0] // 2, size[1] // 2), Image.Resampling.LANCZOS).save(written, "PNG")
    return written.getvalue()


def _dashes(points: Sequence[Point], on: float = 6.0, off: float = 4.0) -> list[list[Point]]:
    found: list[list[Point]] = []
    for (x0, y0), (x1, y1) in pairwise(points):
        length = abs(x1 - x0) + abs(y1 - y0)
        begin = 0.0
        while begin < length:
            ends = (begin / length, min(begin + on, length) / length)
            found.append([(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in ends])
            begin += on + off
    return found


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
