"""The report of one distillation: `report.json` for machines, `report.html` for people.

The page is one file without any outside resource: it can be mailed, archived and printed. It shows what the facts
say and nothing else: a section without facts is left out, and every accuracy stands with its interval and n.
`FACTS` names the keys; the pipelines for pictures and for sound both provide them.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from distillnet.cloud import report_figures as figures
from distillnet.cloud.report_style import CSS
from distillnet.proto.files import write_whole
from distillnet.proto.strict import ConfigError

Facts = Mapping[str, Any]


def write(directory: Path, facts: Facts) -> None:
    """Write `report.json` and `report.html` into a directory, made if need be.

    Args:
        directory: where to.
        facts: JSON-able; only `application` is required. Known keys: version, created, machine, threads,
            trained_on, student_bytes, teacher_bytes, student_latency_ms, teacher_latency_ms, speedup, budget_ms, macs,
            arena_bytes,
            agreement, agreement_ci [low, high], agreement_n, int8_loss {float, int8, value, ci_low, ci_high, n},
            events [{name, classes, threshold, exit_threshold, recall, recall_ci, n}],
            baselines [{name, metric, value, ci_low, ci_high, n, split}],
            candidates [{name, macs, latency_ms, accuracy, ci_low, ci_high, chosen, why}],
            confusion {labels, matrix}, relevance [{layer, kept, total, scores}],
            det {event: [[false_alarm_rate, miss_rate], …], operating: {event: [false_alarm_rate, miss_rate]}},
            learning [{step, seconds, loss, agreement}], seconds {step: seconds, total},
            teacher {name, source, licence, digest}, data [{name, digest, licence, n}],
            splits {train, validation, test}, seed, notes [str]. Others are kept in the JSON.

    Raises:
        ConfigError: a fact is not JSON, or not a finite number; the message names it.
        OSError: the directory cannot be written.

    """
    _check(facts, "facts")
    if not facts.get("application"):
        raise ConfigError("report: facts need `application`")
    text = json.dumps(facts, allow_nan=False, indent=1, sort_keys=True, ensure_ascii=False)
    write_whole(directory / "report.json", (text + "\n").encode())
    write_whole(directory / "report.html", page(facts).encode())


def page(facts: Facts) -> str:
    """Return the whole HTML page."""
    title = f"{facts['application']}: distillation report"
    parts = [section(facts) for section in _SECTIONS]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head><body><main>\n" + "\n".join(filter(None, parts)) + "\n</main></body></html>\n"
    )


def _header(facts: Facts) -> str:
    version = f"version {facts['version']}" if facts.get("version") else "not published yet"
    line = [version, facts.get("created"), facts.get("machine")]
    threads = facts.get("threads")
    if threads:
        line.append(f"{threads} thread{'s' if threads != 1 else ''}")
    if facts.get("trained_on") not in (None, facts.get("machine")):
        line.append(f"trained on {facts['trained_on']}")
    details = " · ".join(escape(str(part)) for part in line if part)
    events = ", ".join(escape(str(event["name"])) for event in facts.get("events") or [])
    lead = f'<p class="lead">A small network that knows: {events}.</p>' if events else ""
    return (
        f'<header><p class="kind">Distill-Net · distillation report</p><h1>{escape(str(facts["application"]))}</h1>'
        f'{lead}<p class="quiet">{details}</p></header>'
    )


def _tiles(facts: Facts) -> str:
    tiles: list[tuple[str, str, str]] = []
    if facts.get("agreement") is not None:
        low, high = facts.get("agreement_ci") or (None, None)
        detail = _range(low, high) + (f", n = {facts['agreement_n']}" if facts.get("agreement_n") else "")
        tiles.append((_percent(facts["agreement"]), "agrees with the teacher", detail.lstrip(", ")))
    if facts.get("student_latency_ms") is not None:
        teacher = facts.get("teacher_latency_ms")
        tiles.append(
            (
                f"{facts['student_latency_ms']:.3g} ms",
                "per inference",
                f"teacher {teacher:.3g} ms" if teacher else "measured on this machine",
            )
        )
    if facts.get("speedup"):
        tiles.append((f"{facts['speedup']:.1f}×", "faster than the teacher", "side by side, same machine"))
    if facts.get("student_bytes"):
        teacher_bytes = facts.get("teacher_bytes")
        smaller = f"{teacher_bytes / facts['student_bytes']:.1f}× smaller than the teacher" if teacher_bytes else ""
        tiles.append((_bytes(facts["student_bytes"]), "student file", smaller))
    if facts.get("macs"):
        arena = f"{_bytes(facts['arena_bytes'])} working memory" if facts.get("arena_bytes") else ""
        tiles.append((f"{facts['macs'] / 1e6:.3g} M", "multiply-adds", arena))
    loss = facts.get("int8_loss")
    if loss:
        lost = 100 * loss["value"]
        interval = f"lost {100 * loss['ci_low']:.1f} to {100 * loss['ci_high']:.1f} points"
        detail = f"{loss['float']:.3f} → {loss['int8']:.3f}, {interval}, n = {loss['n']}"
        tiles.append((f"{abs(lost):.1f} pt", "lost to int8" if lost >= 0 else "gained by int8", detail))
    if not tiles:
        return ""
    items = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span><small>{escape(detail)}</small></div>'
        for value, name, detail in tiles
    )
    return f'<section class="tiles">{items}</section>'


def _notes(facts: Facts) -> str:
    notes = facts.get("notes") or []
    if not notes:
        return ""
    items = "".join(f"<li>{escape(str(note))}</li>" for note in notes)
    return f'<section class="notes"><h2>Read this first</h2><ul>{items}</ul></section>'


def _events(facts: Facts) -> str:
    events = facts.get("events") or []
    if not events:
        return ""
    rows = []
    for event in events:
        low, high = event.get("recall_ci") or (None, None)
        recall = event.get("recall")
        rows.append(
            [
                f"<b>{escape(str(event['name']))}</b>",
                _classes(event.get("classes") or []),
                _number(event.get("threshold"), 2),
                _number(event.get("exit_threshold"), 2),
                "–" if recall is None else f"{_percent(recall)}{_bar(recall, low, high)}",
                escape(_range(low, high)),
                escape(str(event.get("n", "–"))),
            ]
        )
    head = ["event", "stands for", "enter at", "leave below", "recall", "95 %", "n"]
    return _section("Events", "Recall at the operating threshold.", _table(head, rows))


def _baselines(facts: Facts) -> str:
    rows = facts.get("baselines") or []
    if not rows:
        return ""
    by_metric: dict[str, dict[str, Facts]] = {}
    for row in rows:
        by_metric.setdefault(str(row.get("metric", "")), {})[str(row["name"])] = row
    titles = {metric: metric.replace("_", " ") for metric in by_metric}
    drawings = "".join(
        _drawing(figures.baselines(list(of_one.values())), titles[metric], titles[metric])
        for metric, of_one in by_metric.items()
    )
    table = _table(
        ["", *titles.values()],
        [
            [escape(name), *(_figure_cell(of_one.get(name)) for of_one in by_metric.values())]
            for name in dict.fromkeys(str(row["name"]) for row in rows)
        ],
        words={0},
    )
    splits = ", ".join(dict.fromkeys(str(row["split"]) for row in rows if row.get("split")))
    lead = "What one would have without this student." + (f" Split: {escape(splits)}." if splits else "")
    return _section("Against the alternatives", lead, f'<div class="pair">{drawings}</div>{table}')


def _figure_cell(row: Facts | None) -> str:
    if row is None:
        return "–"
    interval = _range(row.get("ci_low"), row.get("ci_high"), digits=3)
    return f"<b>{row['value']:.3f}</b><br><small>{interval}<br>n = {escape(str(row.get('n', '–')))}</small>"


def _candidates(facts: Facts) -> str:
    rows = facts.get("candidates") or []
    if not rows:
        return ""
    table = _table(
        ["candidate", "multiply-adds", "latency", "accuracy", "95 %", ""],
        [
            [
                f"<b>{escape(str(row['name']))}</b>" if row.get("chosen") else escape(str(row["name"])),
                f"{row['macs'] / 1e6:.1f} M" if row.get("macs") else "–",
                _number(row.get("latency_ms"), 2, " ms"),
                _number(row.get("accuracy"), 3),
                escape(_range(row.get("ci_low"), row.get("ci_high"), digits=3)),
                ("<b>chosen</b> " if row.get("chosen") else "") + escape(str(row.get("why", ""))),
            ]
            for row in rows
        ],
        words={0, 5},
    )
    drawn = [row for row in rows if row.get("latency_ms") is not None and row.get("accuracy") is not None]
    drawing = _drawing(figures.pareto(drawn, facts.get("budget_ms")), "accuracy against latency") if drawn else ""
    return _section(
        "What was tried",
        "Every candidate under the same budget, at its latency by the board's table; accuracy on validation data where "
        "its training stopped. The dashed line is the front.",
        drawing + table,
    )


def _confusion(facts: Facts) -> str:
    confusion = facts.get("confusion")
    if not confusion:
        return ""
    drawing = _drawing(figures.confusion(confusion["labels"], confusion["matrix"]), "confusion matrix")
    return _section("Confusion", "Counts; shading is the share of the row.", drawing)


def _det(facts: Facts) -> str:
    curves = facts.get("det") or {}
    if not any(curves[event] for event in curves if event != "operating"):
        return ""
    lead = "Each line trades false alarms for misses; the dot is where the event's threshold puts it."
    return _section("False alarms and misses", lead, _drawing(figures.det(curves), "DET curves"))


def _relevance(facts: Facts) -> str:
    layers = facts.get("relevance") or []
    if not layers:
        return ""
    lead = (
        "How much each channel of the teacher matters to these events, layer by layer. As many as are left of the mark "
        "were kept: these inside of blocks, of what blocks hand to each other the directions that matter most."
    )
    return _section("The essential core", lead, _drawing(figures.relevance(layers), "relevance by layer"))


def _learning(facts: Facts) -> str:
    rows = [row for row in facts.get("learning") or [] if row.get("loss") is not None]
    seconds = facts.get("seconds") or {}
    drawings = _drawing(figures.learning(rows), "learning curves") if len(rows) > 1 else ""
    if any(value for name, value in seconds.items() if name != "total"):
        drawings += _drawing(figures.time_spent(seconds), "where the time went")
    if not drawings:
        return ""
    total = seconds.get("total")
    return _section("Learning", f"{_duration(total)} in all." if total else "", drawings)


def _provenance(facts: Facts) -> str:
    rows: list[list[str]] = []
    teacher = facts.get("teacher") or {}
    if teacher:
        rows.append(["teacher", *(escape(str(teacher.get(key) or "–")) for key in ("name", "licence")), "",
                     _digest(teacher.get("digest"))])  # fmt: skip
    for source in facts.get("data") or []:
        rows.append(["data", escape(str(source.get("name", "–"))), escape(str(source.get("licence") or "–")),
                     escape(str(source.get("n", ""))), _digest(source.get("digest"))])  # fmt: skip
    splits = ", ".join(f"{escape(str(name))} {n}" for name, n in (facts.get("splits") or {}).items())
    facts_line = [f"splits: {splits}" if splits else "", f"seed {facts['seed']}" if "seed" in facts else ""]
    line = " · ".join(filter(None, facts_line))
    if not rows and not line:
        return ""
    table = _table(["", "name", "licence", "n", "SHA-256"], rows, words={0, 1, 2, 4}) if rows else ""
    return _section("Where it comes from", line, table)


_SECTIONS: tuple[Callable[[Facts], str], ...] = (
    _header, _tiles, _notes, _events, _baselines, _candidates, _confusion, _det, _relevance, _learning, _provenance,
)  # fmt: skip


def _section(title: str, lead: str, body: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="quiet">{lead}</p>{body}</section>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], words: set[int] | None = None) -> str:
    """Cells are HTML already. `words` are the columns set left; by default the first two."""
    left = {0, 1} if words is None else words
    cells = "".join(f'<th class="{"word" if i in left else ""}">{escape(name)}</th>' for i, name in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{"word" if i in left else ""}">{cell}</td>' for i, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _drawing(svg: str, alternative: str, caption: str = "") -> str:
    """An image, not inline markup: the identifiers inside one drawing cannot meet another's."""
    data = base64.b64encode(svg.encode()).decode()
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure>{text}<img alt="{escape(alternative)}" src="data:image/svg+xml;base64,{data}"></figure>'


def _bar(value: float, low: float | None, high: float | None) -> str:
    band = ""
    if low is not None and high is not None:
        band = f'<i style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></i>'
    return f'<span class="bar">{band}<u style="left:{100 * value:.1f}%"></u></span>'


def _classes(classes: Sequence[Any]) -> str:
    shown = ", ".join(escape(str(name)) for name in classes[:6])
    return shown + (f" … {len(classes)} in all" if len(classes) > 6 else "") if classes else "examples"


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "–" if value is None else f"{value:.{digits}f}{unit}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _range(low: float | None, high: float | None, digits: int | None = None) -> str:
    if low is None or high is None:
        return ""
    return f"{100 * low:.1f}–{100 * high:.1f} %" if digits is None else f"{low:.{digits}f}–{high:.{digits}f}"


def _bytes(size: float) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _digest(digest: object) -> str:
    text = str(digest or "").removeprefix("sha256:")
    return f'<code title="{escape(text)}">{escape(text[:16])}…</code>' if text else "–"


def _check(value: object, where: str) -> None:
    """Raise `ConfigError` at the first value that JSON cannot hold, naming it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"report: {where} has a key that is not text: {key!r}")
            _check(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check(inner, f"{where}[{index}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"report: {where} is {value}; a report holds only finite numbers")
    elif value is not None and not isinstance(value, str | int | bool):
        raise ConfigError(f"report: {where} is a {type(value).__name__}; JSON cannot hold it")
