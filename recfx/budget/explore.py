"""`explored`: builds, measures and saves compressed forms of one model, from small harm to large, and keeps those that were finished."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

from recfx.budget.compositions import Compositions
from recfx.budget.front import FILE, PICTURE, Front, Point, marked
from recfx.budget.judge import Judge
from recfx.budget.steps import Setting
from recfx.compiled import CompiledModel
from recfx.driver.parts import Parts
from recfx.errors import ArtifactError, TargetError
from recfx.progress import progress

#: The total harms of the forms, from and to, as multiples of the largest drop: the error of a drop grows with the root of the harm.
_FROM, _TO = 1e-3, 4.0


def require_folder(folder: Path) -> None:
    """Checks that a front can be written to a folder, and makes it.

    Raises:
        ArtifactError: It holds something else, or cannot be made.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / FILE).is_file() or not any(folder.iterdir()))):
        raise ArtifactError(
            "the folder holds something else than a front", where=str(folder), hint="choose a new folder"
        )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"the folder cannot be made: {error.strerror}", where=str(folder), hint="choose one that you may write to"
        ) from error


def explored(name: str, preferences: list[Compositions], judge: Judge, folder: Path, count: int) -> Front:
    """Builds the forms and returns the front. It is written after each form, so that an interruption keeps what there is.

    Args:
        name: The name of the model.
        preferences: The compositions, one for each preference; ranked.
        judge: It has measured the user's model.
        folder: See `require_folder`.
        count: The most forms.
    """
    first = preferences[0]
    measure = judge.measure
    front = Front(
        model=name,
        metric=measure.name,
        before=judge.reference(),
        bytes=0,
        confidence=judge.budget.confidence,
        rows=None if measure.rows is None else measure.rows[1],
        data=measure.data(),
        points=(),
        notices=(*judge.notices, *first.notices),
        folder=str(folder),
    )
    try:
        settings = _settings(preferences, judge.budget.max_drop, count)
        with progress(f"compressing {name} in {len(settings)} forms", len(settings)) as advance:
            for number, setting in enumerate(settings):
                parts = first.built(setting)
                point = _point(f"form-{number:02d}", parts, judge, setting, first.harm(setting))
                CompiledModel(parts).save(folder / point.name)
                front = dataclasses.replace(
                    front, points=marked([*front.points, point]), bytes=parts.report.state_bytes[0]
                )
                _write(front, folder)
                advance(1)
    except KeyboardInterrupt:
        said = f"interrupted after {len(front.points)} form(s)"
        front = dataclasses.replace(front, notices=(*front.notices, said))
    front = _drawn(front)
    _write(front, folder)
    return front


def _settings(preferences: list[Compositions], max_drop: float, count: int) -> list[Setting]:
    """Different compositions, the least harmful first, without any step at first."""
    found: list[Setting] = [{}]
    for setting in _candidates(preferences, max_drop, count):
        if setting not in found and len(found) < count:
            found.append(setting)
    return found


def _candidates(preferences: list[Compositions], max_drop: float, count: int) -> Iterator[Setting]:
    levels = max(-(-(count - 1) // len(preferences)), 1)
    for level in range(levels):
        share = level / max(levels - 1, 1)
        harm = max_drop * _FROM * math.exp(share * math.log(_TO / _FROM))
        for compositions in preferences:
            yield compositions.setting(compositions.reverted(compositions.choice(harm)))


def _point(name: str, parts: Parts, judge: Judge, setting: Setting, harm: float) -> Point:
    _, after, drop = judge.certify(CompiledModel(parts))
    report = parts.report
    return Point(
        name=name,
        choices={group.name: form for group, form in setting.items()},
        pipeline=",".join(item.text for item in report.passes),
        value=after,
        drop=drop.estimate,
        interval=drop.interval,
        bytes=report.state_bytes[1],
        times=report.measured,
        harm=harm,
    )


def _drawn(front: Front) -> Front:
    """The front, after its picture is drawn; without matplotlib a notice says so."""
    try:
        front.plot()
    except TargetError as error:
        return dataclasses.replace(front, notices=(*front.notices, f"no {PICTURE}: {error.what}; {error.hint}"))
    return front


def _write(front: Front, folder: Path) -> None:
    (folder / FILE).write_text(front.to_json(), encoding="utf-8")
