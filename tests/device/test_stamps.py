"""When a live picture was taken: by its source's stamps where it gives any, never later than it arrived."""

import itertools

import numpy as np
import pytest

from distillnet.device.rate import Rate
from distillnet.device.stamps import SourceClock

PERIOD_S = 1 / 15


def dated(stamps: np.ndarray, arrivals: np.ndarray) -> np.ndarray:
    clock = SourceClock()
    return np.array([clock.taken(float(s), float(a)) for s, a in zip(stamps, arrivals, strict=True)])


def test_what_the_network_delays_unevenly_is_dated_evenly() -> None:
    rng = np.random.default_rng(3)
    stamps = 7.0 + np.arange(300) * PERIOD_S
    arrivals = np.maximum.accumulate(5000.0 + np.arange(300) * PERIOD_S + rng.exponential(0.05, 300))
    taken = dated(stamps, arrivals)
    assert np.all(taken <= arrivals)
    assert np.all(np.diff(taken) >= 0)
    assert np.abs(np.diff(taken)[50:] - PERIOD_S).max() < 0.003 < np.abs(np.diff(arrivals) - PERIOD_S).max()


def test_a_camera_that_stamps_with_this_very_clock_is_believed() -> None:
    stamps = 5000.0 + np.arange(20) * PERIOD_S
    assert np.array_equal(dated(stamps, stamps + 0.03), stamps)


def test_without_stamps_a_picture_was_taken_when_it_arrived() -> None:
    arrivals = 5000.0 + np.arange(20) * PERIOD_S
    assert np.array_equal(dated(np.zeros(20), arrivals), arrivals)


def test_stamps_that_begin_anew_begin_a_new_count() -> None:
    stamps = np.concatenate([np.arange(1, 21), np.arange(1, 21)]) * PERIOD_S
    arrivals = 5000.0 + np.arange(40) * PERIOD_S
    assert np.abs(dated(stamps, arrivals) - arrivals).max() < 1e-6


@pytest.mark.parametrize("drift", [-200e-6, 200e-6])
def test_a_clock_that_drifts_for_hours_is_followed(drift: float) -> None:
    arrivals = 5000.0 + np.arange(0, 4 * 3600, 0.5)
    stamps = 9.0 + (arrivals - 5000.0) * (1 + drift)
    assert np.abs(dated(stamps, arrivals) - arrivals).max() < 0.02


def test_a_rate_lets_evenly_through() -> None:
    rate, times = Rate(10.0), np.arange(300) / 30
    let = [t for t in times.tolist() if rate.wants(t)]
    assert len(let) == 100
    assert all(abs(late - early - 0.1) < 0.04 for early, late in itertools.pairwise(let))
