"""The report's drawings: facts in, SVG out. Each function draws one figure and touches nothing else.

matplotlib without a display, glyphs as paths: a figure looks the same on every machine and in print.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

Facts = Mapping[str, Any]

INK, MUTED, GRID = "#1d2733", "#66727f", "#e3e7eb"
ACCENT, WARM, PALE = "#0b6e75", "#c8553d", "#9fb8ba"
PALETTE = ("#0b6e75", "#c8553d", "#6a4c93", "#b8860b", "#3f7d20", "#2f6fab", "#a23b72", "#5c6670")

_STYLE = {
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "distillnet",
}


def baselines(rows: Sequence[Facts]) -> str:
    """Draw each figure with its interval, one line per row; `chosen` rows in colour."""
    with _figure(4.7, 0.5 + 0.34 * len(rows)) as (axes, save):
        _intervals(axes, rows)
        return save()


def comparison(panels: Mapping[str, Sequence[Facts]]) -> str:
    """Draw one panel of intervals per application, side by side."""
    most = max(len(rows) for rows in panels.values())
    with _figure(1.2 + 3.4 * len(panels), 0.9 + 0.32 * most, columns=(1.0,) * len(panels)) as (axes, save):
        for panel, (title, rows) in zip(axes, panels.items(), strict=True):
            _intervals(panel, rows)
            panel.set_title(title, loc="left", fontsize=10.5, color=INK)
            panel.set_xlabel("recall at 1 % false alarms")
        return save()


def pareto(rows: Sequence[Facts], budget_ms: float | None = None) -> str:
    """Draw every candidate, accuracy against measured latency, the front and the one chosen."""
    with _figure(7.2, 4.0) as (axes, save):
        ordered = sorted(rows, key=lambda row: float(row["latency_ms"]))
        front, best = [], -1.0
        for row in ordered:
            if row["accuracy"] > best:
                best = row["accuracy"]
                front.append(row)
        axes.plot(
            [row["latency_ms"] for row in front],
            [row["accuracy"] for row in front],
            color=PALE,
            linewidth=1.4,
            linestyle=(0, (5, 3)),
            zorder=1,
        )
        for row in ordered:
            colour = ACCENT if row.get("chosen") else MUTED
            low, high = _interval(row, "accuracy")
            axes.plot([row["latency_ms"]] * 2, [low, high], color=colour, linewidth=1.4, alpha=0.5, zorder=2)
            axes.plot(
                row["latency_ms"],
                row["accuracy"],
                "*" if row.get("chosen") else "o",
                color=colour,
                markersize=15 if row.get("chosen") else 7,
                zorder=3,
            )
        if budget_ms:
            axes.axvline(budget_ms, color=WARM, linewidth=1.1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"budget {budget_ms:g} ms",
                (budget_ms, 0.02),
                (4, 0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                color=WARM,
            )
        axes.set_xlim(0, max([float(row["latency_ms"]) for row in rows] + [budget_ms or 0.0]) * 1.22)
        axes.set_xlabel("measured latency, ms per inference")
        axes.set_ylabel("accuracy, 95 % interval")
        _name_points(axes, ordered)
        return save()


def confusion(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """Draw the confusion, rows normalised, counts written in."""
    counts = np.asarray(matrix, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(7.2, 1.9 + 0.62 * len(labels))
    with _figure(size, size * 0.86) as (axes, save):
        axes.imshow(shares, cmap=_shades(), vmin=0, vmax=1)
        if len(labels) <= 16:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    colour = "white" if shares[row, column] > 0.55 else INK
                    axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=9)
        turn = 40 if max(map(len, labels)) > 5 else 0
        axes.set_xticks(range(len(labels)), labels, rotation=turn, ha="right" if turn else "center", color=INK)
        axes.set_yticks(range(len(labels)), labels, color=INK)
        axes.set_xlabel("the student says")
        axes.set_ylabel("it is")
        _bare(axes)
        return save()


def det(curves: Facts) -> str:
    """Draw misses against false alarms per event, and where each one operates."""
    operating = curves.get("operating") or {}
    with _figure(7.2, 3.9) as (axes, save):
        floor = 1e-3
        events = [event for event in curves if event != "operating" and curves[event]]
        for index, event in enumerate(events):
            colour = PALETTE[index % len(PALETTE)]
            points = np.asarray([[0.0, 1.0], *curves[event]], dtype=np.float64)  # the strictest threshold of all
            axes.plot(
                np.maximum(points[:, 0], floor),
                points[:, 1],
                color=colour,
                linewidth=1.7,
                label=event,
                drawstyle="steps-post",
            )
            at = operating.get(event) if isinstance(operating, Mapping) else None
            if at:
                axes.plot(
                    max(float(at[0]), floor), float(at[1]), "o", color=colour, markersize=8, markeredgecolor="white"
                )
        axes.set_xscale("log")
        axes.set_xlim(floor * 0.9, 1.0)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xticks([1e-3, 1e-2, 1e-1, 1.0], ["≤ 0.1 %", "1 %", "10 %", "100 %"])
        axes.minorticks_off()
        axes.set_xlabel("false alarms, share of everything else")
        axes.set_ylabel("missed, share of the event")
        axes.legend(loc="upper right", ncols=1 + len(events) // 8)
        return save()


def relevance(layers: Sequence[Facts]) -> str:
    """Draw how much each channel group matters, strongest first, and what was kept of each layer."""
    with _figure(7.2, min(9.0, 1.0 + 0.2 * len(layers)), columns=(3.2, 1.0)) as ((heat, bars), save):
        width = 96
        picture = np.full((len(layers), width), np.nan)
        for row, layer in enumerate(layers):
            scores = np.sort(np.asarray(layer.get("scores") or [], dtype=np.float64))[::-1]
            if len(scores):
                centres = (np.arange(width) + 0.5) / width * len(scores)
                picture[row] = scores[centres.astype(int)] / max(float(scores[0]), 1e-12)
            edge = width * layer["kept"] / max(int(layer["total"]), 1) - 0.5
            heat.plot([edge, edge], [row - 0.5, row + 0.5], color=WARM, linewidth=1.8)
        heat.imshow(picture, cmap=_shades(), vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        step = 1 + len(layers) // 40
        names = [str(layer["layer"]) for layer in layers]
        heat.set_yticks(range(0, len(layers), step), names[::step], color=INK, fontsize=8)
        heat.set_xticks([-0.5, width / 2 - 0.5, width - 0.5], ["strongest", "channels", "weakest"], fontsize=8)
        _bare(heat)
        kept = [layer["kept"] / max(int(layer["total"]), 1) for layer in layers]
        bars.barh(range(len(layers)), np.ones(len(layers)), color=GRID, height=0.72)
        bars.barh(range(len(layers)), kept, color=ACCENT, height=0.72)
        for row, (layer, part) in enumerate(zip(layers, kept, strict=True)):
            inside = part > 0.62
            bars.annotate(
                f"{layer['kept']}/{layer['total']}",
                (part, row),
                (-4 if inside else 4, 0),
                textcoords="offset points",
                va="center",
                ha="right" if inside else "left",
                fontsize=7,
                color="white" if inside else INK,
            )
        bars.set_ylim(len(layers) - 0.5, -0.5)
        bars.set_xlim(0, 1)
        bars.set_yticks([])
        bars.set_xticks([0, 0.5, 1.0], ["0", "kept", "all"], fontsize=8)
        _bare(bars)
        return save()


def learning(rows: Sequence[Facts]) -> str:
    """Draw loss and agreement over the seconds of training."""
    with _figure(7.2, 2.8) as (axes, save):
        seconds = [row["seconds"] for row in rows]
        axes.plot(seconds, [row["loss"] for row in rows], color=WARM, linewidth=1.6)
        axes.set_xlabel("seconds of training")
        axes.set_ylabel("loss", color=WARM)
        axes.set_ylim(bottom=0)
        measured = [(row["seconds"], row["agreement"]) for row in rows if row.get("agreement") is not None]
        if measured:
            other = axes.twinx()
            other.plot(*zip(*measured, strict=True), color=ACCENT, linewidth=1.8)
            other.set_ylabel("agreement with the teacher", color=ACCENT)
            other.set_ylim(0, 1.02)
            other.grid(False)
        return save()


def time_spent(seconds: Facts) -> str:
    """Draw one bar: where the time went."""
    parts = [(name, float(value)) for name, value in seconds.items() if name != "total" and value]
    with _figure(7.2, 0.95) as (axes, save):
        total = sum(value for _, value in parts) or 1.0
        begun = 0.0
        for index, (name, value) in enumerate(parts):
            axes.barh(0, value, left=begun, color=PALETTE[index % len(PALETTE)], height=0.5, label=name)
            if value / total > 0.06:
                axes.text(begun + value / 2, 0, f"{value:.0f} s", ha="center", va="center", color="white", fontsize=8.5)
            begun += value
        axes.set_xlim(0, total)
        axes.set_ylim(-0.3, 0.3)
        axes.axis("off")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.12), ncols=8, fontsize=8, handlelength=0.9)
        return save()


@contextmanager
def _figure(width: float, height: float, columns: tuple[float, ...] = ()) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Yield axes (one, or one per column) and a function that returns the SVG, without touching pyplot's state."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes: Any
        if columns:
            axes = list(figure.subplots(1, len(columns), width_ratios=columns, squeeze=False)[0])
        else:
            axes = figure.subplots()

        def save() -> str:
            out = io.StringIO()
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            return out.getvalue()

        yield axes, save


def _interval(row: Facts, key: str = "value") -> tuple[float, float]:
    low, high = row.get("ci_low"), row.get("ci_high")
    value = float(row[key])
    return (value if low is None else float(low)), (value if high is None else float(high))


def _intervals(axes: Any, rows: Sequence[Facts]) -> None:
    for y, row in enumerate(rows):
        colour = ACCENT if row.get("chosen") else MUTED
        value = row["value"]
        low, high = _interval(row)
        axes.plot([low, high], [y, y], color=colour, linewidth=2.4, solid_capstyle="round", alpha=0.45)
        axes.plot(value, y, "o", color=colour, markersize=6.5)
        axes.annotate(f"{value:.3f}", (high, y), (7, 0), textcoords="offset points", va="center", color=colour)
    axes.set_yticks(range(len(rows)), [str(row["name"]) for row in rows], color=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    lowest = min(_interval(row)[0] for row in rows)
    axes.set_xlim(max(0.0, np.floor(lowest * 10 - 0.5) / 10), 1.06)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1.0])
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _name_points(axes: Any, rows: Sequence[Facts]) -> None:
    """Write each candidate's name beside its point, nudged away from the names already there."""
    axes.figure.canvas.draw()
    taken: list[tuple[float, float, float, float]] = []
    for row in sorted(rows, key=lambda row: not row.get("chosen")):
        x, y = axes.transData.transform((row["latency_ms"], row["accuracy"]))
        width = 6.2 * len(str(row["name"])) * axes.figure.dpi / 72 * 0.82
        height = 13 * axes.figure.dpi / 72
        for dx, dy in ((9, 0), (9, 12), (9, -12), (9, 24), (9, -24), (9, 36), (9, -36)):
            left, middle = x + dx * axes.figure.dpi / 72, y + dy * axes.figure.dpi / 72
            box = (left, middle - height / 2, left + width, middle + height / 2)
            if not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
                break
        taken.append(box)
        axes.annotate(
            str(row["name"]),
            (row["latency_ms"], row["accuracy"]),
            (dx, dy),
            textcoords="offset points",
            va="center",
            color=ACCENT if row.get("chosen") else INK,
            fontsize=9,
            fontweight="bold" if row.get("chosen") else "normal",
        )


def _bare(axes: Any) -> None:
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _shades() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("distillnet", ["#f4f7f7", "#9cc3c4", "#0b6e75", "#063f45"])
