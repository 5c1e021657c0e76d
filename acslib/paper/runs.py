"""One run from its name to its record."""

import time
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from acslib import data
from acslib.paper import checkpoints, files, records
from acslib.paper.build import (
    build_model,
    build_optimiser,
    checked_device,
    load_data,
    precision,
    training_of,
)
from acslib.paper.config import Run
from acslib.paper.measures import evaluate
from acslib.training import Diverged, State, fit


def train(
    run: Run, dataset: data.Dataset, seed: int, device: str, folder: Path, progress=lambda row: None
) -> State:
    """Train, or go on training, the run whose files are in `folder`."""
    setting = run.setting
    model = build_model(setting, dataset, seed, device)
    state = State(model, build_optimiser(setting, model))
    mark = f"{records.training_fingerprint(run)}-seed{seed}-{dataset.source}"
    checkpoint = folder / "checkpoint.safetensors"
    checkpoints.load_checkpoint(checkpoint, state, mark)

    def keep(state: State):
        progress(state.history[-1])
        if state.history[-1]["selection"]:
            checkpoints.save_coreset(folder, state)
        if state.history[-1]["phase"] != "skip" or state.epoch == len(run.plan):
            checkpoints.save_checkpoint(checkpoint, state, mark)

    try:
        fit(state, dataset, training_of(run, dataset.train.labels, seed, device), keep)
    except Diverged as error:
        if not checkpoint.exists():
            raise
        raise Diverged(
            f"{error}; move {folder} away before, it keeps the epochs up to {state.epoch - 1}"
        ) from None
    checkpoints.save_weights(folder / "weights.safetensors", model)
    return state


def execute(
    run: Run,
    seed: int = 0,
    device: str | None = None,
    results=None,
    progress=lambda row: None,
    announce=lambda source: None,
) -> dict:
    """The record of a run: read if it is finished, made otherwise (going on from its last epoch).

    `announce` is told which images these are before anything is trained, `progress` every epoch's
    row.
    """
    device = checked_device(device)
    done = records.finished_record(run, seed, results)
    if done is not None:
        return done
    folder = records.run_folder(run, seed, results)
    files.check_writable(folder)
    dataset = load_data(run.setting, device)
    announce(dataset.source)
    state = train(run, dataset, seed, device, folder, progress)
    started = time.perf_counter()
    measures = evaluate(run, state.model, dataset, seed, device)
    seconds = {
        part: sum(row[f"seconds_{part}"] for row in state.history)
        for part in ("select", "attack", "update")
    }
    record = {
        "format": records.FORMAT,
        "run": run.name,
        "profile": run.profile,
        "seed": seed,
        "fingerprint": records.fingerprint(run),
        "params": run.setting.model_dump(mode="json"),
        "method": run.method,
        "setting": run.setting_name,
        "data": dataset.source,
        "plan": {
            "cost": run.plan.cost,
            "ceiling": run.plan.ceiling,
            "selections": run.plan.selections,
        },
        "metrics": measures,
        "seconds": seconds
        | {"total": sum(seconds.values()), "evaluate": time.perf_counter() - started},
        "history": state.history,
        "provenance": records.provenance(device) | {"precision": precision(run.setting, device)},
    }
    files.write_json(folder / "record.json", record)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return record


def load_trained(run: Run, seed: int = 0, device: str | None = None, results=None):
    """The trained network of a finished run, in evaluation mode, and its data."""
    device = checked_device(device)
    dataset = load_data(run.setting, device)
    model = build_model(run.setting, dataset, seed, device)
    path = records.run_folder(run, seed, results) / "weights.safetensors"
    if not path.exists():
        lost = (
            f"delete {path.parent}, which has lost it, and "
            if (path.parent / "record.json").exists()
            else ""
        )
        raise files.RecordError(f"there is no {path}: {lost}train {run.name}")
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise files.RecordError(
            f"{path} is damaged ({error}): delete its folder and train again"
        ) from None
    return model.to(device).eval(), dataset
