"""A real PortAudio stream: a microphone that is the monitor of PulseAudio's null sink, into which a tone is played."""

import os
import shutil
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

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


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """PulseAudio with a null sink of its own, and ALSA's default device led to it."""
    try:
        import sounddevice  # noqa: F401 - PortAudio is there
    except (ImportError, OSError) as exc:
        pytest.skip(f"a microphone through PortAudio is not shown: {exc}")
    for command, package in (("pulseaudio", "pulseaudio"), ("paplay", "pulseaudio-utils")):
        if shutil.which(command) is None:
            pytest.skip(f"a microphone through PortAudio is not shown: apt install {package} libasound2-plugins")
    if not list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so")):
        pytest.skip("a microphone through PortAudio is not shown: apt install libasound2-plugins")
    (tmp_path / "alsa.conf").write_text("pcm.!default { type pulse }\nctl.!default { type pulse }\n")
    socket = tmp_path / "pulse.socket"
    values = os.environ | {
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "PULSE_SERVER": f"unix:{socket}",
        "PULSE_SOURCE": "ears.monitor",
        "ALSA_CONFIG_PATH": f"/usr/share/alsa/alsa.conf:{tmp_path}/alsa.conf",
    }
    loaded = [f"module-native-protocol-unix auth-anonymous=1 socket={socket}", "module-null-sink sink_name=ears"]
    server = subprocess.Popen(
        ["pulseaudio", "-n", "--exit-idle-time=-1", "--daemonize=no", *(f"--load={module}" for module in loaded)],
        env={key: value for key, value in values.items() if key != "PULSE_SERVER"},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while not socket.exists() and time.monotonic() < deadline:
            assert server.poll() is None, "pulseaudio ended"
            time.sleep(0.05)
        yield values
    finally:
        server.terminate()
        server.wait(10)


def test_a_tone_played_is_heard_and_five_seconds_of_stall_lose_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    tone = (np.sin(np.arange(48000 * 40) * (2 * np.pi * 1000 / 48000)) * 12000).astype("<i2")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48000)
        file.writeframes(tone.tobytes())
    player = subprocess.Popen(["paplay", "--device=ears", str(tmp_path / "tone.wav")], env=environment)
    try:
        done = subprocess.run(
            [sys.executable, "-c", LISTEN], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        player.terminate()
        player.wait(10)
    assert done.returncode == 0, done.stderr
    rate, count, lost, hertz, loudest = done.stdout.split()[-5:]
    assert (int(rate), int(count), int(lost)) == (16000, 7 * 16000, 0)
    assert abs(int(hertz) - 1000) <= 2 and 0.2 < float(loudest) < 0.6
