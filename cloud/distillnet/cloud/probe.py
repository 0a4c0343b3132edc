"""The baseline to reach: a small classifier on the full teacher's features, K+1 outputs."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from distillnet.cloud.metrics import Floats
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


class _Standardise(nn.Module):
    def __init__(self, mean: Floats, spread: Floats) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("spread", torch.from_numpy(spread))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.spread  # type: ignore[operator]
