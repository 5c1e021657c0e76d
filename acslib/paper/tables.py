"""From rows to what people read: tables as CSV, LaTeX and text."""

from pathlib import Path

import pandas as pd

from acslib.paper import config, files, printed
from acslib.paper.columns import LAYOUTS, MODELS, WHO, both_modes, every_attack

DIGESTS = {
    "commit": str,
    "weights": str,
}  # columns of CSVs that may be all digits by chance and are no numbers


# ---- from rows to what people read


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table for people: the paper's columns, ours beside (Tables D4, 5: above) the paper's.

    In brackets: differences to full training; with several seeds ± is their standard deviation.
    """
    name = table.table.iloc[0]
    if name == "tableD4":
        return pd.DataFrame(every_attack(table))
    if name == "table5":
        return pd.DataFrame(both_modes(table))
    layout = LAYOUTS.get(name, LAYOUTS["table1"])
    full = table[table.method == "full"].drop_duplicates("setting").set_index("setting")
    return pd.DataFrame(
        [
            {title: cell(row, full.loc[row.setting]) for title, cell in layout.items()}
            for _, row in table.iterrows()
        ]
    )


def title(table: str, gathered: pd.DataFrame) -> str:
    """What this is, with the profile and the data in it."""
    first = gathered.iloc[0]
    sources = "; ".join(
        f"{name} is {' or '.join(part.data.unique())}"
        for name, part in gathered.groupby("dataset", sort=False)
    )
    networks = "; ".join(name for name in gathered.network.unique() if name not in MODELS.values())
    seeds = " or ".join(map(str, sorted(gathered.seeds.unique())))
    number = "one seed" if seeds == "1" else f"mean ± standard deviation of {seeds} seeds"
    counts = {"Attacks": first.get("threats_n"), "AA": first.get("autoattack_n")}
    attacked = "".join(
        f" {what} (AutoAttack: {first.autoattack}) on the first {count:g} test images."
        for what, count in counts.items()
        if pd.notna(count)
    )
    made_on = "".join(
        f" {name.capitalize()}: {' or '.join(gathered[name].unique())}."
        for name in ("device", "precision")
        if name in gathered
    )
    return (
        f"{config.read_yaml(table)['title']}. Profile {first.profile}, {number}. {sources}."
        + (f" Networks: {networks}." if networks else "")
        + attacked
        + made_on
    )


# ---- files


def write_table(table: str, gathered: pd.DataFrame, results: Path | None = None) -> Path:
    """Write results/<profile>/<table>.csv and .tex, atomically; gives the CSV's path."""
    folder = (results or files.RESULTS) / gathered.profile.iloc[0]
    files.write_atomically(folder / f"{table}.tex", latex(table, gathered).encode())
    path = folder / f"{table}.csv"
    files.write_atomically(path, gathered.to_csv(index=False).encode())
    return path


def read_table(name: str, profile: str, results: Path | None = None) -> pd.DataFrame:
    path = (results or files.RESULTS) / profile / f"{name}.csv"
    if not path.exists():
        raise files.RecordError(f"there is no {path}: make {name} PROFILE={profile} makes it")
    try:
        table = pd.read_csv(path, dtype=DIGESTS)
    except ValueError as error:
        raise files.RecordError(
            f"{path} is damaged ({error}): delete it and make {name} again"
        ) from None
    needed = {"profile", "table", "setting", "method"} if name in LAYOUTS else {"profile"}
    if missing := needed - set(table):
        raise files.RecordError(
            f"{path} has no {', '.join(sorted(missing))}: delete it and make {name} again"
        )
    return table


def latex(table: str, gathered: pd.DataFrame) -> str:
    """A booktabs table; needs \\usepackage{booktabs}."""
    caption = " ".join([title(table, gathered), *notes(table)])
    body = shown(gathered).to_latex(index=False, escape=False, caption=caption, label=table)
    for character, command in {"%": r"\%", "_": r"\_", "±": r"$\pm$", "·": r"$\cdot$"}.items():
        body = body.replace(character, command)
    return body


def text(table: str, profile: str, results: Path | None = None) -> str:
    """The table for a terminal."""
    gathered = read_table(table, profile, results)
    return "\n".join([title(table, gathered), "", *lines(shown(gathered)), *notes(table)])


def lines(frame: pd.DataFrame) -> list[str]:
    """Words to the left, numbers to the right, in columns."""
    columns = []
    for name in frame:
        cells = [name, *frame[name]]
        width = max(map(len, cells))
        columns.append([cell.ljust(width) if name in WHO else cell.rjust(width) for cell in cells])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def notes(table: str) -> list[str]:
    """What to know of the printed numbers: those that disagree with others (Table 2's means are
    Table D4's matter).
    """
    said = (
        [sentence for sentence in printed.errata("table2") if "D4" in sentence]
        if table == "tableD4"
        else []
    )
    return [f"* In the paper: {sentence}." for sentence in said or printed.errata(table)]


def expect(outcomes: dict[str, bool], profile: str) -> None:
    """Say of each expected outcome whether the numbers show it.

    Another seed or another processor may miss one, and the table stands all the same; only in
    `smoke`, which tests run, AssertionError is raised.
    """
    for what, seen in outcomes.items():
        print(f"{'as expected' if seen else 'NOT as expected'}: {what}")
    assert profile != "smoke" or all(outcomes.values()), "an outcome is not as expected"
