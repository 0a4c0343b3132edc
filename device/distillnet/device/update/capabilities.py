"""What this board is and can run, as it tells the fleet."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Final

from distillnet.engine.profile import this_machine
from distillnet.proto.v1 import enrollment_pb2

_MODEL_FILES: Final = (Path("/proc/device-tree/model"), Path("/sys/firmware/devicetree/base/model"))
_BOARDS: Final = (
    ("Raspberry Pi 5", "rpi5"),
    ("Raspberry Pi Compute Module 5", "rpi5"),
    ("Raspberry Pi 4", "rpi4"),
    ("Raspberry Pi Compute Module 4", "rpi4"),
    ("Raspberry Pi 3", "rpi3"),
    ("Raspberry Pi Compute Module 3", "rpi3"),
    ("Raspberry Pi Zero 2", "rpi-zero2"),
    ("Jetson Nano", "jetson-nano"),
    ("Orin", "jetson-orin"),
)


def runtime_version() -> str:
    """Version of distillnet on this board."""
    return version("distillnet")


def board_name(configured: str = "auto") -> str:
    """Return the board's name as application files use it; `configured` unless that is "auto"."""
    if configured != "auto":
        return configured
    for path in _MODEL_FILES:
        try:
            model = path.read_bytes().rstrip(b"\0").decode("utf-8", "replace")
        except OSError:
            continue
        for text, name in _BOARDS:
            if text in model:
                return name
    return this_machine()


def describe(
    *, board: str = "auto", engine_kernels: str = "", free_bytes: int = 0, arena_bytes: int = 0
) -> enrollment_pb2.Capabilities:
    """Return the message for `Hello` and `Enroll`."""
    return enrollment_pb2.Capabilities(
        board=board_name(board),
        machine=os.uname().machine,
        runtime=runtime_version(),
        engine_kernels=engine_kernels,
        free_bytes=free_bytes,
        arena_bytes=arena_bytes,
    )


def at_least(have: str, wanted: str) -> bool:
    """Whether version `have` is `wanted` or newer, by their leading numbers; no wish is always met."""
    return _numbers(have) >= _numbers(wanted)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return (*numbers, *([0] * (3 - len(numbers))))
