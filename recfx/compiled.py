"""`CompiledModel`, the result of `optimize` and `load`, which is called like the user's model. Also `load` and `explain`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from torch import compiler

from recfx.driver import artifact
from recfx.driver.live_weights import LiveWeights
from recfx.driver.parts import Parts
from recfx.driver.placement import Placement, placement
from recfx.driver.profile import Profile, profile
from recfx.driver.refresh import refreshed
from recfx.driver.report import Report
from recfx.driver.saved_bytes import copied_parts, from_files, to_files
from recfx.driver.table_sides import PinnedModel as PinnedModel
from recfx.driver.unusual_calls import is_traced, run_traced, run_unusual
from recfx.driver.weight_watch import WeightWatch
from recfx.errors import InputError
from recfx.ir.program import Program

Build = Callable[[tuple[Any, ...], dict[str, Any]], Parts]


class CompiledModel(LiveWeights):
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
        super().__init__(cast_inputs=cast_inputs)
        self._build = build
        self._watch: WeightWatch | None = None
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

    def __repr__(self) -> str:
        if self._parts is None:
            return "CompiledModel(captured at its first call)"
        report = self._parts.report
        return f"CompiledModel({report.model}, target={report.target!r}, operators={report.operators[1]})"

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
        self._parts, self._entry, self._watch = parts, parts.entry, parts.watch
        self._forget_updates(parts.digest)  # last: a call without live tables takes the new entry

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
    shared: bool = False,
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
        shared: Whether other processes load the folder, too. Then tables of 1 to 16 MiB stay mapped as well, so that all processes have
            them in memory once. Otherwise these are copied, to large pages, where random rows are read in less time.

    Raises:
        ArtifactError: The folder is missing, damaged, cut short, of an unknown format version, or its content is not allowed.
    """
    parts = artifact.read(path, check=check, types=types, operators=operators, shared=shared)
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
