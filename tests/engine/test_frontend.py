"""The streaming front-end in C against its definition in NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillnet.engine import ModelError
from distillnet.engine.frontend import LogMel
from distillnet.engine.log_mel import log_mel, mel_triangles, quantise, resample
from distillnet.proto.card import AudioInput

DEFAULT = AudioInput()
SMALL = AudioInput(window_samples=512, hop_samples=400, fft_samples=512, mel_bands=40, low_hz=60, high_hz=7800)
RATES = (8000, 11025, 16000, 22050, 44100, 48000, 96000)


def coloured(seed: int, count: int) -> np.ndarray:
    """Noise with a slope and bursts: every band has something in it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.1, count) + 0.3 * np.sin(np.arange(count) * rng.uniform(0.05, 0.5))
    return (x * (0.2 + rng.random(count // 100 + 1).repeat(100)[:count])).astype(np.float32)


def close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    assert np.all(np.abs(got - expected) <= 1e-4 * np.maximum(1.0, np.abs(expected)))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    fft_log2=st.integers(5, 11),
    share=st.floats(0.3, 1.0),
    hop_share=st.floats(0.1, 1.5),
    bands=st.integers(4, 80),
)
def test_features_are_within_1e4_of_the_definition(
    seed: int, fft_log2: int, share: float, hop_share: float, bands: int
) -> None:
    fft = 2**fft_log2
    window = max(16, int(fft * share))
    spec = AudioInput(
        window_samples=window,
        hop_samples=max(1, int(window * hop_share)),
        fft_samples=fft,
        mel_bands=bands,
        mean=-2.0,
        scale=1.7,
    )
    sound = coloured(seed, 6000)
    close(LogMel(spec).features(sound), log_mel(sound, spec))


@pytest.mark.parametrize("rate", RATES)
def test_every_rate_is_resampled_as_defined(rate: int) -> None:
    sound = coloured(rate, rate)
    got, expected = LogMel(DEFAULT, rate).features(sound), log_mel(sound, DEFAULT, rate)
    assert got.shape == expected.shape
    # Above the input's own Nyquist frequency there is nothing but float32's floor.
    audible = mel_triangles(DEFAULT)[int(0.45 * min(rate, 16000) / 16000 * 512) :].sum(axis=0) == 0
    close(got[:, audible], expected[:, audible])
    np.testing.assert_allclose(got, expected, atol=2e-3)


@pytest.mark.parametrize("level", [0.0, 1e-5, 1.0, 1000.0])
def test_a_pure_tone_stays_within_floats_floor_of_its_loudest_band(level: float) -> None:
    """float32 has a floor 7 digits below the loudest band; that bounds the quiet bands beside a loud tone."""
    sound = (level * np.sin(np.arange(16000) * 0.3)).astype(np.float32)
    expected = log_mel(sound, DEFAULT)
    mel = np.exp(expected)
    floor = 1e-6 * mel.max(axis=1, keepdims=True) / mel
    error = np.abs(LogMel(DEFAULT).features(sound) - expected)
    assert np.all(error <= 1e-4 * np.maximum(1.0, np.abs(expected)) + floor)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), rate=st.sampled_from(RATES), cuts=st.lists(st.integers(0, 6000), max_size=12))
def test_however_a_stream_is_cut_its_rows_are_the_same(seed: int, rate: int, cuts: list[int]) -> None:
    sound = coloured(seed, 6000)
    whole = LogMel(DEFAULT, rate).features(sound)
    parts = LogMel(DEFAULT, rate)
    rows = [parts.features(part) for part in np.split(sound, sorted(cuts))]
    assert np.array_equal(np.concatenate(rows), whole)


@pytest.mark.parametrize(("scale", "zero_point"), [(0.05, -128), (0.02, 5), (0.001, 0)])
def test_quantised_rows_are_within_one_step(scale: float, zero_point: int) -> None:
    sound = coloured(1, 16000)
    got = LogMel(SMALL, scale=scale, zero_point=zero_point).push(sound)
    expected = quantise(log_mel(sound, SMALL), scale, zero_point)
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1
    assert np.mean(got == expected) > 0.95


def test_samples_that_are_not_finite_count_as_silence() -> None:
    sound = coloured(2, 4000)
    holes = sound.copy()
    holes[[10, 1000, 1001]] = np.nan, np.inf, -np.inf
    sound[[10, 1000, 1001]] = 0.0
    assert np.array_equal(LogMel(DEFAULT).features(holes), LogMel(DEFAULT).features(sound))
    close(LogMel(DEFAULT).features(holes), log_mel(holes, DEFAULT))


def test_reset_begins_a_new_stream() -> None:
    sound = coloured(3, 5000)
    ears = LogMel(DEFAULT, 44100)
    first = ears.features(sound)
    ears.reset()
    assert np.array_equal(ears.features(sound), first)


def test_resampling_keeps_a_tone_and_removes_what_would_alias() -> None:
    t = np.arange(48000) / 48000
    kept = resample(np.sin(2 * np.pi * 3000 * t), 48000, 16000)
    np.testing.assert_allclose(
        kept[200:-200], np.sin(2 * np.pi * 3000 * np.arange(len(kept)) / 16000)[200:-200], atol=1e-3
    )
    assert np.abs(resample(np.sin(2 * np.pi * 12000 * t), 48000, 16000)[200:-200]).max() < 1e-4


@pytest.mark.parametrize(
    ("spec", "rate", "part"),
    [
        (AudioInput(), 767_999, "too large a filter"),
        (AudioInput(), 10, "input_rate_hz"),
        (AudioInput.model_construct(**(AudioInput().model_dump() | {"fft_samples": 500})), 16000, "power of two"),
        (AudioInput.model_construct(**(AudioInput().model_dump() | {"high_hz": 9000.0})), 16000, "high_hz"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(spec: AudioInput, rate: int, part: str) -> None:
    with pytest.raises(ModelError, match=part):
        LogMel(spec, rate)
