import numpy as np
import pytest
import torch

from distillnet.cloud.core import BlockShape, Classifier, CoreNet, CoreShape, macs
from distillnet.cloud.relevance import CRITERIA, block_relevance, find_groups, rank
from distillnet.cloud.surgery import (
    choose,
    cut,
    drop_blocks,
    layer_macs,
    layer_weights,
    layers_of,
    reestimate_norms,
    total_cost,
)

SHAPE = CoreShape(
    stem=16,
    blocks=(
        BlockShape(16, 16, 16, 3, 1, expands=False, residual=False),
        BlockShape(16, 48, 24, 3, 2, expands=True, residual=False),
        BlockShape(24, 72, 24, 5, 1, expands=True, residual=True),
        BlockShape(24, 72, 24, 3, 1, expands=True, residual=True),
        BlockShape(24, 96, 40, 5, 2, expands=True, residual=False),
    ),
    head=64,
)
EXAMPLE = torch.zeros(1, 3, 32, 32)


def network() -> Classifier:
    torch.manual_seed(0)
    net = Classifier(CoreNet(SHAPE), SHAPE.head, 3)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
            module.running_mean.uniform_(-0.2, 0.2)
    return net.eval()


def pictures(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def relevance_of(net, groups, criterion="taylor"):
    wanted = torch.softmax(torch.randn(6, 3, generator=torch.Generator().manual_seed(2)), 1)
    return rank(net, groups, pictures(), wanted, criterion=criterion)


def test_a_cut_network_says_what_the_masked_one_said():
    net = network()
    groups = find_groups(net, EXAMPLE, keep=(net.classify,))
    layers = layers_of(net, EXAMPLE)
    remove = choose(groups, layers, relevance_of(net, groups), 0.5 * total_cost(layers))
    masked = network()
    for group in groups:
        for name in group.norms:
            norm = masked.get_submodule(name)
            norm.weight.data[remove.get(group.root, [])] = 0
            norm.bias.data[remove.get(group.root, [])] = 0
    cut(net, EXAMPLE, remove)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(pictures()), masked(pictures()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_budget_is_met_and_channels_are_multiples_of_the_step(criterion):
    net = network()
    groups = find_groups(net, EXAMPLE, keep=(net.classify,))
    layers = layers_of(net, EXAMPLE)
    budget = 0.6 * total_cost(layers)
    cut(net, EXAMPLE, choose(groups, layers, relevance_of(net, groups, criterion), budget))
    left = layers_of(net, EXAMPLE)
    assert total_cost(left) <= budget
    assert all(layer.out % 8 == 0 for name, layer in left.items() if name.startswith("core."))
    assert net.core.shape == CoreShape.from_json(net.core.shape.to_json())


def test_a_cut_shape_can_be_rebuilt_and_loaded():
    net = network()
    groups = find_groups(net, EXAMPLE, keep=(net.classify,))
    layers = layers_of(net, EXAMPLE)
    cut(net, EXAMPLE, choose(groups, layers, relevance_of(net, groups), 0.6 * total_cost(layers)))
    again = Classifier(CoreNet(net.core.shape), net.core.shape.head, 3)
    again.load_state_dict(net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(pictures()), net.eval()(pictures()))


def test_formula_and_hooks_count_the_same_macs():
    assert macs(SHAPE, 32, 3) == total_cost(layers_of(network(), EXAMPLE), layer_macs)


def test_a_channel_that_says_nothing_has_no_relevance():
    net = network()
    net.core.blocks[2].depthwise_bn.weight.data[5] = 0
    net.core.blocks[2].depthwise_bn.bias.data[5] = 0
    net.core.blocks[2].expand_bn.weight.data[5] = 0
    net.core.blocks[2].expand_bn.bias.data[5] = 0
    groups = find_groups(net, EXAMPLE, keep=(net.classify,))
    relevance = relevance_of(net, groups)["core.blocks.2.depthwise"]
    assert relevance[5] == 0
    assert np.median(relevance) > 0


def test_only_blocks_that_add_to_their_input_are_judged_and_dropped():
    net = network()
    wanted = torch.softmax(torch.randn(6, 3), 1)
    assert sorted(block_relevance(net, net.core.blocks, pictures(), wanted)) == [2, 3]
    net.core.blocks = drop_blocks(net.core.blocks, [3])
    assert len(net.core.blocks) == 4
    assert net(pictures()).shape == (6, 3)
    with pytest.raises(ValueError, match="cannot be dropped"):
        drop_blocks(net.core.blocks, [1])


def test_reestimated_norms_have_the_statistics_of_the_pictures():
    net = network()
    reestimate_norms(net, [pictures(32)])
    with torch.no_grad():
        before = net.core.stem(pictures(32))
    torch.testing.assert_close(net.core.stem_bn.running_mean, before.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert not net.training


def test_a_budget_of_weights_is_met_beside_one_of_cost():
    net = network()
    groups = find_groups(net, EXAMPLE, keep=(net.classify,))
    layers = layers_of(net, EXAMPLE)
    most = 0.6 * total_cost(layers, layer_weights)
    cut(net, EXAMPLE, choose(groups, layers, relevance_of(net, groups), 0.9 * total_cost(layers), most_weights=most))
    left = layers_of(net, EXAMPLE)
    assert total_cost(left, layer_weights) <= most
    assert total_cost(left) <= 0.9 * total_cost(layers)
