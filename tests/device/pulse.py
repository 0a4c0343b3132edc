"""A microphone for tests: the monitor of PulseAudio's null sink, to which ALSA's default device is led."""

import os
import shutil
import subprocess
import time
from pathlib import Path


class Pulse:
    """PulseAudio with a null sink of its own, and ALSA's default device led to it."""

    def __init__(self, folder: Path) -> None:
        (folder / "alsa.conf").write_text("pcm.!default { type pulse }\nctl.!default { type pulse }\n")
        self._socket = folder / "pulse.socket"
        self.environment = os.environ | {
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_SERVER": f"unix:{self._socket}",
            "PULSE_SOURCE": "ears.monitor",
            "ALSA_CONFIG_PATH": f"/usr/share/alsa/alsa.conf:{folder}/alsa.conf",
        }

    def start(self) -> None:
        listen = f"module-native-protocol-unix auth-anonymous=1 socket={self._socket}"
        loads = [f"--load={module}" for module in (listen, "module-null-sink sink_name=ears")]
        self._server = subprocess.Popen(
            ["pulseaudio", "-n", "--exit-idle-time=-1", "--daemonize=no", *loads],
            env={key: value for key, value in self.environment.items() if key != "PULSE_SERVER"},
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not self._socket.exists() and time.monotonic() < deadline:
            assert self._server.poll() is None, "pulseaudio ended"
            time.sleep(0.05)

    def stop(self) -> None:
        self._server.terminate()
        self._server.wait(10)


def missing() -> str:
    """Return what is not installed; empty where everything is."""
    try:
        import sounddevice  # noqa: F401 - PortAudio is there
    except (ImportError, OSError) as exc:
        return str(exc)
    for command, package in (("pulseaudio", "pulseaudio"), ("paplay", "pulseaudio-utils")):
        if shutil.which(command) is None:
            return f"apt install {package} libasound2-plugins"
    plugins = list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so"))
    return "" if plugins else "apt install libasound2-plugins"
