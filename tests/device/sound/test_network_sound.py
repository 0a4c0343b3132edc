"""Sound from the network: raw PCM over TCP and UDP, and through ffmpeg, from servers that are really there."""

import functools
import http.server
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rtsp_server import Server, there

from distillnet.device.config import Source
from distillnet.device.feed import Feed
from distillnet.device.frames import Chunk, Intake
from distillnet.device.readers import SourceError, check, kind_of, open_reader
from distillnet.device.sound.network import NetworkSound
from distillnet.device.telemetry import Telemetry
from distillnet.engine.sound import SoundError

SECOND = np.sin(np.arange(16000) * (2 * np.pi * 1000 / 16000))


def served(data: bytes) -> str:
    """A server that sends this once and closes."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening, listening.accept()[0] as connection:
            connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    return f"tcp://127.0.0.1:{listening.getsockname()[1]}"


def everything(reader: NetworkSound) -> np.ndarray:
    pieces = []
    while (piece := reader.read()) is not None:
        assert piece.lost == 0
        pieces.append(piece.samples)
    reader.close()
    return np.concatenate(pieces)


@pytest.mark.parametrize(
    ("name", "dtype", "scale"), [("s16le", "<i2", 20000), ("s16be", ">i2", 20000), ("f32le", "<f4", 0.5)]
)
def test_pcm_over_tcp_in_any_format(name: str, dtype: str, scale: float) -> None:
    reader = NetworkSound(served((SECOND * scale).astype(dtype).tobytes()) + f"?format={name}", 5.0)
    sound = everything(reader)
    full = 1.0 if name == "f32le" else 32768.0
    np.testing.assert_allclose(sound, SECOND * scale / full, atol=2 / 32768)


def test_stereo_becomes_the_mean_and_its_rate_is_known() -> None:
    both = np.stack([np.full(4800, 8000), np.full(4800, 16000)], 1).astype("<i2")
    reader = NetworkSound(served(both.tobytes()) + "?rate_hz=48000&channels=2", 5.0)
    assert reader.rate_hz == 48000
    np.testing.assert_allclose(everything(reader), 12000 / 32768, rtol=1e-6)


def test_what_is_not_finite_is_silence() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 0.25] * 400, "<f4")
    sound = everything(NetworkSound(served(values.tobytes()) + "?format=f32le", 5.0))
    assert np.isfinite(sound).all() and sound.max() == 0.25


def test_pcm_over_udp(unused_port: int) -> None:
    stop = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.wait(0.02):
                sender.sendto((SECOND[:320] * 9000).astype("<i2").tobytes(), ("127.0.0.1", unused_port))

    threading.Thread(target=send, daemon=True).start()
    try:
        reader = NetworkSound(f"udp://127.0.0.1:{unused_port}", 5.0)
        pieces = [reader.read() for _ in range(3)]
        reader.close()
    finally:
        stop.set()
    assert all(piece is not None and 0.2 < np.abs(piece.samples).max() < 0.3 for piece in pieces)


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("?rate=16000", "does not know 'rate'"),
        ("?format=mp3", "format 'mp3' is none of"),
        ("?channels=0", "1–64 channels; got 16000 and 0"),
        ("?rate_hz=fast", "whole numbers"),
    ],
)
def test_a_broken_description_says_what_is_known(query: str, part: str) -> None:
    with pytest.raises(SoundError, match=part):
        NetworkSound("tcp://127.0.0.1:1" + query, 1.0)


def test_nobody_there_nothing_said_and_no_port_are_told_apart(unused_port: int) -> None:
    with pytest.raises(SoundError, match="Connection refused"):
        NetworkSound(f"tcp://127.0.0.1:{unused_port}", 1.0)
    with pytest.raises(SoundError, match=r"no sound in 0.1 s|timed out"):
        NetworkSound(f"udp://127.0.0.1:{unused_port}", 0.1)
    with pytest.raises(SoundError, match="expected tcp://HOST:PORT"):
        NetworkSound("tcp://127.0.0.1", 1.0)


def test_a_stream_is_live_and_is_not_looked_for_as_a_file() -> None:
    source = Source(id="yard", kind="sound", url="rtsp://user:secret@127.0.0.1:1/door")
    assert kind_of(source) == "sound-stream"
    check(source)  # it may come later
    assert kind_of(Source(id="yard", kind="sound", url="yard.wav")) == "sound"


@pytest.fixture
def decoder() -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed: not shown that the sound of cameras is heard")


def test_what_ffmpeg_cannot_open_is_said_without_the_password(decoder: None, unused_port: int) -> None:
    source = Source(id="yard", kind="sound", url=f"http://user:secret@127.0.0.1:{unused_port}/a.mp3")
    with pytest.raises(SourceError, match="refused") as caught:
        open_reader(source, read_timeout_s=20.0)
    assert "secret" not in str(caught.value)


def test_a_web_stream_is_decoded(decoder: None, make_wav: Callable[..., Path]) -> None:
    path = make_wav([(1.0, 1000.0)])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sound = everything(NetworkSound(f"http://127.0.0.1:{server.server_address[1]}/{path.name}", 20.0))
        server.shutdown()
    assert abs(len(sound) - 16000) < 200
    assert abs(int(np.argmax(np.abs(np.fft.rfft(sound, 16000)))) - 1000) <= 2


@pytest.fixture
def camera(unused_port: int) -> Iterator[Server]:
    if not there():
        pytest.skip("gir1.2-gst-rtsp-server-1.0 is not installed: not shown that the sound of RTSP cameras is heard")
    tone = (
        "( audiotestsrc is-live=true freq=1000 ! audio/x-raw,format=S16BE,rate=16000,channels=1 ! rtpL16pay name=pay0 )"
    )
    running = Server(unused_port, tone)
    running.start()
    yield running
    running.kill()


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_an_rtsp_camera_is_heard_and_heard_again_after_it_was_gone(
    decoder: None, camera: Server, until: Callable[..., None]
) -> None:
    intake, states, chunks = Intake(), [], []
    intake.open()
    source = Source(id="yard", kind="sound", url=camera.url, stall_s=5)
    feed = Feed(source, intake, Telemetry(), lambda _, state, why: states.append(state))

    def heard(count: int) -> Callable[[], bool]:
        def enough() -> bool:
            if (chunk := intake.get(0.05)) is not None:
                chunks.append(chunk)
            return len(chunks) >= count

        return enough

    feed.start()
    try:
        until(heard(12), 30, "sound comes")
        assert all(isinstance(chunk, Chunk) and chunk.rate_hz == 16000 for chunk in chunks)
        sound = np.concatenate([chunk.samples for chunk in chunks[2:12]])
        assert abs(int(np.argmax(np.abs(np.fft.rfft(sound, 16000)))) - 1000) <= 2
        camera.kill()
        until(lambda: states[-1] == "error", 30, "its death is said")
        camera.start()
        seen = len(chunks)
        until(heard(seen + 5), 45, "sound comes again")
    finally:
        feed.stop()
        feed.join(10.0)
