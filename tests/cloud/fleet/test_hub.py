"""Streams in one process: who is told what, without sockets."""

import asyncio

import pytest
from sqlalchemy import select

from distillnet.cloud.fleet import devices, hub
from distillnet.cloud.fleet.access import Spent
from distillnet.cloud.fleet.database import Device, Model
from distillnet.cloud.fleet.errors import RefusedError
from distillnet.cloud.fleet.hub import Hub
from distillnet.proto.v1 import fleet_pb2

NOW = 1_000_000.0


@pytest.fixture
async def running(database):
    def fill(session):
        devices.enrol(session, Spent("porch", ["pets"], False), 1.0)
        devices.hello(session, "porch", fleet_pb2.Hello(), "here", NOW)

    database.write_now(fill)
    made = Hub(database, "here", heartbeat_s=5.0, poll_s=0.02, clock=lambda: NOW)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()


def publish(database, ts: float) -> None:
    model = Model(
        application="pets", version=1, state="published", digest="sha256:" + "1" * 64, size_bytes=1, boards=[],
        minimum_runtime="0.1.0", held=False, card_json="{}", published_ts=1.0,
    )  # fmt: skip

    def work(session):
        session.add(model)
        session.flush()
        devices.assign(session, model, None, ts)

    database.write_now(work)


async def test_news_of_another_instance_arrive_once(running, database):
    connection = running.attach("porch")
    publish(database, NOW + 1.0)
    message = await asyncio.wait_for(connection.next(), 5.0)
    assert message.directive.update.version == 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(connection.next(), 0.2)


async def test_a_directive_dated_by_a_clock_far_behind_is_found_by_the_sweep(database, monkeypatch):
    monkeypatch.setattr(hub, "_SWEEP_S", 0.1)
    database.write_now(lambda session: devices.enrol(session, Spent("porch", ["pets"], False), 1.0))
    database.write_now(lambda session: devices.hello(session, "porch", fleet_pb2.Hello(), "here", NOW))
    made = Hub(database, "here", heartbeat_s=5.0, poll_s=0.02, clock=lambda: NOW)
    connection = made.attach("porch")
    publish(database, NOW - 3600.0)
    task = asyncio.create_task(made.run())
    assert (await asyncio.wait_for(connection.next(), 5.0)).directive.update.version == 1
    task.cancel()


async def test_a_stream_that_is_not_read_is_ended_and_not_buffered_for_ever(running):
    connection = running.attach("porch")
    for number in range(1000):
        connection.tell(fleet_pb2.Directive(id=str(number)))
    seen = 0
    with pytest.raises(RefusedError, match="not being read"):
        while True:
            await connection.next()
            seen += 1
    assert seen <= 256


async def test_an_old_stream_does_not_take_the_new_one_down(running, database):
    old = running.attach("porch")
    new = running.attach("porch")
    running.hear(new)
    running.detach(old)
    await running.flush()
    with pytest.raises(RefusedError, match="another stream"):
        await old.next()
    assert len(running) == 1
    assert database.read_now(lambda session: session.scalar(select(Device.instance))) == "here"
    running.detach(new)
    await running.flush()
    assert database.read_now(lambda session: session.scalar(select(Device.instance))) is None


async def test_reports_wait_while_directives_are_sent_but_not_for_who_does_not_read(running, database):
    connection = running.attach("porch")
    publish(database, NOW + 1.0)
    while not connection.waits:
        await asyncio.sleep(0)
    report = asyncio.create_task(running.delivered())
    await asyncio.sleep(0)
    assert not report.done()
    await asyncio.wait_for(report, 2.0)
    assert connection.waits
