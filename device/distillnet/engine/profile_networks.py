"""int8 networks with random weights whose time is worth knowing: one layer each, and whole networks to check sums by.

A layer's time does not depend on its weights. Called by `profile_measure`.
"""

from dataclasses import dataclass, field

import numpy as np

from distillnet.engine.profile import Kind, Layer
from distillnet.engine.tflite_writer import Builder

SAME = 0
RELU6 = 3
SCALE = 6 / 255
ZERO_POINT = -128


@dataclass(frozen=True)
class Blocks:
    """`repeats` inverted residuals in a row; the first has the stride."""

    expansion: float
    out: int
    kernel: int
    stride: int
    repeats: int


@dataclass(frozen=True)
class Network:
    """A network of inverted residuals on pictures of side × side."""

    name: str
    side: int
    stem: int
    blocks: tuple[Blocks, ...]
    head: int
    outputs: int


_LITE0 = (
    Blocks(1, 16, 3, 1, 1),
    Blocks(6, 24, 3, 2, 2),
    Blocks(6, 40, 5, 2, 2),
    Blocks(6, 80, 3, 2, 3),
    Blocks(6, 112, 5, 1, 3),
    Blocks(6, 192, 5, 2, 4),
    Blocks(6, 320, 3, 1, 1),
)
_SLIM = (
    Blocks(1, 16, 3, 1, 1),
    Blocks(3, 24, 3, 2, 2),
    Blocks(3, 40, 5, 2, 2),
    Blocks(3, 80, 3, 2, 2),
    Blocks(3, 112, 5, 1, 2),
    Blocks(3, 192, 5, 2, 2),
    Blocks(3, 320, 3, 1, 1),
)
_MOBILE = (
    Blocks(1, 8, 3, 1, 1),
    Blocks(6, 8, 3, 2, 2),
    Blocks(6, 16, 3, 2, 3),
    Blocks(6, 24, 3, 2, 4),
    Blocks(6, 32, 3, 1, 3),
    Blocks(6, 56, 3, 2, 3),
    Blocks(6, 112, 3, 1, 1),
)
CHECKS = (
    Network("efficientnet-lite0@224", 224, 32, _LITE0, 1280, 1000),
    Network("efficientnet-lite0@96, half as expanded", 96, 32, _SLIM, 256, 6),
    Network("efficientnet-lite0@64, half as expanded", 64, 32, _SLIM, 256, 6),
    Network("mobilenet-v2-0.35@96", 96, 16, _MOBILE, 1280, 6),
    Network("mobilenet-v2-0.35@128", 128, 16, _MOBILE, 1280, 6),
)


def one_layer(layer: Layer) -> bytes:
    """Return a `.tflite` with just that layer; its input has the side that gives the layer's positions."""
    side = round(layer.positions**0.5)
    graph = _Graph(side * layer.stride, layer.into)
    graph.convolution(layer.out, layer.kernel, layer.stride, depthwise=layer.kind == "depthwise")
    return graph.build()


def whole(network: Network) -> tuple[bytes, list[Layer]]:
    """Return a network's `.tflite` and its layers."""
    graph = _Graph(network.side, 3)
    graph.convolution(network.stem, 3, 2)
    for blocks in network.blocks:
        for index in range(blocks.repeats):
            graph.inverted_residual(
                blocks.expansion, blocks.out, blocks.kernel, blocks.stride if index == 0 else 1, adds=index > 0
            )
    graph.convolution(network.head, 1, 1)
    graph.pool_and_classify(network.outputs)
    return graph.build(), graph.layers


@dataclass
class _Graph:
    """A chain of layers on one picture; `layers` says what was added."""

    side: int
    channels: int
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._builder = Builder()
        self._rng = np.random.default_rng(0)
        self._first = self._last = self._picture()

    def convolution(
        self, out: int, kernel: int, stride: int, *, depthwise: bool = False, activation: int = RELU6
    ) -> None:
        into, x = self.channels, self._last
        self.side = -(-self.side // stride)
        self.channels = out
        weights = (1, kernel, kernel, out) if depthwise else (out, kernel, kernel, into)
        terms = kernel * kernel * (1 if depthwise else into)
        w, b = self._weights(weights, terms, axis=3 if depthwise else 0)
        self._last = self._picture()
        values = {"padding": SAME, "strideW": stride, "strideH": stride, "fusedActivationFunction": activation}
        if depthwise:
            self._builder.op(
                "DEPTHWISE_CONV_2D", [x, w, b], [self._last], "DepthwiseConv2DOptions", depthMultiplier=1, **values
            )
        else:
            self._builder.op("CONV_2D", [x, w, b], [self._last], "Conv2DOptions", **values)
        kind: Kind = "depthwise" if depthwise else "pointwise" if kernel == 1 else "full"
        self.layers.append(Layer(kind, kernel, stride, self.side * self.side, into, out))

    def inverted_residual(self, expansion: float, out: int, kernel: int, stride: int, *, adds: bool) -> None:
        came = self._last
        expanded = round(self.channels * expansion)
        if expansion != 1:
            self.convolution(expanded, 1, 1)
        self.convolution(expanded, kernel, stride, depthwise=True)
        self.convolution(out, 1, 1, activation=0)
        if adds:
            branch, self._last = self._last, self._picture()
            self._builder.op("ADD", [came, branch], [self._last], "AddOptions")

    def pool_and_classify(self, outputs: int) -> None:
        pooled = self._builder.tensor((1, self.channels), SCALE, ZERO_POINT)
        self._builder.op("MEAN", [self._last, self._builder.ints([1, 2])], [pooled], "ReducerOptions", keepDims=False)
        w, b = self._weights((outputs, self.channels), self.channels, axis=0)
        self._last = self._builder.tensor((1, outputs), SCALE, ZERO_POINT)
        self._builder.op("FULLY_CONNECTED", [pooled, w, b], [self._last], "FullyConnectedOptions")
        self.layers.append(Layer("pointwise", 1, 1, 1, self.channels, outputs))

    def build(self) -> bytes:
        return self._builder.build([self._first], [self._last])

    def _picture(self) -> int:
        return self._builder.tensor((1, self.side, self.side, self.channels), SCALE, ZERO_POINT)

    def _weights(self, shape: tuple[int, ...], terms: int, axis: int) -> tuple[int, int]:
        """Scales keep sums of random terms within the output's range."""
        count = shape[axis]
        scales = np.full(count, 1 / (64 * terms**0.5), np.float32)
        values = self._rng.integers(-127, 128, shape).astype(np.int8)
        w = self._builder.tensor(shape, scales, data=values, axis=axis)
        b = self._builder.tensor((count,), scales * np.float32(SCALE), data=np.zeros(count, np.int32), dtype="int32")
        return w, b
