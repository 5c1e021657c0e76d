"""From records of runs to the rows of the paper's tables, ours beside the paper's."""

import statistics
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from acslib.paper import config, files, items, printed, records, threats
from acslib.paper.columns import DATASET_LABELS, MODEL_LABELS, paper_objective
from acslib.paper.methods import METHODS
from acslib.paper.printed import KEY, VARIED
from acslib.paper.settings import owner


class Planned(NamedTuple):
    """A row that a table or figure is to have: what is run for it, and what it says beside."""

    setting_name: str
    method: str
    varied: dict
    columns: dict


def planned(item: str, profile: str) -> list[Planned]:
    """The rows of a table or figure, in its order."""
    return [
        Planned(setting_name, method, varied, group["columns"])
        for group in items.groups(item, profile)
        for setting_name in group["settings"]
        for varied in group["vary"]
        for method in group["methods"]
    ]


# ---- from records to rows


def gather(
    item: str,
    profile: str,
    seeds,
    results: Path | None = None,
    partial: bool = False,
    settings: Collection[str] | None = None,
) -> pd.DataFrame:
    """One row a run, means over `seeds`; the paper's values, or NaN, under `paper_...`.

    Differences and speed-up are to the full training of the same setting and number of epochs,
    paired by seed. `speedup_ceiling_x` is what the schedule allows, 1/k up to rounding. Raises
    RecordError for a missing record; with `partial` rows that need one are left out. `settings`:
    only these.
    """
    seeds = list(seeds)
    wanted = [
        row for row in planned(item, profile) if settings is None or row.setting_name in settings
    ]
    if partial:
        wanted = [
            row
            for row in wanted
            if all(trained(run, seeds, results) for run in needed(row, profile))
        ]
    names = varied(item, profile)
    rows = []
    for row in wanted:
        made = row_of(*needed(row, profile), row.columns, seeds, results)
        rows.append(
            made | {name: value_of(name, row, profile) for name in names if name not in made}
        )
    ours = pd.DataFrame([{"table": item} | row for row in rows])
    return with_paper(ours, item) if rows else ours


def varied(item: str, profile: str) -> list[str]:
    """The parameters that a table or figure varies: each is a column, too."""
    return list(dict.fromkeys(name for row in planned(item, profile) for name in row.varied))


def value_of(name: str, row: Planned, profile: str) -> Any:
    """A parameter's value before `epoch_factor`; None where full training knows nothing of it."""
    if row.method == "full" and owner(name) == "coreset":
        return None
    layer = config.setting_layer(row.setting_name) | config.profile_layer(profile, row.setting_name)
    value = (layer | row.varied)[name]
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else value


def needed(row: Planned, profile: str) -> tuple[config.Run, config.Run]:
    """The run of a row, and the full training that it is compared with."""
    run, full = (
        config.run_name(row.setting_name, name, row.varied) for name in (row.method, "full")
    )
    return config.resolve(run, profile), config.resolve(full, profile)


def row_of(
    run: config.Run,
    reference: config.Run,
    columns: dict,
    seeds: Sequence[int],
    results: Path | None,
) -> dict:
    """A table's row: means over the seeds of `run`, against the full training `reference`."""
    ours, theirs = (
        [trained_record(which, seed, results) for seed in seeds] for which in (run, reference)
    )
    same_data([*ours, *theirs])
    made, full = (pd.DataFrame(map(flat, several)) for several in (ours, theirs))
    return {
        **names_of(run, columns),
        "data": ours[0]["data"],
        "network": network(run.setting),
        "seeds": len(seeds),
        **percents("acc", made["acc"], full["acc"], run.method),
        **cost_columns(run, made, full),
        "test_images": ours[0]["metrics"]["n"],
        **{name: together(ours, name) for name in ("device", "precision", "torch", "commit")},
        **robustness(run, made, full, ours[0]["metrics"]),
    }


def names_of(run: config.Run, columns: dict) -> dict:
    """Which run a row is of, as the paper's tables say it and as we do."""
    setting = config.setting_layer(run.setting_name) | config.parse(run.name)[2]
    return {
        "model": MODEL_LABELS.get(setting["model"], setting["model"]),
        "objective": paper_objective(setting),
        "dataset": DATASET_LABELS.get(setting["dataset"], setting["dataset"]),
        "method": METHODS[run.method].printed,
        **columns,
        "method_label": METHODS[run.method].label,
        "setting": run.setting_name,
        "run": run.name,
        "profile": run.profile,
    }


def cost_columns(run: config.Run, made: pd.DataFrame, full: pd.DataFrame) -> dict:
    """What training took, and how well its coresets stood for all of the data."""
    mean, minutes = made.mean(), made["total"] / 60
    return {
        "time_min": minutes.mean(),
        "time_diff_min": unless_full(run.method, (minutes - full["total"] / 60).mean()),
        "time_s": mean["total"],
        "time_std_s": made["total"].std(),
        "speed_avg_min_per_epoch": minutes.mean() / len(run.plan),
        "speedup_x": (full["total"] / made["total"]).mean(),
        "speedup_ceiling_x": run.plan.ceiling,
        "time_median_s": mean["median_total"],
        "speedup_median_x": speedup_by_medians(made, full, len(run.plan)),
        "epochs": len(run.plan),
        "period": unless_full(run.method, run.setting.period),
        "selections": run.plan.selections,
        "seconds_select": mean["select"],
        "seconds_attack": mean["attack"],
        "seconds_update": mean["update"],
        "gradient_error": mean.get("gradient_error"),
        "random_gradient_error": mean.get("random_gradient_error"),
    }


def robustness(run: config.Run, made: pd.DataFrame, full: pd.DataFrame, metrics: dict) -> dict:
    """Accuracies under the attacks that the run was evaluated by."""
    mean = made.mean()
    row: dict = {}
    if "racc" in made:
        row |= percents("racc", made["racc"], full["racc"], run.method)
        row["racc_images"] = metrics.get("evaluation_n", metrics["n"])
        row |= {
            "train_robust_pct": 100 * mean["train_robust"],
            "overfitted_seeds": int(overfitted(made).sum()),
        }
    row |= {f"{name}_pct": 100 * mean[name] for name in made if name.startswith("racc_")}
    for kind, attacks in (("seen", threats.SEEN), ("unseen", threats.UNSEEN)):
        there = [f"racc_{name}" for name in attacks if f"racc_{name}" in made]
        if there:
            row |= percents(
                f"racc_{kind}",
                made[there].mean(axis=1),
                full[there].mean(axis=1),
                run.method,
                "_mean",
            )
    counts = {name: metrics[name] for name in ("autoattack_n", "threats_n") if name in metrics}
    row |= counts | ({"autoattack": ", ".join(run.setting.autoattack)} if counts else {})
    if "pgd20" in made:
        row |= percents("pgd20", made["pgd20"], full["pgd20"], run.method)
    if "autoattack" in made:
        row |= percents("autoattack", made["autoattack"], full["autoattack"], run.method)
    return row


def same_data(several: list[dict]) -> None:
    """RecordError unless all records are of the same images: else a mean says nothing."""
    for record in several[1:]:
        if record["data"] != several[0]["data"]:
            raise files.RecordError(
                f"{record['run']}, seed {record['seed']}, is of {record['data']}, but"
                f" {several[0]['run']}, seed {several[0]['seed']}, of {several[0]['data']}: move"
                " one away and train it on the other's data"
            )


def together(several: list[dict], name: str) -> str:
    """What the provenance of several records says, each once."""
    made = [record["provenance"].get("versions", {}) | record["provenance"] for record in several]
    return ", ".join(dict.fromkeys(str(one.get(name, "not recorded")) for one in made))


def percents(name: str, made: pd.Series, full: pd.Series, method: str, mean: str = "") -> dict:
    """Percent: the mean over seeds, its standard deviation, the difference to full training."""
    return {
        f"{name}{mean}_pct": 100 * made.mean(),
        f"{name}_std_pct": 100 * made.std(),
        f"{name}_diff_pct": unless_full(method, 100 * (made - full).mean()),
    }


def unless_full(method: str, value: float) -> float | None:
    """The value, None in the row of full training: that is compared with nothing."""
    return None if method == "full" else value


def overfitted(made: pd.DataFrame) -> pd.Series:
    """Catastrophic overfitting, per seed: training's own attack fails where PGD succeeds.

    Told by the robust accuracy on training batches in the last epoch: more than half the clean
    accuracy (so training's own attack fails), of which PGD with 50 steps and 10 restarts leaves
    less than a fifth on test images.
    """
    return (made["train_robust"] > made["acc"] / 2) & (made["racc"] < made["train_robust"] / 5)


def trained_record(run: config.Run, seed: int, results: Path | None) -> dict:
    """The record of a finished run. Raises RecordError, with the command that makes it."""
    record = records.finished_record(run, seed, results)
    if record is None:
        raise files.RecordError(
            f"{run.name}, seed {seed}, profile {run.profile} is not trained:"
            f" make run RUN={run.name} SEED={seed} PROFILE={run.profile}"
        )
    return record


def trained(run: config.Run, seeds: Sequence[int], results: Path | None) -> bool:
    """Whether the run is finished with every one of the seeds."""
    return all(records.finished_record(run, seed, results) is not None for seed in seeds)


def flat(record: dict) -> dict:
    """A record's measures, with the mean relative gradient error (eq. 12) of its selections."""
    numbers = {key: value for key, value in record["metrics"].items() if isinstance(value, float)}
    numbers |= {key: record["seconds"][key] for key in ("select", "attack", "update", "total")}
    timed = record.get("calibration") or {"full_epoch": median_epoch(record["history"], "full")}
    numbers["full_epoch"] = timed["full_epoch"]
    numbers["median_total"] = median_total(record["history"])
    seen = [
        row["train_robust_accuracy"] for row in record["history"] if "train_robust_accuracy" in row
    ]
    numbers["train_robust"] = seen[-1] if seen else float("nan")
    selections = [
        row["selection"]
        for row in record["history"]
        if (row["selection"] or {}).get("error") is not None
    ]
    if selections:
        for name, key in (
            ("gradient_error", "relative_error"),
            ("random_gradient_error", "random_relative_error"),
        ):
            numbers[name] = sum(selection[key] for selection in selections) / len(selections)
    return numbers


def median_epoch(history: list[dict], phase: str) -> float:
    """Seconds of a full or a coreset epoch without selecting; NaN where there is none."""
    epochs = [
        row["seconds_attack"] + row["seconds_update"] for row in history if row["phase"] == phase
    ]
    return statistics.median(epochs) if epochs else float("nan")


def median_total(history: list[dict]) -> float:
    """Seconds of a run in which every epoch and every selection cost the median of its kind.

    The sum of all seconds is what the paper compares. This one stays the same when something else
    slows a few epochs.
    """
    counts = {phase: sum(row["phase"] == phase for row in history) for phase in ("full", "coreset")}
    seconds = sum(count * median_epoch(history, phase) for phase, count in counts.items() if count)
    selections = [row["seconds_select"] for row in history if row["selection"]]
    return seconds + len(selections) * statistics.median(selections or [0.0])


def speedup_by_medians(made: pd.DataFrame, full: pd.DataFrame, epochs: int) -> float:
    """How many times faster than full training, by `median_total`, mean over seeds (rows).

    Full training is as many of the run's own warm-start epochs, or of the one that it trained to be
    timed: machines are faster at one hour than at another. A run that has neither, as version 0.1.0
    made them, is compared with the full training itself.
    """
    whole = (epochs * made["full_epoch"]).fillna(full["median_total"])
    return (whole / made["median_total"]).mean()


def network(setting) -> str:
    """What was really trained, in words: the profile may have made it smaller."""
    smaller = [
        f"{part} {value}"
        for part, value in (("width", setting.width), ("depths", setting.depths))
        if value
    ]
    return MODEL_LABELS.get(setting.model, setting.model) + (
        f" ({', '.join(smaller)})" if smaller else ""
    )


def with_paper(ours: pd.DataFrame, item: str) -> pd.DataFrame:
    """The rows with the paper's numbers for them, as columns `paper_...`."""
    theirs = printed.paper_table(item)
    if theirs.empty:
        return ours
    if "acc_clean_pct" in theirs:
        ours = ours.assign(acc_clean_pct=ours.acc_pct)  # Table D4's name for it
    extra = [name for name in VARIED if name in theirs and name in ours]
    measures = [
        name
        for name in theirs
        if name.startswith(("acc_", "racc_", "time_", "speed")) and "diff" not in name
    ]
    renamed = theirs[KEY + extra + measures].rename(
        columns={name: f"paper_{name}" for name in measures}
    )
    return ours.merge(renamed, how="left", on=KEY + extra)


def missing(
    item: str, profile: str, seeds: Sequence[int], results: Path | None = None
) -> list[tuple[config.Run, int]]:
    """The runs that `gather` still needs, full trainings first."""
    wanted = {
        (run.name, seed): run
        for row in planned(item, profile)
        for run in reversed(needed(row, profile))
        for seed in seeds
    }
    order = sorted(wanted, key=lambda key: list(METHODS).index(wanted[key].method))
    return [
        (wanted[key], key[1])
        for key in order
        if records.finished_record(wanted[key], key[1], results) is None
    ]


def against_adaptive(
    gathered: pd.DataFrame, measure: str = "racc_pct", n: str = "racc_images"
) -> pd.DataFrame:
    """Points of `measure` above adaptive random's, which costs as many adversarial images.

    `chance`: the standard error of such a difference from drawing `n` test images (a column) alone,
    for each seed anew; a difference of less than two of it says nothing. Upper bound: both networks
    see the same images.
    """
    if n not in gathered:  # a CSV of an earlier version, whose robust accuracy is of all of them
        n = "test_images"
    key = ["setting", *[name for name in VARIED if name in gathered]]
    base = (
        gathered[gathered.method == "adaptive_random"]
        .set_index(key)[measure]
        .rename("adaptive random")
    )
    rows = gathered[~gathered.method.isin(("full", "adaptive_random"))].join(base, on=key)
    share = (rows[measure] + rows["adaptive random"]) / 200
    rows["difference"] = rows[measure] - rows["adaptive random"]
    rows["chance"] = 100 * (2 * share * (1 - share) / (rows[n] * rows.seeds)) ** 0.5
    return rows[[*key, "method", measure, "adaptive random", "difference", "chance"]].reset_index(
        drop=True
    )


def closer_than_chance(gathered: pd.DataFrame) -> bool:
    """Whether GradMatch's coresets have a smaller gradient error than random ones, in every row."""
    rows = gathered[gathered.method == METHODS["gradmatch"].printed]
    return bool((rows.gradient_error < rows.random_gradient_error).all())
