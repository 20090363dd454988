"""Damaged or untrusted folders of formats 1 and 2 are refused with an ArtifactError, never with another error."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recfx
from recfx.driver.older_formats import upgraded_manifest, upgraded_program
from recfx.errors import ArtifactError

GOLDEN = Path(__file__).parent / "golden"
Change = Callable[[dict[str, Any]], None]

pytestmark = pytest.mark.filterwarnings("ignore:.*carries no checksum")


def copied(number: int, folder: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / f"format-{number}" / "model", folder / "model"))


def edit(folder: Path, file: str, change: Change) -> None:
    """Changes a document of a folder, and its entry in the manifest."""
    document = json.loads((folder / file).read_text())
    change(document)
    (folder / file).write_text(json.dumps(document))
    if file != "manifest.json":
        data = (folder / file).read_bytes()
        edit(folder, "manifest.json", lambda m: m["files"].update({file: {"bytes": len(data), "crc32": crc32(data)}}))


def call(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(node for node in document["nodes"] if node["name"] == name)  # type: ignore[no-any-return]


#: File, change, and part of the error's message.
REFUSED: dict[str, tuple[str, Change, str]] = {
    "an operator outside the list": (
        "program.json",
        lambda d: call(d, "relu").update(target="op:aten.from_file.default", args=["/etc/passwd"]),
        "not one that saved models may call",
    ),
    "an import": ("program.json", lambda d: call(d, "relu").update(target="os:system"), "not an operator"),
    "an operator that writes": (
        "program.json", lambda d: call(d, "relu").update(target="op:aten.relu_.default"), "not one|writes"
    ),
    "sizes that do not fit": (
        "program.json", lambda d: call(d, "relu").update(args=[{"node": "ids"}, 1]), "arguments|fit"
    ),
    "a name that is code": ("program.json", lambda d: call(d, "relu").update(name="x: int = 1"), "not a name"),
    "a class": (
        "program.json",
        lambda d: d["signature"].update(in_spec=d["signature"]["in_spec"].replace("builtins.dict", "os.PathLike")),
        "os.PathLike",
    ),
    "keys that are missing": (
        "program.json",
        lambda d: d["signature"].update(in_spec=d["signature"]["in_spec"].replace('[\\"bias\\"]', "[]")),
        "0 keys for 1 values",
    ),
    "outputs in another form": ("program.json", lambda d: d["nodes"][-1].update(args=[1]), "expected an object"),
    "a file elsewhere": (
        "manifest.json",
        lambda m: m["files"].update({"../other.json": {"bytes": 1, "crc32": 1}}),
        "not the name of a file",
    ),
    "a negative size": ("manifest.json", lambda m: m["files"]["program.json"].update(bytes=-1), "-1 bytes"),
    "a checksum that is a text": (
        "manifest.json", lambda m: m["files"]["program.json"].update(crc32="0"), "expected an integer"
    ),
    "another checksum": ("manifest.json", lambda m: m["files"]["state.safetensors"].update(crc32=1), "damaged"),
    "a report without passes": ("manifest.json", lambda m: m["report"].pop("passes"), "'passes' is missing"),
    "an unknown backend": ("manifest.json", lambda m: m.update(regions=["other"]), "not registered"),
    "two regions": ("manifest.json", lambda m: m.update(regions=["eager", "eager"]), "2 regions"),
}  # fmt: skip


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", REFUSED)
def test_what_no_saved_model_holds_is_refused(name: str, number: int, tmp_path: Path) -> None:
    file, change, message = REFUSED[name]
    folder = copied(number, tmp_path)
    edit(folder, file, change)
    with pytest.raises(ArtifactError, match=message):
        recfx.load(folder)


@pytest.mark.parametrize("number", [1, 2])
def test_links_and_damage_are_refused(number: int, tmp_path: Path) -> None:
    folder = copied(number, tmp_path)
    data = bytearray((folder / "state.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "state.safetensors").write_bytes(data)
    with pytest.raises(ArtifactError, match="checksum is wrong"):
        recfx.load(folder)
    recfx.load(folder, check=False)
    (folder / "state.safetensors").rename(tmp_path / "elsewhere")
    (folder / "state.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="cannot be opened"):
        recfx.load(folder, check=False)


def test_a_manifest_of_a_later_format_still_needs_its_checksum(tmp_path: Path) -> None:
    folder = copied(3, tmp_path)
    (folder / "manifest.sha256").unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.sha256 is missing"):
        recfx.load(folder)


def test_cross_layers_of_format_1_are_refused() -> None:
    document = json.loads((GOLDEN / "format-1" / "model" / "program.json").read_text())
    call(document, "relu")["target"] = "op:recfx.cross.default"
    with pytest.raises(ArtifactError, match="optimize and save the model again"):
        upgraded_program(document, 1, "program.json")
    assert upgraded_program({**document, "format": 2}, 2, "program.json")["format"] == 3


def test_operators_that_leave_memory_uninitialised_fill_it() -> None:
    document = json.loads((GOLDEN / "format-2" / "model" / "program.json").read_text())
    node = call(document, "relu")
    node.update(target="op:aten.empty.memory_format", args=[{"list": [2]}], kwargs={"memory_format": None})
    found = call(upgraded_program(document, 2, "program.json"), "relu")
    assert (found["target"], "kwargs" in found) == ("op:aten.zeros.default", False)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values of a document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 9), st.text(max_size=3), st.just([]), st.just({}), st.just([[1]])
)


@settings(deadline=None, max_examples=150)
@given(number=st.sampled_from([1, 2]), file=st.sampled_from(["program.json", "manifest.json"]), data=st.data())
def test_documents_with_another_value_somewhere_are_upgraded_or_refused(
    number: int, file: str, data: st.DataObject
) -> None:
    document = json.loads((GOLDEN / f"format-{number}" / "model" / file).read_text())
    *parents, last = data.draw(st.sampled_from([*places(document)]))
    inner = document
    for key in parents:
        inner = inner[key]
    inner[last] = data.draw(_VALUES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            if file == "program.json":
                upgraded_program(document, number, file)
            else:
                document.pop("format", None)
                document.pop("files", None)
                upgraded_manifest(document, file)
        except ArtifactError:
            pass
