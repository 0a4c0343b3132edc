"""The model slot: a switch falls between two frames, is seen by observers, and keeps each student's figures apart."""

import threading
import time

import numpy as np
import pytest

from distillnet.device.slot import ModelSlot, SwapError
from distillnet.engine.student import Student


@pytest.fixture(scope="module")
def one(student_bytes: bytes) -> Student:
    return Student.load(student_bytes)


@pytest.fixture(scope="module")
def two(other_student_bytes: bytes) -> Student:
    return Student.load(other_student_bytes)


def test_without_an_inference_thread_a_swap_is_immediate(one: Student, two: Student) -> None:
    slot = ModelSlot()
    assert slot.current() is None and slot.previous() is None
    slot.swap(one)
    slot.swap(two)
    assert slot.current() is two
    assert slot.previous() is not None and slot.previous().digest == one.digest  # type: ignore[union-attr]


def test_swap_returns_when_the_inference_thread_has_switched(one: Student, two: Student) -> None:
    slot = ModelSlot(one)
    running, seen, stop = threading.Event(), [], threading.Event()

    def infer() -> None:
        while not stop.is_set():
            seen.append(slot.take())
            running.set()
            time.sleep(0.001)

    observed: list[tuple[object, object, str]] = []
    slot.observe(lambda old, new: observed.append((old, new, threading.current_thread().name)))
    slot.serve(lambda: None)
    thread = threading.Thread(target=infer, name="infer")
    thread.start()
    running.wait()
    slot.swap(two)
    assert slot.current() is two
    stop.set()
    thread.join()
    assert observed == [(one, two, "infer")]
    assert seen == sorted(seen, key=lambda s: s is two), "never back"


def test_a_swap_nobody_takes_is_withdrawn(one: Student, two: Student) -> None:
    slot = ModelSlot(one)
    slot.serve(lambda: None)
    with pytest.raises(SwapError, match="did not reach"):
        slot.swap(two, timeout_s=0.05)
    assert slot.take() is one


def test_behaviour_counts_one_student_only(one: Student, two: Student) -> None:
    now = [0.0]
    slot = ModelSlot(one, clock=lambda: now[0])
    scores = np.array([0.5, 0.25, 0.25], np.float32)
    for _ in range(4):
        slot.record([scores], 2.0)
    slot.record_event()
    slot.record_dropped(3)
    now[0] = 2.0
    slot.swap(two)
    slot.record_error()
    before, after = slot.previous(), slot.behaviour()
    assert before is not None
    assert (before.frames, before.events, before.dropped, before.errors) == (4, 1, 3, 0)
    assert before.events_per_s == 0.5 and before.latency_ms(0.99) == 2.0
    assert before.mean_scores == {"red": 0.5, "green": 0.25, "other": 0.25}
    assert (after.frames, after.errors, after.latency_ms(0.5), after.digest) == (0, 1, None, two.digest)


def test_a_shadow_sees_every_inference_and_a_failing_one_is_removed(one: Student) -> None:
    slot = ModelSlot(one)
    seen: list[object] = []

    class Shadow:
        def saw(self, pixels: object, zone: object, scores: object) -> None:
            seen.append(zone)
            if len(seen) == 2:
                raise RuntimeError("bad shadow")

        def heard(self, chunk: object, decisions: object, gated: bool) -> None:
            raise AssertionError("nothing sounds")

    slot.set_shadow(Shadow())
    for _ in range(4):
        slot.record_look(np.zeros((1, 1, 3), np.uint8), [(0, 0, 1, 1)], [np.ones(3, np.float32)], 1.0)
    assert len(seen) == 2


def test_frames_that_nobody_could_see_are_not_dropped() -> None:
    slot = ModelSlot()
    slot.record_dropped(5)
    assert slot.behaviour().dropped == 0
