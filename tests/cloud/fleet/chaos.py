"""kill -9 of the service, of PostgreSQL and of the broker during a rollout, again and again. `make test-chaos`.

Devices are real TLS streams that keep what they run, report every step, and reconnect for ever; they tell telemetry to
the broker. Each round is a rollout of a new version in waves while something is killed at random moments. A round is
right when the rollout is done, every device runs the version, and none took it twice.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import paho.mqtt.client as mqtt
from bench_fleet import _channel, _identities, _serve, _stop
from engines import Mosquitto, Postgres
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from tiny_student import tiny_student

from distillnet.cloud.fleet.client import Access, upload
from distillnet.proto.v1 import admin_pb2, admin_pb2_grpc, fleet_pb2, fleet_pb2_grpc

APPLICATION = "bench"
WAITS_S = 240.0
_CALL_S = 60.0


def main() -> int:
    """Run; one line a round, and one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kills", type=int, default=3, help="a round: at least one of each of the three")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if Postgres.missing() or Mosquitto.program() is None:
        sys.stderr.write("needs PostgreSQL and Mosquitto: apt-get install postgresql mosquitto\n")
        return 1
    with Fleet(given.devices) as fleet:
        rounds = [
            fleet.round(number, given.kills, random.Random(given.seed + number)) for number in range(given.rounds)
        ]
    right = sum(row["right"] for row in rounds)
    sys.stdout.write(
        json.dumps({"devices": given.devices, "rounds": len(rounds), "right": right, "each": rounds}) + "\n"
    )
    return 0 if right == len(rounds) else 1


class Fleet:
    """A service on PostgreSQL with a broker, and devices."""

    def __init__(self, count: int) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="chaos-fleet-"))
        self.postgres, self.broker = Postgres(), Mosquitto()
        url = self.postgres.make()
        settings = f'[storage]\ndatabase = "{url}"\n[mqtt]\nhost = "127.0.0.1"\nport = {self.broker.port}\n'
        (self.home / "serve.toml").write_text(settings + "[fleet]\nheartbeat_s = 1.0\n")
        _stop(_serve(self.home)[0])
        identities = _identities(self.home, url, count)
        self.server, self.ready = _serve(self.home)
        self.devices = Devices(identities, lambda: self.ready["port"], self.broker.port)
        self.devices.start()
        self.version = self.publish(hold=False)
        self.wait_for_version(self.version)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.devices.stop()
        _stop(self.server)
        self.broker.remove()
        self.postgres.remove()
        shutil.rmtree(self.home, ignore_errors=True)

    def admin(self) -> Any:
        bundle = Access.read(self.home / "data" / "admin")
        return admin_pb2_grpc.AdminStub(_channel(bundle, f"127.0.0.1:{self.ready['port']}"))

    def publish(self, *, hold: bool) -> int:
        student = tiny_student(APPLICATION, random.getrandbits(30))
        return int(self.admin().Publish(upload(APPLICATION, student, hold=hold), timeout=120).version)

    def round(self, number: int, kills: int, rng: random.Random) -> dict[str, Any]:
        """One rollout with kills in it."""
        self.devices.taken.clear()
        version, began = self.publish(hold=True), time.monotonic()
        plan = admin_pb2.RolloutPlan(canary=4, waves_percent=[20, 60, 100], soak_s=1.0, concurrency=40)
        request = admin_pb2.StartRolloutRequest(application=APPLICATION, version=version, plan=plan)
        rollout = self.admin().StartRollout(request, timeout=_CALL_S).id
        victims = ["service", "postgresql", "broker"]
        victims += [rng.choice(victims) for _ in range(max(0, kills - len(victims)))]
        rng.shuffle(victims)
        for victim in victims:
            time.sleep(rng.uniform(0.3, 2.5))
            self.kill(victim)
        state = self.wait_for_rollout(rollout)
        self.wait_for_version(version)
        installed, twice = self.versions(), [name for name, count in self.devices.taken.items() if count > 1]
        row = {
            "round": number,
            "version": version,
            "killed": victims,
            "rollout": state,
            "on_version": sum(found == version for found in installed.values()),
            "on_device": sum(found == version for found in self.devices.runs.values()),
            "taken": len(self.devices.taken),
            "twice": len(twice),
            "seconds": round(time.monotonic() - began, 1),
        }
        everyone = len(self.devices.runs)
        row["right"] = (
            state == "done" and not twice and row["on_version"] == row["on_device"] == row["taken"] == everyone
        )
        sys.stderr.write(json.dumps(row) + "\n")
        return row

    def kill(self, victim: str) -> None:
        if victim == "service":
            self.server.send_signal(signal.SIGKILL)
            self.server.wait(20)
            self.server, self.ready = _serve(self.home)
        else:
            engine = self.postgres if victim == "postgresql" else self.broker
            engine.kill()
            time.sleep(0.5)
            engine.start()

    def versions(self) -> dict[str, int]:
        """What the service knows each device to run."""
        rows = self.admin().ListDevices(admin_pb2.ListDevicesRequest(), timeout=_CALL_S).devices
        return {row.device: max((model.version for model in row.models), default=0) for row in rows}

    def wait_for_version(self, version: int) -> None:
        _wait(lambda: set(self.versions().values()) == {version})

    def wait_for_rollout(self, rollout: int) -> str:
        def state() -> str:
            request = admin_pb2.ListRolloutsRequest(id=rollout)
            return str(self.admin().ListRollouts(request, timeout=_CALL_S).rollouts[0].state)

        _wait(lambda: state() not in ("scheduled", "running"))
        return state()


def _wait(condition: Any) -> None:
    """Wait for it, but not for ever: what is not right then shows in the round's figures.

    Time for which everything was stopped (SIGSTOP, a suspended machine) hardly counts.
    """
    waited_s, before = 0.0, time.monotonic()
    while waited_s < WAITS_S:
        with contextlib.suppress(grpc.RpcError):
            if condition():
                return
        time.sleep(0.25)
        now = time.monotonic()
        waited_s, before = waited_s + min(now - before, _CALL_S + 1.0), now


class Devices(threading.Thread):
    """All devices, in one event loop of their own. `runs` is what each has on its disk; `taken` counts updates."""

    def __init__(self, identities: list[Any], port: Any, broker_port: int) -> None:
        super().__init__(daemon=True)
        self.runs: dict[str, int] = {identity[0]: 0 for identity in identities}
        self.taken: Counter[str] = Counter()
        self._digests: dict[str, str] = {}
        self._identities, self._port = identities, port
        self._loop = asyncio.new_event_loop()
        self._mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._mqtt.reconnect_delay_set(1, 1)
        self._mqtt.connect_async("127.0.0.1", broker_port)
        self._mqtt.loop_start()

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        for identity in self._identities:
            self._loop.create_task(self._live(*identity))
        self._loop.run_forever()

    def stop(self) -> None:
        self._mqtt.loop_stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join(10)

    async def _live(self, name: str, ca_pem: bytes, certificate_pem: bytes, key: bytes) -> None:
        credentials = grpc.ssl_channel_credentials(ca_pem, key, certificate_pem)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.keepalive_time_ms", 5000)]
        while True:
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):  # the stream ended under us
                async with grpc.aio.secure_channel(
                    f"127.0.0.1:{self._port()}", credentials, options=options
                ) as channel:
                    await self._talk(name, fleet_pb2_grpc.FleetStub(channel).Connect(timeout=600))
            await asyncio.sleep(random.uniform(0.2, 1.0))

    async def _talk(self, name: str, stream: Any) -> None:
        models = []
        if self.runs[name]:
            models = [
                fleet_pb2.InstalledModel(application=APPLICATION, version=self.runs[name], digest=self._digests[name])
            ]
        hello = fleet_pb2.Hello(applications=[APPLICATION], session="chaos", models=models)
        await stream.write(fleet_pb2.DeviceMessage(hello=hello))
        beats = asyncio.create_task(_beat(stream))
        try:
            while (message := await stream.read()) is not grpc.aio.EOF:
                if message.HasField("directive") and message.directive.HasField("update"):
                    await self._update(name, stream, message.directive)
        finally:
            beats.cancel()

    async def _update(self, name: str, stream: Any, directive: Any) -> None:
        wanted = directive.update
        if self._digests.get(name) != wanted.digest:
            self.taken[name] += 1
            await asyncio.sleep(random.uniform(0.1, 0.6))  # it downloads and tests
            self.runs[name], self._digests[name] = wanted.version, wanted.digest
            self._mqtt.publish(f"distillnet/v1/{name}/telemetry", b"{}")
        report = fleet_pb2.UpdateReport(
            directive_id=directive.id,
            phase=fleet_pb2.UPDATE_PHASE_COMMITTED,
            application=wanted.application,
            version=wanted.version,
            digest=wanted.digest,
        )
        await stream.write(fleet_pb2.DeviceMessage(report=report))


async def _beat(stream: Any) -> None:
    with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
        while True:
            await asyncio.sleep(1.0)
            await stream.write(fleet_pb2.DeviceMessage(heartbeat=fleet_pb2.Heartbeat()))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # thousands of channels need no goodbye
