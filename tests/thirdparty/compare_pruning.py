"""Which models of other libraries recfx and torch-pruning prune: half of the channels of each layer, and the model must still give outputs
of the same form. Run `python tests/thirdparty/compare_pruning.py [LABEL ...]` for the table.

torch-pruning gets three tries with different layers left whole: none; the last linear layers; and the layers whose outputs recfx finds
bound to the model's. One that works counts. recfx prunes channels that layers compute, as by default; from a model that has
no such channels, columns of tables and whole parts, such as fields and heads, which is an outcome of its own.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import multiprocessing
import resource
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from corpus import BuiltModel, ModelCase, all_cases, generator
from expected import EXPECTED_FAILURES
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from recfx.analysis.channel_groups import channel_groups
from recfx.capture import capture
from recfx.errors import RecfxError
from recfx.ir import Program
from recfx.pipeline import Pipeline

PASSES = "canonicalize,prune-channels{{ratio=0.5, round_to=1, kinds=[{}]}}"
OTHER_BATCH = 5
#: What a try of torch-pruning may take.
MOST_SECONDS, MOST_BYTES = 20, 2 << 30
#: The exit codes of a process that takes more: signals of the kernel, and of C++ code that gets no memory.
_STOPPED = frozenset({-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV})
_ENDLESS = f"no result within {MOST_SECONDS} s of CPU time and {MOST_BYTES >> 30} GB"

#: What may come of a model.
PRUNES, OTHER, NOTHING, REFUSES, BREAKS = "prunes", "columns and parts", "removes nothing", "refuses", "breaks"
#: What a verdict's pruning removes -> the kinds of channels.
KINDS = {PRUNES: "channels", OTHER: "columns, parts"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a tool did with a model.

    Attributes:
        verdict: `PRUNES`, `OTHER` (recfx removes columns of tables or whole parts only), `NOTHING`, `REFUSES` (an error while it prunes)
            or `BREAKS` (the pruned model fails, or has other outputs).
        reason: The error.
    """

    verdict: str
    reason: str = ""


def by_recfx(built: BuiltModel) -> Outcome:
    """Prunes a captured model."""
    args, kwargs = built.example()
    try:
        program = capture(built.model, args, kwargs)
        for verdict, kinds in KINDS.items():
            result = Pipeline(PASSES.format(kinds)).run(program)
            if sum(record.fired for record in result.records if record.text.startswith("prune-channels")):
                found = _checked(result.program.as_module(), built)
                return Outcome(verdict) if found.verdict == PRUNES else found
    except RecfxError as error:
        return Outcome(REFUSES, error.what)
    return Outcome(NOTHING)


def by_torch_pruning(built: BuiltModel) -> Outcome:
    """Prunes a model with torch-pruning; of several tries, the best outcome."""
    found = []
    for ignored in _left_whole(built):
        found.append(_limited(built, ignored))
        if found[-1].verdict == PRUNES or found[-1].reason == _ENDLESS:
            break
    return next((each for verdict in (PRUNES, NOTHING, BREAKS) for each in found if each.verdict == verdict), found[0])


def _limited(built: BuiltModel, ignored: Callable[[nn.Module], list[nn.Module]]) -> Outcome:
    """A try in a process of its own: some dependency graphs take more memory than a machine has."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    importlib.import_module("torch_pruning")  # here, so that a missing package is an error and no verdict

    def run() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
        theirs.send(_tried(built, ignored))

    process = context.Process(target=run)
    process.start()
    theirs.close()
    try:
        found: Outcome | None = ours.recv()
    except EOFError:
        found = None
    process.join()
    return found or of_exit(process.exitcode)


def of_exit(code: int | None) -> Outcome:
    """The outcome of a process that ended without one, by its exit code.

    Raises:
        RuntimeError: It ended by a fault of this comparison, which says nothing about torch-pruning.
    """
    if code not in _STOPPED:
        raise RuntimeError(f"a try of torch-pruning ended with exit code {code} and without an outcome")
    return Outcome(REFUSES, _ENDLESS)


def _tried(built: BuiltModel, ignored: Callable[[nn.Module], list[nn.Module]]) -> Outcome:
    peer: Any = importlib.import_module("torch_pruning")
    model = copy.deepcopy(built.model)
    args, kwargs = built.example()
    before = sum(parameter.numel() for parameter in model.parameters())
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    example: Any = kwargs or args
    try:
        peer.pruner.MetaPruner(
            model,
            example,
            importance=peer.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=ignored(model),
            **({"forward_fn": lambda held, given: held(*args, **kwargs)} if args and kwargs else {}),
        ).step()
    except Exception as error:  # noqa: BLE001 - whatever another library raises is a result here
        return Outcome(REFUSES, f"{type(error).__name__}: {error}")
    if sum(parameter.numel() for parameter in model.parameters()) == before:
        return Outcome(NOTHING)
    return _checked(model, built)


def _left_whole(built: BuiltModel) -> Iterator[Callable[[nn.Module], list[nn.Module]]]:
    """The layers that torch-pruning leaves whole, one choice after another."""
    yield lambda model: []
    yield _last_layers
    names = _bound(built)
    yield lambda model: [module for name, module in model.named_modules() if name in names]


def _last_layers(model: nn.Module) -> list[nn.Module]:
    """The linears with one output, and the last linear of all."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return [*(linear for linear in linears if linear.out_features == 1), *linears[-1:]]


def _bound(built: BuiltModel) -> set[str]:
    """The names of the modules of which recfx can remove no output."""
    args, kwargs = built.example()
    try:
        program: Program = Pipeline("canonicalize").run(capture(built.model, args, kwargs)).program
    except RecfxError:
        return set()
    removable = {(p.name, p.axis) for group in channel_groups(program).groups for p in group.places}
    weights = {
        name: module for name, module in built.model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)
    }
    return {n for n, m in weights.items() if (f"{n}.weight", int(isinstance(m, nn.Embedding))) not in removable}


def _checked(model: nn.Module, built: BuiltModel) -> Outcome:
    """Whether a pruned model gives outputs of the form of the model's, at the example's batch and at another one."""
    for args, kwargs in (built.example(), built.inputs(OTHER_BATCH, generator(1))):
        try:
            with torch.no_grad():
                wanted, found = (_forms(each(*args, **kwargs)) for each in (built.model, model.eval()))
        except Exception as error:  # noqa: BLE001 - a broken model may raise anything
            return Outcome(BREAKS, f"{type(error).__name__}: {error}")
        if wanted != found:
            return Outcome(BREAKS, f"outputs {found}, expected {wanted}")
    return Outcome(PRUNES)


def _forms(outputs: Any) -> list[Any]:
    return [(tuple(o.shape), o.dtype) for o in pytree.tree_leaves(outputs) if isinstance(o, Tensor)]


def compared(cases: Sequence[ModelCase]) -> dict[str, tuple[Outcome, Outcome]]:
    """Label -> the outcomes of recfx and of torch-pruning, of the cases that are installed and captured."""
    found = {}
    for case in cases:
        if case.installed and case.label not in EXPECTED_FAILURES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                built = case.build()
                found[case.label] = by_recfx(built), by_torch_pruning(built)
    return found


def table(found: dict[str, tuple[Outcome, Outcome]]) -> str:
    """The numbers of models by both outcomes, and the models that only recfx prunes, in Markdown."""
    verdicts = (PRUNES, NOTHING, REFUSES, BREAKS)
    counts = Counter((own.verdict, other.verdict) for own, other in found.values())
    rows = [[own, *(str(counts[own, other]) for other in verdicts)] for own in (PRUNES, OTHER, *verdicts[1:])]
    lines = ["| recfx \\ torch-pruning | " + " | ".join(verdicts) + " |", "|---|" + "---|" * len(verdicts)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "| only recfx prunes | torch-pruning |", "|---|---|"]
    for label, (own, other) in sorted(found.items()):
        if own.verdict == PRUNES and other.verdict in (REFUSES, BREAKS):
            lines.append(f"| {label} | {other.verdict}: {' '.join(other.reason.split())[:90].replace('|', '/')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    sys.stdout.write(
        table(compared([case for case in all_cases() if not wanted or any(part in case.label for part in wanted)]))
        + "\n"
    )
