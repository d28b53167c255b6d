"""Draw areas, lines and labels as SVG or PNG; equal drawings give equal bytes."""

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
    """A filled polygon.

    points: corners in pixels from the top left. fill: colour. hover: tooltip in a browser.
    """

    points: Sequence[Point]
    fill: str
    hover: str = ""


@dataclass(frozen=True)
class Polyline:
    """A line through points.

    points: (x, y) in pixels from the top left. stroke: colour. width: pixels.
    dashed: only for horizontal and vertical lines.
    """

    points: Sequence[Point]
    stroke: str
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Label:
    """A line of text.

    x, y: position in pixels of the start, middle or end of its baseline, by `anchor`.
    size: font size in pixels. fill: colour.
    """

    x: float
    y: float
    text: str
    size: float = 12.0
    anchor: Anchor = "start"
    fill: str = "#1f2937"
    bold: bool = False

    @property
    def extent(self) -> tuple[float, float]:
        """Return the estimated (left, right) x bounds of the text, in pixels."""
        width = LETTER * self.size * len(self.text)
        begin = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return begin, begin + width


Shape = Area | Polyline | Label


@dataclass(frozen=True)
class Drawing:
    """Shapes that are drawn in order on a background.

    width, height: size in pixels. title: accessible title of the SVG, not drawn.
    ground: colour of the background.
    """

    width: float
    height: float
    title: str
    ground: str = "#fbfaf7"
    shapes: list[Shape] = field(default_factory=list)


def svg(drawing: Drawing) -> str:
    """Return the text of an SVG file with the drawing."""
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
    """Return the bytes of a PNG file with the drawing.

    scale: pixels of the image per pixel of the drawing.
    """
    from PIL import Image, ImageDraw, ImageFont

    # Pillow does not antialias polygons, so the image is drawn larger and scaled down.
    finer = 2 * scale
    size = (round(drawing.width * finer), round(drawing.height * finer))
    image = Image.new("RGB", size, drawing.ground)
    draw = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        match shape:
            case Area(points, fill):
                draw.polygon([(x * finer, y * finer) for x, y in points], fill=fill)
            case Polyline(points, stroke, width, dashed):
                for dash in _dashes(points) if dashed else [points]:
                    scaled = [(x * finer, y * finer) for x, y in dash]
                    draw.line(scaled, fill=stroke, width=max(1, round(width * finer)))
            case Label(x, y, text, font_size, anchor, fill, bold):
                font: Any = ImageFont.load_default(font_size * finer)
                where = {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
                stroke = round(0.03 * font_size * finer) if bold else 0
                draw.text(
                    (x * finer, y * finer), text, fill, font, anchor=where, stroke_width=stroke
                )
    output = io.BytesIO()
    image.resize((size[0] // 2, size[1] // 2), Image.Resampling.LANCZOS).save(output, "PNG")
    return output.getvalue()


def _dashes(points: Sequence[Point], on: float = 6.0, off: float = 4.0) -> list[list[Point]]:
    dashes: list[list[Point]] = []
    for (x0, y0), (x1, y1) in pairwise(points):
        length = abs(x1 - x0) + abs(y1 - y0)
        begin = 0.0
        while begin < length:
            ends = (begin / length, min(begin + on, length) / length)
            dashes.append([(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in ends])
            begin += on + off
    return dashes


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
