"""What happens to sounds on their way: gain, speed, colour, rooms, noise, another sound beside."""

import numpy as np
from numpy.typing import NDArray

from distillnet.engine.log_mel import Samples

Generator = np.random.Generator
RATE_HZ = 16000


def window_from(samples: Samples, length: int, rng: Generator) -> Samples:
    """Return a window where there is sound: the louder of a few random places."""
    if len(samples) <= length:
        before = int(rng.integers(0, length - len(samples) + 1))
        return np.pad(samples, (before, length - len(samples) - before))
    places = rng.integers(0, len(samples) - length + 1, size=3)
    energies = [float(np.square(samples[at : at + length]).sum()) for at in places]
    at = int(places[int(np.argmax(energies))])
    return samples[at : at + length]


def at_speed(samples: Samples, factor: float, length: int | None = None) -> Samples:
    """Play faster or slower, pitch included, by linear interpolation; `length` samples of it, or all."""
    count = max(16, int(len(samples) / factor)) if length is None else length
    places = np.arange(count) * factor
    return np.asarray(np.interp(places, np.arange(len(samples)), samples), np.float32)


def any_speed(length: int, rng: Generator) -> tuple[float, int]:
    """Return how much faster a sound is to be played, 1 half of the time, and how many samples of it fill `length`."""
    factor = rng.uniform(0.8, 1.25) if rng.random() < 0.5 else 1.0
    return factor, int(length * factor) + 1


def coloured_noise(length: int, rng: Generator) -> Samples:
    """Noise of a random slope between white and brown, RMS 1."""
    size = fft_length(length)
    spectrum = rng.standard_normal(size + 2).view(np.complex128)
    spectrum /= np.maximum(1.0, np.arange(size // 2 + 1)) ** rng.uniform(0.0, 1.0)
    noise = np.fft.irfft(spectrum, size)[:length]
    return np.asarray(noise / (np.sqrt(np.mean(noise**2)) + 1e-12), np.float32)


def in_a_room(samples: Samples, rng: Generator) -> Samples:
    """Add a synthetic room: exponentially decaying noise as its response, RT60 between 0.1 and 0.6 s at 16 kHz."""
    rt60 = rng.uniform(0.1, 0.6)
    length = int(RATE_HZ * rt60)
    response = rng.normal(size=length) * 10 ** (-3 * np.arange(length) / length)
    response *= rng.uniform(0.1, 0.5) / (np.sqrt(np.sum(response**2)) + 1e-12)
    response[0] = 1.0
    size = fft_length(len(samples) + length)
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]
    return wet.astype(np.float32)


def tilted(samples: Samples, rng: Generator) -> Samples:
    """Colour as another microphone would: a smooth random gain over frequency, ±6 dB."""
    size = fft_length(len(samples))
    bins = size // 2 + 1
    points = rng.uniform(-6.0, 6.0, size=6)
    gain = 10 ** (np.interp(np.linspace(0, 5, bins), np.arange(6), points) / 20)
    return np.fft.irfft(np.fft.rfft(samples, size) * gain, size)[: len(samples)].astype(np.float32)


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
        samples = mixed(samples, coloured_noise(len(samples), rng), rng.uniform(0.0, 40.0))
    gain = 10 ** (rng.uniform(-20.0, 6.0) / 20)
    return np.asarray(np.clip(samples * gain, -1.0, 1.0), np.float32)


def estranged(samples: Samples, rng: Generator) -> Samples:
    """A sound made into something it is not: far too slow or fast, backwards, chopped, ring-modulated, filtered.

    Stands in for the sounds nobody collected: it is `other`, whatever it was made of.
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
        size = fft_length(len(result))
        spectrum = np.fft.rfft(result, size)
        low = int(rng.uniform(0.0, 0.5) * len(spectrum))
        spectrum[:low] = 0
        spectrum[low + int(rng.uniform(0.05, 0.5) * len(spectrum)) :] = 0
        result = np.fft.irfft(spectrum, size)[: len(result)].astype(np.float32)
    return result.astype(np.float32)


def invented(length: int, rng: Generator) -> Samples:
    """A sound nobody recorded: a few of gliding tones with overtones, clicks that ring, bands and beats of noise.

    What a teacher says of such sounds is worth hearing: they are many, and unlike the few clips an application has.
    """
    t = np.arange(length) / length
    made = np.zeros(length)
    for _ in range(int(rng.integers(1, 4))):
        part = (_tone, _clicks, _band, _beats)[int(rng.integers(4))](length, rng)
        if rng.random() < 0.6:
            part = part * np.interp(t, np.sort(rng.random(5)), rng.random(5) ** 2)
        made += part * (rng.uniform(0.2, 1.0) / (float(np.std(part)) + 1e-9))
    return (made * (rng.uniform(0.1, 0.9) / (float(np.abs(made).max()) + 1e-9))).astype(np.float32)


def _tone(length: int, rng: Generator) -> NDArray[np.float64]:
    """60–3000 Hz with a random wave form, gliding and trembling."""
    t = np.arange(length) / RATE_HZ
    glide = np.interp(np.arange(length), np.sort(rng.random(4)) * length, rng.uniform(-1, 1, 4))
    hertz = _between(rng, 60.0, 3000.0) * 2 ** (glide * rng.choice([0.02, 0.3, 1.0]))
    hertz *= 1 + rng.uniform(0, 0.05) * np.sin(2 * np.pi * rng.uniform(2, 12) * t)
    overtones = np.arange(1, int(rng.integers(2, 17)))
    spectrum = np.zeros(129, np.complex128)
    spectrum[overtones] = overtones ** -rng.uniform(0.3, 2.0) * np.exp(2j * np.pi * rng.random(len(overtones)))
    wave = np.fft.irfft(spectrum, 256)
    return np.asarray(wave[(np.cumsum(hertz) * (256 / RATE_HZ)).astype(np.int64) % 256])


def _clicks(length: int, rng: Generator) -> NDArray[np.float64]:
    """Clicks, regular or not, each of which rings at one pitch."""
    steps = _between(rng, 200.0, 12000.0) * rng.uniform(rng.uniform(0.1, 1.0), 1.0, 200)
    at = np.cumsum(steps).astype(np.int64)
    at = at[at < length]
    clicks = np.zeros(length)
    clicks[at] = rng.uniform(0.3, 1.0, len(at))
    n = np.arange(1600)
    ring = np.exp(-n / _between(rng, 5.0, 300.0)) * np.sin(n * rng.uniform(0.05, 2.8))
    size = fft_length(length + len(n))
    return np.asarray(np.fft.irfft(np.fft.rfft(clicks, size) * np.fft.rfft(ring, size), size)[:length])


def _band(length: int, rng: Generator) -> NDArray[np.float64]:
    """Noise of one band."""
    size = fft_length(length)
    at = np.linspace(0, 1, size // 2 + 1)
    gain = np.exp(-0.5 * ((at - rng.random()) / _between(rng, 0.01, 0.5)) ** 2)
    return np.asarray(np.fft.irfft(rng.standard_normal(size + 2).view(np.complex128) * gain, size)[:length])


def _beats(length: int, rng: Generator) -> NDArray[np.float64]:
    """Noise that swells and fades, 0.5–40 times a second."""
    swell = np.abs(np.sin(np.arange(length) * (np.pi * _between(rng, 0.5, 40.0) / RATE_HZ)))
    return np.asarray(rng.standard_normal(length) * swell ** rng.uniform(0.5, 6.0))


def _between(rng: Generator, low: float, high: float) -> float:
    """Evenly on a logarithmic scale."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def fft_length(length: int) -> int:
    """Return the power of two that holds `length` samples: other lengths are transformed far more slowly."""
    return 1 << (length - 1).bit_length()


def _rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
