"""Pictures around an event, kept on the board: a snapshot or a short clip, within a quota, off unless asked for.

The inference thread only hands references over; encoding and writing happen on the thread `evidence`. An event names
its file in `evidence`, relative to the state directory; the file itself never goes over MQTT.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillnet.device import host
from distillnet.device.config import EvidenceSection
from distillnet.device.frames import Frame
from distillnet.device.opencv import cv2, jpeg

log = logging.getLogger(__name__)

FOLDER = "evidence"
_CLIP_HZ = 5.0
_QUEUE = 16
_QUALITY = 85
_TIDY_S = 3600.0

Jpeg = NDArray[np.uint8]


@dataclass
class _Clip:
    """A clip that still grows."""

    path: Path
    until_t: float
    jpegs: list[Jpeg] = field(default_factory=list)


class Evidence:
    """The evidence of one device."""

    def __init__(self, config: EvidenceSection, state_dir: Path) -> None:
        """Prepare; `start` begins. Keeps nothing when `config.mode` is "off"."""
        self._config = config
        self.filming = config.mode == "clip"
        """Whether `observe` wants to see every frame."""
        self._root = state_dir / FOLDER
        self._queue: queue.Queue[tuple[Frame, str | None] | None] = queue.Queue(_QUEUE)
        self._rings: dict[str, deque[tuple[float, Jpeg]]] = {}
        self._clips: dict[str, list[_Clip]] = {}
        self._next_t: dict[str, float] = {}
        self._lost = 0
        self.fault = ""
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self._config.mode != "off"

    def start(self) -> None:
        """Begin."""
        if self.on:
            host.keep_large_blocks_apart()  # pictures come and go by the second, events by the hour
            self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Write what has begun, and end."""
        if self._thread.is_alive():
            self._put(None)
            self._thread.join(timeout_s)

    def observe(self, frame: Frame) -> None:
        """See a frame; for clips some are kept for a while."""
        if self.filming and frame.t >= self._next_t.get(frame.source, -1.0):
            self._next_t[frame.source] = frame.t + 1.0 / _CLIP_HZ
            self._put((frame, None))

    def begin(self, frame: Frame, event_id: str) -> str | None:
        """Keep this moment; returns the file's name relative to the state directory, None when nothing is kept."""
        if not self.on:
            return None
        ending = "jpg" if self._config.mode == "snapshot" else "avi"
        name = f"{frame.source}/{event_id}.{ending}"
        return f"{FOLDER}/{name}" if self._put((frame, name)) else None

    def save_now(self, frame: Frame) -> str:
        """Write one picture at once, whatever the mode, because somebody asked; returns its relative name.

        Raises:
            OSError: it cannot be written.

        """
        name = f"{frame.source}/{int(frame.ts * 1000)}.jpg"
        _write(self._root / name, jpeg(frame.pixels, _QUALITY).tobytes())
        self._tidy()
        return f"{FOLDER}/{name}"

    def _put(self, item: tuple[Frame, str | None] | None) -> bool:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._lost += 1
            return False
        return True

    def _run(self) -> None:
        tidied = 0.0
        while True:
            item = None
            try:
                item = self._queue.get(timeout=60.0)
                if item is None:
                    break
                self._take(*item)
                self.fault = ""
            except queue.Empty:
                pass
            except (OSError, cv2.error) as exc:
                self.fault = f"evidence cannot be written: {exc}"
                log.error("%s", self.fault)
            if time.monotonic() - tidied > _TIDY_S or (item is not None and item[1] is not None):
                tidied = time.monotonic()
                self._tidy()
        for clips in self._clips.values():
            for clip in clips:
                self._finish(clip)

    def _take(self, frame: Frame, name: str | None) -> None:
        encoded = jpeg(frame.pixels, _QUALITY)
        if self._config.mode == "snapshot":
            if name is not None:
                _write(self._root / name, encoded.tobytes())
            return
        ring = self._rings.setdefault(frame.source, deque())
        ring.append((frame.t, encoded))
        while ring and ring[0][0] < frame.t - self._config.before_s:
            ring.popleft()
        clips = self._clips.setdefault(frame.source, [])
        for clip in clips:
            clip.jpegs.append(encoded)
        if name is not None:
            clips.append(_Clip(self._root / name, frame.t + self._config.after_s, [kept for _, kept in ring]))
        for clip in [clip for clip in clips if frame.t >= clip.until_t]:
            clips.remove(clip)
            self._finish(clip)

    def _finish(self, clip: _Clip) -> None:
        pictures = (np.asarray(cv2.imdecode(kept, cv2.IMREAD_COLOR)) for kept in clip.jpegs)
        first = next(pictures)
        height, width = first.shape[:2]
        with _whole(clip.path) as partial:
            writer = cv2.VideoWriter(str(partial), cv2.VideoWriter.fourcc(*"MJPG"), _CLIP_HZ, (width, height))
            try:
                if not writer.isOpened():
                    raise OSError(f"{partial}: cannot be written")
                for picture in chain((first,), pictures):  # one at a time: a long clip has no room in memory
                    same = picture.shape[:2] == (height, width)
                    writer.write(picture if same else cv2.resize(picture, (width, height)))
            finally:
                writer.release()

    def _tidy(self) -> None:
        """Delete what is too old, and the oldest beyond the quota."""
        try:
            files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self._root.glob("*/*.*"))
        except OSError:
            return
        total = sum(size for _, size, _ in files)
        oldest = time.time() - self._config.max_age_s
        for modified, size, path in files:
            if total <= self._config.max_bytes and modified >= oldest:
                break
            path.unlink(missing_ok=True)
            total -= size


def _write(path: Path, data: bytes) -> None:
    with _whole(path) as partial:
        partial.write_bytes(data)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a name to write to; what was written becomes `path`, or goes where that failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".part{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
