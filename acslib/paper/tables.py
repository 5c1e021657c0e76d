"""From rows to what people read: tables as CSV, LaTeX and text."""

from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from acslib.paper import ceilings, files, frames, paramfiles, printed, rows
from acslib.paper.columns import (
    LAYOUTS,
    MODEL_LABELS,
    PGD20,
    WHO,
    both_modes,
    columns_of_own,
    every_attack,
)

# the columns that a CSV must have in order to be shown and drawn: of tables, of Figures 3 to 5
TABLE = {
    *("table", "model", "objective", "dataset", "method", "method_label", "setting", "run"),
    *("profile", "data", "network", "seeds", "acc_pct", "time_s"),
    *("speedup_median_x", "speedup_ceiling_x"),
}
OWN = {"time_diff_min", "time_std_s"}  # beside TABLE, of an item of one's own
WITH_SPEEDUPS = ("table1", "table2", "table3", "table4", "table6")  # and not time alone
POINTS = {"profile", "data", "network", "seeds", "seed", "run", "method", "racc_pct"}
ERRORS = {"relative_robust_error_pct", "speedup_median_x", "coreset_fraction"}
NEEDED = {
    "table2": TABLE | {"racc_unseen_mean_pct", "racc_unseen_std_pct", "paper_racc_unseen_mean_pct"},
    "table4": TABLE | {"epochs", "racc_pct", "train_robust_pct", "overfitted_seeds"},
    "table5": TABLE | {"mode", "acc_std_pct", "racc_pct", "racc_std_pct"},
    "table6": TABLE | {"selection_freq_epochs", "racc_pct", "racc_std_pct"},
    "tableD4": TABLE | {"paper_acc_pct"},
    "fig1": {
        *("profile", "about", "weights", "epoch", "phase", "selects", "coreset_fraction"),
        *("seconds_select", "seconds_attack", "seconds_update"),
        *("seconds_full_epoch", "seconds_total", "seconds_full"),
    },
    "fig2": {"profile", "about", "weights", "method", "draw", "relative_error"},
    "fig3": POINTS | {"curve", "epsilon_255", "training_epsilon_255", "steps", "test_images"},
    "fig4": POINTS | ERRORS | {"series", "warm_start"},
    "fig5": POINTS | ERRORS | {"version", "relative_clean_error_pct"},
    "life": {"profile", "method", "draw", "condition", "epoch", "view", "error", "seed"},
    "study": {
        *("objective", "k", "arm", "measure", "seeds", "value", "difference"),
        *("ci_low", "ci_high", "seconds", "adversarial_images", "device"),
    },
    "time": {
        *("profile", "table", "schedule", "selections", "selection_steps", "papers", "ceiling_x"),
        *("speedup_x", "craig_x", "gradmatch_x", "images", "device"),
    },
    "theorem1": {"profile", "norm", "part", "method", "iterations", "left", "bound"},
}


# ---- from rows to what people read


def beside_paper(table: pd.DataFrame) -> pd.DataFrame:
    """The table for people: the paper's columns, ours beside (Tables D4, 5: above) the paper's.

    In brackets: differences to full training; with several seeds ± is their standard deviation.
    """
    name = table.table.iloc[0]
    if name == "tableD4":
        return pd.DataFrame(every_attack(table))
    if name == "table5":
        return pd.DataFrame(both_modes(table))
    if name not in LAYOUTS:
        return columns_of_own(table, rows.varied(name, table.profile.iloc[0]))
    layout = LAYOUTS[name]
    if "pgd20_pct" not in table:
        layout = {title: cell for title, cell in layout.items() if title != PGD20}
    table = ceilings.beside(table)
    full = table[table.method == "full"].drop_duplicates("setting").set_index("setting")
    return pd.DataFrame(
        [
            {title: cell(row, full.loc[row.setting]) for title, cell in layout.items()}
            for _, row in table.iterrows()
        ]
    )


def title(item: str, gathered: pd.DataFrame) -> str:
    """What this is, with the profile and the data in it."""
    first = gathered.iloc[0]
    sources = "; ".join(
        f"{name} is {' or '.join(part.data.unique())}"
        for name, part in gathered.groupby("dataset", sort=False)
    )
    networks = "; ".join(
        name for name in gathered.network.unique() if name not in MODEL_LABELS.values()
    )
    seeds = " or ".join(map(str, sorted(gathered.seeds.unique())))
    number = "one seed" if seeds == "1" else f"mean ± standard deviation of {seeds} seeds"
    counts = {"Attacks": first.get("threats_n"), "AA": first.get("autoattack_n")}
    parts = first.get("autoattack", "not recorded")
    attacked = the_first(gathered)
    attacked += "".join(
        f" {what} (AutoAttack: {parts}) on the first {count:g} test images."
        for what, count in counts.items()
        if pd.notna(count)
    )
    made_on = "".join(
        f" {name.capitalize()}: {' or '.join(gathered[name].unique())}."
        for name in ("device", "precision", "torch")
        if name in gathered
    )
    return (
        f"{paramfiles.read_yaml(item)['title']}. Profile {first.profile}, {number}. {sources}."
        + (f" Networks: {networks}." if networks else "")
        + attacked
        + made_on
    )


def the_first(gathered: pd.DataFrame) -> str:
    """In words: where RACC is of the first test images, and PGD-20 of all of them."""
    if "pgd20_pct" not in gathered:
        return ""
    counts = gathered[gathered.pgd20_pct.notna()].racc_images.unique()
    return (
        f" RACC is of the first {' or '.join(f'{count:g}' for count in counts)} test images where"
        " PGD-20 (one start) is of all of them."
    )


# ---- files


def write_table(item: str, gathered: pd.DataFrame, results: Path | None = None) -> Path:
    """Write results/<profile>/<item>.csv and .tex, atomically; gives the CSV's path."""
    folder = (results or files.RESULTS) / gathered.profile.iloc[0]
    files.write_file(folder / f"{item}.tex", latex(item, gathered).encode())
    return frames.write_frame(folder / f"{item}.csv", gathered)


def read_table(item: str, profile: str, results: Path | None = None) -> pd.DataFrame:
    """The CSV of a table or figure. Raises RecordError if it is missing or damaged."""
    path = (results or files.RESULTS) / profile / f"{item}.csv"
    remedy = f"make {item} PROFILE={profile} makes it"
    if path.exists():
        remedy = f"delete it and make {item} PROFILE={profile} again"
    return frames.read_frame(path, needed_columns(item, profile), remedy)


def needed_columns(item: str, profile: str) -> set[str]:
    """The columns without which a CSV cannot be shown and drawn; what an item of one's own varies
    is among them.
    """
    if item in NEEDED:
        return NEEDED[item]
    return TABLE | ({"racc_pct"} if item in LAYOUTS else {*OWN, *rows.varied(item, profile)})


def latex(item: str, gathered: pd.DataFrame) -> str:
    """A booktabs table; needs \\usepackage{booktabs}."""
    caption = " ".join([title(item, gathered), *notes(item, gathered)])
    body = escaped(beside_paper(gathered)).hide(axis="index")
    return body.to_latex(hrules=True, caption=latex_text(caption), label=item)


def escaped(frame: pd.DataFrame) -> Styler:
    """A frame in whose cells and headings nothing is a command of LaTeX."""
    styler = frame.style.format(as_mathematics, escape="latex")
    return styler.format_index(as_mathematics, escape="latex", axis="columns")


def latex_text(text: str) -> str:
    """A text of one line in which nothing is a command of LaTeX."""
    cell = escaped(pd.DataFrame([text])).hide(axis="index").hide(axis="columns")
    return cell.to_latex().splitlines()[1].removesuffix(r" \\")


def as_mathematics(text: str) -> str:
    """The three signs of our tables that LaTeX has in mathematics only."""
    for sign, command in {"±": r"\pm", "·": r"\cdot", "†": r"\dagger"}.items():
        text = text.replace(sign, f"${command}$")
    return text


def table_text(item: str, profile: str, results: Path | None = None) -> str:
    """The table for a terminal."""
    gathered = read_table(item, profile, results)
    return "\n".join(
        [title(item, gathered), "", *lines(beside_paper(gathered)), *notes(item, gathered)]
    )


def lines(frame: pd.DataFrame) -> list[str]:
    """Words to the left, numbers to the right, in columns."""
    columns = []
    for name in frame:
        cells = [name, *frame[name]]
        width = max(map(len, cells))
        columns.append([cell.ljust(width) if name in WHO else cell.rjust(width) for cell in cells])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def notes(item: str, gathered: pd.DataFrame | None = None) -> list[str]:
    """Printed numbers that disagree with others, and speed-ups above what a schedule allows.

    Table 2's means are Table D4's matter. `gathered`: ours, if they are shown beside.
    """
    said = (
        [sentence for sentence in printed.errata("table2") if "D4" in sentence]
        if item == "tableD4"
        else []
    )
    errata = [f"* In the paper: {sentence}." for sentence in said or printed.errata(item)]
    if item not in WITH_SPEEDUPS:
        return errata
    ours = [] if gathered is None else ceilings.ours_above(gathered)
    return [*errata, *ceilings.above(item), *ours]


def expect(outcomes: dict[str, bool], profile: str) -> None:
    """Say of each expected outcome whether the numbers show it.

    Another seed or another processor may miss one, and the table stands all the same; only in
    `smoke`, which tests run, AssertionError is raised.
    """
    for what, seen in outcomes.items():
        print(f"{'as expected' if seen else 'NOT as expected'}: {what}")
    assert profile != "smoke" or all(outcomes.values()), "an outcome is not as expected"
