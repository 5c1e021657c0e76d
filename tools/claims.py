"""Writes the numbers of README.md, docs/claims.md and docs/study.md from the CSVs in
results/published and results/paper: none of them is typed.

    python tools/claims.py

fills every block

    <!-- numbers: NAME -->
    ...
    <!-- end -->

with what the function NAME below gives, and likewise what stands in a sentence:
`<!-- word: NAME -->...<!-- end -->`. `make publish` calls it, and a test that it would change
nothing. What waits for a result that is not published yet says so; nobody has to edit a sentence
when it comes.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
from scipy import stats

from acslib.paper import (
    ceilings,
    frames,
    intervals,
    life,
    methods,
    paramfiles,
    printed,
    study,
    tables,
)

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "results" / "published"
DOCUMENTS = tuple(ROOT / name for name in ("README.md", "docs/claims.md", "docs/study.md"))
PROFILE = "mini"  # whose numbers are cited, unless a table says otherwise
BLOCK = re.compile(r"(<!-- numbers: (\w+) -->\n).*?(<!-- end -->)", re.S)
WORD = re.compile(r"(<!-- word: (\w+) -->)[^\n]*?(<!-- end -->)")
TRADES, LINF, L2 = "resnet18-trades-cifar10", "resnet18-linf-cifar10", "resnet18-l2-svhn"
R18 = {TRADES: "TRADES", LINF: "linf", L2: "l2"}
MEASURES = {"acc": "ACC", "racc": "RACC"}
# what methods are called in a sentence, by their value in the CSVs: CRAIG, adaptive random
METHODS = {
    method.printed: method.label.removeprefix("Adv. ")
    if method.label.startswith("Adv. ")
    else method.label.lower()
    for method in methods.METHODS.values()
    if method.name != "full"
}
OBJECTIVES = {"linf": "linf-PGD", "trades": "TRADES"}
Line = dict[str, str]


# ---- reading


@cache
def read(profile: str, name: str, published: Path) -> pd.DataFrame:
    path = published / profile / f"{name}.csv"
    return frames.read_frame(path, tables.NEEDED.get(name, tables.TABLE), "make publish makes it")


def table(name: str, profile: str = PROFILE) -> pd.DataFrame:
    return read(profile, name, PUBLISHED)


def is_published(name: str, profile: str = PROFILE) -> bool:
    return (PUBLISHED / profile / f"{name}.csv").is_file()


def row(rows: pd.DataFrame, **where: str) -> pd.Series:
    """The only row with these values."""
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, f"{len(rows)} rows have {where}"
    return rows.iloc[0]


# ---- writing


def signed(value: float) -> str:
    return f"{value:+.1f}" if abs(value) >= 0.05 else "0.0"


def counted(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def spread(run: pd.Series, measure: str) -> str:
    """Mean and, with several seeds, standard deviation."""
    std = run[f"{measure}_std_pct"]
    return f"{run[f'{measure}_pct']:.1f}" + (f" ± {std:.1f}" if run.seeds > 1 else "")


def between(low: float, high: float) -> str:
    return f"{signed(low)} to {signed(high)}"


def difference(ours: pd.Series, theirs: pd.Series, measure: str) -> str:
    """Of two runs' means, in points, with the 95 % interval where both have several seeds.

    By Welch: of each the CSVs keep mean and standard deviation, and not which seed had which.
    """
    mean = ours[f"{measure}_pct"] - theirs[f"{measure}_pct"]
    half = half_width(ours, theirs, measure)
    return signed(mean) + ("" if math.isnan(half) else f" ({between(mean - half, mean + half)})")


def half_width(ours: pd.Series, theirs: pd.Series, measure: str) -> float:
    """Of Welch's 95 % interval; NaN with one seed."""
    if min(ours.seeds, theirs.seeds) < 2:
        return math.nan
    each = [run[f"{measure}_std_pct"] ** 2 / run.seeds for run in (ours, theirs)]
    freedom = [part**2 / (run.seeds - 1) for part, run in zip(each, (ours, theirs), strict=True)]
    degrees = sum(each) ** 2 / sum(freedom)
    return float(stats.t.ppf(0.5 + study.CONFIDENCE / 2, degrees) * sum(each) ** 0.5)


def markdown(rows: Sequence[Line]) -> str:
    names = list(rows[0])
    lines = [
        names,
        [":--", *["--:"] * (len(names) - 1)],
        *[[str(cell) for cell in line.values()] for line in rows],
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def of_ceiling(run: pd.Series) -> str:
    if run.method == "full":
        return ""
    mark = ceilings.above_ceiling(run.speedup_median_x, run.speedup_ceiling_x)
    return f"{run.speedup_median_x:.2f}{mark} of {run.speedup_ceiling_x:.2f}"


# ---- README


def found() -> str:
    """ResNet-18, linf, CIFAR-10, one row for each way to train."""
    ways = {
        "full": "all the data",
        "adv_gradmatch": "coreset by GradMatch",
        "adv_craig": "coreset by CRAIG",
        "adaptive_random": "random subset, drawn anew",
    }
    rows = []
    for method, trained_on in ways.items():
        run = row(table("table1"), setting=LINF, method=method)
        rows.append(
            {
                "trained on": trained_on,
                "clean accuracy %": spread(run, "acc"),
                "robust accuracy %": spread(run, "racc"),
                "speed-up (of at most)": of_ceiling(run) or "1",
            }
        )
    return markdown(rows)


# ---- the study


def decided() -> str:
    """The verdict in a word or two, or how much of the study there is."""
    if not is_published("study"):
        return f"not decided yet: 0 of {study.design().at_least} seeds"
    rows, enough = table("study"), study.is_enough(table("study"))
    said = [
        f"{OBJECTIVES[objective]}: "
        + (word_for(asked.ci_low, asked.ci_high) if enough[objective] else missing(asked))
        for objective, asked in study.deciding(rows).iterrows()
    ]
    return "; ".join([*said, *map(not_run, absent(rows))])


def absent(rows: pd.DataFrame) -> list[str]:
    """The objectives of which no seed is published."""
    return [name for name in study.design().half_width if name not in study.deciding(rows).index]


def not_run(objective: str) -> str:
    return f"{OBJECTIVES[objective]}: not decided yet: 0 of {study.design().at_least} seeds"


def missing(asked: pd.Series) -> str:
    """What the stopping rule still asks of an objective."""
    plan = study.design()
    if asked.seeds < plan.at_least:
        return f"not decided yet: {asked.seeds:g} of {plan.at_least} seeds"
    half, wanted = (asked.ci_high - asked.ci_low) / 2, plan.half_width[asked.name]
    return f"not decided yet: half-width {half:.2f} of {wanted:g} points, {asked.seeds:g} seeds"


def word_for(low: float, high: float) -> str:
    """Whether the verdict's arm beats the reference, by the interval of the difference."""
    if low > 0:
        return "holds, by less than a point" if high < 1 else "holds"
    if high < 0:
        return "does not hold: worse"
    return "does not hold by more than a point" if high < 1 else "cannot be told"


def verdict() -> str:
    """A line for each objective."""
    plan = study.design()
    if not is_published("study"):
        return (
            f"No seed of the study is published yet. The stopping rule asks for {plan.at_least} at"
            " least. So it is **not decided yet** whether choosing beats drawing.\n"
        )
    rows, enough = table("study"), study.is_enough(table("study"))
    lines = []
    for objective, asked in study.deciding(rows).iterrows():
        said = study.judged(asked.ci_low, asked.ci_high)
        for arm in (plan.verdict, plan.reference):
            said = said.replace(arm, short(arm))
        numbers = f"{asked.difference:+.2f} points of RACC, 95 % interval {asked.ci_low:+.2f} to"
        numbers += f" {asked.ci_high:+.2f}, {counted(int(asked.seeds))}"
        so_far = "" if enough[objective] else f"**{missing(asked)}**. So far: "
        lines.append(f"- {OBJECTIVES[objective]}: {so_far}{said} ({numbers}).\n")
    return "".join([*lines, *(f"- {not_run(objective)}.\n" for objective in absent(rows))])


def of_the_study(arm: str, measure: str, k: str = study.MEAN) -> str:
    """An arm's difference at a size, by default averaged over the sizes, by objective."""
    if not is_published("study"):
        return "not published yet"
    rows = table("study")
    wanted = (rows.arm == arm) & (rows.measure == measure) & (rows.k.astype(str) == k)
    return "; ".join(
        f"{OBJECTIVES[one.objective]} {with_interval(one)}" for _, one in rows[wanted].iterrows()
    )


def craig_robust() -> str:
    return of_the_study("craig", "racc")


def chance_robust() -> str:
    return of_the_study(study.design().chance, "racc")


def gradmatch_robust() -> str:
    return of_the_study("gradmatch", "racc")


def gradmatch_clean() -> str:
    return of_the_study("gradmatch", "acc")


def nfgsm_robust() -> str:
    return of_the_study("nfgsm", "racc", "0.2")


def nfgsm_clean() -> str:
    return of_the_study("nfgsm", "acc", "0.2")


def early_robust() -> str:
    return of_the_study("full_early", "racc", "0.2")


def nfgsm_cost() -> str:
    """The time of N-FGSM beside that of fewer epochs by PGD, on the same device."""
    if not is_published("study"):
        return "not published yet"
    rows = table("study")
    rows = rows[(rows.measure == "racc") & rows.arm.isin(["nfgsm", "full_early"])]
    wide = rows.pivot_table("seconds", ["objective", "device"], "arm").dropna()
    return "; ".join(
        f"{OBJECTIVES[objective]} {one.nfgsm / one.full_early:.1f}"
        for (objective, _), one in wide.iterrows()
    )


def short(arm: str) -> str:
    return intervals.arm_label(arm).removeprefix("Adv. ")


def arms() -> str:
    """The study's table: differences to the reference at the size that every arm has."""
    if not is_published("study"):
        return "The table is here when a seed is published.\n"
    rows = table("study")
    rows = rows[rows.k.astype(str) == "0.2"]
    lines = []
    for arm in dict.fromkeys(rows.arm):
        line = {"minus adaptive random, k = 0.2": short(arm)}
        if arm == study.design().reference:
            continue
        for objective in dict.fromkeys(rows.objective):
            part = rows[(rows.objective == objective) & (rows.arm == arm)].set_index("measure")
            for measure, title in MEASURES.items():
                cell = with_interval(part.loc[measure]) if measure in part.index else "-"
                line[f"{OBJECTIVES[objective]} {title}"] = cell
        lines.append(line)
    chance = study.comparisons(table("study"))
    return (
        markdown(lines) + f"\nThe study has {chance} intervals; one in twenty misses by chance.\n"
    )


def with_interval(one: pd.Series) -> str:
    """A difference of the study's."""
    interval = f" ({between(one.ci_low, one.ci_high)})" if one.seeds > 1 else ", one seed"
    return signed(one.difference) + interval


def figure() -> str:
    """The study's figure, once it is published."""
    if not (PUBLISHED / PROFILE / "study.png").is_file():
        return "The figure is here when a seed is published.\n"
    name = f"../results/published/{PROFILE}/study.png"
    return f"![Differences to adaptive random with 95 % intervals, by arm and size]({name})\n"


def rule() -> str:
    """What params/study.yaml fixes."""
    plan = study.design()
    asked = [f"{OBJECTIVES[name]} {points:g}" for name, points in plan.half_width.items()]
    verdict_arm, reference = short(plan.verdict), short(plan.reference)
    return (
        f"At least {plan.at_least} seeds, and more, one by one, until the 95 % interval of"
        f" {verdict_arm} minus {reference.lower()}, in RACC averaged over the sizes, has a"
        f" half-width of at most so many points: {', '.join(asked)}.\n"
    )


def arm_list() -> str:
    """Which arm is run at which sizes, as params/study.yaml has it."""
    sizes: dict[str, list[str]] = {}
    for group in paramfiles.item(study.ITEM).runs:
        for layer in group.vary:
            fraction = layer.model_dump(exclude_unset=True).get("coreset_fraction")
            size = "-" if fraction is None else f"{fraction:g}"
            known = sizes.setdefault(str(group.columns["arm"]), [])
            known += [size] if size not in known else []
    return markdown(
        [{"arm": short(arm), "k": ", ".join(several)} for arm, several in sizes.items()]
    )


# ---- the paper's own numbers


def twofold() -> str:
    """In how many of Table 1's rows the printed times are more than a factor of two apart."""
    rows = ceilings.printed_speedups("table1")
    return f"{(rows.speedup_x > 2).sum()} of {len(rows)}"


def above() -> str:
    """How many printed speed-ups are above what their schedules allow."""
    known = [ceilings.printed_speedups(item) for item in tables.WITH_SPEEDUPS]
    return f"{sum(map(len, map(ceilings.above, tables.WITH_SPEEDUPS)))} of {sum(map(len, known))}"


def equal_time() -> str:
    """Full training for half the epochs (Table 3) beside coresets for all of them (Table 1)."""
    epochs = pd.read_csv(printed.FOLDER / "tableC3.csv").set_index(["objective", "dataset"])
    rows = []
    for item, factor, wanted in (("table3", 0.5, ("full",)), ("table1", 1, tuple(SOLVERS))):
        known = printed.paper_table(item)
        for line in known[known.model == "WideResNet-28-10"].itertuples():
            if line.method in wanted and line.objective != "trades":
                total = epochs.loc[(line.objective, line.dataset)].total_epochs * factor
                rows.append(
                    {
                        "in the paper": f"{line.dataset}, {METHODS.get(line.method, 'all data')}",
                        "epochs": f"{total:g}",
                        "minutes": f"{line.time_min:.0f}",
                        "ACC": f"{line.acc_pct:.2f}",
                        "RACC": f"{line.racc_pct:.2f}",
                    }
                )
    return markdown(sorted(rows, key=lambda line: line["in the paper"].split(",")[0]))


SOLVERS = ("adv_gradmatch", "adv_craig")


def shorter_wins() -> str:
    """Whether full training for half the epochs has more of both accuracies in less time."""
    early, long = (
        known[(known.model == "WideResNet-28-10") & (known.objective == "linf_pgd")]
        for known in map(printed.paper_table, ("table3", "table1"))
    )
    full = row(early, method="full")
    others = long[long.method.isin(SOLVERS)]
    better = (
        (full.acc_pct > others.acc_pct).all()
        and (full.racc_pct > others.racc_pct).all()
        and (full.time_min < others.time_min).all()
    )
    return "more accurate, more robust and done earlier" if better else "not better on every count"


def printed_gaps() -> str:
    """GradMatch minus CRAIG as printed in Table 1."""
    wide = printed.paper_table("table1").pivot_table(
        ["acc_pct", "racc_pct"], ["model", "objective", "dataset"], "method"
    )
    clean, robust = (
        wide[name].adv_gradmatch - wide[name].adv_craig for name in ("acc_pct", "racc_pct")
    )
    small = robust[robust.abs() < 1]
    large = " and ".join(f"{gap:+.2f}" for gap in robust.drop(small.index))
    return (
        f"RACC {small.min():+.2f} to {small.max():+.2f} in {len(small)} of {len(robust)} rows,"
        f" {large} in the others; ACC {clean.min():+.2f} to {clean.max():+.2f}"
    )


# ---- time


def own_shares() -> str:
    """Table 1's ResNet-18 settings: which share of the ceiling coreset runs had."""
    known = table("table1")
    runs = known[known.method.isin(SOLVERS) & known.setting.isin(R18)]
    share = 100 * runs.speedup_median_x / runs.speedup_ceiling_x
    return f"{share.min():.0f} to {share.max():.0f} % of the ceiling"


TIMED = (PROFILE, "full")  # profiles whose seconds an image are shown, as far as there are some
PRINTED = ("craig_x", "gradmatch_x")


def timed() -> dict[str, pd.DataFrame]:
    """What is published of `make time`, by profile: on a processor, on a GPU."""
    return {name: table("time", name) for name in TIMED if is_published("time", name)}


def arithmetic() -> str:
    """Speed-ups at the paper's sizes; what another attack of the selection makes of the first."""
    if not timed():
        return f"Not measured yet: `make time PROFILE={PROFILE}`.\n"
    first, *_ = timed().values()
    shown = first[first.papers & (first.table.ne("table1") | first.schedule.str.startswith("Res"))]
    return markdown([schedule_line(own) for _, own in shown.iterrows()])


def schedule_line(own: pd.Series) -> Line:
    """A printed schedule: ceiling, by arithmetic on each device, printed, by steps."""
    each = [of_schedule(known, own) for known in timed().values()]
    marks = [ceilings.above_ceiling(own[name], own.ceiling_x) for name in PRINTED]
    both = [f"{own[name]:.2f}{mark}" for name, mark in zip(PRINTED, marks, strict=True)]
    return {
        "times faster": own.schedule.replace("WideResNet-28-10", "WRN"),
        "ceiling": f"{own.ceiling_x:.2f}",
        "by arithmetic": ", ".join(f"{known[known.papers].speedup_x.item():.2f}" for known in each),
        "printed (CRAIG / GradMatch)": " / ".join(both),
    } | {
        f"attack: {steps}": f"{each[0].set_index('selection_steps').speedup_x[steps]:.2f}"
        for steps in (1, 10)
    }


def of_schedule(known: pd.DataFrame, own: pd.Series) -> pd.DataFrame:
    """The rows of the same schedule."""
    return known[(known.table == own.table) & (known.schedule == own.schedule)]


def measured_on() -> str:
    """Which devices the arithmetic's seconds are of, in the order of its numbers."""
    rows = [known.iloc[0] for known in timed().values()]
    said = [f"{row.device} ({row.images:g} images at a time)" for row in rows]
    return ", ".join(said) or "a processor that is not measured yet"


def arithmetic_agrees() -> str:
    """The distance of the arithmetic to the printed speed-ups that are possible."""
    gaps = [
        abs(known.speedup_x / known[name] - 1)[
            known.papers & (known[name] <= known.ceiling_x.round(2))
        ]
        for known in timed().values()
        for name in PRINTED
    ]
    if not gaps:
        return "cannot be told yet"
    several = 100 * pd.concat(gaps)
    return f"{several.median():.0f} % at the median, {several.max():.0f} % at most"


# ---- accuracy


def loss() -> str:
    """The paper's GradMatch, and ours, minus full training."""
    title = "minus full training"
    line = {title: "paper, GradMatch"}
    rows = [line]
    known = table("table1")
    for setting in (TRADES, LINF):
        run, full = (row(known, setting=setting, method=m) for m in ("adv_gradmatch", "full"))
        for measure, name in MEASURES.items():
            column = f"paper_{measure}_pct"
            line[f"{R18[setting]} {name}"] = signed(run[column] - full[column])
    for method in ("adv_gradmatch", "adaptive_random"):
        rows.append({title: METHODS[method]} | against_one(method, "full"))
    return markdown(rows)


def against_one(method: str, other: str) -> Line:
    """Table 1's cells of CIFAR-10: a method minus another one."""
    return {
        f"{R18[setting]} {name}": difference(
            *(row(table("table1"), setting=setting, method=m) for m in (method, other)), measure
        )
        for setting in (TRADES, LINF)
        for measure, name in MEASURES.items()
    }


def against() -> str:
    """Table 1: coresets minus adaptive random, and one solver minus the other."""
    title = f"`{PROFILE}`, {counted(table('table1').seeds.max())}"
    pairs = [(method, "adaptive_random") for method in SOLVERS] + [SOLVERS]
    return markdown(
        [
            {title: f"{METHODS[one]} minus {METHODS[other]}"} | against_one(one, other)
            for one, other in pairs
        ]
    )


def sizes() -> str:
    """Figure 4: GradMatch minus a random subset, drawn anew and drawn once."""
    rows = []
    known = table("fig4").query("series == 'size'")
    for other in ("adaptive_random", "random"):
        mean = known.pivot_table("racc_pct", "coreset_fraction", "method")
        gains = (mean.adv_gradmatch - mean[other]).sort_index(ascending=False)
        rows.append(
            {f"RACC, {counted(known.seeds.iloc[0])}": f"GradMatch minus {METHODS[other]}"}
            | {f"{100 * size:g} %": signed(gain) for size, gain in gains.items()}
            | {"mean": signed(gains.mean())}
        )
    return markdown(rows)


# ---- warm start, frequency, half-half


def warm() -> str:
    """Figure 4: GradMatch's RACC over warm starts."""
    known = table("fig4")
    part = known[known.series == "warm_start"]
    mean = part.groupby("warm_start").racc_pct.mean()
    full = known[known.method == "full"].racc_pct.mean()
    line = {f"RACC, {counted(part.seeds.iloc[0])}, warm start": "GradMatch, 50 %"}
    line |= {f"{100 * kappa:g} %": f"{racc:.1f}" for kappa, racc in mean.items()}
    return markdown([line | {"full training": f"{full:.1f}"}])


def period() -> str:
    """Table 6: RACC and speed-up."""
    rows = []
    known = table("table6").dropna(subset="selection_freq_epochs")
    for method in ("adv_gradmatch", "adaptive_random"):
        part = known[known.method == method].sort_values("selection_freq_epochs")
        line = {f"RACC (speed-up), {counted(part.seeds.iloc[0])}": METHODS[method]}
        for run in part.itertuples():
            mark = ceilings.above_ceiling(run.speedup_median_x, run.speedup_ceiling_x)
            name = f"T = {run.selection_freq_epochs:g}"
            line[name] = f"{run.racc_pct:.1f} ({run.speedup_median_x:.2f}{mark})"
        rows.append(line)
    return markdown(rows)


def half() -> str:
    """Table 5: half-half minus only core."""
    rows = []
    for profile in (PROFILE, "demo"):
        for method in ("adv_gradmatch", "adaptive_random"):
            core, both = (
                row(table("table5", profile), method=method, mode=mode)
                for mode in ("only_core", "half_half")
            )
            who = f"`{profile}`, {counted(core.seeds)}, {METHODS[method]}"
            rows.append(
                {"half-half minus only core": who}
                | {name: difference(both, core, measure) for measure, name in MEASURES.items()}
            )
    return markdown(rows)


# ---- other settings


def radius() -> str:
    """Figure 3 at some of its norms, in units of the training's."""
    rows = []
    known = table("fig3")
    known = known.assign(norm=(known.epsilon_255 / known.training_epsilon_255).round(3))
    for (curve, method), part in known.groupby(["curve", "method"], sort=False):
        mean = part.groupby("norm").racc_pct.mean()
        name = f"full {curve}" if method == "full" else METHODS[method]
        rows.append(
            {f"RACC at norm, {counted(part.seeds.iloc[0])}": name}
            | {f"{norm:g}": f"{mean[norm]:.1f}" for norm in (0, 1, 1.5, 2)}
        )
    return markdown(rows)


def by_run(title: str, item: str, measures: Line, profile: str, who: str = "") -> str:
    """A line a run: full training, GradMatch, adaptive random. `who`: a column."""
    rows = []
    known = table(item, profile)
    for _, run in known[known.method.isin(("full", "adv_gradmatch", "adaptive_random"))].iterrows():
        name = " ".join(filter(None, [run.get(who), METHODS.get(run.method, "full")]))
        rows.append(
            {f"{title}, `{profile}`, {counted(run.seeds)}": name, "speed-up": of_ceiling(run)}
            | {heading: f"{run[column]:.1f}" for heading, column in measures.items()}
        )
    return markdown(rows)


def fast() -> str:
    return by_run("FAT", "table4", {"ACC": "acc_pct", "RACC": "racc_pct"}, PROFILE)


def shares() -> str:
    """FAT: what part of its ceiling a speed-up is, in the paper and here."""
    theirs = ceilings.printed_speedups("table4").set_index("method")
    ours = table("table4").set_index("method")
    each = [
        [100 * theirs.speedup_x[name] / theirs.ceiling_x[name] for name in SOLVERS],
        [100 * ours.speedup_median_x[name] / ours.speedup_ceiling_x[name] for name in SOLVERS],
    ]
    said = [" and ".join(f"{share:.0f} %" for share in several) for several in each]
    return f"{said[0]} in the paper, {said[1]} here"


def perceptual() -> str:
    measures = {"clean": "acc_pct", "unseen RACC": "racc_unseen_mean_pct"}
    return by_run("Fast-LPA", "table2", measures, "demo", who="dataset")


def versions() -> str:
    """Figure 5: RACC of a version minus that of another, over the sizes."""
    known = table("fig5").dropna(subset="version")
    pairs = {
        "batch-wise minus class by class": ("batch-wise", "plain"),
        "warm start minus none": ("batch-wise + warm start", "batch-wise"),
    }
    rows = []
    for title, (one, other) in pairs.items():
        for method in SOLVERS:
            wide = known[known.method == method].pivot_table(
                ["racc_pct", "speedup_median_x"], "coreset_fraction", "version"
            )
            gains = wide.racc_pct[one] - wide.racc_pct[other]
            faster = (wide.speedup_median_x[one] / wide.speedup_median_x[other]).mean()
            rows.append(
                {f"RACC over sizes, {counted(known.seeds.iloc[0])}": f"{METHODS[method]}, {title}"}
                | {"mean": signed(gains.mean()), "range": between(gains.min(), gains.max())}
                | {"speed": f"x {faster:.2f}"}
            )
    return markdown(rows)


# ---- gradients


def gradient() -> str:
    """Table 1: relative gradient error (random's)."""
    title = f"error (random's), {counted(table('table1').seeds.max())}"
    return markdown(
        [
            {title: METHODS[method]}
            | {
                name: f"{run.gradient_error:.2f} ({run.random_gradient_error:.2f})"
                for setting, name in R18.items()
                for run in [row(table("table1"), setting=setting, method=method)]
            }
            for method in SOLVERS
        ]
    )


def lives() -> str:
    """What is left of a small gradient error: by view, and after epochs."""
    if not is_published("life"):
        return f"Not published yet: `make life PROFILE={PROFILE}`.\n"
    known = table("life").query("condition == 'as trained'")
    chosen = known[known.view == "chosen"].pivot_table("error", "method", "epoch")
    title = f"relative error, {counted(known.seed.nunique())}"
    rows = []
    for method in dict.fromkeys(known.method):
        at_once = known[(known.method == method) & (known.epoch == 0)]
        mean = at_once.groupby("view").error.mean()
        rows.append(
            {title: METHODS[method]}
            | {LIFE[view]: f"{mean[view]:.2f}" for view in life.VIEWS}
            | {
                f"after {epoch:g} epoch{'s' if epoch > 1 else ''}": f"{chosen[epoch][method]:.2f}"
                for epoch in (1, chosen.columns.max())
            }
        )
    return markdown(rows)


LIFE = {"chosen": "when chosen", "crops": "other crops", "weights": "all weights"}


def last_layer() -> str:
    """Section 3.4: whether what is better for the last layer is better for all weights."""
    if not is_published("life"):
        return "not published yet"
    key = ["method", "draw", "condition", "epoch", "seed"]
    both = table("life").pivot_table("error", key, "view")
    rank = both.chosen.corr(both.weights, method="spearman")
    word = "holds" if rank > 0.8 else "does not hold" if rank < 0.5 else "holds in part"
    return f"{word} (rank correlation {rank:.2f})"


# ---- the documents


def filled(text: str) -> str:
    """The document with every block and word as it should be. Raises KeyError for one that no
    function writes.
    """
    for pattern in (BLOCK, WORD):
        text = pattern.sub(lambda found: found[1] + written(found[2]) + found[3], text)
    return text


def written(name: str) -> str:
    make: Callable[[], str] = globals()[name]
    return make()


def main() -> None:
    for document in DOCUMENTS:
        text = document.read_text()
        if (new := filled(text)) != text:
            document.write_text(new)
            print(document.relative_to(ROOT))


if __name__ == "__main__":
    main()
