"""From an uploaded file to a signed, stored, assigned student; a crash at any point leaves no half of it.

The student is staged in the database, signed into the repository, then marked published and assigned in one
transaction. `recover` finishes or forgets what a crash left staged: the signed metadata decides.
"""

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from distillnet import engine
from distillnet.cloud.fleet import devices, models, rollouts
from distillnet.cloud.fleet.database import Database, Model
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.cloud.fleet.repository import Published, Repository, target_path
from distillnet.engine.student import Student
from distillnet.proto.archive import StudentError, digest, with_version
from distillnet.proto.card import Card

log = logging.getLogger(__name__)

LOCK = "repository"


@dataclass(frozen=True)
class Publication:
    """What was published, and the devices it is for."""

    model: Model
    devices: list[str]


class Publisher:
    """Publishes students, one at a time over all instances. Blocking: called in a thread."""

    def __init__(self, database: Database, repository: Repository, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._repository = repository
        self._clock = clock

    def publish(self, data: bytes, application: str, boards: list[str], *, hold: bool) -> Publication:
        """Check, number, sign and assign an uploaded student.

        Raises:
            RefusedError: it is no valid student of `application`, does not load, or fails its own golden vectors.

        """
        card = check(data, application)
        with self._database.exclusive(LOCK):
            self._recover()
            if not hold:
                self._database.read_now(lambda session: rollouts.refuse_while_active(session, application))
            known = self._database.read_now(lambda session: models.next_version(session, application))
            version = max(known, self._repository.highest(application) + 1)  # a restored database may be older
            versioned = with_version(data, version)
            published = Published(
                application, version, digest(versioned), boards or card.boards, card.minimum_runtime, hold
            )
            self._database.write_now(lambda session: self._stage(session, published, versioned, card, hold))
            self._repository.publish(published, versioned, self._clock())
            return self._database.write_now(lambda session: self._finish(session, application, version))

    def recover(self) -> None:
        """Finish or forget what a crash left half published."""
        with self._database.exclusive(LOCK):
            self._recover()

    def release(self, application: str, version: int) -> None:
        """Open a student published with `hold` to every board; its directives are sent by whoever calls this."""
        with self._database.exclusive(LOCK):
            self._repository.release(target_path(application, version), self._clock())
            self._database.write_now(functools.partial(_unhold, application=application, version=version))

    def allow_downgrade(self, application: str, version: int) -> None:
        """Let boards with a newer version go back to this one, and hold the newer ones back from then on."""
        with self._database.exclusive(LOCK):
            self._repository.allow_downgrade(target_path(application, version), self._clock())
            self._database.write_now(functools.partial(models.hold_newer, application=application, version=version))

    def refresh(self) -> list[str]:
        """Sign the metadata anew where it ages; returns the roles signed."""
        with self._database.exclusive(LOCK):
            return self._repository.refresh(self._clock())

    def _recover(self) -> None:
        staged = self._database.read_now(lambda session: list(session.scalars(select(Model).filter_by(state="staged"))))
        for model in staged:
            signed = self._repository.custom(target_path(model.application, model.version))
            application, version = model.application, model.version
            if signed is not None and signed.get("digest") == model.digest:
                log.warning("finishing the publication of %s version %d", application, version)
                self._database.write_now(functools.partial(self._finish, application=application, version=version))
            else:
                log.warning("forgetting the unfinished publication of %s version %d", application, version)
                self._database.write_now(functools.partial(_forget, application=application, version=version))

    def _stage(self, session: Session, published: Published, data: bytes, card: Card, hold: bool) -> None:
        session.add(
            Model(
                application=published.application,
                version=published.version,
                state="staged",
                digest=published.digest,
                size_bytes=len(data),
                boards=published.boards,
                minimum_runtime=published.minimum_runtime,
                held=hold,
                card_json=card.model_copy(update={"version": published.version}).model_dump_json(),
                published_ts=self._clock(),
            )
        )

    def _finish(self, session: Session, application: str, version: int) -> Publication:
        model = session.get_one(Model, (application, version))
        model.state = "published"
        told = [] if model.held else devices.assign(session, model, None, self._clock())
        return Publication(model, told)


def check(data: bytes, application: str) -> Card:
    """Load a student as a board would and run its golden vectors.

    Raises:
        RefusedError: the reason it must not be published.

    """
    try:
        student = Student.load(data)
        student.self_test()
    except (StudentError, engine.ModelError) as exc:
        raise RefusedError(Code.INVALID_ARGUMENT, f"the student {exc}") from exc
    if student.card.application != application:
        raise RefusedError(
            Code.INVALID_ARGUMENT, f"the student is of application {student.card.application!r}, not {application!r}"
        )
    return student.card


def _forget(session: Session, application: str, version: int) -> None:
    session.delete(session.get_one(Model, (application, version)))


def _unhold(session: Session, application: str, version: int) -> None:
    session.get_one(Model, (application, version)).held = False
