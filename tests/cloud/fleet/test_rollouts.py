"""Rollouts: the steps against a database and a clock of our own, then a real service that is killed on the way."""

import random
import signal
import threading
import time
from dataclasses import dataclass, field

import paho.mqtt.client as mqtt
import pytest
from sqlalchemy import select

from distillnet.cloud.fleet import devices, rollouts, telemetry
from distillnet.cloud.fleet.access import Spent
from distillnet.cloud.fleet.database import Assignment, Database, Model, Rollout, RolloutDevice
from distillnet.cloud.fleet.errors import RefusedError
from distillnet.proto.mqtt import EventPayload, Quantiles, TelemetryPayload, Topics, encode
from distillnet.proto.v1 import admin_pb2, fleet_pb2

DIGEST = "sha256:" + "2" * 64
OLD = "sha256:" + "1" * 64
kind = admin_pb2.SteerRolloutRequest


@dataclass
class Simulation:
    """A fleet of boards without sockets; `bad` ones roll every update back."""

    database: Database
    now: float = 1000.0
    bad: set[str] = field(default_factory=set)
    away: set[str] = field(default_factory=set)
    updated: list[str] = field(default_factory=list)

    def enrol(self, count: int) -> None:
        def work(session):
            for version, digest in ((1, OLD), (2, DIGEST)):
                session.add(
                    Model(
                        application="pets", version=version, state="published", digest=digest, size_bytes=1,
                        boards=[], minimum_runtime="0.1.0", held=version == 2, card_json="{}", published_ts=1.0,
                    )
                )  # fmt: skip
            for number in range(count):
                name = f"d{number:03d}"
                devices.enrol(session, Spent(name, ["pets"], False), 1.0)
                devices.hello(session, name, fleet_pb2.Hello(), "here", self.now)
                wish = session.get(Assignment, (name, "pets"))
                wish.state = "committed"

        self.database.write_now(work)

    def start(self, tags=(), start_ts=0.0, **plan) -> int:
        request = admin_pb2.StartRolloutRequest(
            application="pets", version=2, plan=admin_pb2.RolloutPlan(**plan), tags=tags, start_ts=start_ts
        )
        return self.database.write_now(lambda session: rollouts.start(session, request, "ann", self.now).id)

    def step(self, seconds: float = 1.0) -> None:
        """Let time pass, boards act, and the rollouts take their steps."""
        self.now += seconds
        self.database.write_now(self._act)
        for which in self.database.read_now(rollouts.active):
            self.database.write_now(
                lambda session, which=which: rollouts.advance(session, which, self.now - 60, self.now)
            )

    def _act(self, session) -> None:
        names = [f"d{n:03d}" for n in range(1000)]
        here = {name: self.now for name in names if name not in self.away}
        known = set(session.scalars(select(Assignment.device)))
        devices.heard(session, "here", {name: ts for name, ts in here.items() if name in known}, [])
        for item in devices.news(session, [item.device for item in devices.open_since(session, 0.0)]):
            if item.device in self.away:
                continue
            if item.directive.HasField("update"):
                self.updated.append(item.device)
            failed = item.device in self.bad or item.directive.HasField("rollback")
            phase = fleet_pb2.UPDATE_PHASE_ROLLED_BACK if failed else fleet_pb2.UPDATE_PHASE_COMMITTED
            report = fleet_pb2.UpdateReport(
                directive_id=item.directive.id, phase=phase, application="pets",
                version=1 if failed else 2, digest=OLD if failed else DIGEST, reason="slow" if failed else "",
            )  # fmt: skip
            devices.report(session, item.device, report, self.now)

    def state(self, which: int) -> str:
        return self.database.read_now(lambda session: session.get(Rollout, which).state)

    def states(self, which: int) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        query = select(RolloutDevice).where(RolloutDevice.rollout == which)
        for row in self.database.read_now(lambda session: list(session.scalars(query))):
            found.setdefault(row.state, []).append(row.device)
        return found

    def steer(self, which: int, action: int) -> None:
        request = kind(id=which, action=action)
        self.database.write_now(lambda session: rollouts.steer(session, request, "ann", self.now).id)

    def installed(self) -> dict[str, int]:
        rows = self.database.read_now(lambda session: session.execute(select(devices.Installed)).scalars().all())
        return {row.device: row.version for row in rows}


@pytest.fixture
def fleet(database):
    simulation = Simulation(database)
    simulation.enrol(20)
    return simulation


def test_a_good_version_goes_from_canary_through_the_waves_to_all(fleet):
    which = fleet.start(canary=2, waves_percent=[50, 100], soak_s=10)
    told = []
    for _ in range(60):
        fleet.step()
        told.append(len(fleet.updated))
    assert fleet.state(which) == "done"
    assert sorted(set(told)) == [0, 2, 11, 20]
    assert told.count(2) >= 10 and told.count(11) >= 10  # each wave is watched before the next
    assert sorted(fleet.updated) == sorted(set(fleet.updated)), "nobody twice"


def test_a_bad_canary_is_stopped_taken_back_and_the_other_waves_are_untouched(fleet):
    fleet.bad = {f"d{n:03d}" for n in range(20)}
    which = fleet.start(canary=3, soak_s=5)
    for _ in range(30):
        fleet.step()
    assert fleet.state(which) == "rolled-back"
    assert len(fleet.updated) == 3
    assert set(fleet.installed().values()) == {1}
    assert len(fleet.states(which)["waiting"]) == 17


def test_a_failure_in_a_later_wave_takes_every_device_back(fleet):
    which = fleet.start(canary_devices=["d000"], waves_percent=[50, 100], soak_s=5, max_failure_share=0.1)
    fleet.bad = {f"d{n:03d}" for n in range(1, 20)}
    for _ in range(40):
        fleet.step()
    assert fleet.state(which) == "rolled-back"
    assert len(fleet.updated) == 11 or len(fleet.updated) == 10
    assert fleet.installed()["d000"] == 1
    reason = fleet.database.read_now(lambda session: session.get(Rollout, which).reason)
    assert "devices failed, allowed 10%" in reason and "slow" in reason


def test_pause_on_failure_waits_for_a_person_and_resume_forgives(fleet):
    fleet.bad = {"d000"}
    which = fleet.start(canary_devices=["d000"], soak_s=2, pause_on_failure=True)
    for _ in range(10):
        fleet.step()
    assert fleet.state(which) == "paused" and fleet.updated == ["d000"]
    fleet.steer(which, kind.ACTION_RESUME)
    for _ in range(20):
        fleet.step()
    assert fleet.state(which) == "done"
    assert len(fleet.states(which)["committed"]) == 19


def test_a_tolerated_share_of_failures_does_not_stop_it(fleet):
    fleet.bad = {"d004"}
    which = fleet.start(canary_devices=["d000"], soak_s=1, max_failure_share=0.2)
    for _ in range(20):
        fleet.step()
    assert fleet.state(which) == "done"
    assert fleet.states(which)["failed"] == ["d004"]


def test_devices_that_are_away_hold_nobody_up_and_converge_later(fleet):
    which = fleet.start(canary_devices=["d000"], soak_s=1)
    fleet.away = {"d007", "d008"}
    fleet.now += 1000  # long enough not to be heard
    for _ in range(20):
        fleet.step()
    assert fleet.state(which) == "done"
    assert set(fleet.states(which)["told"]) == {"d007", "d008"}
    fleet.away = set()
    fleet.step(30 * 86400.0)
    assert set(fleet.installed().values()) == {2} and len(fleet.installed()) == 20


def test_a_canary_that_is_away_is_waited_for(fleet):
    fleet.away = {"d000"}
    which = fleet.start(canary_devices=["d000"], soak_s=1)
    fleet.now += 1000
    for _ in range(20):
        fleet.step()
    assert fleet.state(which) == "running" and not fleet.updated


def test_concurrency_bounds_the_updates_under_way(fleet):
    which = fleet.start(canary=1, soak_s=0, concurrency=4)
    most = 0
    for _ in range(40):
        fleet.step()
        most = max(most, len(fleet.states(which).get("told", [])))
    assert fleet.state(which) == "done" and most == 4


def test_tags_choose_the_targets_and_the_version_stays_held(fleet):
    fleet.database.write_now(lambda session: devices.tag(session, ["d001", "d002"], ["porch"], []))
    which = fleet.start(tags=["porch"], soak_s=0)
    for _ in range(10):
        fleet.step()
    assert fleet.state(which) == "done" and sorted(fleet.updated) == ["d001", "d002"]
    assert not fleet.database.read_now(rollouts.unreleased)


def test_abort_leaves_devices_and_may_be_followed_by_taking_back(fleet):
    which = fleet.start(canary=5, soak_s=100)
    for _ in range(5):
        fleet.step()
    fleet.steer(which, kind.ACTION_ABORT)
    for _ in range(5):
        fleet.step()
    assert len(fleet.updated) == 5 and set(fleet.installed().values()) == {2}
    fleet.steer(which, kind.ACTION_ROLL_BACK)
    fleet.step()
    assert set(fleet.installed().values()) == {1}


def test_a_scheduled_rollout_starts_when_its_time_comes(fleet):
    which = fleet.start(soak_s=0, start_ts=fleet.now + 10)
    for _ in range(8):
        fleet.step()
    assert fleet.state(which) == "scheduled" and not fleet.updated
    for _ in range(10):
        fleet.step()
    assert fleet.state(which) == "done"


def measure(fleet, p99_ms: float, digest: str, events: int = 0) -> None:
    """Let every device tell a minute's telemetry and so many events."""

    def work(session):
        names = [f"d{n:03d}" for n in range(20)]
        figures = {"reports": 1, "frames": 1, "dropped": 0, "gated": 0, "cpu_share": 0.1, "rss_bytes": 1}
        latency = {"infer_p50_ms": 1.0, "end_to_end_p50_ms": 1.0, "end_to_end_p99_ms": p99_ms, "temperature_c": None}
        common = {"ts": fleet.now, "interval_s": 60.0, "model_digest": digest} | figures | latency
        telemetry.add_samples(session, [{"device": name} | common for name in names])
        life = {"source": "cam", "zone": "", "event": "cat", "phase": "new", "end_ts": None, "top_score": 0.9}
        when = {"start_ts": fleet.now, "model_digest": digest}
        telemetry.add_events(
            session,
            [{"device": n, "id": f"{fleet.now}-{i}"} | life | when for n in names for i in range(events)],
        )

    fleet.database.write_now(work)


@pytest.mark.parametrize(
    ("p99_ms", "events", "why"), [(30.0, 1, "p99 latency is 3.00×"), (10.0, 20, "events an hour"), (11.0, 1, None)]
)
def test_telemetry_after_against_before_stops_a_rollout(fleet, p99_ms, events, why):
    for _ in range(10):
        measure(fleet, 10.0, OLD, 1)
        fleet.now += 60
    which = fleet.start(canary=3, soak_s=300, max_latency_ratio=1.5, max_event_ratio=4.0)
    fleet.step()
    fleet.step()
    for _ in range(5):
        fleet.step(30)
        measure(fleet, p99_ms, DIGEST, events)
        fleet.step(30)
    reason = fleet.database.read_now(lambda session: session.get(Rollout, which).reason)
    if why is None:
        assert fleet.state(which) == "running"
    else:
        assert fleet.state(which) == "rolled-back" and why in reason
        assert len(fleet.updated) == 3


def test_an_older_version_goes_to_devices_with_a_newer_one_only_where_that_is_asked_for(fleet):
    which = fleet.start(soak_s=0)
    for _ in range(20):
        fleet.step()
    assert fleet.state(which) == "done"
    fleet.database.write_now(lambda session: rollouts.mark_released(session, which, fleet.now))
    back = admin_pb2.StartRolloutRequest(application="pets", version=1)
    with pytest.raises(RefusedError, match=r"20 of 20 devices run a version newer than 1 .* \(d000, d001, d002, …\)"):
        fleet.database.read_now(lambda session: rollouts.prepare(session, back))
    back.downgrade = True
    assert fleet.database.read_now(lambda session: rollouts.prepare(session, back)).model.version == 1
    back.version = 0
    with pytest.raises(RefusedError, match="must name the version"):
        fleet.database.read_now(lambda session: rollouts.prepare(session, back))


def test_one_rollout_at_a_time_and_only_sensible_plans(fleet):
    for plan in ({"waves_percent": [50]}, {"waves_percent": [60, 50, 100]}, {"max_failure_share": 2.0}):
        with pytest.raises(RefusedError):
            fleet.start(**plan)
    with pytest.raises(RefusedError, match="no target"):
        fleet.start(canary_devices=["stranger"])
    which = fleet.start(soak_s=100)
    with pytest.raises(RefusedError, match="is running"):
        fleet.start()
    with pytest.raises(RefusedError, match="is running"):
        fleet.steer(which, kind.ACTION_RESUME)


def test_an_interrupted_step_is_taken_again_and_no_device_is_updated_twice(fleet):
    which = fleet.start(canary=2, waves_percent=[30, 60, 100], soak_s=2)
    rng = random.Random(7)

    class PowerCutError(Exception):
        pass

    for _ in range(80):

        def cut(session):
            rollouts.advance(session, which, fleet.now - 60, fleet.now)
            raise PowerCutError

        if rng.random() < 0.5:
            with pytest.raises(PowerCutError):
                fleet.database.write_now(cut)
        fleet.step(0.5)
    assert fleet.state(which) == "done"
    assert sorted(fleet.updated) == sorted(set(fleet.updated)) and len(fleet.updated) == 20


class Boards(threading.Thread):
    """Real streams of several boards that commit (or roll back) whatever they are told, and reconnect for ever."""

    def __init__(self, boards, bad=()) -> None:
        super().__init__(daemon=True)
        self.boards, self.bad = boards, set(bad)
        self.taken: dict[str, list[int]] = {board.device: [] for board in boards}
        self.running = True

    def run(self) -> None:
        threads = [threading.Thread(target=self._live, args=(board,), daemon=True) for board in self.boards]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _live(self, board) -> None:
        runs = None
        while self.running:
            try:
                with board.connect("pets", models=(runs,) if runs else ()) as stream:
                    while self.running:
                        message = stream.receive(1.0)
                        if message is None or not message.HasField("directive"):
                            break
                        runs = self._take(board.device, stream, message.directive, runs)
            except Exception:
                time.sleep(0.1)

    def _take(self, device, stream, directive, runs):
        if directive.HasField("rollback"):
            back = fleet_pb2.InstalledModel(application="pets", version=1, digest=OLD)
            phase = fleet_pb2.UPDATE_PHASE_ROLLED_BACK
            stream.report(directive, phase, application="pets", version=1, digest=OLD)
            return back
        wanted = directive.update
        if runs is not None and runs.digest == wanted.digest:
            stream.report(directive, fleet_pb2.UPDATE_PHASE_COMMITTED)
            return runs
        self.taken[device].append(wanted.version)
        if device in self.bad and wanted.version > 1:
            stream.report(directive, fleet_pb2.UPDATE_PHASE_ROLLED_BACK, "crashed")
            return runs
        stream.report(directive, fleet_pb2.UPDATE_PHASE_COMMITTED)
        return fleet_pb2.InstalledModel(application="pets", version=wanted.version, digest=wanted.digest)


@pytest.mark.integration
@pytest.mark.slow
def test_a_rollout_survives_kills_of_the_service_and_ends_right_on_every_device(serve, board, tiny_student, tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text("[fleet]\nheartbeat_s = 0.5\n")
    running = serve("--config", str(config))
    boards = [board(running, running.token(applications=["pets"]), f"b{n}") for n in range(8)]
    crowd = Boards(boards)
    crowd.start()
    running.publish(tiny_student())
    until(lambda: sum(len(row.models) for row in running.devices().values()) == 8)
    running.publish(tiny_student(seed=1), hold=True)
    plan = admin_pb2.RolloutPlan(canary=1, waves_percent=[30, 60, 100], soak_s=0.6)
    running.admin().StartRollout(admin_pb2.StartRolloutRequest(application="pets", plan=plan))
    for _ in range(4):
        time.sleep(0.7)
        running.stop(signal.SIGKILL)
        running = serve("--config", str(config))
        for one in boards:
            one.server = running
    until(lambda: status(running).state == "done", 40)
    assert status(running).reason == ""
    until(lambda: {model.version for row in running.devices().values() for model in row.models} == {2})
    crowd.running = False
    assert all(taken == [1, 2] for taken in crowd.taken.values()), crowd.taken
    newcomer = board(running, running.token(applications=["pets"]), "newcomer")
    with newcomer.connect("pets") as stream:
        assert stream.receive().directive.update.version == 2  # the hold is gone


@pytest.mark.integration
def test_a_crashing_canary_is_rolled_back_on_real_streams(serve, board, tiny_student):
    running = serve()
    boards = [board(running, running.token(applications=["pets"]), f"b{n}") for n in range(4)]
    crowd = Boards(boards, bad=["b2"])
    crowd.start()
    running.publish(tiny_student())
    until(lambda: sum(len(row.models) for row in running.devices().values()) == 4)
    running.publish(tiny_student(seed=1), hold=True)
    plan = admin_pb2.RolloutPlan(canary_devices=["b2"], soak_s=5)
    running.admin().StartRollout(admin_pb2.StartRolloutRequest(application="pets", plan=plan))
    until(lambda: status(running).state == "rolled-back")
    assert "b2: crashed" in status(running).reason
    crowd.running = False
    assert crowd.taken["b2"] == [1, 2] and all(crowd.taken[name] == [1] for name in ("b0", "b1", "b3"))


@pytest.mark.integration
@pytest.mark.parametrize(("p99_ms", "events", "why"), [(45.0, 0, "p99 latency is 3.00×"), (15.0, 30, "events an hour")])
def test_a_canary_that_gets_slow_or_storms_is_stopped_within_its_soak(
    serve, board, tiny_student, mosquitto, tmp_path, p99_ms, events, why
):
    config = tmp_path / "serve.toml"
    config.write_text(f'[mqtt]\nhost = "127.0.0.1"\nport = {mosquitto.port}\n')
    running = serve("--config", str(config))
    boards = [board(running, running.token(applications=["pets"]), f"b{n}") for n in range(4)]
    crowd = Boards(boards)
    crowd.start()
    first = running.publish(tiny_student()).digest
    until(lambda: sum(len(row.models) for row in running.devices().values()) == 4)
    second = running.publish(tiny_student(seed=1), hold=True).digest
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()

    def samples() -> int:
        return len(running.admin().ListTelemetry(admin_pb2.ListTelemetryRequest(), timeout=15).samples)

    for name in crowd.taken:
        for minute in range(10, 0, -1):
            told(client, name, time.time() - 60.0 * minute, 15.0, first)
    until(lambda: samples() == 40)
    plan = admin_pb2.RolloutPlan(canary_devices=["b2"], soak_s=60, max_latency_ratio=1.5, max_event_ratio=4.0)
    running.admin().StartRollout(admin_pb2.StartRolloutRequest(application="pets", plan=plan))
    until(lambda: status(running).waves[0].committed == 1)
    for number in range(3):
        told(client, "b2", time.time(), p99_ms, second)
        for each in range(events):
            seen(client, "b2", f"{number}-{each}", second)
        time.sleep(0.5)
    until(lambda: status(running).state == "rolled-back")
    assert why in status(running).reason
    until(lambda: {model.version for row in running.devices().values() for model in row.models} == {1})
    crowd.running = False
    client.loop_stop()
    assert crowd.taken == {"b0": [1], "b1": [1], "b2": [1, 2], "b3": [1]}, "the other waves were not touched"


def told(client, device: str, ts: float, p99_ms: float, digest: str) -> None:
    """Publish a minute's telemetry."""
    quantiles = Quantiles(p50=p99_ms / 2, p95=p99_ms, p99=p99_ms, max=p99_ms, n=100)
    payload = TelemetryPayload(
        session="s", ts=ts, interval_s=60.0, uptime_s=1.0, model_digest=digest, stages={"end_to_end": quantiles},
        sources={}, outbox_events=0, outbox_bytes=0, rss_bytes=1, cpu_share=0.1,
    )  # fmt: skip
    client.publish(Topics(device).telemetry, encode(payload))


def seen(client, device: str, identity: str, digest: str) -> None:
    """Publish the beginning of an event."""
    now = time.time()
    payload = EventPayload(
        id=identity, seq=0, session="s", phase="new", source="cam", event="cat", score=0.9, top_score=0.9,
        start_ts=now, frame_ts=now, model_digest=digest,
    )  # fmt: skip
    client.publish(Topics(device).event("cam", "cat"), encode(payload), qos=1)


def status(running):
    return running.admin().ListRollouts(admin_pb2.ListRolloutsRequest(), timeout=15).rollouts[0]


def until(check, timeout_s: float = 15.0) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)
