"""A real RTSP server (GStreamer's) on loopback: frames come, its death is said, and the stream is taken up again."""

import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from distillnet.device.config import Source
from distillnet.device.feed import Feed
from distillnet.device.frames import Frame, Intake
from distillnet.device.telemetry import Telemetry

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_PYTHON = "/usr/bin/python3"
"""The system's, for which Debian packages GStreamer's server."""
_IMPORT = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
"""
_SERVER = f"""
import sys
{_IMPORT}
Gst.init(None)
server, factory = GstRtspServer.RTSPServer(), GstRtspServer.RTSPMediaFactory()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory.set_launch(
    "( videotestsrc is-live=true ! video/x-raw,format=I420,width=160,height=120,framerate=15/1"
    " ! jpegenc ! rtpjpegpay name=pay0 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/door", factory)
server.attach(None)
print("up", flush=True)
GLib.MainLoop().run()
"""


class Server:
    """A camera that can be switched off and on."""

    def __init__(self, port: int) -> None:
        self.url = f"rtsp://127.0.0.1:{port}/door"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([_PYTHON, "-c", _SERVER, str(self._port)], stdout=subprocess.PIPE)
        assert self._process.stdout is not None and self._process.stdout.readline() == b"up\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def server(unused_port: int) -> Iterator[Server]:
    there = shutil.which(_PYTHON) and subprocess.run([_PYTHON, "-c", _IMPORT], capture_output=True, check=False)
    if not there or there.returncode != 0:
        pytest.skip("gir1.2-gst-rtsp-server-1.0 is not installed: not shown that RTSP streams are watched")
    running = Server(unused_port)
    running.start()
    yield running
    running.kill()


def test_an_rtsp_stream_is_watched_and_taken_up_again_after_its_server_died(
    server: Server, until: Callable[..., None]
) -> None:
    intake, states, frames = Intake(), [], []
    intake.open()

    def taken(count: int) -> Callable[[], bool]:
        def enough() -> bool:
            if (frame := intake.get(0.05)) is not None:
                frames.append(frame)
            return len(frames) >= count

        return enough

    feed = Feed(
        Source(id="door", url=server.url, stall_s=3), intake, Telemetry(), lambda _, state, why: states.append(state)
    )
    feed.start()
    try:
        until(taken(10), 30, "frames come")
        assert isinstance(frames[0], Frame) and frames[0].pixels.shape == (120, 160, 3)
        assert all(late.ts > early.ts for early, late in itertools.pairwise(frames))
        server.kill()
        until(lambda: states[-1] == "error", 30, "its death is said")
        server.start()
        seen = len(frames)
        until(taken(seen + 10), 45, "frames come again")
        assert states[-1] == "online"
    finally:
        feed.stop()
        feed.join(10.0)
