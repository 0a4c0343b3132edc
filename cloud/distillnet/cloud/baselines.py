"""What costs nothing and must be beaten: the teacher as it is, and a probe on its features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from distillnet.cloud.data import Dataset
from distillnet.cloud.metrics import (
    Figure,
    Floats,
    Ints,
    accuracy,
    agreement,
    macro_recall,
    recall_at_alarm_rate,
    softmax,
)
from distillnet.cloud.probe import apply_probe, fit_probe
from distillnet.cloud.views import Views
from distillnet.cloud.wanted import restricted

ALARM_RATE = 0.01


@dataclass(frozen=True)
class Baselines:
    """Scores (V, K+1) of every view; None where a baseline cannot be had."""

    zero_shot: Floats | None
    probe: Floats | None
    probe_network: nn.Module | None


def baselines(views: Views, dataset: Dataset, wanted: Floats, *, seed: int) -> Baselines:
    """Ask the teacher, and fit a probe on the training views; `wanted` (V, K+1)."""
    knows_all = all(dataset.event_classes)
    zero_shot = restricted(views.logits, dataset.event_classes) if knows_all else None
    if views.features is None:
        return Baselines(zero_shot, None, None)
    train = views.where("train")
    network = fit_probe(views.features[train], wanted[train], seed=seed)
    return Baselines(zero_shot, softmax(apply_probe(network, views.features)), network)


def judge(scores: Floats, truth: Ints, unseen: "np.ndarray[Any, np.dtype[np.bool_]]") -> dict[str, Figure]:
    """Return the figures of merit on one split.

    Args:
        scores: (N, K+1).
        truth: (N,).
        unseen: bool (N,), pictures of negative classes never trained on: they count for false alarms only.

    """
    other = scores.shape[1] - 1
    usual = ~unseen
    event = truth != other
    negative = unseen if unseen.any() else ~event
    figures = {
        "macro recall": macro_recall(scores[usual], truth[usual]),
        "accuracy": accuracy(scores[usual], truth[usual]),
    }
    if event.any() and negative.any():
        figures["recall at 1 % false alarms"] = recall_at_alarm_rate(
            scores[event], truth[event], scores[negative], ALARM_RATE
        )
    return figures


def rows(name: str, scores: Floats | None, views: Views, truth: Ints, teacher: Floats | None) -> list[dict[str, Any]]:
    """Return one method's rows of the report's table, on the test split."""
    if scores is None:
        return []
    test = views.where("test")
    found = judge(scores[test], truth[test], views.unseen[test])
    if teacher is not None and scores is not teacher:
        found["agreement with the teacher"] = agreement(scores[test], teacher[test])
    return [
        {
            "name": name,
            "metric": metric,
            "value": f.value,
            "ci_low": f.low,
            "ci_high": f.high,
            "n": f.n,
            "split": "test",
        }
        for metric, f in found.items()
        if f.n
    ]
