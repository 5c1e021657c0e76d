"""How the paper's tables look: names for people, and for each column the cell that a row gives."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from acslib.paper import printed, threats

MODEL_LABELS = {
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "wideresnet28_10": "WideResNet-28-10",
}
DATASET_LABELS = {
    "cifar10": "CIFAR-10",
    "svhn": "SVHN",
    "imagenet12": "ImageNet-12",
    "imagenet100": "ImageNet-100",
}


def paper_objective(setting: Mapping[str, Any]) -> str:
    """A setting's value in the column `objective`, as the paper's tables have it.

    `setting`: as `params/settings.yaml` has it, before a profile changes it. FAT is told by its
    single step.
    """
    if setting["objective"] != "adversarial":
        return setting["objective"]
    return "fast_at" if setting["steps"] == 1 else f"{setting['norm']}_pgd"


def objective_title(value: str) -> str:
    """For people, what the column `objective` holds."""
    return printed.OBJECTIVE_LABELS.get(value, value)


PGD20 = "PGD-20 %"
MARK = "†"  # of a speed-up above what its schedule allows
Cell = Callable[[pd.Series, pd.Series], str]  # of a row and the row of its full training


def with_difference(value, difference, std=None, mark: str = "", digits: int = 2) -> str:
    """In a cell: the value, its standard deviation, its difference to full training."""
    if value is None or pd.isna(value):
        return "-"
    text = f"{value:.{digits}f}{mark}" + (
        f" ± {std:.{digits}f}" if std is not None and not pd.isna(std) else ""
    )
    return (
        text if difference is None or pd.isna(difference) else f"{text} ({difference:+.{digits}f})"
    )


def fixed(value, digits: int = 2, unit: str = "") -> str:
    """Rounded half up, as the paper rounds its means."""
    return "-" if value is None or pd.isna(value) else f"{value + 1e-9:.{digits}f}{unit}"


def as_text(column: str, digits: int | None = None) -> Cell:
    """A column's value as it is, or as a number to so many digits."""
    return lambda row, full: str(row[column]) if digits is None else fixed(row.get(column), digits)


def as_given(parameter: str) -> Cell:
    """A parameter's value; a dash where full training knows nothing of it."""
    return lambda row, full: "-" if pd.isna(row[parameter]) else value_text(row[parameter])


def value_text(value: Any) -> str:
    """A parameter's value as YAML has it."""
    if pd.api.types.is_bool(value):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def measured(name: str, mean: str = "") -> Cell:
    """Mean, standard deviation over seeds, and difference to full training in brackets."""
    return lambda row, full: with_difference(
        *(row.get(f"{name}{part}_pct") for part in (mean, "_diff", "_std"))
    )


def as_printed(name: str, mean: str = "") -> Cell:
    """What the paper prints, with its numbers' difference; * where they disagree with Table D4."""

    def cell(row, full):
        value, reference, d4 = (
            source.get(f"paper_{name}{part}_pct", float("nan"))
            for source, part in ((row, mean), (full, mean), (row, "_mean_d4"))
        )
        mark = "*" if abs(value - d4) > printed.HALF_A_DIGIT else ""
        return with_difference(
            value, None if row.method == "full" else value - reference, mark=mark
        )

    return cell


def speedup(row, full) -> str:
    """With what the schedule allows in brackets, and a mark where it is above."""
    mark = above_ceiling(row.speedup_median_x, row.speedup_ceiling_x)
    return f"{row.speedup_median_x:.2f}{mark} ({row.speedup_ceiling_x:.2f})"


def paper_speedup(row, full) -> str:
    """As the printed times have it, with a mark where the paper's schedule does not allow it."""
    value = row.get("paper_speedup_x")
    mark = above_ceiling(value, row.get("paper_ceiling_x", float("nan")))
    return "-" if value is None or pd.isna(value) else f"{value + 1e-9:.2f}{mark}"


def above_ceiling(speedup, ceiling) -> str:
    """A mark for a speed-up above its ceiling, as both are shown; none where one is missing."""
    if speedup is None or pd.isna(speedup) or pd.isna(ceiling):
        return ""
    return MARK if round(speedup, 2) > round(ceiling, 2) else ""


def seconds(row, full) -> str:
    """T, its standard deviation over seeds, and the difference to full training."""
    difference = None if row.method == "full" else row.time_s - full.time_s
    return with_difference(row.time_s, difference, row.get("time_std_s"), digits=1)


def paired_seconds(row, full):
    """The same, the difference being to the full training that the row was compared with."""
    difference = None if row.method == "full" else 60 * row.time_diff_min
    return with_difference(row.time_s, difference, row.time_std_s, digits=1)


def run_on(row) -> str:
    """Profile and data, in a few words: "demo: digits" where the paper has CIFAR-10."""
    name = re.sub(r"^scikit-learn |[(,].*", "", row.data)
    return f"{row.profile}: {name.strip()}"


WHO: dict[str, Cell] = {
    "Model": as_text("model"),
    "Objective": lambda row, full: objective_title(row.objective),
    "Data": as_text("dataset"),
    "Run on": lambda row, full: run_on(row),
    "Training": as_text("method_label"),
}
CLEAN: dict[str, Cell] = {"ACC %": measured("acc"), "paper ACC": as_printed("acc")}
ROBUST: dict[str, Cell] = {
    "RACC %": measured("racc"),
    "paper RACC": as_printed("racc"),
    PGD20: measured("pgd20"),
    "AA %": measured("autoattack"),
}
TIME: dict[str, Cell] = {
    "T s": seconds,
    "paper T min": as_text("paper_time_min", 2),
    "speed-up (at most)": speedup,
    "paper speed-up": paper_speedup,
}
LAYOUTS: dict[str, dict[str, Cell]] = {
    "table1": WHO | CLEAN | ROBUST | TIME,
    "table2": {name: WHO[name] for name in ("Data", "Run on", "Training")}
    | CLEAN
    | {
        "unseen RACC %": measured("racc_unseen", "_mean"),
        "paper unseen": as_printed("racc_unseen", "_mean"),
        "seen RACC %": measured("racc_seen", "_mean"),
        "paper seen": as_printed("racc_seen", "_mean"),
    }
    | TIME,
    "table3": {name: WHO[name] for name in ("Objective", "Data", "Run on", "Training")}
    | CLEAN
    | ROBUST
    | TIME,
    "table4": {name: WHO[name] for name in ("Run on", "Training")}
    | CLEAN
    | ROBUST
    | {
        "RACC % in training": as_text("train_robust_pct", 2),
        "overfitted": lambda row, full: f"{row.overfitted_seeds} of {row.seeds}",
        "S_avg min/epoch": as_text("speed_avg_min_per_epoch", 4),
        "paper S_avg": as_text("paper_speed_avg_min_per_epoch", 4),
    }
    | TIME,
    "table6": {
        "T printed": as_text("selection_freq_epochs", 0),
        "T here": as_text("period", 0),
        "selections": as_text("selections", 0),
        "Run on": WHO["Run on"],
        "Training": WHO["Training"],
    }
    | CLEAN
    | ROBUST
    | TIME,
}
ATTACK_LABELS = {
    "autoattack_l2": "Auto-l2",
    "autoattack_linf": "Auto-linf",
    "jpeg": "JPEG",
    "stadv": "StAdv",
    "recolor": "ReColor",
    "ppgd": "PPGD",
    "lpa": "LPA",
}
MEANS = {"unseen": "unseen mean", "seen": "seen mean"}
IN_THE_PAPER = "· in the paper"


# what an item of one's own shows behind what it varies
OUTCOMES: dict[str, Cell] = {
    "ACC %": measured("acc"),
    "RACC %": measured("racc"),
    PGD20: measured("pgd20"),
    "unseen RACC %": measured("racc_unseen", "_mean"),
    "AA %": measured("autoattack"),
    "T s": paired_seconds,
    "speed-up (at most)": speedup,
}


def columns_of_own(table: pd.DataFrame, varied: Iterable[str]) -> pd.DataFrame:
    """An item of one's own for people: who, the parameters that it varies, what came of it.

    Differences are to the full training that a row was compared with, which need not be a row
    itself. Columns without a value are left out, and so is a parameter that says who already says.
    """
    own = {name: as_given(name) for name in varied if name.capitalize() not in WHO}
    layout = WHO | own | OUTCOMES
    found = pd.DataFrame(
        [{title: cell(row, row) for title, cell in layout.items()} for _, row in table.iterrows()]
    )
    return found.loc[:, (found != "-").any()]


def every_attack(table: pd.DataFrame) -> Iterable[dict]:
    """Table D4: a row of ours and, where there is one, the paper's below it."""
    columns = {"acc_pct": "Clean"}
    for kind, attacks in (("unseen", threats.UNSEEN), ("seen", threats.SEEN)):
        columns |= {f"racc_{name}_pct": ATTACK_LABELS[name] for name in attacks}
        columns[f"racc_{kind}_mean_pct"] = MEANS[kind]
    for _, row in table.iterrows():
        yield {
            "Data": row.dataset,
            "Run on": run_on(row),
            "Training": row.method_label,
            **{title: fixed(row.get(name)) for name, title in columns.items()},
            "T": fixed(row.time_s, 1, " s"),
        }
        if pd.notna(row.get("paper_acc_pct")):
            yield {
                "Data": row.dataset,
                "Run on": "",
                "Training": IN_THE_PAPER,
                **{title: fixed(row.get(f"paper_{name}")) for name, title in columns.items()},
                "T": fixed(row.get("paper_time_min"), 2, " min"),
            }


def both_modes(table: pd.DataFrame) -> Iterable[dict]:
    """Table 5: ONLY-Core beside Half-Half; full training under the first."""
    for label, part in table.groupby("method_label", sort=False):
        rows = part.set_index("mode")
        for who, prefix in ((label, ""), (IN_THE_PAPER, "paper_")):
            line = {"Run on": "" if prefix else run_on(part.iloc[0]), "Training": who}
            known = set(line.values())
            for measure, title in (("acc_pct", "Clean %"), ("racc_pct", "RACC %"), ("time", "T")):
                for modes, heading in (
                    (("only_core", "full"), "ONLY-Core"),
                    (("half_half",), "Half-Half"),
                ):
                    there = rows[rows.index.isin(modes)]
                    line[f"{title} {heading}"] = (
                        mode_cell(there.iloc[0], prefix, measure) if len(there) else "-"
                    )
            if set(line.values()) - known != {"-"}:
                yield line


def mode_cell(row: pd.Series, prefix: str, measure: str) -> str:
    """Of one mode of Table 5, ours or (with a prefix) the paper's."""
    if measure != "time":
        return with_difference(
            row.get(prefix + measure), None, None if prefix else row[measure.replace("_", "_std_")]
        )
    return fixed(row.get("paper_time_min"), 2, " min") if prefix else fixed(row.time_s, 1, " s")


def single_attacks(table: pd.DataFrame) -> dict[str, str]:
    """Table D4's columns of single attacks and of clean images, with their titles."""
    attacks = {f"racc_{name}_pct": ATTACK_LABELS[name] for name in threats.UNSEEN + threats.SEEN}
    titles = {"acc_pct": "clean"} | attacks
    return {name: title for name, title in titles.items() if name in table}
