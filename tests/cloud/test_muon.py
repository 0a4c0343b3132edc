"""Muon: what its steps are, which weights it is for, and that it reaches what lies along faint directions."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from distillnet.cloud.audio.students import DsCnn, StudentShape
from distillnet.cloud.muon import Muon, matrices, orthogonal


@pytest.mark.parametrize("shape", [(32, 128), (128, 32), (16, 16)])
def test_a_matrix_becomes_about_orthonormal_whatever_its_size(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for size in (1e-6, 1.0, 1e6):
        made = orthogonal(size * torch.randn(shape))
        values = torch.linalg.svdvals(made)
        assert made.shape == shape
        assert 0.5 < float(values.min()) <= float(values.max()) < 1.3


def test_directions_are_kept() -> None:
    torch.manual_seed(1)
    left, _ = torch.linalg.qr(torch.randn(24, 8))
    right, _ = torch.linalg.qr(torch.randn(40, 8))
    made = orthogonal(left @ torch.diag(torch.logspace(-1, 0, 8)) @ right.T)
    turned = left.T @ made @ right
    assert torch.allclose(turned, torch.diag(turned.diag()), atol=0.05)
    assert float(turned.diag().min()) > 0.5


def test_nothing_to_learn_moves_nothing() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, torch.ones(4, 4))


def test_it_is_for_pointwise_convolutions() -> None:
    student = DsCnn(StudentShape(), 6)
    assert matrices(student) == {f"blocks.{index}.pointwise.weight" for index in range(4)}


def test_it_learns_a_stretched_problem_in_fewer_steps_than_adam() -> None:
    """Least squares whose inputs differ in size by a thousand, mixed: the faint ones carry half of the answer."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    x = torch.tensor(rng.standard_normal((2048, 64)) * np.logspace(-3, 0, 64) @ turn, dtype=torch.float32)
    aim = x @ torch.tensor(turn.T * np.logspace(3, 0, 64) @ turn, dtype=torch.float32)
    begun = nn.Linear(64, 64, bias=False)

    def left(muon: bool, rate: float) -> float:
        layer = copy.deepcopy(begun)
        optimiser = Muon([layer.weight], lr=rate, momentum=0.9) if muon else torch.optim.Adam([layer.weight], lr=rate)
        for step in range(300):
            optimiser.param_groups[0]["lr"] = rate * (1 - step / 300)
            optimiser.zero_grad()
            loss = (layer(x) - aim).square().mean()
            loss.backward()
            optimiser.step()
        return float(loss.detach())

    rates = [10.0**power for power in range(-3, 3)]
    assert min(left(True, rate) for rate in rates) < 0.5 * min(left(False, rate) for rate in rates)


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    one, other = (nn.Parameter(torch.ones(6, 3)) for _ in range(2))
    gradients = torch.randn(4, 6, 3)
    first, second = Muon([one], lr=0.1, weight_decay=0.1), Muon([other], lr=0.1, weight_decay=0.1)
    for index, gradient in enumerate(gradients):
        one.grad, other.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
        if index == 1:
            kept = copy.deepcopy(second.state_dict())
            second = Muon([other], lr=0.7)
            second.load_state_dict(kept)
    assert torch.equal(one, other)
