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
