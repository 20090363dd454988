"""Training of captured programs: fine-tuning after passes that change the function, gradual pruning, quantisation-aware training."""

from recfx.learn.finetuning.distill import distill
from recfx.learn.finetuning.fake_quantize import FakeQuantized, fake_quantize
from recfx.learn.finetuning.finetune import FineTuned, finetune
from recfx.learn.finetuning.gradual import GraduallyPruned, Stage, prune_gradually
from recfx.learn.finetuning.task_loss import LOSSES

__all__ = [
    "LOSSES",
    "FakeQuantized",
    "FineTuned",
    "GraduallyPruned",
    "Stage",
    "distill",
    "fake_quantize",
    "finetune",
    "prune_gradually",
]
