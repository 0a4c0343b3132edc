"""`distillnet serve` that writes what it holds (asyncio tasks, Python objects) to a file at every SIGUSR1.

python counted_server.py CENSUS_FILE serve --data DIR …
"""

import asyncio
import ctypes
import gc
import json
import signal
import sys
from collections import Counter
from pathlib import Path


class _Mallinfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [(f"field_{index}", ctypes.c_size_t) for index in range(10)]


def heap_mb() -> float:
    """Native memory in use, all arenas: what a leak makes grow, and fragmentation does not."""
    info = ctypes.CDLL(None).mallinfo2
    info.restype = _Mallinfo
    now = info()
    return round((now.field_7 + now.field_4) / 1e6, 2)  # uordblks, hblkhd


def census(path: Path) -> None:
    gc.collect()
    names = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())
    facts = {"tasks": sum(names.values()), "task_names": dict(names), "objects": len(gc.get_objects())}
    facts |= {"blocks": sys.getallocatedblocks(), "heap_mb": heap_mb()}
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(facts))
    scratch.rename(path)


def main() -> None:
    path = Path(sys.argv[1])
    sys.argv = ["distillnet", *sys.argv[2:]]
    real = asyncio.run

    async def counted(work):
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, census, path)
        return await work

    asyncio.run = lambda work: real(counted(work))
    from distillnet.device.cli import main as command

    command()


if __name__ == "__main__":
    main()
