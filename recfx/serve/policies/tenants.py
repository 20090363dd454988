"""Limits per tenant: token buckets over rows, so that one tenant's load does not take another's capacity."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from recfx.serve.policies._checks import check_count, check_number, refuse


@dataclass(frozen=True)
class TenantLimit:
    """The limit of one tenant.

    Attributes:
        rows_per_second: Rows that it may send for a long time.
        burst_rows: Rows that it may send at once after a pause.
    """

    rows_per_second: float
    burst_rows: float

    def __post_init__(self) -> None:
        check_number("rows_per_second", self.rows_per_second, 0.0, above=True)
        check_number("burst_rows", self.burst_rows, 1.0)


@dataclass(frozen=True)
class TenantConfig:
    """The limits of all tenants.

    Attributes:
        default: The limit of a tenant without one of its own; None if it has no limit.
        own: Tenant -> its limit.
        most_tenants: Buckets that are kept at most. Full buckets are forgotten first, which changes nothing for their tenants; if all
            are in use, new tenants share one bucket.
    """

    default: TenantLimit | None = None
    own: Mapping[Hashable, TenantLimit] = field(default_factory=dict)
    most_tenants: int = 10_000

    def __post_init__(self) -> None:
        check_count("most_tenants", self.most_tenants)
        if self.default is None and not self.own:
            raise refuse("no tenant has a limit", "pass default= or own=, or use no tenant limits")


class _Bucket:
    """Tokens of one tenant: they grow with time up to the burst."""

    __slots__ = ("limit", "since", "tokens")

    def __init__(self, limit: TenantLimit, now: float) -> None:
        self.limit, self.tokens, self.since = limit, limit.burst_rows, now

    def fill(self, now: float) -> float:
        """The tokens at a time; a clock that jumps back adds none."""
        if now > self.since:
            limit = self.limit
            self.tokens = min(self.tokens + (now - self.since) * limit.rows_per_second, limit.burst_rows)
            self.since = now
        return self.tokens


#: The bucket of tenants that arrive when there is no room for one more.
_SHARED = object()


class TenantLimits:
    """Admits rows of tenants."""

    def __init__(self, config: TenantConfig) -> None:
        self.config = config
        self._buckets: dict[Hashable, _Bucket] = {}

    def admit(self, tenant: Hashable, rows: int, now: float) -> float:
        """Takes the rows of a request from its tenant's bucket.

        A request of more rows than the burst is admitted when the bucket is full, and the bucket then owes the difference.

        Returns:
            0 if the request is admitted; otherwise the seconds after which it would be, and nothing was taken.
        """
        bucket = self._bucket(tenant, now)
        if bucket is None:
            return 0.0
        tokens, needed = bucket.fill(now), min(float(rows), bucket.limit.burst_rows)
        if tokens >= needed:
            bucket.tokens = tokens - rows
            return 0.0
        return (needed - tokens) / bucket.limit.rows_per_second

    def _bucket(self, tenant: Hashable, now: float) -> _Bucket | None:
        held = self._buckets.get(tenant)
        if held is not None:
            return held
        limit = self.config.own.get(tenant, self.config.default)
        if limit is None:
            return None
        if len(self._buckets) >= self.config.most_tenants and not self._forget_full(now):
            return self._buckets.setdefault(_SHARED, _Bucket(limit, now))
        made = self._buckets[tenant] = _Bucket(limit, now)
        return made

    def _forget_full(self, now: float) -> bool:
        """Forgets the buckets that are full; whether there were any."""
        full = [name for name, bucket in self._buckets.items() if bucket.fill(now) >= bucket.limit.burst_rows]
        for name in full:
            del self._buckets[name]
        return bool(full)
