"""`CompiledModel`, the result of `optimize` and `load`, which is called like the user's model. Also `load` and `explain`."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import compiler

from recfx.driver import artifact
from recfx.driver.frozen_weights import FrozenWeights
from recfx.driver.live_tables import Exchange, LiveTables, tables_of
from recfx.driver.parts import Parts
from recfx.driver.placement import Placement, placement
from recfx.driver.profile import Profile, profile
from recfx.driver.refresh import refreshed
from recfx.driver.report import Report
from recfx.driver.saved_bytes import copied_parts, from_files, to_files
from recfx.driver.table_history import TableRecord
from recfx.driver.table_sides import PinnedModel as PinnedModel
from recfx.driver.unusual_calls import is_traced, run_traced, run_unusual
from recfx.driver.update_journal import UpdateJournal
from recfx.driver.weight_watch import WeightWatch
from recfx.errors import InputError, RecfxError
from recfx.ir.program import Program

Build = Callable[[tuple[Any, ...], dict[str, Any]], Parts]


class CompiledModel(FrozenWeights):
    """A model made faster: same inputs, same outputs, same nesting.

    It computes with the weights as they were at the time of `optimize`, in inference mode; calls from several threads at once are safe.
    Tables share memory with the user's model, dense weights are copies. After a change of the user's weights, a call warns once that
    `refresh` is due; with `optimize(..., copy_weights=True)` nothing is shared.

    It is an `nn.Module` in eval mode that cannot be trained or moved: `parameters()` and `state_dict()` return the weights of the compiled
    program, which must not be changed. `torch.export` of a module that contains it records torch's operators. `pickle`, `copy.deepcopy` and
    `torch.save` store the files that `save` writes.

    Attributes:
        cast_inputs: Whether calls convert floating-point inputs of another width, such as NumPy's float64, and integers given for
            floating-point inputs. Lists, NumPy arrays of the right dtype and integers of another width are always converted.
    """

    def __init__(self, parts: Parts | None = None, *, build: Build | None = None, cast_inputs: bool = False) -> None:
        super().__init__()
        self.cast_inputs = cast_inputs
        self._build = build
        self._lock = threading.Lock()
        self._parts: Parts | None = None
        self._watch: WeightWatch | None = None
        self._live: LiveTables | None = None
        self._journal: UpdateJournal | None = None
        self._held_tables = 0
        self._saved = ("", 0)  # the digest of the folder that was loaded or saved last, and the updates before
        self._entry: Callable[..., Any] = self._first_call
        if parts is not None:
            self._take(parts)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model.

        Raises:
            InputError: The inputs do not fit: wrong names, dtypes, shapes, devices, batch size, or ids outside their table.
        """
        if compiler._is_exporting_flag and is_traced(args, kwargs):
            return run_traced(self._ready(), args, kwargs)
        if self._watch is not None and not self._watch.compare_next():
            self._weights_changed()
        live = self._live  # a refresh may end it meanwhile
        if live is not None:
            return live.run(args, kwargs, lossy=self.cast_inputs)
        try:
            return self._entry(*args, **kwargs)
        except Exception as error:
            if self._parts is None:
                raise
            return run_unusual(self._parts, args, kwargs, error, lossy=self.cast_inputs)

    forward = __call__

    @property
    def program(self) -> Program:
        """The program after all passes."""
        return self._ready().program

    @property
    def report(self) -> Report:
        """The rewrites, their reasons, their cost and their gain."""
        return self._ready().report

    @property
    def placement(self) -> Placement:
        """Region -> backend. Printed, it also names the operators that torch runs, with reasons and shares of the time."""
        return placement(self._ready())

    def explain(self) -> str:
        """The rewrites of each pass, and the reason for every rule that matched an operator and did not fire."""
        return self.report.explain()

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the model as a folder that `recfx.load` reads: JSON and safetensors, checksummed, no pickle.

        Args:
            path: The folder. It must not exist, or hold a saved model, which is replaced.

        Raises:
            ArtifactError: The folder is not a saved model, or the model cannot be written as JSON.
        """
        if self._watch is not None and self._watch.changed():
            self._watch.warn(saving=True)
        with self._steady() as parts:
            journal = self._journal
            if journal is not None and Path(os.path.realpath(path)) == journal.folder:
                self._saved = journal.save(), self.table_version
            else:
                self._saved = artifact.save(parts, path), self.table_version

    def profile(
        self,
        rows: Sequence[int] | None = None,
        threads: Sequence[int] | None = None,
        *,
        cache: bool | Path = True,
        again: bool = False,
    ) -> Profile:
        """The seconds of a call by batch size and number of threads; `fast.profile().seconds(rows, threads)` interpolates.

        It is measured at the first call, which takes about a second, and then read from the user's cache folder. Ids differ from call to
        call while it is measured. Other threads must not call torch meanwhile, since torch's number of threads changes.

        Args:
            rows: Batch sizes to measure; by default 1, 4, 16, 64, 256 and 1024, as far as the model takes them.
            threads: Numbers of threads to measure; by default 1 and torch's present number.
            cache: Whether the profile is read from and kept in the user's cache folder, or in a folder.
            again: Whether to measure although the cache has a profile.

        Raises:
            InputError: The model does not take a batch of a given size, or a number of threads is below 1.
        """
        return profile(self._ready(), rows, threads, cache=cache, again=again)

    @property
    def parts(self) -> Parts:
        """The parts of the model."""
        return self._ready()

    def refresh(
        self,
        model: torch.nn.Module | None = None,
        *,
        example_inputs: Any = None,
        constant_inputs: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Takes over the current weights: folded constants and precomputed tables are computed again.

        The model is captured again and goes through the same passes, which takes as long as in `optimize`; nothing is measured. Meanwhile,
        calls use the old weights. They change to all new weights at once.

        Args:
            model: The model with the new weights; by default the one given to `optimize`, when it still exists.
            example_inputs: As for `optimize`. A loaded model needs them; any other model keeps its own.
            constant_inputs: New values of inputs that were declared constant, such as the items' new features.

        Rows from `update_tables` are replaced by those of the user's model.

        Raises:
            InputError: The model or the example is missing, or shapes changed.
            ArtifactError: The saved model cannot be refreshed.
        """
        if self._journal is not None:
            raise InputError(
                "the model keeps its updates in a journal, which a refresh would contradict",
                where=str(self._journal.path),
                hint="refresh another copy of the model, save it, and load it in place of this one",
            )
        with self._lock:
            self._take(refreshed(self._ready(), model, example_inputs, constant_inputs))

    @property
    def digest(self) -> str:
        """The digest of the folder that the model was loaded from or saved to last; "" without one."""
        return self._saved[0]

    @property
    def tables(self) -> tuple[TableRecord, ...]:
        """The embedding tables of the model: names, sizes, formats, and why a table takes no new rows if it takes none."""
        return tables_of(self._ready())

    @property
    def table_version(self) -> int:
        """The number of updates of tables since the model was made, loaded or refreshed."""
        return 0 if self._live is None else self._live.version

    def update_tables(self, updates: Mapping[str, tuple[Any, Any]], *, exchange: Exchange | None = None) -> int:
        """Writes new rows into embedding tables while other threads call the model.

        A call sees all rows of an update or none of them. The rows are stored in the formats of their tables, with the bits that `optimize`
        gives to such rows. At its first update a table is copied twice; tables of a loaded model that are mapped to files take
        memory only for the pages that are written to. From then on it is not shared with the user's model, whose weights
        never change.

        Args:
            updates: Name of a table -> ids [n] and rows [n, columns]. The name is that of the parameter in the user's model, such as
                "items.weight", or of its module. Where an id occurs several times, its last row counts.
            exchange: Calls the function that it is given, which makes the rows visible: rows of several models, or other data, become
                visible together. If it raises an error before, nothing is written. Not with `keep_updates`.

        Returns:
            The number of updates so far. The rows are visible to all calls that begin after this one returns.

        Raises:
            InputError: A table is unknown or takes no new rows (a pass computed other weights from it, or a backend keeps a copy), or ids
                or rows do not fit. Nothing is written then.
            TargetError: A call that began before the last update hangs.
            ArtifactError: The journal of `keep_updates` cannot be written. Nothing is written then.
        """
        live = self._with_live_tables()
        with live.lock:
            self._require_present(live)
            shaped = live.shaped(updates)
            if self._journal is None:
                version = live.write(shaped, exchange)
            elif exchange is None:
                version = self._journal.write(shaped)
            else:
                raise InputError(
                    "the model keeps its updates in a journal of its own",
                    where="exchange",
                    hint="leave exchange= out, or do not call keep_updates",
                )
            self._hold_present(live)
            return version

    def pinned(self) -> PinnedModel:
        """The model with its present rows, for several calls that must see the same rows.

        Updates after the next one wait for the end of the returned object.
        """
        live = self._live
        if live is None:
            return PinnedModel(self._ready(), None, lossy=self.cast_inputs)
        return live.pinned(lossy=self.cast_inputs)

    def check_updates(self, updates: Mapping[str, tuple[Any, Any]]) -> None:
        """Checks whether `update_tables` would take new rows, and writes nothing.

        Raises:
            InputError: See `update_tables`.
        """
        self._with_live_tables().check(updates)

    def prepare_updates(self, tables: Collection[str] | None = None) -> None:
        """Makes tables ready for new rows now, which `update_tables` otherwise does at the first update of a table.

        Args:
            tables: Names of tables; by default all that take new rows.

        Raises:
            InputError: See `update_tables`.
        """
        live = self._with_live_tables()
        if tables is None:
            tables = [record.names[0] for record in live.records if record.state and not record.refused]
        chosen = live.places(tables)
        with live.lock:
            self._require_present(live)
            live.prepare(chosen)
            self._hold_present(live)

    def keep_updates(self, path: str | PathLike[str], *, sync: Literal["process", "disk"] = "process") -> int:
        """Keeps updates in a journal beside a saved model, so that a process that loads the model has them.

        First it applies the updates that the journal holds. Other processes may keep their updates of the same model there, too; see
        `follow_updates`. `save` to the same folder writes the rows into the model and begins a new journal.

        Args:
            path: The folder that this model was loaded from or saved to last, without updates since.
            sync: When `update_tables` returns: "process" when the journal survives the death of the process, "disk" when it survives a
                loss of power.

        Returns:
            The number of updates that the journal held.

        Raises:
            InputError: The folder holds another model than this one, or the model keeps its updates already.
            ArtifactError: The journal is damaged, belongs to another model, or cannot be opened.
        """
        folder = Path(path)
        hint = "call it once, right after load or save, with the same folder"
        live = self._with_live_tables()
        with live.lock:
            digest, version = self._saved
            if self._journal is not None:
                raise InputError("the model keeps its updates already", where=str(folder), hint=hint)
            if not digest or digest != artifact.digest_of(folder) or version != live.version:
                raise InputError("the folder does not hold this model with its rows", where=str(folder), hint=hint)
            journal = UpdateJournal(live, folder, digest, sync)
            try:
                found = journal.follow()
            except BaseException:
                journal.close()
                raise
            self._journal = journal
            self._hold_present(live)
            return found

    def follow_updates(self) -> int:
        """Applies the updates that other processes have added to the journal of `keep_updates`; returns how many there were.

        Without new updates it takes one or two microseconds, so that a server may call it many times a second.

        Raises:
            ArtifactError: The journal is damaged.
            TargetError: See `update_tables`.
        """
        live, journal = self._live, self._journal
        if live is None or journal is None or not journal.behind:
            return 0
        with live.lock:
            found = journal.follow()
            self._hold_present(live)
            return found

    def _with_live_tables(self) -> LiveTables:
        with self._lock:
            if self._live is None:
                self._live = LiveTables(self._ready())
            return self._live

    def _hold_present(self, live: LiveTables) -> None:
        """Makes `parameters` and `state_dict` give the tables with the present rows, after further tables were copied."""
        if self._held_tables != live.copied:
            self.hold_weights(live.parts.program.state())
            self._held_tables = live.copied

    def _require_present(self, live: LiveTables) -> None:
        """Checks that the model was not refreshed meanwhile."""
        if live is not self._live:
            raise InputError(
                "the model was refreshed meanwhile, so the rows were not written",
                where="update_tables",
                hint="pass the rows again, if the new weights do not hold them",
            )

    @contextmanager
    def _steady(self) -> Iterator[Parts]:
        """A context in which no rows are written; gives the parts with the present rows."""
        live = self._live
        with contextlib.nullcontext() if live is None else live.lock:
            yield self._ready()

    def __repr__(self) -> str:
        if self._parts is None:
            return "CompiledModel(captured at its first call)"
        report = self._parts.report
        return f"CompiledModel({report.model}, target={report.target!r}, operators={report.operators[1]})"

    def _ready(self) -> Parts:
        live = self._live
        if live is not None:
            return live.parts
        if self._parts is None:
            raise RecfxError(
                "the model has not been captured yet",
                hint="call it once, or pass example_inputs to optimize",
            )
        return self._parts

    def _first_call(self, *args: Any, **kwargs: Any) -> Any:
        assert self._build is not None
        with self._lock:
            parts = self._parts
            if parts is None:
                parts = self._build(args, kwargs)
                self._take(parts)
        return parts.entry(*args, **kwargs)

    def _take(self, parts: Parts) -> None:
        self.hold_weights(parts.program.state())
        self._held_tables = 0
        self._parts, self._entry, self._watch = parts, parts.entry, parts.watch
        self._live, self._saved = None, (parts.digest, 0)

    def _weights_changed(self) -> None:
        """Warns, and stops watching: one warning is enough."""
        with self._lock:
            watch, self._watch = self._watch, None
        if watch is not None:
            watch.warn(stacklevel=4)

    def __copy__(self) -> Self:
        if self._live is not None:  # its tables change in place
            return self.__deepcopy__({})
        return type(self)(self._ready(), cast_inputs=self.cast_inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        with self._steady() as parts:
            made = memo[id(self)] = type(self)(copied_parts(parts), cast_inputs=self.cast_inputs)
        return made

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        with self._steady() as parts:
            return restored, (to_files(parts), self.cast_inputs)


def restored(files: dict[str, torch.Tensor], cast_inputs: bool) -> CompiledModel:
    """The compiled model of a pickle, read with the checks of `load`.

    Args:
        files: The files of a saved folder, as bytes.
        cast_inputs: See `CompiledModel`.

    Raises:
        ArtifactError: The files are damaged, or their content is not allowed.
    """
    return CompiledModel(from_files(files), cast_inputs=bool(cast_inputs))


#: So that `torch.load` reads compiled models with `weights_only=True`, its default: unpickling runs the checks above and no other code.
torch.serialization.add_safe_globals([restored])


def load(
    path: str | PathLike[str],
    *,
    check: bool = True,
    types: Sequence[type] = (),
    operators: Collection[str] = (),
    cast_inputs: bool = False,
) -> CompiledModel:
    """Loads a saved model; its large tables are memory-mapped.

    A folder may come from a stranger: nothing in it is run or imported, and its operators, arguments, sizes and positions are checked
    before the model is made. The outputs are not checked: they depend on the numbers in the folder.

    Args:
        path: A folder from `CompiledModel.save`. Its files must not change while the model is in use: tables are read from them.
        check: Compare the digests of tables and weights (about a second for every gigabyte and core). Without it, damage to their
            values is not noticed; everything else is still checked.
        types: Named tuples and dataclasses that the model takes or returns, for those whose modules have not been imported.
        operators: Operators of your own that the model may call, such as `"mylib::score"`. The folder says with which arguments.
        cast_inputs: See `CompiledModel`.

    Raises:
        ArtifactError: The folder is missing, damaged, cut short, of an unknown format version, or its content is not allowed.
    """
    parts = artifact.read(path, check=check, types=types, operators=operators)
    return CompiledModel(parts, cast_inputs=cast_inputs)


def explain(model: CompiledModel) -> str:
    """The rewrites of each pass in a compiled model, and the reason for every rule that matched an operator and did not fire.

    Args:
        model: The result of `recfx.optimize` or `recfx.load`.

    Raises:
        InputError: It is not a CompiledModel.
    """
    if not isinstance(model, CompiledModel):
        raise InputError(
            f"expected a CompiledModel, got {type(model).__name__}",
            hint="pass the result of recfx.optimize or recfx.load",
        )
    return model.explain()
