"""Runs one job: `python -m distillnet.cloud.jobs.runner DIR`, started by the service in a process of its own.

DIR holds `app.toml` and `job.json`, and gets `log` and `out/`. It ends when its standard input does: a service that is
gone leaves no job behind. Where the worker dies, the executor starts it again, and it goes on from its checkpoint in
DIR; on Ray, DIR must therefore be readable and writable from every node.
"""

import contextlib
import json
import os
import sys
import threading
from pathlib import Path

from distillnet.cloud.executor import CancelledError, Executor, open_executor
from distillnet.proto.strict import ConfigError

APPLICATION, SETTINGS, LOG, OUT = "app.toml", "job.json", "log", "out"


def main() -> int:
    """Run; what went wrong is the last line of stderr."""
    directory = Path(sys.argv[1])
    settings = json.loads((directory / SETTINGS).read_text())
    kind, threads = settings["executor"], settings["threads"]
    threads = threads or (os.cpu_count() or 1 if kind == "local" else 1)
    try:
        with open_executor(kind, threads=threads, gpus=settings["gpus"], address=settings["address"]) as executor:
            threading.Thread(target=_cancel_at_end_of_input, args=(executor,), daemon=True).start()
            executor.map(distil, [str(directory)])
    except CancelledError:
        return _fail("cancelled")
    except ConfigError as exc:
        return _fail(str(exc))
    except ModuleNotFoundError as exc:
        return _fail(f"{exc}: distillation needs pip install 'distillnet[cloud]' where the job runs")
    return 0


def distil(directory: str) -> None:
    """Distil in a worker, from the checkpoint where there is one."""
    place = Path(directory)
    settings = json.loads((place / SETTINGS).read_text())
    with (place / LOG).open("a", buffering=1) as log, contextlib.redirect_stderr(log):
        from distillnet.cloud.pipeline import distill

        if list((place / OUT).glob(".distil*.pt")):
            log.write("going on from the checkpoint\n")

        distill(
            place / APPLICATION,
            place / OUT,
            minutes=settings["minutes"],
            seed=settings["seed"],
            resume=True,
            quiet=False,
            workers=settings["workers"],
            executor=settings["executor"] if settings["workers"] > 1 else "local",
            ray_address=settings["address"],
        )


def _cancel_at_end_of_input(executor: Executor) -> None:
    sys.stdin.read()
    executor.cancel()


def _fail(reason: str) -> int:
    sys.stderr.write(f"{reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
