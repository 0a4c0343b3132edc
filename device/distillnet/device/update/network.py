"""Whether the way out costs by the byte: which interface the default route takes, as the kernel says."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc/net")
_UP: Final = 0x1
_REJECT: Final = 0x200


def metered_by(patterns: list[str], proc: Path = _PROC) -> str:
    """Return the interface of the best default route if it is one of `patterns` (`wwan*`); else nothing.

    A board without any default route is not on a metered one.
    """
    routes = [*_routes_4(proc / "route"), *_routes_6(proc / "ipv6_route")]
    if not patterns or not routes:
        return ""
    interface = min(routes)[1]
    return interface if any(fnmatch(interface, pattern) for pattern in patterns) else ""


def _routes_4(path: Path) -> list[tuple[int, str]]:
    """Metric and interface of the default routes in `/proc/net/route`."""
    fields = [line.split() for line in _lines(path)[1:]]
    return [
        (int(field[6]), field[0])
        for field in fields
        if len(field) > 7 and field[1] == field[7] == "00000000" and int(field[3], 16) & _UP
    ]


def _routes_6(path: Path) -> list[tuple[int, str]]:
    """Metric and interface of the default routes in `/proc/net/ipv6_route`."""
    fields = [line.split() for line in _lines(path)]
    return [
        (int(field[5], 16), field[9])
        for field in fields
        if len(field) > 9
        and field[0] == "0" * 32
        and field[1] == "00"
        and int(field[8], 16) & _UP
        and not int(field[8], 16) & _REJECT
    ]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
