"""What a daemon that only hears costs: `make bench-ears [ARGS="--device default --seconds 20 --json"]`.

A student of the default shape with random weights (right for cost, meaningless as a recogniser) listens without a gate,
two decisions a second, to 16 kHz sound in real time: a file, or with `--device` a microphone. Processor time from
/proc in the daemon's steady state, all its threads; the bars are 5% of one core and 100 MB.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench_daemon import Turn

CPU_BAR, RSS_BAR_MB = 0.05, 100.0


def build_student(path: Path) -> None:
    """Write a student of the default shape and front-end, with random weights."""
    import torch

    from distillnet.cloud.audio.lessons import FRONT_END
    from distillnet.cloud.audio.students import DsCnn, StudentShape
    from distillnet.cloud.export import golden_vectors, to_int8
    from distillnet.proto.archive import pack
    from distillnet.proto.card import Card, CardEvent, TeacherInfo

    torch.manual_seed(0)
    inputs = torch.randn(4, 1, FRONT_END.frames, FRONT_END.mel_bands)
    model = to_int8(DsCnn(StudentShape(), 6).eval(), inputs)
    card = Card(
        application="bench",
        events=[CardEvent(name=f"sound{i}", index=i, threshold=1.0, exit_threshold=1.0) for i in range(5)],
        other=5,
        input=FRONT_END,
        teacher=TeacherInfo(name="none", source="random weights"),
    )
    path.write_bytes(pack(model, card, golden_vectors(model, inputs.permute(0, 2, 3, 1).numpy())))


def build_sound(path: Path, seconds: int = 10) -> None:
    """Write noise at 16 kHz."""
    noise = np.random.default_rng(0).normal(0, 3000, 16000 * seconds).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(noise.tobytes())


def main() -> None:
    """Measure, print, and exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="a microphone: PortAudio's index, a part of its name, or default")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured, after some to settle [20]")
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="distillnet-ears-") as folder:
        place = Path(folder)
        build_student(place / "bench.tflite")
        build_sound(place / "noise.wav")
        source = (
            f'kind = "microphone"\nurl = "{given.device}"'
            if given.device
            else f'url = "{place}/noise.wav"\nloop = true'
        )
        config = place / "bench.device.toml"
        config.write_text(
            f'[device]\nname = "bench"\nstate_dir = "{place}"\n'
            f'[model]\napplication = "bench"\npath = "{place}/bench.tflite"\n'
            f'[[source]]\nid = "ears"\ngate = "off"\n{source}\n[[event]]\nname = "sound0"\n'
        )
        command = [sys.executable, "-c", "from distillnet.device.cli import main; main()", "run", str(config)]
        daemon = Turn(command, stderr=subprocess.STDOUT)
        try:
            figures = daemon.take(given.seconds)
        finally:
            said = daemon.end()
    heard = re.search(r"stopped: (\d+) frames, (\d+) dropped", said)
    if heard is None or int(heard[1]) < given.seconds:  # a piece is far less than a second
        sys.exit(f"the daemon heard next to nothing, so its cost means nothing:\n{said}")
    figures |= {"pieces": int(heard[1]), "dropped": int(heard[2])}
    if given.json:
        print(json.dumps(figures))  # noqa: T201
    else:
        print(f"CPU {figures['cpu_share']:.1%} of one core (at most {CPU_BAR:.0%})")  # noqa: T201
        print(f"RSS {figures['rss_mb']:.0f} MB (at most {RSS_BAR_MB:.0f} MB)")  # noqa: T201
        print(f"{figures['pieces']} pieces of sound heard, {figures['dropped']} dropped")  # noqa: T201
    sys.exit(figures["cpu_share"] > CPU_BAR or figures["rss_mb"] > RSS_BAR_MB)


if __name__ == "__main__":
    main()
