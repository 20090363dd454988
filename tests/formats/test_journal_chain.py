"""Journals of one folder: every process applies the same records in the same order, also when one journal continues another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recfx.errors import ArtifactError
from recfx.formats.journal_chain import JournalChain
from recfx.formats.row_journal import Record


def record(number: int) -> Record:
    return Record({"t": (torch.tensor([number]), torch.zeros(1, 2))})


class Reader:
    """A chain, and the numbers of the records that it applied."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.seen: list[int] = []
        self.chain = JournalChain(
            folder, digest, "process", lambda held, _: self.seen.append(int(held.updates["t"][0]))
        )

    def write(self, number: int) -> None:
        with self.chain.locked():
            self.chain.append(record(number))
            self.seen.append(number)


def test_processes_apply_the_records_of_each_other_before_their_own(tmp_path: Path) -> None:
    first, second = Reader(tmp_path / "m", "a"), Reader(tmp_path / "m", "a")
    first.write(1)
    assert second.chain.behind
    second.write(2)
    assert not second.chain.behind
    assert first.chain.follow() == 1
    assert first.chain.follow() == 0
    assert first.seen == second.seen == [1, 2]


def test_one_that_is_behind_goes_on_with_the_journal_that_continues_its_own(tmp_path: Path) -> None:
    first, second = Reader(tmp_path / "m", "a"), Reader(tmp_path / "m", "a")
    first.write(1)
    with first.chain.locked():
        first.chain.continued("a")  # the same folder
        assert first.chain.digest == "a"
        first.chain.continued("b")
    first.write(2)
    assert second.chain.follow() == 2
    assert second.chain.digest == "b"
    assert second.chain.path == first.chain.path == tmp_path / "m.rows-b"
    second.write(3)
    with second.chain.locked():
        second.chain.continued("c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.rows-b", "m.rows-c"]
    fresh = Reader(tmp_path / "m", "b")
    assert fresh.chain.follow() == 2
    assert fresh.seen == [2, 3]


def test_a_file_that_was_replaced_takes_no_record(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "m", "a")
    reader.chain.path.unlink()
    with pytest.raises(ArtifactError, match="removed or replaced"):
        reader.write(1)
    Reader(tmp_path / "m", "a").write(5)
    with pytest.raises(ArtifactError, match="nothing was written"):
        reader.write(1)
    assert reader.seen == []
