"""Counts finished calls."""

from collections import Counter


class Calls:
    """Finished calls by method and status."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def count(self, method: str, status: str) -> None:
        """Count one."""
        self.counts[method, status] += 1
