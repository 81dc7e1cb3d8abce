"""What Prometheus may ask."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..clip import Clip
from .worker import Worker

SECONDS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self, worker: Worker):
        self.registry = registry = CollectorRegistry()
        self.responses = Counter(
            "barklite_responses", "Answers to /v1/audio/speech", ["code"], registry=registry
        )
        self.gone = Counter("barklite_clients_gone", "Clients that left before the end", registry=registry)
        self.clips = Counter("barklite_clips", "Sentences spoken", ["finish_reason"], registry=registry)
        self.audio = Counter("barklite_audio_seconds", "Sound made", registry=registry)
        self.first = Histogram(
            "barklite_first_audio_seconds",
            "From a request to its first sentence",
            buckets=SECONDS,
            registry=registry,
        )
        self.whole = Histogram(
            "barklite_speech_seconds", "From a request to its end", buckets=SECONDS, registry=registry
        )
        for i, (name, text) in enumerate(
            (
                ("requests", "Requests that are not done"),
                ("sentences_running", "Sentences in the decoder"),
                ("sentences_waiting", "Sentences that have not begun"),
            )
        ):
            gauge = Gauge(f"barklite_{name}", text, registry=registry)
            gauge.set_function(lambda i=i: worker.counts()[i])
        worker.finished = self._spoken

    def _spoken(self, clip: Clip) -> None:
        self.clips.labels(clip.finish_reason).inc()
        self.audio.inc(clip.seconds)

    def text(self) -> bytes:
        """The exposition format of Prometheus."""
        return generate_latest(self.registry)
