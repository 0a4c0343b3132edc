"""The student's card: what a student is, what it expects, how good it is, and where it comes from.

`card.json` travels inside `student.tflite`. The device believes it only after TUF has vouched for the file, and
bounds-checks it even then.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distillnet.proto.strict import Strict

FORMAT_VERSION: Literal[1] = 1

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Score = Annotated[float, Field(ge=0.0, le=1.0)]


class CardEvent(Strict):
    """One event the student knows. `index` is its place among the outputs."""

    name: Name
    index: int = Field(ge=0, le=4095)
    classes: list[str] = Field(default_factory=list, description="the teacher classes it stands for")
    threshold: Score = Field(description="enter at or above")
    exit_threshold: Score = Field(description="leave below")


class ImageInput(Strict):
    """The picture a student wants: int8 (1, height, width, 3|1), real = (pixel - mean) / scale."""

    kind: Literal["image"] = "image"
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    mean: float = Field(default=127.0, description="subtracted from 0–255 pixels")
    scale: float = Field(default=128.0, gt=0, description="divides after the mean is subtracted")
    resize: Literal["area", "bilinear"] = Field(default="area", description="`area`: bilinear when enlarging")


class AudioInput(Strict):
    """The log-mel front-end a student wants: int8 (1, frames, mel_bands, 1) of mono sound."""

    kind: Literal["audio"] = "audio"
    sample_rate_hz: int = Field(default=16000, ge=4000, le=96000)
    window_samples: int = Field(default=400, ge=16, le=8192)
    hop_samples: int = Field(default=160, ge=1, le=8192)
    fft_samples: int = Field(default=512, ge=16, le=8192)
    mel_bands: int = Field(default=64, ge=4, le=256)
    low_hz: float = Field(default=125.0, ge=0)
    high_hz: float = Field(default=7500.0, gt=0)
    log_offset: float = Field(default=0.001, gt=0, description="log(mel + offset)")
    mean: float = 0.0
    scale: float = Field(default=1.0, gt=0)
    frames: int = Field(default=96, ge=1, le=4096, description="hops in one window")
    stride_frames: int = Field(default=48, ge=1, le=4096, description="hops between two decisions")

    @model_validator(mode="after")
    def _front_end_can_be_built(self) -> "AudioInput":
        if self.fft_samples & (self.fft_samples - 1) != 0:
            raise ValueError(f"fft_samples must be a power of two; got {self.fft_samples}")
        if self.window_samples > self.fft_samples:
            raise ValueError(f"window_samples ({self.window_samples}) is larger than fft_samples ({self.fft_samples})")
        if not self.low_hz < self.high_hz <= self.sample_rate_hz / 2:
            raise ValueError(
                f"low_hz < high_hz <= sample_rate_hz / 2 must hold; "
                f"got {self.low_hz}, {self.high_hz} at {self.sample_rate_hz} Hz"
            )
        return self


class Metric(Strict):
    """One measured figure: never without its data set, split and n."""

    name: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    dataset: str
    split: str
    n: int = Field(ge=0)


class Latency(Strict):
    """Median time of one inference on a board, and how it was obtained."""

    board: str
    ms: float = Field(ge=0)
    threads: int = Field(ge=1)
    engine: str
    how: str = Field(description="measured | estimated, and with what")


class TeacherInfo(Strict):
    """Where the knowledge comes from."""

    name: str
    source: str
    digest: str = ""
    licence: str = ""


class DataInfo(Strict):
    """One source of training pictures or sound."""

    name: str
    digest: str
    licence: str = ""
    n: int = Field(ge=0)


class Card(Strict):
    """Everything a board, a report or a person needs to know about one student."""

    format_version: Literal[1] = FORMAT_VERSION
    application: Name
    version: int = Field(default=0, ge=0, description="assigned when published; 0 before")
    events: list[CardEvent] = Field(min_length=1, max_length=256)
    other: int = Field(ge=0, description="index of the output for everything else")
    temperature: float = Field(default=1.0, gt=0, description="scores = softmax(logits / temperature)")
    input: ImageInput | AudioInput = Field(discriminator="kind")
    metrics: list[Metric] = Field(default_factory=list)
    latency: list[Latency] = Field(default_factory=list)
    teacher: TeacherInfo
    data: list[DataInfo] = Field(default_factory=list)
    seed: int = 0
    git_revision: str = ""
    created: str = Field(default="", description="ISO 8601, UTC")
    minimum_runtime: str = "0.1.0"
    boards: list[str] = Field(default_factory=list, description="boards it is meant for; empty = any")

    @model_validator(mode="after")
    def _outputs_are_distinct(self) -> "Card":
        indices = [event.index for event in self.events] + [self.other]
        if sorted(indices) != list(range(len(indices))):
            raise ValueError(f"outputs must be 0–{len(indices) - 1}, each once; got {indices}")
        names = [event.name for event in self.events]
        if len(set(names)) != len(names) or "other" in names:
            raise ValueError(f"event names must be distinct and none may be 'other'; got {names}")
        for event in self.events:
            if event.exit_threshold > event.threshold:
                raise ValueError(f"event {event.name!r}: exit_threshold is above threshold")
        return self

    @property
    def labels(self) -> list[str]:
        """Output names in output order."""
        by_index = {event.index: event.name for event in self.events} | {self.other: "other"}
        return [by_index[index] for index in range(len(by_index))]
