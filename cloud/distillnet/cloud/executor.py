"""Runs independent jobs at once: in processes here (`local`), or on an existing Ray cluster (`ray`).

`map(function, items)` is all there is. Results come in the order of the items, whoever was done first. A worker that
dies (killed, out of memory, its node gone) costs no result: its item goes to another, up to `RETRIES` times. An
exception of the function itself is no such accident: it ends the map, and is raised here as it was raised there.
Function, items and results are pickled; the function must be importable on the other side.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, Protocol, Self, TypeVar

from distillnet.proto.strict import ConfigError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Progress = Callable[[int, int], None]
Kind = Literal["local", "ray"]

RETRIES = 2
_POLL_S = 0.5


class ExecutorError(ConfigError):
    """Jobs cannot be run, or were lost; the message says why and what to do."""


class CancelledError(Exception):
    """`cancel` was called; results are not to be had."""


class Executor(Protocol):
    """What the two kinds have in common. A context manager: leaving it ends every worker."""

    def map(
        self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT], *, progress: Progress | None = None
    ) -> list[ResultT]:
        """Call `function` on every item, several at once.

        Args:
            function: importable by name; deterministic in its item if results shall not depend on the workers.
            items: picklable.
            progress: called here with (done, total) as items are done.

        Returns:
            The results, in the order of the items.

        Raises:
            ExecutorError: an item took its worker down more than `RETRIES` times.
            CancelledError: `cancel` was called, meanwhile or before.
            Exception: whatever the function raised first; what is under way is given up.

        """
        ...

    def cancel(self) -> None:
        """Give up the map under way and every later one; from any thread."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_executor(
    kind: Kind = "local", *, workers: int = 1, threads: int = 1, gpus: float = 0.0, address: str | None = None
) -> Executor:
    """Open one.

    Args:
        kind: `local` or `ray`.
        workers: processes at once; on Ray at most, as many as the cluster has room for.
        threads: of each job; the same number everywhere gives the same arithmetic everywhere.
        gpus: of each job, a share of one if below 1; Ray only, where a node has one.
        address: of the Ray cluster, `host:port`; None = the one of this machine.

    Raises:
        ExecutorError: no such cluster, or Ray is not installed.

    """
    if workers < 1 or threads < 1:
        raise ExecutorError(f"workers and threads must be at least 1; got {workers} and {threads}")
    if kind == "ray":
        return RayExecutor(address, workers=workers, threads=threads, gpus=gpus)
    if gpus:
        raise ExecutorError("GPUs are shared out by Ray only: --executor ray")
    return LocalExecutor(workers, threads=threads)


class LocalExecutor:
    """Spawned processes of this machine, kept from one map to the next: importing torch takes seconds."""

    def __init__(self, workers: int, *, threads: int = 1) -> None:
        self._size = workers
        self._threads = threads
        self._workers: list[_Worker] = []
        self._cancelled = threading.Event()

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the workers."""
        self._drop(self._workers)

    def cancel(self) -> None:
        """Give up the map under way and every later one."""
        self._cancelled.set()

    def map(
        self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT], *, progress: Progress | None = None
    ) -> list[ResultT]:
        """See `Executor.map`."""
        waiting = deque(enumerate(items))
        lost = [0] * len(items)
        results: dict[int, ResultT] = {}
        try:
            while len(results) < len(items):
                self._hand_out(function, waiting)
                for worker, index in self._ready():
                    try:
                        results[index] = worker.result()
                    except EOFError:
                        self._drop([worker])
                        lost[index] += 1
                        _check_lost(index, lost[index])
                        waiting.appendleft((index, items[index]))
                        continue
                    if progress:
                        progress(len(results), len(items))
        except BaseException:
            self._drop([worker for worker in self._workers if worker.job is not None])
            raise
        return [results[index] for index in range(len(items))]

    def _hand_out(self, function: Callable[[Any], Any], waiting: "deque[tuple[int, Any]]") -> None:
        idle = [worker for worker in self._workers if worker.job is None]
        while waiting and (idle or len(self._workers) < self._size):
            worker = idle.pop() if idle else self._start()
            index, item = waiting[0]
            if worker.give(function, index, item):
                waiting.popleft()
            else:
                self._drop([worker])

    def _ready(self) -> "Iterator[tuple[_Worker, int]]":
        """Yield workers that answered or died, with their item; looks up now and then for `cancel`."""
        busy = {worker.connection: (worker, worker.job) for worker in self._workers if worker.job is not None}
        ready = wait(list(busy), _POLL_S)
        if self._cancelled.is_set():
            raise CancelledError
        for connection in ready:
            yield busy[connection]  # type: ignore[index]

    def _start(self) -> "_Worker":
        worker = _Worker(self._threads)
        self._workers.append(worker)
        return worker

    def _drop(self, workers: "list[_Worker]") -> None:
        for worker in list(workers):
            worker.kill()
            self._workers.remove(worker)


class _Worker:
    """One process and our end of its pipe. A dead process shows as the end of the pipe."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.job: int | None = None
        # No daemon in Python's sense: a job may open an executor of its own. It ends with its parent all the same.
        self._process = context.Process(target=_work, args=(theirs, threads), name="distillnet-worker")
        self._process.start()
        theirs.close()

    def give(self, function: Callable[[Any], Any], index: int, item: Any) -> bool:
        """Send it an item; False when it is dead."""
        message = pickle.dumps((function, item))
        try:
            self.connection.send_bytes(message)
        except OSError:
            return False
        self.job = index
        return True

    def result(self) -> Any:
        """Take its answer.

        Raises:
            EOFError: it is dead.
            Exception: what the function raised.

        """
        try:
            outcome, value, trace = pickle.loads(self.connection.recv_bytes())
        except OSError as exc:
            raise EOFError from exc
        self.job = None
        if outcome == "raised":
            raise value from RuntimeError(f"in a worker process:\n{trace}")
        return value

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _work(connection: Connection, threads: int) -> None:
    """Be a worker: end when the parent does, leave Ctrl-C to it."""
    from distillnet.cloud import host

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    host.prepare()
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send_bytes(_answer(connection.recv_bytes()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _answer(message: bytes) -> bytes:
    try:
        function, item = pickle.loads(message)
        return pickle.dumps(("done", function(item), ""))
    except Exception as exc:
        return _raised(exc)


def _raised(exc: Exception) -> bytes:
    trace = traceback.format_exc()
    try:
        message = pickle.dumps(("raised", exc, trace))
        pickle.loads(message)  # some exceptions go in and do not come out
    except Exception:
        return pickle.dumps(("raised", ExecutorError(f"{type(exc).__name__}: {exc}"), trace))
    return message


def _check_lost(index: int, times: int) -> None:
    if times > RETRIES:
        raise ExecutorError(f"item {index + 1} took its worker down {times} times: killed, or out of memory?")


class RayExecutor:
    """Tasks on an existing Ray cluster, whose nodes have this version of distillnet installed."""

    def __init__(self, address: str | None, *, workers: int, threads: int = 1, gpus: float = 0.0) -> None:
        """Connect.

        Raises:
            ExecutorError: no such cluster, no node with the GPUs asked for, or Ray is not installed.

        """
        try:
            import ray
        except ModuleNotFoundError as exc:
            raise ExecutorError("executor 'ray' needs Ray: pip install 'distillnet[ray]'") from exc
        self._ray = ray
        self._connects = not ray.is_initialized()  # a task that runs tasks is connected already
        try:
            if self._connects:
                ray.init(address=address or "auto", logging_level="warning", log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as exc:
            raise ExecutorError(
                f"Ray cluster {address or 'of this machine'}: {exc}; start one with `ray start`"
            ) from exc
        self._workers = workers
        self._options = {"num_cpus": threads, "num_gpus": gpus, "max_retries": RETRIES}
        self._cancelled = threading.Event()
        if gpus > max((node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0):
            self.__exit__()
            raise ExecutorError(f"no node of the Ray cluster has {gpus:g} GPUs")

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect; the cluster stays."""
        if self._connects:
            self._ray.shutdown()

    def cancel(self) -> None:
        """Give up the map under way and every later one."""
        self._cancelled.set()

    def map(
        self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT], *, progress: Progress | None = None
    ) -> list[ResultT]:
        """See `Executor.map`."""
        task = self._ray.remote(**self._options)(_call)
        waiting = deque(enumerate(items))
        running: dict[Any, int] = {}
        results: dict[int, ResultT] = {}
        try:
            while len(results) < len(items):
                while waiting and len(running) < self._workers:
                    index, item = waiting.popleft()
                    running[task.remote(function, item)] = index
                done, _ = self._ray.wait(list(running), timeout=_POLL_S)
                if self._cancelled.is_set():
                    raise CancelledError
                for reference in done:
                    index = running.pop(reference)
                    results[index] = self._get(reference, index)
                    if progress:
                        progress(len(results), len(items))
        except BaseException:
            for reference in running:
                self._ray.cancel(reference, force=True)
            raise
        return [results[index] for index in range(len(items))]

    def _get(self, reference: Any, index: int) -> Any:
        failures = self._ray.exceptions
        try:
            outcome, value, trace = pickle.loads(self._ray.get(reference))
        except failures.RayTaskError as exc:
            raise ExecutorError(f"item {index + 1}: cannot be run by Ray: {exc}") from exc
        except failures.RayError as exc:
            raise ExecutorError(f"item {index + 1} took its worker down {RETRIES + 1} times: {exc}") from exc
        if outcome == "raised":
            raise value from RuntimeError(f"in a Ray task:\n{trace}")
        return value


def _call(function: Callable[[Any], Any], item: Any) -> bytes:
    """Run in a Ray worker."""
    from distillnet.cloud import host

    host.prepare()
    return _answer(pickle.dumps((function, item)))
