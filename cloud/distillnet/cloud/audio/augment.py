"""What happens to sounds on their way: gain, speed, colour, rooms, noise, another sound beside."""

import numpy as np
from numpy.typing import NDArray

from distillnet.engine.log_mel import Samples

Generator = np.random.Generator


def window_from(samples: Samples, length: int, rng: Generator) -> Samples:
    """Return a window where there is sound: the louder of a few random places."""
    if len(samples) <= length:
        before = int(rng.integers(0, length - len(samples) + 1))
        return np.pad(samples, (before, length - len(samples) - before))
    places = rng.integers(0, len(samples) - length + 1, size=3)
    energies = [float(np.square(samples[at : at + length]).sum()) for at in places]
    at = int(places[int(np.argmax(energies))])
    return samples[at : at + length]


def at_speed(samples: Samples, factor: float) -> Samples:
    """Play faster or slower, pitch included, by linear interpolation."""
    count = max(16, int(len(samples) / factor))
    places = np.arange(count) * factor
    return np.asarray(np.interp(places, np.arange(len(samples)), samples), np.float32)


def coloured_noise(length: int, rng: Generator) -> Samples:
    """Noise of a random slope between white and brown, RMS 1."""
    spectrum = rng.normal(size=length // 2 + 1) + 1j * rng.normal(size=length // 2 + 1)
    spectrum /= np.maximum(1.0, np.arange(length // 2 + 1)) ** rng.uniform(0.0, 1.0)
    noise = np.fft.irfft(spectrum, length)
    return np.asarray(noise / (np.sqrt(np.mean(noise**2)) + 1e-12), np.float32)


def in_a_room(samples: Samples, rng: Generator) -> Samples:
    """Add a synthetic room: exponentially decaying noise as its response, RT60 between 0.1 and 0.6 s at 16 kHz."""
    rt60 = rng.uniform(0.1, 0.6)
    length = int(16000 * rt60)
    response = rng.normal(size=length) * 10 ** (-3 * np.arange(length) / length)
    response *= rng.uniform(0.1, 0.5) / (np.sqrt(np.sum(response**2)) + 1e-12)
    response[0] = 1.0
    size = 1 << (len(samples) + length).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]
    return wet.astype(np.float32)


def tilted(samples: Samples, rng: Generator) -> Samples:
    """Colour as another microphone would: a smooth random gain over frequency, ±6 dB."""
    bins = len(samples) // 2 + 1
    points = rng.uniform(-6.0, 6.0, size=6)
    gain = 10 ** (np.interp(np.linspace(0, 5, bins), np.arange(6), points) / 20)
    return np.fft.irfft(np.fft.rfft(samples) * gain, len(samples)).astype(np.float32)


def mixed(one: Samples, other: Samples, snr_db: float) -> Samples:
    """Put `other` under `one` at a signal-to-noise ratio; silence stays silence."""
    loud, quiet = _rms(one), _rms(other)
    if loud == 0 or quiet == 0:
        return one
    return (one + other * (loud / quiet) * 10 ** (-snr_db / 20)).astype(np.float32)


def shaken(samples: Samples, rng: Generator) -> Samples:
    """One sound as it might have been recorded otherwise: colour, room, noise, gain; finally within ±1."""
    if rng.random() < 0.5:
        samples = tilted(samples, rng)
    if rng.random() < 0.3:
        samples = in_a_room(samples, rng)
    if rng.random() < 0.5:
        samples = mixed(samples, coloured_noise(len(samples), rng), rng.uniform(5.0, 40.0))
    gain = 10 ** (rng.uniform(-20.0, 6.0) / 20)
    return np.asarray(np.clip(samples * gain, -1.0, 1.0), np.float32)


def estranged(samples: Samples, rng: Generator) -> Samples:
    """A sound made into something it is not: far too slow or fast, backwards, chopped, ring-modulated, filtered.

    Stands in for the sounds nobody collected; the teacher says what it still hears in it.
    """
    result: NDArray[np.float32] = samples
    if rng.random() < 0.5:
        result = at_speed(result, float(rng.choice([rng.uniform(0.35, 0.65), rng.uniform(1.6, 3.0)])))
        result = np.resize(result, len(samples))
    if rng.random() < 0.3:
        result = result[::-1]
    if rng.random() < 0.4:
        pieces = np.array_split(result, int(rng.integers(8, 64)))
        result = np.concatenate([pieces[index] for index in rng.permutation(len(pieces))])
    if rng.random() < 0.5:
        result = result * np.sin(np.arange(len(result)) * rng.uniform(0.02, 1.5)).astype(np.float32) * 1.4
    if rng.random() < 0.4:
        spectrum = np.fft.rfft(result)
        low = int(rng.uniform(0.0, 0.5) * len(spectrum))
        spectrum[:low] = 0
        spectrum[low + int(rng.uniform(0.05, 0.5) * len(spectrum)) :] = 0
        result = np.fft.irfft(spectrum, len(result)).astype(np.float32)
    return result.astype(np.float32)


def _rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
