"""The paper's tables as printed (`results/paper/*.csv`), and where their numbers disagree."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from acslib.paper import files, frames, threats

FOLDER = files.CHECKOUT / "results" / "paper"
TABLES = ("table1", "table2", "table3", "table4", "table5", "table6", "tableD4")
KEY = ["model", "objective", "dataset", "method"]
VARIED = ("mode", "selection_freq_epochs")  # what Tables 5 and 6 vary
OBJECTIVE_LABELS = {
    "linf_pgd": "linf-PGD",
    "l2_pgd": "l2-PGD",
    "trades": "TRADES",
    "fast_at": "FAT",
    "fast_lpa": "Fast-LPA",
}
# what is printed beside a number, and the number that it belongs to
DIFFERENCES = {
    "acc_diff_printed_pct": "acc_pct",
    "racc_diff_printed_pct": "racc_pct",
    "time_diff_printed_min": "time_min",
    "racc_unseen_diff_printed_pct": "racc_unseen_mean_pct",
    "racc_seen_diff_printed_pct": "racc_seen_mean_pct",
}
DERIVED = {"speedup_printed_x": "speedup_x", "racc_unseen_mean_printed_pct": "racc_unseen_mean_pct"}
# rows that must be those of another table
TWINS = {
    "table2": ("tableD4", None),
    "table5": ("table1", "mode != 'half_half'"),
    "table6": ("table3", "not selection_freq_epochs < 10"),
}
MEASURE_NAMES = {
    "acc": "ACC",
    "racc": "RACC",
    "racc_unseen": "mean unseen RACC",
    "racc_seen": "mean seen RACC",
    "time": "T",
    "speedup": "speed-up",
}
HALF_A_DIGIT = 0.0051  # of the second decimal, the last that is printed


def paper_table(item: str) -> pd.DataFrame:
    """The table as printed, with what it implies: speed-ups, the means of Table D4's attacks.

    Table 2 also gets those means, as `..._mean_d4_pct`. Empty for what is not one of `TABLES`.
    Raises RecordError where the file of one is missing, as in an installed package.
    """
    if item not in TABLES:
        return pd.DataFrame()
    path = FOLDER / f"{item}.csv"
    if not path.is_file():
        raise files.RecordError(
            f"there is no {path}, which has the paper's own numbers: run from a checkout of the"
            " repository, they are not in the installed package"
        )
    printed = frames.read_frame(path, {*KEY, "method_label"}, "take it from the repository again")
    if "acc_clean_pct" in printed:
        printed["acc_pct"] = printed.acc_clean_pct
        for kind, attacks in (("seen", threats.SEEN), ("unseen", threats.UNSEEN)):
            printed[f"racc_{kind}_mean_pct"] = printed[
                [f"racc_{name}_pct" for name in attacks]
            ].mean(axis=1)
    if "time_min" in printed:
        printed["speedup_x"] = of_full(printed)["time_min"] / printed.time_min
    if item == "table2":
        means = paper_table("tableD4")[[*KEY, "racc_seen_mean_pct", "racc_unseen_mean_pct"]]
        means.columns = means.columns.str.replace("_mean_", "_mean_d4_")
        printed = printed.merge(means, on=KEY)
    return printed


def of_full(printed: pd.DataFrame) -> pd.DataFrame:
    """For each row, the row of the full training that it is compared with."""
    full = printed[printed.method == "full"].set_index(KEY[:3])
    return full.loc[pd.MultiIndex.from_frame(printed[KEY[:3]])].set_index(printed.index)


@dataclass(frozen=True)
class Check:
    """One printed number against what other printed numbers imply for it."""

    where: str
    measure: str
    printed: float
    implied: float
    source: str

    @property
    def agrees(self) -> bool:
        return abs(self.printed - self.implied) < HALF_A_DIGIT

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.measure} is printed as {self.printed:.2f},"
            f" {self.source} {round(self.implied, 3):g}"
        )


def checked_numbers(item: str) -> Iterator[Check]:
    """Every printed number that others determine: differences, ratios, means, repeated rows."""
    printed = paper_table(item)
    if printed.empty:
        return
    full = of_full(printed)
    implied = {
        name: (printed[of] - full[of], f"difference in {measure_name(of)}", "its numbers give")
        for name, of in DIFFERENCES.items()
        if name in printed
    }
    implied |= {
        name: (printed[of], measure_name(of), "its numbers give")
        for name, of in DERIVED.items()
        if name in printed
    }
    for name, (values, measure, source) in implied.items():
        yield from number_checks(printed, printed[name], values, measure, source)
    if item in TWINS:
        other, which = TWINS[item]
        rows = printed.query(which) if which else printed
        there = rows[KEY].merge(paper_table(other), on=KEY, how="left").set_index(rows.index)
        for name in (
            "acc_pct",
            "racc_pct",
            "racc_unseen_mean_pct",
            "racc_seen_mean_pct",
            "time_min",
        ):
            if name in rows and name in there:
                yield from number_checks(
                    rows, rows[name], there[name], measure_name(name), f"Table {other[5:]} gives"
                )


def number_checks(
    rows: pd.DataFrame, printed: pd.Series, implied: pd.Series, measure: str, source: str
) -> Iterator[Check]:
    """A check of each number that is printed; the series are indexed like `rows`."""
    for index in rows.index[printed.notna()]:
        yield Check(row_in_words(rows.loc[index]), measure, printed[index], implied[index], source)


def measure_name(column: str) -> str:
    return MEASURE_NAMES[column.rsplit("_", 1)[0].removesuffix("_mean")]


def row_in_words(row: pd.Series) -> str:
    """A row in words."""
    varied = [{"only_core": "ONLY-Core", "half_half": "Half-Half"}.get(row.get("mode"))]
    if pd.notna(row.get("selection_freq_epochs")):
        varied.append(f"T = {row.selection_freq_epochs:g}")
    return ", ".join(
        filter(
            None,
            [row.model, OBJECTIVE_LABELS[row.objective], row.dataset, *varied, row.method_label],
        )
    )


def errata(item: str) -> list[str]:
    """A sentence for each printed number that disagrees with the others."""
    return [str(check) for check in checked_numbers(item) if not check.agrees]
