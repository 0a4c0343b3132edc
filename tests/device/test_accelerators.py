"""Accelerators: what is there must pass the student's golden vectors; what is not is refused with the reason."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distillnet.device import config as device_file
from distillnet.engine import ModelError, accelerators
from distillnet.engine.student import Student
from distillnet.proto.strict import ConfigError

sys.path.insert(0, str(Path(__file__).parent / "update" / "support"))
import onnx_writer
import tiny

SCALES = (1 / 64, 1 / 128, 1 / 8)
DELEGATE = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
struct delegate {void *data; int (*prepare)(void *, struct delegate *); void *copies[3]; int64_t flags; void *builder;};
static int prepare(void *context, struct delegate *delegate) {
    FILE *asked = fopen(getenv("ASKED"), "w");
    return asked == NULL || fclose(asked) != 0;
}
struct delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*error)(const char *)) {
    struct delegate *delegate = calloc(1, sizeof *delegate);
    delegate->prepare = prepare;
    return delegate;
}
void tflite_plugin_destroy_delegate(struct delegate *delegate) { free(delegate); }
"""


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(3).integers(-40, 41, (3, 48), dtype=np.int8)


@pytest.fixture
def student(weights: np.ndarray) -> bytes:
    return tiny.student(weights=weights)


def _onnx(path: Path, weights: np.ndarray, shape: tuple[int, ...] = (1, 4, 4, 3)) -> str:
    path.write_bytes(onnx_writer.dense(weights, shape, SCALES))
    return f"onnxruntime:{path}"


def test_a_delegate_is_asked_and_gives_the_same_outputs(
    student: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real delegate, of the interface that libedgetpu has, which leaves all operators to LiteRT."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: not shown that LiteRT is given a delegate")
    library = tmp_path / "delegate.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-xc", "-", "-o", library], input=DELEGATE.encode(), check=True)
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    loaded = Student.load(student, engine=f"delegate:{library}")
    assert (tmp_path / "asked").exists()
    assert loaded.self_test() == 2
    assert loaded.model.info["kernels"] == f"delegate {library}"


def test_onnx_runtime_runs_a_student_and_passes_its_golden_vectors(
    student: bytes, weights: np.ndarray, tmp_path: Path
) -> None:
    loaded = Student.load(student, engine=_onnx(tmp_path / "student.onnx", weights))
    assert loaded.self_test() == 2
    assert (loaded.model.info["engine"], loaded.model.info["kernels"]) == ("onnxruntime", "CPUExecutionProvider")
    frame = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    np.testing.assert_allclose(loaded.scores(frame), Student.load(student).scores(frame), atol=0.05)


def test_an_onnx_file_of_another_network_fails_the_golden_vectors(
    student: bytes, weights: np.ndarray, tmp_path: Path
) -> None:
    loaded = Student.load(student, engine=_onnx(tmp_path / "other.onnx", -weights))
    with pytest.raises(ModelError, match="golden vector"):
        loaded.self_test()


def test_an_onnx_file_of_another_size_is_refused(student: bytes, weights: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"takes \(1, 2, 8, 3\); the student takes \(1, 4, 4, 3\)"):
        Student.load(student, engine=_onnx(tmp_path / "wide.onnx", weights, (1, 2, 8, 3)))


@pytest.mark.parametrize(
    ("engine", "missing"),
    [
        ("edgetpu", "libedgetpu.so.1 cannot be loaded"),
        ("gpu", "libtensorflowlite_gpu_delegate.so cannot be loaded"),
        ("delegate:/nowhere.so", "/nowhere.so cannot be loaded"),
        ("tensorrt:student.onnx", "this ONNX Runtime has no TensorrtExecutionProvider, only"),
        ("cuda:student.onnx", "this ONNX Runtime has no CUDAExecutionProvider, only"),
        ("onnxruntime:nowhere.onnx", "ONNX Runtime refuses it"),
    ],
)
def test_what_is_missing_is_named(student: bytes, engine: str, missing: str) -> None:
    if accelerators.why_not(engine) is None and "nowhere" not in engine:
        pytest.skip(f"{engine} is here: not shown how its absence is told")
    with pytest.raises(ModelError, match=missing):
        Student.load(student, engine=engine)


def test_the_device_file_names_the_engines_there_are(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text('[device]\nname = "a"\n[engine]\nbackend = "npu"\n[model]\napplication = "pets"\n')
    with pytest.raises(ConfigError, match=r"'npu' is no engine; there are auto, native, litert, edgetpu"):
        device_file.load(path)
