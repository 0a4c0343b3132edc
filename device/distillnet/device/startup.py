"""What must be right before the daemon runs, and which student it starts with."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from distillnet.device.config import DeviceConfig
from distillnet.device.readers import SourceError, check
from distillnet.device.slot import ModelSlot
from distillnet.engine.student import Student
from distillnet.proto.archive import StudentError
from distillnet.proto.card import AudioInput
from distillnet.proto.mqtt import ModelPayload
from distillnet.proto.strict import ConfigError

log = logging.getLogger(__name__)


class Updates(Protocol):
    """What the daemon needs of the update service."""

    def start(self) -> None:
        """Begin to look for updates."""

    def stop(self) -> None:
        """End within a second."""

    def check_now(self) -> None:
        """Look for an update now."""


def check_sources(config: DeviceConfig) -> None:
    """Look whether every source can be used: files must be there, cameras and streams may come later.

    Raises:
        ConfigError: a file is missing or of no use.

    """
    for source in config.source:
        try:
            check(source)
        except SourceError as exc:
            raise ConfigError(str(exc)) from exc


def first_student(config: DeviceConfig) -> Student | None:
    """Return the student to start with: the committed one, else `model.path`, else none where updates may bring one.

    Raises:
        ConfigError: there is none and none can come, it cannot be read, or it is for another application.
        StudentError: it is no valid student.
        ModelError: its model cannot be loaded.

    """
    data = _committed(config)
    where = "the committed student"
    if data is None and config.model.path is not None:
        where = str(config.model.path)
        data = _bytes_of(config.model.path, "model.path")
    if data is None:
        if not _takes_updates(config):
            raise ConfigError("there is no student to run: set model.path, or `distillnet enroll` and update.server")
        return None
    return _loaded(config, data, where, config.model.application, "model")


def sound_student(config: DeviceConfig) -> Student | None:
    """Return the student of `[sound_model]`: the committed one, else its path, else none where updates may bring one.

    Raises:
        ConfigError: there is none and none can come, it cannot be read, is for another application, or does not hear.
        StudentError: it is no valid student.
        ModelError: its model cannot be loaded.

    """
    section = config.sound_model
    if section is None:
        return None
    data, where = _committed(config, sound=True), "the committed student for sounds"
    if data is None and section.path is not None:
        data, where = _bytes_of(section.path, "sound_model.path"), str(section.path)
    if data is None:
        if not _takes_updates(config):
            raise ConfigError("sound_model.path: is missing, and no updates can bring a student: see update.server")
        return None
    student = _loaded(config, data, where, section.application, "sound_model")
    if not isinstance(student.card.input, AudioInput):
        raise ConfigError(f"sound_model.path: {where} is a student for pictures")
    return student


def _bytes_of(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{where}: {path} cannot be read: {exc.strerror}") from exc


def _loaded(config: DeviceConfig, data: bytes, where: str, application: str, section: str) -> Student:
    try:
        student = Student.load(
            data,
            engine=config.engine.backend,
            threads=config.engine.threads,
            max_arena_bytes=config.update.max_arena_bytes,
        )
    except StudentError as exc:
        raise StudentError(f"{where}: {exc}") from exc
    if student.card.application != application:
        raise ConfigError(f"{section}.application is {application!r} but {where} is for {student.card.application!r}")
    return student


def updates(
    config: DeviceConfig,
    slot: ModelSlot,
    publish: Callable[[ModelPayload], None],
    hearing: ModelSlot | None = None,
    publish_sound: Callable[[ModelPayload], None] = lambda _: None,
) -> Updates | None:
    """Return the update service of one or both students; None where the device file names no server and no store is.

    Raises:
        ConfigError: `[feedback]` wants to give, and there is nobody to give to.

    """
    if not _takes_updates(config):
        if config.feedback.examples or config.feedback.profile is not None:
            raise ConfigError("[feedback] needs a fleet to give to: set update.server and `distillnet enroll`")
        return None
    from distillnet.device.update.service import UpdateService, for_sound

    service = UpdateService(config, slot, publish)
    if hearing is not None:
        UpdateService(for_sound(config), hearing, publish_sound, host=service)
    return service


def _takes_updates(config: DeviceConfig) -> bool:
    return config.update.server is not None or (config.device.state_dir / "store").exists()


def _committed(config: DeviceConfig, *, sound: bool = False) -> bytes | None:
    if not _takes_updates(config):
        return None
    from distillnet.device.update.errors import UpdateError  # only boards that take updates need TUF
    from distillnet.device.update.service import SOUND_STORE, STORE, for_sound, startup_student

    mine = for_sound(config) if sound else config
    try:
        return startup_student(mine, name=SOUND_STORE if sound else STORE)
    except UpdateError as exc:
        if mine.model.path is None:
            raise ConfigError(f"the store of students cannot be used: {exc}") from exc
        log.error("the store of students cannot be used, starting with %s: %s", mine.model.path, exc)
        return None
