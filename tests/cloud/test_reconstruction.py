import copy

import pytest
import torch
from torch import nn

from distillnet.cloud import reconstruction
from distillnet.cloud.core import BlockShape, CoreNet, CoreShape
from distillnet.cloud.reconstruction import Left, reconstruct
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


def left(core: CoreNet, whole: CoreNet, origins: list[int], **gone: list[int]) -> Left:
    """What is left; `gone`: the channels without which a block's `expandedN` or `streamN` is."""

    def of(name: str, number: int, conv: nn.Conv2d) -> torch.Tensor:
        out = set(gone.get(f"{name}{number}", []))
        return torch.tensor([channel for channel in range(conv.out_channels) if channel not in out])

    blocks = [(origin, whole.blocks[origin]) for origin in origins]
    return Left(
        origins=origins,
        expanded=[of("expanded", n, block.expand) if block.expand else None for n, block in blocks],
        streams=[of("stream", n, block.project) for n, block in blocks],
        head=torch.arange(core.head.out_channels),
    )


def test_what_the_cut_leaves_makes_up_for_what_is_gone():
    first, second = [0, 5, 7, 11, 20], [1, 2, 3, 40]
    core, whole = cut_core([3], {"core.blocks.1.expand": first, "core.blocks.3.expand": second})
    before = distance(core, whole)
    reconstruct(core, whole, left(core, whole, [0, 1, 2, 4], expanded1=first, expanded4=second), pictures(32))
    assert distance(core, whole) < 0.5 * before


def test_a_network_that_lost_nothing_says_what_it_said():
    core, whole = cut_core([], {})
    reconstruct(core, whole, left(core, whole, [0, 1, 2, 3, 4]), pictures(32))
    assert distance(core, whole) < 0.02 * float(whole(pictures(32)).detach().var())


def test_of_a_stream_what_matters_is_left_not_some_channels(monkeypatch: pytest.MonkeyPatch):
    """The more so for a stream that blocks add to: half of its channels carry less than half of its directions."""
    gone = list(range(0, 24, 2))
    distances = []
    for turned in (True, False):
        core, whole = cut_core([], {"core.blocks.1.project": gone})
        if not turned:
            monkeypatch.setattr(reconstruction, "_taker", lambda *_: None)
        reconstruct(core, whole, left(core, whole, [0, 1, 2, 3, 4], stream1=gone, stream2=gone), pictures(32))
        distances.append(distance(core, whole))
    assert distances[0] < 0.8 * distances[1]


def test_a_first_block_that_adds_to_the_stem_s_stream_keeps_its_channels():
    torch.manual_seed(0)
    blocks = (
        BlockShape(8, 16, 8, 3, 1, expands=True, residual=True),
        BlockShape(8, 24, 8, 3, 1, expands=True, residual=True),
    )
    whole = CoreNet(CoreShape(8, blocks, 16)).eval()
    core = copy.deepcopy(whole)
    reconstruct(core, whole, left(core, whole, [0, 1]), pictures(32))
    assert distance(core, whole) < 0.02 * float(whole(pictures(32)).detach().var())


def test_an_output_that_is_gone_is_not_aimed_at():
    core, whole = cut_core([], {"core.blocks.4.project": [3, 4]})
    reconstruct(core, whole, left(core, whole, [0, 1, 2, 3, 4], stream4=[3, 4]), pictures(32))
    assert core.blocks[-1].project.out_channels == 38


def test_one_picture_again_and_again_is_enough_to_stay_finite():
    gone = [0, 1, 2, 3]
    core, whole = cut_core([], {"core.blocks.4.project": gone})
    reconstruct(core, whole, left(core, whole, [0, 1, 2, 3, 4], stream4=gone), pictures(1).repeat(8, 1, 1, 1))
    assert core(pictures(8)).abs().max() < 1e3


def test_pictures_that_are_few_positions_each_are_all_looked_at(monkeypatch: pytest.MonkeyPatch):
    """Early blocks look at some pictures, late ones at more of them: what is left says the same in one go."""
    says = []
    for fewest in (8, 48):
        monkeypatch.setattr(reconstruction, "FEWEST_PICTURES", fewest)
        monkeypatch.setattr(reconstruction, "POSITIONS", 48 * 16)
        core, whole = cut_core([], {})
        reconstruct(core, whole, left(core, whole, [0, 1, 2, 3, 4]), pictures(48))
        says.append(core(pictures(8)).detach())
    assert torch.allclose(*says, atol=0.05)


def test_fixed_norms_keep_their_statistics_in_training():
    shape = CoreShape(8, (BlockShape(8, 16, 16, 3, 2, expands=True, residual=False),), 16)
    for fixed in (True, False):
        core = CoreNet(shape, fixed_norms=fixed).train()
        core(3 + pictures(8))
        assert bool((core.stem_bn.running_mean == 0).all()) == fixed
