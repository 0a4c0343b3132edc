"""Live streams over a real HTTP server: they break, hang, change size, send garbage, go black, and come back."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from distillnet.device.config import Source
from distillnet.device.feed import Feed
from distillnet.device.frames import Frame, Intake
from distillnet.device.telemetry import Telemetry

pytestmark = pytest.mark.integration


def jpeg(level: int, size: tuple[int, int] = (160, 120)) -> bytes:
    picture = np.full((size[1], size[0], 3), level, np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


class Camera:
    """An MJPEG camera whose behaviour a test sets while it runs."""

    def __init__(self) -> None:
        self.part = jpeg(100)
        self.connections = 0
        self.cut = self.hang = False
        self._over = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.connections += 1
                camera.cut = False
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    while not camera.cut and not camera._over.wait(0.03):
                        if not camera.hang:
                            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(camera.part)}\r\n\r\n"
                            self.wfile.write(head.encode() + camera.part + b"\r\n")
                except OSError:
                    return

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/video.mjpg"

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


class Watched:
    """A feed of a camera, and what it said and gave."""

    def __init__(self, url: str, *, stall_s: float = 1.0) -> None:
        self.states: list[str] = []
        self.frames: list[Frame] = []
        intake = Intake()
        intake.open()
        source = Source(id="cam", url=url, kind="stream", stall_s=stall_s)
        self._feed = Feed(source, intake, Telemetry(), lambda _, state, reason: self.states.append(f"{state} {reason}"))
        self._over = threading.Event()
        self._feed.start()

        def drain() -> None:
            while not self._over.is_set():
                if (frame := intake.get(0.05)) is not None:
                    self.frames.append(frame)
                self._feed.watch()

        threading.Thread(target=drain, daemon=True).start()

    def close(self) -> None:
        self._feed.stop()
        self._over.set()


@pytest.fixture
def camera() -> Iterator[Camera]:
    one = Camera()
    yield one
    one.close()


@pytest.fixture
def watch() -> Iterator[Callable[[str], Watched]]:
    made: list[Watched] = []

    def start(url: str) -> Watched:
        made.append(Watched(url))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_frames_carry_the_time_they_came(
    camera: Camera, watch: Callable[[str], Watched], until: Callable[..., None]
) -> None:
    watched = watch(camera.url)
    until(lambda: len(watched.frames) >= 10, 15, "ten frames")
    assert watched.states == ["online "]
    assert abs(watched.frames[-1].ts - time.time()) < 2
    t = [frame.t for frame in watched.frames]
    assert t == sorted(t)
    assert abs(float(watched.frames[0].pixels.mean()) - 100) < 3


def test_a_stream_that_breaks_is_opened_again(
    camera: Camera, watch: Callable[[str], Watched], until: Callable[..., None]
) -> None:
    watched = watch(camera.url)
    until(lambda: len(watched.frames) >= 3, 15, "frames")
    camera.cut = True
    until(lambda: camera.connections >= 2 and watched.states[-1] == "online ", 15, "it comes back")
    assert watched.states == ["online ", "error the stream ended", "online "]


def test_a_stream_that_hangs_is_said_to_stall_and_recovers(
    camera: Camera, watch: Callable[[str], Watched], until: Callable[..., None]
) -> None:
    watched = watch(camera.url)
    until(lambda: len(watched.frames) >= 3, 15, "frames")
    camera.hang = True
    until(
        lambda: "stalled no frame for 1 s" in watched.states or "error the stream ended" in watched.states, 10, "said"
    )
    camera.hang = False
    until(lambda: watched.states[-1] == "online ", 15, "it comes back")


def test_another_size_and_garbage_between_pictures_do_no_harm(
    camera: Camera, watch: Callable[[str], Watched], until: Callable[..., None]
) -> None:
    watched = watch(camera.url)
    until(lambda: len(watched.frames) >= 3, 15, "frames")
    camera.part = np.random.default_rng(0).bytes(3000)
    time.sleep(0.5)
    camera.part = jpeg(200, (320, 240))
    until(lambda: watched.frames[-1].pixels.mean() > 190, 20, "bright frames after the garbage")
    assert watched.states[-1] == "online "


def test_a_black_picture_is_said(camera: Camera, watch: Callable[[str], Watched], until: Callable[..., None]) -> None:
    watched = watch(camera.url)
    until(lambda: len(watched.frames) >= 3, 15, "frames")
    camera.part = jpeg(0)
    until(lambda: watched.states[-1].startswith("stalled the picture is black"), 10, "black is said")
    camera.part = jpeg(100)
    until(lambda: watched.states[-1] == "online ", 10, "light again")
