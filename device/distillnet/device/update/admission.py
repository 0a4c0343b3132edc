"""Whether a verified student may run on this board: what is signed, what its card says, and whether it computes.

The self-test runs first in a process of its own, with bounded memory and time, so that a student that is signed and
malicious or merely broken takes nothing down with it; then once more in the very engine that will run it.
"""

import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from distillnet.device.config import DeviceConfig
from distillnet.device.update.capabilities import at_least, board_name, runtime_version
from distillnet.device.update.errors import RefusedError, StoppedError
from distillnet.device.update.record import Installed, Update
from distillnet.device.update.trust import SignedTarget
from distillnet.engine import Backend, ModelError
from distillnet.engine.student import Student
from distillnet.proto.archive import StudentError, unpack

TRIAL_TIMEOUT_S: Final = 60.0
_SLACK_BYTES: Final = 512 << 20  # thread stacks and the allocator's reserve: address space, not memory


def check_signed(target: SignedTarget, wanted: Update, config: DeviceConfig, current: Installed | None) -> None:
    """Check what the signed metadata says, before a byte of the student is fetched.

    Raises:
        RefusedError: for another application, board or runtime, older than what runs, or not what was announced.

    """
    if target.application != config.model.application:
        raise RefusedError(
            f"{target.path} is for application {target.application!r}; this board runs {config.model.application!r}"
        )
    if wanted.digest and wanted.digest != target.digest:
        raise RefusedError(f"announced as {wanted.digest}, signed as {target.digest}", final=False)
    if wanted.version and wanted.version != target.version:
        raise RefusedError(f"announced as version {wanted.version}, signed as {target.version}", final=False)
    _check_fits(target.boards, target.minimum_runtime, config)
    if current is not None and target.digest != current.digest and target.version <= current.version:
        if target.downgrade:
            return
        raise RefusedError(
            f"version {target.version} is not newer than the installed {current.version}, and its signature does not "
            "allow a downgrade",
            final=False,
        )


def check_card(data: bytes, update: Update, config: DeviceConfig) -> None:
    """Check the student's own card against what was signed.

    Raises:
        RefusedError: it is no valid student, or not the one that was signed.

    """
    try:
        card = unpack(data).card
    except StudentError as exc:
        raise RefusedError(f"the student {exc}") from exc
    if card.application != config.model.application:
        raise RefusedError(f"its card says application {card.application!r}, not {config.model.application!r}")
    if card.version != update.version:
        raise RefusedError(f"its card says version {card.version}, the signed metadata {update.version}")
    _check_fits(tuple(card.boards), card.minimum_runtime, config)


def load_tested(data: bytes, config: DeviceConfig) -> Student:
    """Load a student in this process and run its golden vectors.

    Raises:
        RefusedError: it does not load or does not compute what it must.

    """
    try:
        student = load(data, config)
        student.self_test()
    except (StudentError, ModelError, MemoryError) as exc:
        raise RefusedError(f"self-test: {exc}") from exc
    return student


def load(data: bytes, config: DeviceConfig) -> Student:
    """Load a student as the daemon runs it; raises `StudentError` or `ModelError`."""
    return Student.load(
        data,
        engine=config.engine.backend,
        threads=config.engine.threads,
        max_arena_bytes=config.update.max_arena_bytes,
    )


def try_apart(path: Path, config: DeviceConfig, stop: threading.Event, timeout_s: float = TRIAL_TIMEOUT_S) -> None:
    """Load and self-test the student at `path` in a process of its own.

    Raises:
        RefusedError: it failed, crashed, took too much memory or too long.
        StoppedError: `stop` was set meanwhile.

    """
    command = [sys.executable, "-m", "distillnet.device.update.admission", str(path)]
    command += [config.engine.backend, str(config.engine.threads), str(config.update.max_arena_bytes)]
    deadline = time.monotonic() + timeout_s
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        while process.poll() is None:
            if stop.wait(0.01):
                process.kill()
                raise StoppedError("the daemon is stopping")
            if time.monotonic() > deadline:
                process.kill()
                raise RefusedError(f"self-test: took more than {timeout_s:g} s")
        errors.seek(0)
        lines = errors.read(1 << 16).decode("utf-8", "replace").strip().splitlines()
    if process.returncode == 0:
        return
    said = lines[-1][:400] if lines else ""
    if process.returncode < 0:
        raise RefusedError(f"self-test: the student crashed the engine (signal {-process.returncode}) {said}".rstrip())
    raise RefusedError(f"self-test: {said or f'exit status {process.returncode}'}")


def _check_fits(boards: tuple[str, ...], minimum_runtime: str, config: DeviceConfig) -> None:
    board = board_name(config.device.board)
    if boards and board not in boards:
        raise RefusedError(f"is meant for {', '.join(boards)}; this board is {board!r}")
    if not at_least(runtime_version(), minimum_runtime):
        raise RefusedError(f"needs distillnet {minimum_runtime} or newer; this board has {runtime_version()}")


def _trial(path: Path, engine: Backend, threads: int, max_arena_bytes: int) -> int:
    """Run in the child: bound the address space to what is mapped now plus what a student may take."""
    data = path.read_bytes()
    # LiteRT is imported before the bound is set, or its libraries would count against it.
    from distillnet.engine.litert import litert_version

    try:
        if engine != "native":
            litert_version()
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        bound = mapped + max_arena_bytes + 8 * len(data) + _SLACK_BYTES
        if engine in ("auto", "native", "litert"):  # an accelerator's driver maps more than it uses
            resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        Student.load(data, engine=engine, threads=threads, max_arena_bytes=max_arena_bytes).self_test()
    except (StudentError, ModelError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    except MemoryError:
        sys.stderr.write(f"needs more memory than allowed ({max_arena_bytes} bytes of arena)\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_trial(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
