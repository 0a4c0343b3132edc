"""A clean Debian 12 to try packages in, made once by debootstrap: `build/chroot-<arch>` has nothing but Python,
`build/chroot-<arch>-systemd` boots, and has a broker.

    python deploy/clean_root.py amd64|arm64 [systemd]

Needs root. Another architecture than this machine's runs under qemu-user: the kernel must know how to start its
programs (binfmt_misc), which Debian's qemu-user-static tells it.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import debian_archive
import wheelhouse

NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}
INCLUDED = {
    "": "python3",
    "systemd": "python3,systemd,systemd-sysv,dbus,udev,sudo,mosquitto,mosquitto-clients",
}
BINFMT = Path("/proc/sys/fs/binfmt_misc")


class RootError(Exception):
    """The root cannot be made here; the message says why and what to do."""


def build(arch: str, kind: str = "") -> Path:
    """Make the root of Debian's `arch` and a `kind` of INCLUDED unless it is there; returns its folder: copy it.

    Raises:
        RootError: no root rights, no debootstrap, no network, or no emulation of `arch`.

    """
    root = wheelhouse.BUILD / "-".join(filter(None, ["chroot", arch, kind]))
    if os.getuid() != 0 or shutil.which("debootstrap") is None:
        raise RootError("needs root and debootstrap")
    if arch != NATIVE[os.uname().machine]:
        let_the_kernel_start(arch)
    if (root / ".complete").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    options = ["--variant=minbase", f"--arch={arch}", f"--include={INCLUDED[kind]}"]
    command = ["debootstrap", *options, debian_archive.RELEASE, str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RootError(f"debootstrap cannot fetch Debian 12 here: {' '.join(done.stdout.splitlines()[-1:])}")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")  # as any Debian that was installed has it
    (root / ".complete").touch()
    return root


def let_the_kernel_start(arch: str) -> None:
    """Have programs of Debian's `arch` run under qemu-user; raises RootError where they cannot."""
    machine = {debian: machine for machine, debian in NATIVE.items()}[arch]
    handler = BINFMT / f"qemu-{machine}"
    if not (BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], capture_output=True)
    told = Path(f"/usr/lib/binfmt.d/{handler.name}.conf")  # of qemu-user-static, for systemd-binfmt
    if not handler.exists() and told.exists():
        with contextlib.suppress(OSError):  # nothing may be registered from a container
            (BINFMT / "register").write_text(told.read_text())
    if not handler.exists() or "F" not in handler.read_text().partition("flags: ")[2].split("\n")[0]:
        raise RootError(f"this kernel cannot start {machine} programs: apt-get install qemu-user-static")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make a clean Debian 12 to try packages in.")
    parser.add_argument("arch", choices=sorted(NATIVE.values()))
    parser.add_argument("kind", nargs="?", default="", choices=list(INCLUDED))
    arguments = parser.parse_args()
    try:
        sys.stdout.write(f"{build(arguments.arch, arguments.kind)}\n")
    except RootError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
