"""The device's commands: right facts on stdout, clear messages and exit status 2 for what is wrong."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from distillnet.device.cli import main


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def distillnet(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run the command line in this process."""

    def run(*arguments: object, check: bool = True) -> Done:
        monkeypatch.setattr(sys, "argv", ["distillnet", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as exc:
            code = int(exc.code or 0)
        done = Done(code, *capfd.readouterr())
        assert not check or code == 0, done.stderr
        return done

    return run


Run = Callable[..., Done]


def device_file(directory: Path, student: Path, video: Path, extra: str = "") -> Path:
    path = directory / "device.toml"
    path.write_text(
        f'[device]\nname = "bench"\nstate_dir = "{directory / "state"}"\n'
        f'[model]\napplication = "colours"\npath = "{student}"\n'
        f'[mqtt]\nport = 1\n[[source]]\nid = "desk"\nurl = "{video}"\n{extra}'
    )
    return path


@pytest.fixture
def config(tmp_path: Path, student_path: Path, video: Path) -> Path:
    return device_file(tmp_path, student_path, video)


def test_replay_and_score(distillnet: Run, config: Path, video: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text(distillnet("replay", "desk", "--config", config, "--json").stdout)
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"event": "red", "fps": 20, "frames": 100, "episodes": {"desk": [[20, 40]]}}))
    facts = json.loads(distillnet("score", events, truth, "--json").stdout)
    assert (facts["recall"], facts["false_alarms"], facts["within_tolerance"]) == (1.0, 0, 1)


def test_snapshot_shows_zones_and_scores(distillnet: Run, config: Path, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    facts = json.loads(distillnet("snapshot", config, "-o", picture, "--skip", 25, "--json").stdout)
    assert facts["scores"][""]["red"] > 0.9
    assert picture.stat().st_size > 1000


def test_doctor_names_what_is_wrong_and_what_to_do(distillnet: Run, config: Path) -> None:
    done = distillnet("doctor", config, "--json", check=False)
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert findings["broker"]["verdict"] == "wrong" and findings["broker"]["advice"]
    wrong = [what for what, finding in findings.items() if finding["verdict"] == "wrong"]
    assert wrong == ["broker"]
    assert "golden vectors agree" in findings["student"]["found"]
    assert re.search(r"an inference takes [\d.e-]+ ms here", findings["student"]["found"])
    assert "accelerators" in findings


def test_check_config_accepts_a_device_file(distillnet: Run, config: Path) -> None:
    assert "device file of 'bench'" in distillnet("check-config", config).stdout


EAR = '[[source]]\nid = "ear"\nkind = "sound"\nurl = "tcp://host:1?rate=8000"\n'


def broken(config: Path, old: str, new: str) -> Path:
    path = config.with_name("broken.toml")
    path.write_text(config.read_text().replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("port = 1", "prot = 1", "unknown key 'prot' in mqtt; did you mean 'port'?"),
        ("colours.mp4", "gone.mp4", "does not exist"),
        ("colours.tflite", "gone.tflite", "model.path"),
        ('"desk"', '"Desk!"', "source[0].id"),
        (
            "[mqtt]",
            '[[event]]\nname = "red"\nhours = [["8:00", "9:00"]]\n[mqtt]',
            "a time of day is written HH:MM, 00:00 to 24:00",
        ),
        ("[mqtt]", EAR + "[mqtt]", "does not know 'rate'; a PCM stream has rate_hz, channels, format"),
        ("[mqtt]", "[mqtt", "is not valid TOML"),
    ],
)
def test_broken_configurations_exit_2_and_say_why(
    distillnet: Run, config: Path, old: str, new: str, message: str
) -> None:
    for command in ("check-config", "run"):
        done = distillnet(command, broken(config, old, new), check=False)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_a_corrupt_student_is_refused(distillnet: Run, config: Path, student_path: Path) -> None:
    student_path.write_bytes(student_path.read_bytes()[:3000])
    done = distillnet("run", config, check=False)
    assert done.returncode == 2
    assert "colours.tflite" in done.stderr and "archive" in done.stderr


def test_a_student_for_another_application_is_refused(distillnet: Run, config: Path) -> None:
    done = distillnet("run", broken(config, 'application = "colours"', 'application = "birds"'), check=False)
    assert done.returncode == 2
    assert "'birds'" in done.stderr and "'colours'" in done.stderr


def test_every_command_shows_an_example(distillnet: Run) -> None:
    for command in ("run", "watch", "replay", "score", "check-config", "doctor", "status", "snapshot"):
        assert "Example: distillnet" in distillnet(command, "--help").stdout


def test_a_daemon_that_takes_no_updates_carries_no_updater() -> None:
    """TUF, gRPC and cryptography are 35 MB and half a second that a board without a fleet need not spend."""
    look = (
        "import sys, typer\n"
        "from distillnet.device.commands import register\n"
        "register(typer.Typer())\n"
        "import distillnet.device.daemon\n"
        "print(*sorted({'tuf', 'grpc', 'cryptography', 'torch', 'requests'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
