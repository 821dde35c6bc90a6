"""What Prometheus reads from ``/metrics``."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from .engine import Engine, Job, Observer
from .pictures import PictureStore
from .questions import Event, Failed, Finished

SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 25, 50, 100)
PATHS = ("/v1/chat/completions", "/v1/models", "/mcp", "/health", "/metrics")
"""Paths that are counted by name; names that clients make up would never end."""

TEAM_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of the folder where the processes of a server count; prometheus_client's name."""

ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics(Observer):
    """Counts what an engine and its server do. One per server: nothing is global."""

    def __init__(self, *, of_team: bool = False) -> None:
        """Count from zero.

        Args:
            of_team: ``render`` sums up all processes that share the folder of ``TEAM_FOLDER``; the variable
                must be set before a process imports this module.
        """
        self.registry = CollectorRegistry()
        self._of_team = of_team
        self._levels: list[tuple[Gauge, Callable[[], int]]] = []
        own = self.registry
        self._requests = Counter("vilahd_requests", "HTTP requests", ["path", "status"], registry=own)
        self._answers = Counter("vilahd_answers", "Questions by how they ended", ["end"], registry=own)
        self._tokens = Counter("vilahd_tokens", "Tokens of answered questions", ["kind"], registry=own)
        self._read_rows = Histogram("vilahd_read_rows", "Prompts read together", buckets=ROWS, registry=own)
        self._read_seconds = Histogram(
            "vilahd_read_seconds", "Looking and reading of one batch", buckets=SECONDS, registry=own
        )
        self._step_rows = Histogram("vilahd_step_rows", "Answers in one step", buckets=ROWS, registry=own)
        self._first = Histogram(
            "vilahd_first_token_seconds", "From the request to its first token", buckets=SECONDS, registry=own
        )
        self._whole = Histogram(
            "vilahd_answer_seconds", "From the request to its last token", buckets=SECONDS, registry=own
        )

    def watch(self, engine: Engine, store: PictureStore) -> None:
        """Add what is not counted but looked at."""
        for name, about, value in (
            ("vilahd_inside", "Questions being prepared, waiting or answered", lambda: engine.num_inside),
            ("vilahd_running", "Answers being written", lambda: engine.num_running),
            ("vilahd_picture_cache_bytes", "Memory of kept pictures", lambda: store.cache.nbytes),
        ):
            self._levels.append((Gauge(name, about, registry=self.registry, multiprocess_mode="sum"), value))

    def look(self) -> None:
        """Bring what is not counted up to date: for the other processes of a team, which cannot look here."""
        for level, value in self._levels:
            level.set(value())

    def answered(self, path: str, status: int) -> None:
        """A request was answered."""
        self._requests.labels(path if path in PATHS else "other", str(status)).inc()

    def render(self) -> bytes:
        """Everything in the text format of Prometheus."""
        self.look()
        if not self._of_team:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)

    def read(self, num_questions: int, seconds: float) -> None:
        """Prompts were read together."""
        self._read_rows.observe(num_questions)
        self._read_seconds.observe(seconds)

    def stepped(self, num_rows: int) -> None:
        """Rows got a token each."""
        self._step_rows.observe(num_rows)

    def ended(self, job: Job, event: Event | None) -> None:
        """A job is over."""
        end = "cancelled"
        if isinstance(event, Failed):
            end = "failed"
        if isinstance(event, Finished):
            end = event.reason
            self._tokens.labels("text").inc(event.prompt_tokens - event.visual_tokens)
            self._tokens.labels("visual").inc(event.visual_tokens)
            self._tokens.labels("new").inc(event.new_tokens)
            self._whole.observe(time.monotonic() - job.entered)
            if job.first_token is not None:
                self._first.observe(job.first_token - job.entered)
        self._answers.labels(end).inc()
