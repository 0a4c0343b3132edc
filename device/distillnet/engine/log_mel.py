"""The ears' front-end, defined: what `device/csrc/frontend.c` computes hop by hop, in plain NumPy and doubles.

Tests hold the C to this within 1e-4 relative (float32's floor below the loudest band apart) and one quantisation step.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from distillnet.proto.card import AudioInput

Samples = NDArray[np.float32]
"""float32 (n,), mono, full scale ±1."""

_ZERO_CROSSINGS = 16
_ROLL_OFF = 0.94
_BETA = 9.0


def log_mel(samples: Samples, spec: AudioInput, rate_hz: int | None = None) -> NDArray[np.float64]:
    """Return the features of a whole sound.

    Row r covers the samples [r * hop, r * hop + window) at the spec's rate: periodic Hann window, zero-padded to
    `fft_samples`, magnitude of its real FFT, mel triangles, log(mel + log_offset), (x - mean) / scale.

    Args:
        samples: the sound; samples that are not finite count as 0.
        spec: what the student wants.
        rate_hz: of `samples`; None = the spec's.

    Returns:
        float64 (rows, mel_bands); no rows where the sound is shorter than a window.

    """
    sound = np.where(np.isfinite(samples), samples, 0.0).astype(np.float64).clip(-1024, 1024)
    sound = resample(sound, rate_hz or spec.sample_rate_hz, spec.sample_rate_hz)
    if len(sound) < spec.window_samples:
        return np.zeros((0, spec.mel_bands))
    windows = np.lib.stride_tricks.sliding_window_view(sound, spec.window_samples)[:: spec.hop_samples]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.window_samples) / spec.window_samples)
    magnitudes = np.abs(np.fft.rfft(windows * hann, spec.fft_samples))
    mel: NDArray[np.float64] = magnitudes @ mel_triangles(spec)
    return np.asarray((np.log(mel + spec.log_offset) - spec.mean) / spec.scale)


def mel_triangles(spec: AudioInput) -> NDArray[np.float64]:
    """Return the filter bank, float64 (fft_samples / 2 + 1, mel_bands).

    The HTK triangles of `tf.signal.linear_to_mel_weight_matrix`: mel = 1127 ln(1 + f / 700), linear in mel, bin 0 left
    out.
    """
    frequencies = np.arange(spec.fft_samples // 2 + 1) * spec.sample_rate_hz / spec.fft_samples
    low, high = _mel(np.array([spec.low_hz, spec.high_hz]))
    step = (high - low) / (spec.mel_bands + 1)
    at = (_mel(frequencies)[:, np.newaxis] - low) / step - np.arange(spec.mel_bands)
    weights: NDArray[np.float64] = np.maximum(0.0, np.minimum(at, 2.0 - at))
    weights[0] = 0.0
    return weights


def resample(sound: NDArray[np.float64], from_hz: int, to_hz: int) -> NDArray[np.float64]:
    """Resample by a rational factor; output k lies at k * from_hz / to_hz of the input.

    A polyphase low-pass: sinc of 16 zero crossings to either side under Kaiser's window (beta 9), cut-off at 0.94 of
    the lower Nyquist frequency, gain 1 in every phase. Silence before the first sample; outputs whose filter reaches
    past the last sample are not given, as in a stream.
    """
    common = math.gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    if up == down:
        return sound
    filters = _polyphase(from_hz, to_hz, up)
    half = filters.shape[1] // 2
    before = half - 1
    padded = np.concatenate([np.zeros(before), sound])
    if len(padded) < 2 * half:
        return np.zeros(0)
    reaches = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)
    outputs = np.zeros(((len(reaches) - 1) * up) // down + 1)
    for first in range(min(up, len(outputs))):  # every `up`-th output has the same filter
        begin, phase = divmod(first * down, up)
        outputs[first::up] = reaches[begin::down][: len(outputs[first::up])] @ filters[phase]
    return outputs


@lru_cache(maxsize=8)
def _polyphase(from_hz: int, to_hz: int, up: int) -> NDArray[np.float64]:
    """Return the filter of each phase, float64 (up, 2 * half)."""
    cut_off = _ROLL_OFF * min(1.0, to_hz / from_hz)
    reach = math.ceil(_ZERO_CROSSINGS / cut_off)
    half = -(-2 * reach // 16) * 16 // 2
    offsets = np.arange(2 * half)[np.newaxis, :] - (half - 1) - np.arange(up)[:, np.newaxis] / up
    filters = np.sinc(cut_off * offsets) * _kaiser(offsets * cut_off / _ZERO_CROSSINGS)
    filters /= filters.sum(axis=1, keepdims=True)
    return filters


def quantise(features: NDArray[np.float64], scale: float, zero_point: int) -> NDArray[np.int8]:
    """Quantise features as the student's input wants them, rounding half to even."""
    return np.clip(np.round(features / scale) + zero_point, -128, 127).astype(np.int8)


def _mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1127.0 * np.log1p(hz / 700.0)


def _kaiser(at: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.abs(at) < 1.0
    window: NDArray[np.float64] = np.where(inside, np.i0(_BETA * np.sqrt(np.where(inside, 1.0 - at * at, 0.0))), 0.0)
    return window / np.i0(_BETA)
