"""A student that hears: a low tone, a high tone, and anything else; hand-made weights in a real int8 file."""

import io
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distillnet.engine import load
from distillnet.proto.archive import pack
from distillnet.proto.card import AudioInput, Card, CardEvent, TeacherInfo

RATE = 16000
SPEC = AudioInput(
    window_samples=512,
    hop_samples=400,
    fft_samples=512,
    mel_bands=16,
    low_hz=60,
    high_hz=7800,
    log_offset=0.01,
    mean=-4.6,
    scale=8.0,
    frames=16,
    stride_frames=8,
)


@pytest.fixture(scope="session")
def tone_model(pytestconfig: pytest.Config) -> bytes:
    """An int8 .tflite (1, 16, 16, 1) → low, high, other: which half of the bands is louder. Built once, then cached."""
    path = pytestconfig.cache.mkdir("distillnet-sound") / "tones-3.tflite"
    if not path.exists():
        partial = path.with_suffix(f".{time.monotonic_ns()}")
        partial.write_bytes(_build(path.parent))
        partial.replace(path)
    return path.read_bytes()


def _build(directory: Path) -> bytes:
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe

    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, (SPEC.frames, SPEC.mel_bands)), torch.nn.Flatten())
    half = torch.tensor([1.0] * 8 + [-1.0] * 8) * 6.0 / SPEC.frames
    with torch.no_grad():
        network[0].weight.copy_(torch.stack([half, -half, half * 0.01]).view(3, 1, 1, 16).expand(3, 1, 16, 16))
        network[0].bias.copy_(torch.tensor([0.0, 0.0, 4.0]))
    example = torch.rand(1, SPEC.frames, SPEC.mel_bands, 1)
    whole = directory / "tones-float.tflite"
    litert_torch.convert(litert_torch.to_channel_last_io(network.eval(), args=[0]), (example,)).export(str(whole))
    rng = np.random.default_rng(0)
    inputs = [rng.random((1, 16, 16, 1), dtype=np.float32) * 1.3 for _ in range(4)]
    for bands in (slice(0, 8), slice(8, 16)):
        tone = np.zeros((1, 16, 16, 1), np.float32)
        tone[:, :, bands] = 1.3
        inputs.append(tone)
    tool = quantizer.Quantizer(str(whole), recipe.static_wi8_ai8())
    result = tool.quantize(tool.calibrate({"serving_default": [{"args_0": x} for x in inputs]}))
    whole.unlink()
    return bytes(result.quantized_model)


@pytest.fixture
def tone_student(tone_model: bytes, tmp_path: Path) -> Path:
    model = load(tone_model, "litert")
    golden = np.random.default_rng(1).integers(-128, 128, (2, 16, 16, 1), dtype=np.int8)
    outputs = np.stack([model.run_tensor(x[np.newaxis]).reshape(-1) for x in golden])
    buffer = io.BytesIO()
    np.savez(buffer, inputs=golden, outputs=outputs)
    card = Card(
        application="tones",
        version=1,
        events=[CardEvent(name=n, index=i, threshold=0.7, exit_threshold=0.5) for i, n in enumerate(("low", "high"))],
        other=2,
        input=SPEC,
        teacher=TeacherInfo(name="hand-made", source="tests"),
    )
    path = tmp_path / "tones.tflite"
    path.write_bytes(pack(tone_model, card, buffer.getvalue()))
    return path


@pytest.fixture
def make_wav(tmp_path: Path) -> Callable[..., Path]:
    """Write a WAV of parts (seconds, hertz): 0 Hz is quiet noise."""

    def make(parts: list[tuple[float, float]], rate: int = 44100, name: str = "sound.wav") -> Path:
        rng = np.random.default_rng(0)
        pieces = []
        for seconds, hertz in parts:
            t = np.arange(int(seconds * rate)) / rate
            pieces.append(np.sin(2 * np.pi * hertz * t) * 0.5 + rng.normal(0, 1e-5, len(t)))
        samples = (np.concatenate(pieces) * 32767).astype("<i2")
        path = tmp_path / name
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(samples.tobytes())
        return path

    return make
