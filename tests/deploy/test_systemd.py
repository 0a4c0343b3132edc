"""The unit under a real systemd: a Debian 12 that boots in a container, with the packages installed and a broker.

Runs with `make test-systemd`. Not shown here: cameras and microphones behind DeviceAllow (a container has none), the
Jetson drop-in, and limits of memory where the kernel's memory controller is not ours to use.
"""

import json
import os
import re
import shutil
import sysconfig
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import clean_root
import machine
import pytest
import wheels
from machine import Machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.skipif("DISTILLNET_SYSTEMD" not in os.environ, reason="two minutes: make test-systemd"),
]
UNIT = "distillnet-device"
UNITS = Path(__file__).parents[2] / "deploy/systemd"
STATE = "var/lib/private/distillnet"
DEVICE_FILE = """
[device]
name = "porch"
[model]
application = "porch"
path = "/etc/distillnet/student.tflite"
[[source]]
id = "door"
url = "/srv/door.mp4"
loop = true
rate_hz = 5
[[event]]
name = "a"
confirm = 1
window = 1
[telemetry]
interval_s = 1
"""


def _root() -> Path:
    """A Debian that boots, or a skip with the reason."""
    try:
        if reason := machine.why_not():
            raise clean_root.RootError(reason)
        return clean_root.build(clean_root.NATIVE[os.uname().machine], "systemd")
    except clean_root.RootError as exc:
        pytest.skip(f"{exc}: not shown that systemd runs the unit")


@pytest.fixture(scope="module")
def installed(
    packages_for: Callable[[str], Path],
    student: Path,
    video: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machine]:
    """A booted board with the packages installed and configured; the service is enabled and runs."""
    arch = clean_root.NATIVE[os.uname().machine]
    with Machine(_root(), tmp_path_factory.mktemp("machine")) as booted:
        shutil.copytree(packages_for(arch), booted.root / "debs")
        shutil.copy(video, booted.root / "srv/door.mp4")
        booted.run("apt-get install -y /debs/old/*.deb")
        assert booted.run(f"systemctl is-enabled {UNIT}", check=False).strip() == "disabled"
        shutil.copy(student, booted.root / "etc/distillnet/student.tflite")
        (booted.root / "etc/distillnet/device.toml").write_text(DEVICE_FILE)
        booted.run(f"systemctl start mosquitto && systemctl enable --now {UNIT}")
        yield booted


def test_a_newcomer_needs_eight_commands_to_the_first_event(
    packages_for: Callable[[str], Path], student: Path, video: Path, tmp_path: Path
) -> None:
    """The device guide's first block, line by line, on a Debian that has just booted."""
    guide = (Path(__file__).parents[2] / "docs/device.md").read_text()
    block = guide.split("```sh newcomer\n")[1].split("```")[0]
    commands = [command for command in re.split(r"\n(?=sudo|mosquitto_sub)", block.strip()) if command]
    assert len(commands) <= 8
    with Machine(_root(), tmp_path / "machine") as fresh:
        for package in (packages_for(clean_root.NATIVE[os.uname().machine]) / "old").glob("*.deb"):
            shutil.copy(package, fresh.root / "root")
        (fresh.root / "etc/apt/apt.conf.d/yes").write_text('APT::Get::Assume-Yes "true";')  # whoever types says yes
        shutil.copy(student, fresh.root / "root/student.tflite")
        shutil.copy(video, fresh.root / "root/door.mp4")
        *_, discovered, first = [fresh.run(f"cd /root\n{command}") for command in commands]
        topics = {part.get("state_topic") for part in json.loads(discovered)["components"].values()}
        topic, _, event = first.partition(" ")
        assert topic in topics, "Home Assistant would not see this event"
        assert json.loads(event)["phase"] == "new"
        assert fresh.show(UNIT, "ActiveState") == "active"


def test_the_fleet_service_runs_under_its_unit(tmp_path: Path) -> None:
    """On a server: ready, of a user that lives only with it, and still the same fleet after a restart."""
    libraries = Path(sysconfig.get_paths()["purelib"])
    with Machine(_root(), tmp_path / "machine", shown=[libraries]) as server:
        opt, settings = server.root / "opt/distillnet", server.root / "etc/distillnet"
        for folder in (opt / "bin", settings):
            folder.mkdir(parents=True)
        with zipfile.ZipFile(wheels.build(os.uname().machine)) as wheel:
            wheel.extractall(opt / "app")
        shutil.copytree(UNITS, server.root / "etc/systemd/system", dirs_exist_ok=True)
        command = opt / "bin/distillnet"
        program = "from distillnet.device.cli import main; main()"
        command.write_text(
            f"#!/bin/sh\nPYTHONPATH=/opt/distillnet/app:{libraries} exec python3 -c '{program}' \"$@\"\n"
        )
        command.chmod(0o755)
        (settings / "serve.toml").write_text('[listen]\nhost = "127.0.0.1"\n')
        server.run("systemctl daemon-reload && systemctl start distillnet-cloud")
        _wait(lambda: "ready" in server.run("journalctl -u distillnet-cloud --no-pager"), 60)
        uid = int(server.run(f"stat -c %u /proc/{server.show('distillnet-cloud', 'MainPID')}"))
        assert 61184 <= uid <= 65519, "no user of systemd's dynamic range"
        data = "--data /var/lib/private/distillnet-fleet"
        token = server.run(f"/opt/distillnet/bin/distillnet token create {data} --application porch")
        assert len(token.strip()) > 20
        authority = server.run("cat /var/lib/private/distillnet-fleet/pki/ca.pem")
        begin = time.monotonic()
        server.run("systemctl restart distillnet-cloud")
        assert time.monotonic() - begin < 30
        _wait(lambda: server.run("journalctl -u distillnet-cloud --no-pager").count('"ready"') >= 2, 60)
        assert server.run("cat /var/lib/private/distillnet-fleet/pki/ca.pem") == authority
        assert server.show("distillnet-cloud", "NRestarts") == "0"


@pytest.fixture
def board(installed: Machine) -> Machine:
    """The board with the device file above and a service that runs."""
    board = installed
    device_file = board.root / "etc/distillnet/device.toml"
    if device_file.read_text() != DEVICE_FILE or board.show(UNIT, "ActiveState") != "active":
        device_file.write_text(DEVICE_FILE)
        board.run(f"systemctl reset-failed; systemctl start mosquitto; systemctl restart {UNIT}")
    return board


def _retained(board: Machine, topic: str, options: str = "") -> dict[str, object]:
    answer = board.run(f"mosquitto_sub -C 1 -W 10 {options} -t 'distillnet/v1/porch/{topic}'")
    payload: dict[str, object] = json.loads(answer)
    return payload


def _wait(wanted: Callable[[], bool], seconds: float) -> float:
    """Wait until something is so; returns how long that took, in seconds."""
    begin = time.monotonic()
    while not wanted():
        assert time.monotonic() - begin < seconds, "it has not come about"
        time.sleep(0.2)
    return time.monotonic() - begin


def _pid(board: Machine) -> str:
    return board.show(UNIT, "MainPID")


def test_start_returns_when_the_daemon_is_ready(board: Machine) -> None:
    board.run(f"systemctl restart {UNIT}")
    assert board.show(UNIT, "ActiveState") == "active"
    assert board.show(UNIT, "StatusText") == "ready"
    _wait(lambda: _retained(board, "status")["state"] == "ready", 10)


def test_the_user_lives_only_as_long_as_the_service(board: Machine) -> None:
    uid = int(board.run(f"stat -c %u /proc/{_pid(board)}"))
    assert 61184 <= uid <= 65519, "no user of systemd's dynamic range"
    assert board.run(f"stat -c '%u %a' /{STATE}").split() == [str(uid), "700"]
    assert board.run("readlink /var/lib/distillnet").strip() == "private/distillnet"
    board.run(f"systemctl stop {UNIT}")
    assert board.run(f"getent passwd {uid}", check=False) == ""


def test_the_sandbox_holds(board: Machine) -> None:
    pid = _pid(board)
    facts = dict(line.split(":\t", 1) for line in board.run(f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    inside = f"nsenter -t {pid} -m --"
    for path in ("/etc/x", "/usr/x", "/srv/x"):
        assert "Read-only" in board.run(f"{inside} touch {path} 2>&1", check=False), path
    assert board.run(f"{inside} ls /home /root 2>&1", check=False).count("\n") <= 3
    level = board.run(f"systemd-analyze security --no-pager {UNIT} | tail -n 1")
    assert float(level.split("exposure level for")[1].split(":")[1].split()[0]) <= 1.5, level


def test_devices_other_than_cameras_and_sound_are_closed(board: Machine) -> None:
    """Whoever is in the service's cgroup, even root outside its namespaces, cannot open another device."""
    board.run("test -e /srv/kmsg || mknod /srv/kmsg c 1 11")
    group = "/sys/fs/cgroup$(systemctl show --value -p ControlGroup " + UNIT + ")"
    attempt = f"sh -c 'echo $$ >{group}/cgroup.procs; exec 3<%s' 2>&1 && echo opened"
    if "opened" not in board.run("sh -c 'exec 3</srv/kmsg' 2>&1 && echo opened", check=False):
        pytest.skip("this machine lets nobody open the device: not shown that the unit closes it")
    assert "not permitted" in board.run(attempt % "/srv/kmsg", check=False)
    assert "opened" in board.run(attempt % "/dev/null", check=False)


def test_a_reload_takes_over_the_device_file_and_keeps_the_process(board: Machine) -> None:
    pid = _pid(board)
    path = board.root / "etc/distillnet/device.toml"
    path.write_text(DEVICE_FILE.replace('id = "door"', 'id = "gate"'))
    board.run(f"systemctl reload {UNIT}")
    _wait(lambda: _retained(board, "source/gate")["state"] == "online", 10)
    path.write_text("nonsense = 1\n")
    board.run(f"systemctl reload {UNIT}")
    _wait(lambda: "reload refused" in board.show(UNIT, "StatusText"), 10)
    assert "nonsense" in str(_retained(board, "status")["reason"])
    assert (board.show(UNIT, "ActiveState"), _pid(board)) == ("active", pid)


def test_the_watchdog_ends_a_daemon_that_hangs_and_starts_it_again(board: Machine) -> None:
    pid, restarts = _pid(board), int(board.show(UNIT, "NRestarts"))
    board.run(f"kill -STOP {pid}")
    _wait(lambda: int(board.show(UNIT, "NRestarts")) > restarts and board.show(UNIT, "ActiveState") == "active", 60)
    assert _pid(board) not in ("0", pid)
    assert "Watchdog timeout" in board.run(f"journalctl -u {UNIT} --no-pager")
    assert _retained(board, "status")["state"] == "ready"


def test_a_daemon_that_is_killed_is_called_lost_and_comes_back(board: Machine) -> None:
    pid = _pid(board)
    board.run(f"kill -KILL {pid}")
    _wait(lambda: _retained(board, "status")["state"] == "lost", 4)
    _wait(lambda: board.show(UNIT, "ActiveState") == "active" and _pid(board) != pid, 30)
    _wait(lambda: _retained(board, "status")["state"] == "ready", 10)


def test_a_broken_device_file_ends_with_the_reason_in_the_journal(board: Machine) -> None:
    (board.root / "etc/distillnet/device.toml").write_text(DEVICE_FILE.replace("rate_hz", "rat_hz"))
    board.run(f"systemctl restart {UNIT}", check=False)
    assert board.show(UNIT, "ExecMainStatus") == "2"
    assert "did you mean 'rate_hz'" in board.run(f"journalctl -u {UNIT} -n 50 --no-pager")


@pytest.mark.parametrize("hung", [False, True], ids=["broker answers", "broker hangs"])
def test_it_stops_within_its_timeout(board: Machine, hung: bool) -> None:
    broker = board.show("mosquitto", "MainPID")
    board.run(f"kill -{'STOP' if hung else 'CONT'} {broker}")
    begin = time.monotonic()
    board.run(f"systemctl stop {UNIT}")
    took = time.monotonic() - begin
    board.run(f"kill -CONT {broker}")
    assert took < 10
    assert (board.show(UNIT, "Result"), board.show(UNIT, "ExecMainStatus")) == ("success", "0")
    if not hung:
        assert _retained(board, "status")["state"] == "offline"


def test_events_that_wait_survive_a_reboot(board: Machine) -> None:
    """The state directory stays, whatever user id the service gets next."""
    board.run("systemctl stop mosquitto")
    since = board.run("date +%s").strip()
    _wait(lambda: "new on door" in board.run(f"journalctl -u {UNIT} --no-pager --since @{since}"), 30)
    board.run("systemctl disable mosquitto")
    board.power_off()
    board.boot()
    assert board.show(UNIT, "ActiveState") == "active", "an enabled service starts at boot"
    board.run(f"systemctl stop {UNIT}")
    board.run("systemctl start mosquitto")
    listen = "timeout 20 mosquitto_sub -F %p -t 'distillnet/v1/porch/event/#' -W 12 >/run/events & "
    board.run(f"{listen} sleep 1; systemctl start {UNIT}; wait", check=False)
    events = [json.loads(line) for line in (board.run("cat /run/events")).splitlines()]
    assert any(event["replayed"] for event in events), f"{len(events)} events, none of before the reboot"
    board.run("systemctl enable mosquitto")


def test_the_brokers_password_comes_as_a_credential(board: Machine) -> None:
    board.run(
        "mosquitto_passwd -b -c /etc/mosquitto/passwords porch secret && chmod 644 /etc/mosquitto/passwords && "
        "printf 'per_listener_settings true\\nlistener 1883\\nallow_anonymous true\\nlistener 1884\\n"
        "password_file /etc/mosquitto/passwords\\n' >/etc/mosquitto/conf.d/password.conf && "
        "printf secret >/etc/distillnet/mqtt-password && chmod 600 /etc/distillnet/mqtt-password && "
        f"mkdir -p /etc/systemd/system/{UNIT}.service.d && "
        "printf '[Service]\\nLoadCredential=mqtt-password:/etc/distillnet/mqtt-password\\n' "
        f">/etc/systemd/system/{UNIT}.service.d/password.conf && systemctl daemon-reload && systemctl restart mosquitto"
    )
    mqtt = f'[mqtt]\nport = 1884\nusername = "porch"\npassword_file = "/run/credentials/{UNIT}.service/mqtt-password"\n'
    (board.root / "etc/distillnet/device.toml").write_text(DEVICE_FILE + mqtt)
    board.run(f"systemctl restart {UNIT}")
    assert _retained(board, "status", "-p 1884 -u porch -P secret")["state"] == "ready"


def test_memory_is_bounded(board: Machine) -> None:
    if "memory" not in board.run("cat /sys/fs/cgroup/cgroup.controllers").split():
        pytest.skip("the memory controller is not ours here: not shown that MemoryMax holds")
    group = board.show(UNIT, "ControlGroup")
    assert int(board.run(f"cat /sys/fs/cgroup{group}/memory.max")) == 512 << 20


def test_an_upgrade_restarts_it_and_a_purge_leaves_nothing(board: Machine) -> None:
    pid = _pid(board)
    board.run("dpkg -i /debs/new/*.deb")
    assert board.show(UNIT, "ActiveState") == "active"
    assert _pid(board) != pid
    board.run("apt-get purge -y distillnet distillnet-libs")
    assert board.run(f"systemctl is-active {UNIT}", check=False).strip() == "inactive"
    for gone in ("/etc/distillnet", "/var/lib/distillnet", f"/{STATE}", f"/etc/systemd/system/{UNIT}.service.d"):
        assert board.run(f"ls -d {gone} 2>/dev/null", check=False) == ""
