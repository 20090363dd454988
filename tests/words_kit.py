"""The texts of the project: comments, docstrings and string literals of its sources, and the prose of its documents."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: The folders whose Python and C++ files are read.
ROOMS = ("recfx", "passes", "targets", "benchmarks", "tests")
#: Python comments; string literals are matched, too, since `#` inside them does not begin a comment.
_PYTHON_COMMENT = re.compile(
    r'''#(?P<comment>[^\n]*)|"""(?:[^"\\]|\\.|"(?!""))*"""|"(?:[^"\\]|\\.)*"'''
    r"""|'''(?:[^'\\]|\\.|'(?!''))*'''|'(?:[^'\\]|\\.)*'""",
    re.DOTALL,
)
#: C++ comments and string literals.
_CPP_TEXT = re.compile(r'//(?P<line>[^\n]*)|/\*(?P<block>.*?)\*/|"(?P<string>(?:[^"\\\n]|\\.)*)"', re.DOTALL)
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Text:
    """A piece of prose.

    Attributes:
        file: Its file, relative to the root.
        line: Its first line, from 1.
        content: The text, its lines joined by one space.
    """

    file: str
    line: int
    content: str


def texts() -> Iterator[Text]:
    """All texts of the project."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            if path.suffix == ".py":
                yield from python_texts(str(path.relative_to(ROOT)), path.read_text())
            elif path.suffix in (".cpp", ".h", ".inl"):
                yield from cpp_texts(str(path.relative_to(ROOT)), path.read_text())
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        yield from markdown_texts(str(path.relative_to(ROOT)), path.read_text())


def python_texts(file: str, source: str) -> Iterator[Text]:
    """Comments, with those of neighbouring lines joined, and string literals of more than one word."""
    yield from _comments(file, source)
    inside: set[ast.AST] = set()
    for node in ast.walk(ast.parse(source)):  # an f-string comes before its parts
        if isinstance(node, ast.JoinedStr):
            inside.update(node.values)
            parts = (str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
            yield Text(file, node.lineno, _one_line("".join(parts)))
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value and node not in inside
        ):
            yield Text(file, node.lineno, _one_line(node.value))


def _comments(file: str, source: str) -> Iterator[Text]:
    held: list[str] = []
    first = last = line = 0
    position = 0
    for found in _PYTHON_COMMENT.finditer(source):
        if found["comment"] is None:
            continue
        line += source.count("\n", position, found.start())
        position = found.start()
        if held and line != last + 1:
            yield Text(file, first + 1, _one_line(" ".join(held)))
            held = []
        if not held:
            first = line
        held.append(found["comment"].lstrip("#: "))
        last = line
    if held:
        yield Text(file, first + 1, _one_line(" ".join(held)))


def cpp_texts(file: str, source: str) -> Iterator[Text]:
    """Comments, with those of neighbouring lines joined, and string literals."""
    found = list(_CPP_TEXT.finditer(source))
    position = 0
    while position < len(found):
        first = last = found[position]
        parts = [first["line"] or first["block"] or first["string"] or ""]
        position += 1
        while first["line"] is not None and position < len(found):
            following = found[position]
            if following["line"] is None or not re.fullmatch(r"\n[ \t]*", source[last.end() : following.start()]):
                break
            parts.append(following["line"])
            last = following
            position += 1
        yield Text(file, source.count("\n", 0, first.start()) + 1, _one_line(" ".join(parts)))


def markdown_texts(file: str, source: str) -> Iterator[Text]:
    """Paragraphs without blocks of code and code in the line."""
    prose = _FENCE.sub(lambda match: "\n" * match.group().count("\n"), source)
    for paragraph in re.finditer(r"[^\n]+(\n[^\n]+)*", prose):
        line = prose.count("\n", 0, paragraph.start()) + 1
        yield Text(file, line, _one_line(re.sub(r"`[^`]*`", "code", paragraph.group())))


def _one_line(text: str) -> str:
    return " ".join(text.split())
