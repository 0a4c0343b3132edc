"""`distillnet serve` that writes what it holds (asyncio tasks, Python objects) to a file at every SIGUSR1.

python counted_server.py CENSUS_FILE serve --data DIR …
"""

import asyncio
import gc
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path


def census(path: Path) -> None:
    gc.collect()
    names = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())
    facts = {"tasks": sum(names.values()), "task_names": dict(names), "objects": len(gc.get_objects())}
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
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    from distillnet.device.cli import main as command

    command()


if __name__ == "__main__":
    main()
