"""Prometheus metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..clip import Clip
from .worker import Worker

SECONDS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, worker: Worker):
        self.registry = registry = CollectorRegistry()
        self.responses = Counter(
            "barklite_responses", "Responses of /v1/audio/speech", ["code"], registry=registry
        )
        self.gone = Counter(
            "barklite_clients_gone", "Clients that disconnected before the end", registry=registry
        )
        self.clips = Counter("barklite_clips", "Sentences generated", ["finish_reason"], registry=registry)
        self.audio = Counter("barklite_audio_seconds", "Seconds of audio generated", registry=registry)
        self.first = Histogram(
            "barklite_first_audio_seconds",
            "Seconds from a request to its first sentence",
            buckets=SECONDS,
            registry=registry,
        )
        self.whole = Histogram(
            "barklite_speech_seconds", "Seconds from a request to its end", buckets=SECONDS, registry=registry
        )
        for i, (name, text) in enumerate(
            (
                ("requests", "Requests running or waiting"),
                ("sentences_running", "Sentences in the batch"),
                ("sentences_waiting", "Sentences waiting for a slot"),
            )
        ):
            gauge = Gauge(f"barklite_{name}", text, registry=registry)
            gauge.set_function(lambda i=i: worker.counts()[i])
        worker.finished = self._spoken

    def _spoken(self, clip: Clip) -> None:
        self.clips.labels(clip.finish_reason).inc()
        self.audio.inc(clip.seconds)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' exposition format."""
        return generate_latest(self.registry)
