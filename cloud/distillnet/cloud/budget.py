"""`[budget]`: milliseconds on a board, and what a network costs there by the board's measured table.

Where the application asks for no latency it gets a twentieth of what its teacher takes: int8, at its native
resolution, in LiteRT with XNNPACK, on that board. How fast LiteRT is beside the engine differs between processors of
one kind; where the board is this machine, it is measured (ADR 18).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from distillnet.cloud import boards
from distillnet.cloud.application import BudgetSection
from distillnet.cloud.core import Classifier
from distillnet.cloud.surgery import Layer, layers_of
from distillnet.engine.profile import Profile, this_machine
from distillnet.proto.strict import ConfigError

SPEEDUP = 20.0
SURPRISE = 1.08  # students took 1.03 to 1.09 times as long as a board's table says (ADR 18)
LITERT_RATIO = 1.2  # LiteRT's time over the table's where the profile does not say


@dataclass(frozen=True)
class LatencyBudget:
    """Milliseconds a student may take on a board. `cost` is for `surgery.choose`."""

    board: Profile
    ms: float
    _known: dict[tuple[str, int, int, int], float] = field(default_factory=dict, repr=False)

    def cost(self, layer: Layer, into: int, out: int) -> float:
        """Return the milliseconds of a layer with so many channels."""
        key = (layer.name, layer.positions, into, out)
        if key not in self._known:
            self._known[key] = boards.layer_ms(self.board, layer, into, out)
        return self._known[key]

    def network_ms(self, network: nn.Module, resolution: int) -> float:
        """Return the milliseconds of a network on one picture."""
        return self.ms_on(network, torch.zeros(1, 3, resolution, resolution))

    def ms_on(self, network: nn.Module, example: Tensor) -> float:
        """Return the milliseconds of a network on one example, float32 (1, C, H, W)."""
        return sum(
            boards.layer_ms(self.board, layer, layer.into, layer.out) for layer in layers_of(network, example).values()
        )


def of_application(
    section: BudgetSection,
    base: Path,
    whole: Classifier,
    resolution: int,
    measured: Callable[[Profile], float] | None = None,
) -> LatencyBudget:
    """Read the budget.

    Args:
        section: `[budget]`.
        base: the application file's folder.
        whole: the network that would be cut, uncut.
        resolution: its native one.
        measured: gives LiteRT's time on this machine over a board's table; None = believe the board's profile.

    Raises:
        ConfigError: an unknown board.

    """
    board = boards.find(section.board, base)
    if section.latency_ms is not None:
        return LatencyBudget(board, section.latency_ms)
    ratio = measured(board) if measured and board.board == this_machine() else board.litert_ratio or LITERT_RATIO
    whole_ms = LatencyBudget(board, 0.0).network_ms(whole, resolution)
    return LatencyBudget(board, whole_ms * ratio / SPEEDUP / SURPRISE)


def check_sizes(section: BudgetSection, size: int, arena_bytes: int) -> None:
    """Hold a finished model against the budget.

    Args:
        section: `[budget]`.
        size: of the model, bytes.
        arena_bytes: what the engine works in.

    Raises:
        ConfigError: it is larger; by how much.

    """
    if section.size_kb is not None and size > section.size_kb * 1024:
        raise ConfigError(f"the student is {size / 1024:.0f} KiB; [budget] size_kb = {section.size_kb:g} is less")
    if section.ram_kb is not None and arena_bytes > section.ram_kb * 1024:
        raise ConfigError(
            f"the student works in {arena_bytes / 1024:.0f} KiB; [budget] ram_kb = {section.ram_kb:g} is less"
        )
