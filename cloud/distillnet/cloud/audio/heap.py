"""A heap of sounds nobody labelled: where in it the teacher hears an event, windows of it, and what they are.

Most of a heap holds nothing an application asks for. The teacher hears all of it once; most windows are then drawn
where it heard an event, every event as often as any other. That balance is what makes a heap worth hearing: windows
from anywhere taught students nothing (docs/adr/0017-ears-learn-from-unlabelled-sounds.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillnet.cloud.audio import augment
from distillnet.cloud.audio.clips import RATE_HZ, Clip, audible, windows_of
from distillnet.cloud.audio.teacher import Floats, SoundTeacher
from distillnet.engine.log_mel import Samples
from distillnet.proto.strict import ConfigError

EVENT_SHARE = 0.6
"""Of sounds drawn where the teacher heard an event; the others come from anywhere."""
HEARD = 0.3
"""The teacher's probability of one of an event's classes from which a place is one of the event."""
HARDLY = 0.1
"""The probability below which everywhere a sound is no event."""
SURE = 0.5
"""The probability from which a window certainly holds an event; below, it is `other` in proportion."""
JITTER_S = 0.25
SHORTEST_S = 0.25


@dataclass(frozen=True)
class _Places:
    """Where the teacher heard one event: sound `sound[i]`, at sample `begin[i]`, drawn with probability `weight[i]`."""

    sound: NDArray[np.int64]
    begin: NDArray[np.int64]
    weight: NDArray[np.float64]


@dataclass(frozen=True)
class Heap:
    """Sounds without labels, and where in them each event was heard."""

    sounds: tuple[Samples, ...]
    weight: NDArray[np.float64]
    """Of each sound when one is drawn from anywhere."""
    strange: NDArray[np.int64]
    """The sounds in which the teacher hardly hears an event anywhere."""
    places: tuple[_Places, ...]
    """Of every event that was heard at all."""
    columns: tuple[tuple[int, ...], ...]
    """The teacher's classes of each event."""

    @property
    def hours(self) -> float:
        """How long all sounds are together."""
        return sum(map(len, self.sounds)) / RATE_HZ / 3600

    def draw(self, length: int, rng: np.random.Generator) -> Samples:
        """Return a stretch of a sound, most often one of an event, played at another speed half of the time.

        Returns:
            float32 (length,).

        """
        if not self.places or rng.random() >= EVENT_SHARE:
            return self.anything(length, rng)
        factor, needed = augment.any_speed(length, rng)
        places = self.places[int(rng.integers(len(self.places)))]
        index = int(rng.choice(len(places.sound), p=places.weight))
        sound = self.sounds[places.sound[index]]
        begin = int(places.begin[index] + rng.uniform(-JITTER_S, JITTER_S) * RATE_HZ)
        begin = max(0, min(begin, len(sound) - needed))
        return augment.at_speed(augment.window_from(sound[begin : begin + needed], needed, rng), factor, length)

    def anything(self, length: int, rng: np.random.Generator) -> Samples:
        """Return a stretch of any sound, played at another speed half of the time, float32 (length,)."""
        factor, needed = augment.any_speed(length, rng)
        sound = self.sounds[int(rng.choice(len(self.sounds), p=self.weight))]
        return augment.at_speed(augment.window_from(sound, needed, rng), factor, length)

    def strangers(self, count: int, rng: np.random.Generator) -> list[Samples]:
        """Return stretches of up to 5 s of sounds that are no event, as many as there are, up to `count`."""
        chosen = rng.permutation(self.strange)[:count]
        return [augment.window_from(self.sounds[i], min(len(self.sounds[i]), 5 * RATE_HZ), rng) for i in chosen]

    def answers(self, said: Floats, probabilities: Floats) -> Floats:
        """Return what windows are: an event as far as the teacher hears one at all, else `other`.

        Which event, the head and the teacher's own classes say together, by the geometric mean of their shares: the
        head knows the application's few recordings, the classes far more of the world.

        Args:
            said: what the head on the teacher's features says, float32 (N, K+1), sums 1.
            probabilities: the teacher's own classes, float32 (N, C).

        """
        strongest = _strongest(probabilities, self.columns)
        both = np.sqrt(_shares(said[:, :-1]) * _shares(strongest))
        heard = np.minimum(1.0, strongest.max(1, keepdims=True) / SURE)
        events = _shares(both) * said[:, :-1].sum(1, keepdims=True) * heard
        return np.concatenate([events, 1.0 - events.sum(1, keepdims=True)], axis=1).astype(np.float32)


def listen(clips: Sequence[Clip], columns: Sequence[Sequence[int]], teacher: SoundTeacher) -> Heap:
    """Let the teacher hear a heap.

    Args:
        clips: the sounds; their labels are not looked at. What is silent or too short is left out.
        columns: the teacher's classes of each event.
        teacher: one that has classes.

    Raises:
        ConfigError: nothing is left.

    """
    sounds: list[Samples] = []
    which, begins, probabilities = [], [], []
    for clip in clips:
        windows = windows_of(clip.samples, teacher.samples, teacher.samples // 2)
        loud = np.flatnonzero(audible(windows))
        if len(loud) == 0 or len(clip.samples) < SHORTEST_S * RATE_HZ:
            continue
        logits, _ = teacher.hear(windows[loud])
        probabilities.append(teacher.probabilities(logits))
        which.append(np.full(len(loud), len(sounds)))
        begins.append(loud * (teacher.samples // 2))
        sounds.append(clip.samples)
    if not sounds:
        raise ConfigError(f"[data] unlabelled: every sound is silent or shorter than {SHORTEST_S:g} s")
    heard = _strongest(np.concatenate(probabilities), columns)
    sound, begin = np.concatenate(which), np.concatenate(begins)
    places = [_places(sound[own], begin[own]) for own in heard.T >= HEARD if own.any()]
    strange = np.setdiff1d(np.arange(len(sounds)), sound[heard.max(1) >= HARDLY])
    lengths = np.sqrt([len(samples) for samples in sounds])
    return Heap(tuple(sounds), lengths / lengths.sum(), strange, tuple(places), tuple(map(tuple, columns)))


def _places(sound: NDArray[np.int64], begin: NDArray[np.int64]) -> _Places:
    """A sound that goes on for long is drawn more often than a short one, but not in proportion."""
    _, inverse, counts = np.unique(sound, return_inverse=True, return_counts=True)
    weight = 1 / np.sqrt(counts[inverse])
    return _Places(sound, begin, weight / weight.sum())


def _shares(values: Floats) -> Floats:
    """Return rows that sum to 1; none is quite 0."""
    values = values + np.float32(1e-4)
    return np.asarray(values / values.sum(1, keepdims=True), np.float32)


def _strongest(probabilities: Floats, columns: Sequence[Sequence[int]]) -> Floats:
    """Return the strongest class of each event, float32 (N, K)."""
    return np.stack([probabilities[:, list(own)].max(1) for own in columns], axis=1)
