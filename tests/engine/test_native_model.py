"""The native engine behind the common interface: answers on real models, refusals, threads, fallback."""

import json
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from distillnet.engine import ModelError, _engine, load
from distillnet.engine.commands import register
from distillnet.engine.native import KERNELS_VARIABLE, NativeModel, UnsupportedError
from distillnet.engine.tflite_writer import Builder
from distillnet.engine.verify import mismatches, sample_inputs

REAL = ["micro_speech_int8.tflite", "mlperf_tiny_kws_int8.tflite"]


def small_model(operator: str = "RELU") -> bytes:
    b = Builder()
    x, y = b.tensor((1, 4, 4, 8), 0.1, 3), b.tensor((1, 4, 4, 8), 0.05, -128)
    b.op(operator, [x], [y])
    return b.build([x], [y])


@pytest.mark.parametrize("kernels", _engine.kernel_names())
@pytest.mark.parametrize("name", REAL)
def test_real_models_are_bit_exact(data_dir: Path, name: str, kernels: str) -> None:
    assert mismatches((data_dir / "models" / name).read_bytes(), inputs=10, kernels=kernels)["mismatches"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_mobilenet_is_bit_exact(data_dir: Path, threads: int) -> None:
    data = (data_dir / "models" / "mobilenet_v2_1.0_224_int8.tflite").read_bytes()
    assert mismatches(data, inputs=20, threads=threads)["mismatches"] == 0


def test_info_says_what_was_loaded() -> None:
    info = NativeModel(small_model()).info
    assert info["engine"] == "native" and info["kernels"] == _engine.kernel_names()[0] and info["threads"] == 1
    assert info["input"] == {"shape": (1, 4, 4, 8), "dtype": "int8", "scale": pytest.approx(0.1), "zero_point": 3}
    assert info["arena_bytes"] >= 256


def test_what_a_model_tells_of_itself_can_be_sent_elsewhere() -> None:
    model = NativeModel(small_model())
    model.run_tensor(np.zeros((1, 4, 4, 8), np.int8))
    told = (model.info, model.profile())
    assert pickle.loads(pickle.dumps(told)) == told
    assert [layer["op"] for layer in told[1]] == ["RELU"] and told[1][0]["ms"] > 0


def test_the_environment_picks_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, "scalar")
    assert NativeModel(small_model()).info["kernels"] == "scalar"
    monkeypatch.setenv(KERNELS_VARIABLE, "mmx")
    with pytest.raises(ModelError, match=r"no kernels called 'mmx'.*scalar"):
        NativeModel(small_model())


def test_wrong_tensors_are_refused() -> None:
    model = NativeModel(small_model())
    with pytest.raises(ModelError, match="int8"):
        model.run_tensor(np.zeros((1, 4, 4, 8), np.uint8))
    with pytest.raises(ModelError, match=r"\(1, 4, 4, 8\)"):
        model.run_tensor(np.zeros((1, 4, 4, 7), np.int8))


def test_arrays_need_not_be_contiguous() -> None:
    model = NativeModel(small_model())
    x = np.arange(1 * 8 * 4 * 8, dtype=np.int8).reshape(1, 8, 4, 8)[:, ::2]
    np.testing.assert_array_equal(model.run_tensor(x), model.run_tensor(x.copy()))


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x00" * 64, b"\x10\x00\x00\x00TFL3" + b"\xff" * 64])
def test_bytes_that_are_no_model_are_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"byte|TFL3"):
        load(data, "native")


def test_what_follows_the_flatbuffer_is_ignored() -> None:
    assert NativeModel(small_model() + b"PK\x03\x04 and so on").info["engine"] == "native"


def test_arena_bombs_are_refused() -> None:
    b = Builder()
    x, y = b.tensor((1, 4096, 4096, 16), 0.1), b.tensor((1, 4096, 4096, 16), 0.1)
    b.op("RELU", [x], [y])
    with pytest.raises(ModelError, match="max_arena_bytes"):
        NativeModel(b.build([x], [y]), max_arena_bytes=1 << 20)


def test_cycles_are_refused() -> None:
    b = Builder()
    x, y, z = (b.tensor((1, 4), 0.1) for _ in range(3))
    b.op("ADD", [x, z], [y], "AddOptions")
    b.op("ADD", [x, y], [z], "AddOptions")
    with pytest.raises(ModelError, match=r"operator 0 \(ADD\).*before anything writes it"):
        NativeModel(b.build([x], [z]))


def test_unknown_operators_are_named_and_fall_back(caplog: pytest.LogCaptureFixture) -> None:
    data = small_model("ABS")
    with pytest.raises(UnsupportedError, match="builtin code 101"):
        NativeModel(data)
    model = load(data)
    assert model.info["engine"] == "litert" and "builtin code 101" in model.info["reason"]
    assert "falling back to LiteRT" in caplog.text


def test_one_model_may_be_shared_and_every_thread_gets_its_own_answer(data_dir: Path) -> None:
    model = load((data_dir / "models" / REAL[1]).read_bytes(), "native", threads=2)
    inputs = list(sample_inputs(model.info["input"], 8))
    expected = [model.run_tensor(x) for x in inputs]
    wrong: list[int] = []

    def run(index: int) -> None:
        for _ in range(40):
            if not np.array_equal(model.run_tensor(inputs[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_bench_commands_print_facts(tmp_path: Path) -> None:
    path = tmp_path / "small.tflite"
    path.write_bytes(small_model())
    app = typer.Typer()
    register(app)
    verified = CliRunner().invoke(app, ["bench", "verify", str(path), "--inputs", "5", "--json"])
    facts = json.loads(verified.stdout)
    assert verified.exit_code == 0 and facts["mismatches"] == 0 and facts["engine"] == "native"
    timed = CliRunner().invoke(app, ["bench", "engine", str(path), "--seconds", "0.1", "--json"])
    facts = json.loads(timed.stdout)
    assert facts["native_ms"] > 0 and facts["litert_ms"] > 0 and facts["ratio"] > 0
