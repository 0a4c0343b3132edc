"""GStreamer's RTSP server on loopback, playing what a test says; `there()` tells whether it is installed."""

import shutil
import subprocess

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
factory.set_launch(sys.argv[2])
factory.set_shared(True)
server.get_mount_points().add_factory("/door", factory)
server.attach(None)
print("up", flush=True)
GLib.MainLoop().run()
"""

PICTURES = (
    "( videotestsrc is-live=true ! video/x-raw,format=I420,width=160,height=120,framerate=15/1"
    " ! jpegenc ! rtpjpegpay name=pay0 )"
)


class Server:
    """A camera that can be switched off and on."""

    def __init__(self, port: int, launch: str) -> None:
        self._launch = launch
        self.url = f"rtsp://127.0.0.1:{port}/door"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [_PYTHON, "-c", _SERVER, str(self._port), self._launch], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None and self._process.stdout.readline() == b"up\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def there() -> bool:
    return bool(shutil.which(_PYTHON)) and subprocess.run([_PYTHON, "-c", _IMPORT], check=False).returncode == 0
