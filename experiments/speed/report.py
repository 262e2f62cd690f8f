"""report.json, report.md and the figure of how cost grows, from measured cases."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.speed.case import target_line
from t2l.files import write_json, write_text

FIGURE = "growth.png"
Benchmarks = Mapping[str, Sequence[Mapping[str, Any]]]


def _targets(benchmarks: Benchmarks) -> list[str]:
    lines = []
    for cases in benchmarks.values():
        for case in cases:
            lines += [f"- {case['name']}: {target_line(t)}" for t in case["targets"]]
            for name, check in case["checks"].items():
                if isinstance(check, dict) and "met" in check:
                    verdict = "met" if check["met"] else "MISSED"
                    lines.append(
                        f"- {case['name']}: {name} {check['worst']:.2g} (target <= {check['at_most']}): {verdict}"
                    )
    return lines


def _table(cases: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(n for c in cases for n in c["contenders"]))
    lines = ["| case | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for case in cases:
        cells = []
        for name in names:
            c = case["contenders"].get(name)
            if c is None:
                cells.append("")
                continue
            low, high = c["ratio_quartiles"]
            memory = "" if c["peak_bytes"] is None else f", {c['peak_bytes'] / 2**20:.0f} MiB"
            cells.append(f"{c['ratio']:.3g} [{low:.3g}, {high:.3g}]{memory}")
        lines.append(f"| {case['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def growth(cases: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Per swept variable and contender, (value, cost): time over the reference's at the smallest value."""
    variables = dict.fromkeys(v for c in cases for v in c["sweeps"])
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for variable in variables:
        points = sorted(((c["sweeps"][variable], c) for c in cases if variable in c["sweeps"]), key=lambda p: p[0])
        if len(points) < 2:
            continue
        first = points[0][1]
        unit = first["contenders"][first["reference"]]["time_s"]
        found = lines.setdefault(variable, {})
        for value, case in points:
            for name, c in case["contenders"].items():
                found.setdefault(name, []).append((value, c["time_s"] / unit))
    return lines


def _figure(benchmarks: Benchmarks) -> bytes | None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [(b, v, lines) for b, cases in benchmarks.items() for v, lines in growth(cases).items()]
    if not panels:
        return None
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 3.1 * rows), layout="constrained", squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (benchmark, variable, lines) in zip(axes.flat, panels, strict=False):
        for name, points in lines.items():
            ax.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_title(benchmark.replace("_", " "), fontsize=10)
        ax.set_xlabel(variable)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=7)
    figure.supylabel("time, in units of the reference's at the smallest size", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()


def write_report(folder: Path, benchmarks: Benchmarks, about: Mapping[str, Any]) -> None:
    """Writes report.json, report.md and growth.png into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", {"about": dict(about), "benchmarks": dict(benchmarks)})
    image = _figure(benchmarks)
    if image is not None:
        (folder / FIGURE).write_bytes(image)
    text = "# Speed of the hot paths\n\n"
    text += f"Device: {about['device']}, {about['threads']} threads, {about['clock']} clock. Ratios are medians over rounds, with quartiles.\n"
    text += "\n## Targets\n\n" + "\n".join(_targets(benchmarks)) + "\n"
    for name, cases in benchmarks.items():
        text += f"\n## {name.replace('_', ' ').capitalize()}\n\nTime as a multiple of `{cases[0]['reference']}`"
        text += "; peak memory beyond what was there before the call.\n\n" + _table(cases) + "\n"
    if image is not None:
        text += f"\n## How cost grows\n\n![growth]({FIGURE})\n"
    write_text(folder / "report.md", text)
