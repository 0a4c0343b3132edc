"""The machine: its name, and how a long computation shares it."""

import ctypes
import os
import platform
import subprocess
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc


def prepare() -> None:
    """Let idle threads sleep, and let freed memory stay with the process. Before torch is imported: it reads this once.

    OpenMP's threads spin by default and starve everything else on a busy machine. glibc hands every large tensor back
    to the kernel when it is freed and takes the page faults again at the next step: a third of the training time here.
    Where there is no glibc, its allocator stays as it is.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_TOP_PAD, 64 << 20)


def machine() -> str:
    """Name the processor."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{platform.machine()} {name}"


def revision() -> str:
    """Name the commit of these sources, `-dirty` where files differ from it; nothing where they are no checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = Path(__file__).parent
    try:
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
