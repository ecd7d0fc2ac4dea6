"""What is counted, for `/metrics`. One registry for each gateway; labels hold words of ours only, never a client's.

docs/operations.md has the table of it; a test compares the two.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.registry import Collector

from app.core.recognition import Event, LegEnded
from app.core.session import Session


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._open = Gauge("gateway_open_sessions", "Sessions that are open now.", registry=self.registry)
        self._ended = self._counter("gateway_sessions", "Sessions that ended: stopped, left, or an error code.", "how")
        self._audio = self._counter("gateway_audio_seconds", "Audio of ended sessions without its gaps.")
        self._gaps = self._counter("gateway_gap_seconds", "Audio that nobody heard, of ended sessions.", "reason")
        self._finals = self._counter("gateway_finals", "Finals of ended sessions.")
        self._legs = self._counter("gateway_legs", "Upstream streams that ended, by gRPC status.", "code")
        self._billed = self._counter("gateway_billed_seconds", "Audio that the upstream bills for ended streams.")
        self._replayed = self._counter("gateway_replayed_seconds", "Audio that a second stream heard again.")

    def opened(self) -> None:
        """A session was accepted."""
        self._open.inc()

    def hear(self, event: Event) -> None:
        """What a session's recognizer says."""
        if isinstance(event, LegEnded):
            self._legs.labels(event.code).inc()
            self._billed.inc(event.billed_ms / 1000)
            self._replayed.inc(event.replayed_ms / 1000)

    def closed(self, session: Session) -> None:
        """A session is over, as far as this gateway goes."""
        heard = session.transcript
        self._open.dec()
        self._ended.labels(session.how_it_ended).inc()
        self._audio.inc(session.format.ms(session.received - heard.gap_bytes) / 1000)
        self._finals.inc(heard.finals)
        for reason, count in heard.gaps.items():
            self._gaps.labels(reason).inc(session.format.ms(count) / 1000)

    def page(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)


def table(registry: Collector) -> list[tuple[str, str, str]]:
    """Name as exposed, kind, and text of each metric."""
    return [
        (family.name + ("_total" if family.type == "counter" else ""), family.type, family.documentation)
        for family in registry.collect()
    ]
