"""`check-config` on application files: what would stop `distill` is said before any work begins."""

import pytest

from distillnet.cloud.check import recognise
from distillnet.device.check import check_config
from distillnet.proto.strict import ConfigError

FILE = """
[application]
name = "yard"
[teacher]
source = "efficientnet-lite0"
[[event]]
name = "dog"
classes = ["beagle"]
examples = "dogs"
[data]
unlabelled = ["more"]
"""


@pytest.fixture
def yard(tmp_path):
    for folder in ("dogs", "more"):
        (tmp_path / folder).mkdir()
    (tmp_path / "yard.app.toml").write_text(FILE)
    return tmp_path / "yard.app.toml"


def test_a_valid_file_is_summed_up(yard):
    assert check_config(yard) == "application 'yard': dog, taught by efficientnet-lite0"


def test_another_kind_of_file_is_left_to_others(tmp_path):
    assert recognise(tmp_path / "device.toml", {"device": {}}) is None


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("efficientnet-lite0", "efficientnet-lite9", r"source 'efficientnet-lite9' is none of .*did you mean"),
        ("efficientnet-lite0", "file:none.tflite", r"there is no .*none\.tflite"),
        ('"more"', '"gone"', r"there is no .*gone"),
        ('"dogs"', '"cats"', r"there is no .*cats"),
        ("beagle", "beegle", r"no class 'beegle'; did you mean .*beagle"),
        ("[data]", '[budget]\nboard = "abacus"\n[data]', r"\[budget\] board: 'abacus' is unknown"),
    ],
)
def test_what_would_stop_distil_is_found(yard, right, wrong, message):
    yard.write_text(FILE.replace(right, wrong, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        check_config(yard)
    assert str(yard) in str(caught.value)
