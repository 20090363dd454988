"""fuse-lookups on TorchRec's KeyedJaggedTensor collections."""

from __future__ import annotations

import pytest
import torch
from pass_cases import operators
from torchrec_models import CASES

from recfx.capture import capture
from recfx.ir import Exactness, verify_meta, verify_numeric
from recfx.ops.lookup import JAGGED, decode, grouped_lookup
from recfx.passes import DEFAULT_PIPELINE
from recfx.pipeline import Pipeline

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_collection_is_one_lookup(case: object) -> None:
    pytest.importorskip("torchrec", exc_type=ImportError)
    built = case.build()  # type: ignore[attr-defined]
    model = built.model.eval()
    (inputs, _) = built.inputs(6, torch.Generator().manual_seed(0))
    program = Pipeline(DEFAULT_PIPELINE).run(capture(model, inputs)).program
    result = Pipeline("fuse-lookups").run(program)
    verify_meta(result.program)
    verify_numeric(program, result.program, Exactness.REASSOC)
    counts = operators(result.program)
    assert counts["aten.embedding_bag.padding_idx"] == counts["aten.item"] == counts["aten.split_with_sizes"] == 0
    (node,) = (n for n in result.program.graph.nodes if n.target is grouped_lookup)
    read = decode(node.args[5])
    assert [f.segment for f in read] == [0, 3, 1, 2]
    assert all(f.length == JAGGED and f.segments == 4 for f in read)
    assert len(node.args[0]) == 3  # two features share a table
    assert Pipeline("fuse-lookups").run(result.program).records[0].fired == 0
    for batch in (1, 2, 7, 64):
        other, _ = built.inputs(batch, torch.Generator().manual_seed(batch))
        with torch.no_grad():
            torch.testing.assert_close(result.program(*other), model(*other))
