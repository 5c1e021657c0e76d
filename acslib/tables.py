"""The paper's tables from the records of runs: ours beside the paper's, as CSV, LaTeX and text."""

import statistics
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from acslib import params, printed, records
from acslib.layouts import DATASETS, LABELS, LAYOUTS, MODELS, PAPER_OBJECTIVES, WHO, both_modes, every_attack
from acslib.params import METHODS
from acslib.printed import KEY, SEEN, UNSEEN, VARIED

DIGESTS = {"commit": str, "weights": str}  # columns of CSVs that may be all digits by chance and are no numbers
PAPER_METHODS = {"craig": "adv_craig", "gradmatch": "adv_gradmatch"}


def groups(table: str, profile: str):
    """Each (setting, method, varied, extra columns) of a table, in its order."""
    for group in params.groups(table, profile):
        for setting_name in group["settings"]:
            for varied in group["vary"]:
                for method in group["methods"]:
                    yield setting_name, method, varied, group["columns"]


# ---- from records to rows


def gather(table: str, profile: str, seeds, results: Path | None = None, partial: bool = False,
           settings: Collection[str] | None = None) -> pd.DataFrame:
    """One row a run, means over `seeds`; the paper's printed values under `paper_...` (NaN where it has none).

    Differences and speed-up are to the full training of the same setting and number of epochs, paired by seed.
    `speedup_ceiling_x` is what the schedule allows, 1/k up to rounding. Raises RecordError for a missing record;
    with `partial` rows that need one are left out. `settings`: only these.
    """
    seeds = list(seeds)
    wanted = [group for group in groups(table, profile) if settings is None or group[0] in settings]
    if partial:
        wanted = [group for group in wanted if all(trained(run, seeds, results) for run in needed(group, profile))]
    rows = [row_of(*needed(group, profile), group[3], seeds, results) for group in wanted]
    ours = pd.DataFrame([{"table": table} | row for row in rows])
    return with_paper(ours, table) if rows else ours


def needed(group, profile: str) -> tuple[params.Run, params.Run]:
    """The run of a row, and the full training that it is compared with."""
    setting_name, method, varied, _ = group
    run, full = (params.run_name(setting_name, name, varied) for name in (method, "full"))
    return params.resolve(run, profile), params.resolve(full, profile)


def row_of(run: params.Run, reference: params.Run, columns: dict, seeds, results) -> dict:
    ours, theirs = ([one(which, seed, results) for seed in seeds] for which in (run, reference))
    same_data([*ours, *theirs])
    made, full = (pd.DataFrame(map(flat, several)) for several in (ours, theirs))
    first, setting, method = ours[0], params.setting_layer(run.setting_name), run.method
    mean, minutes = made.mean(), made["total"] / 60
    row = {
        "model": MODELS[setting["model"]], "objective": PAPER_OBJECTIVES[run.setting_name.split("-")[1]],
        "dataset": DATASETS[setting["dataset"]], "method": PAPER_METHODS.get(method, method), **columns,
        "method_label": LABELS[method], "setting": run.setting_name, "run": run.name, "profile": run.profile,
        "data": first["data"], "network": network(run.setting), "seeds": len(seeds),
        **compared("acc", made["acc"], full["acc"], method),
        "time_min": minutes.mean(), "time_diff_min": unless_full(method, (minutes - full["total"] / 60).mean()),
        "time_s": mean["total"], "time_std_s": made["total"].std(),
        "speed_avg_min_per_epoch": minutes.mean() / len(run.plan),
        "speedup_x": (full["total"] / made["total"]).mean(), "speedup_ceiling_x": run.plan.ceiling,
        "time_median_s": mean["median_total"], "speedup_median_x": speedup_by_medians(made, full, len(run.plan)),
        "epochs": len(run.plan), "period": unless_full(method, run.setting.period), "selections": run.plan.selections,
        "seconds_select": mean["select"], "seconds_attack": mean["attack"], "seconds_update": mean["update"],
        "gradient_error": mean.get("gradient_error"), "random_gradient_error": mean.get("random_gradient_error"),
        "test_images": first["metrics"]["n"],
        **{name: together(ours, name) for name in ("device", "precision", "commit")},
    }  # fmt: skip
    if "racc" in made:
        row |= compared("racc", made["racc"], full["racc"], method)
        row |= {"train_robust_pct": 100 * mean["train_robust"], "overfitted_seeds": int(overfitted(made).sum())}
    row |= {f"{name}_pct": 100 * mean[name] for name in made if name.startswith("racc_")}
    for kind, attacks in (("seen", SEEN), ("unseen", UNSEEN)):
        there = [f"racc_{name}" for name in attacks if f"racc_{name}" in made]
        if there:
            row |= compared(f"racc_{kind}", made[there].mean(axis=1), full[there].mean(axis=1), method, "_mean")
    counts = {f"{name}_n": first["metrics"][f"{name}_n"] for name in ("autoattack", "threats")
              if f"{name}_n" in first["metrics"]}  # fmt: skip
    row |= counts | ({"autoattack": ", ".join(run.setting.autoattack)} if counts else {})
    if "autoattack" in made:
        row |= compared("autoattack", made["autoattack"], full["autoattack"], method)
    return row


def same_data(several: list[dict]) -> None:
    """Raise RecordError unless all records are of the same images: else their mean and difference mean nothing."""
    for record in several[1:]:
        if record["data"] != several[0]["data"]:
            raise records.RecordError(
                f"{record['run']}, seed {record['seed']}, is of {record['data']}, but {several[0]['run']}, seed"
                f" {several[0]['seed']}, of {several[0]['data']}: move one away and train it on the other's data"
            )


def together(several: list[dict], name: str) -> str:
    """What the provenance of several records says, each once."""
    return ", ".join(dict.fromkeys(str(record["provenance"].get(name, "not recorded")) for record in several))


def compared(name: str, made: pd.Series, full: pd.Series, method: str, mean: str = "") -> dict:
    """Percent: the mean over seeds, its standard deviation, and the mean difference to full training."""
    return {f"{name}{mean}_pct": 100 * made.mean(), f"{name}_std_pct": 100 * made.std(),
            f"{name}_diff_pct": unless_full(method, 100 * (made - full).mean())}  # fmt: skip


def unless_full(method: str, value):
    return None if method == "full" else value


def overfitted(made: pd.DataFrame) -> pd.Series:
    """Catastrophic overfitting, per seed: training's own attack fails where PGD succeeds.

    Told by the robust accuracy on training batches in the last epoch: more than half the clean accuracy (so training's
    own attack fails), of which PGD with 50 steps and 10 restarts leaves less than a fifth on test images.
    """
    return (made["train_robust"] > made["acc"] / 2) & (made["racc"] < made["train_robust"] / 5)


def one(run: params.Run, seed: int, results: Path | None) -> dict:
    record = records.finished_record(run, seed, results)
    if record is None:
        raise records.RecordError(f"{run.name}, seed {seed}, profile {run.profile} is not trained:"
                                  f" make run RUN={run.name} SEED={seed} PROFILE={run.profile}")  # fmt: skip
    return record


def trained(run: params.Run, seeds, results: Path | None) -> bool:
    return all(records.finished_record(run, seed, results) is not None for seed in seeds)


def flat(record: dict) -> dict:
    """The measures of a record, with the mean gradient error (relative, eq. 12) over its selections."""
    numbers = {key: value for key, value in record["metrics"].items() if isinstance(value, float)}
    numbers |= {key: record["seconds"][key] for key in ("select", "attack", "update", "total")}
    numbers["full_epoch"] = median_epoch(record["history"], "full")
    numbers["median_total"] = median_total(record["history"])
    seen = [row["train_robust_accuracy"] for row in record["history"] if "train_robust_accuracy" in row]
    numbers["train_robust"] = seen[-1] if seen else float("nan")
    selections = [row["selection"] for row in record["history"] if (row["selection"] or {}).get("error") is not None]
    if selections:
        for name, key in (("gradient_error", "relative_error"), ("random_gradient_error", "random_relative_error")):
            numbers[name] = sum(selection[key] for selection in selections) / len(selections)
    return numbers


def median_epoch(history: list[dict], phase: str) -> float:
    """Seconds of a full or a coreset epoch without selecting; NaN where there is none."""
    epochs = [row["seconds_attack"] + row["seconds_update"] for row in history if row["phase"] == phase]
    return statistics.median(epochs) if epochs else float("nan")


def median_total(history: list[dict]) -> float:
    """Seconds of a run in which every epoch and every selection cost the median of its kind.

    The sum of all seconds is what the paper compares. This one stays the same when something else slows a few epochs.
    """
    counts = {phase: sum(row["phase"] == phase for row in history) for phase in ("full", "coreset")}
    seconds = sum(count * median_epoch(history, phase) for phase, count in counts.items() if count)
    selections = [row["seconds_select"] for row in history if row["selection"]]
    return seconds + len(selections) * statistics.median(selections or [0.0])


def speedup_by_medians(made: pd.DataFrame, full: pd.DataFrame, epochs: int) -> float:
    """How many times faster than full training, by `median_total`, mean over seeds (rows).

    Full training is as many of the run's own warm-start epochs, so that both were timed in one run: machines are faster
    at one hour than at another. A run without a warm start is compared with the full training itself.
    """
    whole = (epochs * made["full_epoch"]).fillna(full["median_total"])
    return (whole / made["median_total"]).mean()


def network(setting) -> str:
    """What was really trained, in words: the profile may have made it smaller."""
    smaller = [f"{part} {value}" for part, value in (("width", setting.width), ("depths", setting.depths)) if value]
    return MODELS[setting.model] + (f" ({', '.join(smaller)})" if smaller else "")


def with_paper(ours: pd.DataFrame, table: str) -> pd.DataFrame:
    theirs = printed.read(table)
    if theirs.empty:
        return ours
    if "acc_clean_pct" in theirs:
        ours = ours.assign(acc_clean_pct=ours.acc_pct)  # Table D4's name for it
    extra = [name for name in VARIED if name in theirs and name in ours]
    measures = [name for name in theirs if name.startswith(("acc_", "racc_", "time_", "speed")) and "diff" not in name]
    renamed = theirs[KEY + extra + measures].rename(columns={name: f"paper_{name}" for name in measures})
    return ours.merge(renamed, how="left", on=KEY + extra)


def missing(table: str, profile: str, seeds, results: Path | None = None) -> list[tuple[params.Run, int]]:
    """The runs that `gather` still needs, full trainings first."""
    wanted = {(run.name, seed): run for group in groups(table, profile) for run in reversed(needed(group, profile))
              for seed in seeds}  # fmt: skip
    order = sorted(wanted, key=lambda key: METHODS.index(wanted[key].method))
    return [(wanted[key], key[1]) for key in order if records.finished_record(wanted[key], key[1], results) is None]


def against_adaptive(gathered: pd.DataFrame, measure: str = "racc_pct", n: str = "test_images") -> pd.DataFrame:
    """Points by which each method's `measure` lies above adaptive random's, which costs as many adversarial images.

    `chance`: the standard error of such a difference from drawing `n` test images (a column) alone, for each seed
    anew; a difference of less than two of it says nothing. Upper bound: both networks see the same images.
    """
    key = ["setting", *[name for name in VARIED if name in gathered]]
    base = gathered[gathered.method == "adaptive_random"].set_index(key)[measure].rename("adaptive random")
    rows = gathered[~gathered.method.isin(("full", "adaptive_random"))].join(base, on=key)
    share = (rows[measure] + rows["adaptive random"]) / 200
    rows["difference"] = rows[measure] - rows["adaptive random"]
    rows["chance"] = 100 * (2 * share * (1 - share) / (rows[n] * rows.seeds)) ** 0.5
    return rows[[*key, "method", measure, "adaptive random", "difference", "chance"]].reset_index(drop=True)


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
    return pd.DataFrame([{title: cell(row, full.loc[row.setting]) for title, cell in layout.items()}
                         for _, row in table.iterrows()])  # fmt: skip


def title(table: str, gathered: pd.DataFrame) -> str:
    """What this is, with the profile and the data in it."""
    first = gathered.iloc[0]
    sources = "; ".join(f"{name} is {' or '.join(part.data.unique())}"
                        for name, part in gathered.groupby("dataset", sort=False))  # fmt: skip
    networks = "; ".join(name for name in gathered.network.unique() if name not in MODELS.values())
    seeds = " or ".join(map(str, sorted(gathered.seeds.unique())))
    number = "one seed" if seeds == "1" else f"mean ± standard deviation of {seeds} seeds"
    counts = {"Attacks": first.get("threats_n"), "AA": first.get("autoattack_n")}
    attacked = "".join(f" {what} (AutoAttack: {first.autoattack}) on the first {count:g} test images."
                       for what, count in counts.items() if pd.notna(count))  # fmt: skip
    made_on = "".join(f" {name.capitalize()}: {' or '.join(gathered[name].unique())}."
                      for name in ("device", "precision") if name in gathered)  # fmt: skip
    return (f"{params.read(table)['title']}. Profile {first.profile}, {number}. {sources}."
            + (f" Networks: {networks}." if networks else "") + attacked + made_on)  # fmt: skip


# ---- files


def save(table: str, gathered: pd.DataFrame, results: Path | None = None) -> Path:
    """Write results/<profile>/<table>.csv and .tex, atomically; gives the CSV's path."""
    folder = (results or records.RESULTS) / gathered.profile.iloc[0]
    records.write_atomically(folder / f"{table}.tex", latex(table, gathered).encode())
    path = folder / f"{table}.csv"
    records.write_atomically(path, gathered.to_csv(index=False).encode())
    return path


def load(name: str, profile: str, results: Path | None = None) -> pd.DataFrame:
    path = (results or records.RESULTS) / profile / f"{name}.csv"
    if not path.exists():
        raise records.RecordError(f"there is no {path}: make {name} PROFILE={profile} makes it")
    try:
        table = pd.read_csv(path, dtype=DIGESTS)
    except ValueError as error:
        raise records.RecordError(f"{path} is damaged ({error}): delete it and make {name} again") from None
    needed = {"profile", "table", "setting", "method"} if name in LAYOUTS else {"profile"}
    if missing := needed - set(table):
        raise records.RecordError(f"{path} has no {', '.join(sorted(missing))}: delete it and make {name} again")
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
    gathered = load(table, profile, results)
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
    """What to know of the printed numbers: those that disagree with others (Table 2's means are Table D4's matter)."""
    said = [sentence for sentence in printed.errata("table2") if "D4" in sentence] if table == "tableD4" else []
    return [f"* In the paper: {sentence}." for sentence in said or printed.errata(table)]


def expect(outcomes: dict[str, bool], profile: str) -> None:
    """Say of each expected outcome whether the numbers show it.

    Another seed or another processor may miss one, and the table stands all the same; only in `smoke`, which tests run,
    AssertionError is raised.
    """
    for what, seen in outcomes.items():
        print(f"{'as expected' if seen else 'NOT as expected'}: {what}")
    assert profile != "smoke" or all(outcomes.values()), "an outcome is not as expected"
