"""Writes the tables of README.md and docs/claims.md from the CSVs in results/published: no number
in them is typed.

    python tools/claims.py

fills every block `<!-- numbers: NAME -->` ... `<!-- end -->` with what the function NAME below
gives. `make publish` calls it, and a test that it would change nothing.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd

from acslib.paper import frames, methods, tables
from acslib.paper.rows import against_adaptive

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "claims.md")
PROFILES = ("demo", "mini")
BLOCK = re.compile(r"(<!-- numbers: (\w+) -->\n).*?(<!-- end -->)", re.S)
R18 = {
    "resnet18-trades-cifar10": "TRADES",
    "resnet18-linf-cifar10": "linf",
    "resnet18-l2-svhn": "l2",
}
# what methods are called in a sentence, by their value in the CSVs: CRAIG, adaptive random
METHODS = {
    method.printed: method.label.removeprefix("Adv. ")
    if method.label.startswith("Adv. ")
    else method.label.lower()
    for method in methods.METHODS.values()
    if method.name != "full"
}


@cache
def read(profile: str, name: str) -> pd.DataFrame:
    path = ROOT / "results" / "published" / profile / f"{name}.csv"
    return frames.read_frame(path, tables.NEEDED.get(name, tables.TABLE), "make publish makes it")


def row(table: pd.DataFrame, **where: str) -> pd.Series:
    """The only row with these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, f"{len(table)} rows have {where}"
    return table.iloc[0]


def signed(value: float) -> str:
    return f"{value:+.1f}" if abs(value) >= 0.05 else "0.0"


def counted(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def of_table1(profile: str) -> str:
    """The profile, and how many seeds its Table 1 has if more than one, and which setting has
    others.
    """
    seeds = read(profile, "table1").drop_duplicates("setting").set_index("setting").seeds
    most = seeds.max()
    others = ", ".join(
        f"{R18.get(setting, setting)}: {n}" for setting, n in seeds[seeds < most].items()
    )
    return f"`{profile}`" + (
        f", {most} seeds{f' ({others})' if others else ''}," if most > 1 else ""
    )


def spread(row: pd.Series, measure: str) -> str:
    """Mean and, with several seeds, standard deviation."""
    std = row[f"{measure}_std_pct"]
    return f"{row[f'{measure}_pct']:.1f}" + (f" ± {std:.1f}" if row.seeds > 1 else "")


def markdown(rows: list[dict[str, str]]) -> str:
    names = list(rows[0])
    lines = [
        names,
        [":--", *["--:"] * (len(names) - 1)],
        *[[str(cell) for cell in row.values()] for row in rows],
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def found() -> str:
    """README: ResNet-18, linf, CIFAR-10 in `mini`, one row for each way to train."""
    ways = {
        "full": "all the data",
        "adv_gradmatch": "coreset by GradMatch",
        "adv_craig": "coreset by CRAIG",
        "adaptive_random": "random subset, drawn anew",
    }
    table, rows = read("mini", "table1"), []
    for method, trained_on in ways.items():
        run = row(table, setting="resnet18-linf-cifar10", method=method)
        rows.append(
            {
                "trained on": trained_on,
                "clean accuracy %": spread(run, "acc"),
                "robust accuracy %": spread(run, "racc"),
                "speed-up (of at most)": of_ceiling(run) or "1",
            }
        )
    return markdown(rows)


def by_setting(title: str, methods: tuple[str, ...], cell: Callable[[pd.Series], str]) -> str:
    """Table 1's ResNet-18 settings as columns: `cell(row)` of each profile and method."""
    return markdown(
        [
            {title: f"{of_table1(profile)} {METHODS[method]}"}
            | {
                name: cell(row(read(profile, "table1"), setting=setting, method=method))
                for setting, name in R18.items()
            }
            for profile in PROFILES
            for method in methods
        ]
    )


def of_ceiling(run: pd.Series) -> str:
    return (
        f"{run.speedup_median_x:.2f} of {run.speedup_ceiling_x:.2f}" if run.method != "full" else ""
    )


def time() -> str:
    return by_setting(
        "speed-up by medians", ("adv_craig", "adv_gradmatch", "adaptive_random"), of_ceiling
    )


def loss() -> str:
    """GradMatch, adaptive random and the paper's GradMatch minus full training."""
    rows = []
    for profile, method, prefix in (
        ("demo", "adv_gradmatch", "paper_"),
        *(
            (profile, method, "")
            for profile in PROFILES
            for method in ("adv_gradmatch", "adaptive_random")
        ),
    ):
        who = "paper, ResNet-18, GradMatch" if prefix else f"{of_table1(profile)} {METHODS[method]}"
        line = {"minus full training": who}
        for setting in list(R18)[:2]:
            run, full = (
                row(read(profile, "table1"), setting=setting, method=name)
                for name in (method, "full")
            )
            for measure in ("acc", "racc"):
                column = f"{prefix}{measure}_pct"
                line[f"{R18[setting]} {measure.upper()}"] = signed(run[column] - full[column])
        rows.append(line)
    return markdown(rows)


def sizes() -> str:
    """Figure 4: GradMatch minus adaptive random (minus fixed random)."""
    rows = []
    for profile in PROFILES:
        table = read(profile, "fig4").query("series == 'size'")
        for measure in ("racc_pct", "acc_pct"):
            mean = table.pivot_table(measure, "coreset_fraction", "method").sort_index(
                ascending=False
            )
            gains = mean[["adaptive_random", "random"]].rsub(mean.adv_gradmatch, axis=0)
            gains.loc["mean"] = gains.mean()
            title = f"`{profile}`, {counted(table.seeds.iloc[0])}, {measure[:-4].upper()}"
            cells = [
                f"{signed(gain.adaptive_random)} ({signed(gain.random)})"
                for _, gain in gains.iterrows()
            ]
            names = [f"{100 * size:g} %" if size != "mean" else size for size in gains.index]
            rows.append({"GradMatch minus random": title} | dict(zip(names, cells, strict=True)))
    return markdown(rows)


def against() -> str:
    """Tables 1 and 5: minus adaptive random, with the standard error of the choice of test images
    in brackets.
    """
    rows = []
    for profile in PROFILES:
        found = {"table1": against_adaptive(read(profile, "table1"))}
        five = against_adaptive(read(profile, "table5"))
        found["table5"] = five[five["mode"] == "only_core"]
        for method in ("adv_craig", "adv_gradmatch"):
            line = {"RACC minus adaptive random's": f"{of_table1(profile)} {METHODS[method]}"}
            for setting, title in R18.items():
                gain = row(found["table1"], setting=setting, method=method)
                line[title] = f"{signed(gain.difference)} ({gain.chance:.1f})"
            gain, seeds = (
                row(found["table5"], method=method),
                counted(read(profile, "table5").seeds.iloc[0]),
            )
            line["linf, Table 5"] = f"{signed(gain.difference)} ({gain.chance:.1f}), {seeds}"
            rows.append(line)
    return markdown(rows)


def solvers() -> str:
    """GradMatch minus CRAIG."""
    rows = []
    for profile in PROFILES:
        for measure in ("acc_pct", "racc_pct"):
            line = {"GradMatch minus CRAIG": f"{of_table1(profile)} {measure[:-4].upper()}"}
            for setting, title in R18.items():
                ours, theirs = (
                    row(read(profile, "table1"), setting=setting, method=f"adv_{name}")[measure]
                    for name in ("gradmatch", "craig")
                )
                line[title] = signed(ours - theirs)
            rows.append(line)
    return markdown(rows)


def warm() -> str:
    """Figure 4: GradMatch's RACC over warm starts."""
    rows = []
    for profile in PROFILES:
        table = read(profile, "fig4")
        mean = table[table.series == "warm_start"].groupby("warm_start").racc_pct.mean()
        adaptive = table[
            (table.method == "adaptive_random") & (table.coreset_fraction == 0.5)
        ].racc_pct.mean()
        full = table[table.method == "full"].racc_pct.mean()
        rows.append(
            {"RACC, warm start": f"`{profile}`"}
            | {f"{100 * kappa:g} %": f"{racc:.1f}" for kappa, racc in mean.items()}
            | {"adaptive random, 60 %": f"{adaptive:.1f}", "full training": f"{full:.1f}"}
        )
    return markdown(rows)


def period() -> str:
    rows = []
    for profile in PROFILES:
        table = read(profile, "table6").dropna(subset="selection_freq_epochs")
        for method in ("adv_craig", "adv_gradmatch", "adaptive_random"):
            part = table[table.method == method].sort_values("selection_freq_epochs")
            line = {"RACC (seconds selecting, speed-up)": f"`{profile}` {METHODS[method]}"}
            for run in part.itertuples():
                cost = f"{run.seconds_select:.1f} s, {run.speedup_median_x:.2f}x"
                line[f"T = {run.selection_freq_epochs:g}"] = f"{run.racc_pct:.1f} ({cost})"
            rows.append(line)
    return markdown(rows)


def half() -> str:
    rows = []
    for profile in PROFILES:
        table = read(profile, "table5")
        for method in ("adv_craig", "adv_gradmatch", "adaptive_random"):
            core, both = (
                row(table, method=method, mode=mode) for mode in ("only_core", "half_half")
            )
            rows.append(
                {
                    "Table 5": f"`{profile}` {METHODS[method]}",
                    "clean, only core": spread(core, "acc"),
                    "half-half": spread(both, "acc"),
                    "RACC, only core": spread(core, "racc"),
                    "half-half ": spread(both, "racc"),
                    "time, medians": f"x {core.speedup_median_x / both.speedup_median_x:.2f}",
                }
            )
    return markdown(rows)


def radius() -> str:
    """Figure 3 at some of its norms, in units of the training's."""
    rows = []
    for profile in reversed(PROFILES):
        table = read(profile, "fig3")
        table = table.assign(norm=(table.epsilon_255 / table.training_epsilon_255).round(3))
        for key, part in table.groupby(["curve", "method"], sort=False):
            mean = part.groupby("norm").racc_pct.mean()
            curve, method = key
            name = f"full {curve}" if method == "full" else METHODS[method]
            rows.append(
                {"norm of the attack": f"`{profile}` {name}"}
                | {f"{norm:g}": f"{mean[norm]:.1f}" for norm in (0, 0.5, 1, 1.25, 1.5, 1.75, 2)}
            )
    return markdown(rows)


def by_run(title: str, table: str, measures: dict[str, str], which: str = "", who: str = "") -> str:
    """A line a run, all but the fixed random subset's: its speed-up and measures. `which`: a query;
    `who`: a column.
    """
    rows = []
    for profile in PROFILES:
        for _, run in read(profile, table).query(f"method != 'random'{which}").iterrows():
            name = " ".join(
                filter(None, [f"`{profile}`", run.get(who), METHODS.get(run.method, "full")])
            )
            rows.append(
                {title: name, "speed-up": of_ceiling(run)}
                | {heading: f"{run[column]:.1f}" for heading, column in measures.items()}
            )
    return markdown(rows)


def fast() -> str:
    measures = {
        "ACC": "acc_pct",
        "RACC": "racc_pct",
        "RACC, training's own attack": "train_robust_pct",
    }
    return by_run("FAT", "table4", measures)


def perceptual() -> str:
    measures = {
        "clean": "acc_pct",
        "unseen RACC": "racc_unseen_mean_pct",
        "seen RACC": "racc_seen_mean_pct",
    }
    return by_run("Fast-LPA", "table2", measures, who="dataset")


def early() -> str:
    linf = " and setting == 'wrn28_10-linf-cifar10'"
    return by_run("half the epochs", "table3", {"ACC": "acc_pct", "RACC": "racc_pct"}, linf)


def versions() -> str:
    """Figure 5: RACC (speed-up) by size."""
    rows = []
    for profile in reversed(PROFILES):
        table = read(profile, "fig5").dropna(subset="version")
        for (method, version), part in table.groupby(["method", "version"], sort=False):
            mean = (
                part.groupby("coreset_fraction")[["racc_pct", "speedup_median_x"]]
                .mean()
                .sort_index(ascending=False)
            )
            who = METHODS[method] + ("" if method == "adaptive_random" else f", {version}")
            rows.append(
                {"RACC (speed-up)": f"`{profile}` {who}"}
                | {
                    f"{100 * size:g} %": f"{run.racc_pct:.1f} ({run.speedup_median_x:.1f})"
                    for size, run in mean.iterrows()
                }
            )
    return markdown(rows)


def gradient() -> str:
    return by_setting(
        "relative gradient error (random's)",
        ("adv_gradmatch", "adv_craig"),
        lambda run: f"{run.gradient_error:.2f} ({run.random_gradient_error:.2f})",
    )


def filled(text: str) -> str:
    """The document with every block as it should be. Raises KeyError for a block that no function
    writes.
    """
    return BLOCK.sub(lambda found: found[1] + globals()[found[2]]() + found[3], text)


def main() -> None:
    for document in DOCUMENTS:
        text = document.read_text()
        if (new := filled(text)) != text:
            document.write_text(new)
            print(document.relative_to(ROOT))


if __name__ == "__main__":
    main()
