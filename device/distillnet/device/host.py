"""The machine under the daemon: memory, processor time, temperature, throttling, name. Read from /proc and /sys."""

import ctypes
import os
import platform
import resource
import time
from pathlib import Path

_THERMAL = Path("/sys/class/thermal")
_MODEL = Path("/proc/device-tree/model")
_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 65536
_NOW_BITS = 0b1111
"""Under-voltage, frequency capped, throttled, soft temperature limit: now, not in the past (Raspberry Pi firmware)."""


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


def cpu_s() -> float:
    """Processor time this process has used, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def process_age_s() -> float:
    """Seconds since this process was started, the interpreter's own start included."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def temperature_c() -> float | None:
    """Return the hottest thermal zone, degrees Celsius; None where there is none."""
    found = [value for zone in _THERMAL.glob("thermal_zone*") if (value := _number(zone / "temp")) is not None]
    return max(found) / 1000.0 if found else None


def throttled() -> bool | None:
    """Whether the Raspberry Pi firmware holds the processor back now; None on other machines."""
    try:
        return bool(int(_THROTTLED.read_text(encoding="ascii").strip(), 16) & _NOW_BITS)
    except (OSError, ValueError):
        return None


def board(configured: str = "auto") -> str:
    """Return the board's name: as configured, from the device tree, or the architecture."""
    if configured != "auto":
        return configured
    try:
        return _MODEL.read_text(encoding="utf-8").strip("\0\n ")
    except OSError:
        return platform.machine()


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def give_memory_back() -> None:
    """Have the C library return memory that is free to the system; does nothing where it has no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_large_blocks_apart() -> None:
    """Have the C library map every large block by itself and unmap it when it is freed, which takes time.

    Left alone, it soon has blocks as large as pictures among small ones, between which what they leave stays in pieces.
    Does nothing where it has no such call.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(_M_MMAP_THRESHOLD, _LARGE_BYTES)
