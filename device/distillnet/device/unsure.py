"""Pictures the student was unsure of, kept for the next distillation. None unless `[feedback]` asks for them.

The inference thread offers what it has just looked at; a thread of its own encodes and writes. Each becomes a file of
`state_dir/feedback`, a serialised `Example`; `update/giveback.py` sends and deletes it. At most `max_bytes` wait.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from distillnet.device.config import FeedbackSection
from distillnet.device.decisions import Decisions
from distillnet.device.frames import Frame
from distillnet.device.opencv import bgr, cv2, jpeg
from distillnet.device.slot import Row
from distillnet.engine import Zone
from distillnet.engine.preprocess import crop
from distillnet.engine.student import Student
from distillnet.proto.files import write_whole
from distillnet.proto.v1 import feedback_pb2

log = logging.getLogger(__name__)

FOLDER, ENDING = "feedback", ".example"
_SIDE = 640
_QUALITY = 90
_HOUR_S = 3600.0
_Kept = tuple[Frame, Zone | None, feedback_pb2.Example]


class Unsure:
    """Chooses examples of one student, at most `per_hour` of them."""

    def __init__(
        self, config: FeedbackSection, state_dir: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; `start` begins."""
        self._config, self._clock = config, clock
        self._folder = state_dir / FOLDER
        self._next = 0.0
        self._queue: queue.Queue[_Kept | None] = queue.Queue(2)
        self._thread = threading.Thread(target=self._run, name="unsure", daemon=True)

    def start(self) -> None:
        """Begin, where examples are asked for."""
        if self._config.examples:
            self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Write what was chosen, and end."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout_s)

    def offer(
        self, student: Student, frame: Frame, boxes: Sequence[Zone | None], scores: Sequence[Row], rules: Decisions
    ) -> None:
        """Keep the zone whose score is closest to a threshold, if it is within the margin and one is due.

        `boxes` and `scores`, K+1 of each, are of the zones of `frame` that were just looked at; `rules` knows
        the thresholds in force. Returns at once.
        """
        if not self._config.examples or self._clock() < self._next or self._queue.full():
            return
        closest: tuple[float, Zone | None, str, float, float] | None = None
        for box, seen in zip(boxes, scores, strict=True):
            for event in student.card.events:
                rule, score = rules.rule(event.name), float(seen[event.index])
                if rule is None or not rules.watches(frame.source, event.name):
                    continue
                distance = abs(score - rule.threshold)
                if distance <= self._config.margin and (closest is None or distance < closest[0]):
                    closest = (distance, box, event.name, score, rule.threshold)
        if closest is None:
            return
        self._next = self._clock() + _HOUR_S / self._config.per_hour
        _, box, name, score, threshold = closest
        example = feedback_pb2.Example(
            application=student.card.application,
            event=name,
            source=frame.source,
            ts=frame.ts,
            score=score,
            threshold=threshold,
            model_digest=student.digest,
        )
        self._queue.put_nowait((frame, box, example))

    def _run(self) -> None:
        while (kept := self._queue.get()) is not None:
            try:
                self._keep(*kept)
            except (OSError, cv2.error) as exc:
                log.error("an example for the next distillation cannot be kept: %s", exc)

    def _keep(self, frame: Frame, box: Zone | None, example: feedback_pb2.Example) -> None:
        pixels = crop(bgr(frame.pixels), box)
        longest = max(pixels.shape[:2])
        if longest > _SIDE:
            height, width = (max(1, round(side * _SIDE / longest)) for side in pixels.shape[:2])
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        example.jpeg = jpeg(pixels, _QUALITY).tobytes()
        write_whole(self._folder / f"{time.time_ns()}{ENDING}", example.SerializeToString())
        self._tidy()

    def _tidy(self) -> None:
        """Delete the oldest beyond the quota."""
        waiting = sorted(self._folder.glob(f"*{ENDING}"), reverse=True)
        total = 0
        for path in waiting:
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # sent in this moment
                continue
            if total > self._config.max_bytes:
                path.unlink(missing_ok=True)
