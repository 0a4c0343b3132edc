"""A live stream of 30 frames a second through the daemon's own pipeline, on a board that takes updates meanwhile."""

import dataclasses
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import tiny
from board import Board
from simulated_cloud import SimulatedCloud

from distillnet.device.config import DeviceConfig
from distillnet.device.daemon import Daemon, Summary
from distillnet.device.slot import Scores
from distillnet.device.update import admission
from distillnet.engine import ModelError
from distillnet.engine.student import Student

FPS = 30
RAISES, SLOW = 1001, 1002
"""Seeds of students that fail in a way no valid file can: the engine raises, or takes 25 ms longer."""
_PATTERN_FRAMES = 3


@dataclasses.dataclass
class Faulty:
    """A model that works for its self-test and fails on the stream."""

    model: object
    seed: int
    tests_left: int = 2

    @property
    def info(self):
        return self.model.info

    def profile(self):
        return self.model.profile()

    def run_tensor(self, x):
        if self.tests_left > 0:
            self.tests_left -= 1
        else:
            self._fail()
        return self.model.run_tensor(x)

    def look(self, frame, preparation):
        began = time.monotonic()
        self._fail()
        late_ms = (time.monotonic() - began) * 1e3
        outputs, prepare_ms, run_ms = self.model.look(frame, preparation)
        return outputs, prepare_ms, run_ms + late_ms

    def _fail(self):
        if self.seed == RAISES:
            raise ModelError("injected")
        time.sleep(0.025)


def faulty_load(load: Callable[..., Student]) -> Callable[..., Student]:
    def loaded(data, config) -> Student:
        student = load(data, config)
        if student.card.seed in (RAISES, SLOW):
            return dataclasses.replace(student, model=Faulty(student.model, student.card.seed))
        return student

    return loaded


def good(version: int) -> bytes:
    """Sees nothing but `other`; every second version has another event set and input size."""
    side, events = ((4, ("cat", "dog")), (8, ("cat", "bird")))[version % 2]
    weights = np.random.default_rng(version).integers(-2, 3, (3, side * side * 3), dtype=np.int8)
    return tiny.student(version, events=events, side=side, weights=weights, bias=_logits(-4, -4, 4))


def bad(version: int, kind: str) -> bytes:
    """A student that passes every test and is wrong on the stream."""
    if kind in ("raises", "slow"):
        weights = np.zeros((3, 48), np.int8)
        seed = RAISES if kind == "raises" else SLOW
        return tiny.student(version, weights=weights, bias=_logits(-4, -4, 4), seed=seed)
    if kind == "wrong scores":
        return tiny.student(version, weights=np.zeros((3, 48), np.int8), bias=_logits(8, -8, -8))
    weights = np.zeros((3, 48), np.int8)
    weights[0], weights[2] = 127, -127  # an event storm: cat on every bright frame
    return tiny.student(version, weights=weights, bias=_logits(0, -8, 0))


BAD_KINDS = ("raises", "slow", "wrong scores", "event storm")


def _logits(*values: float) -> np.ndarray:
    return np.array([value * 64 * 128 for value in values], np.int32)


class LiveBoard(Board):
    """A board whose whole daemon runs in this process, on a video of 30 frames a second."""

    def __init__(self, cloud: SimulatedCloud, state_dir: Path, **update: object) -> None:
        super().__init__(cloud, state_dir, "porch", {"probation_s": 1.6, "server": cloud.address, **update})
        self.done = array("d")
        self.switches = array("d")
        self.summary: Summary | None = None

    @property
    def config(self) -> DeviceConfig:
        plain = super().config.model_dump(exclude_unset=True)
        plain["source"] = [{"id": "door", "url": str(self.state_dir / "door.avi"), "kind": "video", "loop": True}]
        plain["event"] = [{"name": name, "confirm": 1, "window": 1} for name in ("cat", "dog", "bird")]
        plain["mqtt"] = {"port": 1}  # nobody there: the daemon goes on without a broker
        return DeviceConfig.model_validate(plain)

    def start(self, *, wait: bool = True) -> "LiveBoard":
        video = self.state_dir / "door.avi"
        if not video.exists():
            write_video(video)
        self.daemon = Daemon(self.config)
        self.slot, self.service = self.daemon.slot, self.daemon._updates
        record, fail = self.slot.record, self.slot.record_error

        def timed(scores: Sequence[Scores], ms: float) -> None:
            record(scores, ms)
            self.done.append(time.monotonic())

        def failed() -> None:
            fail()
            self.done.append(time.monotonic())

        self.slot.record, self.slot.record_error = timed, failed
        self.slot.observe(lambda old, new: self.switches.append(time.monotonic()))
        self._thread = threading.Thread(target=self._run, name="daemon")
        self._thread.start()
        if wait:
            self.cloud.wait_connected(self.name)
        return self

    def stop(self) -> None:
        """Stop the daemon, gracefully."""
        self.daemon.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def gaps_ms(self, since: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Times between frames done: all of them, and those with a switch inside."""
        done = np.array([moment for moment in self.done if moment >= since])
        gaps = np.diff(done) * 1e3
        places = np.searchsorted(done, [moment for moment in self.switches if done[0] < moment < done[-1]]) - 1
        return gaps, gaps[places]

    def _run(self) -> None:
        self.summary = self.daemon.run()


def write_video(path: Path, seconds: int = 60) -> None:
    """Dark and bright pictures in turn, a few frames each."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (64, 48))
    for index in range(seconds * FPS):
        level = 225 if (index // _PATTERN_FRAMES) % 2 else 30
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()


def install_faults() -> Callable[[], None]:
    """Let faulty students be faulty; returns how to undo it."""
    real = admission.load
    admission.load = faulty_load(real)
    return lambda: setattr(admission, "load", real)
