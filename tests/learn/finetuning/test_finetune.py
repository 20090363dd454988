"""Fine-tuning of programs: gradients, names, exact resumption, and what it refuses."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_kit import QUICK, pruned_dlrm, rows, small
from torch import Tensor, nn
from torch.utils.data import DataLoader

import recfx
from recfx.capture import capture
from recfx.data import tensor_batches
from recfx.errors import ArtifactError, InputError, RecfxError
from recfx.learn import FineTuned, TrainSettings, finetune
from recfx.zoo import DIN, DLRM, DCNv2, DeepFM, WideDeep

#: Two models for each run of the suite, and others.
KINDS = [DLRM, DIN, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (DeepFM, DCNv2, WideDeep))]


class Stops:
    """A loader that stops a run at a batch, as Ctrl-C does."""

    def __init__(self, loader: Any, at: int) -> None:
        self._loader, self._left = loader, at

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Any:
        for batch in self._loader:
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            yield batch


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_has_the_gradients_of_the_model(kind: Any) -> None:
    model, inputs = small(kind)
    module = capture(model, inputs).as_module()
    for each in (model, module):
        outputs = each(*inputs)
        (outputs if isinstance(outputs, Tensor) else outputs[0]).square().sum().backward()
    ours = dict(module.named_parameters())
    theirs = {n: p for n, p in model.named_parameters() if p.grad is not None}
    assert set(theirs) <= set(ours)
    for name, parameter in theirs.items():
        torch.testing.assert_close(ours[name].grad, parameter.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_compiled_program_trains_all_its_weights(kind: Any) -> None:
    """Operators of the dialect, folded and joined weights included."""
    model, inputs = small(kind)
    fast = recfx.optimize(model, "native", example_inputs=inputs, measure=False)
    dialect = {node.target for node in fast.program.graph.nodes if str(node.target).startswith("recfx.")}
    module = fast.program.as_module()
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        torch.testing.assert_close(module(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
    module(*inputs).square().sum().backward()
    assert dialect
    assert [name for name, p in parameters.items() if p.requires_grad and p.grad is None] == []
    # Dice's gate comes from the statistics of batches, which are not trained.
    stored = [name for name, held in module.named_buffers() if held.is_floating_point() and ".gate_" not in name]
    assert not stored, f"weights that are not trained: {stored}"


def test_pruned_parameters_keep_their_names_and_the_program_its_values() -> None:
    model, inputs = small(bottom=(16,), top=(16, 16))
    program, _ = pruned_dlrm()
    module = program.as_module()
    assert set(dict(module.named_parameters())) == set(dict(model.named_parameters()))
    before = [t.clone() for t in program.state().values()]
    finetune(module, DataLoader(rows(inputs), 32), settings=QUICK)
    for held, old in zip(program.state().values(), before, strict=True):
        assert torch.equal(held, old)
    assert any(not torch.equal(p, q) for p, q in zip(module.program.state().values(), before, strict=True))


def test_training_lowers_the_loss_and_the_result_is_compiled() -> None:
    program, inputs = pruned_dlrm()
    tuned = finetune(program, DataLoader(rows(inputs), 32, shuffle=True), settings=QUICK)
    assert isinstance(tuned, FineTuned)
    assert tuned.report.losses[1] < tuned.report.losses[0]
    fast = recfx.optimize(tuned.module, example_inputs=inputs, measure=False)
    torch.testing.assert_close(fast(*inputs), torch.as_tensor(tuned.program(*inputs)), rtol=1e-4, atol=1e-5)
    for batch in (1, 5):
        part = tuple(tensor[:batch] for tensor in inputs)
        torch.testing.assert_close(fast(*part), torch.as_tensor(tuned.program(*part)), rtol=1e-4, atol=1e-5)


def test_a_plain_loop_gives_what_finetune_gives() -> None:
    program, inputs = pruned_dlrm()
    batches = DataLoader(rows(inputs), 32)
    settings = TrainSettings(epochs=1, lr=1e-2, l2=0.0, progress=False, deterministic=False)
    tuned = finetune(program, batches, settings=settings)
    module = program.as_module()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2, fused=True)
    for dense, sparse, label in batches:
        loss = nn.functional.binary_cross_entropy_with_logits(module(dense, sparse), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for (name, ours), theirs in zip(tuned.module.named_parameters(), module.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_compiled_model_is_trained_by_its_program() -> None:
    model, inputs = small()
    fast = recfx.optimize(model, example_inputs=inputs, measure=False)
    tuned = finetune(fast, DataLoader(rows(inputs), 32), settings=QUICK)
    again = recfx.optimize(tuned.module, example_inputs=inputs, measure=False)
    torch.testing.assert_close(again(*inputs), tuned.module(*inputs).detach(), rtol=1e-4, atol=1e-5)
    assert not torch.equal(again(*inputs), fast(*inputs))


def test_a_module_is_trained_in_place_and_has_no_program() -> None:
    model, inputs = small()
    before = copy.deepcopy(model.state_dict())
    tuned = finetune(model, DataLoader(rows(inputs), 32), settings=QUICK)
    assert tuned.module is model
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training
    with pytest.raises(InputError, match=r"plain module"):
        _ = tuned.program


def test_frozen_and_tied_parameters_stay_so() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)
            self.second.weight = self.first.weight
            self.last.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.second(torch.relu(self.first(x)))))

    model = Tied().eval()
    bias = model.last.bias.clone()
    data = [(torch.randn(8, 3), torch.rand(8, 1)) for _ in range(3)]
    module = finetune(capture(model, data[0][:1]), data, "mse", settings=QUICK).module
    held = module.state_dict()
    assert torch.equal(held["first.weight"], held["second.weight"])
    assert not torch.equal(held["first.weight"], model.first.weight)
    assert torch.equal(held["last.bias"], bias)


@pytest.mark.parametrize("at", [2, 5])
@pytest.mark.parametrize("kind", ["DataLoader", "Batches", "DataLoader with a generator", "list"])
def test_an_interrupted_run_continues_bit_for_bit(kind: str, at: int, tmp_path: Path) -> None:
    program, inputs = pruned_dlrm()
    data = rows(inputs)

    def loader() -> Any:
        if kind == "Batches":
            return tensor_batches(*data.tensors, batch_size=32)
        if kind == "list":
            return list(DataLoader(data, 32))
        own = torch.Generator().manual_seed(9) if "generator" in kind else None
        return DataLoader(data, 32, shuffle=True, generator=own)

    whole = finetune(program, loader(), settings=QUICK)
    often = TrainSettings(**{**vars(QUICK), "checkpoint_seconds": 0.0})
    stopped = loader()
    stops = Stops(stopped, at)
    stops.generator = getattr(stopped, "generator", None)  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        finetune(program, stops, settings=often, folder=tmp_path)
    torch.randn(7)  # other draws in between do not matter
    resumed = finetune(program, loader(), settings=often, folder=tmp_path)
    assert resumed.report.losses == whole.report.losses
    for (name, ours), theirs in zip(resumed.module.named_parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    program, inputs = pruned_dlrm()
    often = TrainSettings(**{**vars(QUICK), "checkpoint_seconds": 0.0})
    with pytest.raises(KeyboardInterrupt):
        finetune(program, Stops(list(DataLoader(rows(inputs), 32)), 2), settings=often, folder=tmp_path)
    with pytest.raises(ArtifactError, match=r"batch was"):
        finetune(program, list(DataLoader(rows(inputs), 32))[::-1], settings=often, folder=tmp_path)


def test_the_same_seed_gives_the_same_run_and_the_global_generator_is_left_alone() -> None:
    program, inputs = pruned_dlrm()
    loader = DataLoader(rows(inputs), 32, shuffle=True)
    state = torch.get_rng_state()
    first = finetune(program, loader, epochs=1, lr=1e-2, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(11)
    second = finetune(program, loader, epochs=1, lr=1e-2, seed=4)
    other = finetune(program, loader, epochs=1, lr=1e-2, seed=5)
    assert first.report.losses == second.report.losses
    assert first.report.losses != other.report.losses


def test_the_best_evaluated_state_is_kept() -> None:
    program, inputs = pruned_dlrm()
    scores = iter([2.0, 1.0])
    held: list[Tensor] = []

    def judge(module: nn.Module) -> float:
        assert not module.training
        held.append(next(module.parameters()).detach().clone())
        return next(scores)

    tuned = finetune(program, DataLoader(rows(inputs), 32), settings=QUICK, evaluate=judge)
    assert tuned.report.best == 0
    assert torch.equal(next(tuned.module.parameters()), held[0])


@pytest.mark.parametrize("form", ["pair", "dict as keywords", "dict of all"])
def test_batches_of_other_forms(form: str) -> None:
    program, inputs = pruned_dlrm()
    dense, sparse, label = rows(inputs, 32).tensors
    names = program.signature.parameters
    given: dict[str, Any] = {
        "pair": ((dense, sparse), label),
        "dict as keywords": (dict(zip(names, (dense, sparse), strict=True)), label),
        "dict of all": {**dict(zip(names, (dense, sparse), strict=True)), "click": label},
    }
    plain = finetune(program, [(dense, sparse, label)], settings=QUICK)
    tuned = finetune(program, [given[form]], settings=QUICK, labels="click")
    assert tuned.report.losses == plain.report.losses


def refusals() -> dict[str, tuple[dict[str, Any], str]]:
    program, inputs = pruned_dlrm()
    dense, sparse, label = rows(inputs, 32).tensors
    good = [(dense, sparse, label)]
    return {
        "no batches": ({"loader": []}, r"the loader has no batches"),
        "no loader": ({"loader": dense}, r"iterable of batches, got Tensor"),
        "an iterator": ({"loader": iter(good)}, r"iterated only once"),
        "no labels": ({"loader": [(dense,)]}, r"inputs and labels, got 1 element"),
        "not a batch": ({"loader": [dense]}, r"inputs and labels, got Tensor"),
        "a dict without the key": ({"loader": [{"dense": dense}], "labels": "y"}, r"'y' does not name the labels"),
        "labels of wrong rows": ({"loader": [(dense, sparse, label[:5])]}, r"outputs \[32\] for labels \[5\]"),
        "labels of wrong rank": ({"loader": [(dense, sparse, label[:, None].expand(-1, 2))]}, r"labels \[32, 2\]"),
        "labels beyond 1": ({"loader": [(dense, sparse, label * 3)]}, r"labels of a cross-entropy are from 0 to 1"),
        "labels with NaN": ({"loader": [(dense, sparse, label * torch.nan)]}, r"labels have NaN"),
        "inputs with NaN": ({"loader": [(dense * torch.nan, sparse, label)]}, r"(?s)loss is nan.*batch has NaN"),
        "inputs that do not fit": ({"loader": [(dense[:, :2], sparse, label)]}, r"dense"),
        "an unknown loss": ({"loss": "hinge"}, r"loss 'hinge' is unknown"),
        "probabilities of logits": ({"loss": "bce-probabilities"}, r"not probabilities"),
        "a loss of rows": ({"loss": lambda y, t: (y - t).square()}, r"one floating-point number"),
        "a loss without gradient": (
            {"loss": lambda y, t: (y - t).detach().mean()},
            r"does not depend on any parameter",
        ),
        "a rate too high": ({"loss": lambda y, t: (y - t).square().mean() * 1e38, "lr": 1e30, "epochs": 9}, r"lower"),
        "no epochs": ({"epochs": 0}, r"epochs"),
        "a share of 0": ({"teacher": program, "teacher_share": 0.0}, r"teacher_share must be above 0"),
        "no teacher": ({"teacher": 3}, r"a teacher is a program or a module, got int"),
        "a teacher in training": ({"teacher": nn.Linear(1, 1)}, r"teacher is in training mode"),
        "a teacher of pairs": ({"teacher": lambda *inputs: inputs}, r"one tensor of finite numbers.*got tuple"),
        "not a model": ({"model": 3}, r"expected a program or a module, got int"),
    }


@pytest.mark.parametrize("case", refusals())
def test_bad_input_is_refused(case: str) -> None:
    program, inputs = pruned_dlrm()
    changed, message = refusals()[case]
    arguments: dict[str, Any] = {"model": program, "loader": [rows(inputs, 32)[:]], **changed}
    with pytest.raises(RecfxError, match=message) as caught:
        finetune(arguments.pop("model"), arguments.pop("loader"), **arguments)
    assert caught.value.hint


def test_a_model_without_trainable_parameters_is_refused() -> None:
    program, inputs = pruned_dlrm()
    module = program.as_module().requires_grad_(False)
    with pytest.raises(InputError, match=r"no parameters that require gradients"):
        finetune(module, [rows(inputs, 32)[:]])


def test_parameters_without_a_gradient_are_named() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.first(x), self.second(x)

    x = torch.randn(4, 3)
    program = capture(Two().eval(), (x,))
    with pytest.warns(UserWarning, match=r"2 parameter\(s\) got no gradient and stay as they are: second"):
        finetune(program, [(x, x[:, 0])], lambda outputs, y: (outputs[0].squeeze(1) - y).square().mean())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune(
            program, [(x, x[:, 0])], lambda outputs, y: (outputs[0] + outputs[1]).squeeze(1).sub(y).square().mean()
        )


def test_the_loss_of_logits_for_a_model_of_probabilities_is_warned_of() -> None:
    model, batch = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()).eval(), (torch.randn(40, 3), torch.rand(40, 1).round())
    with pytest.warns(UserWarning, match="like probabilities.*bce-probabilities") as found:
        finetune(model, [batch, batch])
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune(model, [batch], "bce-probabilities")
        finetune(nn.Linear(3, 1), [batch])
