"""What is laid out for `distill`, and that the whole comparison runs."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from tiny_archive import make_archive

from distillnet.cloud.application import TeacherSection
from distillnet.cloud.evaluation.distilled import cases
from distillnet.cloud.evaluation.distilled.compare import compare, laid_out
from distillnet.cloud.teacher import load
from distillnet.proto.strict import ConfigError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    make_archive(tmp_path / "tiny.zip", pictures=30)
    return tmp_path / "tiny.zip"


def test_few_are_labelled_and_the_rest_is_a_heap(archive: Path, tmp_path: Path) -> None:
    case = cases.few("fruit", archive, seed=0)
    assert np.bincount(case.labels).tolist() == [10, 10, 10]
    assert len(case.labelled) + len(case.heap) == 90
    known = {picture.tobytes() for picture in case.labelled}
    assert not known & {picture.tobytes() for picture in case.heap}
    application = tomllib.loads(laid_out(case, tmp_path / "few").read_text())
    assert [event["classes"] for event in application["event"]] == [["n07747607"], ["n07749582"]]
    found = {folder.name: len(list(folder.iterdir())) for folder in (tmp_path / "few" / "labelled").iterdir()}
    assert found == {"orange": 10, "lemon": 10, "other": 10}


def test_all_are_labelled_and_there_is_no_heap(archive: Path, tmp_path: Path) -> None:
    case = cases.whole("fruit", archive, seed=0)
    assert (len(case.labelled), case.heap) == (90, [])
    case.words["sour lemon"] = case.words.pop("lemon")
    application = tomllib.loads(laid_out(case, tmp_path / "all").read_text())
    assert "unlabelled" not in application["data"]
    assert [event["name"] for event in application["event"]] == ["orange", "sour_lemon"]
    assert (tmp_path / "all" / "labelled" / "sour_lemon").is_dir()


def test_an_archive_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.zip: expected photos of ants and bees"):
        cases.ants_bees(tmp_path / "none.zip", 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_comparison_judges_student_teacher_and_probe_alike(archive: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DISTILLNET_CACHE", str(tmp_path / "cache"))
    case = cases.few("fruit", archive, seed=0)
    found = compare(case, load(TeacherSection(), Path()), minutes=0.1, seed=0)
    assert found["speedup"] > 1
    assert found["winner"] == "core"
    assert set(found["figures"]) == {"teacher as it is", "probe on the labelled pictures", "student, int8"}
    for figures in found["figures"].values():
        assert figures["macro_recall"]["n"] == 90
        assert figures["recall_at_1_percent"]["n"] == 60
    assert found["figures"]["probe on the labelled pictures"]["macro_recall"]["value"] > 0.9
    assert found["figures"]["student, int8"]["macro_recall"]["value"] > 0.6
