"""The gate of a sound source: whether there is anything to hear above the place's own noise."""

import numpy as np

from distillnet.engine.log_mel import Samples

_OPEN_DB = 6.0
_HOLD_S = 2.0
_FALL_S = 1.0
_RISE_DB_PER_S = 0.5
_SILENCE_DB = -90.0


class SoundGate:
    """Open while the level is 6 dB above an adaptive noise floor, and two seconds longer.

    The floor follows the quietest level quickly downwards and 0.5 dB a second upwards, so that a fan that starts closes
    the gate again after a while. Digital silence never opens it. One thread at a time.
    """

    def __init__(self) -> None:
        """Begin open: the floor is not known yet."""
        self._floor_db: float | None = None
        self._open_until = _HOLD_S
        self._t = 0.0

    def opens(self, samples: Samples, rate_hz: int) -> bool:
        """Look at the stream's next samples, float32 (n,)."""
        seconds = len(samples) / rate_hz
        self._t += seconds
        power = float(np.mean(np.square(samples - samples.mean(), dtype=np.float64))) if len(samples) else 0.0
        level_db = 10 * np.log10(power) if power > 1e-12 else -120.0
        if self._floor_db is None:
            self._floor_db = level_db
        elif level_db < self._floor_db:
            self._floor_db += (level_db - self._floor_db) * min(1.0, seconds / _FALL_S)
        else:
            self._floor_db = min(level_db, self._floor_db + _RISE_DB_PER_S * seconds)
        if level_db > max(self._floor_db + _OPEN_DB, _SILENCE_DB):
            self._open_until = self._t + _HOLD_S
        return self._t <= self._open_until
