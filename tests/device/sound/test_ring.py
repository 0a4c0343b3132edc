"""What the sound card wrote is what the reader gets, in order; what was lost is counted."""

import threading

import numpy as np

from distillnet.device.sound.ring import Ring


def ramp(begin: int, end: int) -> np.ndarray:
    return np.arange(begin, end, dtype=np.float32)


def test_samples_come_out_in_order_around_the_end() -> None:
    ring = Ring(10)
    for begin in range(0, 40, 4):
        ring.write(ramp(begin, begin + 4))
        taken = ring.take(4, 0)
        assert taken is not None
        np.testing.assert_array_equal(taken.samples, ramp(begin, begin + 4))
        assert (taken.lost, taken.position) == (0, begin)
    assert ring.overruns == 0


def test_a_late_reader_gets_the_latest_and_how_many_were_lost() -> None:
    ring = Ring(10)
    ring.write(ramp(0, 8))
    ring.write(ramp(8, 15))
    taken = ring.take(10, 0)
    assert taken is not None
    np.testing.assert_array_equal(taken.samples, ramp(5, 15))
    assert (taken.lost, taken.position, ring.overruns) == (5, 5, 1)


def test_more_at_once_than_the_ring_holds() -> None:
    ring = Ring(10)
    ring.write(ramp(0, 25))
    taken = ring.take(10, 0)
    assert taken is not None
    np.testing.assert_array_equal(taken.samples, ramp(15, 25))
    assert (taken.lost, taken.position) == (15, 15)


def test_what_the_driver_lost_is_counted_and_moves_the_clock() -> None:
    ring = Ring(10)
    ring.write(ramp(0, 5))
    assert ring.take(5, 0) is not None
    ring.write(ramp(5, 10), lost=7)
    taken = ring.take(5, 0)
    assert taken is not None
    assert (taken.lost, taken.position, ring.overruns) == (7, 12, 1)


def test_the_reader_waits_for_the_writer_and_is_let_go_at_the_end() -> None:
    ring = Ring(10)
    assert ring.take(3, 0) is None
    writer = threading.Thread(target=lambda: (ring.write(ramp(0, 4)), ring.close()))
    writer.start()
    first = ring.take(3, 5)
    rest = ring.take(3, 5)
    writer.join()
    assert first is not None and len(first.samples) == 3
    assert rest is not None and len(rest.samples) == 1
    assert ring.take(3, 5) is None
