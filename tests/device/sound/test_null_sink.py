"""A real PortAudio stream: a microphone that is the monitor of PulseAudio's null sink, into which a tone is played."""

import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pulse import Pulse, missing

pytestmark = pytest.mark.integration

LISTEN = """
import sys, time
import numpy as np
from distillnet.device.sound.readers import Microphone
microphone = Microphone("default", 10.0)
pieces = [microphone.read() for _ in range(10)]
time.sleep(5.0)  # nobody reads: the ring holds ten seconds
pieces += [microphone.read() for _ in range(60)]
microphone.close()
sound = np.concatenate([piece.samples for piece in pieces])
rate = pieces[0].rate_hz
spectrum = np.abs(np.fft.rfft(sound[-rate:] * np.hanning(rate)))
print(rate, len(sound), sum(piece.lost for piece in pieces), int(np.argmax(spectrum)), float(np.abs(sound).max()))
"""

PULLED = """
import sys, time
from distillnet.device.sound.readers import Microphone
from distillnet.engine.sound import SoundError
microphone = Microphone("default", 5.0)
assert microphone.read() is not None
print("hearing", flush=True)
sys.stdin.readline()  # the server is gone
while microphone.read() is not None:
    pass
microphone.close()
try:
    Microphone("default", 1.0)
except SoundError as exc:
    print("gone:", exc, flush=True)
sys.stdin.readline()  # it is back
again = Microphone("default", 10.0)
print("again", len(again.read().samples), flush=True)
again.close()
"""


@pytest.fixture
def pulse(tmp_path: Path) -> Iterator[Pulse]:
    if lack := missing():
        pytest.skip(f"a microphone through PortAudio is not shown: {lack}")
    server = Pulse(tmp_path)
    server.start()
    yield server
    server.stop()


def test_a_tone_played_is_heard_and_five_seconds_of_stall_lose_nothing(pulse: Pulse, tmp_path: Path) -> None:
    tone = (np.sin(np.arange(48000 * 40) * (2 * np.pi * 1000 / 48000)) * 12000).astype("<i2")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48000)
        file.writeframes(tone.tobytes())
    player = subprocess.Popen(["paplay", "--device=ears", str(tmp_path / "tone.wav")], env=pulse.environment)
    try:
        done = subprocess.run(
            [sys.executable, "-c", LISTEN],
            env=pulse.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        player.terminate()
        player.wait(10)
    assert done.returncode == 0, done.stderr
    rate, count, lost, hertz, loudest = done.stdout.split()[-5:]
    assert (int(rate), int(count), int(lost)) == (16000, 7 * 16000, 0)
    assert abs(int(hertz) - 1000) <= 2 and 0.2 < float(loudest) < 0.6


def test_a_microphone_that_is_pulled_out_and_put_back_is_heard_again(pulse: Pulse) -> None:
    listening = subprocess.Popen(
        [sys.executable, "-c", PULLED],
        env=pulse.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert listening.stdin is not None and listening.stdout is not None and listening.stderr is not None
    try:
        assert listening.stdout.readline() == "hearing\n", listening.stderr.read()
        pulse.stop()
        listening.stdin.write("\n")
        listening.stdin.flush()
        assert listening.stdout.readline().startswith("gone: microphone 'default'"), listening.stderr.read()
        pulse.start()
        said, complaints = listening.communicate("\n", timeout=60)
        assert said == "again 1600\n", complaints
    finally:
        listening.kill()
        listening.wait()
