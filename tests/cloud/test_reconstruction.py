import copy

import torch

from distillnet.cloud.core import BlockShape, CoreNet, CoreShape
from distillnet.cloud.reconstruction import reconstruct
from distillnet.cloud.surgery import cut, drop_blocks
from tests.cloud.test_surgery import EXAMPLE, network, pictures


def cut_core(dropped: list[int], remove: dict[str, list[int]]) -> tuple[CoreNet, CoreNet]:
    net = network()
    whole = copy.deepcopy(net.core)
    net.core.blocks = drop_blocks(net.core.blocks, dropped)
    cut(net, EXAMPLE, remove)
    return net.core.eval(), whole


def distance(core: CoreNet, whole: CoreNet) -> float:
    with torch.no_grad():
        return float((core(pictures(32)) - whole(pictures(32))).square().mean())


def everything(core: CoreNet) -> list[torch.Tensor]:
    return [torch.arange(block.project.out_channels) for block in core.blocks]


def test_what_the_cut_leaves_makes_up_for_what_is_gone():
    core, whole = cut_core([3], {"core.blocks.1.expand": [0, 5, 7, 11, 20], "core.blocks.3.expand": [1, 2, 3, 40]})
    before = distance(core, whole)
    reconstruct(core, whole, [0, 1, 2, 4], everything(core), pictures(32))
    assert distance(core, whole) < 0.5 * before


def test_a_network_that_lost_nothing_says_what_it_said():
    core, whole = cut_core([], {})
    reconstruct(core, whole, [0, 1, 2, 3, 4], everything(core), pictures(32))
    assert distance(core, whole) < 0.02 * float(whole(pictures(32)).detach().var())


def test_an_output_that_is_gone_is_not_aimed_at():
    core, whole = cut_core([], {"core.blocks.4.project": [3, 4]})
    left = everything(core)
    left[-1] = torch.tensor([channel for channel in range(40) if channel not in (3, 4)])
    reconstruct(core, whole, [0, 1, 2, 3, 4], left, pictures(32))
    assert core.blocks[-1].project.out_channels == 38


def test_fixed_norms_keep_their_statistics_in_training():
    shape = CoreShape(8, (BlockShape(8, 16, 16, 3, 2, expands=True, residual=False),), 16)
    for fixed in (True, False):
        core = CoreNet(shape, fixed_norms=fixed).train()
        core(3 + pictures(8))
        assert bool((core.stem_bn.running_mean == 0).all()) == fixed
