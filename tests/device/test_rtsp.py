"""A real RTSP server (GStreamer's) on loopback: frames come, its death is said, and the stream is taken up again."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distillnet.device.config import Source
from distillnet.device.feed import Feed
from distillnet.device.frames import Frame, Intake
from distillnet.device.telemetry import Telemetry

sys.path.insert(0, str(Path(__file__).parent))
from rtsp_server import PICTURES, Server, there

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def server(unused_port: int) -> Iterator[Server]:
    if not there():
        pytest.skip("gir1.2-gst-rtsp-server-1.0 is not installed: not shown that RTSP streams are watched")
    running = Server(unused_port, PICTURES)
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
        until(taken(50), 30, "what had piled up has passed, and some more")
        steps = [(late.t - early.t) * 15 for early, late in itertools.pairwise(frames[-15:])]
        assert all(abs(step - round(step)) < 0.15 for step in steps), "dated by the camera's stamps, not by arrival"
        server.kill()
        until(lambda: states[-1] == "error", 30, "its death is said")
        server.start()
        seen = len(frames)
        until(taken(seen + 10), 45, "frames come again")
        assert states[-1] == "online"
    finally:
        feed.stop()
        feed.join(10.0)
