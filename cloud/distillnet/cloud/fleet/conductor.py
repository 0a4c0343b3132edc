"""Takes the steps of rollouts, again and again. Any number of instances may: one at a time gets through."""

import asyncio
import functools
import logging
from collections.abc import Callable

from sqlalchemy.orm import Session

from distillnet.cloud.fleet import rollouts
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.hub import Hub
from distillnet.cloud.fleet.publish import Publisher

log = logging.getLogger(__name__)

_STEP_S = 0.5


class Conductor:
    """Drives the rollouts of a fleet."""

    def __init__(self, database: Database, publisher: Publisher, hub: Hub, clock: Callable[[], float]) -> None:
        self._database = database
        self._publisher = publisher
        self._hub = hub
        self._clock = clock

    async def run(self) -> None:
        """Step for ever, until cancelled."""
        while True:
            try:
                await self.step()
            except Exception:  # the next round starts from what the database holds
                log.exception("a rollout could not take its step")
            await asyncio.sleep(_STEP_S)

    async def step(self) -> None:
        """Take one step of every rollout that has one."""
        for rollout in await self._database.read(rollouts.active):
            if await self._database.write(functools.partial(self._advance, rollout=rollout)):
                self._hub.wake()
        for rollout, application, version in await self._database.read(rollouts.unreleased):
            await asyncio.to_thread(self._publisher.release, application, version)
            await self._database.write(functools.partial(rollouts.mark_released, rollout_id=rollout, now=self._clock()))
            log.warning("rollout %d is done: %s version %d is for all", rollout, application, version)
            self._hub.wake()

    def _advance(self, session: Session, rollout: int) -> bool:
        now = self._clock()
        return rollouts.advance(session, rollout, now - 3 * self._hub.heartbeat_s - 5.0, now)
