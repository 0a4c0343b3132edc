"""Functions for executors: worker processes import them by name."""

import os
import signal
import time
from pathlib import Path

from distillnet.proto.strict import ConfigError


def later_first(item: int) -> int:
    time.sleep(0.05 * (3 - item))
    return item * item


def has_workers_of_its_own(item: tuple[str, int]) -> list[int]:
    from distillnet.cloud.executor import open_executor

    kind, first = item
    with open_executor(kind, workers=2) as executor:
        return executor.map(later_first, [first, first + 1])


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


def node(seconds: float) -> str:
    import ray

    time.sleep(seconds)
    return str(ray.get_runtime_context().get_node_id())
