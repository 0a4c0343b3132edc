"""Functions for executors: worker processes import them by name."""

import os
import signal
import time
from pathlib import Path

from distillnet.proto.strict import ConfigError


def later_first(item: int) -> int:
    time.sleep(0.05 * (3 - item))
    return item * item


def die_once(place: Path) -> str:
    if not place.exists():
        place.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return place.name


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(item: int) -> int:
    if item == 1:
        raise ConfigError("item 1 is bad")
    return item


def who(_: int) -> tuple[int, str]:
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def wait(place: Path) -> None:
    place.touch()
    time.sleep(60)


def train_a_little(seed: int) -> float:
    import torch

    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    pictures, wanted = torch.randn(64, 16), torch.randint(0, 4, (64,))
    for _ in range(50):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(pictures), wanted)
        loss.backward()
        optimiser.step()
    return float(loss)


def node(seconds: float) -> str:
    import ray

    time.sleep(seconds)
    return str(ray.get_runtime_context().get_node_id())
