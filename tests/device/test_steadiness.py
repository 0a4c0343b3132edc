"""The soak's judgement: memory that wanders without growing must not be called a leak, and a leak must be seen."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from steadiness import slope

_HOUR_S = np.arange(0, 3600, 0.5)


def _wandering(seed: int, correlation: float = 0.98) -> np.ndarray:
    """An hour of samples, float64 (7200,), alike for half a minute; spread 1."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, np.sqrt(1 - correlation**2), len(_HOUR_S))
    values = np.empty(len(_HOUR_S))
    values[0] = rng.normal()
    for index in range(1, len(values)):
        values[index] = correlation * values[index - 1] + steps[index]
    return values


def test_the_interval_holds_a_slope_of_zero_nineteen_times_in_twenty_though_samples_follow_one_another() -> None:
    held = [abs(rise) <= half for rise, half in (slope(_HOUR_S, _wandering(seed)) for seed in range(200))]
    assert np.mean(held) >= 0.92


def test_a_leak_of_four_spreads_an_hour_is_no_zero() -> None:
    found = [slope(_HOUR_S, _wandering(seed) + 4 * _HOUR_S / 3600) for seed in range(50)]
    assert np.mean([rise - half > 0 for rise, half in found]) >= 0.95
