"""`/metrics`: what Prometheus is told. Numbers are counted where they arise, families are made when it asks."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from perdure.sdk.port import Counts, Work

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_BITS = range(6, 37, 2)
"""Bounds of histograms, as powers of two: from 64 µs to 19 hours."""
_MICRO = 1_000_000


def metrics_text(app: str, waiting: Mapping[str, str], counts: Counts, lag: Mapping[str, int]) -> bytes:
    """All families, in the text format."""
    registry = CollectorRegistry()
    registry.register(_Families([*_state(app, waiting, counts, lag), *_work(counts.work)]))
    return generate_latest(registry)


class _Families(Collector):
    """What was made already, as a registry wants it."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        return self._families


def _state(app: str, waiting: Mapping[str, str], counts: Counts, lag: Mapping[str, int]) -> Iterator[Metric]:
    ready = {app: 0 if waiting else 1}
    yield _gauge("ready", "Whether all partitions are ready.", "app", ready)
    yield _gauge("not_ready", "What is not ready or has halted.", "what", dict.fromkeys(sorted(waiting), 1))
    yield _gauge("partition_lag", "Records of the journal not folded here yet.", "partition", lag)
    yield _gauge("partition_halted", "1 where the journal cannot be folded further.", "partition", counts.halted)
    yield _gauge("events_gone", "Records gone before their intake, which waits.", "partition", counts.events_gone)
    yield _gauge("runs_held", "Runs that wait for other code, or a payload.", "partition", counts.held)
    yield _gauge("runs_parked", "Runs whose code asks for what their log has not.", "partition", counts.parked)


def _work(apps: Mapping[str, Work]) -> Iterator[Metric]:
    def each(value: str) -> dict[str, int]:
        return {app: getattr(work, value) for app, work in apps.items()}

    yield _gauge("runs_in_memory", "Runs whose code is loaded here.", "app", each("runs_in_memory"))
    yield _gauge("runs_idle", "Of these, runs that wait for the log alone.", "app", each("runs_idle"))
    yield _gauge("steps_running", "Steps whose bodies run here.", "app", each("steps_running"))
    done = CounterMetricFamily("perdure_steps", "Steps with an outcome.", labels=["app", "outcome"])
    retries = CounterMetricFamily("perdure_step_retries", "Attempts after a failed one.", labels=["app"])
    took = HistogramMetricFamily("perdure_step_duration_seconds", "Last attempt of completed steps.", labels=["app"])
    ended = CounterMetricFamily("perdure_runs", "Runs that have ended.", labels=["app", "status"])
    ran = HistogramMetricFamily("perdure_run_duration_seconds", "Runs, from start to end.", labels=["app"])
    waited = HistogramMetricFamily("perdure_run_wait_seconds", "Runs, from request to start.", labels=["app"])
    delay = HistogramMetricFamily("perdure_loop_delay_seconds", "How late the event loop is.", labels=["app"])
    for app, work in apps.items():
        done.add_metric([app, "completed"], sum(work.steps_took.values()))
        done.add_metric([app, "failed"], work.steps_failed)
        retries.add_metric([app], work.retries)
        took.add_metric([app], _buckets(work.steps_took), work.steps_took_sum / _MICRO)
        for status, count in sorted(work.runs_ended.items()):
            ended.add_metric([app, status], count)
        ran.add_metric([app], _buckets(work.runs_took), work.runs_took_sum / _MICRO)
        waited.add_metric([app], _buckets(work.runs_waited), work.runs_waited_sum / _MICRO)
        delay.add_metric([app], _buckets(work.loop_delay), work.loop_delay_sum / _MICRO)
    yield from (done, retries, took, ended, ran, waited, delay)


def _buckets(counts: Mapping[int, int]) -> list[tuple[str, float]]:
    """A value of n bits is below 2ⁿ, and buckets hold all below their bound."""
    bounds: list[tuple[str, float]] = [
        (str((1 << bits) / _MICRO), sum(count for of, count in counts.items() if of <= bits)) for bits in _BITS
    ]
    return [*bounds, ("+Inf", sum(counts.values()))]


def _gauge(name: str, what: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(f"perdure_{name}", what, labels=[label])
    for one, value in values.items():
        family.add_metric([one], value)
    return family
