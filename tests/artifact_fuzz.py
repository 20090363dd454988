"""Mutations of the content of saved models: operators, arguments, sizes, positions, names, edges, nodes, tensors, and
the manifest. Every mutated model gets correct digests, so that a digest never replaces a check. `python
tests/artifact_fuzz.py --seconds 300` counts the outcomes and prints every error of `recfx.load` that is not an
`ArtifactError`.
"""

from __future__ import annotations

import argparse
import collections
import copy
import faulthandler
import json
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from artifact_kit import replace_file, rewrite_manifest, rewrite_program

import recfx
from recfx.command_line import add_option
from recfx.ir import size_expressions
from recfx.ir.operators import ATEN, PYTHON
from recfx.zoo import DIN, DLRM, DCNv2

NUMBERS = (-1, 0, 1, 2, 3, 7, 16, 255, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 40, 1 << 62, (1 << 63) - 1, -(1 << 63))
TEXTS = (
    "", "a", "batch", "../../etc/passwd", "os.system", "__class__", "lambda: 0", "forward", "op:aten.from_file.default",
    "op:aten.as_strided.default", "op:aten.empty.memory_format", "op:recfx.grouped_lookup.default", "op:recfx.mlp.default",
    "op:recfx.code_dot.default", "op:recfx.bpr.default", "operator:attrgetter", "operator:pow", "math:factorial", "9**9**9",
    "batch**8", "torch.float32", "int64", "float64", "int8", "meta", "cuda", "tensor", "constant", "compared", "a\u0000b", "x" * 300,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0.0, -1.5, 1e300, {}, [], {"node": "missing"}, {"dtype": "int8"}, {"dtype": "float64"}, {"float": "nan"},
    {"tuple": []}, {"list": [1, 2]}, {"slice": [0, 1, None]}, {"device": "cuda:0"}, {"layout": "sparse_coo"}, [[[[]]]],
)  # fmt: skip
#: Operators of one or two tensors, so that exchanges among them sometimes satisfy the schema.
SIMILAR = tuple(f"op:aten.{name}" for name in (
    "add.Tensor", "mul.Tensor", "matmul.default", "mm.default", "bmm.default", "linear.default", "cat.default", "stack.default",
    "embedding.default", "index_select.default", "gather.default", "view.default", "reshape.default", "expand.default",
    "permute.default", "transpose.int", "slice.Tensor", "select.int", "unsqueeze.default", "squeeze.dim", "squeeze.default",
    "sum.dim_IntList", "mean.dim", "softmax.int", "layer_norm.default", "relu.default", "sigmoid.default", "to.dtype",
    "as_strided.default", "unfold.default", "repeat.default", "clone.default", "t.default", "one_hot.default", "sym_size.int",
    "repeat_interleave.self_Tensor", "scaled_dot_product_attention.default", "embedding_bag.padding_idx", "item.default",
))  # fmt: skip


class Plain(torch.nn.Module):
    """A model with operators that torch runs, nested inputs and outputs, buffers, attention and a bag."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(11, 4, padding_idx=0)
        self.bag = torch.nn.EmbeddingBag(7, 4, mode="mean")
        self.register_buffer("mix", torch.rand(4, 4))

    def forward(self, ids: torch.Tensor, x: dict[str, torch.Tensor], scale: float = 2.0) -> dict[str, Any]:
        """[B, 5] and {"dense": [B, 4]} -> scores and ranks."""
        rows = self.table(ids)
        mixed = torch.nn.functional.scaled_dot_product_attention(rows, rows, rows).sum(1)
        pooled = self.bag(ids % 7) + x["dense"].matmul(self.mix)
        top = torch.sort(mixed * pooled, 1)
        return {"scores": top.values.tanh(), "both": (top.indices, rows[:, -1] * scale)}


def save_models(folder: Path) -> list[Path]:
    """Saves small models that together contain all operators of the dialect."""
    torch.manual_seed(0)
    ids = torch.randint(0, 11, (3, 5))
    made = {"plain": recfx.optimize(Plain().eval(), example_inputs=(ids, {"dense": torch.rand(3, 4)}), measure=False)}
    for kind, precision in ((DLRM, "fp32"), (DIN, "fp32"), (DCNv2, "int8")):
        model = kind.small().eval()
        inputs = model.example_inputs(3)
        made[kind.__name__.lower()] = recfx.optimize(model, example_inputs=inputs, measure=False, precision=precision)
    for name, fast in made.items():
        fast.save(folder / name)
    return [folder / name for name in made]


def mutate_program(document: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Makes one to three changes of a program; changes that destroy the form of the document come last."""
    kinds = (_change_node, _change_node, _change_lists, _change_anything)
    changes = [draw.choice(kinds) for _ in range(draw.choice((1, 1, 1, 2, 3)))]
    for change in sorted(changes, key=lambda change: change is _change_anything):
        change(document, draw)
    return document


def mutate_manifest(document: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Makes one or two changes of a manifest."""
    for _ in range(draw.choice((1, 1, 2))):
        _change_anything(document, draw)
    return document


def mutate_tensors(data: bytes, draw: random.Random) -> bytes:
    """Changes the header or the end of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    for _ in range(draw.choice((1, 1, 2))):
        _change_anything(header, draw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    claimed = draw.choice((len(text),) * 5 + (0, 7, 1 << 40, (1 << 64) - 1))
    return struct.pack("<Q", claimed) + text + draw.choice((body, body, body, body[:-1], body + b"\0" * 8, b""))


def _change_node(document: dict[str, Any], draw: random.Random) -> None:
    nodes = document["nodes"]
    at = draw.randrange(len(nodes))
    calls = [n for n in nodes if n.get("op") == "call_function"] or nodes
    names = [n.get("name") for n in nodes]
    match draw.randrange(9):
        case 0:
            draw.choice(calls)["target"] = _other_target(calls, draw)
        case 1:
            del nodes[at]
        case 2:
            nodes.insert(at, {**copy.deepcopy(draw.choice(nodes)), "name": draw.choice((f"new_{at}", names[at]))})
        case 3:
            other = draw.randrange(len(nodes))
            nodes[at], nodes[other] = nodes[other], nodes[at]
        case 4:
            _rewire(draw.choice(calls), names, draw)
        case 5:
            args = draw.choice(calls).get("args", [])
            if args:
                draw.choice((args.pop, lambda: args.append(draw.choice(args)), lambda: draw.shuffle(args)))()
        case 6:
            one, other = draw.choice(calls), draw.choice(calls)
            one["args"], other["args"] = other.get("args"), one.get("args")
        case 7:
            draw.choice(nodes)["name"] = draw.choice((*names, *TEXTS))
        case 8:
            kwargs = draw.choice(calls).setdefault("kwargs", {})
            kwargs[draw.choice(("dim", "dtype", "self", "out", "memory_format", "x y"))] = draw.choice(
                (*NUMBERS, *VALUES)
            )


def _other_target(calls: list[dict[str, Any]], draw: random.Random) -> Any:
    used = [n.get("target") for n in calls]
    listed = draw.choice(sorted(ATEN))
    overloads = getattr(torch.ops.aten, listed).overloads()
    return draw.choice(
        (
            draw.choice(used),
            draw.choice(SIMILAR),
            f"op:aten.{listed}.{draw.choice(overloads)}",
            draw.choice(list(PYTHON)),
            draw.choice(TEXTS),
        )
    )


def _rewire(node: dict[str, Any], names: list[Any], draw: random.Random) -> None:
    wires = [held for held in _containers(node) if isinstance(held, dict) and "node" in held]
    if wires:
        draw.choice(wires)["node"] = draw.choice(names)


def _change_lists(document: dict[str, Any], draw: random.Random) -> None:
    """Changes one number in a list of numbers: features, layers, sizes."""
    lists = [
        held for held in _containers(document["nodes"]) if isinstance(held, list) and any(type(v) is int for v in held)
    ]
    if lists:
        held = draw.choice(lists)
        at = draw.choice([i for i, v in enumerate(held) if type(v) is int])
        near = (held[at] - 1, held[at] + 1, 2 * held[at], -held[at])
        held[at] = draw.choice((*near, *near, draw.choice(NUMBERS)))


def _change_anything(document: Any, draw: random.Random) -> None:
    places = [held for held in _containers(document) if held]
    if not places:
        return
    held = draw.choice(places)
    key = draw.choice(list(held)) if isinstance(held, dict) else draw.randrange(len(held))
    other = draw.choice(places)
    match draw.randrange(6):
        case 0:
            del held[key]
        case 1:
            held[key] = draw.choice((*NUMBERS, *TEXTS, *VALUES))
        case 2:
            held[key] = copy.deepcopy(other)
        case 3 if isinstance(held, list):
            held.insert(key, copy.deepcopy(held[key]))
        case 4 if isinstance(held, dict):
            held[draw.choice((*TEXTS, *held))] = held[key]
        case _:
            pool = list(other.values()) if isinstance(other, dict) else other
            held[key] = copy.deepcopy(draw.choice(pool))


def _containers(document: Any) -> list[Any]:
    found, stack = [], [document]
    while stack:
        item = stack.pop()
        if isinstance(item, dict | list):
            found.append(item)
            stack += item.values() if isinstance(item, dict) else item
    return found


def mutate(source: Path, folder: Path, draw: random.Random) -> None:
    """Makes a copy of a saved model with one mutated part."""
    shutil.copytree(source, folder)
    part = draw.choice(("program",) * 8 + ("manifest", "state"))
    if part == "program":
        rewrite_program(folder, lambda document: mutate_program(document, draw))
    elif part == "manifest":
        rewrite_manifest(folder, lambda document: mutate_manifest(document, draw))
    else:
        data = mutate_tensors((folder / "state.safetensors").read_bytes(), draw)
        replace_file(folder, "state.safetensors", data)


def attempt(folder: Path) -> str:
    """Loads a mutated model and, when that works, calls it: "refused", "unforeseen", "ran" or "failed when called".

    "unforeseen" is an `ArtifactError` that was made from an exception no check expects. Any other exception propagates.
    """
    try:
        fast = recfx.load(folder)
    except recfx.ArtifactError as error:
        return "unforeseen" if "cannot take the program" in error.what else "refused"
    outcome = "ran"
    for batch in (1, 5):
        try:
            fast(*_inputs(fast, batch))
        except Exception:  # noqa: BLE001 - a nonsensical model may fail in any way except reading memory of others
            outcome = "failed when called"
    str(fast.report)
    return outcome


def _inputs(fast: recfx.CompiledModel, batch: int) -> Any:
    """Zeros in the form of the signature."""
    signature = fast.program.signature
    leaves: list[Any] = []
    for leaf in signature.leaves:
        sizes = dict.fromkeys(signature.dims, batch)
        shape = [s if isinstance(s, int) else size_expressions.evaluate(s, sizes) for s in leaf.shape]
        leaves.append(
            torch.zeros([min(s, 1 << 16) for s in shape], dtype=leaf.dtype) if leaf.kind == "tensor" else leaf.value
        )
    return torch.utils._pytree.tree_unflatten(leaves, signature.in_spec)[0]


def run(
    seeds: range, models: list[Path], room: Path, until: float = float("inf"), tell: Callable[[str], None] = print
) -> collections.Counter[str]:
    """Mutates, loads and counts the outcomes, with one mutation per seed; an exception that is not an `ArtifactError`
    counts as "escaped"."""
    counts: collections.Counter[str] = collections.Counter()
    for seed in seeds:
        if time.monotonic() > until:
            break
        draw = random.Random(seed)
        folder = room / f"mutant-{seed}"
        (room / "last-seed").write_text(str(seed))  # read after a crash
        mutate(draw.choice(models), folder, draw)
        start = time.monotonic()
        try:
            counts[attempt(folder)] += 1
        except Exception:  # noqa: BLE001 - the fuzzer looks for such exceptions
            counts["escaped"] += 1
            tell(f"seed {seed}: {traceback.format_exc()}")
        if time.monotonic() - start > 20:
            counts["slow"] += 1
            tell(f"seed {seed} took {time.monotonic() - start:.0f} s")
        shutil.rmtree(folder)
    return counts


def main() -> None:
    """Runs the fuzzer for a number of seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_option(parser, "seconds", 300.0)
    add_option(parser, "seed", 0, "the first seed (default: %(default)s)")
    options = parser.parse_args()
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as room:
        models = save_models(Path(room) / "models")
        seeds = range(options.seed, options.seed + (1 << 31))
        sys.stdout.write(str(dict(run(seeds, models, Path(room), time.monotonic() + options.seconds))) + "\n")


if __name__ == "__main__":
    main()
