"""Few labelled pictures beside a heap: what is laid out for `distill`, and that the whole comparison runs."""

import json
import tomllib
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from distillnet.cloud.application import TeacherSection
from distillnet.cloud.evaluation.few import cases
from distillnet.cloud.evaluation.few.compare import compare, laid_out
from distillnet.cloud.teacher import load
from distillnet.proto.strict import ConfigError

COLOURS = {"n07747607": (0, 120, 255), "n07749582": (0, 240, 240), "n01629819": (60, 60, 60), "n02125311": (90, 60, 40)}
CLASSES = {
    "names": {},
    "applications": {"fruit": {"orange": ["n07747607"], "lemon": ["n07749582"]}},
    "seen_negatives": ["n01629819"] * 8,
    "unseen_negatives": ["n02125311"],
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w") as file:
        file.writestr("classes.json", json.dumps(CLASSES))
        for wordnet, colour in COLOURS.items():
            for split in ("unseen",) if wordnet == "n02125311" else ("train", "val"):
                for number in range(30):
                    picture = np.clip(np.array(colour) + rng.integers(-30, 31, (64, 64, 3)), 0, 255).astype(np.uint8)
                    file.writestr(f"{split}/{wordnet}/{number}.JPEG", cv2.imencode(".jpg", picture)[1].tobytes())
    return tmp_path / "tiny.zip"


def test_few_are_labelled_and_the_rest_is_a_heap(archive: Path, tmp_path: Path) -> None:
    case = cases.on_tiny_imagenet("fruit", archive, seed=0)
    assert np.bincount(case.labels).tolist() == [10, 10, 8]
    assert len(case.labelled) + len(case.heap) == 90
    known = {picture.tobytes() for picture in case.labelled}
    assert not known & {picture.tobytes() for picture in case.heap}
    application = tomllib.loads(laid_out(case, tmp_path / "few").read_text())
    assert [event["classes"] for event in application["event"]] == [["n07747607"], ["n07749582"]]
    found = {folder.name: len(list(folder.iterdir())) for folder in (tmp_path / "few" / "labelled").iterdir()}
    assert found == {"orange": 10, "lemon": 10, "other": 8}


def test_an_archive_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.zip: expected photos of ants and bees"):
        cases.ants_bees(tmp_path / "none.zip", 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_comparison_judges_student_teacher_and_probe_alike(archive: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DISTILLNET_CACHE", str(tmp_path / "cache"))
    case = cases.on_tiny_imagenet("fruit", archive, seed=0)
    found = compare(case, load(TeacherSection(), Path()), minutes=0.1, seed=0)
    assert set(found["figures"]) == {"teacher as it is", "probe on the labelled pictures", "student, int8"}
    for figures in found["figures"].values():
        assert figures["macro_recall"]["n"] == 90
        assert figures["recall_at_1_percent"]["n"] == 60
    assert found["figures"]["probe on the labelled pictures"]["macro_recall"]["value"] > 0.9
    assert found["figures"]["student, int8"]["macro_recall"]["value"] > 0.6
