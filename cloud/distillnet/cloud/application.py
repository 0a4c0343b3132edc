"""The application file: a few events, data, a budget. The one file an application developer writes."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distillnet.proto.card import Name
from distillnet.proto.strict import ConfigError, Strict, load_toml, nearest

Modality = Literal["image", "audio"]
NATIVE_RESOLUTION = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
TEACHERS: dict[Modality, tuple[str, ...]] = {
    "image": (
        *NATIVE_RESOLUTION,
        "file:PATH.tflite",
        "onnx:PATH.onnx",
        "timm:NAME",
        "torch:MODULE:ATTRIBUTE",
    ),
    "audio": ("soundnet", "file:PATH.tflite", "onnx:PATH.onnx", "torch:MODULE:ATTRIBUTE"),
}
Rate = Annotated[float, Field(gt=0.0, lt=1.0)]


class ApplicationSection(Strict):
    """`[application]`."""

    name: Name
    modality: Modality = "image"


class TeacherSection(Strict):
    """`[teacher]`: `efficientnet-lite0|1|2`, `soundnet`, `file:`, `onnx:`, `timm:NAME`, `torch:module:attr`."""

    source: str = "efficientnet-lite0"
    resolution: int | None = Field(
        default=None, ge=32, le=1024, description="pictures are shown to it at this size; EfficientNet-Lite: 160"
    )
    classes_file: Path | None = Field(default=None, description="one class name per line, for teachers that bring none")


class EventSection(Strict):
    """`[[event]]`: an event stands for teacher classes, a directory of examples, phrases to say, or more of these."""

    name: Name
    classes: list[str] = Field(default_factory=list, description="names, WordNet ids, indices or index ranges '0-397'")
    examples: Path | None = None
    say: list[str] = Field(
        default_factory=list, description="phrases a speech synthesiser (espeak-ng) says; sound only; synthetic data"
    )

    @model_validator(mode="after")
    def _has_a_meaning(self) -> Self:
        if self.name == "other":
            raise ValueError("'other' is what every student has besides its events; choose another name")
        if not self.classes and self.examples is None and not self.say:
            raise ValueError(f"event {self.name!r} needs `classes` (of the teacher) or `examples` (a directory)")
        return self


class DataSection(Strict):
    """`[data]`. Paths are relative to the application file."""

    labelled: Path | None = Field(
        default=None, description="directory per event or teacher class, or a CSV path,label[,group]"
    )
    unlabelled: list[Path] = Field(
        default_factory=list,
        description="pictures, videos, their folders, CSV path[,group]; or sounds; the teacher labels them",
    )
    negatives: Path | None = Field(
        default=None, description="directory, or directory per class, of what is none of the events"
    )
    language: str = Field(default="en-us", description="of what events `say`, as espeak-ng names it")
    validation_share: Rate = 0.15
    test_share: Rate = 0.15


SECONDS_PER_HOUR = 3600.0
DEFAULT_FALSE_ALARM_RATE = 0.01
SMALLER = 9.4
"""So many times fewer weights than the teacher, where no size is asked for: the student's file is an eighth then."""


class BudgetSection(Strict):
    """`[budget]`: the platform's constraint, and the false alarms the application bears."""

    board: str = "x86-64"
    latency_ms: float | None = Field(default=None, gt=0)
    size_kb: float | None = Field(default=None, gt=0)
    ram_kb: float | None = Field(default=None, gt=0)
    false_alarm_rate: Rate | None = Field(default=None, description="share of frames of `other` that raise an event")
    false_alarms_per_hour: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_alarm_budget(self) -> Self:
        if self.false_alarm_rate is not None and self.false_alarms_per_hour is not None:
            raise ValueError("give false_alarm_rate or false_alarms_per_hour, not both")
        return self

    @property
    def alarm_rate(self) -> float:
        """The share of judgements of `other` that may raise an event; per hour means one judgement a second."""
        if self.false_alarms_per_hour is not None:
            return min(self.false_alarms_per_hour / SECONDS_PER_HOUR, 1.0)
        return self.false_alarm_rate or DEFAULT_FALSE_ALARM_RATE


class SearchSection(Strict):
    """`[search]`: the business's constraint, time to develop."""

    minutes: float = Field(default=15.0, gt=0)
    seed: int = Field(default=0, ge=0)
    candidates: int = Field(default=4, ge=1, le=64)
    resolution: int | None = Field(default=None, ge=32, le=512, description="of the student; default: 96")
    steps: int | None = Field(default=None, ge=1, description="train exactly so long instead of by the clock")


class Application(Strict):
    """The whole application file."""

    application: ApplicationSection
    teacher: TeacherSection = TeacherSection()
    event: list[EventSection] = Field(min_length=1, max_length=255)
    data: DataSection
    budget: BudgetSection = BudgetSection()
    search: SearchSection = SearchSection()

    @model_validator(mode="after")
    def _only_sounds_are_said(self) -> Self:
        if self.application.modality == "image" and any(event.say for event in self.event):
            raise ValueError('`say` is for modality = "audio": pictures cannot be said')
        return self

    @model_validator(mode="after")
    def _the_teacher_knows_sounds_without_labels(self) -> Self:
        unknown = [event.name for event in self.event if not event.classes]
        if self.application.modality == "audio" and self.data.unlabelled and unknown:
            raise ValueError(
                f"[data] `unlabelled`: the teacher labels these sounds; event {unknown[0]!r} needs `classes`"
            )
        return self

    @model_validator(mode="after")
    def _events_are_distinct(self) -> Self:
        names = [event.name for event in self.event]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"event {twice[0]!r} is there twice")
        return self


def load(path: Path) -> Application:
    """Read an application file.

    Raises:
        ConfigError: what is wrong, one line per problem.

    """
    return load_toml(path, Application)


def check_teacher(source: str, modality: Modality) -> None:
    """Refuse a `[teacher] source` of a kind that there is not.

    Raises:
        ConfigError: which there are.

    """
    known = TEACHERS[modality]
    if not any(_is_of(source, form) for form in known):
        raise ConfigError(f"[teacher] source {source!r} is none of {', '.join(known)}{nearest(source, list(known))}")


def _is_of(source: str, form: str) -> bool:
    kind, colon, _ = form.partition(":")
    return source == form if not colon else source.startswith(f"{kind}:") and source != f"{kind}:"
