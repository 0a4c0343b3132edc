"""Weights that the converter is to take as they are, and that miss less of what the network said."""

import copy

import torch
from torch import Tensor, nn

from distillnet.cloud.core import Classifier, InvertedResidual, SameConv2d
from distillnet.cloud.rounding import rounded
from tests.cloud.test_surgery import network, pictures


def folded(net: Classifier) -> list[Tensor]:
    """Every layer's weights (O, ...) as the converter sees them."""
    pairs = [(net.core.stem, net.core.stem_bn), (net.core.head, net.core.head_bn)]
    for block in net.core.blocks:
        assert isinstance(block, InvertedResidual)
        pairs += [(block.depthwise, block.depthwise_bn), (block.project, block.project_bn)]
        pairs += [(block.expand, block.expand_bn)] if block.expand is not None else []
    weights = [
        conv.weight * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None, None] for conv, norm in pairs
    ]
    return [weight.detach().double() for weight in [*weights, net.classify.weight]]


def steps(weight: Tensor) -> Tensor:
    """Weights (O, I) in steps of their channel's grid."""
    flat = weight.flatten(1)
    return flat / flat.abs().amax(1, keepdim=True) * 127


def to_the_nearest(net: Classifier) -> Classifier:
    """A copy whose weights are rounded as the converter does it."""
    near = copy.deepcopy(net)
    for module in near.modules():
        if isinstance(module, SameConv2d | nn.Linear):
            weight = module.weight.data.flatten(1)
            grid = weight.abs().amax(1, keepdim=True) / 127
            module.weight.data = ((weight / grid).round() * grid).reshape(module.weight.shape)
    return near


def test_all_weights_lie_on_the_grid_of_their_channel():
    net = network()
    before = folded(net)
    after = folded(rounded(net, pictures(32)))
    for was, now in zip(before, after, strict=True):
        assert (steps(now) - steps(now).round()).abs().max() < 0.01
        assert torch.allclose(now.flatten(1).abs().amax(1), was.flatten(1).abs().amax(1), rtol=1e-5)
        assert (steps(now) - steps(was)).abs().max() > 0.5  # further than the nearest, where others make up for it


def test_the_network_says_more_nearly_what_it_said():
    net, shown, others = network(), pictures(64), pictures(96)[64:]
    with torch.no_grad():
        said = net(others)
        error = (rounded(net, shown)(others) - said).square().mean()
        nearest = (to_the_nearest(net)(others) - said).square().mean()
    assert error < 0.5 * nearest


def test_a_channel_of_which_nothing_comes_is_left_alone():
    net = network()
    norm = net.core.blocks[1].depthwise_bn
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight[3] = 0
    after = rounded(net, pictures(16))
    assert torch.equal(after.core.blocks[1].depthwise.weight[3], net.core.blocks[1].depthwise.weight[3])
    with torch.no_grad():
        assert after(pictures(8)).isfinite().all()
