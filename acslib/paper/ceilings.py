"""Speed-ups beside what their schedule allows: the paper's as printed, and ours.

A plan that trains on a fraction of all the images, epoch by epoch, is at most so much faster than
full training, if selections cost nothing. What is printed above that is not the method's doing.
"""

import pandas as pd

from acslib.paper import config, items, printed
from acslib.paper.columns import DATASET_LABELS, MARK, MODEL_LABELS, above_ceiling, paper_objective
from acslib.paper.methods import METHODS

PAPERS = "full"  # the profile that has the paper's own settings
OURS_ABOVE = (
    f"{MARK} A speed-up above what its schedule allows: seconds are measured, and other work on the"
    " machine slows one run more than another."
)


def ceilings_of(item: str) -> pd.DataFrame:
    """A row for each run of a printed table, with `ceiling_x` of the paper's own schedule."""
    found = []
    for group in items.groups(item, PAPERS):
        for setting_name in group["settings"]:
            setting = config.setting_layer(setting_name)
            about = {
                "model": MODEL_LABELS.get(setting["model"], setting["model"]),
                "objective": paper_objective(setting),
                "dataset": DATASET_LABELS.get(setting["dataset"], setting["dataset"]),
                "setting": setting_name,
            }
            for varied in group["vary"]:
                for method in group["methods"]:
                    run = config.resolve(config.run_name(setting_name, method, varied), PAPERS)
                    about |= {"method": METHODS[method].printed, "run": run.name}
                    about |= {"ceiling_x": run.plan.ceiling}
                    found.append(about | group["columns"])
    return pd.DataFrame(found)


def beside(table: pd.DataFrame) -> pd.DataFrame:
    """A table of ours with `paper_ceiling_x`; NaN where the paper has no speed-up."""
    item = table.table.iloc[0]
    if "paper_speedup_x" not in table:
        return table
    key = ["setting", "method", *[name for name in printed.VARIED if name in table]]
    theirs = ceilings_of(item)[[*key, "ceiling_x"]].rename(columns={"ceiling_x": "paper_ceiling_x"})
    return table.merge(theirs, how="left", on=key)


def printed_speedups(item: str) -> pd.DataFrame:
    """The paper's rows that have a speed-up, with `setting`, `run` and `ceiling_x`."""
    theirs = printed.paper_table(item)
    if "speedup_x" not in theirs:
        return pd.DataFrame()
    key = [*printed.KEY, *[name for name in printed.VARIED if name in theirs]]
    known = ceilings_of(item)[[*key, "setting", "run", "ceiling_x"]]
    return theirs[theirs.method != "full"].merge(known, on=key)


def above(item: str) -> list[str]:
    """A sentence for each printed speed-up that its schedule does not allow."""
    return [
        f"{MARK} In the paper: {printed.row_in_words(row)}: the printed times make it"
        f" {row.speedup_x:.2f} times faster, its schedule allows at most {row.ceiling_x:.2f}."
        for _, row in printed_speedups(item).iterrows()
        if above_ceiling(row.speedup_x, row.ceiling_x)
    ]


def ours_above(table: pd.DataFrame) -> list[str]:
    """What the mark says, if a speed-up of ours has it."""
    pairs = zip(table.speedup_median_x, table.speedup_ceiling_x, strict=True)
    return [OURS_ABOVE] if any(above_ceiling(*pair) for pair in pairs) else []
