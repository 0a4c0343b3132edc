"""Long test streams with truth: held-out clips at stated SNRs over noise, sounds of other classes between them.

Recall against false alarms per hour, for every threshold. The clips, the order and the noise follow from the seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillnet.cloud.audio import augment
from distillnet.cloud.audio.clips import RATE_HZ, Clip
from distillnet.engine.frontend import Listener
from distillnet.engine.log_mel import Samples
from distillnet.engine.student import Student

MINUTES = 15
SNRS_DB = (20.0, 10.0, 0.0)
GAP_S = (3.0, 9.0)
BACKGROUND_RMS = 0.01
SMOOTHED = 3
"""Decisions whose median must reach the threshold."""
COLLAR_S = 1.5
THRESHOLDS = np.concatenate([np.linspace(0.05, 0.95, 19), [0.97, 0.98, 0.99, 0.995, 0.999]])


@dataclass(frozen=True)
class Truth:
    """One sound in a stream. `label` may be no event of the student."""

    label: str
    start_s: float
    end_s: float
    snr_db: float


def build(clips: Sequence[Clip], seed: int, minutes: float = MINUTES) -> tuple[Samples, list[Truth]]:
    """Mix a stream: each clip once, in turn, until the time is over; then again at another SNR."""
    rng = np.random.default_rng(seed)
    length = int(minutes * 60 * RATE_HZ)
    stream = np.concatenate(
        [augment.coloured_noise(RATE_HZ * 60, rng) * BACKGROUND_RMS for _ in range(int(np.ceil(minutes)))]
    )[:length]
    truths: list[Truth] = []
    at = int(GAP_S[0] * RATE_HZ)
    order = list(rng.permutation(len(clips)))
    while True:
        if not order:
            order = list(rng.permutation(len(clips)))
        clip = clips[order.pop()]
        sound = _audible_part(clip.samples)
        if at + len(sound) >= length:
            return stream.astype(np.float32), truths
        snr_db = float(rng.choice(SNRS_DB))
        rms = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))) or 1.0
        stream[at : at + len(sound)] += sound * (BACKGROUND_RMS / rms) * 10 ** (snr_db / 20)
        truths.append(Truth(clip.label, at / RATE_HZ, (at + len(sound)) / RATE_HZ, snr_db))
        at += len(sound) + int(rng.uniform(*GAP_S) * RATE_HZ)


def evaluate(student_file: bytes, clips: Sequence[Clip], events: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Listen to a stream of held-out clips and count, for every threshold.

    Returns:
        `hours`, `thresholds`, and per threshold `found` and `false_alarms`; `episodes` (n) of the events, by SNR too.

    """
    stream, truths = build(clips, seed)
    student = Student.load(student_file)
    listener = Listener(student, RATE_HZ)
    heard = [hearing for part in np.array_split(stream, 200) for hearing in listener.push(part)]
    times = np.array([hearing.t for hearing in heard])
    scores = np.stack([hearing.scores for hearing in heard if hearing.scores is not None])
    smooth = _median(scores, SMOOTHED)
    episodes = [truth for truth in truths if truth.label in events]
    found, alarms, by_snr = [], [], {f"{snr:g}": [0] * len(THRESHOLDS) for snr in SNRS_DB}
    for place, threshold in enumerate(THRESHOLDS):
        hits, wrong = _count(times, smooth, events, truths, float(threshold))
        found.append(len(hits))
        alarms.append(wrong)
        for truth in hits:
            by_snr[f"{truth.snr_db:g}"][place] += 1
    return {
        "hours": len(stream) / RATE_HZ / 3600,
        "thresholds": [round(float(value), 4) for value in THRESHOLDS],
        "found": found,
        "false_alarms": alarms,
        "episodes": len(episodes),
        "others": len(truths) - len(episodes),
        "found_by_snr": by_snr,
        "episodes_by_snr": {f"{snr:g}": sum(t.snr_db == snr for t in episodes) for snr in SNRS_DB},
    }


def _count(
    times: NDArray[np.float64],
    scores: NDArray[np.float32],
    events: Sequence[str],
    truths: Sequence[Truth],
    threshold: float,
) -> tuple[list[Truth], int]:
    """Return the true episodes found and the number of false alarms: runs of detections that touch no true episode."""
    hits: list[Truth] = []
    wrong = 0
    for index, event in enumerate(events):
        own = [truth for truth in truths if truth.label == event]
        on = scores[:, index] >= threshold
        edges = np.flatnonzero(np.diff(np.concatenate([[0], on.astype(np.int8), [0]])))
        touched: set[int] = set()
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            start_s, end_s = times[begin] - COLLAR_S, times[end - 1] + COLLAR_S
            met = [place for place, truth in enumerate(own) if truth.start_s < end_s and truth.end_s > start_s]
            touched.update(met)
            wrong += not met
        hits += [own[place] for place in sorted(touched)]
    return hits, wrong


def _median(scores: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    padded = np.concatenate([np.repeat(scores[:1], count - 1, axis=0), scores])
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, count, axis=0), axis=-1), np.float32)


def _audible_part(samples: Samples) -> Samples:
    """Cut digital silence off both ends."""
    loud = np.flatnonzero(np.abs(samples) > 1e-4)
    return samples if len(loud) == 0 else samples[loud[0] : loud[-1] + 1]
