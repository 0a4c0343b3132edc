from collections import Counter, defaultdict

import cv2
import numpy as np
import pytest

from distillnet.cloud import views
from distillnet.cloud.application import Application
from distillnet.cloud.classes import ClassList
from distillnet.cloud.data import gather
from distillnet.cloud.places import locate
from distillnet.cloud.views import plan
from distillnet.proto.files import write_whole
from distillnet.proto.strict import ConfigError

CLASSES = ClassList(tuple((name,) for name in ["cat", "dog", *(f"thing {i}" for i in range(20))]))


def pictures(folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(folder.name))
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))


def application(**data) -> Application:
    return Application.model_validate(
        {
            "application": {"name": "pets"},
            "event": [{"name": "meow", "classes": ["cat"]}, {"name": "woof", "classes": ["dog"]}],
            "data": data,
        }
    )


@pytest.fixture
def labelled(tmp_path):
    pictures(tmp_path / "data" / "cat", 40)
    pictures(tmp_path / "data" / "woof", 40)
    for index in range(12):
        pictures(tmp_path / "data" / f"thing {index}", 6)
    return tmp_path


def test_folders_named_after_events_and_teacher_classes_get_their_outputs(labelled):
    dataset = gather(application(labelled="data"), labelled, CLASSES)
    by_folder = {item.path.parent.name: item.label for item in dataset.items}
    assert by_folder["cat"] == 0
    assert by_folder["woof"] == 1
    assert by_folder["thing 3"] == dataset.other == 2


def test_unseen_negative_classes_are_never_trained_on(labelled):
    dataset = gather(application(labelled="data"), labelled, CLASSES)
    unseen = {item.negative_class for item in dataset.items if item.unseen}
    assert len(unseen) >= 2
    assert all(item.split != "train" for item in dataset.items if item.negative_class in unseen)


def test_every_event_is_in_every_split_and_the_split_is_reproducible(labelled):
    first = gather(application(labelled="data"), labelled, CLASSES, seed=3)
    again = gather(application(labelled="data"), labelled, CLASSES, seed=3)
    assert first == again
    for split in ("train", "validation", "test"):
        assert {0, 1} <= {item.label for item in first.items if item.split == split}


def test_no_group_of_a_csv_straddles_two_splits(tmp_path):
    pictures(tmp_path / "all", 120)
    rows = [f"all/{i}.png,{'cat' if i % 2 else 'woof'},visit{i // 4}" for i in range(120)]
    (tmp_path / "labels.csv").write_text("path,label,group\n" + "\n".join(rows))
    dataset = gather(application(labelled="labels.csv"), tmp_path, CLASSES)
    splits = defaultdict(set)
    for item in dataset.items:
        splits[item.group, item.label].add(item.split)
    assert all(len(found) == 1 for found in splits.values())
    assert dataset.count("test") > 0


def video(path, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    for index in range(frames):
        writer.write(np.full((32, 32, 3), index, np.uint8))
    writer.release()


def test_no_segment_of_a_video_straddles_two_splits_and_its_crops_stay_with_it(tmp_path):
    video(tmp_path / "a.avi", 160)
    dataset = gather(application(unlabelled=["a.avi"]), tmp_path, CLASSES)
    splits = defaultdict(set)
    for index in plan(dataset, 600, 0).items:
        splits[dataset.items[index].group].add(dataset.items[index].split)
    assert all(len(found) == 1 for found in splits.values())
    assert {"train", "validation", "test"} == set().union(*splits.values())


def test_where_time_is_short_frequent_outputs_leave_most_out_and_nothing_held_out(labelled, monkeypatch):
    monkeypatch.setattr(views, "FEWEST_LABELLED", 10)
    dataset = gather(application(labelled="data"), labelled, CLASSES)
    kept = {count: [dataset.items[index] for index in plan(dataset, count, 0).items] for count in (30, 1000)}
    counts = {count: Counter(item.label for item in found if item.split == "train") for count, found in kept.items()}
    assert 27 <= sum(counts[30].values()) <= 33
    assert 6 <= counts[30][0] <= counts[30][dataset.other] < counts[1000][dataset.other]
    assert {item for item in kept[1000] if item.split != "train"} == {i for i in kept[30] if i.split != "train"}
    assert set(kept[1000]) == set(dataset.items)


@pytest.mark.parametrize(("wanted", "most"), [(600, 12), (6000, 100)])
def test_few_pictures_are_shown_in_more_crops_where_there_is_time(labelled, wanted, most):
    dataset = gather(application(labelled="data"), labelled, CLASSES)
    trained = [index for index, item in enumerate(dataset.items) if item.split == "train"]
    shown = Counter(plan(dataset, wanted, 0).items.tolist())
    assert {shown[index] for index in trained} == {1 + min(most, wanted // len(trained) - 1)}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"labelled": "nowhere"}, "nowhere"),
        ({"labelled": "empty"}, "holds no folder"),
        ({"labelled": "bad"}, "label 'catt'.*cat|no teacher class"),
        ({"unlabelled": ["empty"]}, "no picture, no video"),
        ({"unlabelled": ["package:not_a_package/x.mp4"]}, "not installed"),
        ({"negatives": "data/thing 1"}, "event 'meow' has no picture"),
        ({}, "names no picture"),
    ],
)
def test_bad_data_is_said_clearly(labelled, data, said):
    (labelled / "empty").mkdir()
    pictures(labelled / "bad" / "catt", 1)
    with pytest.raises(ConfigError, match=said):
        gather(application(**data), labelled, CLASSES)


def test_a_package_path_points_into_an_installed_package(tmp_path):
    assert locate("package:numpy/__init__.py", tmp_path).name == "__init__.py"


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "report.json").write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "report.json", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"
