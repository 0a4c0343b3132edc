"""`python -m distillnet.cloud.evaluation.distilled`: see `--help`."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from distillnet.cloud import host, script
from distillnet.cloud.metrics import Figure
from distillnet.proto.files import write_whole
from distillnet.proto.strict import ConfigError

HEAD = """# What `distillnet distill` makes of a quarter of an hour

Written by `make eval-distill` from [{results}]({results}): the command as a user runs it, without a budget, so that a
student is to take a twentieth of its teacher's time. Students are int8, in the engine; figures are of pictures that
nothing was trained on or chosen by, with their 95 % intervals. `backyard`, `kitchen` and `street`: 64-pixel pictures of
Tiny-ImageNet, all labelled; `-hour`: given an hour; `-few`: ten of them labelled for each event and sixty for `other`,
the rest a heap without labels. **recall at 1 %**: where 1 % of the pictures of 40 classes that are nowhere else raise a
false alarm. `ants-bees-few`: photos of the two and of nothing else, so that only they are told from each other.
"""
FIGURES = """
| case | labelled + heap | who | macro recall | recall at 1 % |
|---|---:|---|---|---|"""
COSTS = """
**faster**: than the int8 teacher at its native resolution in LiteRT, both with one thread, in turns of some runs,
medians. **smaller**: than the same teacher's file. Seconds: of all, in parentheses what was given; then of the
teacher's pass, relevance and surgery, the race of the candidates, the winner's distillation, and the conversion with
its gate. **int8**: what the conversion gains, in points of accuracy, on how many views of validation data.

| case | winner | ms | faster | smaller | int8 | seconds (given) | teacher | surgery | race | training | export | on |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|"""


def _command(
    data: Path = typer.Option(Path(os.environ.get("DISTILLNET_DATA", "../shared/data")), help="folder of the archives"),
    results: Path = typer.Option(Path("docs/eval-distill.json"), help="results so far; gone on with"),
    page: Path = typer.Option(Path("docs/eval-distill.md"), help="the page written from them"),
    cases: str = typer.Option("", help="separated by commas [default: all]"),
    minutes: float = typer.Option(0.0, min=0.0, help="of each distillation; 0 = as the case says, 15 or 60"),
    seeds: int = typer.Option(1, min=1, help="how many: 0, 1, …"),
) -> None:
    """Distil as a user does, and judge the student beside a probe on the same labels.

    Resumable: a case that is in the results is not run again. Writes results and page after every case.

    Example: python -m distillnet.cloud.evaluation.distilled --cases backyard,backyard-few
    """
    host.prepare()
    from distillnet.cloud.application import TeacherSection
    from distillnet.cloud.evaluation import vision
    from distillnet.cloud.evaluation.distilled.cases import PLANS
    from distillnet.cloud.evaluation.distilled.compare import compare
    from distillnet.cloud.teacher import load

    chosen = cases.split(",") if cases else list(PLANS)
    for name in chosen:
        if name not in PLANS:
            raise ConfigError(f"--cases: there is no {name!r}; there are {', '.join(PLANS)}")
    teacher = load(TeacherSection(), Path())
    found, revision = vision.read(results), host.revision()
    for seed in range(seeds):
        for name in chosen:
            plan = PLANS[name]
            given = minutes or plan.minutes
            job = {"case": name, "seed": seed, "minutes": given}
            if any(result.items() >= job.items() for result in found):
                continue
            typer.echo(f"{name}, seed {seed}, {given:g} minutes", err=True)
            outcome = compare(plan.make(data / plan.archive, seed), teacher, given, seed)
            when = datetime.now(UTC).isoformat(timespec="seconds")
            found.append(job | outcome | {"machine": host.machine(), "created": when, "revision": revision})
            found.sort(key=lambda result: list(PLANS).index(result["case"]))
            write_whole(results, (json.dumps({"results": found}, indent=1) + "\n").encode())
            write_whole(page, _page(found, os.path.relpath(results, page.parent)).encode())
    typer.echo(_page(found, os.path.relpath(results, page.parent)))


def _page(found: Sequence[dict[str, Any]], results: str) -> str:
    figures = [row for result in found for row in _figures(result)]
    return "\n".join([HEAD.format(results=results) + FIGURES, *figures, COSTS, *map(_costs, found)]) + "\n"


def _figures(result: dict[str, Any]) -> list[str]:
    n = result["n"]
    return [
        f"| {result['case']} | {n['labelled']} + {n['heap']} | {who} | {_cell(figures['macro_recall'])} | "
        f"{_cell(figures.get('recall_at_1_percent'))} |"
        for who, figures in result["figures"].items()
    ]


def _costs(result: dict[str, Any]) -> str:
    seconds, loss = result["seconds"], result["int8_loss"]
    cells = (
        result["case"],
        result["winner"],
        f"{result['latency_ms']:.3f}",
        f"{result['speedup']:.1f}×",
        f"{result['teacher_bytes'] / result['bytes']:.1f}×",
        f"{100 * (loss['int8'] - loss['float']):+.1f} ({loss['n']})",
        f"{seconds['total']:.0f} ({60 * result['minutes']:.0f})",
        *(f"{seconds.get(step, 0):.0f}" for step in ("teacher", "relevance", "race", "distillation", "export")),
        result["machine"],
    )
    return f"| {' | '.join(cells)} |"


def _cell(row: dict[str, Any] | None) -> str:
    return "–" if row is None else str(Figure(row["value"], row["ci_low"], row["ci_high"], row["n"]))


if __name__ == "__main__":
    script.run(_command, "distillnet.cloud.evaluation.distilled")
