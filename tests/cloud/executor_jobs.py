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
