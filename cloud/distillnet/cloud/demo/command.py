"""The command `distillnet demo`."""

import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from distillnet.cloud.demo.processes import DemoError
from distillnet.cloud.demo.story import Outcome, tell

HONESTY = (
    "The demo's pictures are few and from the very videos it then watches (other frames, other crops): "
    "its agreement shows that the machinery works and is no benchmark."
)


def register(app: typer.Typer) -> None:
    """Add `demo` to the command line."""
    app.command()(demo)


def demo(
    out: Path = typer.Option(Path(".demo"), help="Where everything is written; an earlier demo there is replaced."),
    as_json: bool = typer.Option(False, "--json", help="End with one JSON line on stdout; the rest goes to stderr."),
) -> None:
    """Run the main job end to end: distil, sign, publish, enrol, run on real video, update while it runs.

    Example: distillnet demo --json
    """
    console = Console(stderr=as_json, highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        outcome = tell(out.resolve(), lambda line: console.print(line, markup=False, soft_wrap=True))
    except DemoError as exc:
        Console(stderr=True, highlight=False).print(f"error: {exc}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from exc
    except KeyboardInterrupt as exc:
        console.print("interrupted; every process of the demo is stopped")
        raise typer.Exit(130) from exc
    summary = summarise(outcome)
    console.print(_table(summary, outcome))
    console.print(HONESTY)
    console.print(f"report: {outcome.report}", soft_wrap=True)
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")


def summarise(outcome: Outcome) -> dict[str, Any]:
    """Return the facts of one demo as the JSON line states them."""
    distilled, observer = outcome.distilled, outcome.observer
    return {
        "seconds": round(outcome.seconds, 1),
        "events": len(observer.events),
        "student_bytes": distilled["student_bytes"],
        "teacher_bytes": distilled["teacher_bytes"],
        "student_latency_ms": distilled["student_latency_ms"],
        "teacher_latency_ms": distilled["teacher_latency_ms"],
        "speedup": distilled["speedup"],
        "agreement": distilled["agreement"],
        "updates_applied": len(observer.committed),
        "frames": observer.frames,
        "frames_dropped": observer.frames_dropped,
        "report": str(outcome.report),
    }


def _table(summary: dict[str, Any], outcome: Outcome) -> Table:
    table = Table(title="Distill-Net demo", title_justify="left")
    table.add_column("")
    table.add_column("teacher", justify="right")
    table.add_column("student", justify="right")
    table.add_row("size", f"{summary['teacher_bytes'] / 1024:.0f} KiB", f"{summary['student_bytes'] / 1024:.0f} KiB")
    teacher_ms, student_ms = summary["teacher_latency_ms"], summary["student_latency_ms"]
    table.add_row("latency, int8, one thread, this machine", f"{teacher_ms:.2f} ms", f"{student_ms:.3f} ms")
    table.add_row("", "", f"{summary['speedup']:.1f} × faster")
    table.add_row("agreement on held-out crops", "", f"{summary['agreement']:.3f}")
    table.add_section()
    observer = outcome.observer
    kinds = sorted(set(observer.events.values()))
    table.add_row("events seen", "", f"{summary['events']} ({', '.join(kinds)})")
    table.add_row("frames, of which dropped", "", f"{summary['frames']}, {summary['frames_dropped']}")
    for stage, quantiles in observer.stages.items():
        table.add_row(f"{stage}, p50 / p95", "", f"{quantiles['p50']:.2f} / {quantiles['p95']:.2f} ms")
    for number, milliseconds in enumerate(observer.committed.values(), start=1):
        table.add_row(f"update {number}, told to committed", "", f"{milliseconds / 1000:.2f} s")
    agreed = "yes" if outcome.fleet_digest in observer.committed else "NO"
    table.add_row("the cloud knows what runs, by digest", "", agreed)
    table.add_row("whole demo", "", f"{summary['seconds']:.0f} s")
    return table


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
