"""`python -m distillnet.cloud.evaluation.few`: see `--help`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from distillnet.cloud import host, script
from distillnet.cloud.metrics import Figure
from distillnet.proto.files import write_whole
from distillnet.proto.strict import ConfigError

HEAD = """# Ten pictures of each event and a heap without labels

Written by `make eval-few` from [{results}]({results}). Students are int8, in the engine; figures are of pictures
that nothing was trained on, with their 95 % intervals. `backyard`: 64-pixel pictures, sixty of them labelled as
`other`; recall when 1 % of the pictures of 40 classes that are nowhere else raise a false alarm. `ants-bees`: photos
of the two and of nothing else, so that only they are told from each other. Seconds that the distillation took, and
in parentheses those it was given on an idle machine.

| case | labelled + heap | who | macro recall | recall at 1 % | seconds (given) |
|---|---:|---|---|---|---:|"""


def _command(
    data: Path = typer.Option(Path(os.environ.get("DISTILLNET_DATA", "../shared/data")), help="folder of the archives"),
    results: Path = typer.Option(Path("docs/eval-few.json"), help="written after every case"),
    page: Path = typer.Option(Path("docs/eval-few.md"), help="the page written from them"),
    cases: str = typer.Option("backyard,ants-bees", help="separated by commas"),
    minutes: float = typer.Option(15.0, min=0.1, help="of each distillation"),
    seeds: int = typer.Option(1, min=1, help="how many: 0, 1, …"),
) -> None:
    """Distil from ten labelled pictures of each event and an unlabelled heap.

    Example: python -m distillnet.cloud.evaluation.few --cases backyard --minutes 15
    """
    host.prepare()
    from distillnet.cloud.application import TeacherSection
    from distillnet.cloud.evaluation.few.cases import CASES
    from distillnet.cloud.evaluation.few.compare import compare
    from distillnet.cloud.teacher import load

    chosen = cases.split(",")
    for name in chosen:
        if name not in CASES:
            raise ConfigError(f"--cases: there is no {name!r}; there are {', '.join(CASES)}")
    teacher = load(TeacherSection(), Path())
    found: list[dict[str, Any]] = []
    for seed in range(seeds):
        for name in chosen:
            archive, make = CASES[name]
            found.append(compare(make(data / archive, seed), teacher, minutes, seed))
            write_whole(results, (json.dumps({"machine": host.machine(), "results": found}, indent=1) + "\n").encode())
    text = _page(found, os.path.relpath(results, page.parent))
    write_whole(page, text.encode())
    typer.echo(text)


def _page(found: Sequence[dict[str, Any]], results: str) -> str:
    lines = [HEAD.format(results=results)]
    for result in found:
        n = result["n"]
        for who, figures in result["figures"].items():
            seconds = f"{result['seconds']['total']:.0f} ({60 * result['minutes']:.0f})"
            cells = (
                result["case"],
                f"{n['labelled']} + {n['heap']}",
                who,
                _cell(figures["macro_recall"]),
                _cell(figures.get("recall_at_1_percent")),
                seconds if who.startswith("student") else "",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    return "–" if row is None else str(Figure(row["value"], row["ci_low"], row["ci_high"], row["n"]))


if __name__ == "__main__":
    script.run(_command, "distillnet.cloud.evaluation.few")
