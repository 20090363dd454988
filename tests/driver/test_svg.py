"""The picture of a placed program: it parses, blocks have the area of their time, and texts are escaped."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from models import TinyCtr, tiny_inputs
from torch import nn

import recfx
from recfx.cli import main
from recfx.driver.drawing import Block, Drawing, drawing
from recfx.driver.svg import svg

SVG = "{http://www.w3.org/2000/svg}"


def block(share: float, **more: object) -> Block:
    values = {"cluster": "tower", "path": "tower.0", "region": 0, "backend": "native", "operators": {"aten.relu": 1}}
    return Block(**{**values, "share": share, "seconds": None, "level": 0, **more})  # type: ignore[arg-type]


def bars(text: str) -> list[tuple[float, str]]:
    """Width and colour of the bar of each block."""
    groups = ElementTree.fromstring(text).findall(f"{SVG}g")
    return [(float(r.get("width", "")), r.get("fill", "")) for g in groups for r in g.findall(f"{SVG}rect")]


def texts(text: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(text).iter(f"{SVG}text")]


def test_areas_are_in_proportion_to_times_and_colours_follow_backends() -> None:
    blocks = (
        block(0.5),
        block(0.25, backend="openvino", level=1),
        block(0.125, backend="mine", level=1, cluster="top"),
    )
    found = bars(svg(Drawing(blocks, ((0, 1), (0, 2))), "model"))
    widths = [width for width, _ in found]
    assert widths == pytest.approx([widths[0], widths[0] / 2, widths[0] / 4], rel=1e-3)
    assert len({colour for _, colour in found}) == 3


def test_any_names_give_a_picture_that_parses() -> None:
    name = "a<b>&\"'\x00\x1b\ud800é"
    picture = Drawing((block(1.0, cluster=name, path=name, backend=name, operators={name: 2}),), ())
    found = texts(svg(picture, name))
    assert "a<b>&\"'\ufffd\ufffd\ufffdé" in found


def test_a_program_without_operators_gives_a_picture() -> None:
    assert ElementTree.fromstring(svg(Drawing((), ()), "identity")).tag == f"{SVG}svg"


class Sorted(nn.Module):
    """Two layers with kernels, and a sort between them.

    Args:
        names: Names of the layers.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({names[0]: nn.Linear(3, 4), names[1]: nn.Linear(4, 2)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.layers.values()
        return second(torch.sort(first(x)).values)


def test_modules_with_odd_names_are_drawn() -> None:
    fast = recfx.optimize(Sorted("a<b", "c&d").eval(), example_inputs=torch.randn(4, 3), measure=False)
    assert any("a<b" in line for line in texts(fast.placement.svg()))


def test_a_compiled_model_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast = recfx.optimize(Sorted("first", "second").eval(), example_inputs=torch.randn(4, 3))
    text = fast.placement.svg()
    words = " ".join(texts(text))
    assert "Sorted for cpu" in words
    for region in fast.report.regions:
        assert region.backend in words
        assert region.measured is not None
    picture = drawing(fast.parts.placed, fast.report.regions, 4)
    assert sum(b.share for b in picture.blocks) == pytest.approx(1.0)
    assert sum(b.seconds or 0.0 for b in picture.blocks) == pytest.approx(
        sum(r.measured or 0.0 for r in fast.report.regions)
    )
    assert {b.region for b in picture.blocks} == set(range(len(fast.report.regions)))
    fast.save(tmp_path / "model")
    assert main(["explain", str(tmp_path / "model"), "--svg", str(tmp_path / "placed.svg")]) == 0
    assert (tmp_path / "placed.svg").read_text(encoding="utf-8") == text
    assert "drawn in" in capsys.readouterr().out
    assert main(["explain", str(tmp_path / "model"), "--svg", str(tmp_path / "no" / "folder.svg")]) == 1


def test_a_model_without_times_is_drawn_by_arithmetic() -> None:
    fast = recfx.optimize(TinyCtr().eval(), example_inputs=tiny_inputs(4), measure=False)
    assert any("of the arithmetic" in line or "s" in line for line in texts(fast.placement.svg()))


def test_a_copied_placement_keeps_its_text_and_says_where_the_picture_is() -> None:
    fast = recfx.optimize(TinyCtr().eval(), example_inputs=tiny_inputs(4), measure=False)
    for placement in (copy.deepcopy(fast.placement), pickle.loads(pickle.dumps(fast.placement))):
        assert placement == fast.placement
        assert repr(placement) == repr(fast.placement)
        with pytest.raises(recfx.InputError, match="holds no program"):
            placement.svg()


def test_many_modules_are_drawn_by_shorter_paths() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)) for _ in range(40))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.blocks:
                x = layer(x)
            return x

    fast = recfx.optimize(Deep().eval(), example_inputs=torch.randn(4, 3), measure=False, target="eager")
    picture = drawing(fast.parts.placed, (), 4)
    assert len(picture.blocks) == 40
    assert {b.path for b in picture.blocks} == {f"blocks.{i}" for i in range(40)}
    assert max(b.level for b in picture.blocks) == 39
