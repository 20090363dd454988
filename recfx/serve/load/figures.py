"""Figures of a load, and the largest rate of requests within a limit of time."""

from __future__ import annotations

import collections
from collections.abc import Callable

from recfx.serve.load.run import Load
from recfx.serve.policies.tuning import RateSearch, RateSearchConfig

QUANTILES = (0.5, 0.95, 0.99, 0.999)


def described(load: Load, offered: float | None = None) -> list[tuple[str, str]]:
    """The figures of a load, as names and texts.

    Args:
        load: The load.
        offered: Requests per second that were asked for; None for those that were sent.
    """
    span = float(load.due[-1] - load.due[0]) if len(load.due) > 1 else 0.0
    sent, rate = (count / span if span else 0.0 for count in (len(load.due), float(load.answered.sum())))
    offered = sent if offered is None else offered
    found = [("requests per second", f"{offered:.0f} offered, {rate:.0f} answered")]
    found += [(f"p{share * 100:g}", f"{load.quantile(share) * 1e3:.2f} ms") for share in QUANTILES]
    counts = collections.Counter(load.status.tolist())
    names = {
        0: "connection failed",
        200: "answered",
        413: "too large",
        429: "overloaded",
        503: "closing",
        504: "too late",
    }
    texts = [f"{count} {names.get(status, f'status {status}')}" for status, count in sorted(counts.items())]
    found.append(("answers", ", ".join(texts) or "none"))
    found.append(("generator late, p99", f"{load.lateness * 1e3:.2f} ms"))
    return found


def tail(load: Load, share: float = 0.99, most_lost: float = 0.0) -> float:
    """The tail of a load in seconds; infinity if more than a share of the requests has no answer."""
    lost = 1.0 - float(load.answered.mean()) if len(load.due) else 1.0
    return float("inf") if lost > most_lost else load.quantile(share)


def largest_rate(
    trial: Callable[[float], Load],
    sla: float,
    *,
    first: float = 50.0,
    share: float = 0.99,
    told: Callable[[float, float], None] = lambda rate, seconds: None,
) -> float:
    """The largest rate at which a quantile of the times stays within a limit and every request is answered.

    Args:
        trial: Rate in requests per second -> the load of a trial.
        sla: The limit in seconds.
        first: The rate of the first trial.
        share: The quantile.
        told: Called with the rate and the quantile of each trial.
    """
    search = RateSearch(RateSearchConfig(sla, first_rate=first, most_trials=14))
    while (rate := search.ask()) is not None:
        seconds = tail(trial(rate), share)
        told(rate, seconds)
        search.tell(seconds)
    return search.rate
