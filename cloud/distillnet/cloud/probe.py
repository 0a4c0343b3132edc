"""The baseline to reach: a small classifier on the full teacher's features, K+1 outputs."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from distillnet.cloud.metrics import Floats, Ints, softmax
from distillnet.cloud.training import balanced

HIDDEN = 256
_BATCH = 256
_MOST_STEPS = 900


def fit_probe(features: Floats, wanted: Floats, *, seed: int, hidden: int = HIDDEN) -> nn.Module:
    """Train a probe: standardise, one hidden layer with dropout, K+1 logits.

    Args:
        features: the teacher's, (N, F).
        wanted: probabilities (N, K+1).
        seed: of initial weights and order.
        hidden: units; 0 = linear.

    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 5])
    mean, spread = features.mean(0), features.std(0) + 1e-3 * float(features.std()) + 1e-6
    width, outputs = features.shape[1], wanted.shape[1]
    body = (nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.4)) if hidden else (nn.Identity(),)
    network = nn.Sequential(_Standardise(mean, spread), *body, nn.Linear(hidden or width, outputs))
    steps = int(np.clip(12 * len(features) // _BATCH, 150, _MOST_STEPS))
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    weights = balanced(wanted)
    x, y = torch.from_numpy(features), torch.from_numpy(wanted)
    network.train()
    for _ in range(steps):
        chosen = torch.from_numpy(rng.choice(len(features), min(_BATCH, len(features)), p=weights))
        loss = -(y[chosen] * F.log_softmax(network(x[chosen]), 1)).sum(1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network.eval()


def apply_probe(probe: nn.Module, features: Floats) -> Floats:
    """Return K+1 logits (N, K+1)."""
    with torch.inference_mode():
        logits: Floats = probe(torch.from_numpy(features)).numpy()
    return logits


def held_out_scores(features: Floats, wanted: Floats, fold: Ints, *, seed: int) -> Floats:
    """Return probabilities (N, K+1), those of each fold by a probe that was fitted on the others.

    Args:
        features: (N, F).
        wanted: probabilities (N, K+1).
        fold: (N,), two at least.
        seed: of every probe.

    """
    scores = np.zeros_like(wanted)
    for own in np.unique(fold):
        inside = fold == own
        probe = fit_probe(features[~inside], wanted[~inside], seed=seed)
        scores[inside] = softmax(apply_probe(probe, features[inside]))
    return scores


class _Standardise(nn.Module):
    def __init__(self, mean: Floats, spread: Floats) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("spread", torch.from_numpy(spread))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.spread  # type: ignore[operator]
