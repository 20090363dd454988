"""Drawn inputs for programs without an example: they fit the signature, their ids lie inside the tables, and the model runs on them."""

from __future__ import annotations

import dataclasses

import bag_models
import pytest
import torch
from bag_models import Offsets
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import recfx
from recfx.capture.capture import capture
from recfx.ir.shapes import BATCH
from recfx.ir.synthetic import with_synthetic_example
from recfx.zoo import model_class


def forgotten(model, inputs):
    """The captured program of a model without its example."""
    return dataclasses.replace(capture(model.eval(), inputs), example=())


@pytest.mark.parametrize("name", ["deepfm", "din", "dlrm", "two-tower", "sasrec"])
def test_a_model_of_the_zoo_runs_on_drawn_inputs(name):
    model = model_class(name).small().eval()
    program = with_synthetic_example(forgotten(model, model.example_inputs(4)), rows=9)
    assert program.signature.check(program.example)[BATCH] == 9
    (output, *_) = program.run(program.example)
    assert output.shape[0] == 9
    assert bool(output.isfinite().all())


class TwoTables(nn.Module):
    """A column of ids for a table of three rows, a shifted column for one of seven, and a column that no table reads."""

    def __init__(self):
        super().__init__()
        self.small = nn.Embedding(3, 2)
        self.large = nn.Embedding(7, 2)

    def forward(self, ids, dense):
        return self.small(ids[:, 0]) + self.large(ids[:, 1] + 2) + ids[:, 2:] + dense


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 50))
def test_ids_lie_inside_their_tables(seed, rows):
    program = with_synthetic_example(PROGRAM, rows, seed)
    ids, dense = program.example
    assert ids.shape == (rows, 3)
    assert int(ids[:, 0].min()) >= 0
    assert int(ids[:, 0].max()) <= 2
    assert int(ids[:, 1].min()) >= -2
    assert int(ids[:, 1].max()) <= 4
    assert not ids[:, 2].any()
    assert bool(((dense >= 0) & (dense < 1)).all())
    program.run(program.example)


PROGRAM = forgotten(TwoTables(), (torch.ones(4, 3, dtype=torch.int64), torch.rand(4, 2)))


def test_every_id_of_a_table_can_be_drawn():
    ids = with_synthetic_example(PROGRAM, 500).example[0]
    assert set(ids[:, 0].tolist()) == {0, 1, 2}
    assert set(ids[:, 1].tolist()) == set(range(-2, 5))


def test_bags_hold_one_id_each():
    rng = bag_models.generator(0)
    lengths = torch.tensor([2, 0, 3, 1])
    inputs = (torch.rand(4, 3), bag_models.draw_ids(6, rng), bag_models.starts(lengths))
    program = with_synthetic_example(forgotten(Offsets(mode="sum"), inputs), rows=5)
    dense, ids, offsets = program.example[:3]
    assert len(dense) == len(ids) == 5
    assert offsets.tolist() == [0, 1, 2, 3, 4]
    assert program.run(program.example)[0].shape == (5, 2)


def test_an_example_is_kept():
    model = TwoTables()
    program = capture(model.eval(), (torch.zeros(4, 3, dtype=torch.int64), torch.rand(4, 2)))
    assert with_synthetic_example(program) is program


def test_a_loaded_model_has_a_profile(tmp_path):
    model = model_class("deepfm").small().eval()
    fast = recfx.optimize(model, target="native", example_inputs=model.example_inputs(4), measure=False)
    fast.save(tmp_path / "model.recfx")
    points = recfx.load(tmp_path / "model.recfx").profile([1, 4], [1], cache=tmp_path).points
    assert [point.rows for point in points] == [1, 4]
    assert all(point.seconds > 0 for point in points)


@pytest.mark.parametrize("form", bag_models.FORMS)
def test_every_form_of_bags_is_drawn(form):
    make, inputs = bag_models.FORMS[form]
    torch.manual_seed(0)
    model, rng = make().eval(), bag_models.generator(1)
    program = capture(model, inputs(bag_models.lengths_of(4, 3, rng), rng))
    drawn = with_synthetic_example(dataclasses.replace(program, example=()), rows=6)
    assert drawn.signature.check(drawn.example)[BATCH] == 6
    assert all(bags.are_valid(drawn.example) for bags in drawn.bags)
    args, kwargs = drawn.signature.unpacked(drawn.example)
    torch.testing.assert_close(drawn.run(drawn.example)[0], model(*args, **kwargs))
