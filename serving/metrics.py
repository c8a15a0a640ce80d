"""What Prometheus reads: counts and times per version, in a registry of our own.

Labels are bounded: never a key, a session or a text. Versions are adapter numbers; how many have a
name at once: version_names.py. The board and the alert rules: serving/grafana.
"""

from collections.abc import Iterable
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client import generate_latest as render
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from appliance.core.records import Feedback
from serving.attribution import Attribution
from serving.openai_errors import ApiError
from serving.version_names import VersionNames

if TYPE_CHECKING:
    from serving.gateway import Gateway
    from serving.under_way import Place

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
KINDS = frozenset(
    {
        "authentication_error",
        "conflict_error",
        "insufficient_quota",
        "invalid_request_error",
        "permission_error",
        "requests",
        "server_error",
        "service_unavailable",
        "tokens",
    }
)
"""What an error may be counted as; anything else is ``other``."""

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Lives on the gateway's event loop."""

    def __init__(self, names: VersionNames, attribution: Attribution) -> None:
        self.registry = CollectorRegistry()
        self._names = names
        self._attribution = attribution
        names.on_forget = self._forget
        self._requests = Counter(
            "espalier_requests",
            "Requests that ended, refused ones too; outcome is the status's class, or left.",
            ["version", "route", "outcome"],
            registry=self.registry,
        )
        self._tokens = Counter(
            "espalier_tokens",
            "Tokens fed (prompt), not computed again (cached, part of prompt), and sampled.",
            ["version", "kind"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "espalier_request_seconds",
            "From the request's head to the answer's last byte.",
            ["version", "route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._first_token = Histogram(
            "espalier_first_token_seconds",
            "From the request's head to the engine's first token.",
            ["version", "route"],
            buckets=_FIRST_TOKEN_SECONDS,
            registry=self.registry,
        )
        self._errors = Counter(
            "espalier_errors",
            "Requests that ended in an error, also in the middle of a stream, by its type.",
            ["version", "kind"],
            registry=self.registry,
        )
        self._feedback = Counter(
            "espalier_feedback",
            "Feedback received, by the version that it is about; acceptance is ok over all.",
            ["version", "outcome"],
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def reload(self) -> None:
        """Learn the names of new versions."""
        self._names.reload()

    def watch(self, gateway: "Gateway") -> None:
        """Show what the gateway knows at the moment of each reading, too."""
        self.registry.register(_Live(gateway, self._names))

    def count(self, place: "Place") -> None:
        """A request that ended."""
        exchange, route = place.exchange, place.route
        version = "none" if exchange is None else self._names.name(exchange.adapter)
        if place.error is not None:
            self._count_error(version, route, place.error)
        else:
            outcome = "left" if place.left else "2xx"
            self._requests.labels(version, route, outcome).inc()
        if place.prompt_tokens:
            self._tokens.labels(version, "prompt").inc(place.prompt_tokens)
        if exchange is None or place.first_token_s is None:
            return
        self._attribution.note(exchange)
        self._tokens.labels(version, "cached").inc(exchange.cached_tokens)
        self._tokens.labels(version, "completion").inc(exchange.completion_tokens)
        self._first_token.labels(version, route).observe(place.first_token_s)
        if place.error is None and not place.left:
            self._seconds.labels(version, route).observe(place.seconds)

    def count_refused(self, route: str, error: ApiError) -> None:
        """A request that got no place: without a good key, paused, too many, too fast."""
        self._count_error("none", route, error)

    async def count_feedback(self, feedback: Feedback) -> None:
        """A feedback, under the version that wrote what it is about."""
        about = await self._attribution.adapters_of(feedback)
        version = self._names.name(about[0]) if about else "none"
        self._feedback.labels(version, feedback.outcome).inc()

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return render(self.registry)

    def _count_error(self, version: str, route: str, error: ApiError) -> None:
        self._requests.labels(version, route, f"{error.status // 100}xx").inc()
        self._errors.labels(version, error.kind if error.kind in KINDS else "other").inc()

    def _forget(self, version: str) -> None:
        for metric in (
            self._requests,
            self._tokens,
            self._seconds,
            self._first_token,
            self._errors,
            self._feedback,
        ):
            metric.remove_by_labels({"version": version})


class _Live(Collector):
    """What is read off the gateway, not counted."""

    def __init__(self, gateway: "Gateway", names: VersionNames) -> None:
        self._gateway = gateway
        self._names = names

    def collect(self) -> Iterable[Metric]:
        gateway = self._gateway
        for name, words, value in (
            ("under_way", "Requests under way, waiting ones too.", gateway.under_way.total),
            ("waiting", "Requests whose first token has not come.", gateway.under_way.waiting),
            ("adapters_resident", "Adapters in the engine.", len(gateway.versions.resident)),
        ):
            yield GaugeMetricFamily(f"espalier_{name}", words, value=float(value))
        yield from self._releases()
        ingest = CounterMetricFamily(
            "espalier_ingest_records", "What became of records on their way in.", labels=["what"]
        )
        for what, count in msgspec.structs.asdict(gateway.ingest.counts).items():
            ingest.add_metric([what], count)
        yield ingest
        yield CounterMetricFamily(
            "espalier_late_turns",
            "Answers sent before their turn was written; it followed.",
            value=gateway.counts.late,
        )
        build = GaugeMetricFamily(
            "espalier_build_info", "Always 1.", labels=["build", "base", "engine"]
        )
        engine = gateway.settings.engine.kind
        build.add_metric([version_of("espalier-appliance"), gateway.base.name, engine], 1)
        yield build

    def _releases(self) -> Iterable[Metric]:
        ready = GaugeMetricFamily(
            "espalier_ready", "1 while the alias can be served.", labels=["alias"]
        )
        generation = GaugeMetricFamily(
            "espalier_release_generation", "The journal's entry in force.", labels=["alias"]
        )
        shares = GaugeMetricFamily(
            "espalier_rollout_share",
            "Share of new requests that a version gets, 0 to 1.",
            labels=["alias", "version"],
        )
        for alias in self._gateway.aliases:
            releases = alias.releases
            ready.add_metric([alias.name], float(releases.ready))
            if not releases.ready:
                continue
            entry = releases.entry()
            generation.add_metric([alias.name], entry.generation)
            parts = {self._names.name(entry.adapter): 1.0}
            if (trying := entry.trying) is not None:
                parts = {self._names.name(entry.adapter): 1.0 - trying.share / 100}
                parts[self._names.name(trying.candidate)] = trying.share / 100
            for version, part in parts.items():
                shares.add_metric([alias.name, version], part)
        yield from (ready, generation, shares)
