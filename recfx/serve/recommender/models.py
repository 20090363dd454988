"""The two models of a recommender: the one that makes the vector of a user, and the one that scores candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recfx.compiled import CompiledModel, PinnedModel
from recfx.errors import InputError, TargetError
from recfx.ir.batch_axes import Axis
from recfx.serve.engine.interface import ModelInterface
from recfx.serve.engine.tensor_info import TensorInfo, shown
from recfx.serve.recommender.item_inputs import ItemInputs

#: The input that names the user of each candidate, for models of several requests (`many_requests=True`).
_INDEX = "request_index"


def user_info(interface: ModelInterface, name: str) -> TensorInfo:
    """An input of a user, with a row for each user.

    Raises:
        TargetError: It has no rows, or its rows are not its first dimension.
    """
    info = next(info for info in interface.inputs if info.name == name)
    axis = interface.row_axes[name]
    rows = axis == Axis(0) or (
        axis is None and len(info.shape) > 0 and (info.shape[0] == 1 or _INDEX in interface.row_axes)
    )
    if not rows or -1 in info.shape[1:]:
        raise TargetError(
            f"the input {name}{shown(info.shape)} does not have one row of a fixed size for each user",
            where="inputs of users",
            hint="pad histories to a fixed length, and let the first dimension be the batch",
        )
    return TensorInfo(name, info.dtype, (-1, *info.shape[1:]))


class QueryModel:
    """The model that makes the vector of a user.

    Args:
        model: Takes the inputs of users, and returns their vectors, floating point [users, d].
        dim: d of the index.

    Attributes:
        interface: Its tensors.
        inputs: Those of a user.

    Raises:
        TargetError: An input or the output does not fit.
    """

    def __init__(self, model: CompiledModel, dim: int) -> None:
        self.model = model
        self.interface = ModelInterface(model)
        self.inputs = tuple(user_info(self.interface, info.name) for info in self.interface.inputs)
        first = self.interface.outputs[0]
        if len(first.shape) != 2 or first.shape[1] != dim or not first.dtype.is_floating_point:
            raise TargetError(
                f"the model of queries returns {first.datatype}{shown(first.shape)} first, and the index has vectors of {dim} numbers",
                where="query",
                hint="pass a model whose first output is the vector of each user, [batch, d]",
            )

    def vectors(self, model: PinnedModel, users: Mapping[str, Tensor], count: int) -> Tensor:
        """The vectors of users, float32 [users, d]."""
        given = {info.name: users[info.name] for info in self.inputs}
        if count == 1 or self.interface.joinable is None:
            return self._call(model, given)
        return torch.cat([self._call(model, _row(given, user)) for user in range(count)])

    def _call(self, model: PinnedModel, given: Mapping[str, Tensor]) -> Tensor:
        return self.interface.call(self.interface.leaves(given), model)[0].float()


class RankingModel:
    """The model that scores candidates.

    Args:
        model: Takes the inputs of users and of items, and returns a score for each pair.
        items: Its inputs of items.
        score: Its output; by default the first.

    Attributes:
        interface: Its tensors.
        inputs: Those of a user.

    Raises:
        InputError: An input or an output is unknown.
        TargetError: An input or the output does not fit.
    """

    def __init__(self, model: CompiledModel, items: Mapping[str, Tensor], score: str | None) -> None:
        self.model = model
        self.interface = interface = ModelInterface(model)
        self._items = tuple(items)
        axes = interface.row_axes
        if unknown := [name for name in items if name not in axes or name == _INDEX]:
            raise InputError(
                f"the ranking model has no input {unknown[0]!r}", where="inputs", hint=f"it has {', '.join(axes)}"
            )
        for info in interface.inputs:
            if info.name in items:
                _require_item(info, axes[info.name], items[info.name])
        users = [name for name in axes if name not in items and name != _INDEX]
        self.inputs = tuple(user_info(interface, name) for name in users)
        self._once = [name for name in users if axes[name] is None]
        self._indexed = _INDEX in axes
        names = [info.name for info in interface.outputs]
        if score is not None and score not in names:
            raise InputError(
                f"the ranking model has no output {score!r}", where="score", hint=f"it has {', '.join(names)}"
            )
        self._score = 0 if score is None else names.index(score)
        shape = interface.outputs[self._score].shape
        if shape not in ((-1,), (-1, 1)):
            raise TargetError(
                f"the output {names[self._score]}{shown(shape)} is not one score for each candidate",
                where="ranking",
                hint="pass score= with the name of the output to rank by",
            )
        self._together = self._indexed or (not self._once and interface.joinable is None)

    def scores(self, model: PinnedModel, users: Mapping[str, Tensor], items: ItemInputs, positions: Tensor) -> Tensor:
        """The scores of candidates.

        Args:
            model: The model with the rows of one moment.
            users: The inputs of users, [users, ...].
            items: Those of items.
            positions: Those of the candidates of each user, int64 [users, n]; -1 for none.

        Returns:
            float32 [users, n]; -inf for none.
        """
        real = positions >= 0
        found = torch.full(positions.shape, -torch.inf)
        owners = real.nonzero()[:, 0]
        chosen = positions[real]
        given = {info.name: users[info.name] for info in self.inputs}
        if not len(chosen):
            return found
        if self._together or len(positions) == 1:
            found[real] = self._call(model, given, owners, items.of(chosen))
            return found
        for user in range(len(positions)):
            mine = positions[user][real[user]]
            if len(mine):
                found[user, real[user]] = self._call(model, _row(given, user), torch.zeros_like(mine), items.of(mine))
        return found

    def check(self, values: Mapping[str, Tensor], users: Mapping[str, Tensor]) -> None:
        """Scores the items with the least and the greatest values, so that values that the model refuses, such as ids outside a table, are
        refused before any request meets them.

        Args:
            values: Inputs of items, [n, ...].
            users: The inputs of one user.

        Raises:
            InputError: The model refuses them, or they hold NaN or infinities.
        """
        for name, value in values.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise InputError(
                    "the values hold NaN or infinities", where=name, hint="pass finite numbers for each item"
                )
        rows = torch.cat([_extremes(value) for value in values.values()]).unique()
        if len(rows):
            given = {info.name: users[info.name] for info in self.inputs}
            chosen = {name: value[rows] for name, value in values.items()}
            self._call(None, given, torch.zeros_like(rows), chosen)

    def _call(
        self, model: PinnedModel | None, users: Mapping[str, Tensor], owners: Tensor, items: Mapping[str, Tensor]
    ) -> Tensor:
        """The scores of pairs, float32 [n]."""
        given = dict(items)
        for name, value in users.items():
            given[name] = value if name in self._once else value.index_select(0, owners)
        if self._indexed:
            given[_INDEX] = owners
        outputs = self.interface.call(self.interface.leaves(given), model)
        return outputs[self._score].reshape(-1).float()


def _extremes(values: Tensor) -> Tensor:
    """The rows that hold the least and the greatest value."""
    if not values.numel():
        return torch.empty(0, dtype=torch.int64)
    numbers = values.flatten().to(torch.uint8) if values.dtype is torch.bool else values.flatten()
    return torch.stack([numbers.argmin(), numbers.argmax()]) // (numbers.numel() // len(values))


def _row(values: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row : row + 1] for name, value in values.items()}


def _require_item(info: TensorInfo, axis: Axis | None, values: Tensor) -> None:
    """Checks values of items against the input of the model.

    Raises:
        TargetError: The input does not have one row for each candidate.
        InputError: The values have another dtype or shape.
    """
    where = f"inputs, {info.name}"
    if axis != Axis(0) or -1 in info.shape[1:] or 0 in info.shape[1:]:
        raise TargetError(
            f"the input {info.name}{shown(info.shape)} does not have one row of a fixed size for each candidate",
            where=where,
            hint="pad the values of items to a fixed length, and let the first dimension be the batch",
        )
    if values.dtype is not info.dtype or tuple(values.shape[1:]) != info.shape[1:] or values.ndim != len(info.shape):
        raise InputError(
            f"expected {info.datatype}{shown(info.shape)}, got {values.dtype} {list(values.shape)}",
            where=where,
            hint="pass what the ranking model takes, with a row for each item",
        )


def merged(parts: Sequence[Sequence[TensorInfo]]) -> tuple[TensorInfo, ...]:
    """The inputs of users of several models; equal names are the same input.

    Raises:
        TargetError: Two models take different tensors under one name.
    """
    found: dict[str, TensorInfo] = {}
    for info in (info for part in parts for info in part):
        held = found.setdefault(info.name, info)
        if held != info:
            raise TargetError(
                f"the models take the input {info.name} as {held.datatype}{shown(held.shape)} and as {info.datatype}{shown(info.shape)}",
                where="inputs of users",
                hint="give the inputs different names, or the same dtype and shape",
            )
    return tuple(found.values())
