"""The picture of a load."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.errors import ArtifactError, InputError, TargetError
from recfx.serve.load.plot import draw, edges_of, panels, require_drawable
from recfx.serve.load.run import Load


def load(count: int = 400, span: float = 10.0, status: int = 200, begin: float = 1000.0) -> Load:
    due = np.linspace(0.0, span, count)
    return Load(due, due, due + 0.004, np.full(count, status), begin)


SEEN = [(1000.0, "fp32"), (1004.9, "fp32"), (1005.2, "int8"), (1009.0, "int8"), (1009.2, "fp32")]


def test_the_lines_are_those_of_the_load() -> None:
    held = load()
    held.status[held.due >= 5.0] = 429
    edges = edges_of(held)
    drawn = {line.name: np.asarray(line.values) for panel in panels(held, SEEN, edges) for line in panel.lines}
    width = edges[1] - edges[0]
    assert (drawn["offered"] * width).sum() == pytest.approx(400)
    assert (drawn["answered"] * width).sum() == pytest.approx((held.due < 5.0).sum())
    assert (drawn["lost"] * width).sum() == pytest.approx((held.due >= 5.0).sum())
    early = edges[1:] <= 5.0
    assert drawn["p99"][early] == pytest.approx(4.0)
    assert np.isnan(drawn["p99"][edges[:-1] >= 5.0]).all()
    assert drawn["fp32"][0] == 1.0
    assert drawn["int8"][edges[:-1] > 6.0][0] == 1.0  # the server was not asked in this interval
    assert drawn["fp32"][-1] == 1.0
    assert drawn["fp32"] + drawn["int8"] == pytest.approx(1.0)


@given(
    times=st.lists(st.floats(0.0, 1e4), min_size=1, max_size=40).map(sorted),
    looks=st.lists(st.tuples(st.floats(0.0, 1e4), st.sampled_from(["fp32", "int8"])), max_size=20),
    lost=st.integers(1, 5),
)
def test_every_request_is_in_one_interval(times: list[float], looks: list[tuple[float, str]], lost: int) -> None:
    due = np.asarray(times)
    held = Load(due, due, due + 0.01, np.where(np.arange(len(due)) % lost, 200, 0))
    edges = edges_of(held)
    assert (np.diff(edges) > 0.0).all()
    drawn = panels(held, sorted(looks), edges)
    offered, answered, _ = (np.asarray(line.values) * (edges[1] - edges[0]) for line in drawn[0].lines)
    assert offered.sum() == pytest.approx(len(due))
    assert answered.sum() == pytest.approx(held.answered.sum())
    assert len(drawn) == (3 if looks else 2)


def test_an_svg_shows_every_line(tmp_path: Path) -> None:
    file = tmp_path / "load.svg"
    draw(file, load(), SEEN, "dlrm <&>")
    texts = [
        "".join(e.itertext()) for e in ElementTree.fromstring(file.read_text()).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert {"dlrm <&>", "offered", "answered", "lost", "p50", "p99", "fp32", "int8"} <= set(texts)


def test_a_png_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for number, held in enumerate([load(), load(1), load(status=0)]):
        file = tmp_path / f"{number}.png"
        draw(file, held, SEEN if number else (), "dlrm")
        assert file.read_bytes().startswith(b"\x89PNG")


def test_a_png_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TargetError, match="matplotlib is needed") as caught:
        require_drawable(Path("load.png"))
    assert 'pip install "recfx[plot]"' in (caught.value.hint or "")
    require_drawable(Path("load.svg"))


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'load\.jpg' is not a picture"):
        draw(tmp_path / "load.jpg", load(), (), "dlrm")
    with pytest.raises(ArtifactError, match="cannot be written"):
        draw(tmp_path / "nowhere" / "load.svg", load(), (), "dlrm")
