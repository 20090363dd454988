"""`publish`: makes a change of items and of the tables of several models visible in one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recfx.compiled import CompiledModel
from recfx.serve.recommender.changes import Change, TableRows
from recfx.serve.recommender.sides import Sides


def publish(
    change: Change,
    sides: Sides,
    models: Sequence[tuple[str, CompiledModel]],
    commit: Callable[[], None],
    visible: Callable[[], None],
) -> None:
    """Makes a change visible in one step, or not at all.

    The new values are first written where no request reads them: items into their passive side, rows of tables into those of each model.
    Then `commit` keeps the change, and all sides are exchanged while no request begins.

    Args:
        change: What `Catalogue.checked` gave.
        sides: The items.
        models: "query" and "ranking", with their models.
        commit: Called when everything is written; an error leaves everything as it was.
        visible: Called at the exchange.
    """
    swaps: list[Callable[[], None]] = []
    exchanged = False

    def exchange() -> None:
        nonlocal exchanged
        commit()
        with sides.gate:
            for swap in swaps:
                swap()
            sides.exchange(change)
            visible()
            exchanged = True

    def with_tables(rest: Sequence[tuple[CompiledModel, dict[str, TableRows]]]) -> None:
        """Writes rows of one model after the other; within the last, everything is exchanged."""
        if not rest:
            exchange()
            return
        (model, rows), *others = rest

        def within(swap: Callable[[], None]) -> None:
            swaps.append(swap)
            with_tables(others)

        model.update_tables(rows, exchange=within)

    try:
        sides.writable().apply(change)
        with_tables([(model, rows) for name, model in models if (rows := change.tables_of(name))])
    finally:
        if not exchanged:
            sides.discard()
