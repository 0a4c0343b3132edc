"""Two classifiers stacked by a few labelled pictures, and what then labels the rest."""

import numpy as np
import pytest

from distillnet.cloud.data import Dataset
from distillnet.cloud.metrics import macro_recall, softmax
from distillnet.cloud.rejection import one_hot
from distillnet.cloud.stacking import FOLDS, fit_stack, folds
from distillnet.cloud.views import Views
from distillnet.cloud.wanted import restricted, targets

OUTPUTS = 3


def test_a_stack_trusts_the_better_voice_and_takes_back_a_bias():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, OUTPUTS, 300)
    certain = one_hot(labels, OUTPUTS)
    good = softmax((3 * certain + rng.normal(0, 1, certain.shape) + [0, 0, 4]).astype(np.float32))  # says 2 too often
    noise = softmax(rng.normal(0, 2, certain.shape).astype(np.float32))
    stack = fit_stack([good, noise], labels)
    assert stack.weights[0] > 3 * abs(stack.weights[1])
    assert macro_recall(good, labels).value < 0.8
    assert macro_recall(stack([good, noise]), labels).value > 0.85


def test_folds_keep_groups_whole_and_spread_every_label():
    labels = np.repeat([0, 0, 1, 2], 25)
    groups = np.arange(100) // 5
    fold = folds(labels, groups, seed=1)
    assert all(len(set(fold[groups == group])) == 1 for group in range(20))
    assert all(len(set(fold[labels == label])) == FOLDS for label in range(OUTPUTS))


def world(labelled_per_output, features=True):
    """Pictures whose teacher takes most of event 0 for `other`; its features tell all three apart."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, OUTPUTS, 900)
    felt = (one_hot(truth, OUTPUTS) @ rng.normal(0, 1, (OUTPUTS, 16)) * 2 + rng.normal(0, 1, (900, 16))).astype(
        np.float32
    )
    logits = (2 * one_hot(truth, OUTPUTS) + rng.normal(0, 1, (900, OUTPUTS)) + [-3, 0, 1]).astype(np.float32)
    labels = np.full(900, -1, np.int64)
    for output in range(OUTPUTS):
        labels[np.flatnonzero(truth == output)[:labelled_per_output]] = output
    views = Views(
        pixels=np.zeros((900, 0, 0, 3), np.uint8),
        logits=logits,
        features=felt if features else None,
        labels=labels,
        split=np.full(900, "train"),
        unseen=np.zeros(900, bool),
        groups=np.arange(900),
        digest="",
    )
    return views, Dataset((), ("a", "b"), ((0,), (1,))), truth


@pytest.mark.parametrize("features", [True, False])
def test_ten_labelled_pictures_tell_what_the_teacher_means(features):
    views, dataset, truth = world(10, features)
    wanted = targets(views, dataset, seed=0)
    rest = views.labels < 0
    word = restricted(views.logits, dataset.event_classes)
    found = macro_recall(wanted.probabilities[rest], truth[rest]).value
    assert found > macro_recall(word[rest], truth[rest]).value + 0.1
    assert wanted.borne_out.low <= found <= wanted.borne_out.high
    np.testing.assert_array_equal(wanted.truth[~rest], views.labels[~rest])


def test_what_is_rare_stays_where_there_is_too_much_to_stack(monkeypatch):
    views, dataset, truth = world(10)
    views.labels[truth == OUTPUTS - 1] = OUTPUTS - 1  # some 300 of `other` beside ten of each event
    monkeypatch.setattr("distillnet.cloud.wanted.MOST_STACKED", 30)
    wanted = targets(views, dataset, seed=0)
    assert wanted.borne_out.n == 30
    rest = views.labels < 0
    assert macro_recall(wanted.probabilities[rest], truth[rest]).value > 0.8


def test_without_enough_labels_the_teachers_word_stands():
    views, dataset, _ = world(2)
    wanted = targets(views, dataset, seed=0)
    rest = views.labels < 0
    np.testing.assert_array_equal(wanted.probabilities[rest], restricted(views.logits, dataset.event_classes)[rest])
    assert wanted.borne_out is None
