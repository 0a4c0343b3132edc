"""Crops that a guide answers for: what the student is shown is what the teacher was asked about."""

import numpy as np
import pytest
import torch

from distillnet.cloud import accelerator, material
from distillnet.cloud.core import BlockShape, Classifier, CoreNet, CoreShape
from distillnet.cloud.crops import Crops, Guide
from distillnet.cloud.export import to_int8
from distillnet.cloud.teacher import normalise
from distillnet.cloud.training import CROP_USES, Lessons, Recipe, ThrowAwayHead, balanced, distil
from distillnet.cloud.views import SMALLEST_CROP

LARGE, SIDE, COUNT, OUTPUTS = 48, 24, 40, 3
BLOCKS = tuple(BlockShape(8, 16, 8, 3, 1, expands=True, residual=True) for _ in range(2))


@pytest.fixture(scope="module")
def teacher() -> CoreNet:
    torch.manual_seed(0)
    return CoreNet(CoreShape(8, BLOCKS, 16)).eval()


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Each of one colour from left to right and another from top to bottom, so that every crop is another."""
    ramp = np.linspace(0, 255, LARGE).astype(np.uint8)
    found = np.zeros((COUNT, LARGE, LARGE, 3), np.uint8)
    found[..., 0], found[..., 1] = ramp[:, None], ramp
    found[..., 2] = np.linspace(0, 255, COUNT).astype(np.uint8)[:, None, None]
    return found


@pytest.fixture(scope="module")
def guide(teacher, pictures, tmp_path_factory) -> Guide:
    torch.manual_seed(1)
    return Guide(
        pictures=material.write_pictures(tmp_path_factory.mktemp("guide"), pictures),
        model=to_int8(teacher, normalise(pictures[:8], 127.0, 128.0)),
        classify=torch.nn.Linear(16, 10),
        probe=torch.nn.Linear(16, OUTPUTS),
        asks=np.arange(COUNT) % 2 == 0,
        mean=127.0,
        scale=128.0,
    )


def lessons(pictures: np.ndarray) -> Lessons:
    rng = np.random.default_rng(0)
    wanted = np.eye(OUTPUTS, dtype=np.float32)[np.arange(COUNT) % OUTPUTS]
    logits, features = (rng.normal(size=(COUNT, size)).astype(np.float32) for size in (10, 16))
    return Lessons(pictures[:, ::2, ::2], wanted, logits, features, balanced(wanted), 127.0, 128.0)


def half_still() -> tuple[Classifier, ThrowAwayHead, list[int]]:
    """Give a network whose first block stands still, a throw-away head, and how many pictures the block meets."""
    torch.manual_seed(0)
    net, seen = Classifier(CoreNet(CoreShape(8, BLOCKS, 16), fixed_norms=True), 16, OUTPUTS), []
    net.core.blocks[0].register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    return net, ThrowAwayHead(16, torch.nn.Linear(16, 10), 10), seen


def test_the_student_sees_the_crop_that_the_teacher_was_asked_about(guide, teacher):
    crops = Crops(guide, SIDE)
    chosen = np.array([3, 3, 8, 39])
    shown, said = crops.make(chosen, np.random.default_rng(5))
    assert shown.shape == (4, SIDE, SIDE, 3)
    assert (shown[:, 0, 0, 2] == np.linspace(0, 255, COUNT).astype(np.uint8)[chosen]).all(), "of the chosen pictures"
    assert not (shown[0] == shown[1]).all(), "the same picture twice gives two crops"
    widths = shown[:, 0, -1, 1].astype(int) - shown[:, 0, 0, 1]
    assert (widths > 255 * 0.9 * SMALLEST_CROP["labelled"] * np.exp(-0.15) - 20).all()
    _, _, felt = crops.answers(said, chosen, torch.zeros(4, OUTPUTS))
    with torch.no_grad():  # a smooth picture is the same in any size, up to its borders
        expected = teacher(normalise(shown, 127.0, 128.0))
    near, far = (expected - felt).abs().mean(), (expected - felt.roll(1, 0)).abs().mean()
    assert near < far


def test_the_probe_is_asked_about_labelled_pictures_alone(guide):
    crops = Crops(guide, SIDE)
    chosen, wholly = np.array([0, 1]), torch.tensor([[0.0, 1.0, 0.0]]).expand(2, -1)
    _, said = crops.make(chosen, np.random.default_rng(5))
    wanted, logits, felt = crops.answers(said, chosen, wholly)
    assert torch.equal(wanted[0], guide.probe(felt).softmax(1)[0])
    assert torch.equal(wanted[1], wholly[1])
    assert torch.equal(logits, guide.classify(felt))


def test_a_crop_is_used_a_few_times_and_the_same_seed_gives_the_same_student(guide, pictures, monkeypatch):
    monkeypatch.setattr(accelerator, "device", lambda: torch.device("cpu"))
    weights, met = [], []
    for _ in range(2):
        net, away, seen = half_still()
        distil(net, away, lessons(pictures), Recipe(seconds=60, steps=60, batch=32), seed=5, guide=guide)
        weights.append(torch.cat([p.flatten() for p in net.parameters()]))
        met.append(sum(seen))
    assert torch.equal(*weights)
    assert met[0] == met[1]
    assert met[0] == pytest.approx(60 * 32 / CROP_USES, rel=0.2)


def test_answers_for_crops_teach_other_than_answers_for_whole_pictures(guide, pictures):
    curves = []
    for own in (guide, None):
        net, away, _ = half_still()
        curves.append(distil(net, away, lessons(pictures), Recipe(seconds=60, steps=60, batch=32), seed=5, guide=own))
    assert curves[0][-1]["loss"] != curves[1][-1]["loss"]
