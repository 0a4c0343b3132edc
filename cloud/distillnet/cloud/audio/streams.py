"""Long streams with truth: clips at stated SNRs over noise, other sounds between them; what is found, what is false.

A stream's clips, order and noise follow from its seed. Thresholds are chosen on streams of training clips and of sounds
that are nothing (`strangers`); test streams only count. The measures are those of Mesaros et al. (Applied Sciences
6(6), 2016), counted as sed_eval counts them, with false alarms per hour beside them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillnet.cloud.audio import augment
from distillnet.cloud.audio.clips import RATE_HZ, Clip
from distillnet.cloud.audio.heap import Heap
from distillnet.cloud.audio.teacher import Floats, SoundTeacher
from distillnet.engine.frontend import Listener
from distillnet.engine.log_mel import Samples
from distillnet.engine.student import Student

MINUTES = 60.0
SNRS_DB = (20.0, 10.0, 0.0)
GAP_S = (3.0, 9.0)
BACKGROUND_RMS = 0.01
SMOOTHED = 3
"""Decisions whose median must reach the threshold."""
COLLAR_S = 1.5
"""How far a detection may lie from a sound it is to be of: about a window's length."""
LASTING_S = 10.0
"""An alarm that does not end is a new one after so long; else one that never ends would be right about everything."""
LOWEST, HIGHEST = 0.02, 0.9995
SHIFTS = np.linspace(-8.0, 8.0, 65)
"""Points of the curve: all thresholds moved together, on the scale of log-odds."""

Hear = Callable[[Samples], tuple[NDArray[np.float64], Floats]]
"""A stream at `RATE_HZ` to the times of decisions (n,), in seconds, and the events' scores (n, K)."""


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


def strangers(clips: Sequence[Clip], count: int, seed: int) -> list[Clip]:
    """Make sounds that are no event: invented ones, and clips estranged beyond what they were; 1–5 s."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        length = int(rng.uniform(1.0, 5.0) * RATE_HZ)
        if index % 2 == 0:
            sound = augment.invented(length, rng)
        else:
            sound = augment.estranged(
                augment.window_from(clips[int(rng.integers(len(clips)))].samples, length, rng), rng
            )
        made.append(Clip(Path(f"stranger-{index}"), "", f"stranger-{index}", augment.shaken(sound, rng)))
    return made


def student_hears(student: Student) -> Hear:
    """Let a student listen, with its front-end, at its own pace."""

    def hear(stream: Samples) -> tuple[NDArray[np.float64], Floats]:
        listener = Listener(student, RATE_HZ)
        heard = [hearing for part in np.array_split(stream, 200) for hearing in listener.push(part)]
        scores = np.stack([hearing.scores for hearing in heard if hearing.scores is not None])
        return np.array([hearing.t for hearing in heard]), scores[:, :-1]

    return hear


def teacher_hears(teacher: SoundTeacher, columns: Sequence[Sequence[int]], stride: int) -> Hear:
    """Let the teacher listen as it is, every `stride` samples; an event's score is the most of its classes'."""

    def hear(stream: Samples) -> tuple[NDArray[np.float64], Floats]:
        windows = np.lib.stride_tricks.sliding_window_view(stream, teacher.samples)[::stride]
        heard = teacher.probabilities(teacher.hear(windows)[0])
        scores = np.stack([heard[:, list(own)].max(axis=1) for own in columns], axis=1)
        return (np.arange(len(windows)) * stride + teacher.samples) / RATE_HZ, scores

    return hear


def thresholds(
    hear: Hear,
    clips: Sequence[Clip],
    events: Sequence[str],
    *,
    per_hour: float,
    seed: int,
    heap: Heap | None = None,
    minutes: float = MINUTES,
) -> list[float]:
    """Choose each event's threshold on a stream: the lowest that keeps its part of `per_hour` false alarms.

    Args:
        hear: who listens.
        clips: sounds that are not test data; strangers are added, one for every clip, and as many from the heap.
        events: the K events' names.
        per_hour: false alarms borne, of all events together.
        seed: of the stream.
        heap: sounds without labels, or none.
        minutes: of the stream.

    """
    strange = strangers(clips, len(clips), seed)
    if heap is not None:
        found = heap.strangers(len(clips), np.random.default_rng(seed))
        strange += [Clip(Path(f"heap-{index}"), "", f"heap-{index}", sound) for index, sound in enumerate(found)]
    stream, truths = build([*clips, *strange], seed + 1000, minutes)
    times, scores = hear(stream)
    smooth = _median(scores, SMOOTHED)
    most = per_hour / len(events) * minutes / 60
    grid = _moved(np.full(1, 0.5), np.linspace(-4.0, 7.6, 59)[:, np.newaxis])[:, 0]
    chosen = []
    for index, event in enumerate(events):
        own = [truth for truth in truths if truth.label == event]
        allowed = [value for value in grid if _found(times, smooth[:, index] >= value, own)[1] <= most]
        chosen.append(float(min(allowed, default=HIGHEST)))
    return chosen


def evaluate(
    hear: Hear,
    enter: Sequence[float],
    clips: Sequence[Clip],
    events: Sequence[str],
    *,
    seed: int,
    minutes: float = MINUTES,
) -> dict[str, Any]:
    """Listen to an hour of held-out clips and count, at the thresholds given and with all of them moved together.

    Returns:
        `hours`, `episodes` (n of the events), `shifts` and per shift `found` and `false_alarms`; `at_threshold`: the
        same at the thresholds given, by SNR too, with event-based and segment-based counts.

    """
    stream, truths = build(clips, seed, minutes)
    times, scores = hear(stream)
    smooth = _median(scores, SMOOTHED)
    episodes = [truth for truth in truths if truth.label in events]
    found, alarms, by_snr = [], [], []
    for shift in (0.0, *SHIFTS):
        hits, wrong = _count(times, smooth, events, truths, _moved(np.asarray(enter), shift))
        found.append(len(hits))
        alarms.append(wrong)
        by_snr.append([sum(hit.snr_db == snr for hit in hits) for snr in SNRS_DB])
    return {
        "hours": len(stream) / RATE_HZ / 3600,
        "episodes": len(episodes),
        "episodes_by_snr": [sum(truth.snr_db == snr for truth in episodes) for snr in SNRS_DB],
        "thresholds": [round(value, 4) for value in enter],
        "at_threshold": {"found": found[0], "false_alarms": alarms[0], "by_snr": by_snr[0]}
        | _measures(times, smooth, events, truths, np.asarray(enter), len(stream) / RATE_HZ),
        "found": found[1:],
        "false_alarms": alarms[1:],
        "by_snr": by_snr[1:],
    }


def _count(
    times: NDArray[np.float64],
    scores: Floats,
    events: Sequence[str],
    truths: Sequence[Truth],
    enter: NDArray[np.float64],
) -> tuple[list[Truth], int]:
    """Return the true episodes found and the number of false alarms."""
    hits: list[Truth] = []
    wrong = 0
    for index, event in enumerate(events):
        own = [truth for truth in truths if truth.label == event]
        touched, false = _found(times, scores[:, index] >= enter[index], own)
        hits += [own[place] for place in sorted(touched)]
        wrong += false
    return hits, wrong


def _found(times: NDArray[np.float64], on: NDArray[np.bool_], own: Sequence[Truth]) -> tuple[set[int], int]:
    """Return which of the true sounds are met, and the false alarms: what is on away from them, one per ten seconds."""
    met: set[int] = set()
    away = on.copy()
    for place, truth in enumerate(own):
        begin, end = np.searchsorted(times, [truth.start_s - COLLAR_S, truth.end_s + COLLAR_S])
        if on[begin:end].any():
            met.add(place)
        away[begin:end] = False
    return met, sum(1 + int((end_s - start_s) / LASTING_S) for start_s, end_s in _runs(times, away))


def _runs(times: NDArray[np.float64], on: NDArray[np.bool_]) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], on.astype(np.int8), [0]])))
    return [(float(times[a]), float(times[b - 1])) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _measures(
    times: NDArray[np.float64],
    scores: Floats,
    events: Sequence[str],
    truths: Sequence[Truth],
    enter: NDArray[np.float64],
    seconds: float,
) -> dict[str, Any]:
    """Count true and false positives and false negatives: by onset within the collar, one to one, and by second.

    `delay_s`: from the onset of a sound that is found to the first decision for it, median.
    """
    by_event, by_segment = np.zeros(3, np.int64), np.zeros(3, np.int64)
    delays: list[float] = []
    for index, event in enumerate(events):
        own = [truth for truth in truths if truth.label == event]
        runs = _runs(times, scores[:, index] >= enter[index])
        free = list(own)
        true = 0
        for start_s, _ in runs:
            match = next((t for t in free if abs(t.start_s - start_s) <= COLLAR_S), None)
            if match is not None:
                free.remove(match)
                true += 1
        for truth in own:
            delays += [start_s - truth.start_s for start_s, _ in runs if truth.start_s <= start_s <= truth.end_s][:1]
        by_event += [true, len(runs) - true, len(own) - true]
        there, said = np.zeros(int(seconds) + 1, bool), np.zeros(int(seconds) + 1, bool)
        for truth in own:
            there[int(truth.start_s) : int(np.ceil(truth.end_s))] = True
        for start_s, end_s in runs:
            said[int(max(0.0, start_s - 1.0)) : int(np.ceil(end_s))] = True  # a decision speaks of the second before it
        by_segment += [int((there & said).sum()), int((~there & said).sum()), int((there & ~said).sum())]
    return {
        "by_event": by_event.tolist(),
        "by_segment": by_segment.tolist(),
        "delay_s": round(float(np.median(delays)), 2) if delays else None,
    }


def _moved(enter: NDArray[np.float64], shift: float | NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.log(enter / (1 - enter)) + shift
    return np.clip(1 / (1 + np.exp(-odds)), LOWEST, HIGHEST)


def _median(scores: Floats, count: int) -> Floats:
    padded = np.concatenate([np.repeat(scores[:1], count - 1, axis=0), scores])
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, count, axis=0), axis=-1), np.float32)


def _audible_part(samples: Samples) -> Samples:
    """Cut digital silence off both ends."""
    loud = np.flatnonzero(np.abs(samples) > 1e-4)
    return samples if len(loud) == 0 else samples[loud[0] : loud[-1] + 1]
