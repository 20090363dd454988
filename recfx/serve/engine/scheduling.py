"""`Scheduling`: the policies of one engine, with the variants that they choose from. All methods are called under the engine's lock."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence

from recfx.errors import InputError
from recfx.serve.engine.batch import Batch
from recfx.serve.engine.call import Call
from recfx.serve.engine.hand_over import hand_over_seconds
from recfx.serve.engine.interface import ModelInterface
from recfx.serve.engine.requests import Request, RequestQueue
from recfx.serve.engine.served import difference
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.engine.variants import Variant
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.policies.admission import Admission, AdmissionConfig
from recfx.serve.policies.batching import BatchDecision, DeadlineBatching, DeadlineConfig
from recfx.serve.policies.ladder import Rung, VariantLadder
from recfx.serve.policies.load import BusyMeter, LoadMeter
from recfx.serve.policies.splitting import CandidateSplit, SplitConfig
from recfx.serve.policies.tenants import TenantConfig, TenantLimits

_log = logging.getLogger("recfx.serve")

#: The variant is chosen again after this time.
_LADDER_SECONDS = 0.1


#: A shared call is as large as it takes to compute this share of the most rows per second. Larger ones would make requests wait for each
#: other while other workers are free.
_EFFICIENT = 0.9

#: Calls that take so many times as long as measured read cold tables, or else cannot be predicted.
_SLOW = 8.0

#: A part of a divided call has so many rows at least.
_LEAST_PART = 16


class Scheduling:
    """The policies of one engine.

    Args:
        name: The name of the model.
        variants: Its compiled forms, the best first.
        settings: Limits and threads.
        tenants: Limits per tenant; None for no limits.
        now: The present time.

    Raises:
        InputError: The variants take or return different tensors, or do not stand in the order of their speed.
    """

    def __init__(
        self, name: str, variants: Sequence[Variant], settings: EngineSettings, tenants: TenantConfig | None, now: float
    ) -> None:
        self._name = name
        self._settings = settings
        self._load = LoadMeter(now=now)
        self.busy = BusyMeter(settings.workers, now=now)
        self._limits = TenantLimits(tenants) if tenants is not None else None
        self.install(variants)

    def install(self, variants: Sequence[Variant]) -> None:
        """Takes variants into use.

        Raises:
            InputError: See the class.
        """
        settings, first = self._settings, variants[0]
        ladder = self._ladder_of(variants)
        limit = first.interface.most_rows
        rows = settings.batch_rows if limit is None else min(settings.batch_rows, limit)
        rows = first.times.efficient_rows(rows, _EFFICIENT)
        self.variants, self._ladder, self._ladder_asked, self._active = tuple(variants), ladder, -math.inf, 0
        batching = DeadlineConfig(most_rows=rows, most_wait=settings.most_wait, grace=settings.grace)
        self._batching = DeadlineBatching(first.times, batching)
        config = AdmissionConfig(most_waiting=settings.most_queued, most_rows=rows)
        self._admission = Admission(first.times, settings.workers, config)
        self._use(first)

    def _use(self, variant: Variant) -> None:
        """Gives the times of a variant to the policies."""
        self._split = self._split_of(variant)
        self._batching.times = self._admission.times = variant.times
        self._batching.split = self._admission.split = self._split

    def _split_of(self, variant: Variant) -> CandidateSplit | None:
        """How calls of a variant are divided over workers; None if they are not."""
        settings, interface = self._settings, variant.interface
        if not settings.split or settings.workers == 1 or interface.divisible is not None:
            return None
        assert isinstance(interface, ModelInterface)
        config = SplitConfig(
            settings.workers,
            request_seconds=variant.request_seconds,
            part_seconds=hand_over_seconds(),
            least_rows=max(_LEAST_PART, interface.least_part),
        )
        return CandidateSplit(variant.times.without(variant.request_seconds), config)

    def _ladder_of(self, variants: Sequence[Variant]) -> VariantLadder | None:
        for other in variants[1:]:
            if unlike := difference(variants[0].interface, other.interface):
                raise InputError(
                    f"variants of a model have to take and return the same tensors: {unlike}",
                    where=f"model {self._name}, variant {other.name}",
                    hint="save the variants from one model with the same example inputs",
                )
        if len(variants) == 1:
            return None
        most = self._settings.batch_rows
        try:
            return VariantLadder([Rung(v.name, v.times.rate(v.times.best_rows(most)), v.quality) for v in variants])
        except ValueError as error:
            raise InputError(
                f"the variants cannot form a ladder: {error}",
                where=f"model {self._name}",
                hint="give the variants from the best to the quickest, with their metrics",
            ) from error

    @property
    def variant(self) -> Variant:
        """The variant that calls use at present."""
        return self.variants[self._active]

    def offered(self, now: float) -> float:
        """Rows that arrive in a second, those of rejected requests included."""
        return self._load.rows_per_second(now)

    def capacity(self) -> float:
        """Rows per second of all workers with the present variant, by its measured times and their correction."""
        times = self.variant.times
        rate = times.rate(times.best_rows(self._settings.batch_rows))
        return self._settings.workers * rate / self._batching.correction.factor

    def refusal(
        self, request: Request, queue: RequestQueue, first_free: float, now: float, idle: int
    ) -> Rejected | None:
        """Why a request is not admitted; None if it is.

        Args:
            request: The request.
            queue: The requests that wait.
            first_free: When the first worker is expected to be free.
            now: The present time.
            idle: Workers that wait.
        """
        where = f"model {self._name}"
        self._load.record(request.rows, now)
        if self._limits is not None and (wait := self._limits.admit(request.tenant, request.rows, now)):
            who = f"the tenant {request.tenant!r}" if request.tenant else "requests without a tenant"
            what = f"the rows of {who} for this second are used up"
            return Rejected(Reason.OVERLOADED, what, where=where, hint=f"send the request again in {wait:.3g} s")
        verdict = self._admission.decide(
            request.rows, request.deadline, len(queue), queue.rows, first_free, now, max(idle, 1)
        )
        if verdict.admitted:
            return None
        if verdict.reason == "queue":
            return Rejected(Reason.OVERLOADED, f"{len(queue)} requests wait already", where=where)
        return Rejected(
            Reason.TOO_LATE,
            f"the answer would take about {verdict.seconds:.3g} s, and the request allows {request.deadline - now:.3g} s",
            where=where,
            hint="send it again when the load has fallen, or with a longer timeout",
        )

    def next_batch(self, queue: RequestQueue, now: float, idle: int) -> BatchDecision:
        """What a free worker does with the queue. Requests that cannot share a call are offered one at a time.

        Args:
            queue: The requests that wait.
            now: The present time.
            idle: The number of workers that are free, this one included.
        """
        self._choose_variant(queue, now)
        shared = self.variant.interface.joinable is None
        return self._batching.next_batch(queue if shared else queue.first(), now, idle)

    def call(self, batch: Batch, idle: int, waiting: int, now: float) -> Call:
        """The call of a batch, divided over idle workers if it then ends earlier at a cost that the load allows.

        Args:
            batch: The batch.
            idle: The number of workers that are free, the one that took the batch included.
            waiting: Requests that still wait.
            now: The present time.
        """
        factor, grace = self._batching.correction.factor, self._settings.grace
        if self._split is None or idle == 1 or batch.variant is not self.variant:
            return Call(batch, ((0, batch.rows),), now, batch.decision.predicted * factor, grace)
        budget = (batch.decision.deadline - now) / factor
        plan = self._split.plan(batch.rows, idle, self.busy.share(now), waiting=waiting, budget=budget)
        decision = batch.decision._replace(predicted=plan.seconds)
        return Call(dataclasses.replace(batch, decision=decision), plan.bounds, now, plan.seconds * factor, grace)

    def runs_here(self, request: Request) -> BatchDecision | None:
        """The decision to run a request in the thread that brings it, because that is quicker than to hand it over; else None.

        A user's own backend may hang, and then must not hold the thread that serves all others.
        """
        variant = self.variant
        seconds = variant.times.seconds(request.rows)
        slow = self._batching.correction.factor > _SLOW  # a machine under load also takes longer to hand a request over
        if slow or seconds > self._settings.here_seconds or not variant.interface.runs_on_own_kernels:
            return None
        return BatchDecision(1, rows=request.rows, predicted=seconds)

    def finished(self, batch: Batch, seconds: float) -> None:
        """Corrects predictions by the time of a batch of the present variant."""
        if batch.variant is self.variant:
            self._batching.finished(batch.decision, seconds)
            self._admission.correction.factor = self._batching.correction.factor

    def _choose_variant(self, queue: RequestQueue, now: float) -> None:
        """Asks the ladder, now and then, for the variant that the load needs."""
        if self._ladder is None or now - self._ladder_asked < _LADDER_SECONDS:
            return
        self._ladder_asked = now
        workers, slowdown = self._settings.workers, self._batching.correction.factor
        rate = self._load.rows_per_second(now)
        index = self._ladder.observe(rate, queue.rows, now, replicas=workers, slowdown=slowdown)
        if index != self._active:
            before, self._active = self.variant.name, index
            self._use(self.variant)
            _log.info("model %s: variant %s -> %s at %.0f rows/s", self._name, before, self.variant.name, rate)
