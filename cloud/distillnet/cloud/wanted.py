"""What the student should say: labels where there are any; elsewhere the teacher, as far as labels bear it out."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillnet.cloud.data import Dataset
from distillnet.cloud.metrics import Figure, Floats, Ints, macro_recall, softmax
from distillnet.cloud.probe import apply_probe, fit_probe, held_out_scores
from distillnet.cloud.rejection import one_hot
from distillnet.cloud.stacking import fit_stack, folds
from distillnet.cloud.views import Views

FEWEST_GROUPS = 4
MOST_STACKED = 1500


@dataclass(frozen=True)
class Wanted:
    """Probabilities (V, K+1) of every view.

    `borne_out`: where some views are labelled and some are not, the macro recall of what labels the rest, on labelled
    views that it had not seen; None when nothing could be held against labels.
    """

    probabilities: Floats
    borne_out: Figure | None = None

    @property
    def truth(self) -> Ints:
        """The decision, int64 (V,)."""
        return np.asarray(self.probabilities.argmax(1), np.int64)


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


def targets(views: Views, dataset: Dataset, *, seed: int) -> Wanted:
    """Return what is wanted: one-hot where labelled; elsewhere what the teacher makes of it.

    That is its own word about the events' classes. Where every output has labelled views to train on, it is that word
    and a probe on its features, stacked: ten pictures of each event tell better than names of classes what is meant,
    and how far the word is to be believed.
    """
    labelled = views.labels >= 0
    word = restricted(views.logits, dataset.event_classes)
    certain = one_hot(views.labels.clip(0), dataset.other + 1)
    known = np.flatnonzero(labelled & (views.split == "train"))
    if labelled.all() or not _stackable(views.labels[known], views.groups[known], dataset.other + 1):
        return Wanted(np.where(labelled[:, None], certain, word))
    together, borne_out = _together(views, word, known, all(dataset.event_classes), seed)
    return Wanted(np.where(labelled[:, None], certain, together), borne_out)


def _stackable(labels: Ints, groups: Ints, outputs: int) -> bool:
    return all(len(np.unique(groups[labels == output])) >= FEWEST_GROUPS for output in range(outputs))


def _some_of_each(known: NDArray[np.int64], labels: Ints, most: int, seed: int) -> NDArray[np.int64]:
    """Return at most so many views of each output: what is rare stays whole."""
    mixed = np.random.default_rng([seed, 13]).permutation(known)
    return np.sort(np.concatenate([mixed[labels[mixed] == output][:most] for output in np.unique(labels[known])]))


def _together(
    views: Views, word: Floats, known: NDArray[np.int64], knows_all: bool, seed: int
) -> tuple[Floats, Figure]:
    """Return what the teacher's word and a probe say together of every view, and how good that is on labelled ones."""
    outputs = word.shape[1]
    known = _some_of_each(known, views.labels, math.ceil(MOST_STACKED / outputs), seed)
    labels = views.labels[known]
    certain = one_hot(labels, outputs)
    said, heard = ([word], [word[known]]) if knows_all or views.features is None else ([], [])
    if views.features is not None:
        probe = fit_probe(views.features[known], certain, seed=seed)
        said.append(softmax(apply_probe(probe, views.features)))
        fold = folds(labels, views.groups[known], seed)
        heard.append(held_out_scores(views.features[known], certain, fold, seed=seed))
    stack = fit_stack(heard, labels)
    return stack(said), macro_recall(stack(heard), labels)
