"""What the student should say: labels where there are any, the teacher restricted to the application where not."""

import numpy as np

from distillnet.cloud.data import Dataset
from distillnet.cloud.metrics import Floats, Ints, softmax
from distillnet.cloud.rejection import one_hot
from distillnet.cloud.views import Views


def restricted(logits: Floats, event_classes: tuple[tuple[int, ...], ...]) -> Floats:
    """Return the teacher as it is, asked about the application: probabilities (N, K+1), `other` = what is left.

    Args:
        logits: the teacher's, (N, classes).
        event_classes: the classes of each event.

    """
    every = softmax(logits)
    events = np.stack([every[:, list(classes)].sum(1) for classes in event_classes], 1)
    rest = np.clip(1.0 - events.sum(1, keepdims=True), 1e-6, 1.0)
    scores = np.concatenate([np.clip(events, 1e-6, 1.0), rest], 1)
    return np.asarray(scores / scores.sum(1, keepdims=True), np.float32)


def targets(views: Views, dataset: Dataset) -> Floats:
    """Return the wanted probabilities (V, K+1): one-hot where labelled, the teacher's where not."""
    outputs = dataset.other + 1
    wanted = restricted(views.logits, dataset.event_classes)
    labelled = views.labels >= 0
    wanted[labelled] = one_hot(views.labels[labelled], outputs)
    return wanted


def truth(views: Views, dataset: Dataset) -> Ints:
    """Return the wanted decision of every view, int64 (V,)."""
    return np.asarray(targets(views, dataset).argmax(1), np.int64)
