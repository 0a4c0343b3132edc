"""The command `distillnet distill`."""

import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from distillnet.cloud import host
from distillnet.cloud.fleet import options


def register(app: typer.Typer) -> None:
    """Add `distill` to the command line."""
    app.command("distill")(_command)


def _command(
    application: Path = typer.Argument(help="the application file"),
    out: Path = typer.Option(Path("student"), help="folder for student.tflite, report.html and report.json"),
    minutes: float | None = typer.Option(None, min=0.05, help="of search and training; default: what the file says"),
    seed: int | None = typer.Option(None, min=0, help="default: what the file says"),
    resume: bool = typer.Option(False, help="go on from where an interrupted run stopped"),
    workers: int = typer.Option(1, min=1, help="candidates of the race trained at once, one thread each"),
    executor: str = typer.Option("local", help="where they are trained: local processes, or an existing ray cluster"),
    ray_address: str | None = typer.Option(None, help="of the Ray cluster, host:port; default: this machine's"),
    from_fleet: bool = typer.Option(
        False, help="add what boards were unsure of, and their measured profile; fetched into OUT/fleet"
    ),
    fleet: Path = typer.Option(
        Path("distillnet-fleet"), envvar="DISTILLNET_FLEET", help="the fleet service's data directory, or"
    ),
    admin: Path | None = options.ADMIN,
    server: str | None = options.SERVER,
    as_json: bool = typer.Option(False, "--json", help="end with the report's facts as one JSON line on stdout"),
) -> None:
    """Distil a student: from an application file and data to student.tflite with an honest report.

    Example: distillnet distill backyard.app.toml --out backyard --minutes 15
    """
    if executor not in ("local", "ray"):
        raise typer.BadParameter(f"{executor!r}; expected local or ray", param_hint="--executor")
    if from_fleet:
        application = _with_feedback(application, out, options.Service(fleet, admin, server).access(), resume=resume)
    host.prepare()
    from distillnet.cloud.pipeline import distill

    try:
        facts = distill(
            application,
            out,
            minutes=minutes,
            seed=seed,
            resume=resume,
            quiet=False,
            workers=workers,
            executor="ray" if executor == "ray" else "local",
            ray_address=ray_address,
        )
    except KeyboardInterrupt as exc:
        Console(stderr=True).print("interrupted; nothing half-written. Go on with --resume.")
        raise typer.Exit(130) from exc
    if as_json:
        typer.echo(json.dumps(facts, allow_nan=False))
    else:
        _print(facts)


def _with_feedback(application: Path, out: Path, access: Any, *, resume: bool) -> Path:
    """Fetch what the fleet gives; a run that is resumed goes on with what it began with."""
    from distillnet.cloud.fleet.from_fleet import APPLICATION, FOLDER, collect

    before = out / FOLDER / APPLICATION
    if resume and before.is_file():
        return before
    collected = collect(application, out, access)
    Console(stderr=True, highlight=False).print(str(collected), markup=False)
    return collected.application


def _print(facts: dict[str, Any]) -> None:
    table = Table("", "", box=None, show_header=False)
    table.add_row("student", f"{facts['student']}, {facts['student_bytes'] / 1024:.0f} KiB")
    table.add_row("latency", f"{facts['student_latency_ms']:.3f} ms ({facts['engine']}, one thread, this machine)")
    if "speedup" in facts:
        table.add_row(
            "", f"{facts['speedup']:.1f} × faster than the int8 teacher, {facts['teacher_latency_ms']:.2f} ms"
        )
    if "agreement" in facts:
        low, high = facts["agreement_ci"]
        shown = f"{facts['agreement']:.3f} [{low:.3f}–{high:.3f}], n = {facts['agreement_n']}"
        table.add_row("agreement with the teacher", shown)
    for row in facts["baselines"]:
        shown = f"{row['value']:.3f} [{row['ci_low']:.3f}–{row['ci_high']:.3f}], n = {row['n']}"
        table.add_row(f"{row['name']}: {row['metric']}", shown)
    table.add_row("time", f"{facts['seconds']['total']:.0f} s")
    table.add_row("report", facts["report"])
    Console(highlight=False).print(table)
