"""Boot a Debian root under its own systemd, in a container without a network, and run commands in it.

A `Machine` is systemd-nspawn over an overlay: the root stays as it is, what changes survives a reboot of the same
machine and is gone with its folder. Called by tests/deploy/test_systemd.py. Needs root and a kernel that lets us have
namespaces and cgroups.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

CGROUPS = Path("/sys/fs/cgroup")
BOOT_S = 90.0


class MachineError(Exception):
    """The machine does not boot, or a command in it failed; the message says what it said."""


class Machine:
    """One booted root; use it as a context manager."""

    def __init__(self, root: Path, folder: Path, shown: Sequence[Path] = ()) -> None:
        """`root` is read only; `folder` takes what changes and the log; `shown` are folders of the host to see."""
        self._root, self._folder, self._shown = root, folder, shown
        self._top = folder / "root"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self.boots = 0

    @property
    def root(self) -> Path:
        """The machine's `/`, to read and write from outside."""
        return self._top

    def __enter__(self) -> Self:
        """Boot."""
        for name in ("root", "upper", "work"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={self._root},upperdir={self._folder}/upper,workdir={self._folder}/work"
        _run(["mount", "-t", "overlay", "overlay", "-o", layers, str(self._top)])
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Power off."""
        self.power_off()
        subprocess.run(["umount", self._top], capture_output=True)

    def boot(self) -> None:
        """Boot and wait until systemd has started everything.

        Raises:
            MachineError: it did not come up.

        """
        options = ["--quiet", "--register=no", "--private-network", "--console=pipe", "--capability=all"]
        options += ["--system-call-filter=bpf", "--machine=distillnet-test", "--boot", f"--directory={self._top}"]
        options += [f"--bind-ro={folder}" for folder in self._shown]
        if not Path("/run/systemd/system").exists():  # no systemd outside that could give us a scope
            options.append("--keep-unit")
        join = "".join(f"mkdir -p {group} && echo $$ >{group}/cgroup.procs; " for group in self._groups())
        command = ["sh", "-c", f"{join}exec systemd-nspawn {shlex.join(options)}"]
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with (self._folder / "console.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.boots += 1
        deadline = time.monotonic() + BOOT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            self._leader = _child_named(self._process.pid, "systemd")
            if self._leader and self._systemd_is_up():
                return
            time.sleep(0.2)
        self.power_off()
        raise MachineError((self._folder / "console.log").read_text()[-2000:] or "it did not boot")

    def power_off(self) -> None:
        """Shut down in order; kill what does not end."""
        if self._process is None:
            return
        if self._process.poll() is None and self._leader:
            self.run("systemctl --no-block poweroff", check=False)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process, self._leader = None, 0
        for group in self._groups():
            with contextlib.suppress(OSError):
                for inner in sorted(group.rglob("*/"), key=lambda path: -len(path.parts)):
                    inner.rmdir()
                group.rmdir()

    def run(self, command: str, *, check: bool = True, timeout_s: float = 120.0) -> str:
        """Run a shell command in the machine as root; returns its standard output.

        Raises:
            MachineError: it failed, and `check` is set.

        """
        line = ["nsenter", f"--target={self._leader}", "--all", "--root", "--wd", "--", "/usr/bin/env", "-i"]
        line += ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "sh", "-c", command]
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
        if check and done.returncode != 0:
            raise MachineError(f"{command}\nrc {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return self.run(f"systemctl show --value -p {name} {unit}").strip()

    def _systemd_is_up(self) -> bool:
        state = self.run("systemctl is-system-running", check=False).strip()
        return state in ("running", "degraded")

    def _groups(self) -> list[Path]:
        if Path("/run/systemd/system").exists():
            return []
        found = [CGROUPS / name for name in ("systemd", "unified") if (CGROUPS / name).exists()] or [CGROUPS]
        return [path / f"distillnet-test-{os.getpid()}" for path in found]


def why_not() -> str | None:
    """Say what is missing here to boot a machine, or None."""
    if os.getuid() != 0:
        return "only root can boot a container"
    if shutil.which("systemd-nspawn") is None:
        return "no systemd-nspawn: apt-get install systemd-container"
    return None


def _child_named(parent: int, name: str) -> int:
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                return int(child)
    return 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise MachineError(f"{shlex.join(command)}: {done.stderr.strip()}")
