"""The aarch64 wheel under qemu-user: what a board computes is what x86 computes, to the last bit.

Short by default (one processor); `make test-arm` takes all three. The arm64 root and the wheels stay under build/.
"""

import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import arm_board
import debian_archive
import pytest
import wheelhouse

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(900)]
CPUS = os.environ.get("DISTILLNET_ARM_CPUS", "cortex-a72").split(",")
ROOT = Path(__file__).parents[2]
DEVICE = [f"tests/proto/test_{name}.py" for name in ("archive", "card", "mqtt_contract", "strict")]
DEVICE += [f"tests/device/test_{name}.py" for name in ("decide", "gate", "outbox")]
DEVICE += [f"tests/engine/test_{name}.py" for name in ("preprocess", "frontend", "sound")]
PYTEST = """
import sys, pytest
from hypothesis import settings
settings.register_profile("emulated", deadline=None, max_examples=10)
settings.load_profile("emulated")
sys.exit(pytest.main(sys.argv[1:]))
"""
OUTPUTS = """
import hashlib, sys
import numpy as np
from distillnet.engine import load
from distillnet.proto.archive import unpack
model = load(unpack(open(sys.argv[1], "rb").read()).model, "native")
shape = model.info["input"]["shape"]
rng = np.random.default_rng(7)
digest = hashlib.sha256()
for _ in range(50):
    digest.update(model.run_tensor(rng.integers(-128, 128, shape, dtype=np.int8)).tobytes())
print(model.info["kernels"], digest.hexdigest())
"""


@pytest.fixture(scope="module", autouse=True)
def board() -> None:
    if reason := arm_board.why_not():
        pytest.skip(f"{reason}: not shown that a board computes what x86 computes")
    try:
        arm_board.install()
    except (debian_archive.ArchiveError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"{exc}: not shown that a board computes what x86 computes")


@pytest.fixture(scope="module")
def pyav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The board's PyAV, the extra `video`, in a folder of its own."""
    place = tmp_path_factory.mktemp("pyav")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["video"]
    subprocess.run([*wheelhouse.pip("install", "aarch64"), "--target", str(place), "--no-deps", *extra], check=True)
    imported = arm_board.run(program="import av", also=place)
    assert imported.returncode == 0, imported.stderr
    return place


def _here(*arguments: str, pyav: bool) -> str:
    """Run a command on this machine, without PyAV where the board has none: it decodes videos otherwise."""
    program = arm_board.COMMAND if pyav else f"import sys; sys.modules['av'] = None; {arm_board.COMMAND}"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("cpu", CPUS)
def test_the_engine_gives_the_same_outputs(cpu: str, student: Path) -> None:
    here = subprocess.run([sys.executable, "-c", OUTPUTS, str(student)], capture_output=True, text=True, check=True)
    there = arm_board.run(str(student), cpu=cpu, program=OUTPUTS)
    assert there.returncode == 0, there.stderr
    assert there.stdout.split()[1] == here.stdout.split()[1], f"{here.stdout} against {cpu}: {there.stdout}"


@pytest.mark.parametrize("cpu", CPUS)
def test_doctor_finds_nothing_wrong(cpu: str) -> None:
    done = arm_board.run("doctor", cpu=cpu)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "aarch64" in done.stdout


@pytest.mark.parametrize("cpu", CPUS)
def test_replay_of_pictures_gives_the_same_event_lines(cpu: str, student: Path, pictures: Path) -> None:
    _replay_is_equal(cpu, student, pictures)


@pytest.mark.parametrize("cpu", CPUS)
def test_replay_of_a_video_gives_the_same_event_lines(cpu: str, student: Path, video: Path) -> None:
    _replay_is_equal(cpu, student, video)


@pytest.mark.parametrize("cpu", CPUS)
def test_replay_of_a_video_by_pyav_gives_the_same_event_lines(cpu: str, student: Path, video: Path, pyav: Path) -> None:
    _replay_is_equal(cpu, student, video, pyav)


@pytest.mark.parametrize("cpu", CPUS)
def test_replay_of_a_sound_file_gives_the_same_event_lines(cpu: str, sound_student: Path, sound: Path) -> None:
    _replay_is_equal(cpu, sound_student, sound)


@pytest.mark.skipif("DISTILLNET_ARM_CPUS" not in os.environ, reason="a minute and more: make test-arm")
def test_the_devices_own_tests_pass_there(tmp_path: Path) -> None:
    """Those that need neither LiteRT, whose aarch64 build crashes in qemu 7.2, nor a broker."""
    fetch = [*wheelhouse.pip("install", "aarch64"), "--target", str(tmp_path), "pytest", "hypothesis", "soundfile"]
    subprocess.run(fetch, check=True)
    arguments = ["-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", *(str(ROOT / t) for t in DEVICE)]
    done = arm_board.run(*arguments, cpu=CPUS[0], program=PYTEST, also=tmp_path, timeout_s=800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


def _replay_is_equal(cpu: str, student: Path, source: Path, pyav: Path | None = None) -> None:
    arguments = ["replay", str(source), "--student", str(student), "--json"]
    here = _here(*arguments, pyav=pyav is not None)
    there = arm_board.run(*arguments, cpu=cpu, also=pyav)
    assert there.returncode == 0, there.stderr
    assert here.count("\n") >= 4, "too few events to compare anything"
    pairs = zip(here.splitlines(), there.stdout.splitlines(), strict=False)
    first = next((pair for pair in pairs if pair[0] != pair[1]), None)
    assert hashlib.sha256(there.stdout.encode()).digest() == hashlib.sha256(here.encode()).digest(), first
