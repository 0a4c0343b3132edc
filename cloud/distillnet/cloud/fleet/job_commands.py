"""`distillnet jobs …`: distillation on the service's machines."""

import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from distillnet.cloud.fleet import options

jobs_app = typer.Typer(help="Distil on the service's machines.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(jobs_app, name="jobs")


@jobs_app.command("submit")
@options.asks
def submit(
    application: list[Path] = typer.Argument(help="application files; data must be readable where jobs run"),
    minutes: float | None = typer.Option(None, min=0.05, help="of search and training; default: what the file says"),
    seed: int | None = typer.Option(None, min=0, help="default: what the file says"),
    workers: int = typer.Option(1, min=1, max=256, help="candidates of one race trained at once, one thread each"),
    wait: bool = typer.Option(False, help="show the log of each until it is done; fail if it fails"),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Put distillations in the queue.

    Example: distillnet jobs submit backyard.app.toml porch.app.toml --minutes 30
    """
    from distillnet.cloud.jobs.spec import portable
    from distillnet.proto.v1 import admin_pb2

    specs = [portable(path) for path in application]
    with service.stub() as stub:
        rows = []
        for spec in specs:
            request = admin_pb2.SubmitDistillationRequest(
                application_toml=spec, minutes=minutes or 0.0, seed=seed, workers=workers
            )
            rows.append(stub.SubmitDistillation(request, timeout=options.TIMEOUT_S))
        if wait:
            rows = [_follow(stub, row.id) for row in rows]
    _show(rows, as_json)
    if any(row.state in ("failed", "cancelled") for row in rows):
        raise typer.Exit(1)


@jobs_app.command("list")
@options.asks
def list_jobs(
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Show the newest jobs and how far they are.

    Example: distillnet jobs list --json
    """
    _list(0, service, as_json)


@jobs_app.command("show")
@options.asks
def show(
    job: int = typer.Argument(min=1),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Show one job.

    Example: distillnet jobs show 3
    """
    _list(job, service, as_json)


@jobs_app.command("logs")
@options.asks
def logs(
    job: int = typer.Argument(min=1),
    *,
    service: options.Service,
) -> None:
    """Show a job's log, and go on showing it until the job ends.

    Example: distillnet jobs logs 3
    """
    with service.stub() as stub:
        last = _follow(stub, job, sys.stdout)
    if last.state != "done":
        typer.echo(f"job {job}: {last.state}: {last.reason}", err=True)
        raise typer.Exit(1)


@jobs_app.command("cancel")
@options.asks
def cancel(
    job: int = typer.Argument(min=1),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """End a job.

    Example: distillnet jobs cancel 3
    """
    from distillnet.proto.v1 import admin_pb2

    with service.stub() as stub:
        _show([stub.CancelJob(admin_pb2.CancelJobRequest(id=job), timeout=options.TIMEOUT_S)], as_json)


@jobs_app.command("fetch")
@options.asks
def fetch(
    job: int = typer.Argument(min=1),
    out: Path = typer.Option(Path("student"), help="folder for student.tflite, report.html and report.json"),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Fetch what a job made.

    Example: distillnet jobs fetch 3 --out backyard
    """
    from distillnet.cloud.fleet.errors import FleetError
    from distillnet.proto.files import write_whole
    from distillnet.proto.v1 import admin_pb2

    with service.stub() as stub:
        row = stub.ListJobs(admin_pb2.ListJobsRequest(id=job), timeout=options.TIMEOUT_S).jobs[0]
        if row.state != "done":
            raise FleetError(f"job {job} is {row.state}: it has made nothing to fetch")
        for name in row.files:
            pieces = stub.FetchJobFile(admin_pb2.FetchJobFileRequest(id=job, name=name), timeout=options.TIMEOUT_S)
            content = b"".join(piece.data for piece in pieces)
            try:
                write_whole(out / Path(name).name, content)
            except OSError as exc:
                raise FleetError(f"{out}: cannot be written: {exc.strerror}") from exc
    if as_json:
        options.print_json({"out": str(out), "files": list(row.files)})
    else:
        typer.echo("\n".join(str(out / name) for name in row.files))


def _list(job: int, service: options.Service, as_json: bool) -> None:
    from distillnet.proto.v1 import admin_pb2

    with service.stub() as stub:
        rows = stub.ListJobs(admin_pb2.ListJobsRequest(id=job), timeout=options.TIMEOUT_S).jobs
    _show(rows, as_json)


def _follow(stub: Any, job: int, out: Any = sys.stderr) -> Any:
    from distillnet.proto.v1 import admin_pb2

    last = None
    for update in stub.WatchJob(admin_pb2.WatchJobRequest(id=job)):
        out.write(update.log)
        out.flush()
        last = update.job
    return last


def _show(rows: Any, as_json: bool) -> None:
    if as_json:
        options.print_json([_facts(row) for row in rows])
        return
    table = Table("job", "application", "state", "submitted", "by", "step or reason")
    for row in rows:
        shown = row.reason or row.step
        table.add_row(str(row.id), row.application, row.state, options.moment(row.created_ts), row.created_by, shown)
    Console(highlight=False).print(table)


def _facts(row: Any) -> dict[str, Any]:
    names = ("id", "application", "state", "reason", "step", "created_ts", "started_ts", "done_ts", "created_by")
    return {name: getattr(row, name) for name in names} | {"restarts": row.restarts, "files": list(row.files)}
