"""Every operator, every instruction set: the native engine's answers are LiteRT's reference kernels', bit for bit."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from single_op_models import STRATEGIES

from distillnet.engine import _engine
from distillnet.engine.backend import ModelError
from distillnet.engine.litert import LiteRTModel
from distillnet.engine.native import NativeModel, UnsupportedError
from distillnet.engine.tflite_writer import Builder
from distillnet.engine.verify import sample_inputs

KERNELS = _engine.kernel_names()
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)


def _compare(model: bytes, threads: int) -> None:
    try:
        reference = LiteRTModel(model, reference=True)
    except ModelError:
        assume(False)  # LiteRT itself does not take it; hypothesis complains when that is the rule
    for kernels in KERNELS:
        try:
            native = NativeModel(model, threads=threads, kernels=kernels)
        except UnsupportedError:
            assume(False)
        for x in sample_inputs(native.info["input"], 6):
            np.testing.assert_array_equal(native.run_tensor(x), reference.run_tensor(x), err_msg=kernels)


@pytest.mark.parametrize("operator", STRATEGIES)
def test_operator_equals_reference(operator: str) -> None:
    @settings(COMMON, max_examples=12, derandomize=True)
    @given(STRATEGIES[operator])
    def check(model: bytes) -> None:
        _compare(model, threads=1)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("operator", STRATEGIES)
def test_operator_equals_reference_far_and_wide(operator: str) -> None:
    @settings(COMMON, max_examples=120)
    @given(STRATEGIES[operator], st.sampled_from([1, 2, 3]))
    def check(model: bytes, threads: int) -> None:
        _compare(model, threads)

    check()


STEP_1 = {"strideH": 1, "strideW": 1}
LAYERS: dict[str, tuple[str, dict[str, int], tuple[int, ...], tuple[int, ...]]] = {
    "CONV_2D": ("Conv2DOptions", STEP_1, (1, 1, 1, 1), (4, 1, 1, 1)),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", STEP_1 | {"depthMultiplier": 4}, (1, 1, 1, 1), (1, 1, 1, 4)),
    "FULLY_CONNECTED": ("FullyConnectedOptions", {}, (1, 1), (4, 1)),
}


@pytest.mark.parametrize("zero_point", [-128, 0, 127])
@pytest.mark.parametrize("multiplier", [0.5, 0.99999998, 1.0])  # ruy leaves more than 32 bits undefined
@pytest.mark.parametrize("operator", LAYERS)
def test_sums_at_the_ends_of_32_bits_saturate_and_wrap_as_the_reference_has_it(
    operator: str, multiplier: float, zero_point: int
) -> None:
    options, values, shape, weights_shape = LAYERS[operator]
    biases = np.array([-(2**31), 2**31 - 1, 2**31 - 129, 5], np.int32)
    b = Builder()
    x, y = b.tensor(shape, 1.0, 0), b.tensor((*shape[:-1], 4), 1.0, zero_point)
    weights = b.tensor(weights_shape, multiplier, data=np.zeros(weights_shape, np.int8))
    bias = b.tensor((4,), multiplier, dtype="int32", data=biases)
    b.op(operator, [x, weights, bias], [y], options, **values)
    model = b.build([x], [y])
    zeros = np.zeros(shape, np.int8)
    wanted = LiteRTModel(model, reference=True).run_tensor(zeros)
    for kernels in KERNELS:
        np.testing.assert_array_equal(NativeModel(model, kernels=kernels).run_tensor(zeros), wanted, err_msg=kernels)


def _softmax(shape: tuple[int, int], scale: float, beta: float, out_scale: float = 1 / 256) -> bytes:
    b = Builder()
    x, y = b.tensor(shape, scale, 0), b.tensor(shape, out_scale, -128)
    b.op("SOFTMAX", [x], [y], "SoftmaxOptions", beta=beta)
    return b.build([x], [y])


def test_softmax_rounds_as_the_reference_does_next_to_a_tie() -> None:
    """The value at 16 is 10.5000004 / 256, and less in the reference's fixed-point exponentials."""
    row = [-9, -21, -7, 0, 15, -12, -4, -28, -17, 55, 21, -16, -27, -20, 0, 1, -15, -26, 28, 9, -7, -4, -11, -59]
    model, x = _softmax((1, 24), 0.0035, 0.5), np.array([row], np.int8)
    scores = NativeModel(model).run_tensor(x)
    assert scores[0, 16] == -118
    np.testing.assert_array_equal(scores, LiteRTModel(model, reference=True).run_tensor(x))


@pytest.mark.parametrize(("scale", "beta"), [(0.0035, 0.5), (0.0078431, 1.0), (0.02353, 1.0), (0.1, 3.7), (1.0, 1.0)])
def test_softmax_equals_the_reference_on_many_rows(scale: float, beta: float) -> None:
    for depth in (2, 3, 10, 24, 100):
        model = _softmax((4000, depth), scale, beta)
        x = np.random.default_rng(depth).integers(-128, 128, (4000, depth)).astype(np.int8)
        reference = LiteRTModel(model, reference=True).run_tensor(x)
        np.testing.assert_array_equal(NativeModel(model, threads=2).run_tensor(x), reference)


def test_softmax_of_more_equal_values_than_the_reference_counts_is_nothing() -> None:
    """512 equal values make the reference abort; 5,000 overflow its sum."""
    for depth in (512, 1001, 5000):
        scores = NativeModel(_softmax((1, depth), 0.1, 1.0)).run_tensor(np.full((1, depth), 7, np.int8))
        np.testing.assert_array_equal(scores, -128)


def test_softmax_into_another_scale_is_refused_as_litert_refuses_it() -> None:
    for backend in (NativeModel, LiteRTModel):
        with pytest.raises(ModelError):
            backend(_softmax((1, 4), 0.1, 1.0, out_scale=1 / 128))
