"""A student is judged by what folders say, on the outputs it really gives, and bad data is named."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from distillnet.cloud import evaluate
from distillnet.engine.preprocess import Preparation
from distillnet.engine.student import Student
from distillnet.proto.archive import StudentError
from distillnet.proto.card import Card, CardEvent, ImageInput, TeacherInfo
from distillnet.proto.strict import ConfigError

RED, GREEN, GREY = (0, 0, 255), (0, 255, 0), (60, 60, 60)  # BGR
CLASSES = {
    "names": {"n07747607": "orange", "n07749582": "lemon", "n02123045": "tabby", "n02106662": "German shepherd"},
    "applications": {
        "kitchen": {"sweet orange": ["n07747607"], "lemon": ["n07749582"]},
        "backyard": {"cat": ["n02123045"], "dog": ["n02106662"]},
    },
    "seen_negatives": [],
    "unseen_negatives": ["n01629819"],
}


class Colours:
    """A model whose logits are the mean red and green of the picture, and a middle value for `other`."""

    def __init__(self, order: list[int]) -> None:
        self.info = {"input": {"scale": 1.0, "zero_point": -128}, "output": {"scale": 0.25, "zero_point": 0}}
        self._order = order

    def run_tensor(self, x: np.ndarray) -> np.ndarray:
        red, green, _ = (x.astype(np.float64) + 128).mean((0, 1, 2))
        logits = np.array([red - green, green - red, 60.0]) / 4
        return np.clip(np.round(logits[self._order]), -128, 127).astype(np.int8)[np.newaxis]

    def look(self, frame: np.ndarray, preparation: Preparation) -> tuple[np.ndarray, float, float]:
        return self.run_tensor(preparation.fill(frame, 0)), 0.0, 0.0

    def profile(self) -> list[dict[str, Any]]:
        return []


def card(events: dict[str, list[str]], order: list[int], application: str = "colours") -> Card:
    return Card(
        application=application,
        events=[
            CardEvent(name=name, classes=classes, index=order.index(place), threshold=0.6, exit_threshold=0.4)
            for place, (name, classes) in enumerate(events.items())
        ],
        other=order.index(len(events)),
        input=ImageInput(height=8, width=8, mean=0.0, scale=1.0),
        teacher=TeacherInfo(name="hand-made", source="tests"),
    )


def student(order: list[int] | None = None) -> Student:
    order = order or [0, 1, 2]
    events = {"red": ["orange"], "green": ["n07749582"]}
    return Student(card(events, order), "sha256:0", Colours(order), b"")


def paint(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((16, 16, 3), colour, np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Red, green and other by name, WordNet id and class name; one red picture in green's folder."""
    for i in range(4):
        paint(tmp_path / "red" / f"{i}.png", RED)
        paint(tmp_path / "n07749582" / f"{i}.png", GREEN)
        paint(tmp_path / "acoustic guitar" / "deeper" / f"{i}.png", GREY)
        paint(tmp_path / "holiday-2024" / f"{i}.png", GREY)
    paint(tmp_path / "n07749582" / "9.png", RED)
    return tmp_path


def judged(photos: Path, who: Student, **options: Any) -> dict[str, Any]:
    pictures = evaluate.gather([photos], evaluate.Folders(who.card))
    return evaluate.judge(who.card, evaluate.score(who, pictures, **options))


def test_figures_are_those_of_the_folders(photos: Path) -> None:
    facts = judged(photos, student())
    assert facts["n"] == 17
    assert facts["accuracy"]["value"] == pytest.approx(16 / 17)
    assert facts["macro_recall"]["value"] == pytest.approx((1 + 0.8 + 1) / 3)
    assert facts["recall_at_1_percent_false_alarms"]["value"] == pytest.approx(8 / 9)
    assert facts["recall_at_1_percent_false_alarms"]["n"] == 9
    assert facts["confusion"] == {"labels": ["red", "green", "other"], "matrix": [[4, 0, 0], [1, 4, 0], [0, 0, 8]]}
    assert [event["recall"]["value"] for event in facts["deployed"]["events"]] == [1.0, 0.8]
    assert facts["deployed"]["false_alarm_rate"]["value"] == 0.0
    for name in ("accuracy", "macro_recall", "calibration_error"):
        assert facts[name]["ci_low"] <= facts[name]["value"] <= facts[name]["ci_high"]
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize("order", [[2, 0, 1], [0, 2, 1]])
def test_where_other_stands_does_not_matter(photos: Path, order: list[int]) -> None:
    assert judged(photos, student(order)) == judged(photos, student())


def test_without_negatives_there_is_no_recall_at_false_alarms(tmp_path: Path) -> None:
    paint(tmp_path / "red" / "1.png", RED)
    facts = judged(tmp_path, student())
    assert facts["recall_at_1_percent_false_alarms"] is None
    assert facts["deployed"]["false_alarm_rate"]["n"] == 0


@pytest.mark.parametrize(
    ("folder", "output"),
    [
        ("dog", 0),
        ("Police_Van", 1),
        ("other", 2),
        ("German shepherd", 0),
        ("german_shepherd", 0),
        ("n02106662", 0),
        ("200", 0),  # "150-268" in the card
        ("n03977966", 1),
        ("tabby", 2),
        ("n02123045", 2),
        ("holiday", 2),
    ],
)
def test_a_folder_means_an_event_by_its_name_or_a_teacher_class(folder: str, output: int) -> None:
    events = {"dog": ["n02106662", "150-268"], "police-van": ["police van"]}
    assert evaluate.Folders(card(events, [0, 1, 2])).output(folder) == output


def test_a_name_of_two_classes_with_different_outputs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'crane'.*several teacher classes"):
        evaluate.Folders(card({"bird": ["134"]}, [0, 1])).output("crane")


@pytest.fixture
def classes(tmp_path: Path) -> evaluate.ClassesFile:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(CLASSES), encoding="utf-8")
    return evaluate.ClassesFile.load(path)


@pytest.mark.parametrize("application", ["kitchen", "my-own-name"])
def test_a_classes_file_maps_ids_for_the_application_with_these_events(
    classes: evaluate.ClassesFile, application: str
) -> None:
    folders = evaluate.Folders(card({"lemon": [], "sweet-orange": []}, [0, 1, 2], application), classes)
    assert [folders.output(name) for name in ("n07749582", "n07747607", "n02123045", "n01629819")] == [0, 1, 2, 2]


def test_a_classes_file_for_other_events_is_refused(classes: evaluate.ClassesFile) -> None:
    with pytest.raises(ConfigError, match=r"no application has the student's events red.*backyard \(cat, dog\)"):
        evaluate.Folders(card({"red": []}, [0, 1]), classes)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "names: Field required"), ("[", "Invalid JSON"), ('{"names": {}, "aps": {}}', "aps: Extra inputs")],
)
def test_a_malformed_classes_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        evaluate.ClassesFile.load(path)


def test_an_unreadable_picture_is_named_or_left_out_and_counted(photos: Path) -> None:
    bad = photos / "red" / "bad.jpg"
    bad.write_bytes(b"not a picture")
    with pytest.raises(ConfigError, match=r"red/bad\.jpg.*--skip-unreadable"):
        judged(photos, student())
    assert judged(photos, student(), skip_unreadable=True)["n"] == 17
    pictures = evaluate.gather([photos], evaluate.Folders(student().card))
    assert evaluate.score(student(), pictures, skip_unreadable=True).unreadable == (bad,)


def test_when_nothing_can_be_read_that_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "bad.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match="none of the 1 pictures"):
        judged(tmp_path, student(), skip_unreadable=True)


def test_an_empty_directory_a_missing_one_and_loose_pictures_are_refused(tmp_path: Path) -> None:
    folders = evaluate.Folders(student().card)
    with pytest.raises(ConfigError, match="has no folder with a picture"):
        evaluate.gather([tmp_path], folders)
    with pytest.raises(ConfigError, match="there is no such directory"):
        evaluate.gather([tmp_path / "gone"], folders)
    paint(tmp_path / "loose.png", RED)
    with pytest.raises(ConfigError, match=r"1 pictures, loose\.png among them"):
        evaluate.gather([tmp_path], folders)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Student, "load", lambda data, **_: student())
    app = typer.Typer()
    app.callback()(lambda: None)
    evaluate.register(app)
    return lambda *arguments: CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_json_goes_to_stdout_alone(photos: Path, run: Any) -> None:
    result = run(__file__, "--data", photos, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["application"] == "colours"
    assert facts["folders"]["n07749582"] == {"output": "green", "n": 5}
    assert "scoring 17 pictures" in result.stderr


def test_people_get_a_table_with_intervals(photos: Path, run: Any) -> None:
    result = run(__file__, "--data", photos)
    assert "colours version 0 on 17 pictures, 8 of them other" in result.stdout
    for line in ("accuracy", "macro recall", "recall at 1 % false alarms", "recall of green, at 0.60"):
        assert line in result.stdout


def test_a_file_that_is_no_student_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    with pytest.raises(ConfigError, match=r"student .*x\.tflite: cannot be read"):
        evaluate.evaluate(path, [tmp_path])
    path.write_bytes(b"nothing")
    with pytest.raises(StudentError, match=r"student .*x\.tflite: "):
        evaluate.evaluate(path, [tmp_path])
