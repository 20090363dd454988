"""The named tensors that a served model takes and returns, and how the rows of several requests become one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.compiled import CompiledModel, PinnedModel
from recfx.errors import InputError
from recfx.ir.batch_axes import Axis, batch_axis
from recfx.ir.leaves import LeafSpec
from recfx.ir.shapes import BATCH
from recfx.ir.sizes import linear_size
from recfx.serve.engine.datatypes import fitted
from recfx.serve.engine.model_updates import ModelUpdates
from recfx.serve.engine.served import Updatable
from recfx.serve.engine.tensor_info import TensorInfo, input_info, names_of, output_infos, shown


class ModelInterface:
    """The tensors of a compiled model by name, and the calls that serve one or several requests.

    Args:
        model: The compiled model; it has been captured.

    Attributes:
        inputs: The tensors that a request holds.
        outputs: The tensors of an answer.
        joinable: None if the rows of several requests can share a call; otherwise the reason why not.
        runs_on_own_kernels: Whether all of the model runs on recfx's kernels and torch.
        divisible: None if a call can be run in parts of its rows; otherwise the reason why not.

    Raises:
        TargetError: An input or output is not a tensor on the CPU, or its dtype is not in the protocol.
    """

    def __init__(self, model: CompiledModel) -> None:
        self.model = model
        parts = model.parts
        self._signature = signature = parts.program.signature
        self._tensors = [i for i, leaf in enumerate(signature.leaves) if leaf.kind == "tensor"]
        self._batch_sizes = [
            i for i, leaf in enumerate(signature.leaves) if leaf.kind == "size" and leaf.value == BATCH
        ]
        named = names_of([signature.leaves[i].name for i in self._tensors])
        infos = [input_info(name, signature.leaves[i]) for name, i in zip(named, self._tensors, strict=True)]
        self.inputs = tuple(infos)
        self._places = dict(zip(named, self._tensors, strict=True))
        self.outputs = output_infos(model)
        self._axes = [batch_axis(leaf) if leaf.kind == "tensor" else None for leaf in signature.leaves]
        self._batch_leaf = next((i for i, axis in enumerate(self._axes) if axis is not None), None)
        self._counted = None if self._batch_leaf is not None else _counted(signature.leaves)
        plan = parts.row_plan
        self._output_axes: tuple[Any, ...] = () if isinstance(plan, str) else plan.outputs
        self.joinable = plan if isinstance(plan, str) else self._indivisible(bool(plan.bags))
        plans = parts.plans
        self.runs_on_own_kernels = all({"native", "eager"}.issuperset(placed.backends) for placed in plans.placed)
        divided = parts.division
        self.divisible = divided if isinstance(divided, str) else None
        self._fixed = [_fixed_sizes(leaf) for leaf in signature.leaves]

    def _indivisible(self, has_bags: bool) -> str | None:
        """Why several requests cannot share a call although the rows are independent; None if they can."""
        if has_bags:
            return "the model takes bags of ids"
        if self._batch_leaf is None:
            return "no input has the batch as a dimension"
        whole = [self._signature.leaves[i].name for i in self._tensors if self._axes[i] is None]
        if whole:
            return f"the input {whole[0]} belongs to a whole request"
        if any(rows is None for rows in self._output_axes):
            return "an output has no rows"
        return None

    @property
    def updates(self) -> Updatable:
        """New rows of its tables."""
        return ModelUpdates(self.model)

    @property
    def most_rows(self) -> int | None:
        """The rows of a call at most; None without a limit."""
        return self._signature.dims[BATCH][1] if BATCH in self._signature.dims else None

    @property
    def row_axes(self) -> dict[str, Axis | None]:
        """The axis of the rows of each input; None for an input without rows."""
        return {name: self._axes[position] for name, position in self._places.items()}

    def tensors(self, leaves: Sequence[Any]) -> list[torch.Tensor]:
        """The tensors among flat inputs, in the order of `inputs`."""
        return [leaves[position] for position in self._places.values()]

    def leaves(self, tensors: Mapping[str, torch.Tensor]) -> list[Any]:
        """The flat inputs of a request.

        Args:
            tensors: Name -> tensor.

        Raises:
            InputError: A name is unknown or missing, or a tensor has another dtype or shape than the model takes.
        """
        if tensors.keys() != self._places.keys():
            self._refuse_names(tensors)
        leaves: list[Any] = [leaf.value for leaf in self._signature.leaves]
        for name, position in self._places.items():
            tensor = tensors[name]
            spec = self._signature.leaves[position]
            if tensor.dtype is not spec.dtype:
                assert spec.dtype is not None
                tensor = fitted(tensor, spec.dtype, f"input {name}")
            rank, fixed = self._fixed[position]
            if tensor.ndim != rank or any(tensor.shape[axis] != size for axis, size in fixed):
                raise InputError(
                    f"expected shape {shown(self._info(name).shape)}, got {list(tensor.shape)}",
                    where=f"input {name}",
                    hint="pass the sizes that GET /v2/models/NAME lists; -1 is a size of your choice",
                )
            leaves[position] = tensor
        self._take_sizes(leaves)
        return leaves

    def _info(self, name: str) -> TensorInfo:
        return next(info for info in self.inputs if info.name == name)

    def _refuse_names(self, given: Mapping[str, Any]) -> None:
        missing = [name for name in self._places if name not in given]
        unknown = [name for name in given if name not in self._places]
        text = [f"missing {', '.join(missing)}"] if missing else []
        text += [f"unknown {', '.join(unknown)}"] if unknown else []
        raise InputError(f"wrong names of inputs: {'; '.join(text)}", hint=f"pass exactly {', '.join(self._places)}")

    def _take_sizes(self, leaves: list[Any]) -> None:
        """Sets the integers among the inputs that equal the batch."""
        if self._batch_sizes:
            rows = self.rows(leaves)
            for position in self._batch_sizes:
                leaves[position] = rows

    def rows(self, leaves: Sequence[Any]) -> int:
        """The rows of a request; 1 for a model without a batch.

        Raises:
            InputError: Two inputs have different numbers of rows.
        """
        if self._batch_leaf is None:
            return self._rows_of_bags(leaves)
        found = None
        for position, axis in enumerate(self._axes):
            if axis is None:
                continue
            size = int(leaves[position].shape[axis.dim])
            rows, rest = divmod(size, axis.step)
            if found is None:
                found, first = rows, position
            if rest or rows != found:
                names = {place: name for name, place in self._places.items()}
                raise InputError(
                    f"inputs differ in their rows: {names[first]} has {found}, {names[position]} has {size / axis.step:g}",
                    hint="pass as many rows in each input",
                )
        assert found is not None
        return found

    def _rows_of_bags(self, leaves: Sequence[Any]) -> int:
        """The rows of a request whose inputs hold bags only, by the number of their bounds."""
        if self._counted is None:
            return 1
        position, dim, factor, base = self._counted
        return max((int(leaves[position].shape[dim]) - base) // factor, 0)

    def call(self, leaves: Sequence[Any], model: PinnedModel | None = None) -> list[torch.Tensor]:
        """Runs the model on flat inputs.

        Args:
            leaves: The inputs.
            model: The model with the rows of one moment; by default the model with its present rows.

        Raises:
            InputError: The inputs do not fit.
        """
        args, kwargs = self._signature.unpacked(leaves)
        result = (self.model if model is None else model)(*args, **kwargs)
        return [result] if isinstance(result, torch.Tensor) else pytree.tree_leaves(result)

    @property
    def least_part(self) -> int:
        """The rows of a part of a divided call at least."""
        divided = self.model.parts.division
        return 1 if isinstance(divided, str) else divided.least_rows

    def shared_by_parts(self, leaves: Sequence[Any], model: PinnedModel) -> Sequence[Any] | None:
        """Computes what the parts of a call share: what depends on request inputs only. None if the model has no such part.

        Args:
            leaves: The flat inputs of the whole call.
            model: The model that also runs the parts, so that all see the same rows of its tables.

        Raises:
            InputError: The inputs do not fit.
        """
        divided = model.parts.division
        assert not isinstance(divided, str)
        divided.check(leaves)
        if isinstance(divided.side, str):
            return None
        self._signature.check(leaves)
        return divided.side.values(leaves)

    def call_part(
        self, leaves: Sequence[Any], held: Sequence[Any] | None, start: int, end: int, model: PinnedModel
    ) -> list[torch.Tensor]:
        """Runs the model on some rows of flat inputs.

        Args:
            leaves: The flat inputs of the whole call.
            held: What `shared_by_parts` returned for them.
            start: The first row.
            end: The row after the last one.
            model: The model of `shared_by_parts`.

        Raises:
            InputError: The inputs do not fit.
        """
        divided = model.parts.division
        assert not isinstance(divided, str)
        cut = divided.cut(leaves, start, end)
        if held is None:
            return self.call(cut, model)
        assert not isinstance(divided.side, str)
        return divided.side.rows(cut, held)

    def joined(self, parts: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
        """The outputs of a call from those of its parts, in the order of the rows."""
        divided = self.model.parts.division
        assert not isinstance(divided, str)
        return divided.joined(parts)

    def join(self, requests: Sequence[Sequence[Any]]) -> list[Any]:
        """The flat inputs of one call for several requests, whose rows follow each other.

        Args:
            requests: The flat inputs of each request; `joinable` is None.
        """
        joined: list[Any] = []
        for position, (spec, axis) in enumerate(zip(self._signature.leaves, self._axes, strict=True)):
            if axis is None:
                joined.append(spec.value)
            else:
                joined.append(torch.cat([leaves[position] for leaves in requests], dim=axis.dim))
        self._take_sizes(joined)
        return joined

    def divide(self, outputs: Sequence[torch.Tensor], rows: Sequence[int]) -> list[list[torch.Tensor]]:
        """The outputs of each request of a joined call.

        Args:
            outputs: The outputs of the call.
            rows: The rows of each request, in the order of `join`.
        """
        found: list[list[torch.Tensor]] = [[] for _ in rows]
        for output, place in zip(outputs, self._output_axes, strict=True):
            for own, part in zip(found, output.split([n * place.inner for n in rows], dim=place.axis), strict=True):
                own.append(part)
        return found


def _fixed_sizes(leaf: LeafSpec) -> tuple[int, list[tuple[int, int]]]:
    """The rank of an input, and its dimensions of fixed size."""
    return len(leaf.shape), [(axis, size) for axis, size in enumerate(leaf.shape) if isinstance(size, int)]


def _counted(leaves: Sequence[LeafSpec]) -> tuple[int, int, int, int] | None:
    """A size that gives the batch, such as batch + 1 offsets: position of the leaf, dimension, factor and summand. None without one."""
    for position, leaf in enumerate(leaves):
        for dim, size in enumerate(leaf.shape):
            found = linear_size(size, ()) if isinstance(size, str) else None
            if found is not None and found[0] == BATCH:
                return position, dim, found[1], found[2]
    return None
