"""What a run of `finetune` depends on, as plain text, so that only the same run continues a checkpoint."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from typing import Any

from torch import Tensor, fx, nn

from recfx.ir.program import Program
from recfx.ir.program_module import ProgramModule
from recfx.learn.finetuning.fake_quantize import FakeQuantized
from recfx.learn.finetuning.task_loss import TaskLoss
from recfx.learn.finetuning.teacher import Teacher
from recfx.learn.fingerprint import fingerprint

#: So many values of each tensor of a teacher are compared; training changes most values of a tensor.
_VALUES = 4096

#: The address of an object in its text, which differs between processes.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def experiment(
    model: nn.Module, loss: TaskLoss, labels: str | None, teacher: Teacher | None, *, evaluated: bool
) -> dict[str, str]:
    """Path -> description of the model, the losses and the labels of a run. The values that training changes are not part of it.

    Args:
        model: The model to train.
        loss: The loss.
        labels: The key of the labels in batches that are dicts.
        teacher: A teacher's term of the loss.
        evaluated: Whether the model is evaluated.
    """
    return fingerprint(
        model=_of_model(model),
        loss=_of_function(loss),
        labels=labels,
        teacher=None if teacher is None else {"share": teacher.share, "model": _of_teacher(teacher.model)},
        evaluated=evaluated,
    )


def _of_model(model: nn.Module) -> dict[str, Any]:
    """The structure of a model, and the form of its state."""
    frozen = {name for name, held in model.named_parameters(remove_duplicate=False) if not held.requires_grad}
    found: dict[str, Any] = {
        name: f"{tensor.dtype} {list(tensor.shape)}{' frozen' if name in frozen else ''}"
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor)
    }
    if isinstance(model, ProgramModule):
        found["operators"] = _operators(model.program.graph)
    else:
        found |= {f"{name} module": _of_module(module) for name, module in model.named_modules()}
    if isinstance(model, FakeQuantized):
        found |= {"inputs": model.inputs, "quantizers": model.quantizers}
    return found


def _of_module(module: nn.Module) -> str:
    return _ADDRESS.sub("", f"{type(module).__qualname__}({module.extra_repr()})")


def _operators(graph: fx.Graph) -> str:
    """A digest of the operators of a graph and their arguments, without the names of values."""
    numbers = {node: f"%{number}" for number, node in enumerate(graph.nodes)}
    lines = [
        f"{node.op} {'' if node.op == 'placeholder' else node.target} {fx.map_arg((node.args, node.kwargs), numbers.__getitem__)}"
        for node in graph.nodes
    ]
    return hashlib.sha256(_ADDRESS.sub("", "\n".join(lines)).encode()).hexdigest()[:16]


def _of_function(function: Any) -> Any:
    """A function by its name, an object that is called by its class and arguments."""
    if isinstance(function, functools.partial):
        return [_of_function(function.func), function.args, function.keywords]
    return f"{function.__module__}.{function.__qualname__}" if inspect.isroutine(function) else function


def _of_teacher(model: Any) -> dict[str, Any]:
    """The class of a teacher, and a digest of its state."""
    held = model if isinstance(model, Program) else getattr(model, "program", None)
    plain = model.state_dict() if isinstance(model, nn.Module) else {}
    state = held.state() if isinstance(held, Program) else plain
    values = {name: _some_values(held) for name, held in state.items() if isinstance(held, Tensor)}
    return {"class": type(model).__qualname__, "state": values}


def _some_values(tensor: Tensor) -> Tensor:
    """Values from all parts of a tensor."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _VALUES)]
