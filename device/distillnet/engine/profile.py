"""What a board's layers cost: a table measured on the board by `distillnet bench --profile`, read by `distill`.

A layer's time is interpolated between measured neighbours, in time per multiply-accumulate over the logarithms of
positions and channels. `network_factor` is what whole networks take over the sum of their layers: caches, additions,
calls. Where nobody could measure, a profile is `estimated`, and its `note` says from what.
"""

import json
import math
import platform
from functools import cached_property, lru_cache
from itertools import pairwise, product
from pathlib import Path
from typing import Literal, NamedTuple, Self, get_args

from pydantic import Field, model_validator

from distillnet.proto.strict import ConfigError, Strict, validate

Kind = Literal["pointwise", "depthwise", "full"]
Point = tuple[int, ...]


def this_machine() -> str:
    """Return what a board is called that has no name of its own: by its processor's kind."""
    return "x86-64" if platform.machine() == "x86_64" else platform.machine()


class Layer(NamedTuple):
    """A convolution, or a linear layer as a pointwise one of 1 position. `positions`: of the output, height × width."""

    kind: Kind
    kernel: int
    stride: int
    positions: int
    into: int
    out: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.positions * self.kernel**2 * self.out * (1 if self.kind == "depthwise" else self.into)


class MeasuredLayer(Strict):
    """One row of the table: a layer's shape and its median time."""

    kind: Kind
    kernel: int = Field(ge=1)
    stride: int = Field(ge=1)
    positions: int = Field(ge=1)
    into: int = Field(ge=1)
    out: int = Field(ge=1)
    ms: float = Field(gt=0)

    @property
    def layer(self) -> Layer:
        """Its shape."""
        return Layer(self.kind, self.kernel, self.stride, self.positions, self.into, self.out)


class Check(Strict):
    """A whole network: what its layers add up to, what it takes, and what LiteRT with XNNPACK takes."""

    network: str
    layers_ms: float
    measured_ms: float
    litert_ms: float | None = None


class Profile(Strict):
    """A board's table and where it is from."""

    format: Literal[1] = 1
    board: str
    how: Literal["measured", "estimated"]
    machine: str
    kernels: str
    threads: int = 1
    created: str
    note: str = ""
    network_factor: float = Field(gt=0)
    error: float = Field(ge=0, description="largest relative error of the checked networks, after the factor")
    checks: list[Check]
    layers: list[MeasuredLayer] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_kind_is_there(self) -> Self:
        missing = sorted(set(get_args(Kind)) - {row.kind for row in self.layers})
        if missing:
            raise ValueError(f"layers: no row of kind {', '.join(missing)}")
        return self

    def layer_ms(self, layer: Layer) -> float:
        """Return a layer's time within a network, in milliseconds; any shape."""
        if layer.macs == 0:
            return 0.0
        table = self._tables[self._nearest(layer)]
        return layer.macs * table.ms_per_mac(_point(layer)) * self.network_factor

    def network_ms(self, layers: list[Layer]) -> float:
        """Return a network's time in milliseconds."""
        return sum(map(self.layer_ms, layers))

    @property
    def litert_ratio(self) -> float | None:
        """How long LiteRT takes over what the table says of the first checked network, the teacher's shape."""
        first = self.checks[0] if self.checks else None
        if first is None or not first.litert_ms:
            return None
        return first.litert_ms / (first.layers_ms * self.network_factor)

    @cached_property
    def _tables(self) -> dict[tuple[Kind, int, int], "_Table"]:
        rows: dict[tuple[Kind, int, int], dict[Point, float]] = {}
        for row in self.layers:
            rows.setdefault((row.kind, row.kernel, row.stride), {})[_point(row.layer)] = row.ms / row.layer.macs
        return {key: _Table(values) for key, values in rows.items()}

    def _nearest(self, layer: Layer) -> tuple[Kind, int, int]:
        """Choose the table of the same kind whose kernel and stride are closest."""
        of_kind = [key for key in self._tables if key[0] == layer.kind]
        return min(of_kind, key=lambda key: (abs(key[1] - layer.kernel), abs(key[2] - layer.stride)))


class _Table:
    """Time per multiply-accumulate on a grid; holes take their nearest neighbour's value."""

    def __init__(self, values: dict[Point, float]) -> None:
        self._axes = [sorted(set(axis)) for axis in zip(*values, strict=True)]
        self._values = {
            point: values[min(values, key=lambda known, point=point: _distance(known, point))]  # type: ignore[misc]
            for point in product(*self._axes)
        }

    def ms_per_mac(self, point: Point) -> float:
        """Interpolate linearly in logarithms; outside the grid its edge holds."""
        corners = [_between(axis, value) for axis, value in zip(self._axes, point, strict=True)]
        total = 0.0
        for corner in product(*corners):
            weight = math.prod(share for _, share in corner)
            if weight:
                total += weight * math.log(self._values[tuple(at for at, _ in corner)])
        return math.exp(total)


def _point(layer: Layer) -> Point:
    """What a layer's time varies with, besides its kind, kernel and stride."""
    if layer.kind == "depthwise":
        return layer.positions, layer.out
    return layer.positions, layer.into, layer.out


def _distance(a: Point, b: Point) -> float:
    return sum(math.log(x / y) ** 2 for x, y in zip(a, b, strict=True))


def _between(axis: list[int], value: int) -> tuple[tuple[int, float], ...]:
    """Return the neighbours of a value on an axis with their weights."""
    if value <= axis[0] or len(axis) == 1:
        return ((axis[0], 1.0),)
    for low, high in pairwise(axis):
        if value <= high:
            share = math.log(value / low) / math.log(high / low)
            return (low, 1 - share), (high, share)
    return ((axis[-1], 1.0),)


@lru_cache(maxsize=8)
def read(path: Path) -> Profile:
    """Read a profile.

    Raises:
        ConfigError: it is missing, no JSON, or no profile; says which.

    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"profile {path}: cannot be read: {exc}") from exc
    return parse(text, where=f"profile {path}")


def parse(text: str | bytes, *, where: str) -> Profile:
    """Read a profile's JSON; `where` names it in messages.

    Raises:
        ConfigError: no JSON, or no profile; says which.

    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{where}: is not JSON: {exc}; make one with distillnet bench --profile") from exc
    if not isinstance(document, dict):
        raise ConfigError(f"{where}: expected an object, got a {type(document).__name__}")
    return validate(document, Profile, where=where)
