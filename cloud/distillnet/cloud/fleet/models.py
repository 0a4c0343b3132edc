"""Published students as facts. Plain functions of a database session."""

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from distillnet.cloud.fleet.database import Model
from distillnet.cloud.fleet.errors import Code, RefusedError


def next_version(session: Session, application: str) -> int:
    """Return the version the next publication of an application gets; versions are never used twice."""
    highest = session.scalar(select(func.max(Model.version)).where(Model.application == application))
    return (highest or 0) + 1


def latest(session: Session, application: str, board: str) -> Model | None:
    """Return the newest student of an application that is for every device of a board, not only for a rollout."""
    published = select(Model).where(Model.application == application, Model.state == "published", Model.held.is_(False))
    for model in session.scalars(published.order_by(Model.version.desc())):
        if fits(model, board):
            return model
    return None


def fits(model: Model, board: str) -> bool:
    """Whether a student is meant for a board; a board that does not say what it is takes any."""
    return not model.boards or not board or board in model.boards


def published(session: Session, application: str) -> list[Model]:
    """Return published students, newest first; of one application or, with "", of all."""
    query = select(Model).where(Model.state == "published")
    if application:
        query = query.where(Model.application == application)
    return list(session.scalars(query.order_by(Model.application, Model.version.desc())))


def get(session: Session, application: str, version: int) -> Model:
    """Return one published student.

    Raises:
        RefusedError: there is none.

    """
    model = session.get(Model, (application, version))
    if model is None or model.state != "published":
        raise RefusedError(Code.NOT_FOUND, f"application {application!r} has no published version {version}")
    return model


def hold_newer(session: Session, application: str, version: int) -> None:
    """Hold back every version of an application that is newer than this one."""
    newer = (Model.application == application) & (Model.version > version)
    session.execute(update(Model).where(newer).values(held=True))
