"""A student that hears whether a low tone, a high tone or neither sounds, its one layer made by hand; such tones."""

import io
import wave
from pathlib import Path

import numpy as np

from distillnet.engine.litert import LiteRTModel
from distillnet.engine.tflite_writer import Builder
from distillnet.proto.archive import pack
from distillnet.proto.card import AudioInput, Card, CardEvent, TeacherInfo

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


def tone_student() -> bytes:
    """Return a student file; int8 (1, 16, 16, 1) → low, high, other: which half of the bands is louder."""
    model = _model()
    reference = LiteRTModel(model, reference=True)
    inputs = np.random.default_rng(1).integers(-128, 128, (2, 16, 16, 1), dtype=np.int8)
    golden = io.BytesIO()
    np.savez(golden, inputs=inputs, outputs=np.stack([reference.run_tensor(x[None]).reshape(-1) for x in inputs]))
    events = [CardEvent(name=n, index=i, threshold=0.7, exit_threshold=0.5) for i, n in enumerate(("low", "high"))]
    teacher = TeacherInfo(name="hand-made", source="tests")
    card = Card(application="tones", version=1, events=events, other=2, input=SPEC, teacher=teacher)
    return pack(model, card, golden.getvalue())


def write_wav(path: Path, parts: list[tuple[float, float]], rate: int = 44100) -> Path:
    """Write parts (seconds, hertz) one after another; 0 Hz is quiet noise."""
    rng = np.random.default_rng(0)
    pieces = []
    for seconds, hertz in parts:
        t = np.arange(int(seconds * rate)) / rate
        pieces.append(np.sin(2 * np.pi * hertz * t) * 0.5 + rng.normal(0, 1e-5, len(t)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.concatenate(pieces) * 32767).astype("<i2").tobytes())
    return path


def _model() -> bytes:
    step, weight = 1.3 / 255, 6.0 / 16 / 127
    low = np.tile(np.repeat(np.array([127, -127], np.int8), 8), 16)
    weights = np.stack([low, -low, np.zeros_like(low)])
    bias = np.array([0, 0, 4 / step / weight], np.int32)
    net = Builder()
    shown = net.tensor((1, 16, 16, 1), step, -128)
    flat = net.tensor((1, 256), step, -128)
    scores = net.tensor((1, 3), 0.5)
    net.op("RESHAPE", [shown, net.ints([1, 256])], [flat], "ReshapeOptions", newShape=[1, 256])
    layer = [net.tensor((3, 256), weight, data=weights), net.tensor((3,), step * weight, dtype="int32", data=bias)]
    net.op("FULLY_CONNECTED", [flat, *layer], [scores], "FullyConnectedOptions")
    return net.build([shown], [scores])
