"""Models of other libraries on each backend alone: what a backend does not take runs on torch with a reason, and no answer is wrong.

Slow and nightly, and needs the libraries: `make thirdparty`.
"""

from __future__ import annotations

import pytest
from corpus import all_cases
from examine import examine
from expected import EXPECTED_FAILURES

from recfx.errors import VerificationError
from recfx.targets import missing

CASES = {case.label: case for case in all_cases()}
#: Backends that compile for seconds are tried on the short list alone.
TARGETS = ("native", "onnxruntime", "openvino")
TOLERANCE = 2e-5  # of sums in other orders, relative to the largest output

#: Models that a backend does not run, with a part of the error.
REFUSED = {
    (
        "own/ComiRec-nearest",
        "onnxruntime",
    ): "differs by",  # two interests are nearly as near, and sums in another order choose the other one
    ("recbole/EulerNet", "onnxruntime"): "a reordering of sums explains",  # its sines and exponentials
}

#: Models with bags, products of pairs, sequences, gates, attention, convolutions, recurrent layers, and several outputs.
SHORT = (
    *("deepctr-torch/xDeepFM", "deepctr-torch/PLE", "torch-rechub/GRU4Rec", "pytorch-widedeep/SelfAttentionMLP"),
    *("recbole/SASRec", "recbole/ConvNCF", "recbole/Caser", "own/DLRM-lists"),
)


def require_right(label: str, target: str) -> None:
    """Compares a model on one backend with eager."""
    case = CASES[label]
    if not case.installed:
        pytest.skip(f"{case.requires} is not installed: make thirdparty")
    if (why := missing(target)) is not None:
        pytest.skip(why)
    if (label, target) in REFUSED:
        with pytest.raises(VerificationError, match=REFUSED[label, target]):
            examine(case, target=target)
        return
    outcome = examine(case, target=target)
    assert outcome.captured, outcome.error
    assert {2, 7, 64} <= outcome.differences.keys(), outcome.refused
    assert outcome.worst <= TOLERANCE, outcome.differences
    assert all(reason for _, reason in outcome.left), outcome.left


@pytest.mark.slow
@pytest.mark.parametrize("target", [*TARGETS, "inductor"])
@pytest.mark.parametrize("label", SHORT)
def test_a_model_on_one_backend(label: str, target: str) -> None:
    require_right(label, target)


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("label", sorted(CASES.keys() - EXPECTED_FAILURES.keys() - set(SHORT)))
def test_every_model_on_one_backend(label: str, target: str) -> None:
    require_right(label, target)
