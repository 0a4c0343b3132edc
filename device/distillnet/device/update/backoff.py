"""How long to wait before trying again: exponential, with full jitter, so that a fleet does not come back in step."""

import random
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Delays in seconds. `random` is injected so that tests are exact."""

    first_s: float = 0.5
    limit_s: float = 60.0
    source: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def next_s(self) -> float:
        """Return the next delay: between half and all of first · 2^failures, at most `limit_s`."""
        ceiling = min(self.limit_s, self.first_s * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return ceiling * (0.5 + 0.5 * self.source.random())

    def after_s(self, asked_s: float) -> float:
        """Return how long to leave a server alone that asks for `asked_s`: that or up to a fifth more."""
        return asked_s * (1 + 0.2 * self.source.random())

    def reset(self) -> None:
        """Start from `first_s` again: something worked."""
        self.failures = 0
