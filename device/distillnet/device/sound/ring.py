"""A ring buffer between the sound card's thread, which must never wait, and the reader's, which may be late."""

import threading
from dataclasses import dataclass

import numpy as np

from distillnet.engine.log_mel import Samples


@dataclass(frozen=True, slots=True)
class Taken:
    """Samples taken from the ring."""

    samples: Samples
    lost: int
    """Samples that were lost just before these: overwritten here, or reported lost by the driver."""
    position: int
    """How many samples had been recorded, lost ones included, before the first of these."""


class Ring:
    """Holds the latest `capacity` samples. One writer, one reader."""

    def __init__(self, capacity: int) -> None:
        """Make room for `capacity` samples; nothing is allocated after."""
        self._buffer = np.zeros(capacity, np.float32)
        self._changed = threading.Condition()
        self._written = 0
        self._read = 0
        self._lost = 0
        self._driver_lost = self._driver_total = 0
        self._closed = False
        self.overruns = 0
        """How often samples were lost."""

    def write(self, samples: Samples, lost: int = 0) -> None:
        """Append samples, overwriting the oldest when full; `lost` were dropped by the driver before them."""
        capacity = len(self._buffer)
        with self._changed:
            if lost:
                self._driver_lost += lost
                self.overruns += 1
            kept = samples[-capacity:]
            self._written += len(samples) - len(kept)
            at = self._written % capacity
            first = kept[: capacity - at]
            self._buffer[at : at + len(first)] = first
            self._buffer[: len(kept) - len(first)] = kept[len(first) :]
            self._written += len(kept)
            if self._written - self._read > capacity:
                self._lost += self._written - self._read - capacity
                self._read = self._written - capacity
                self.overruns += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let the reader go: no more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, count: int, timeout_s: float) -> Taken | None:
        """Return the next `count` samples when they are there; None after `timeout_s`, or when closed and empty."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._written - self._read >= count or self._closed, timeout_s):
                return None
            available = min(count, self._written - self._read)
            if available == 0:
                return None
            at = np.arange(self._read, self._read + available) % len(self._buffer)
            lost = self._lost + self._driver_lost
            self._driver_total += self._driver_lost
            position = self._read + self._driver_total
            self._lost = self._driver_lost = 0
            samples = self._buffer[at]
            self._read += available
            return Taken(samples, lost, position)
