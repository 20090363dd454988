"""A placed program as an SVG picture: modules as clusters, backends as colours, time as area."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.sax.saxutils import escape

from recfx.driver.drawing import Block, Drawing
from recfx.driver.placement_report import in_units

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
#: Colours of known backends; other backends get the next ones of _COLOURS.
_KNOWN = {
    "native": "#4477aa",
    "eager": "#bbbbbb",
    "onnxruntime": "#ccbb44",
    "openvino": "#228833",
    "inductor": "#ee6677",
    "tensorrt": "#66ccee",
}
_WIDEST, _BAR, _ROW, _PAD, _CHARACTER = 360.0, 18.0, 74.0, 14.0, 6.3
_TITLE, _LABEL = 13, 11
_MOST_CHARACTERS = 58


def svg(picture: Drawing, title: str) -> str:
    """The picture as the text of an SVG file.

    Args:
        picture: The blocks and the tensors between them.
        title: The title.
    """
    return "\n".join(_Writer(picture, title).lines()) + "\n"


class _Writer:
    """Places blocks in one column for each cluster, and in rows by level."""

    def __init__(self, picture: Drawing, title: str) -> None:
        self.picture, self.title = picture, title
        self.clusters = list(dict.fromkeys(block.cluster for block in picture.blocks))
        largest = max((block.share for block in picture.blocks), default=0.0) or 1.0
        self.bars = [_WIDEST * block.share / largest for block in picture.blocks]
        self.colours = self._colours()
        self.places: list[tuple[float, float]] = [(0.0, 0.0)] * len(picture.blocks)
        self.columns = self._columns()
        self.rows = 1 + max((block.level for block in picture.blocks), default=0)

    def _colours(self) -> dict[str, str]:
        names = list(dict.fromkeys(block.backend for block in self.picture.blocks))
        found = {name: _KNOWN[name] for name in names if name in _KNOWN}
        free = [colour for colour in _COLOURS if colour not in found.values()] or list(_COLOURS)
        others = [name for name in names if name not in found]
        return found | {name: free[index % len(free)] for index, name in enumerate(others)}

    def _columns(self) -> list[tuple[float, float]]:
        """Left edge and width of the column of each cluster, and, as a side effect, the place of each block."""
        found = []
        left = _PAD
        for cluster in self.clusters:
            held = [index for index, block in enumerate(self.picture.blocks) if block.cluster == cluster]
            ends: dict[int, float] = {}
            for index in held:
                block = self.picture.blocks[index]
                at = ends.get(block.level, left + _PAD)
                self.places[index] = (at, self._top(block.level))
                ends[block.level] = at + self._width(index) + _PAD
            width = max(*ends.values(), left + _CHARACTER * len(cluster or self.title) + 2 * _PAD) - left
            found.append((left, width))
            left += width + _PAD
        return found

    @staticmethod
    def _top(level: int) -> float:
        return 96.0 + _ROW * level

    def _width(self, index: int) -> float:
        texts = _texts(self.picture.blocks[index])
        return max(self.bars[index], _CHARACTER * max(map(len, texts)))

    def lines(self) -> Iterator[str]:
        """The lines of the file."""
        right = max((left + width for left, width in self.columns), default=200.0)
        width, height = max(right, _PAD + _CHARACTER * 1.3 * len(self.title)) + _PAD, self._top(self.rows) + _PAD
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif">'
        )
        yield f"<title>{_escaped(self.title)}</title>"
        yield f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>'
        yield _text(_PAD, 22, self.title, _TITLE + 2)
        yield from self._legend()
        for cluster, (left, column) in zip(self.clusters, self.columns, strict=True):
            yield (
                f'<rect x="{left:.1f}" y="56" width="{column:.1f}" height="{height - 56 - _PAD:.1f}" rx="6" '
                'fill="#f4f4f4" stroke="#cccccc"/>'
            )
            yield _text(left + _PAD, 76, cluster or "outside of modules", _TITLE)
        yield from self._edges()
        for index, block in enumerate(self.picture.blocks):
            yield from self._block(index, block)
        yield "</svg>"

    def _legend(self) -> Iterator[str]:
        at = _PAD
        for name, colour in self.colours.items():
            share = sum(block.share for block in self.picture.blocks if block.backend == name)
            text = f"{name} {share:.0%}"
            yield f'<rect x="{at:.1f}" y="34" width="12" height="12" fill="{colour}"/>'
            yield _text(at + 17, 44, text, _LABEL)
            at += 17 + _CHARACTER * len(text) + 2 * _PAD

    def _edges(self) -> Iterator[str]:
        for source, reader in self.picture.edges:
            (x0, y0), (x1, y1) = self.places[source], self.places[reader]
            y0 += _BAR + 30
            crosses = self.picture.blocks[source].region != self.picture.blocks[reader].region
            style = 'stroke="#555555" stroke-width="1.6" stroke-dasharray="5 3"' if crosses else 'stroke="#aaaaaa"'
            middle = (y0 + y1) / 2
            yield (
                f'<path d="M{x0 + 8:.1f} {y0:.1f} C{x0 + 8:.1f} {middle:.1f} {x1 + 8:.1f} {middle:.1f} '
                f'{x1 + 8:.1f} {y1:.1f}" fill="none" {style}/>'
            )

    def _block(self, index: int, block: Block) -> Iterator[str]:
        x, y = self.places[index]
        colour = self.colours[block.backend]
        yield "<g>"
        listed = ", ".join(f"{name} × {count}" for name, count in block.operators.items())
        yield f"<title>{_escaped(f'region {block.region} on {block.backend}: {listed}')}</title>"
        yield f'<rect x="{x:.1f}" y="{y:.1f}" width="{self.bars[index]:.2f}" height="{_BAR:.0f}" fill="{colour}"/>'
        for line, text in enumerate(_texts(block)):
            yield _text(x, y + _BAR + 12 + 14 * line, text, _LABEL)
        yield "</g>"


def _texts(block: Block) -> tuple[str, str]:
    """The two lines below a block."""
    time = in_units(block.seconds) if block.seconds is not None else f"{block.share:.0%} of the arithmetic"
    names = ", ".join(name.removeprefix("aten.").partition(".")[0] for name in block.operators)
    return _short(f"{block.path or 'region'} ({block.region}): {time}"), _short(names)


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def _text(x: float, y: float, text: str, size: int) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    """A text for XML, without the characters that XML does not allow."""
    return escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text))
