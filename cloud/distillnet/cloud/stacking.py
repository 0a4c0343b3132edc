"""Several classifiers' words made into one, as far as a few labelled pictures show what each is worth.

Stacked generalisation (Wolpert, Neural Networks 5, 1992), with as few parameters as a few pictures bear: a weight for
each classifier and a bias for each output.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from distillnet.cloud.metrics import Floats, Ints, softmax

FOLDS = 5
WEIGHT_PULL, BIAS_PULL = 0.01, 0.01
_FLOOR = 1e-6
_STEPS = 60


@dataclass(frozen=True)
class Stack:
    """`weights` (classifiers,), `bias` (K+1,): what the classifiers say together."""

    weights: Floats
    bias: Floats

    def __call__(self, scores: Sequence[Floats]) -> Floats:
        """Map every classifier's probabilities (N, K+1) to one's, every output as likely as another before it looks."""
        said = sum(weight * np.log(own + _FLOOR) for weight, own in zip(self.weights, scores, strict=True))
        return softmax(np.asarray(said + self.bias, np.float32))


def fit_stack(scores: Sequence[Floats], labels: Ints) -> Stack:
    """Fit weights and bias by cross-entropy, every output with equal weight.

    Args:
        scores: probabilities (N, K+1) of each classifier, on pictures it was not fitted on.
        labels: (N,), each of 0–K at least once.

    """
    outputs = scores[0].shape[1]
    said = torch.from_numpy(np.log(np.stack(scores) + _FLOOR))
    truth = torch.from_numpy(labels)
    shares = 1.0 / np.bincount(labels, minlength=outputs)[labels] / outputs
    share = torch.from_numpy(shares.astype(np.float32))
    even = 1.0 / len(scores)
    weights = torch.full((len(scores),), even, requires_grad=True)
    bias = torch.zeros(outputs, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=_STEPS)

    def loss() -> float:
        optimiser.zero_grad()
        together = torch.tensordot(weights, said, 1) + bias
        value = (F.cross_entropy(together, truth, reduction="none") * share).sum()
        value = value + WEIGHT_PULL * ((weights - even) ** 2).sum() + BIAS_PULL * (bias**2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return Stack(weights.detach().numpy(), bias.detach().numpy())


def folds(labels: Ints, groups: Ints, seed: int) -> Ints:
    """Assign every picture a fold, 0 to FOLDS−1: groups stay whole, and each label's are spread evenly."""
    rng = np.random.default_rng([seed, 11])
    assigned = np.zeros(len(labels), np.int64)
    place: dict[int, int] = {}
    for label in np.unique(labels):
        own = [group for group in np.unique(groups[labels == label]).tolist() if group not in place]
        place |= {int(group): index % FOLDS for index, group in enumerate(rng.permutation(own))}
    for group, fold in place.items():
        assigned[groups == group] = fold
    return assigned
