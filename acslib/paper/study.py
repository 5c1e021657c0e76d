"""The study: is choosing a coreset better than drawing one, or than training for a shorter time?

`params/study.yaml` says which arms there are, which of them is asked about, how many seeds, and
what counts as an answer. Here the records of its runs become differences, paired by seed, with
their 95 % intervals, and these become a verdict.

What a seed's runs gave is kept as one compressed file, so that the study can be made seed by seed,
on several machines and days:

    results/<profile>/study/seed<k>.jsonl.xz          written by `make study`
    results/published/<profile>/study/seed<k>.jsonl.xz    the same, kept by git

    python -m acslib.paper.study restore --profile mini
    python -m acslib.paper.study gather --profile mini

put the records that git keeps where `make study` looks for them, and write study.csv of the runs
that are there, though some be missing.
"""

import argparse
import json
import lzma
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from acslib.paper import config, files, frames, items, paramfiles, records, rows, tables

ITEM = "study"
MEASURES = ("acc", "racc")
INDEX = ["objective", "k", "arm", "measure"]
COLUMNS = [*INDEX, "seeds", "value", "difference", "ci_low", "ci_high", "seconds"]
COLUMNS += ["adversarial_images", "device"]
MEAN = "mean"  # in the place of a size: over all of them
CONFIDENCE = 0.95


def design() -> Any:
    """What was fixed before the study was run, see `params.Design`."""
    found = paramfiles.item(ITEM).design
    assert found is not None, "params/study.yaml has one"
    return found


# ---- from records to a row for each seed


def by_seed(
    profile: str, seeds: Sequence[int], results: Path | None = None, partial: bool = False
) -> pd.DataFrame:
    """One row an arm, size, seed and measure: `value` in percent, `seconds` of training,
    `adversarial_images`, for how many images an attack was built, and the `device`.

    Raises RecordError for a missing record; with `partial` it is left out.
    """
    found = []
    for row in rows.planned(ITEM, profile):
        run = config.resolve(config.run_name(row.setting_name, row.method, row.varied), profile)
        for seed in seeds:
            record = records.finished_record(run, seed, results)
            if record is None and not partial:
                record = rows.trained_record(run, seed, results)  # which says how to make it
            if record is not None:
                about = {
                    "objective": objective_of(run),
                    "k": row.varied.get("coreset_fraction", 1.0),
                    "arm": row.columns["arm"],
                    "seed": seed,
                }
                found += [about | of_measure for of_measure in measured_rows(record)]
    return pd.DataFrame(found)


def objective_of(run: config.Run) -> str:
    """What the study calls a run's objective: trades, or the norm of its attack."""
    return "trades" if run.setting.objective == "trades" else run.setting.norm


def measured_rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What one run gives: a row for each measure."""
    cost = {
        "seconds": record["seconds"]["total"],
        "adversarial_images": adversarial_images(record["history"]),
        "device": rows.together([record], "device"),
    }
    return [{"measure": name, "value": 100 * record["metrics"][name]} | cost for name in MEASURES]


def adversarial_images(history: Sequence[dict[str, Any]]) -> int:
    """For how many images an attack was built: to train on, and to select by."""
    trained = sum(row.get("samples", 0) for row in history)
    selections = [row["selection"] for row in history if row["selection"]]
    # a selection that has an error has looked at gradients, and so at attacked images
    return trained + sum(selection["of"] for selection in selections if "error" in selection)


# ---- from rows to differences


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and differences to the reference arm of the same size, paired by seed.

    table: as `by_seed` gives it. One row an objective, size (and `mean` over the reference's sizes,
    for arms that have all of them), arm and measure. Differences are in points; their intervals are
    Student's, over seeds, and missing where there is one seed. Full training has no size in common
    with the reference, and so no difference.
    """
    whole = pd.concat([table, over_sizes(table)], ignore_index=True)
    reference = whole[whole.arm == design().reference]
    on = ["objective", "k", "measure", "seed"]
    joined = whole.merge(reference[[*on, "value"]], "left", on=on, suffixes=("", "_reference"))
    joined["difference"] = joined.value - joined.value_reference
    found = [
        dict(zip(INDEX, key, strict=True)) | summary_row(part)
        for key, part in joined.groupby(INDEX, sort=False)
    ]
    return pd.DataFrame(found)[COLUMNS]


def over_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Each seed's mean over the sizes that the reference has, of the arms that have all of them."""
    sizes = set(table[table.arm == design().reference].k)
    found = []
    for (objective, arm, measure, seed), part in table[table.k.isin(sizes)].groupby(
        ["objective", "arm", "measure", "seed"], sort=False
    ):
        if set(part.k) == sizes:
            about = {"objective": objective, "k": MEAN, "arm": arm, "seed": seed}
            about["device"] = where_trained(part)
            numbers = part[["value", "seconds", "adversarial_images"]].mean()
            found.append(about | {"measure": measure} | dict(numbers))
    return pd.DataFrame(found)


def summary_row(part: pd.DataFrame) -> dict[str, Any]:
    """Of one row of the table: its seeds are the rows of `part`."""
    differences = part.difference.dropna()
    is_reference = part.arm.iloc[0] == design().reference
    half = half_width(differences) if not is_reference else float("nan")
    mean = differences.mean()
    return {
        "seeds": len(part),
        "value": part.value.mean(),
        "difference": mean,
        "ci_low": mean - half,
        "ci_high": mean + half,
        "seconds": part.seconds.mean(),
        "adversarial_images": part.adversarial_images.mean(),
        "device": where_trained(part),
    }


def where_trained(part: pd.DataFrame) -> str:
    """Where these rows were trained."""
    return " or ".join(dict.fromkeys(part.device))


def half_width(differences: pd.Series) -> float:
    """Of Student's 95 % interval of a mean; NaN for fewer than two numbers."""
    n = len(differences)
    if n < 2:
        return float("nan")
    from scipy import stats  # here, as whoever only reads the table need not wait for it

    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * differences.std() / n**0.5)


def comparisons(table: pd.DataFrame) -> int:
    """How many intervals the table has: of so many, one in twenty misses by chance."""
    return int(table.ci_low.notna().sum())


# ---- the verdict


def deciding(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that decide, one an objective."""
    wanted = (table.arm == design().verdict) & (table.measure == "racc") & (table.k == MEAN)
    return table[wanted].set_index("objective")


def is_enough(table: pd.DataFrame) -> dict[str, bool]:
    """By objective, whether the stopping rule is met: seeds, and the interval's half-width."""
    plan = design()
    return {
        objective: bool(
            row.seeds >= plan.at_least
            and (row.ci_high - row.ci_low) / 2 <= plan.half_width[objective]
        )
        for objective, row in deciding(table).iterrows()
    }


def verdicts(table: pd.DataFrame) -> list[str]:
    """A sentence for each objective, by the rule of params/study.yaml."""
    enough = is_enough(table)
    return [
        f"{objective}: {judged(row.ci_low, row.ci_high)} ({row.difference:+.2f} points, {sure(row)}"
        + (")." if enough[objective] else "; the stopping rule asks for more seeds).")
        for objective, row in deciding(table).iterrows()
    ]


def sure(row: pd.Series) -> str:
    """A row's interval and seeds, in words."""
    if row.seeds == 1:
        return "one seed"
    return f"95 % interval {row.ci_low:+.2f} to {row.ci_high:+.2f}, {row.seeds:g} seeds"


def judged(low: float, high: float) -> str:
    """What a 95 % interval of the difference to the reference says, in words."""
    asked_for, reference = design().verdict, design().reference
    if not (low <= high):
        return f"one seed cannot tell {asked_for} from {reference}"
    if low > 0:
        size = ", and not by more than a point" if high < 1 else ""
        return f"{asked_for} beats {reference}{size}"
    if high < 0:
        return f"{asked_for} is worse than {reference}"
    if high < 1:
        return (
            f"{asked_for} does not beat {reference} by more than a point; whether it does at all"
            " cannot be told"
        )
    return f"whether {asked_for} beats {reference} cannot be told"


def verdicts_text(profile: str, results: Path | None = None) -> str:
    """The verdict for a terminal. Raises RecordError if there is no table."""
    table = tables.read_table(ITEM, profile, results)
    return "\n".join([f"{paramfiles.item(ITEM).title} Profile {profile}.", *verdicts(table)])


# ---- files


def write_csv(table: pd.DataFrame, profile: str, results: Path | None = None) -> Path:
    """Write results/<profile>/study.csv, atomically; gives its path."""
    return frames.write_frame((results or files.RESULTS) / profile / f"{ITEM}.csv", table)


def shard(profile: str, seed: int, results: Path | None = None) -> Path:
    """Where the published records of a seed are."""
    return (results or files.RESULTS) / profile / ITEM / f"seed{seed}.jsonl.xz"


def keep(profile: str, seeds: Sequence[int], results: Path | None = None) -> list[Path]:
    """Write each seed's records as one compressed file, a record a line; gives their paths."""
    runs = [config.resolve(name, profile) for name in items.table_runs(ITEM, profile)]
    written = []
    for seed in seeds:
        found = [records.finished_record(run, seed, results) for run in runs]
        lines = [json.dumps(record, sort_keys=True) for record in found if record is not None]
        path = shard(profile, seed, results)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_file(path, lzma.compress("\n".join(lines).encode(), preset=9))
        written.append(path)
    return written


def restore(profile: str, kept: Path, results: Path | None = None) -> int:
    """Put the records of the shards in folder `kept` where runs have theirs; gives how many.

    A record that is there stays.
    """
    count = 0
    for path in sorted(kept.glob("seed*.jsonl.xz")):
        for line in lzma.decompress(path.read_bytes()).decode().splitlines():
            record = json.loads(line)
            run = config.resolve(record["run"], profile)
            target = records.run_folder(run, record["seed"], results) / "record.json"
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                rest = {key: value for key, value in record.items() if key != "sha256"}
                records.write_record(target, rest)
                count += 1
    return count


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m acslib.paper.study")
    parser.add_argument("what", choices=["restore", "gather"])
    parser.add_argument("--profile", default="mini")
    given = parser.parse_args(argv)
    if given.what == "restore":
        kept = files.CHECKOUT / "results" / "published" / given.profile / ITEM
        print(f"{restore(given.profile, kept)} records of {kept} restored")
        return 0
    table = compared(by_seed(given.profile, seeds_of(given.profile), partial=True))
    print(write_csv(table, given.profile), *verdicts(table), sep="\n")
    return 0


def seeds_of(profile: str, results: Path | None = None) -> list[int]:
    """The seeds of which there is a record of any of the study's runs."""
    folders = (results or files.RESULTS) / profile / "runs"
    names = {run.split(".")[0] for run in items.table_runs(ITEM, profile)}
    found = {
        int(path.parent.name.removeprefix("seed"))
        for name in names
        for path in folders.glob(f"{name}.*/seed*/record.json")
    }
    return sorted(found)


if __name__ == "__main__":
    sys.exit(main())
