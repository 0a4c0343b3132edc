"""The daemon with ears: one that only hears, and one that sees and hears, against a real broker."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillnet.device.config import DeviceConfig
from distillnet.device.daemon import Daemon
from distillnet.proto.mqtt import EventPayload

pytestmark = pytest.mark.integration

RULES = [{"name": name, "confirm": 2, "window": 3} for name in ("low", "high", "red")]
PARTS = [(1.0, 0.0), (2.0, 500.0), (1.5, 0.0), (2.0, 4000.0), (1.0, 0.0)]


def run(
    port: int, state: Path, model: dict[str, Any], sources: list[dict[str, Any]], **more: Any
) -> list[EventPayload]:
    document = {
        "device": {"name": "bench", "state_dir": str(state)},
        "model": model,
        "source": sources,
        "event": RULES,
        "mqtt": {"port": port, "home_assistant": False},
        **more,
    }
    events: list[EventPayload] = []
    Daemon(DeviceConfig.model_validate(document), tap=events.append).run()
    return events


def test_a_sound_stream_gives_its_events_each_time_alike(
    broker: Any, tmp_path: Path, tone_student: Path, make_wav: Callable[..., Path]
) -> None:
    sound = {"id": "yard", "url": str(make_wav(PARTS)), "pace": "fast"}
    model = {"application": "tones", "path": str(tone_student)}
    runs = [run(broker.port, tmp_path / f"state{turn}", model, [sound]) for turn in range(2)]
    stories = [[(event.event, event.phase, event.score) for event in events] for events in runs]
    assert stories[0] == stories[1]
    assert [(name, phase) for name, phase, _ in stories[0]] == [
        ("low", "new"),
        ("low", "end"),
        ("high", "new"),
        ("high", "end"),
    ]


def test_a_daemon_that_only_hears_never_loads_opencv(
    tmp_path: Path, tone_student: Path, make_wav: Callable[..., Path]
) -> None:
    (tmp_path / "ears.toml").write_text(
        f'[device]\nname = "bench"\nstate_dir = "{tmp_path}"\n[model]\napplication = "tones"\npath = "{tone_student}"\n'
        f'[[source]]\nid = "yard"\nurl = "{make_wav(PARTS)}"\npace = "fast"\n[[event]]\nname = "low"\n'
    )
    script = (
        "import sys; from pathlib import Path; from distillnet.device import config; "
        "from distillnet.device.daemon import Daemon; "
        "print(Daemon(config.load(Path(sys.argv[1]))).run().frames, 'cv2' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "ears.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["75", "False"]


def test_a_camera_and_a_microphone_in_one_daemon(
    broker: Any,
    tmp_path: Path,
    student_path: Path,
    tone_student: Path,
    video: Path,
    make_wav: Callable[..., Path],
) -> None:
    events = run(
        broker.port,
        tmp_path / "state",
        {"application": "colours", "path": str(student_path)},
        [
            {"id": "door", "url": str(video), "pace": "fast"},
            {"id": "yard", "url": str(make_wav(PARTS)), "pace": "fast"},
        ],
        sound_model={"application": "tones", "path": str(tone_student)},
    )
    seen = {(event.source, event.event) for event in events}
    assert {("yard", "low"), ("yard", "high")} <= seen
    assert any(source == "door" for source, _ in seen)
    assert not {("door", "low"), ("yard", "red")} & seen
    assert [event.seq for event in events] == list(range(len(events)))
    assert len({event.model_digest for event in events}) == 2
