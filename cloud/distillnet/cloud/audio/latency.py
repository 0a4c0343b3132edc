"""How long a second of sound takes: the student with its front-end in the engine beside the teacher in LiteRT.

Both in one process, one thread, in turn, medians. Both decide once per window without overlap, so that the comparison
does not depend on how often an application wants an answer; the teacher's own front-end is part of its graph.
"""

import statistics
import time

import numpy as np

from distillnet.cloud.audio.lessons import span_samples
from distillnet.cloud.audio.teacher import SoundTeacher
from distillnet.engine import Model
from distillnet.engine.frontend import LogMel
from distillnet.proto.card import AudioInput

ROUNDS = 60
MICROPHONE_HZ = 48000


def compare_latency(model: Model, spec: AudioInput, teacher: SoundTeacher, rounds: int = ROUNDS) -> dict[str, float]:
    """Return medians in milliseconds: `student_ms_per_s` (front-end and network), its parts, and the teacher's."""
    quantisation = model.info["input"]
    rate_hz = spec.sample_rate_hz
    rng = np.random.default_rng(0)
    hop_span = spec.frames * spec.hop_samples
    sound = rng.normal(0, 0.1, hop_span).astype(np.float32)
    fast = rng.normal(0, 0.1, hop_span * MICROPHONE_HZ // rate_hz).astype(np.float32)
    heard = rng.normal(0, 0.1, (1, teacher.samples)).astype(np.float32)
    ears = LogMel(spec, scale=quantisation["scale"], zero_point=quantisation["zero_point"])
    resampling = LogMel(spec, MICROPHONE_HZ, scale=quantisation["scale"], zero_point=quantisation["zero_point"])
    ears.push(rng.normal(0, 0.1, span_samples(spec)).astype(np.float32))
    window = np.zeros((1, spec.frames, spec.mel_bands, 1), np.int8)
    times: dict[str, list[float]] = {"front": [], "network": [], "both": [], "resampling": [], "teacher": []}
    for _ in range(rounds):
        for _ in range(5):
            begun = time.perf_counter()
            rows = ears.push(sound)
            middle = time.perf_counter()
            window[0, :, :, 0] = rows[: spec.frames]
            model.run_tensor(window)
            ended = time.perf_counter()
            times["front"].append(middle - begun)
            times["network"].append(ended - middle)
            times["both"].append(ended - begun)
        begun = time.perf_counter()
        resampling.push(fast)
        times["resampling"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        teacher.hear(heard)
        times["teacher"].append(time.perf_counter() - begun)
    ms = {name: statistics.median(values) * 1000 for name, values in times.items()}
    seconds = hop_span / rate_hz
    teacher_s = teacher.samples / rate_hz
    return {
        "student_ms_per_s": ms["both"] / seconds,
        "front_end_ms_per_s": ms["front"] / seconds,
        "network_ms_per_s": ms["network"] / seconds,
        "student_network_ms": ms["network"],
        "front_end_from_48k_ms_per_s": ms["resampling"] / seconds,
        "teacher_ms_per_s": ms["teacher"] / teacher_s,
        "ratio": (ms["teacher"] / teacher_s) / (ms["both"] / seconds),
        "rounds": float(rounds),
    }
