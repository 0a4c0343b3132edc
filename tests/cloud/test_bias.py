import numpy as np

from distillnet.cloud.metrics import softmax
from distillnet.cloud.rejection import fit_bias, one_hot


def test_a_bias_that_spoilt_the_decisions_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 3)).astype(np.float32)
    labels = np.array([rng.choice(3, p=row / row.sum()) for row in softmax(logits).astype(np.float64)])
    spoilt = logits + np.array([1.0, 0.0, -1.0], np.float32)
    np.testing.assert_allclose(fit_bias(spoilt, one_hot(labels, 3)), [-1, 0, 1], atol=0.2)


def test_without_pictures_no_output_is_favoured():
    empty = np.zeros((0, 3), np.float32)
    assert not fit_bias(empty, empty).any()
