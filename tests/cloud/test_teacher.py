"""Teachers of every kind give logits: black boxes that end in a softmax too, torch modules with their features."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from distillnet.cloud.application import TeacherSection
from distillnet.cloud.teacher import _as_logits, backbone, load
from distillnet.proto.strict import ConfigError

MODULE = """
import torch
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 20),
                               torch.nn.ReLU(), torch.nn.Linear(20, 7))
def no_logits():
    return torch.nn.AdaptiveAvgPool2d(4)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "some_teacher.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "some_teacher"
    sys.modules.pop("some_teacher", None)


def test_probabilities_become_logits_even_where_rounding_ate_most_of_them():
    quantised = np.zeros((1, 1000), np.float32)
    quantised[0, 7], quantised[0, 9] = 0.5, 0.1
    logits = _as_logits(quantised)
    again = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert again[0, 7] > 0.8
    assert _as_logits(np.array([[3.0, 0.5]], np.float32)).tolist() == [[3.0, 0.5]]


def test_a_torch_module_gives_logits_and_what_its_last_layer_sees(module):
    teacher = load(TeacherSection(source=f"torch:{module}:net", resolution=32), Path())
    pixels = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3)).astype(np.uint8)
    logits, features = teacher.outputs(pixels)
    assert logits.shape == (5, 7)
    assert features is not None
    assert features.shape == (5, 20)
    assert features.min() >= 0


def test_a_network_of_another_family_has_a_cut_one_to_teach(module):
    teacher = load(TeacherSection(source=f"torch:{module}:net", resolution=32), Path())
    assert teacher.classifier is None
    network, native = backbone(teacher)
    assert network.core.shape.head == 1280
    assert native == 224


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("efficientnet-lite9", "is none of"),
        ("file:missing.tflite", "there is no file"),
        ("torch:some_teacher:nothing", "expected torch:MODULE:ATTRIBUTE"),
        ("torch:some_teacher:no_logits", "expected logits"),
    ],
)
def test_what_is_no_teacher_is_refused_with_the_reason(module, source, said):
    with pytest.raises(ConfigError, match=said):
        load(TeacherSection(source=source), Path())
