"""`distillnet doctor`: looks at everything the daemon needs, and says what is wrong and what to do about it."""

import os
import platform
import shutil
import socket
import sqlite3
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from distillnet.device import host
from distillnet.device.config import DeviceConfig
from distillnet.device.opencv import bgr, cv2
from distillnet.device.readers import SourceError, open_reader, read
from distillnet.device.sound.reading import Piece
from distillnet.device.update.capabilities import board_name
from distillnet.engine import Model, ModelError, accelerators
from distillnet.engine.litert import litert_version
from distillnet.engine.student import Student
from distillnet.proto.archive import StudentError

Verdict = Literal["ok", "warning", "wrong"]

_LITTLE_DISK_BYTES = 64 << 20
_LIMITS = {
    "rpi-zero2": "512 MB of memory: one source, small frames, no desktop",
    "rpi3": "1 GB of memory and slow cores: a network camera's sub-stream, a few frames a second",
    "jetson-nano": "the engine runs on the processor; JetPack 4 has an old Python: use the container",
    "jetson-orin": "the engine runs on the processor; JetPack 6 has Python 3.10: use the container",
}
_ROUNDS = 20
_YEAR_2024 = 1704067200.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    verdict: Verdict
    found: str
    advice: str = ""

    def facts(self) -> dict[str, str]:
        """Return plain JSON values."""
        return asdict(self)


def examine(config: DeviceConfig | None) -> list[Finding]:
    """Look at the machine, and with a device file at what that names."""
    board = board_name(config.device.board if config else "auto")
    checks: list[Callable[[], Finding]] = [lambda: _cpu(board), _engine, _litert, _accelerators, _clock, _temperature]
    if config is None:
        checks += [_cameras]
    else:
        checks += [lambda: _disk(config.device.state_dir), lambda: _broker(config), lambda: _student(config, board)]
        checks += [lambda index=i: _source(config, index) for i in range(len(config.source))]  # type: ignore[misc]
    return [check() for check in checks]


def _cpu(board: str) -> Finding:
    found = f"{board}: {host.board()} ({platform.machine()}), {os.cpu_count()} cores"
    return Finding("processor", "ok", found, _LIMITS.get(board, ""))


def _engine() -> Finding:
    try:
        from distillnet.engine import _engine
    except ImportError as exc:
        return Finding("engine", "wrong", str(exc), "reinstall distillnet from a wheel for this machine")
    return Finding("engine", "ok", f"native {_engine.version()}, kernels {', '.join(_engine.kernel_names())}")


def _litert() -> Finding:
    try:
        return Finding("litert", "ok", litert_version())
    except ModelError as exc:
        return Finding("litert", "warning", str(exc), "needed only for models the native engine does not know")


def _accelerators() -> Finding:
    found = ", ".join(accelerators.available())
    return Finding("accelerators", "ok", f"engine.backend may be {found}" if found else "none")


def _clock() -> Finding:
    now = time.time()
    if now < _YEAR_2024:
        stamp = time.strftime("%Y-%m-%d", time.gmtime(now))
        return Finding(
            "clock", "wrong", f"it is {stamp} here", "enable systemd-timesyncd: TLS and updates need the time"
        )
    synchronised = Path("/run/systemd/timesync/synchronized").exists()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return Finding("clock", "ok", stamp + (", synchronised" if synchronised else ""))


def _temperature() -> Finding:
    celsius, throttled = host.temperature_c(), host.throttled()
    if throttled:
        return Finding("temperature", "warning", f"{celsius} °C, throttled", "better cooling or power supply")
    return Finding("temperature", "ok", "no sensor" if celsius is None else f"{celsius:.0f} °C")


def _cameras() -> Finding:
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    return Finding("cameras", "ok", ", ".join(found) or "none attached")


def _disk(state_dir: Path) -> Finding:
    probe = state_dir / ".doctor"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
        sqlite3.connect(":memory:").close()
        free = shutil.disk_usage(state_dir).free
    except OSError as exc:
        return Finding(
            "disk", "wrong", f"{state_dir}: {exc.strerror}", "device.state_dir must be writable by the daemon's user"
        )
    verdict: Verdict = "ok" if free >= _LITTLE_DISK_BYTES else "warning"
    return Finding("disk", verdict, f"{state_dir}: {free >> 20} MB free", "" if verdict == "ok" else "make room")


def _broker(config: DeviceConfig) -> Finding:
    from distillnet.device.probe import probe_broker

    where = f"{config.mqtt.host}:{config.mqtt.port}"
    try:
        socket.create_connection((config.mqtt.host, config.mqtt.port), timeout=3).close()
    except OSError as exc:
        return Finding(
            "broker", "wrong", f"{where}: {exc}", "is the broker running, and mqtt.host and mqtt.port right?"
        )
    reason = probe_broker(config.mqtt, config.device.name)
    if reason:
        return Finding("broker", "wrong", f"{where}: {reason}", "check mqtt.username, password_file and the TLS files")
    return Finding("broker", "ok", f"{where} accepts us")


def _student(config: DeviceConfig, board: str) -> Finding:
    path = config.model.path
    if path is None:
        return Finding("student", "ok", "comes from the update service")
    try:
        student = Student.load(path.read_bytes(), engine=config.engine.backend, threads=config.engine.threads)
        count = student.self_test()
    except OSError as exc:
        return Finding("student", "wrong", f"{path}: {exc.strerror}", "set model.path to a student file")
    except (StudentError, ModelError) as exc:
        return Finding("student", "wrong", f"{path}: {exc}", "get the file again: it is damaged or for another version")
    info = student.model.info
    running = f"{student.card.application} v{student.card.version}, {info['engine']} ({info['kernels']})"
    said = [latency for latency in student.card.latency if latency.board == board]
    promised = "".join(f"; its card says {latency.ms:.3g} ms, {latency.how}" for latency in said)
    here = f"an inference takes {_inference_ms(student.model):.3g} ms here{promised}"
    return Finding("student", "ok", f"{running}, {count} golden vectors agree; {here}")


def _inference_ms(model: Model) -> float:
    """Median of some; the first warms up."""
    x, times = np.zeros(model.info["input"]["shape"], np.int8), []
    for _ in range(1 + _ROUNDS):
        begun = time.perf_counter()
        model.run_tensor(x)
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times[1:])


def _source(config: DeviceConfig, index: int) -> Finding:
    source = config.source[index]
    what = f"source {source.id}"
    try:
        reader = open_reader(source, read_timeout_s=5.0)
    except SourceError as exc:
        return Finding(what, "wrong", str(exc), "check source.url, the cable, and that the user is in group `video`")
    try:
        picture = read(reader)
    finally:
        reader.close()
    if picture is None:
        return Finding(what, "wrong", f"{source.shown_url} opens but gives no picture", "is another program using it?")
    if isinstance(picture, Piece):
        silent = not np.any(picture.samples)
        heard = f"{source.shown_url}: sound at {picture.rate_hz} Hz" + (", silent" if silent else "")
        return Finding(what, "warning" if silent else "ok", heard, "is the microphone muted?" if silent else "")
    pixels = bgr(picture.pixels)
    height, width = pixels.shape[:2]
    dark = max(cv2.mean(pixels)) < 2.0
    return Finding(
        what,
        "warning" if dark else "ok",
        f"{source.shown_url}: {width}×{height}" + (", black" if dark else ""),
        "is the lens covered?" if dark else "",
    )
