"""Metrics in the text format of Prometheus, made from the engines' statistics when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.utils import floatToGoString

from recfx.serve.engine.statistics import Histogram
from recfx.serve.models import Models

#: Metrics that count the same in each process; the smallest number says what all of them have.
_COMMON = frozenset({"recfx_model_version", "recfx_table_updates"})


class _Collector:
    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """All metrics of all models."""
        label = ["model"]
        answered = CounterMetricFamily("recfx_requests_answered", "Requests answered.", labels=label)
        late = CounterMetricFamily("recfx_requests_late", "Requests answered after their deadline.", labels=label)
        rejected = CounterMetricFamily(
            "recfx_requests_rejected", "Requests without an answer.", labels=["model", "reason"]
        )
        rows = CounterMetricFamily("recfx_rows", "Rows of answered requests.", labels=label)
        retried = CounterMetricFamily(
            "recfx_requests_retried", "Requests run again after their worker died.", labels=label
        )
        divided = CounterMetricFamily("recfx_batches_divided", "Calls divided over several workers.", labels=label)
        replaced = CounterMetricFamily("recfx_workers_replaced", "Workers replaced after an error.", labels=label)
        waiting = GaugeMetricFamily("recfx_requests_waiting", "Requests in the queue.", labels=label)
        running = GaugeMetricFamily("recfx_batches_running", "Calls of the model that run.", labels=label)
        version = GaugeMetricFamily(
            "recfx_model_version", "Version of the model; it rises at each reload.", labels=label
        )
        variant = GaugeMetricFamily(
            "recfx_variant_active", "Processes that use the variant.", labels=["model", "variant"]
        )
        updates = CounterMetricFamily("recfx_table_updates", "Updates of tables that calls see.", labels=label)
        table_rows = CounterMetricFamily("recfx_table_rows", "New rows that this process was sent.", labels=label)
        times = {
            "latency": HistogramMetricFamily("recfx_request_seconds", "Seconds from arrival to answer.", labels=label),
            "waiting": HistogramMetricFamily("recfx_wait_seconds", "Seconds in the queue.", labels=label),
            "computing": HistogramMetricFamily("recfx_batch_seconds", "Seconds of a call of the model.", labels=label),
            "batch_rows": HistogramMetricFamily("recfx_batch_rows", "Rows of a call of the model.", labels=label),
        }
        for engine in self._models:
            with engine.lock:
                held, name = engine.statistics, [engine.name]
                answered.add_metric(name, held.answered)
                late.add_metric(name, held.late)
                rows.add_metric(name, held.rows)
                retried.add_metric(name, held.retried)
                divided.add_metric(name, held.divided)
                replaced.add_metric(name, held.replaced_workers)
                updates.add_metric(name, held.table_updates)
                table_rows.add_metric(name, held.table_rows)
                waiting.add_metric(name, engine.waiting)
                running.add_metric(name, engine.running)
                version.add_metric(name, engine.version)
                for each in engine.variants:
                    variant.add_metric([engine.name, each.name], float(each is engine.variant))
                for reason, count in held.rejected.items():
                    rejected.add_metric([engine.name, reason.value], count)
                for which, family in times.items():
                    _add(family, name, getattr(held, which))
        yield from (
            answered,
            late,
            rejected,
            rows,
            retried,
            divided,
            replaced,
            updates,
            table_rows,
            waiting,
            running,
            version,
            variant,
            *times.values(),
        )


def _add(family: HistogramMetricFamily, labels: list[str], held: Histogram) -> None:
    bounds = [*map(floatToGoString, held.bounds), "+Inf"]
    family.add_metric(labels, list(zip(bounds, held.cumulative, strict=True)), held.sum)


def own_figures(models: Models) -> bytes:
    """The metrics of this process, for `exposition` in another one."""
    families = [
        {
            "name": family.name,
            "help": family.documentation,
            "type": family.type,
            "samples": [[sample.name, sample.labels, sample.value] for sample in family.samples],
        }
        for family in _Collector(models).collect()
    ]
    return orjson.dumps(families)


class _Merged:
    """The metrics of several processes: sums, and the smallest of what all of them count."""

    def __init__(self, processes: Sequence[bytes]) -> None:
        self._processes = [orjson.loads(text) for text in processes]

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        for place, first in enumerate(self._processes[0]):
            values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
            for families in self._processes:
                for name, labels, value in families[place]["samples"]:
                    key = name, tuple(labels.items())
                    least = first["name"] in _COMMON and key in values
                    values[key] = min(values[key], value) if least else values.get(key, 0.0) + value
            merged = Metric(first["name"], first["help"], first["type"])
            for (name, labels), value in values.items():
                merged.add_sample(name, dict(labels), value)
            yield merged


def exposition(models: Models, others: Sequence[bytes] = ()) -> tuple[bytes, bytes]:
    """The metrics of all models as text, and its content type.

    Args:
        models: The models of this process.
        others: What `own_figures` returned in the processes that share its port.
    """
    registry = CollectorRegistry()
    registry.register(_Merged([own_figures(models), *others]) if others else _Collector(models))
    return generate_latest(registry), CONTENT_TYPE_LATEST.encode("ascii")
