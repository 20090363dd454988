"""Teachers: a student learns the answers, whatever the labels are. `test_finetune.py` holds what is refused."""

from __future__ import annotations

import pytest
import torch
from finetune_kit import pruned_dlrm, rows, small
from torch import Tensor, nn

from recfx.learn import TrainSettings, finetune


@pytest.mark.parametrize("loss", ["bce", "bce-probabilities", "mse", "function"])
def test_a_student_comes_closer_to_its_teacher(loss: str) -> None:
    model, inputs = small(bottom=(16,), top=(16, 16))
    program, _ = pruned_dlrm()
    if loss == "bce-probabilities":

        class Probability(nn.Module):
            def __init__(self, logits: nn.Module) -> None:
                super().__init__()
                self.logits = logits

            def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
                return torch.sigmoid(self.logits(dense, sparse))

        model, student = Probability(model).eval(), Probability(program.as_module())
    else:
        student = program.as_module()
    wanted = model(*inputs).detach()
    before = (student(*inputs) - wanted).square().mean()
    function = nn.functional.binary_cross_entropy_with_logits
    tuned = finetune(
        student,
        [(*inputs, torch.zeros(len(wanted)))],  # the labels have no part in the loss
        function if loss == "function" else loss,
        teacher=model,
        settings=TrainSettings(epochs=30, lr=1e-2, l2=0.0, progress=False),
    )
    assert (tuned.module(*inputs) - wanted).square().mean() < 0.5 * before


def test_a_share_of_the_teacher_is_a_weighted_sum() -> None:
    model, inputs = small(bottom=(16,), top=(16, 16))
    program, _ = pruned_dlrm()
    batch = [rows(inputs, 32)[:]]
    dense, sparse, label = batch[0]
    outputs = torch.as_tensor(program(dense, sparse))
    terms = [
        nn.functional.binary_cross_entropy_with_logits(outputs, target)
        for target in (model(dense, sparse).detach().sigmoid(), label)
    ]
    tuned = finetune(program, batch, teacher=model, teacher_share=0.25)
    assert tuned.report.losses[0] == pytest.approx(float(0.25 * terms[0] + 0.75 * terms[1]), rel=1e-5)
