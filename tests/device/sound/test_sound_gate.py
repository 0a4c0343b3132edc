"""The gate skips the place's own noise and never a sound above it."""

import numpy as np

from distillnet.device.sound.gate import SoundGate

RATE = 16000


def noise(level: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, RATE // 10).astype(np.float32)


def run(gate: SoundGate, level: float, seconds: float) -> list[bool]:
    return [gate.opens(noise(level, seed), RATE) for seed in range(round(seconds * 10))]


def test_steady_noise_closes_and_a_sound_opens_at_once() -> None:
    gate = SoundGate()
    assert not any(run(gate, 0.01, 10)[-50:])
    assert run(gate, 0.05, 0.1) == [True]
    after = run(gate, 0.01, 4)
    assert all(after[:15]) and not any(after[-10:])


def test_a_fan_that_starts_closes_it_again_after_a_while() -> None:
    gate = SoundGate()
    run(gate, 0.003, 10)
    heard = run(gate, 0.01, 60)
    assert heard[0] and not heard[-1]


def test_digital_silence_and_an_offset_never_open_it() -> None:
    gate = SoundGate()
    run(gate, 0.0, 10)
    assert not gate.opens(np.zeros(1600, np.float32), RATE)
    assert not gate.opens(np.full(1600, 0.5, np.float32), RATE)
    assert gate.opens(noise(0.001), RATE)
