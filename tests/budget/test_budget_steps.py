"""Steps: their order, the forms of groups, and the pipeline of a composition."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.budget.steps import FORMS, NARROW, Group, Kind, Plan, Step, in_order, quantising, setting_of
from recfx.passes import FUSED, default_stages
from recfx.pipeline import Pipeline

WIDE = [Group(name, "table", FORMS["table"][:2]) for name in ("a", "b", "c")]
SHORT = Group("d", "table", NARROW)
LAYERS = [Group(name, "layer", FORMS["layer"]) for name in ("e", "f", "g", "h")]
CHANNELS = [Group(name, "channels", FORMS["channels"]) for name in ("e:0", "f:0")]
ALL = [*WIDE, SHORT, *LAYERS, *CHANNELS]
PLAN = Plan(default_stages(requests=False, kernels=FUSED), ())


def texts(groups: list[Group], setting: dict[Group, str]) -> str:
    return ",".join(
        map(str, [*PLAN.pruning(groups, setting), *PLAN.factors(groups, setting), *quantising(groups, setting)])
    )


def test_each_pass_keeps_what_others_take() -> None:
    setting = {
        WIDE[0]: "4 bits",
        WIDE[1]: "8 bits",
        SHORT: "16 bits",
        LAYERS[0]: "16 bits",
        LAYERS[2]: "8 bits, rank of 25 %",
        CHANNELS[1]: "50 % fewer channels",
    }
    assert texts(ALL, setting) == (
        "prune-channels{importance=taylor, keep_means=True, keep=('e:0',)},"
        "factorize-linears{ratio=0.75, importance=activation, only=('g',)},"
        "quantize-tables{bits=4, refine=True, keep=('b', 'c')},quantize-tables{keep=('c',)},quantize-tables{bits=16, keep=('c',)},"
        "quantize-linears{keep=('e', 'f', 'h')},quantize-linears{bits=16, keep=('f', 'h')}"
    )
    assert texts(ALL, {}) == ""


def test_calibrated_int8_layers() -> None:
    plan, setting = dataclasses.replace(PLAN, calibrated=True), {LAYERS[0]: "16 bits", LAYERS[1]: "8 bits"}
    assert ",".join(map(str, plan.quantising(ALL, setting))) == (
        "quantize-linears{migrate=True, correct_bias=True, keep=('e', 'g', 'h')},quantize-linears{bits=16, keep=('g', 'h')}"
    )


@st.composite
def settings_of_groups(draw: st.DrawFn) -> dict[Group, str]:
    return {group: draw(st.sampled_from(group.forms)) for group in ALL if draw(st.booleans())}


@given(settings_of_groups())
@settings(deadline=None, max_examples=40)
def test_pipelines_are_text(setting: dict[Group, str]) -> None:
    pipeline = PLAN.pipeline(ALL, setting)
    assert Pipeline(str(pipeline)) == pipeline
    names = [item.spec.name for item in pipeline]
    if "prune-channels" in names:
        assert names.index("remove-dead-channels") < names.index("prune-channels") < names.index("fuse-mlp")


def test_the_passes_of_the_user_keep_their_places() -> None:
    plan = Plan(PLAN.stages, {"after:clean": "fold-constants", "before:mlp": "merge-duplicates"})
    names = [item.spec.name for item in plan.pipeline([], {})]
    assert names.count("fold-constants") == names.count("merge-duplicates") == 2
    before = [item.spec.name for item in plan.before_pruning()]
    assert before == names[: len(before)]
    assert before[-1] == "remove-dead-channels"


def steps_of(group: Group, *harms: float) -> list[Step]:
    return [Step(group, form, harm, 0.1) for form, harm in zip(group.forms, harms, strict=True)]


def test_the_most_harmful_step_comes_first_and_none_before_a_step_that_builds_on_it() -> None:
    steps = [*steps_of(WIDE[0], 5.0, 0.0), *steps_of(SHORT, 3.0), *steps_of(WIDE[1], 1.0, 4.0)]
    assert in_order(steps) == [1, 0, 4, 2, 3]


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(1e-3, 1)), min_size=3, max_size=3), st.data())
@settings(deadline=None)
def test_a_prefix_of_the_order_is_closed(harms: list[tuple[float, float, float]], data: st.DataObject) -> None:
    steps = [
        Step(group, form, harm, row[2])
        for group, row in zip(WIDE, harms, strict=True)
        for form, harm in zip(group.forms, row[:2], strict=True)
    ]
    order = in_order(steps)
    assert sorted(order) == list(range(len(steps)))
    reverted = order[: data.draw(st.integers(0, len(order)))]
    setting = setting_of(steps, [steps[number] for number in reverted])
    kept = {(step.group, step.form) for number, step in enumerate(steps) if number not in reverted}
    applied = {(group, form) for group, last in setting.items() for form in group.forms[: group.forms.index(last) + 1]}
    assert applied == kept


def test_taking_back_a_step_takes_back_those_that_build_on_it() -> None:
    steps = steps_of(WIDE[0], 1.0, 1.0)
    assert setting_of(steps, []) == {WIDE[0]: "4 bits"}
    assert setting_of(steps, steps[1:]) == {WIDE[0]: "8 bits"}
    assert setting_of(steps, steps[:1]) == {}


def test_every_kind_has_forms() -> None:
    assert set(FORMS) == set(Kind.__args__)  # type: ignore[attr-defined]
