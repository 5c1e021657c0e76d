"""One run from its name to its record."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from acslib import data
from acslib.paper import build, checkpoints, files, records
from acslib.paper.config import Run
from acslib.paper.measures import evaluate
from acslib.training import Diverged, State, fit

Told = Callable[[Any], object]


def nobody(news: Any) -> None:
    """Hears and does nothing."""


def execute(
    run: Run,
    seed: int = 0,
    device: str | None = None,
    results: Path | None = None,
    progress: Told = nobody,
    announce: Told = nobody,
    evaluating: Told = nobody,
) -> dict[str, Any]:
    """The record of a run: read if it is finished, made otherwise (going on from its last epoch).

    `announce` is told in a line which images these are, and what has to be made first, before
    anything is trained; `progress` every epoch's row; `evaluating` each part of the evaluation as
    it begins, see `measures.parts`.
    """
    device = build.checked_device(device)
    records.clear_leftovers(run, results)
    done = records.finished_record(run, seed, results)
    if done is not None:
        return done
    build.prepare(run, device, announce)
    experiment = build.experiment(run, seed, device)
    folder = records.run_folder(run, seed, results)
    files.check_writable(folder)
    announce(f"data: {experiment.data.source}")
    train(run, experiment, seed, folder, progress)
    started = time.perf_counter()
    metrics = evaluate(run, experiment.state.model, experiment.data, seed, device, evaluating)
    seconds = time.perf_counter() - started
    record = record_of(run, seed, experiment, metrics, seconds, records.provenance(device))
    record = records.write_record(folder / "record.json", record)
    (folder / records.CHECKPOINT).unlink(missing_ok=True)
    return record


def train(
    run: Run, experiment: build.Experiment, seed: int, folder: Path, progress: Told = nobody
) -> State:
    """Train, or go on training, the run whose files are in `folder`."""
    state, images = experiment.state, experiment.data
    of = checkpoints.origin(run, seed)
    checkpoint = folder / records.CHECKPOINT
    checkpoints.load_checkpoint(checkpoint, state, of, images.source)

    def keep(state: State) -> None:
        row = state.history[-1]
        progress(row)
        if row["selection"] and state.coreset is not None:
            checkpoints.save_coreset(folder, state.coreset, of, row["epoch"])
        if row["phase"] != "skip" or state.epoch == len(run.plan):
            checkpoints.save_checkpoint(checkpoint, state, of, images.source)

    try:
        fit(state, images, experiment.training, keep)
    except Diverged as error:
        if not checkpoint.exists():
            raise
        raise Diverged(
            f"{error}; move {folder} away before, it keeps the epochs up to {state.epoch - 1}"
        ) from None
    checkpoints.save_weights(folder / "weights.safetensors", state.model, of)
    return state


def record_of(
    run: Run,
    seed: int,
    experiment: build.Experiment,
    metrics: dict[str, Any],
    seconds_evaluate: float,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """What is to be known of a run that is trained and evaluated."""
    history, plan = experiment.state.history, run.plan
    parts = ("select", "attack", "update")
    seconds = {part: sum(row[f"seconds_{part}"] for row in history) for part in parts}
    # the clock's; rows that version 0.1.0 made before it was interrupted have none
    wall = sum(row.get("seconds_wall", 0.0) for row in history)
    return {
        "format": records.FORMAT,
        "run": run.name,
        "profile": run.profile,
        "seed": seed,
        "fingerprint": records.fingerprint(run),
        "params": run.setting.model_dump(mode="json"),
        "method": run.method,
        "setting": run.setting_name,
        "data": experiment.data.source,
        "plan": {"cost": plan.cost, "ceiling": plan.ceiling, "selections": plan.selections},
        "metrics": metrics,
        "seconds": seconds
        | {"total": sum(seconds.values()), "wall": wall, "evaluate": seconds_evaluate},
        "history": history,
        "provenance": provenance | {"precision": experiment.training.precision},
    }


def load_trained(
    run: Run, seed: int = 0, device: str | None = None, results: Path | None = None
) -> tuple[nn.Module, data.Dataset]:
    """The trained network of a finished run, in evaluation mode, and its data."""
    device = build.checked_device(device)
    path = records.run_folder(run, seed, results) / "weights.safetensors"
    if not path.exists():
        finished = (path.parent / "record.json").exists()
        lost = f"delete {path.parent}, which has lost it, and " if finished else ""
        raise files.RecordError(f"there is no {path}: {lost}train {run.name}")
    dataset = build.load_data(run.setting, device)
    model = build.build_model(run.setting, dataset, seed, device)
    checkpoints.load_weights(path, model, checkpoints.origin(run, seed))
    return model.to(device).eval(), dataset
