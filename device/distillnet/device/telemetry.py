"""What the daemon measures of itself: latencies per stage, frames per source, and the machine it runs on."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from distillnet.proto.mqtt import Quantiles, SourceTelemetry

STAGES = ("capture", "gate", "preprocess", "infer", "decide", "publish", "end_to_end")
_SAMPLES = 8192
_UNSUMMED = 1024


@dataclass
class SourceCounts:
    """Frames of one source since the start."""

    frames: int = 0
    gated: int = 0


@dataclass
class Totals:
    """Counts since the start."""

    sources: dict[str, SourceCounts] = field(default_factory=dict)
    inferences: int = 0
    events: int = 0

    @property
    def frames(self) -> int:
        """Frames taken from all sources."""
        return sum(counts.frames for counts in self.sources.values())

    @property
    def gated(self) -> int:
        """Frames on which inference was skipped."""
        return sum(counts.gated for counts in self.sources.values())


class Telemetry:
    """Collects samples from all threads; `report` gives what came since the last report.

    What happens with every frame only appends to a queue, which takes no lock; whoever asks for figures sums up first.
    """

    def __init__(self) -> None:
        """Start counting now."""
        self._lock = threading.Lock()
        self._taken: deque[tuple[str, float]] = deque()
        self._looked: deque[tuple[str, int, dict[str, float]]] = deque()
        self._samples: dict[str, deque[float]] = {stage: deque(maxlen=_SAMPLES) for stage in STAGES}
        self._counts = dict.fromkeys(STAGES, 0)
        self._reported: dict[str, tuple[int, int, int]] = {}
        self._totals = Totals()
        self._since = time.monotonic()

    def stage(self, name: str, ms: float) -> None:
        """Add one sample of a stage, milliseconds."""
        with self._lock:
            self._add(name, ms)

    def frame(self, source: str, capture_ms: float) -> None:
        """Count a frame taken from a source while a student was there to see it."""
        self._taken.append((source, capture_ms))
        if len(self._taken) > _UNSUMMED:
            self._sum_up()

    def looked(self, source: str, inferences: int, stages: dict[str, float]) -> None:
        """Count a frame (or a decision on sound) that is done with.

        Args:
            source: whose it was.
            inferences: how many were made for it; none = the gate kept it from them.
            stages: what each stage took, milliseconds; not changed afterwards.

        """
        self._looked.append((source, inferences, stages))
        if len(self._looked) > _UNSUMMED:
            self._sum_up()

    def announced(self) -> None:
        """Count an event announced (`new`)."""
        with self._lock:
            self._totals.events += 1

    def totals(self) -> Totals:
        """Return the counts since the start."""
        self._sum_up()
        with self._lock:
            sources = {name: SourceCounts(counts.frames, counts.gated) for name, counts in self._totals.sources.items()}
            return Totals(sources, self._totals.inferences, self._totals.events)

    def report(
        self, queues: dict[str, tuple[int, int]]
    ) -> tuple[float, dict[str, Quantiles], dict[str, SourceTelemetry]]:
        """Return what happened since the last report and begin anew.

        Args:
            queues: by source, frames waiting now and frames dropped since the start.

        Returns:
            Seconds since the last report, quantiles per stage that has samples, and each source's counts.

        """
        self._sum_up()
        with self._lock:
            now = time.monotonic()
            interval_s, self._since = now - self._since, now
            stages = {
                name: quantiles(np.array(samples), self._counts[name])
                for name, samples in self._samples.items()
                if samples
            }
            for samples in self._samples.values():
                samples.clear()
            self._counts = dict.fromkeys(STAGES, 0)
            sources = {name: self._source(name, interval_s, *queue) for name, queue in queues.items()}
            return interval_s, stages, sources

    def _sum_up(self) -> None:
        with self._lock:
            while self._taken:
                source, capture_ms = self._taken.popleft()
                self._counts_of(source).frames += 1
                self._add("capture", capture_ms)
            while self._looked:
                source, inferences, stages = self._looked.popleft()
                self._totals.inferences += inferences
                if not inferences:
                    self._counts_of(source).gated += 1
                for name, ms in stages.items():
                    self._add(name, ms)

    def _counts_of(self, source: str) -> SourceCounts:
        return self._totals.sources.setdefault(source, SourceCounts())

    def _add(self, name: str, ms: float) -> None:
        self._samples[name].append(ms)
        self._counts[name] += 1

    def _source(self, name: str, interval_s: float, waiting: int, dropped: int) -> SourceTelemetry:
        counts = self._totals.sources.get(name, SourceCounts())
        frames_before, gated_before, dropped_before = self._reported.get(name, (0, 0, 0))
        self._reported[name] = (counts.frames, counts.gated, dropped)
        frames = counts.frames - frames_before
        return SourceTelemetry(
            fps=frames / interval_s if interval_s > 0 else 0.0,
            frames=frames,
            dropped=dropped - dropped_before,
            gated=counts.gated - gated_before,
            queue=waiting,
        )


def quantiles(samples: np.ndarray, n: int) -> Quantiles:
    """Summarise samples, float64 (m,) milliseconds, of which there were `n` before the window forgot some."""
    ordered, last = np.sort(samples), len(samples) - 1
    p50, p95, p99 = np.interp((0.5 * last, 0.95 * last, 0.99 * last), np.arange(last + 1), ordered).tolist()
    return Quantiles(p50=p50, p95=p95, p99=p99, max=float(ordered[-1]), n=n)
