"""How long runs take here: known from those that are finished, or from others of the same kind."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, Literal, NamedTuple

from acslib.paper import config, files, records, threads

# two runs with these in common cost the same for each image that they are trained on
KIND = (
    *("model", "width", "depths", "stem", "dataset", "image_size", "classes", "train_limit"),
    *("validation_fraction", "objective", "norm", "steps", "batch_size", "half_half"),
    *("attack_mode", "precision", "memory_format"),
)


class Cost(NamedTuple):
    """seconds: what it took or is expected to take, without evaluation; None: unknown."""

    run: str
    profile: str
    seed: int
    state: Literal["finished", "expected", "unknown"]
    seconds: float | None


def costs_of(runs: Sequence[config.Run], seeds: Sequence[int]) -> list[Cost]:
    """Of every run and seed, in the order of the runs."""
    known = finished_records({run.profile for run in runs})
    return [cost(run, seed, known) for run in runs for seed in seeds]


def finished_records(profiles: Iterable[str]) -> list[dict[str, Any]]:
    """Records of these profiles that were made on the machine that made the newest of them."""
    paths = [
        path
        for profile in sorted(profiles)
        for path in files.RESULTS.glob(f"{profile}/runs/*/seed*/record.json")
    ]
    found: list[dict[str, Any]] = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            record = records.read_record(path)
        except files.RecordError:
            continue  # `acs runs` says why
        if not found or machine_of(record) == machine_of(found[0]):
            found.append(record)
    return found


def machine_of(record: dict[str, Any]) -> tuple:
    """What a record's seconds depend on beside the run: device, threads and processes."""
    return record["provenance"].get("device"), threads.workers_of(record)


def cost(run: config.Run, seed: int, known: Sequence[dict[str, Any]]) -> Cost:
    """How long a run took, or is expected to take from runs of its kind on this machine."""
    try:
        done = records.finished_record(run, seed)
    except files.RecordError:
        done = None
    if done is not None:
        return Cost(run.name, run.profile, seed, "finished", done["seconds"]["total"])
    seconds = expected(run, known)
    state: Literal["expected", "unknown"] = "unknown" if seconds is None else "expected"
    return Cost(run.name, run.profile, seed, state, seconds)


def expected(run: config.Run, known: Sequence[dict[str, Any]]) -> float | None:
    """Seconds by the median epoch of runs of the same kind; None without one, or without a
    selection of the same method where the run selects.
    """
    parameters = run.setting.model_dump(mode="json")
    kin = [
        record
        for record in known
        if all(record["params"].get(name) == parameters[name] for name in KIND)
    ]
    epochs = [
        (row["seconds_attack"] + row["seconds_update"]) / share
        for record in kin
        for row in record["history"]
        if (share := part_of_the_data(row, record)) > 0
    ]
    selections = [
        row["seconds_select"]
        for record in kin
        if record.get("method") == run.method
        for row in record["history"]
        if row["selection"]
    ]
    if not epochs or (run.plan.selections and not selections):
        return None
    selecting = run.plan.selections * median(selections) if run.plan.selections else 0.0
    return len(run.plan) * run.plan.cost * median(epochs) + selecting


def part_of_the_data(row: dict[str, Any], record: dict[str, Any]) -> float:
    """The share of the training images that an epoch was on."""
    coreset = record["params"]["coreset_fraction"]
    return {"full": 1.0, "skip": 0.0, "coreset": coreset}[row["phase"]]


def summary(found: Sequence[Cost]) -> str:
    """One line: what is done, what is expected, what is not known."""
    parts = []
    for state, said in (("finished", "are finished"), ("expected", "are expected to take")):
        seconds = [one.seconds or 0.0 for one in found if one.state == state]
        if seconds:
            took = f" ({sum(seconds):.0f} s)" if state == "finished" else f" {sum(seconds):.0f} s"
            parts.append(f"{len(seconds)} runs {said}{took}")
    unknown = sum(one.state == "unknown" for one in found)
    if unknown:
        parts.append(f"nothing is known of {unknown}: no run of their kind is finished here")
    return "; ".join(parts) + ("; evaluation is not counted" if parts else "")
