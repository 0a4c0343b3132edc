"""What a place scores without an event, learned while it is watched: scores are moved by how it differs from the usual.

A student is surer of one empty shelf than of another, and surer of it by day. A threshold that is right for all of them
lies too high or too low for each. So each zone has a baseline that follows its scores, in log-odds: down within
`FALLS_S`, for less than this the place without the event does not score; up within `RISES_S`, so that an event is
announced long before it becomes what is usual; and not at all while it is on. It stays above where scores are so near
to zero that what is between them says nothing.
"""

import math
from typing import NamedTuple

FALLS_S, RISES_S = 0.5, 10.0
"""Time constants, seconds."""
LOWEST = 1.5
"""How far below the usual a baseline may lie, log-odds."""
LONGEST_S = 1.0
"""A gap between two scores counts for no more: what happened in it is not known."""
_LEAST = 1e-6


class Baseline(NamedTuple):
    """What a place scores: log-odds, after the score at `t`."""

    height: float
    t: float


def moved(score: float, baseline: Baseline, usual: float) -> float:
    """Return a score (0–1) as it would be in a place that usually scores `usual`."""
    expected = log_odds(usual)
    height = max(baseline.height, expected - LOWEST)
    return 1.0 / (1.0 + math.exp(-(log_odds(score) - height + expected)))


def followed(baseline: Baseline, score: float, t: float) -> Baseline:
    """Return the baseline after a score (0–1) at `t`, seconds."""
    height = log_odds(score)
    time_constant = FALLS_S if height < baseline.height else RISES_S
    share = 1.0 - math.exp(-min(t - baseline.t, LONGEST_S) / time_constant)
    return Baseline(baseline.height + share * (height - baseline.height), t)


def log_odds(score: float) -> float:
    """Return those of a score; of 0 and 1 those of a millionth away from them."""
    inside = min(max(score, _LEAST), 1.0 - _LEAST)
    return math.log(inside / (1.0 - inside))
