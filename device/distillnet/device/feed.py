"""One source's thread: open, read, pace, stamp, hand to the intake; after a break again, with backoff.

Files end (and end the feed, unless they loop); cameras and streams are tried for ever.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from distillnet.device.config import Source
from distillnet.device.frames import Chunk, Frame, Intake, Sense
from distillnet.device.rate import Rate
from distillnet.device.readers import FINITE, HEARD, Picture, Reader, SourceError, kind_of, open_reader
from distillnet.device.sound.reading import Piece
from distillnet.device.telemetry import Telemetry
from distillnet.engine.preprocess import BLACK, Planes
from distillnet.engine.preprocess import Frame as Pixels

log = logging.getLogger(__name__)

FeedState = Literal["online", "stalled", "error"]
OnState = Callable[[str, FeedState, str], None]

_BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
Said = tuple[FeedState, str]
_ONLINE: Said = ("online", "")
_BLACK: Said = ("stalled", "the picture is black: is the lens covered?")
_DARK = 8
"""Grey level (0–255) that every live picture reaches somewhere, be it by the sensor's noise."""
_DARK_STEP = 16
_LOOK_S = 0.5
_NAP_S = 0.1
_LAG_S = 2.0
"""A real-time file that is so far behind starts its clock anew instead of rushing."""


class Feed:
    """The thread of one source."""

    def __init__(
        self,
        source: Source,
        intake: Intake,
        telemetry: Telemetry,
        on_state: OnState,
        *,
        sense: Sense = "sight",
        look_now: Callable[[Frame | Chunk], bool] = lambda frame: False,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            source: what to read.
            intake: where frames go.
            telemetry: what counts them.
            on_state: told of every change, on this thread or that of the caller of `watch`.
            sense: which inference the frames are for.
            look_now: offered every frame that need not wait for room, on this thread; False = it is for the intake.

        """
        self.source = source
        self.kind = kind_of(source)
        self._sense: Sense = sense
        self.finite = self.kind in FINITE
        self._heard = self.kind in HEARD
        self._paced = self.finite and source.pace == "real-time"
        self._intake = intake
        self._telemetry = telemetry
        self._on_state = on_state
        self._look_now = look_now
        self._stop = threading.Event()
        self._stopping = False
        """As `_stop`, for the loop that asks at every frame."""
        self._finished = threading.Event()
        self._state: Said | None = None
        self._state_lock = threading.Lock()
        self._last_frame = self._last_light = time.monotonic()
        self._last_look = float("-inf")
        self._index = 0
        self._offset_s = 0.0
        self._anchor: tuple[float, float] | None = None
        self._all = self._heard or source.rate_hz is None
        """Whether every picture is wanted."""
        self._rate = Rate(source.rate_hz)
        self._thread = threading.Thread(target=self._run, name=f"source-{source.id}", daemon=True)

    @property
    def finished(self) -> bool:
        """Whether the source has come to its end."""
        return self._finished.is_set()

    def start(self) -> None:
        """Open the source and read until `stop`."""
        self._intake.add(self.source.id, self.source.queue, self._sense)
        self._last_frame = self._last_light = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it does so after the frame it reads."""
        self._stopping = True
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; False when it still hangs in a read."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def watch(self) -> None:
        """Say `stalled` when no frame has come for too long. Called now and then by another thread."""
        if self._finished.is_set() or self._state is not _ONLINE:
            return
        now = time.monotonic()
        waits = self.finite and self.source.pace == "fast"  # for room in the intake, not for the file
        if now - self._last_frame > self.source.stall_s and not waits:
            self._say(("stalled", f"no frame for {self.source.stall_s:g} s"))
        elif now - self._last_light > self.source.stall_s and not self.finite:
            self._say(_BLACK)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            before = self._index
            reason = self._pass()
            if self._stop.is_set() or (self.finite and not self.source.loop):
                break
            if self.finite and self._index > before:
                continue
            self._say(("error", reason))
            failures = 0 if self._index > before else failures + 1
            self._stop.wait(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
        if not self._stop.is_set():
            self._say(("stalled", "end of file"))
        self._finished.set()

    def _pass(self) -> str:
        """Read the source once from its beginning to its end; returns why it ended."""
        try:
            reader = open_reader(self.source, read_timeout_s=self.source.stall_s)
        except SourceError as exc:
            return str(exc)
        try:
            self._read(reader)
        except Exception as exc:  # a decoder may raise anything on garbage; the source is opened again
            log.exception("source %s failed", self.source.id)
            return f"{type(exc).__name__}: {exc}"
        finally:
            reader.close()
        return "the stream ended"

    def _read(self, reader: Reader) -> None:
        last_s, period_s, least_s = 0.0, 0.0, float("inf")
        if not self.finite:
            self._rate = Rate(self.source.rate_hz)
        while not self._stopping:
            # A frame is read when it is due, as a camera's is: what looks at the one before has the processor's caches.
            if self._paced and last_s > 0 and self._wait_until_due(last_s + least_s + self._offset_s):
                break
            position_s = reader.grab()
            if position_s is None:
                break
            self._last_frame = time.monotonic()
            wanted = self._all or self._rate.wants(position_s + self._offset_s)
            picture = None
            if wanted or self._light_is_due():
                picture = reader.retrieve()
                if picture is None:
                    break
                position_s = picture.position_s
                if not self.finite:
                    self._look_for_light(picture)
            if self._state is not _ONLINE and (self._state is not _BLACK or self._last_light == self._last_frame):
                self._say(_ONLINE)
            period_s, last_s = position_s - last_s or period_s, position_s
            least_s = min(least_s, period_s or least_s)
            if wanted and picture is not None:
                self._hand_over(picture)
        self._offset_s += last_s + period_s if self.finite else 0.0

    def _light_is_due(self) -> bool:
        """Whether to look if a live source shows anything; twice a second is enough, unless it was black."""
        if self.finite or self._heard:
            return False
        return self._last_frame - self._last_look >= _LOOK_S or self._state is _BLACK

    def _look_for_light(self, picture: Picture | Piece) -> None:
        """Note when a live source last showed something that is not black."""
        if isinstance(picture, Piece):
            self._last_light = self._last_frame
        elif self._light_is_due():
            self._last_look = self._last_frame
            if _brightest(picture.pixels) >= _DARK:
                self._last_light = self._last_frame

    def _hand_over(self, picture: Picture | Piece) -> None:
        position_s = picture.position_s + self._offset_s
        if self._paced and self._wait_until_due(position_s):
            return
        now = captured = time.monotonic()
        if self.finite:
            if self._anchor is None:
                self._anchor = (now - position_s, time.time() - position_s)
            ts, t = self._anchor[1] + position_s, position_s
        else:
            captured = t = now if isinstance(picture, Piece) or picture.taken_s is None else picture.taken_s
            ts = time.time() - (now - t)
        frame = self._stamped(picture, ts, t, captured)
        self._index += 1
        if self.finite and not self._paced:
            accepted = self._intake.put_waiting(frame, self._stop.is_set)
        else:
            accepted = self._look_now(frame) or self._intake.put(frame)
        if accepted:
            self._telemetry.frame(self.source.id, picture.decode_ms)

    def _stamped(self, picture: Picture | Piece, ts: float, t: float, captured: float) -> Frame | Chunk:
        if isinstance(picture, Picture):
            return Frame(self.source.id, self._index, picture.pixels, ts, t, captured, picture.decode_ms)
        if picture.lost:
            self._intake.count_lost(self.source.id)
        heard_s = 0.0 if self.finite else len(picture.samples) / picture.rate_hz  # live: it has just ended
        where = (self.source.id, self._index, picture.samples, picture.rate_hz, ts - heard_s, t - heard_s)
        return Chunk(*where, captured, picture.decode_ms, picture.lost)

    def _wait_until_due(self, position_s: float) -> bool:
        """Wait for a file frame's time; True when stopping came first. The first frame fixes the time of position 0."""
        if self._anchor is None:
            return self._stopping
        wait_s = self._anchor[0] + position_s - time.monotonic()
        if wait_s < -_LAG_S:
            self._anchor = (time.monotonic() - position_s, time.time() - position_s)
        while wait_s > 0 and not self._stopping:
            time.sleep(min(wait_s, _NAP_S))  # a third of what waiting for an event costs
            wait_s = self._anchor[0] + position_s - time.monotonic()
        return self._stopping

    def _say(self, state: Said) -> None:
        with self._state_lock:
            if self._state == state or self._stopping:
                return
            self._state = state
        self._on_state(self.source.id, *state)


def _brightest(pixels: Pixels) -> int:
    """Return the brightest grey level of some pixels, 0 being black."""
    if isinstance(pixels, Planes):
        return int(pixels.arrays[0][::_DARK_STEP, ::_DARK_STEP].max()) - BLACK
    return int(pixels[::_DARK_STEP, ::_DARK_STEP].max())
