"""One page of what was measured: Markdown, a figure, and the numbers as JSON."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks.measured import Ceilings, Row

TEMPLATE = Path(__file__).with_name("page.md.j2")
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100)
OURS, FLOOR = "#0072B2", "#555555"


def write(
    folder: Path,
    rows: Sequence[Row],
    rates: Mapping[str, Sequence[float]],
    about: Mapping[str, Any],
) -> None:
    """README.md, bench.png and bench.json in a folder. rates: rounds of each ceiling."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {"about": about, "ceilings": rates, "rows": [json.loads(r.to_json()) for r in rows]}
    (folder / "bench.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (folder / "README.md").write_text(text(rows, rates, about))
    figure(rows, medians(rates)).savefig(folder / "bench.png", dpi=150)


def text(
    rows: Sequence[Row], rates: Mapping[str, Sequence[float]], about: Mapping[str, Any]
) -> str:
    """The page as Markdown."""
    parts: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        parts.setdefault(row.part, []).append(cells(row, medians(rates)))
    source = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = source.from_string(TEMPLATE.read_text())
    return template.render(about={**about, **in_words(rates)}, parts=parts)


def medians(rates: Mapping[str, Sequence[float]]) -> Ceilings:
    return {name: statistics.median(found) for name, found in rates.items()}


def in_words(rates: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """The ceilings as lines of the page."""
    lines = {}
    for name, found in rates.items():
        what = (
            "a copy, read and written"
            if name == "copy"
            else f"matrix product or 3x3 convolution, {name}"
        )
        unit = "GB/s" if name == "copy" else "GFLOP/s"
        lines[what] = f"{spread([rate / 1e9 for rate in found], '.0f')} {unit} on one core"
    return lines


def cells(row: Row, ceilings: Ceilings) -> dict[str, str]:
    share = row.share(ceilings)
    return {
        "what": row.name + (f" ({row.note})" if row.note else ""),
        "time": seconds(row.seconds),
        "ratio": f"{spread(row.ratios, '.2f')}x" if row.theirs else "",
        "than": row.than,
        "floor": seconds([row.work.floor(ceilings)]) if row.work else "",
        "share": "" if share is None else f"{100 * share:.0f} %",
    }


def seconds(values: Sequence[float]) -> str:
    large = statistics.median(values) >= 1
    factor, unit = (1, "s") if large else (1e3, "ms")
    return f"{spread([factor * value for value in values], '.3g')} {unit}"


def spread(values: Sequence[float], form: str) -> str:
    """The median, and least and most where there are several."""
    middle = f"{statistics.median(values):{form}}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):{form}} to {max(values):{form}})"


def figure(rows: Sequence[Row], ceilings: Ceilings) -> Figure:
    """Left what is compared with others, right what has a floor."""
    compared = [row for row in rows if row.theirs]
    bounded = [row for row in rows if row.work]
    height = 1.2 + 0.32 * max(len(compared), len(bounded))
    figure, (left, right) = plt.subplots(1, 2, figsize=(15, height), layout="constrained")
    for place, row in enumerate(compared):
        middle, ratios = statistics.median(row.ratios), row.ratios
        left.plot([min(ratios), max(ratios)], [place, place], color=OURS, linewidth=2)
        left.plot(middle, place, "o", color=OURS)
    left.axvline(1, color=FLOOR, linewidth=1)
    left.set_xscale("log")
    all_ratios = [ratio for row in compared for ratio in row.ratios]
    left.set_xlim(0.8 * min([1, *all_ratios]), 1.25 * max([1, *all_ratios]))
    inside = [tick for tick in TICKS if left.get_xlim()[0] <= tick <= left.get_xlim()[1]]
    left.set_xticks(inside, [f"{tick:g}" for tick in inside])
    left.minorticks_off()
    left.set_xlabel("times faster")
    labels = [f"{short(row)}\nthan {row.than}" for row in compared]
    left.set_yticks(range(len(compared)), labels, fontsize=6.5)
    right.barh(
        range(len(bounded)), [100 * (row.share(ceilings) or 0) for row in bounded], color=OURS
    )
    right.set_yticks(range(len(bounded)), [short(row) for row in bounded], fontsize=6.5)
    right.axvline(100, color=FLOOR, linewidth=1)
    right.set_xlabel("the floor's share of our time, %")
    for axis in (left, right):
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def short(row: Row) -> str:
    return f"{row.part}: {row.name}"
