"""Random models of one operator each, as hypothesis strategies: shapes, strides, paddings, scales, extremes."""

import numpy as np
from hypothesis import strategies as st

from distillnet.engine.tflite_writer import Builder

SAME, VALID = 0, 1
small = st.integers(1, 9)
channels = st.one_of(st.integers(1, 40), st.sampled_from([16, 32, 48, 63, 64, 65, 96, 130]))
scales = st.sampled_from([0.0035, 0.0078431, 0.02353, 0.1, 0.31, 1.0])
zeros = st.one_of(st.integers(-128, 127), st.sampled_from([-128, 0, 127]))
activations = st.sampled_from([0, 0, 1, 3, 2])
seeds = st.integers(0, 2**32 - 1)


def _weights(rng, shape):
    kind = rng.integers(4)
    if kind == 0:
        return rng.choice(np.array([-127, 127], np.int8), shape)
    return rng.integers(-127, 128, shape).astype(np.int8)


def _bias(rng, count):
    kind = rng.integers(6)
    if kind == 0:
        return None
    if kind == 1:  # dead channels get such biases from quantisers
        return rng.choice(np.array([-(2**31), 2**31 - 1, 0, 5], np.int64), count).astype(np.int32)
    return rng.integers(-40000, 40000, count).astype(np.int32)


def _channel_scales(rng, count, ratio, spread=True):
    """So that sums of about `ratio` fill the output's range; sometimes absurdly small, or one for all."""
    if not spread:
        return np.float32(ratio)
    values = np.exp(rng.uniform(np.log(0.25), np.log(4), count)) * ratio
    if rng.integers(4) == 0:
        values[rng.integers(count)] *= 2.0 ** -rng.integers(10, 28)
    return values.astype(np.float32)


@st.composite
def convolutions(draw, depthwise=False):
    rng = np.random.default_rng(draw(seeds))
    batch, h, w, c = draw(st.integers(1, 2)), draw(st.integers(1, 17)), draw(st.integers(1, 17)), draw(channels)
    k_h, k_w = draw(st.sampled_from([(1, 1), (1, 1), (3, 3), (3, 3), (5, 5), (2, 3), (7, 1), (1, 4), (4, 4)]))
    stride_h, stride_w = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 2), (3, 1), (1, 2)]))
    dil_h, dil_w = draw(st.sampled_from([(1, 1)] * 4 + [(2, 2), (1, 3), (2, 1)]))
    if (dil_h, dil_w) != (1, 1):
        stride_h = stride_w = 1
    padding = draw(st.sampled_from([SAME, VALID]))
    span_h, span_w = (k_h - 1) * dil_h + 1, (k_w - 1) * dil_w + 1
    if padding == VALID:
        h, w = max(h, span_h), max(w, span_w)
        out_h, out_w = (h - span_h) // stride_h + 1, (w - span_w) // stride_w + 1
    else:
        out_h, out_w = -(-h // stride_h), -(-w // stride_w)
    b = Builder()
    in_scale, out_scale = draw(scales), draw(scales)
    x = b.tensor((batch, h, w, c), in_scale, draw(zeros))
    multiplier = draw(st.sampled_from([1, 1, 1, 2, 3])) if depthwise else 1
    n = c * multiplier if depthwise else draw(channels)
    taps = k_h * k_w * (1 if depthwise else c)
    ratio = out_scale / in_scale / (np.sqrt(taps) * 60 * 60) * draw(st.sampled_from([0.3, 1.0, 8.0, 300.0])) * 60
    spread = draw(st.booleans())
    shape = (1, k_h, k_w, n) if depthwise else (n, k_h, k_w, c)
    w_scale = _channel_scales(rng, n, ratio, spread)
    weights = b.tensor(shape, w_scale, data=_weights(rng, shape), axis=3 if depthwise else 0)
    inputs = [x, weights]
    bias = _bias(rng, n)
    bias = np.zeros(n, np.int32) if bias is None else bias
    inputs.append(b.tensor((n,), np.float32(in_scale) * w_scale, dtype="int32", data=bias))
    y = b.tensor((batch, out_h, out_w, n), out_scale, draw(zeros))
    common = {"padding": padding, "strideH": stride_h, "strideW": stride_w, "dilationHFactor": dil_h,
              "dilationWFactor": dil_w, "fusedActivationFunction": draw(activations)}  # fmt: skip
    if depthwise:
        b.op("DEPTHWISE_CONV_2D", inputs, [y], "DepthwiseConv2DOptions", depthMultiplier=multiplier, **common)
    else:
        b.op("CONV_2D", inputs, [y], "Conv2DOptions", **common)
    return b.build([x], [y])


@st.composite
def dense(draw):
    rng = np.random.default_rng(draw(seeds))
    rows, k, n = draw(st.integers(1, 20)), draw(channels), draw(channels)
    in_scale, out_scale = draw(scales), draw(scales)
    b = Builder()
    x = b.tensor((rows, k), in_scale, draw(zeros))
    ratio = out_scale / in_scale / (np.sqrt(k) * 60) * draw(st.sampled_from([0.3, 1.0, 8.0]))
    w_scale = _channel_scales(rng, n, ratio, draw(st.booleans()))
    w = b.tensor((n, k), w_scale, data=_weights(rng, (n, k)))
    inputs = [x, w]
    if draw(st.booleans()):
        bias = rng.integers(-40000, 40000, n).astype(np.int32)
        inputs.append(b.tensor((n,), np.float32(in_scale) * w_scale, dtype="int32", data=bias))
    else:
        inputs.append(-1)
    y = b.tensor((rows, n), out_scale, draw(zeros))
    b.op("FULLY_CONNECTED", inputs, [y], "FullyConnectedOptions", fusedActivationFunction=draw(activations))
    return b.build([x], [y])


@st.composite
def binaries(draw, name):
    shape = (draw(st.integers(1, 2)), draw(small), draw(small), draw(channels))
    row, repeated = shape[3:], (shape[0], shape[1], shape[2], 1)
    others = [shape, shape, (1, 1, 1, shape[3]), (shape[0], 1, 1, shape[3]), (1, 1, 1, 1), row, repeated]
    other = draw(st.sampled_from(others))
    rng = np.random.default_rng(draw(seeds))
    b = Builder()
    x = b.tensor(shape, draw(scales), draw(zeros))
    constant = rng.integers(-128, 128, other).astype(np.int8)
    operands = [x, b.tensor(other, draw(scales), draw(zeros), data=constant)]
    if other == shape and draw(st.booleans()):
        operands = [x, x]
    if draw(st.booleans()):
        operands.reverse()
    y = b.tensor(shape, draw(scales), draw(zeros))
    table = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}[name]
    b.op(name, operands, [y], table, fusedActivationFunction=draw(activations))
    return b.build([x], [y])


@st.composite
def pools(draw, name):
    batch, h, w, c = draw(st.integers(1, 2)), draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(channels)
    k_h, k_w = draw(st.integers(1, min(h, 5))), draw(st.integers(1, min(w, 5)))
    stride_h, stride_w, padding = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([SAME, VALID]))
    if padding == VALID:
        out_h, out_w = (h - k_h) // stride_h + 1, (w - k_w) // stride_w + 1
    else:
        out_h, out_w = -(-h // stride_h), -(-w // stride_w)
    b = Builder()
    scale, zero = draw(scales), draw(zeros)
    x, y = b.tensor((batch, h, w, c), scale, zero), b.tensor((batch, out_h, out_w, c), scale, zero)
    b.op(name, [x], [y], "Pool2DOptions", padding=padding, strideH=stride_h, strideW=stride_w, filterHeight=k_h,
         filterWidth=k_w, fusedActivationFunction=draw(activations))  # fmt: skip
    return b.build([x], [y])


@st.composite
def means(draw):
    shape = (draw(st.integers(1, 2)), draw(small), draw(small), draw(channels))
    axes = draw(st.sampled_from([[1, 2], [2, 1], [1], [3], [-1], [0, 1, 2, 3], [1, 2, 3]]))
    keep = draw(st.booleans())
    out = tuple(1 if i in [a % 4 for a in axes] else n for i, n in enumerate(shape))
    if not keep:
        out = tuple(n for i, n in enumerate(shape) if i not in [a % 4 for a in axes])
    b = Builder()
    x, y = b.tensor(shape, draw(scales), draw(zeros)), b.tensor(out, draw(scales), draw(zeros))
    b.op("MEAN", [x, b.ints(axes)], [y], "ReducerOptions", keepDims=keep)
    return b.build([x], [y])


@st.composite
def unaries(draw, name):
    shape = (1, draw(small), draw(channels))
    b = Builder()
    x = b.tensor(shape, draw(scales), draw(zeros))
    y = b.tensor(shape, 1 / 256 if name in ("LOGISTIC", "SOFTMAX") else draw(scales),
                 -128 if name in ("LOGISTIC", "SOFTMAX") else draw(zeros))  # fmt: skip
    if name == "SOFTMAX":
        b.op(name, [x], [y], "SoftmaxOptions", beta=draw(st.sampled_from([1.0, 0.5])))
    elif name == "LEAKY_RELU":
        b.op(name, [x], [y], "LeakyReluOptions", alpha=draw(st.sampled_from([0.01, 0.2, 0.0])))
    else:
        b.op(name, [x], [y])
    return b.build([x], [y])


@st.composite
def borders(draw):
    """QUANTIZE in from uint8 or float32, a RELU, and out again."""
    kind_in, kind_out = draw(st.sampled_from(["uint8", "float32", "int8"])), draw(st.sampled_from(["uint8", "float32"]))
    shape = (1, draw(small), draw(channels))
    scale, zero = draw(scales), draw(zeros)
    b = Builder()
    x = b.tensor(shape, None if kind_in == "float32" else draw(st.sampled_from([scale, 0.05])), dtype=kind_in,
                 zero_point=zero + 128 if kind_in == "uint8" else 0)  # fmt: skip
    inner, middle = b.tensor(shape, scale, zero), b.tensor(shape, scale, zero)
    y = b.tensor(shape, None if kind_out == "float32" else draw(scales), dtype=kind_out,
                 zero_point=draw(st.integers(0, 255)) if kind_out == "uint8" else 0)  # fmt: skip
    b.op("QUANTIZE", [x], [inner])
    b.op("RELU", [inner], [middle])
    b.op("DEQUANTIZE" if kind_out == "float32" else "QUANTIZE", [middle], [y])
    return b.build([x], [y])


@st.composite
def moves(draw, name):
    h, w, c = draw(small), draw(small), draw(channels)
    scale, zero = draw(scales), draw(zeros)
    b = Builder()
    x = b.tensor((1, h, w, c), scale, zero)
    if name in ("PAD", "PADV2"):
        pads = [[0, 0], *[[draw(st.integers(0, 3)), draw(st.integers(0, 3))] for _ in range(3)]]
        y = b.tensor(tuple(int(n + sum(p)) for n, p in zip((1, h, w, c), pads, strict=True)), scale, zero)
        value = [b.tensor((1,), scale, zero, data=np.array([draw(zeros)], np.int8))] if name == "PADV2" else []
        b.op(name, [x, b.ints(pads), *value], [y])
    elif name == "TRANSPOSE":
        order = draw(st.permutations(range(4)))
        y = b.tensor(tuple((1, h, w, c)[i] for i in order), scale, zero)
        b.op(name, [x, b.ints(order)], [y], "TransposeOptions")
    elif name == "STRIDED_SLICE":
        begin = [0, draw(st.integers(0, h - 1)), draw(st.integers(0, w - 1)), draw(st.integers(0, c - 1))]
        step = [1, draw(st.integers(1, 2)), draw(st.integers(1, 3)), 1]
        out = tuple(-(-(n - at) // s) for n, at, s in zip((1, h, w, c), begin, step, strict=True))
        y = b.tensor(out, scale, zero)
        b.op(name, [x, b.ints(begin), b.ints([1, h, w, c]), b.ints(step)], [y], "StridedSliceOptions")
    elif name == "CONCATENATION":
        axis = draw(st.sampled_from([1, 2, 3, -1]))
        other = [1, h, w, c]
        other[axis] = draw(small)
        rng = np.random.default_rng(draw(seeds))
        constant = b.tensor(tuple(other), scale, zero, data=rng.integers(-128, 128, other).astype(np.int8))
        out = [1, h, w, c]
        out[axis] = 2 * out[axis] + other[axis]
        y = b.tensor(tuple(out), scale, zero)
        b.op(name, [x, constant, x], [y], "ConcatenationOptions", axis=axis)
    elif name == "SPLIT":
        parts = [b.tensor((1, h, w, c), scale, zero) for _ in range(2)]
        whole = b.tensor((1, h, w, 2 * c), scale, zero)
        b.op("CONCATENATION", [x, x], [whole], "ConcatenationOptions", axis=3)
        b.op(name, [b.ints([3]), whole], parts, "SplitOptions", numSplits=2)
        y = parts[1]
    else:  # RESHAPE and its kin, between two operators that make values
        middle = b.tensor((h * w, c), scale, zero)
        y = b.tensor((h * w, c), scale, zero)
        b.op("RESHAPE", [x, b.ints([h * w, c])], [middle], "ReshapeOptions", newShape=np.array([h * w, c], np.int32))
        b.op("RELU", [middle], [y])
    return b.build([x], [y])


@st.composite
def resizes(draw, name):
    h, w, c, out_h, out_w = (draw(n) for n in (small, small, channels, st.integers(1, 14), st.integers(1, 14)))
    scale, zero = draw(scales), draw(zeros)
    align, half = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    b = Builder()
    x, y = b.tensor((1, h, w, c), scale, zero), b.tensor((1, out_h, out_w, c), scale, zero)
    table = "ResizeBilinearOptions" if name == "RESIZE_BILINEAR" else "ResizeNearestNeighborOptions"
    b.op(name, [x, b.ints([out_h, out_w])], [y], table, alignCorners=align, halfPixelCenters=half)
    return b.build([x], [y])


STRATEGIES = {
    "CONV_2D": convolutions(),
    "DEPTHWISE_CONV_2D": convolutions(depthwise=True),
    "FULLY_CONNECTED": dense(),
    **{name: binaries(name) for name in ("ADD", "SUB", "MUL")},
    **{name: pools(name) for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D")},
    "MEAN": means(),
    **{name: unaries(name) for name in ("RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "HARD_SWISH", "LOGISTIC", "TANH",
                                        "SOFTMAX", "QUANTIZE")},
    "borders": borders(),
    **{name: moves(name) for name in ("PAD", "PADV2", "TRANSPOSE", "STRIDED_SLICE", "CONCATENATION", "SPLIT",
                                      "RESHAPE")},
    **{name: resizes(name) for name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")},
}  # fmt: skip
