"""Refusals cross processes as plain values."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.errors import ArtifactError
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.ray.refusals import refusal_of, require_answer

texts = st.one_of(st.none(), st.text(min_size=1))


@given(reason=st.sampled_from(list(Reason)), what=st.text(min_size=1), where=texts, hint=texts)
def test_a_refusal_keeps_its_parts(reason: Reason, what: str, where: str | None, hint: str | None) -> None:
    before = Rejected(reason, what, where=where, hint=hint)
    sent = pickle.loads(pickle.dumps(refusal_of(before)))
    with pytest.raises(Rejected) as caught:
        require_answer(None, sent)
    assert (caught.value.reason, str(caught.value)) == (reason, str(before))


def test_other_errors_are_faults_of_the_replica() -> None:
    with pytest.raises(Rejected, match="damaged") as caught:
        require_answer(
            None, refusal_of(ArtifactError("the file is damaged", where="model.recfx", hint="save it again"))
        )
    assert caught.value.reason is Reason.FAILED
    assert (caught.value.where, caught.value.hint) == ("model.recfx", "save it again")


def test_an_answer_is_returned() -> None:
    assert require_answer([1, 2], None) == [1, 2]
