"""`distillnet demo` does what the README promises: the main job, end to end, on real input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

DISTILLNET = str(Path(sys.executable).with_name("distillnet"))
KEYS = {
    "seconds", "events", "student_bytes", "teacher_bytes", "student_latency_ms", "teacher_latency_ms", "speedup",
    "agreement", "updates_applied", "frames", "frames_dropped", "report",
}  # fmt: skip

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_demo_distils_publishes_runs_and_updates(tmp_path: Path) -> None:
    done = subprocess.run(
        [DISTILLNET, "demo", "--json", "--out", str(tmp_path / "demo")], capture_output=True, text=True, timeout=840
    )
    assert done.returncode == 0, done.stderr[-4000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert set(facts) == KEYS
    assert facts["events"] >= 3
    assert facts["updates_applied"] == 2
    assert facts["frames"] > 0
    assert facts["frames_dropped"] == 0
    assert facts["speedup"] >= 8
    assert facts["agreement"] >= 0.9
    assert facts["student_bytes"] < facts["teacher_bytes"]
    assert "<html" in Path(facts["report"]).read_text()[:500].lower()
    assert processes_in(tmp_path) == []


def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [DISTILLNET, "demo", "--out", str(tmp_path / "demo")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=hear_ctrl_c,
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith(b"[2/6]"):
                break
        time.sleep(5.0)  # well inside the distillation, a child of its own
        assert processes_in(tmp_path)
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read().decode()
        assert demo.wait(30) == 130, rest
    assert "interrupted" in rest
    assert processes_in(tmp_path) == []


def hear_ctrl_c() -> None:
    """Undo what a shell does to whatever it runs in the background, these tests perhaps."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def processes_in(directory: Path) -> list[str]:
    """Return the command lines of processes that were told of `directory`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(directory) in word for word in words):
            found.append(" ".join(words))
    return found
