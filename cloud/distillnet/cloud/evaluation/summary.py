"""The comparison as a page: tables by application and one figure, written from the results and nothing else."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillnet.cloud.evaluation.arms import ARMS
from distillnet.cloud.report_figures import comparison
from distillnet.proto.files import write_whole

Result = Mapping[str, Any]

_INTRODUCTION = """# Does the essential core earn its keep?

Written by `make eval-vision` from [{name}]({name}), which has every figure with its interval, seed, settings, learning
curve and provenance. Applications on Tiny-ImageNet (64×64 pictures, enlarged). Every trained arm sees the same
{train} pictures for the same {steps} steps of {batch}, at {side} px, and may take the same milliseconds by the measured
table of {board}; `fine-tuned`, `probe` and `zero-shot` cost what the teacher costs and are there for comparison.
Latency is the int8 file's in the engine; **faster** is how many times less that is than the int8 teacher at its native
resolution in LiteRT takes in the same run, one thread both, medians, interleaved: in turns of several runs since
28 November 2026, one run each before, which makes a student look up to a third slower
([ADR 18](adr/0018-latency-is-timed-in-turns.md)).

- **macro recall**: mean recall of the events and `other`, on `val` (negatives of classes that were trained on).
- **recall at 1 %**: share of event pictures recognised when 1 % of the pictures of 40 classes that nothing was
  trained on raise a false alarm. The threshold is set on those negatives themselves, for every arm alike.
- Where an arm was exported, figures are of its int8 file in the engine; a second line is the float network in torch.
- Intervals are 95 % over pictures of one seed. With several seeds: the mean, and in parentheses the range over seeds.
- **commit**: whose code made the row. Rows of other commits may be cut, rounded or timed otherwise (ADR 18, 22, 23).
"""


def write(results: Sequence[Result], page: Path, name: str) -> None:
    """Write the page and, beside it, its figure `<page's stem>.svg`.

    Args:
        results: as in the file of results; of several settings, only those of the latest are shown.
        page: the Markdown file.
        name: of the file of results, linked from the page.

    """
    shown = _latest_settings(results)
    applications = list(dict.fromkeys(result["application"] for result in shown))
    settings = shown[0]["settings"]
    trained = sorted({f"{result['n']['train']:,}" for result in shown})
    text = _INTRODUCTION.format(
        name=name,
        train=" or ".join(trained),
        steps=settings["steps"],
        batch=settings["batch"],
        board=settings["board"],
        side=settings["resolution"],
    )
    text += f"\n![recall at 1 % false alarms by arm]({page.stem}.svg)\n"
    for application in applications:
        text += _application(application, [r for r in shown if r["application"] == application])
    text += _verdict(shown) + _missing(shown) + _arms() + _provenance(shown)
    write_whole(page, text.encode())
    write_whole(page.with_suffix(".svg"), comparison(_points(shown)).encode())


def _latest_settings(results: Sequence[Result]) -> list[Result]:
    settings = results[-1]["settings"]
    return [result for result in results if _but_budget(result["settings"]) == _but_budget(settings)]


def _but_budget(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in ("budget_ms", "smaller")}


def _application(name: str, results: Sequence[Result]) -> str:
    first = results[0]
    lines = [
        f"\n## {name}\n",
        f"{first['n']['train']:,} pictures to train on; judged on {first['n']['val']:,} of `val` and "
        f"{first['n']['unseen']:,} of unseen classes.\n",
        "| arm | budget, ms | M MACs | KiB | int8, ms | faster | macro recall | recall at 1 % | seeds | commit |",
        "|---|---:|---:|---:|---:|---:|---|---|---:|---|",
    ]
    for arm, budget in _rows(results):
        of_arm = [r for r in results if r["arm"] == arm and r["settings"]["budget_ms"] == budget]
        cells = []
        for metric in ("macro_recall", "recall_at_1_percent"):
            cell = _cell([_best(result)[metric] for result in of_arm])
            if "int8" in of_arm[0]:
                cell += f"<br>float {statistics.mean(result['float'][metric]['value'] for result in of_arm):.3f}"
            cells.append(cell)
        macs = statistics.mean(result["macs"] for result in of_arm) / 1e6
        lines.append(
            f"| {arm} | {_cost(of_arm, budget)[0]} | {macs:.1f} | {_cost(of_arm, budget)[1]} | "
            f"{cells[0]} | {cells[1]} | {len(of_arm)} | {_commits(of_arm)} |"
        )
    return "\n".join(lines) + "\n"


def _verdict(results: Sequence[Result]) -> str:
    """Say where the core stands, in points: against every other arm at the same budget, int8 and float, the teacher."""
    lines = [
        "\n## Where the core stands\n",
        "Macro recall / recall at 1 %, in points, mean over what both were run on.\n",
    ]
    cores = {_ground(result): result for result in results if result["arm"] == "core"}
    for arm in ARMS:
        pairs = [(cores[_ground(r)], r) for r in results if r["arm"] == arm != "core" and _ground(r) in cores]
        if pairs:
            gains = [_points_between(_best(core), _best(other)) for core, other in pairs]
            lines.append(f"- {_signed(gains)} over **{arm}** ({len(pairs)} run{'s' if len(pairs) > 1 else ''})")
    compared = {result["settings"]["budget_ms"] for result in results if result["arm"] != "core"}
    timed = [core for core in cores.values() if "int8" in core and core["settings"]["budget_ms"] in compared]
    if timed:
        lines.append(
            f"- {_signed([_points_between(core['int8'], core['float']) for core in timed])}: int8 against float"
        )
        sizes = [core["teacher_bytes"] / core["bytes"] for core in timed if core.get("teacher_bytes")]
        if sizes:
            lines.append(f"- {statistics.median(sizes):.1f}× smaller than the int8 teacher")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _ground(result: Result) -> tuple[str, int, float]:
    return result["application"], result["seed"], result["settings"]["budget_ms"]


def _points_between(one: Result, other: Result) -> tuple[float, float]:
    recalls, rare = (100 * (one[m]["value"] - other[m]["value"]) for m in ("macro_recall", "recall_at_1_percent"))
    return recalls, rare


def _signed(gains: Sequence[tuple[float, float]]) -> str:
    return " / ".join(f"{statistics.mean(values):+.1f}" for values in zip(*gains, strict=True))


def _missing(results: Sequence[Result]) -> str:
    """Say which arms were not run where."""
    lines = []
    for application in dict.fromkeys(result["application"] for result in results):
        run = {result["arm"] for result in results if result["application"] == application}
        left = [arm for arm in ARMS if arm not in run]
        if left:
            lines.append(f"- {application}: {', '.join(left)}")
    return "\n## Not run\n\n" + "\n".join(lines) + "\n" if lines else ""


def _rows(results: Sequence[Result]) -> list[tuple[str, float]]:
    """Return arms in their order, each with its budgets, small last."""
    found = {(result["arm"], result["settings"]["budget_ms"]) for result in results}
    return sorted(found, key=lambda row: (list(ARMS).index(row[0]), -row[1]))


def _cost(results: Sequence[Result], budget: float) -> tuple[str, str]:
    """Return the cells of the budget, and of size, latency and speed-up: dashes for what is no student."""
    timed = [result for result in results if "latency_ms" in result]
    if not timed:
        return "–", "– | – | –"
    size = statistics.mean(result["bytes"] for result in timed) / 1024
    latency = statistics.median(result["latency_ms"] for result in timed)
    ratios = [r["teacher_litert_ms"] / r["latency_ms"] for r in timed if r.get("teacher_litert_ms")]
    faster = f"{statistics.median(ratios):.1f}×" if ratios else "–"
    return ("–" if results[0]["arm"] == "fine-tuned" else f"{budget:g}"), f"{size:.0f} | {latency:.3f} | {faster}"


def _commits(results: Sequence[Result]) -> str:
    """Name the commits that made them."""
    return ", ".join(sorted({f"`{result['provenance']['revision'][:7]}`" for result in results}))


def _best(result: Result) -> Result:
    """The figures that count: of the int8 file where there is one."""
    figures: Result = result.get("int8") or result["float"]
    return figures


def _cell(figures: Sequence[Result]) -> str:
    values = [figure["value"] for figure in figures]
    if len(figures) == 1:
        return f"**{values[0]:.3f}** [{figures[0]['ci_low']:.3f}, {figures[0]['ci_high']:.3f}]"
    return f"**{statistics.mean(values):.3f}** ({min(values):.3f}–{max(values):.3f})"


def _arms() -> str:
    return "\n## The arms\n\n" + "".join(f"- **{name}**: {what}.\n" for name, (_, what) in ARMS.items())


def _provenance(results: Sequence[Result]) -> str:
    last = results[-1]["provenance"]
    seconds = sum(sum(result["seconds"].values()) for result in results)
    trained = {f"{r['provenance']['trained_on']} (torch {r['provenance']['torch']})" for r in results}
    timed = {result["engine"]["machine"] for result in results if "engine" in result}
    engines = {f"{r['engine']['engine']} ({r['engine']['kernels']})" for r in results if "engine" in r}
    return (
        f"\n## Provenance\n\n{len(results)} jobs, {seconds / 60:.0f} minutes in all, last {last['created']}; "
        f"trained on {', '.join(sorted(trained))}; latency: median of "
        f"one thread on {', '.join(sorted(timed)) or 'no machine'}, {', '.join(sorted(engines)) or 'no export'}, "
        f"beside whatever else the machine did. Teacher `{last['teacher']['source']}` at "
        f"{last['teacher']['resolution']} px. Data `{last['data'][:23]}…`.\n"
    )


def _point(result: Result, results: Sequence[Result]) -> str:
    """Name a point of the figure: the arm, and its budget where it has several."""
    budgets = {r["settings"]["budget_ms"] for r in results if r["arm"] == result["arm"]}
    return f"{result['arm']}, {result['settings']['budget_ms']:g} ms" if len(budgets) > 1 else str(result["arm"])


def _points(results: Sequence[Result]) -> dict[str, list[dict[str, Any]]]:
    """Rows for the figure, by application: mean over seeds; the interval of one seed or the range of several."""
    points: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        rows = points.setdefault(result["application"], [])
        budget = result["settings"]["budget_ms"]
        name = _point(result, results)
        if any(row["name"] == name for row in rows):
            continue
        same = [
            r
            for r in results
            if (r["application"], r["arm"], r["settings"]["budget_ms"])
            == (result["application"], result["arm"], budget)
        ]
        figures = [_best(r)["recall_at_1_percent"] for r in same]
        values = [figure["value"] for figure in figures]
        alone = len(figures) == 1
        rows.append(
            {
                "name": name,
                "value": statistics.mean(values),
                "ci_low": figures[0]["ci_low"] if alone else min(values),
                "ci_high": figures[0]["ci_high"] if alone else max(values),
                "chosen": result["arm"] == "core",
            }
        )
    for rows in points.values():
        rows.sort(key=lambda row: -row["value"])
    return points
