"""What there is in the folder of results, and how two runs differ. Needs no torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from acslib.paper import config, files, items, paramfiles, records
from acslib.paper.files import RecordError

RunState = Literal["finished", "running", "interrupted", "outdated", "refused"]


class KeptRun(NamedTuple):
    """A run that has left something. seconds: of training, so far. of: epochs that it shall have,
    None where that is not known here.
    """

    profile: str
    run: str
    seed: int
    state: RunState
    epochs: int
    of: int | None
    seconds: float | None
    reason: str = ""


def found(profile: str | None = None) -> list[KeptRun]:
    """Every run that has a record, a checkpoint, or a process that trains it."""
    found = [_look_at(folder) for folder in _folders(profile)]
    return [one for one in found if one is not None]


def _folders(profile: str | None) -> Iterator[Path]:
    for folder in sorted(files.RESULTS.glob(f"{profile or '*'}/runs/*/seed*")):
        if folder.name.removeprefix("seed").isdigit():
            yield folder


def _look_at(folder: Path) -> KeptRun | None:
    profile, name = folder.parents[2].name, folder.parent.name
    seed = int(folder.name.removeprefix("seed"))
    run = _resolved(name, profile)
    of = len(run.plan) if run else None
    if (folder / "record.json").exists():
        try:
            record = records.read_record(folder / "record.json")
        except RecordError as error:
            return KeptRun(profile, name, seed, "refused", 0, of, None, str(error))
        valid = run is None or records.state_of(record, run) == "valid"
        state: RunState = "finished" if valid else "outdated"
        epochs, seconds = len(record["history"]), record["seconds"]["total"]
        return KeptRun(profile, name, seed, state, epochs, epochs, seconds)
    running = records.is_training(folder)
    checkpoint = folder / records.CHECKPOINT
    if not (running or checkpoint.exists()):
        return None
    note = records.checkpoint_note(checkpoint)
    parts = ("seconds_select", "seconds_attack", "seconds_update")
    seconds = sum(row[part] for row in note.get("history", []) for part in parts)
    state = "running" if running else "interrupted"
    return KeptRun(profile, name, seed, state, note.get("epoch", 0), of, seconds)


class ItemProgress(NamedTuple):
    """How far a table or figure is. finished, of: its runs. gathered, drawn: whether its CSV and
    its picture are there.
    """

    item: str
    title: str
    finished: int
    of: int
    gathered: bool
    drawn: bool


def progress(profile: str, seed: int = 0) -> list[ItemProgress]:
    """What is there of every table and figure, with one seed."""
    state = {one.run: one.state for one in found(profile) if one.seed == seed}
    pictures = files.figures_folder(files.RESULTS) / profile
    made = []
    for item in paramfiles.item_names():
        runs = items.table_runs(item, profile)
        made.append(
            ItemProgress(
                item,
                paramfiles.item(item).title,
                sum(state.get(run) == "finished" for run in runs),
                len(runs),
                (files.RESULTS / profile / f"{item}.csv").exists(),
                (pictures / f"{item}.pdf").exists(),
            )
        )
    return made


def _resolved(name: str, profile: str) -> config.Run | None:
    """The run as it is now; None where its name or profile means nothing here."""
    try:
        return config.resolve(name, profile)
    except ValueError:
        return None


# ---- two runs


def record_named(name: str, profile: str, seed: int) -> dict[str, Any]:
    """The record of a run by its name, as it is now, or whatever record is in a folder.

    Raises ParamsError or RecordError, also for a name whose record other parameters made.
    """
    folder = Path(name)
    if folder.is_dir():
        return records.read_record(folder / "record.json")
    run = config.resolve(name, profile)
    record = records.finished_record(run, seed)
    if record is None:
        kept = records.own_record(run, seed)
        state = "not trained" if kept is None else "outdated, as acs runs says"
        raise RecordError(
            f"{name}, seed {seed}, profile {profile} is {state}: acs run {name} --seed {seed}"
            f" --profile {profile}"
        )
    return record


Beside = list[tuple[str, list[Any]]]


def parameters_that_differ(first: dict[str, Any], second: dict[str, Any]) -> Beside:
    """Names with the value of either: what the two are, then their parameters."""
    both = [
        {key: record.get(key) for key in ("run", "profile", "seed", "method", "setting", "data")}
        | record["params"]
        for record in (first, second)
    ]
    names = dict.fromkeys([*both[0], *both[1]])
    pairs = [(name, [one.get(name) for one in both]) for name in names]
    return [(name, pair) for name, pair in pairs if pair[0] != pair[1]]


def results_of(first: dict[str, Any], second: dict[str, Any]) -> Beside:
    """The measures and seconds of both, None where one of them has no such."""
    both = [
        {name: value for name, value in record["metrics"].items() if isinstance(value, int | float)}
        | {f"seconds_{part}": seconds for part, seconds in record["seconds"].items()}
        for record in (first, second)
    ]
    names = dict.fromkeys([*both[0], *both[1]])
    return [(name, [one.get(name) for one in both]) for name in names]
