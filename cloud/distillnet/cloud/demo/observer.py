"""What an independent MQTT subscriber saw: the demo's only source for events, frames and updates."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distillnet.proto.mqtt import EventPayload, ModelPayload, TelemetryPayload, Topics


@dataclass
class Observer:
    """Counts, from messages alone. `show` gets one line of text per message worth a person's eye."""

    topics: Topics
    show: Callable[[str], None]
    events: dict[str, str] = field(default_factory=dict)  # id → event name
    frames: int = 0
    frames_dropped: int = 0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    committed: dict[str, float] = field(default_factory=dict)  # digest → milliseconds the update took
    refused: str = ""

    def take(self, message: dict[str, Any]) -> None:
        """Take one message as `distillnet watch --json` prints it."""
        topic, payload = str(message["topic"]), message["payload"]
        if topic.startswith(f"{self.topics.base}/event/"):
            self._event(EventPayload.model_validate_json(json.dumps(payload)))
        elif topic == self.topics.telemetry:
            self._telemetry(TelemetryPayload.model_validate_json(json.dumps(payload)))
        elif topic == self.topics.model:
            self._model(ModelPayload.model_validate_json(json.dumps(payload)))
        elif topic == self.topics.status:
            self.show(f"status    {payload['state']} {payload.get('reason', '')}")

    def _event(self, event: EventPayload) -> None:
        self.events.setdefault(event.id, event.event)
        place = f"{event.source}/{event.zone}" if event.zone else event.source
        self.show(
            f"event     {event.phase:<6} {event.event:<8} on {place:<8} score {event.score:.2f}  id …{event.id[-8:]}"
        )

    def _telemetry(self, telemetry: TelemetryPayload) -> None:
        for source in telemetry.sources.values():
            self.frames += source.frames
            self.frames_dropped += source.dropped
        for stage, quantiles in telemetry.stages.items():
            if quantiles.n:
                self.stages[stage] = {"p50": quantiles.p50, "p95": quantiles.p95}
        rate = sum(source.fps for source in telemetry.sources.values())
        infer = telemetry.stages.get("infer")
        spent = f"  infer p50 {infer.p50:.2f} ms p95 {infer.p95:.2f} ms" if infer and infer.n else ""
        self.show(f"telemetry {rate:.0f} frames/s  {self.frames_dropped} dropped{spent}")

    def _model(self, model: ModelPayload) -> None:
        installed = model.installed
        version = f"version {installed.version}" if installed else "no student"
        self.show(f"model     {model.phase:<11} {version} {model.reason}")
        if model.phase == "committed" and installed:
            self.committed.setdefault(installed.digest, sum(model.durations_ms.values()))
        if model.result in ("refused", "rolled-back"):
            self.refused = model.reason
