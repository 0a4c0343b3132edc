"""A TCP proxy that spoils a connection: latency, a slow line, breaks after so many bytes, sudden silence."""

import contextlib
import random
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Faults:
    """`latency_s` each way; `rate_bytes_per_s` and `break_after_bytes` downwards, per connection; `stall` = chance that
    a read is followed by a second of silence, as a lost packet on a slow line is."""

    latency_s: float = 0.0
    rate_bytes_per_s: float | None = None
    break_after_bytes: int | None = None
    stall: float = 0.0


class BadNetwork:
    """Forwards 127.0.0.1:port to a server, badly. Counts what went down."""

    def __init__(self, target: str, faults: Faults, seed: int = 0) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._faults = faults
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.down_bytes = 0
        self.connections = 0
        self.breaks = 0
        self._open: list[socket.socket] = []

    def __enter__(self) -> "BadNetwork":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = socket.create_connection(self._target)
                self._open += [client, server]
                threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, down: bool) -> None:
        """Read at once, deliver when it is due: latency delays, it does not throttle."""
        waiting: deque[tuple[float, bytes]] = deque()
        ready = threading.Condition()
        threading.Thread(target=self._deliver, args=(waiting, ready, target, down), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                with ready:
                    waiting.append((time.monotonic() + self._faults.latency_s, data))
                    ready.notify()
                    ready.wait_for(lambda: len(waiting) < 16)
        with ready:
            waiting.append((time.monotonic() + self._faults.latency_s, b""))
            ready.notify()

    def _deliver(self, waiting, ready, target: socket.socket, down: bool) -> None:
        sent, faults = 0, self._faults
        with contextlib.suppress(OSError):
            while True:
                with ready:
                    ready.wait_for(lambda: bool(waiting))
                    due, data = waiting[0]
                time.sleep(max(0.0, due - time.monotonic()))
                if data and down:
                    if faults.rate_bytes_per_s:
                        time.sleep(len(data) / faults.rate_bytes_per_s)
                    if self._random.random() < faults.stall:
                        time.sleep(1.0)
                    if faults.break_after_bytes and sent + len(data) > faults.break_after_bytes:
                        data = data[: faults.break_after_bytes - sent]
                        target.sendall(data)
                        self.down_bytes += len(data)
                        self.breaks += 1
                        break
                target.sendall(data)
                with ready:
                    waiting.popleft()
                    ready.notify()
                if not data:
                    break
                if down:
                    sent += len(data)
                    self.down_bytes += len(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        target.close()
