"""The engines a fleet may stand on, as processes of our own: started, killed, started again."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """A cluster in a temporary directory."""

    def __init__(self, *, fsync: bool = True) -> None:
        self._programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        self._home = Path(tempfile.mkdtemp(prefix="fleet-postgres-"))
        is_root = os.getuid() == 0
        # Not subprocess's own `user`: that forks, and gRPC's threads in this process do not survive a fork.
        self._owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if is_root else []
        self._fsync = fsync
        self.port = free_port()
        if is_root:
            shutil.chown(self._home, "postgres")
        initdb = [self._programs / "initdb", "-D", self._home / "cluster", "-A", "trust", "-U", "fleet", "-E", "UTF8"]
        subprocess.run([*self._owner, *initdb, "--no-sync"], check=True, stdout=subprocess.DEVNULL, cwd=self._home)
        self.start()

    @staticmethod
    def missing() -> bool:
        return not list(Path("/usr/lib/postgresql").glob("*/bin"))

    def start(self) -> None:
        program = [self._programs / "postgres", "-D", self._home / "cluster", "-p", str(self.port), "-k", self._home]
        options = ["-h", "127.0.0.1", "-c", f"fsync={'on' if self._fsync else 'off'}"]
        with (self._home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._owner, *program, *options], stdout=log, stderr=log, cwd=self._home, start_new_session=True
            )
        for _ in range(300):
            with contextlib.suppress(Exception), self.connect():
                return
            time.sleep(0.1)
        raise RuntimeError((self._home / "log").read_text()[-2000:])

    def connect(self) -> Any:
        import psycopg

        return psycopg.connect(f"host=127.0.0.1 port={self.port} user=fleet dbname=postgres", autocommit=True)

    def make(self) -> str:
        """Make an empty database; returns its URL."""
        name = f"fleet_{secrets.token_hex(4)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://fleet@127.0.0.1:{self.port}/{name}"

    def kill(self) -> None:
        """kill -9 of it and all its children."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)

    def remove(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            self.process.wait(20)
        shutil.rmtree(self._home, ignore_errors=True)


class Mosquitto:
    """A broker that keeps what it was told on disk."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="fleet-broker-"))
        self.port = free_port()
        settings = f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\n"
        settings += "max_queued_messages 0\nmax_inflight_messages 1000\n"  # as in deploy/cloud/mosquitto.conf
        settings += f"persistence true\npersistence_location {self._home}/\nautosave_interval 1\n"
        (self._home / "broker.conf").write_text(settings)
        self.start()

    @staticmethod
    def program() -> str | None:
        return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")

    def start(self) -> None:
        program = self.program()
        assert program is not None
        self.process = subprocess.Popen(
            [program, "-c", str(self._home / "broker.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise RuntimeError("Mosquitto did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def remove(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self._home, ignore_errors=True)
