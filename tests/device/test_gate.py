"""The motion gate: shut on a still picture however noisy, open on motion, and never shut for long."""

import numpy as np

from distillnet.device.gate import MotionGate


def noisy(level: int, seed: int, noise: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picture = np.full((120, 160, 3), level, np.int16) + rng.integers(-noise, noise + 1, (120, 160, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def opened(gate: MotionGate, pictures: list[np.ndarray], start: int = 0) -> list[bool]:
    return [gate.opens(picture, None, (start + i) / 20) for i, picture in enumerate(pictures)]


def test_a_still_scene_is_skipped_but_for_the_refresh() -> None:
    gate = MotionGate(linger_s=0.5, refresh_s=1.0)
    results = opened(gate, [noisy(100, i, 6) for i in range(200)])
    assert sum(results[20:]) <= 10, "once a second"
    assert sum(results[20:]) >= 8


def test_something_that_moves_opens_at_once_and_lingers() -> None:
    gate = MotionGate(linger_s=0.5, refresh_s=1e9)
    opened(gate, [noisy(100, i, 6) for i in range(60)])
    moved = noisy(100, 99, 6)
    moved[30:80, 40:90] = 250
    results = opened(gate, [moved] + [noisy(100, 200 + i, 6) for i in range(40)], start=60)
    assert results[0] and all(results[:10])
    assert not results[-1]


def test_a_noisy_camera_raises_the_bar() -> None:
    gate = MotionGate(linger_s=0.0, refresh_s=1e9)
    results = opened(gate, [noisy(100, i, 60) for i in range(400)])
    assert sum(results[200:]) < 20


def test_only_its_own_zone_counts() -> None:
    gate = MotionGate(linger_s=0.0, refresh_s=1e9)
    left = (0.0, 0.0, 0.5, 1.0)
    for i in range(60):
        gate.opens(noisy(100, i, 2), left, i / 20)
    picture = noisy(100, 99, 2)
    picture[:, 100:] = 255
    assert not gate.opens(picture, left, 4.0)
    picture[:, :60] = 255
    assert gate.opens(picture, left, 4.1)
