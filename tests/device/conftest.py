"""A real int8 student, real videos and a real broker for the device's tests."""

import getpass
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest

from distillnet.engine import load
from distillnet.proto.archive import pack
from distillnet.proto.card import Card, CardEvent, ImageInput, TeacherInfo

SIDE = 32
GREY, RED, GREEN = (90, 90, 90), (20, 20, 230), (20, 230, 20)  # BGR
FPS = 20
_MOSQUITTO = next((path for path in (Path("/usr/sbin/mosquitto"), Path("/usr/bin/mosquitto")) if path.exists()), None)


def card(*events: str, version: int = 1, application: str = "colours") -> Card:
    return Card(
        application=application,
        version=version,
        events=[CardEvent(name=name, index=i, threshold=0.6, exit_threshold=0.4) for i, name in enumerate(events)],
        other=len(events),
        input=ImageInput(height=SIDE, width=SIDE, mean=0.0, scale=255.0),
        teacher=TeacherInfo(name="hand-made", source="tests"),
    )


def golden_of(model: bytes) -> bytes:
    import io

    loaded = load(model, "litert")
    inputs = np.random.default_rng(1).integers(-128, 128, (2, SIDE, SIDE, 3), dtype=np.int8)
    outputs = np.stack([loaded.run_tensor(x[np.newaxis]).reshape(-1) for x in inputs])
    buffer = io.BytesIO()
    np.savez(buffer, inputs=inputs, outputs=outputs)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def colour_model(pytestconfig: pytest.Config) -> bytes:
    """An int8 .tflite (1, 32, 32, 3) → red, green, other: the mean colour decides. Built once, then cached."""
    path = pytestconfig.cache.mkdir("distillnet-device") / "colours-1.tflite"
    if not path.exists():
        partial = path.with_suffix(f".{time.monotonic_ns()}")
        partial.write_bytes(build_colour_model(path.parent))
        partial.replace(path)
    return path.read_bytes()


def build_colour_model(directory: Path) -> bytes:
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe

    class Colours(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blur = torch.nn.Conv2d(3, 3, 3, stride=2, padding=1, bias=False)
            self.head = torch.nn.Linear(3, 3)
            with torch.no_grad():
                self.blur.weight.zero_()
                for channel in range(3):
                    self.blur.weight[channel, channel] = 1 / 9
                self.head.weight.copy_(torch.tensor([[16.0, -10, -10], [-10, 16, -10], [0, 0, 0]]))
                self.head.bias.copy_(torch.tensor([-5.0, -5.0, 0.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.blur(x)).mean((2, 3)))

    example = torch.rand(1, SIDE, SIDE, 3)
    net = litert_torch.to_channel_last_io(Colours().eval(), args=[0])
    float_path = directory / "colours-float.tflite"
    litert_torch.convert(net, (example,)).export(str(float_path))
    rng = np.random.default_rng(0)
    plain = [np.broadcast_to(np.array(rgb, np.float32), (1, SIDE, SIDE, 3)) for rgb in np.eye(3).tolist()]
    noise = [rng.random((1, SIDE, SIDE, 3), dtype=np.float32) for _ in range(3)]
    tool = quantizer.Quantizer(str(float_path), recipe.static_wi8_ai8())
    calibration = {"serving_default": [{"args_0": np.ascontiguousarray(x)} for x in plain + noise]}
    result = tool.quantize(tool.calibrate(calibration))
    data = bytes(result.quantized_model)
    float_path.unlink()
    return data


@pytest.fixture(scope="session")
def student_bytes(colour_model: bytes) -> bytes:
    return pack(colour_model, card("red", "green"), golden_of(colour_model))


@pytest.fixture(scope="session")
def other_student_bytes(colour_model: bytes) -> bytes:
    """The next version: `green` has gone, `leaf` has come."""
    return pack(colour_model, card("red", "leaf", version=2), golden_of(colour_model))


@pytest.fixture
def student_path(student_bytes: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "colours.tflite"
    path.write_bytes(student_bytes)
    return path


Episode = tuple[int, int, tuple[int, int, int]]
"""First frame, end frame, BGR."""


def colour_frame(colour: tuple[int, int, int], index: int, size: tuple[int, int] = (160, 120)) -> np.ndarray:
    """uint8 (H, W, 3): a plain colour with a little deterministic noise."""
    rng = np.random.default_rng(index)
    noise = rng.integers(-8, 9, (size[1], size[0], 1))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def write_video(path: Path, frames: int, episodes: list[Episode], size: tuple[int, int] = (160, 120)) -> Path:
    """A real MPEG-4 file at 20 frames a second: grey, with coloured episodes."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, size)
    assert writer.isOpened()
    for index in range(frames):
        colour = next((c for first, end, c in episodes if first <= index < end), GREY)
        writer.write(colour_frame(colour, index, size))
    writer.release()
    return path


class PersistentSubscriber:
    """A subscriber whose session the broker keeps while it is away: it loses nothing either."""

    def __init__(self, port: int, topic: str) -> None:
        self.events: list[dict[str, Any]] = []
        connected = threading.Event()
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, "kept", clean_session=False, protocol=paho.MQTTv311
        )
        self._client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
        self._client.on_message = lambda c, u, message: self.events.append(json.loads(message.payload))
        self._client.on_subscribe = lambda *_: connected.set()
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(topic, qos=1)
        self._client.loop_start()
        assert connected.wait(10)

    def seqs(self) -> set[int]:
        return {event["seq"] for event in list(self.events)}

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def persistent_subscriber(broker: "Broker") -> Iterator[Callable[[str], PersistentSubscriber]]:
    """`persistent_subscriber(topic)`."""
    made: list[PersistentSubscriber] = []

    def make(topic: str) -> PersistentSubscriber:
        made.append(PersistentSubscriber(broker.port, topic))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """`make_video(name, frames, episodes)`: see `write_video`."""
    return lambda name, frames, episodes, **options: write_video(tmp_path / name, frames, episodes, **options)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Five seconds: red from 1 s to 2 s, green from 3 s to 4 s."""
    return write_video(tmp_path / "colours.mp4", 100, [(20, 40, RED), (60, 80, GREEN)])


@dataclass
class Broker:
    """A Mosquitto that tests may stop and start again."""

    port: int
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, extra: str = "allow_anonymous true\n") -> None:
        config = self.directory / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\n{extra}max_queued_messages 0\nmax_inflight_messages 0\n"
            f"user {getpass.getuser()}\npersistence true\npersistence_location {self.directory}/\n"
        )
        self.process = subprocess.Popen(
            [str(_MOSQUITTO), "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._listens, 10.0, "mosquitto listens")

    def stop(self) -> None:
        """End it as `systemctl restart` does: it keeps its sessions and what is queued for them."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def unused_port() -> int:
    return free_port()


@pytest.fixture
def until() -> Callable[[Callable[[], bool], float, str], None]:
    """`until(condition, timeout_s, what)`: wait, or fail naming what did not happen."""
    return wait_until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if _MOSQUITTO is None:
        pytest.skip("Mosquitto is not installed: not shown that events cross a real broker")
    running = Broker(free_port(), tmp_path)
    running.start()
    yield running
    running.kill()
