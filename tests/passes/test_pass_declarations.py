"""The declarations of all passes and the defaults of their options: a pass that loses a property runs where it should not, or is missed
in a message."""

from __future__ import annotations

import dataclasses

import pytest

from recfx.pipeline import PassSpec, registered

#: A property or a field that is set -> the passes.
DECLARED = {
    "avoids linears-fused": (
        "batch-pairs batch-rounds factorize-linears fold-affine fold-batchnorm fold-cin fold-linear-into-table fuse-attention-gru fuse-cin "
        "fuse-cross fuse-parallel-linears fuse-target-attention join-cross-experts narrow-last-position prune-channels "
        "remove-dead-channels tabulate-towers"
    ),
    "avoids linears-joined": (
        "batch-pairs batch-rounds factorize-linears fuse-attention-gru fuse-target-attention join-cross-experts narrow-last-position "
        "prune-channels tabulate-towers"
    ),
    "avoids lookups-fused": (
        "batch-pairs batch-rounds fold-affine fold-linear-into-table fuse-dot-interaction fuse-fm narrow-tables prune-channels "
        "remove-dead-channels remove-fields share-cold-rows tabulate-towers"
    ),
    "changes_state": "all but batch-selects canonicalize form-bags fuse-lookups merge-duplicates",
    "establishes canonical": "canonicalize",
    "establishes hoisted": "hoist-requests",
    "establishes linears-fused": "fuse-mlp",
    "establishes linears-joined": "fuse-parallel-linears",
    "establishes linears-quantised": "quantize-linears",
    "establishes lookups-fused": "fuse-lookups",
    "establishes scores-quantised": "binarize-embeddings quantize-embeddings",
    "establishes tables-quantised": "quantize-tables",
    "exactness approx": (
        "binarize-embeddings factorize-linears narrow-tables prune-channels quantize-embeddings quantize-linears "
        "quantize-tables remove-fields share-cold-rows"
    ),
    "exactness exact": "batch-selects canonicalize fold-constants merge-duplicates merge-tables",
    "exactness reassoc": (
        "batch-pairs batch-rounds fold-affine fold-batchnorm fold-cin fold-linear-into-table form-bags fuse-attention-gru fuse-cin "
        "fuse-cross fuse-dot-interaction fuse-fm fuse-lookups fuse-mlp fuse-parallel-linears fuse-target-attention "
        "hoist-requests join-cross-experts narrow-last-position remove-dead-channels tabulate-towers"
    ),
    "forbids linears-fused": "hoist-requests",
    "forbids linears-joined": "hoist-requests",
    "forbids linears-quantised": (
        "factorize-linears fold-affine fold-batchnorm fold-cin fold-linear-into-table fuse-cross fuse-mlp fuse-parallel-linears "
        "fuse-target-attention hoist-requests join-cross-experts narrow-last-position narrow-tables prune-channels "
        "remove-dead-channels remove-fields share-cold-rows tabulate-towers"
    ),
    "forbids lookups-fused": "hoist-requests",
    "forbids scores-quantised": (
        "factorize-linears fold-affine fold-batchnorm fold-linear-into-table hoist-requests join-cross-experts "
        "narrow-last-position narrow-tables prune-channels remove-dead-channels remove-fields share-cold-rows tabulate-towers"
    ),
    "forbids tables-quantised": (
        "factorize-linears fold-affine fold-batchnorm fold-linear-into-table form-bags fuse-lookups hoist-requests "
        "join-cross-experts narrow-last-position narrow-tables prune-channels remove-dead-channels remove-fields "
        "share-cold-rows tabulate-towers"
    ),
    "invalidates lookups-fused": "form-bags tabulate-towers",
    "needs calibration": "remove-fields",
    "needs catalogue": "tabulate-towers",
    "needs traffic": "share-cold-rows",
    "not idempotent": "factorize-linears narrow-tables prune-channels",
    "prefers canonical": (
        "all but batch-selects canonicalize fold-constants merge-duplicates merge-tables quantize-linears quantize-tables "
        "tabulate-towers"
    ),
    "requires functional": "all but",
}

#: The defaults of the options of a pass.
OPTIONS: dict[str, dict[str, object]] = {
    "batch-pairs": {"at_least": 6},
    "batch-rounds": {"at_least": 6},
    "batch-selects": {"at_least": 3, "max_parts": 64},
    "binarize-embeddings": {"method": "sign-rows", "query_bits": 8, "min_rows": 1, "seed": 0},
    "factorize-linears": {
        **{"ratio": 0.5, "energy": None, "importance": "weights", "round_to": 16},
        **{"min_weights": 4096, "keep": (), "only": ()},
    },
    "fold-constants": {"max_growth_bytes": 1 << 20},
    "fold-linear-into-table": {"max_bytes_growth": 1 << 18, "concat_bytes": 0},
    "fuse-lookups": {"at_least": 2},
    "fuse-mlp": {"at_least": 1},
    "fuse-parallel-linears": {"at_least": 2, "at_least_batched": 3, "max_weight": 1 << 16},
    "hoist-requests": {"least_columns": 8, "least_fields": 2},
    "narrow-tables": {
        **{"ratio": 0.5, "energy": None, "importance": "rows", "round_to": 4},
        **{"min_bytes": (1 << 18) + 1, "only": (), "keep": ()},
    },
    "prune-channels": {
        **{"ratio": 0.5, "amount": "channels", "importance": "l2", "ranking": "layer"},
        **{"round_to": 16, "kinds": ("channels",), "keep_means": False, "keep": ()},
    },
    "quantize-embeddings": {"bits": 8, "method": "rows", "query_bits": 8, "min_rows": 1, "seed": 0},
    "quantize-linears": {
        **{"bits": 8, "min_weights": 4096, "min_outputs": 2, "clip": False, "migrate": False},
        **{"activations": "dynamic", "correct_bias": False, "keep": ()},
    },
    "quantize-tables": {"bits": 8, "refine": False, "min_rows": 1, "format": "bf16", "keep": ()},
    "remove-fields": {"most_harm": 1e-4, "only": (), "keep": ()},
    "share-cold-rows": {"least": 2, "min_rows": 64, "keep": ()},
}

SPECS = {name: cls.spec for name, cls in registered().items() if cls.__module__.startswith("recfx.passes.")}


def names_of(text: str) -> set[str]:
    words = text.split()
    return set(SPECS) - set(words[2:]) if words[:2] == ["all", "but"] else set(words)


def declared() -> dict[str, set[str]]:
    """Each property of each field, and each flag that is not the default -> the passes that declare it."""
    found: dict[str, set[str]] = {}
    for name, spec in SPECS.items():
        for field in dataclasses.fields(PassSpec):
            held = getattr(spec, field.name)
            if isinstance(held, frozenset):
                keys = [f"{field.name} {one}" for one in held]
            elif isinstance(held, bool):
                keys = [] if held == field.default else [field.name if held else f"not {field.name}"]
            else:
                keys = [f"exactness {held.value}"] if field.name == "exactness" else []
            for key in keys:
                found.setdefault(key, set()).add(name)
    return found


@pytest.mark.parametrize("key", DECLARED)
def test_the_passes_that_declare_a_property(key: str) -> None:
    assert declared().get(key, set()) == names_of(DECLARED[key])


def test_the_defaults_of_options() -> None:
    for name in SPECS:
        options = [field for field in dataclasses.fields(registered()[name]) if field.init]
        assert {option.name: option.default for option in options} == OPTIONS.get(name, {}), name


def test_no_other_property_is_declared() -> None:
    assert declared().keys() == DECLARED.keys()
