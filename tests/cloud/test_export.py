"""Conversion of a tiny network: the engine says what torch said, and the golden vectors hold."""

import numpy as np
import pytest
import torch

from distillnet.cloud.core import BlockShape, Classifier, CoreNet, CoreShape
from distillnet.cloud.export import (
    GOLDEN_VECTORS,
    compare,
    dequantise,
    golden_vectors,
    input_tensor,
    run_int8,
    sample,
    to_int8,
)
from distillnet.engine import load
from distillnet.engine.student import Student
from distillnet.proto.archive import pack
from distillnet.proto.card import Card, CardEvent, ImageInput, TeacherInfo

SHAPE = CoreShape(8, (BlockShape(8, 16, 16, 3, 2, expands=True, residual=False),), 16)


@pytest.mark.slow
def test_an_exported_network_passes_the_gate_in_the_engine():
    torch.manual_seed(0)
    network = Classifier(CoreNet(SHAPE), 16, 3).eval()
    with torch.no_grad():
        network.classify.weight *= 8
    inputs = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    inputs[1:30] *= 0.3  # most inputs are quiet; what few reach must not be cut off
    model = to_int8(network, inputs[:32])
    engine = load(model, "native")
    step, zero = (engine.info["input"][key] for key in ("scale", "zero_point"))
    assert (-128 - zero) * step <= inputs[:32].min() + step and inputs[:32].max() - step <= (127 - zero) * step
    assert b"SameConv2d" not in model  # no tensor is named after its whole history
    assert model.count((16).to_bytes(4, "little") + bytes(16 * 8)) == 1  # sixteen channels' zero points, of many layers
    assert engine.info["input"]["shape"] == (1, 32, 32, 3)
    assert engine.info["input"]["dtype"] == engine.info["output"]["dtype"] == "int8"

    nhwc = inputs.permute(0, 2, 3, 1).numpy()
    logits = dequantise(engine, run_int8(engine, input_tensor(engine, nhwc)))
    with torch.no_grad():
        whole = network(inputs).numpy()
    gate = compare(logits, whole, whole.argmax(1), "native")
    assert gate.agreement > 0.85
    assert gate.mean_difference < 0.1 * np.abs(whole).mean() + 0.1

    card = Card(
        application="tiny",
        events=[CardEvent(name=name, index=i, threshold=0.5, exit_threshold=0.4) for i, name in enumerate("ab")],
        other=2,
        input=ImageInput(height=32, width=32),
        teacher=TeacherInfo(name="none", source="test"),
    )
    packed = pack(model, card, golden_vectors(model, nhwc))
    assert Student.load(packed, engine="native").self_test() == GOLDEN_VECTORS


def test_a_sample_is_ordered_without_repeats_and_the_same_for_a_seed():
    chosen = sample(np.arange(100), 10, seed=1)
    assert len(set(chosen.tolist())) == 10
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, sample(np.arange(100), 10, seed=1))
    assert np.array_equal(sample([3, 4], 10), [3, 4])
