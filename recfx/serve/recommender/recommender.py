"""`Recommender`: candidates from an index, ranked by a model; items and tables change meanwhile, are saved, and are kept in a journal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

import torch

from recfx.compiled import CompiledModel
from recfx.errors import InputError
from recfx.serve.recommender import files
from recfx.serve.recommender.answers import Answers
from recfx.serve.recommender.catalogue import AnyIndex
from recfx.serve.recommender.changes import Change, Items, TableRows
from recfx.serve.recommender.journal import ChangeJournal
from recfx.serve.recommender.publish import publish


class Recommender(Answers):
    """Candidates from an index, ranked by a model, for one user or several.

    The query model makes the vector of a user, the index finds the `candidates` items that are next to it, and the ranking model scores
    them by inputs of the user and of the items. Inputs of users that both models have by the same name are the same tensor.

    Several threads may call it. A call sees one version of the items and of all tables: `update` makes everything in a change visible in
    one step, without a wait for the calls that run.

    Args:
        query: Takes inputs of users; its first output is the vector of each, [users, d].
        index: An `Index` or `TwoStageIndex` of vectors [n, d], with ids of your own (`ids=`). It is not written to.
        ranking: Takes inputs of users and of items. Models with `request_inputs` compute a user's part once; with `many_requests=True`
            also in calls for several users.
        inputs: Input of the ranking model -> its values for all items, [n, ...], in the order in which items were added to the index,
            deleted ones included.
        k: Items in an answer. A client that needs fewer takes the first ones.
        candidates: Items that are scored for each user.
        score: The output of the ranking model to rank by; by default its first.

    Raises:
        InputError: The inputs of items do not fit the ranking model or the index, or a number is out of range.
        TargetError: A model does not take one row for each user or candidate, or returns something else.
    """

    def __init__(
        self, query: CompiledModel, index: AnyIndex, ranking: CompiledModel, inputs: Mapping[str, Any], **options: Any
    ) -> None:
        super().__init__(query, index, ranking, inputs, **options)
        self.digest = ""
        self._saved_at = 0
        self._changing = threading.Lock()
        self._journal: ChangeJournal | None = None

    def update(
        self,
        *,
        add: Items | None = None,
        update: Items | None = None,
        delete: Any = None,
        tables: Mapping[str, TableRows] | None = None,
    ) -> int:
        """Changes items and rows of tables while other threads call it; all of it becomes visible in one step.

        Args:
            add: Items that do not exist, with vectors and all inputs. Ids of deleted items may come back.
            update: Items that exist, with those values that change.
            delete: Ids of items to delete, int64 [n].
            tables: "query." or "ranking." and the name of a table -> ids and rows, as for `CompiledModel.update_tables`.

        Returns:
            The number of changes so far. Calls that begin after it returns see this change.

        Raises:
            InputError: Ids exist already, do not exist, or occur twice; values do not fit; or a model refuses them. Nothing is written
                then.
            TargetError: A call that began before the last change hangs.
            ArtifactError: The journal of `keep_updates` cannot be written. Nothing is written then.
        """
        return self.apply(Change(add, update, delete, tables or {}))

    def apply(self, change: Change) -> int:
        """The same as `update`."""
        with self._changing, torch.inference_mode(False), torch.no_grad():
            if self._journal is not None:
                return self._journal.write(change)
            self.write(change)
            return self._version

    def check(self, change: Change) -> None:
        """Checks whether `apply` would take a change, and writes nothing.

        Raises:
            InputError: It would not.
        """
        with self._changing, torch.inference_mode(False), torch.no_grad():
            self._checked(change)

    def _checked(self, change: Change) -> Change:
        held = self._sides.active
        checked = held.checked(change)
        for items in (checked.add, checked.update):
            if items is not None and items.inputs:
                present = {} if items is checked.add else held.inputs.of(held.index.positions(items.ids))
                self.ranking.check({**present, **items.inputs}, self._example)
        for name, model in (("query", self.query.model), ("ranking", self.ranking.model)):
            if rows := checked.tables_of(name):
                model.check_updates(rows)
        return checked

    def write(self, change: Change, commit: Callable[[Change], None] | None = None) -> None:
        """Makes a change visible. Call it with the lock of changes.

        Args:
            change: The change.
            commit: Called when everything is ready; an error leaves everything as it was.
        """
        change = self._checked(change)

        def counted() -> None:
            if commit is not None:
                commit(change)

        def visible() -> None:
            self._version += 1

        publish(change, self._sides, [("query", self.query.model), ("ranking", self.ranking.model)], counted, visible)

    def prepare_updates(self) -> None:
        """Makes items and tables ready for changes now, which the first change otherwise does: they are copied."""
        with self._changing, torch.inference_mode(False):
            self._sides.writable()
            for model in (self.query.model, self.ranking.model):
                model.prepare_updates()

    def save(self, path: str | PathLike[str]) -> None:
        """Writes both models, the index and the inputs of items as a folder, with all changes so far.

        Args:
            path: The folder. It must not exist, or hold a saved recommender, which is replaced.

        Raises:
            ArtifactError: The folder holds something else, or cannot be written.
        """
        with self._changing:
            if self._journal is not None and self._journal.belongs_to(path):
                self.digest = self._journal.save()
            else:
                self.digest = files.save(self.content(), path)
            self._saved_at = self._version

    def content(self) -> files.Content:
        """What it is made of at present."""
        items = self._sides.active
        options = files.Options(self.k, self.candidates, self.score)
        return files.Content(self.query.model, items.index, self.ranking.model, items.inputs.values, options)

    @classmethod
    def load(cls, path: str | PathLike[str], *, check: bool = True) -> Self:
        """Maps a saved recommender into memory; changes stay in memory unless `keep_updates` is called.

        Args:
            path: A folder from `save`.
            check: See `recfx.load`.

        Raises:
            ArtifactError: The folder is missing, damaged, cut short, of an unknown format version, or its parts do not fit each other.
        """
        content, digest = files.load(path, check=check)
        options = content.options
        with files.fitting(path):
            made = cls(
                content.query,
                content.index,
                content.ranking,
                content.inputs,
                k=options.k,
                candidates=options.candidates,
                score=options.score,
                owned=True,
            )
        made.digest = digest
        return made

    def keep_updates(self, path: str | PathLike[str], *, sync: Literal["process", "disk"] = "process") -> int:
        """Keeps changes in a journal beside a saved recommender, so that a process that loads it has them.

        First it applies the changes that the journal holds. Other processes may keep their changes there, too; see `follow_updates`.

        Args:
            path: The folder that it was loaded from or saved to last, without changes since.
            sync: See `CompiledModel.keep_updates`.

        Returns:
            The number of changes that the journal held.

        Raises:
            InputError: The folder holds another recommender, or changes are kept already.
            ArtifactError: The journal is damaged or cannot be opened.
        """
        folder = Path(path)
        with self._changing, torch.inference_mode(False), torch.no_grad():
            if self._journal is not None or not self.digest or self._saved_at != self._version:
                raise InputError(
                    "changes are kept already, or were made since the folder was written",
                    where=str(folder),
                    hint="call it once, right after load or save, with the same folder",
                )
            if files.digest_of(folder) != self.digest:
                raise InputError(
                    "the folder holds another recommender", where=str(folder), hint="pass the folder that was loaded"
                )
            journal = ChangeJournal(self, folder, sync)
            found = journal.follow()
            self._journal = journal
            return found

    def follow_updates(self) -> int:
        """Applies the changes that other processes have added to the journal of `keep_updates`; returns how many there were.

        Raises:
            ArtifactError: The journal is damaged.
            TargetError: See `update`.
        """
        if self._journal is None or not self._journal.behind:
            return 0
        with self._changing, torch.inference_mode(False), torch.no_grad():
            return self._journal.follow()
