"""The models that capture refuses, with the reason and the next step for their users. The test asserts that each fails
with this message."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExpectedFailure:
    """One model that is not captured.

    Attributes:
        reason: The cause, in the model's own terms.
        mend: The next step for a user of the model.
        fragment: A part of the expected message of capture.
    """

    reason: str
    mend: str
    fragment: str


_PACKED = "run the recurrent layer on the padded batch and mask the positions after each length"
_NUMPY = "write the loop over sequences with torch operators, or call it before the model and pass its result in"

EXPECTED_FAILURES: dict[str, ExpectedFailure] = {
    "deepctr-torch/DIEN-GRU": ExpectedFailure(
        "drops the rows with an empty history, so that a size depends on values, and packs the rest by length",
        _PACKED,
        "masked_keys_length.shape[0] == 0",
    ),
    "deepctr-torch/DIEN-AUGRU": ExpectedFailure(
        "drops the rows with an empty history, so that a size depends on values, and packs the rest by length",
        _PACKED,
        "masked_keys_length.shape[0] == 0",
    ),
    "torch-rechub/DIEN": ExpectedFailure(
        "branches on whether any row has a history, and packs by length",
        _PACKED,
        "takes a decision, or a size, from the values in a tensor",
    ),
    "torch-rechub/MIND": ExpectedFailure(
        "starts its routing from `torch.randn` in eval mode too: two calls give two answers",
        "start from fixed values, as ComirecDR does",
        "different answers for the same inputs",
    ),
    "torch-rechub/NARM": ExpectedFailure(
        "unpacks without `total_length`: a batch of histories of one id gives one place, which it multiplies with the mask of all places",
        "pass total_length=input.shape[1] to `pad_packed_sequence`",
        "the captured graph disagrees with the model",
    ),
    "recbole/DGCF": ExpectedFailure(
        "asserts on values inside forward (`assert not torch.isnan(...)`) for each of its routing steps",
        "take the assertion out of forward",
        "torch.isnan(d_values).any()",
    ),
    "recbole/SRGNN": ExpectedFailure(
        "builds the session graph with NumPy inside forward", _NUMPY, "converts a tensor to NumPy"
    ),
    "recbole/GCSAN": ExpectedFailure(
        "builds the session graph with NumPy inside forward", _NUMPY, "converts a tensor to NumPy"
    ),
    "recbole/HRM": ExpectedFailure(
        "reverses each sequence with NumPy inside forward", _NUMPY, "converts a tensor to NumPy"
    ),
    "recbole/BERT4Rec": ExpectedFailure(
        "writes the mask token row by row, at positions read from a tensor, in a Python loop over the batch",
        "append the mask token where the sequences are made, or use `scatter`",
        "item_seq[batch_id][last_position] = self.mask_token",
    ),
    "recbole/DIEN": ExpectedFailure(
        "loops over a packed sequence and takes the batch as a Python number (`int(batch_sizes[0])`)",
        _PACKED,
        "fixes a dimension that must be free",
    ),
    "recbole/KTUP": ExpectedFailure(
        "draws which preference a pair has (Gumbel noise) in eval mode too: two calls give two answers",
        "set use_st_gumbel to False, which takes the mean of all preferences",
        "different answers for the same inputs",
    ),
    "recbole/RippleNet": ExpectedFailure(
        "collects the neighbours of each user with NumPy inside forward",
        "look the neighbours up in a tensor, and pass the result in",
        "converts a tensor to NumPy",
    ),
}
