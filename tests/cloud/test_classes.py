import pytest

from distillnet.cloud.classes import ClassList, check_disjoint
from distillnet.proto.strict import ConfigError


@pytest.fixture(scope="module")
def imagenet() -> ClassList:
    return ClassList.imagenet()


def test_a_class_is_found_by_name_synonym_wordnet_id_and_index(imagenet):
    assert imagenet.find("n02106662") == imagenet.find("235") == imagenet.find("german shepherd") == (235,)
    assert imagenet.find("German Shepherd Dog") == imagenet.find("alsatian") == (235,)


def test_a_range_means_all_its_classes(imagenet):
    assert imagenet.resolve(["0-397"], event="animal") == tuple(range(398))


def test_words_of_one_event_are_joined_and_sorted(imagenet):
    assert imagenet.resolve(["906", "bow tie", "457"], event="tie") == (457, 906)


@pytest.mark.parametrize(
    ("word", "suggested"),
    [("bow ty", "bow tie"), ("shepherd", "German shepherd"), ("5000", "0–999"), ("900-1001", "0–999")],
)
def test_an_unknown_class_is_an_error_that_suggests_near_ones(imagenet, word, suggested):
    with pytest.raises(ConfigError, match=r"event 'e'.*") as error:
        imagenet.resolve([word], event="e")
    assert suggested.lower() in str(error.value).lower()


def test_one_class_cannot_mean_two_events(imagenet):
    with pytest.raises(ConfigError, match=r"457.*'a' and 'b'"):
        check_disjoint({"a": (1, 457), "b": (457,)}, imagenet)


def test_classes_come_from_a_file_with_synonyms(tmp_path):
    (tmp_path / "classes.txt").write_text("cat, felis\ndog\n")
    classes = ClassList.from_file(tmp_path / "classes.txt")
    assert len(classes) == 2
    assert classes.find("Felis") == (0,)


def test_an_empty_class_file_is_refused(tmp_path):
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        ClassList.from_file(tmp_path / "classes.txt")
