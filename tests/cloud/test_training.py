import numpy as np
import pytest
import torch

from distillnet.cloud import accelerator, core
from distillnet.cloud.checkpoint import Checkpoint
from distillnet.cloud.core import BlockShape, Classifier, CoreNet, CoreShape, SameConv2d
from distillnet.cloud.training import (
    PACE_STEPS,
    TRIAL_STEPS,
    USES,
    VERSIONS,
    Lessons,
    Pace,
    Recipe,
    ThrowAwayHead,
    balanced,
    distil,
    predict,
)
from distillnet.proto.strict import ConfigError

SHAPE = CoreShape(8, (BlockShape(8, 16, 16, 3, 2, expands=True, residual=False),), 16)


def lessons(count=48) -> Lessons:
    """Bright pictures are output 0, dark ones output 1."""
    rng = np.random.default_rng(0)
    bright = np.arange(count) % 2 == 0
    pixels = (rng.integers(0, 60, (count, 16, 16, 3)) + 180 * bright[:, None, None, None]).astype(np.uint8)
    wanted = np.stack([bright, ~bright], 1).astype(np.float32)
    logits = np.concatenate([wanted * 4, np.zeros((count, 1), np.float32)], 1)
    features = np.repeat(wanted, 3, axis=1)
    return Lessons(pixels, wanted, logits, features, balanced(wanted), 127.0, 128.0)


def student(seed=0):
    torch.manual_seed(seed)
    return Classifier(CoreNet(SHAPE), 16, 2), ThrowAwayHead(16, torch.nn.Linear(6, 3), 3)


def half_still():
    """Give a network whose first block stands still, a throw-away head, and how many pictures the block meets."""
    torch.manual_seed(0)
    blocks = tuple(BlockShape(8, 16, 8, 3, 1, expands=True, residual=True) for _ in range(2))
    net, seen = Classifier(CoreNet(CoreShape(8, blocks, 16), fixed_norms=True), 16, 2), []
    net.core.blocks[0].register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    return net, ThrowAwayHead(16, None, 3), seen


def test_a_student_learns_and_the_same_seed_and_steps_give_the_same_student(monkeypatch):
    monkeypatch.setattr(accelerator, "device", lambda: torch.device("cpu"))  # CUDA adds in no fixed order
    weights = []
    for _ in range(2):
        net, away = student()
        distil(net, away, lessons(), Recipe(seconds=60, steps=60, batch=16), seed=5)
        weights.append(torch.cat([p.flatten() for p in net.parameters()]))
    assert torch.equal(*weights)
    material = lessons()
    decided = predict(net, material.pixels, 127.0, 128.0).argmax(1)
    assert (decided == material.wanted.argmax(1)).mean() > 0.9


def test_the_learning_curve_has_a_point_every_fifty_steps_where_nothing_is_checked():
    net, away = student()
    curve = distil(net, away, lessons(), Recipe(seconds=60, steps=60, batch=8), seed=0)
    assert [point["step"] for point in curve] == [1, 51, 60]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    checkpoint = Checkpoint(tmp_path, "key")
    net, away = student()
    done = []

    def interrupt(amount, note=""):
        done.append(amount)
        if len(done) == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recipe = Recipe(seconds=60, steps=20, batch=8, keep_every_s=0)
        distil(net, away, lessons(), recipe, seed=1, advance=interrupt, keep=checkpoint.keep)
    state = checkpoint.load()
    assert state is not None
    assert state["step"] == 9
    net, away = student(seed=7)
    curve = distil(net, away, lessons(), Recipe(seconds=60, steps=20, batch=8), seed=1, resume_from=state)
    assert curve[-1]["step"] == 20


def test_a_checkpoint_of_another_run_or_a_broken_one_is_ignored(tmp_path):
    Checkpoint(tmp_path, "a").keep({"step": 1})
    assert Checkpoint(tmp_path, "b").load() is None
    assert Checkpoint(tmp_path, "a").load() == {"step": 1}
    (tmp_path / ".distil.pt").write_bytes(b"half")
    assert Checkpoint(tmp_path, "a").load() is None


def test_a_loss_that_is_no_number_is_an_error():
    net, away = student()
    material = lessons()
    material.logits[:] = np.nan
    with pytest.raises(ConfigError, match="diverged"):
        distil(net, away, material, Recipe(seconds=60, steps=5, batch=8), seed=0)


def test_norms_that_stand_still_are_folded_while_training_and_change_neither_outputs_nor_gradients():
    torch.manual_seed(0)
    blocks = (BlockShape(8, 16, 16, 3, 2, True, False), BlockShape(16, 24, 16, 5, 1, True, True))
    net = CoreNet(CoreShape(8, blocks, 16), fixed_norms=True)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    x = torch.randn(4, 3, 21, 21)
    found = []
    for mode in (False, True):
        net.train(mode)
        assert net.blocks[1].folds is mode
        net.zero_grad()
        y = net(x)
        y.square().sum().backward()
        found.append([y.detach(), *(p.grad.clone() for p in net.parameters())])
    for plain, folded in zip(*found, strict=True):
        torch.testing.assert_close(plain, folded, rtol=1e-3, atol=1e-4)


def test_training_keeps_the_number_of_threads_that_makes_quicker_steps():
    for one_takes, chosen in ((1.0, 1), (3.0, 4)):
        pace, threads = Pace(4), 4
        for _ in range(2 * TRIAL_STEPS):
            threads = pace.note(one_takes if threads == 1 else 2.0)
        assert threads == chosen
    one = Pace(1)
    assert {one.note(1.0) for _ in range(PACE_STEPS)} == {1}


def test_what_blocks_that_stand_still_make_of_a_picture_is_used_again_but_not_for_ever():
    net, away, seen = half_still()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    material, steps, batch = lessons(), 120, 16
    distil(net, away, material, Recipe(seconds=60, steps=steps, batch=batch), seed=0)
    made = sum(seen) - 1  # one to learn its shape
    assert made >= steps * batch / USES
    assert made <= steps * batch / USES + len(material.pixels) * VERSIONS
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith(("core.stem", "core.blocks.0")) for name in changed)
    assert any(name.startswith("core.blocks.1") for name in changed)
    decided = predict(net, material.pixels, 127.0, 128.0).argmax(1)
    assert (decided == material.wanted.argmax(1)).mean() > 0.9


def test_a_picture_met_twice_in_a_batch_is_made_once():
    net, away, seen = half_still()
    distil(net, away, lessons(count=2), Recipe(seconds=60, steps=1, batch=64), seed=0)
    assert 0 < sum(seen[1:]) <= 2 * VERSIONS


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: would train there")
def test_a_cuda_device_trains_a_student_that_comes_back():
    net, away = student()
    distil(net, away, lessons(), Recipe(seconds=60, steps=60, batch=16), seed=5)
    assert {p.device.type for p in [*net.parameters(), *away.parameters()]} == {"cpu"}
    material = lessons()
    decided = predict(net, material.pixels, 127.0, 128.0).argmax(1)
    assert (decided == material.wanted.argmax(1)).mean() > 0.9


@pytest.mark.parametrize(("side", "kernel", "stride"), [(6, 5, 1), (6, 5, 2), (3, 3, 1), (7, 3, 2), (8, 5, 2)])
def test_few_positions_are_convolved_by_channel_with_the_same_outputs_and_gradients(side, kernel, stride):
    torch.manual_seed(0)
    conv = SameConv2d(12, 12, kernel, stride, groups=12)
    found = []
    for few in (0, 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core, "FEW_POSITIONS", few)
            conv.zero_grad()
            x = torch.randn(5, 12, side, side, generator=torch.Generator().manual_seed(1)).requires_grad_()
            y = conv.convolve(x, conv.weight, torch.arange(12.0))
            y.square().sum().backward()
            found.append((y.detach(), x.grad, conv.weight.grad.clone()))
    for usual, by_channel in zip(*found, strict=True):
        torch.testing.assert_close(usual, by_channel, rtol=1e-4, atol=1e-4)
