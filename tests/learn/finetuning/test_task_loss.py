"""Losses by name: values, shapes that fit, and gradients that must exist. `test_finetune.py` holds what is refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recfx.errors import InputError
from recfx.learn.finetuning.task_loss import LOSSES, are_probabilities, scalar, task_loss

LOGITS = torch.tensor([0.5, -2.0, 3.0])
LABELS = torch.tensor([1.0, 0.0, 1.0])


@pytest.mark.parametrize("outputs", [(3,), (3, 1)])
@pytest.mark.parametrize("labels", [(3,), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_the_values_are_those_of_torch(outputs: tuple[int, ...], labels: tuple[int, ...], dtype: torch.dtype) -> None:
    given = LOGITS.reshape(outputs), LABELS.reshape(labels).to(dtype)
    wanted = functional.binary_cross_entropy_with_logits(LOGITS, LABELS)
    torch.testing.assert_close(task_loss("bce")(*given), wanted)
    torch.testing.assert_close(task_loss("bce-probabilities")(given[0].sigmoid(), given[1]), wanted)
    torch.testing.assert_close(task_loss("mse")(*given), functional.mse_loss(LOGITS, LABELS))


def test_every_loss_has_a_gradient() -> None:
    for name, loss in LOSSES.items():
        outputs = torch.rand(3, requires_grad=True)
        scalar(loss(outputs, LABELS)).backward()
        assert outputs.grad is not None, name
        assert outputs.grad.abs().min() > 0, name


def test_outputs_of_several_tasks_fit_labels_of_several_tasks() -> None:
    assert LOSSES["bce"](torch.zeros(4, 3), torch.ones(4, 3)) == pytest.approx(0.6931, abs=1e-4)
    with pytest.raises(InputError, match=r"outputs \[4, 3\] for labels \[3, 4\]"):
        LOSSES["bce"](torch.zeros(4, 3), torch.ones(3, 4))
    with pytest.raises(InputError, match=r"got tuple and Tensor"):
        LOSSES["bce"]((torch.zeros(4),), torch.ones(4))


def test_probabilities_are_told_from_logits() -> None:
    odds = torch.linspace(-3, 3, 40)
    assert are_probabilities(odds.sigmoid())
    assert not are_probabilities(odds)
    assert not are_probabilities(odds.sigmoid()[:8])  # too few to tell
    assert not are_probabilities((odds.sigmoid(), odds))
