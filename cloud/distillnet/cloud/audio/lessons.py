"""What a student learns from: many augmented windows of the training clips, heard by the teacher and by the student.

Windows are made once and kept; training then only shifts and masks their features. The same augmented waveform goes to
both, so the teacher answers for what the student hears.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distillnet.cloud.audio import augment
from distillnet.cloud.audio.clips import Clip, audible, windows_of
from distillnet.cloud.audio.heap import Heap
from distillnet.cloud.audio.teacher import Floats, SoundTeacher, train_head
from distillnet.engine.frontend import LogMel
from distillnet.engine.log_mel import Samples
from distillnet.proto.card import AudioInput

FRONT_END = AudioInput(
    window_samples=256,
    hop_samples=244,
    fft_samples=256,
    mel_bands=32,
    low_hz=60.0,
    high_hz=7800.0,
    log_offset=0.01,
    frames=64,
    stride_frames=32,
    mean=0.0,
    scale=1.0,
)
"""64 rows a window: as many as the engine's front-end analyses in four goes; a window lasts as long as YAMNet's."""
MIXED_SHARE = 0.5
"""Of windows in which a second sound lies under the first; the teacher answers for the very mixture."""
HEAP_SHARE = 0.5
"""Of windows that come from the heap, where there is one, and of sounds that lie under a clip."""


@dataclass(frozen=True)
class Lessons:
    """One augmented window per row; `other` is the last of the K+1 outputs."""

    features: Floats
    """float32 (N, frames, bands), normalised."""
    truth: Floats
    """What the labels say, mixtures shared: float32 (N, K+1), sums 1."""
    taught: Floats
    """What the teacher's head says: float32 (N, K+1), sums 1."""
    logits: Floats
    """The teacher's own classes: float32 (N, C)."""
    embedding: Floats
    """The teacher's features: float32 (N, F)."""
    spec: AudioInput
    """The front-end, with the mean and scale that were measured on these."""


def span_samples(spec: AudioInput) -> int:
    """Return how many samples one window of the student hears."""
    return (spec.frames - 1) * spec.hop_samples + spec.window_samples


def clip_windows(samples: Samples, spec: AudioInput, stride: int | None = None) -> NDArray[np.float32]:
    """Cut a clip into windows of the student's length where there is sound, float32 (n ≥ 1, length)."""
    windows = windows_of(samples, span_samples(spec), stride or spec.stride_frames * spec.hop_samples)
    loud = audible(windows)
    return windows[loud] if loud.any() else windows


def features_of(windows: NDArray[np.float32], spec: AudioInput) -> Floats:
    """Return the log-mel of windows, float32 (N, frames, bands), by the engine's front-end."""
    ears = LogMel(spec)
    rows = np.zeros((len(windows), spec.frames, spec.mel_bands), np.float32)
    for index, window in enumerate(windows):
        ears.reset()
        rows[index] = ears.features(window)
    return rows


def for_teacher(windows: NDArray[np.float32], teacher: SoundTeacher) -> Floats:
    """Return the middle of each window, as long as the teacher hears."""
    missing = teacher.samples - windows.shape[1]
    if missing > 0:
        return np.pad(windows, ((0, 0), (missing // 2, missing - missing // 2)))
    begin = -missing // 2
    return windows[:, begin : begin + teacher.samples]


def teacher_head(
    clips: Sequence[Clip], names: Sequence[str], teacher: SoundTeacher, spec: AudioInput, seed: int
) -> torch.nn.Module:
    """Train the events' head on the teacher's features of the clean clips: (N, F) to (N, len(names))."""
    features, targets = [], []
    for clip in clips:
        if clip.label in names:
            _, embedding = teacher.hear(for_teacher(clip_windows(clip.samples, spec), teacher))
            features.append(embedding)
            targets.append(
                np.tile(np.eye(len(names), dtype=np.float32)[list(names).index(clip.label)], (len(embedding), 1))
            )
    return train_head(np.concatenate(features), np.concatenate(targets), seed=seed)


def make(
    clips: Sequence[Clip],
    events: Sequence[str],
    teacher: SoundTeacher,
    count: int,
    *,
    heap: Heap | None = None,
    strange_share: float = 0.0,
    seed: int = 0,
    spec: AudioInput = FRONT_END,
) -> Lessons:
    """Make `count` windows from the clips and the heap; those from the heap come last.

    Args:
        clips: the training clips; labels that are no event are `other`.
        events: the K events' names.
        teacher: answers for every window.
        count: of windows.
        heap: sounds without labels, or none; the teacher says what they are.
        strange_share: of the clips' windows that are invented sounds, noise or estranged clips: all `other`.
        seed: of everything random.
        spec: the front-end; its mean and scale are measured here.

    """
    rng = np.random.default_rng(seed)
    outputs = len(events) + 1
    labels = np.array([events.index(c.label) if c.label in events else outputs - 1 for c in clips])
    by_label = [np.flatnonzero(labels == label) for label in range(outputs) if np.any(labels == label)]
    windows = np.zeros((count, span_samples(spec)), np.float32)
    truth = np.zeros((count, outputs), np.float32)
    own = count if heap is None else count - round(count * HEAP_SHARE)
    strange = (rng.random(count) < strange_share) & (np.arange(count) < own)
    for index in range(count):
        if heap is not None and index >= own:
            windows[index] = _from_heap(heap, windows.shape[1], rng)
        else:
            windows[index], truth[index] = _one(
                clips, labels, by_label, bool(strange[index]), windows.shape[1], outputs, rng, heap
            )
    logits, embedding = teacher.hear(for_teacher(windows, teacher))
    head = teacher_head(clips, [*events, *_others(clips, events)], teacher, spec, seed)
    with torch.inference_mode():
        said = torch.softmax(head(torch.from_numpy(embedding)), 1).numpy()
    taught = np.concatenate([said[:, : len(events)], said[:, len(events) :].sum(1, keepdims=True)], axis=1)
    taught[strange] = truth[strange]
    if heap is not None:
        taught[own:] = truth[own:] = heap.answers(taught[own:], teacher.probabilities(logits[own:]))
    features = features_of(windows, spec)
    measured = spec.model_copy(update={"mean": float(features.mean()), "scale": float(features.std() * 2)})
    return Lessons(
        features=(features - measured.mean) / measured.scale,
        truth=truth,
        taught=taught.astype(np.float32),
        logits=logits,
        embedding=embedding,
        spec=measured,
    )


def _others(clips: Sequence[Clip], events: Sequence[str]) -> list[str]:
    return sorted({clip.label for clip in clips} - set(events))


def _one(
    clips: Sequence[Clip],
    labels: NDArray[np.int64],
    by_label: Sequence[NDArray[np.int64]],
    strange: bool,
    length: int,
    outputs: int,
    rng: np.random.Generator,
    heap: Heap | None,
) -> tuple[Samples, Floats]:
    def draw() -> tuple[Samples, int]:
        index = int(rng.choice(by_label[int(rng.integers(len(by_label)))]))
        factor, needed = augment.any_speed(length, rng)
        sound = augment.window_from(clips[index].samples, needed, rng)
        return augment.at_speed(sound, factor, length), int(labels[index])

    share = np.zeros(outputs, np.float32)
    sound, label = draw()
    if strange:
        share[-1] = 1.0
        kind = rng.random()
        if kind < 0.5:
            sound = augment.invented(length, rng)
        elif kind < 0.65:
            sound = augment.coloured_noise(length, rng) * np.float32(0.1)
        else:
            sound = augment.estranged(sound, rng)
        return augment.shaken(sound, rng), share
    share[label] = 1.0
    if rng.random() < MIXED_SHARE:
        if heap is not None and rng.random() < HEAP_SHARE:
            second, other = heap.anything(length, rng), outputs - 1
        else:
            second, other = draw()
        snr_db = rng.uniform(0.0, 20.0)
        sound = augment.mixed(sound, second, snr_db)
        weight = 0.5 * 10 ** (-snr_db / 20)
        share[label] -= weight
        share[other] += weight
    return augment.shaken(sound, rng), share


def _from_heap(heap: Heap, length: int, rng: np.random.Generator) -> Samples:
    sound = heap.draw(length, rng)
    if rng.random() < MIXED_SHARE:
        sound = augment.mixed(sound, heap.draw(length, rng), rng.uniform(0.0, 20.0))
    return augment.shaken(sound, rng)
