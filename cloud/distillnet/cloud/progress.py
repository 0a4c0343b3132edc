"""Progress on stderr: a bar per long step on a terminal, a line per step elsewhere, silence for a library."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[..., None]


class Steps:
    """Names, times and shows the steps of one run. `seconds` holds what each took."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Show on stderr unless `quiet`."""
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self.seconds: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Show one line."""
        self._console.print(line, markup=False, soft_wrap=True)

    @contextmanager
    def step(self, name: str, title: str, total: float | None = None) -> Iterator[Advance]:
        """Time a step under `name`; yields `advance(amount=1, note="")`."""
        begun = time.monotonic()
        try:
            if self._console.is_terminal and total is not None:
                with Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TimeRemainingColumn(),
                    TextColumn("{task.fields[note]}"),
                    console=self._console,
                    transient=True,
                ) as progress:
                    task = progress.add_task(title, total=total, note="")

                    def advance(amount: float = 1.0, note: str = "") -> None:
                        progress.update(task, advance=amount, note=note)

                    yield advance
            else:
                yield lambda amount=1.0, note="": None
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun
        self.say(f"{title}: {time.monotonic() - begun:.1f} s")
