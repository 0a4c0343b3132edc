"""How a long computation shares its machine. Called before torch is imported: both settings are read only once."""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc


def prepare() -> None:
    """Let idle threads sleep, and let freed memory stay with the process.

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
