"""One run from its name to its record."""

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acslib import data, devices, measuring, memory, parallel, schedule
from acslib.divergence import Diverged
from acslib.paper import build, checkpoints, files, fingerprints, params, records, threads, warm
from acslib.paper.config import Run
from acslib.paper.masks import packed
from acslib.paper.measures import evaluate
from acslib.paper.printing import counted
from acslib.training import State, fit


def nobody(news: Any) -> None:
    """Hears and does nothing."""


@dataclass(frozen=True)
class Told:
    """Who is told of a run as it goes on; of several processes, the first one tells.

    progress: every epoch's row. announce: in a line, which images these are, and what has to be
    made first, before anything is trained. evaluating: each part of the evaluation as it begins,
    see `measures.parts`.
    """

    progress: Callable[[dict[str, Any]], object] = nobody
    announce: Callable[[str], object] = nobody
    evaluating: Callable[[str], object] = nobody


SILENT = Told()


def execute(
    run: Run,
    seed: int = 0,
    device: str | None = None,
    results: Path | None = None,
    told: Told = SILENT,
) -> dict[str, Any]:
    """The record of a run: read if it is finished, made otherwise (going on from its last epoch).
    A run that only its evaluation's parameters have changed of is evaluated again from its weights.

    It computes on as many threads and processes as `threads.asked` says. Of several processes the
    first one writes and tells. Raises ParamsError for a device or a number of processes
    that is not there, RecordError for a record made with other parameters, DataError for data that
    is not there, Diverged.
    """
    folder = records.run_folder(run, seed, results)
    with as_asked(device) as own:
        if parallel.rank():
            told = SILENT
        else:
            records.clear_killed_runs(run, results)
            records.clear_outdated(run, seed, results)
        done = records.finished_record(run, seed, results)
        if done is not None:
            return done
        trained = records.evaluated_otherwise(run, seed, results)
        if trained is not None:
            return parallel.from_first(evaluate_again(run, trained, own, results, told))
        experiment, sharing = at_start(run, seed, own, results, told)
        warm_start = train(run, experiment, sharing, told)
        calibration = calibrate(experiment, told)
        record = conclude(sharing, experiment, own, told)
        record |= {"warm_start": warm_start, "calibration": calibration}
        if parallel.rank() == 0:
            record = records.write_record(folder / "record.json", record)
            (folder / records.CHECKPOINT).unlink(missing_ok=True)
            sharing.clear()
        return parallel.from_first(record)


def warm_up(
    run: Run,
    seed: int = 0,
    device: str | None = None,
    results: Path | None = None,
    told: Told = SILENT,
) -> None:
    """Train only what unfinished runs have in common with this one, so that they find it there."""
    with as_asked(device) as own:
        if parallel.rank():
            told = SILENT
        else:  # what a plugin's file of before has left, of a run that was killed
            records.clear_outdated(run, seed, results)
        if records.finished_record(run, seed, results) is not None:
            return
        experiment, sharing = at_start(run, seed, own, results, told)
        first = schedule.Plan(run.plan.epochs[: max(sharing.epochs, default=0)], 1.0)
        training = dataclasses.replace(experiment.training, plan=first)
        experiment = dataclasses.replace(experiment, training=training)
        train(run, experiment, sharing, told)


@contextlib.contextmanager
def as_asked(device: str | None) -> Iterator[str]:
    """The threads and processes that are asked for, and the device of this one by name."""
    workers, before = threads.asked(), torch.get_num_threads()
    own = parallel.join(build.checked_device(device))
    if parallel.processes() != workers.processes:
        raise params.ParamsError(
            f"{workers.processes} processes are asked for and there is {parallel.processes()}:"
            f" start them with torchrun, as make NPROC={workers.processes} does, or set"
            " ACS_PROCESSES to 1"
        )
    torch.set_num_threads(workers.threads)
    try:
        with devices.computing(own):  # in float32, but while it trains
            yield own
    finally:
        torch.set_num_threads(before)


def at_start(
    run: Run, seed: int, device: str, results: Path | None, told: Told
) -> tuple[build.Experiment, warm.Sharing]:
    """What is trained, from its first epoch, and what of it others train, too."""
    build.prepare_lpips(run, device, told.announce)
    experiment = build.experiment(run, seed, device)
    files.check_writable(records.run_folder(run, seed, results))
    memory.check_evaluation(experiment.state.model, experiment.data.test)
    told.announce(f"data: {experiment.data.source}")
    if said := build.beyond_rank(run, experiment):
        told.announce(said)
    made = records.provenance(device)
    computed = (
        *(experiment.data.source, experiment.training.precision, made["device"]),
        *(made["versions"]["torch"], *threads.asked()),
    )
    return experiment, warm.sharing(run, seed, computed, results)


def train(
    run: Run, experiment: build.Experiment, sharing: warm.Sharing, told: Told = SILENT
) -> dict[str, Any] | None:
    """Train, or go on training, by the plan of `experiment`; gives what the record says of a warm
    start that another run has trained.

    Epochs that others begin with, too, are trained by one at a time, which keeps them for them.
    """
    state, images = experiment.state, experiment.data
    of = checkpoints.origin(run, sharing.seed)
    folder = records.run_folder(run, sharing.seed, sharing.results)
    checkpoint = folder / records.CHECKPOINT
    note = checkpoints.load_checkpoint(checkpoint, state, of, images.source)
    warm_start = note.get("warm_start") if note else None
    wanted = sharing.epochs if parallel.rank() == 0 else []
    last = max(wanted, default=0)

    def keep(state: State) -> None:
        if parallel.rank():
            return
        row = state.history[-1]
        told.progress(row)
        if row["selection"] and state.coreset is not None:
            checkpoints.save_coreset(folder, state.coreset, of, row["epoch"])
        if row["phase"] != "skip" or state.epoch == len(run.plan):
            checkpoints.save_checkpoint(checkpoint, state, of, images.source, warm_start)
        if state.epoch in wanted:
            keep_for_others(sharing, state, images.source)
        if state.epoch >= last:
            alone.close()

    with records.marked_as_training(folder), contextlib.ExitStack() as alone:
        if state.epoch < last:
            alone.enter_context(sharing.alone(told.announce))
        taken = take_over(sharing, state, images.source, told)
        warm_start = taken or warm_start
        if state.epoch >= last:
            alone.close()
        try:
            fit(state, images, experiment.training, keep)
        except Diverged as error:
            if not checkpoint.exists():
                raise
            raise Diverged(
                f"{error}; move {folder} away before, it keeps the epochs up to {state.epoch - 1}"
            ) from None
    return warm_start


def take_over(
    sharing: warm.Sharing, state: State, source: str, told: Told
) -> dict[str, Any] | None:
    """Go on after the first epochs that another run has kept, if they are more than there are."""
    before = state.epoch
    found = sharing.furthest(before) if parallel.rank() == 0 else None
    epochs = parallel.from_first(found)
    if epochs is None:
        return None
    of = checkpoints.Origin(sharing.run.name, sharing.seed, sharing.what(epochs))
    note = checkpoints.load_checkpoint(sharing.path(epochs), state, of, source)
    if note is None:  # removed meanwhile, as nobody was thought to need it
        return None
    told.announce(f"warm start: {counted(epochs, 'epoch')} from {note['of']['run']}")
    for row in state.history[before:]:
        told.progress(row)
    return {"shared": True, "epochs": epochs, "from": note["of"]["run"]}


def keep_for_others(sharing: warm.Sharing, state: State, source: str) -> None:
    """The state after epochs that other runs begin with, too."""
    path = sharing.path(state.epoch)
    if not path.exists():
        of = checkpoints.Origin(sharing.run.name, sharing.seed, sharing.what(state.epoch))
        checkpoints.save_checkpoint(path, state, of, source)


def calibrate(experiment: build.Experiment, told: Told = SILENT) -> dict[str, float] | None:
    """What a full epoch takes, for a run that has had none, so that its speed-up compares seconds
    of one process, not of two at different hours.

    The epoch is trained on copies, which are thrown away, with draws of its own.
    """
    state, training = experiment.state, experiment.training
    if any(row["phase"] == "full" for row in state.history):
        return None
    model, optimiser = copy.deepcopy((state.model, state.optimiser))
    after = schedule.Epoch(len(training.plan), "full")
    once = dataclasses.replace(training, plan=schedule.Plan((after,), 1.0), monitor=0)
    try:
        row = fit(State(model, optimiser), experiment.data, once).history[0]
    except Diverged as error:
        told.announce(f"no full epoch could be timed: {error}")
        return None
    return {"full_epoch": row["seconds_attack"] + row["seconds_update"]}


def conclude(
    sharing: warm.Sharing, experiment: build.Experiment, device: str, told: Told
) -> dict[str, Any]:
    """Write the weights of what is trained, evaluate it, and give its record."""
    run, seed, model = sharing.run, sharing.seed, experiment.state.model
    if parallel.rank() == 0:
        weights = records.run_folder(run, seed, sharing.results) / "weights.safetensors"
        checkpoints.save_weights(weights, model, checkpoints.origin(run, seed))
    metrics, masks, seconds = evaluated(run, model, experiment.data, seed, device, told)
    record = record_of(run, seed, experiment, metrics, seconds, records.provenance(device))
    return record | {"masks": masks}


def evaluate_again(
    run: Run, trained: dict[str, Any], device: str, results: Path | None, told: Told
) -> dict[str, Any]:
    """Evaluate a run's weights by the parameters of now, and write its record anew.

    trained: the record that it has. Where and when training was done stays in it.
    """
    seed = trained["seed"]
    told.announce("the evaluation's parameters have changed: evaluated again, not trained")
    model, images = load_trained(run, seed, device, results)
    metrics, masks, seconds = evaluated(run, model, images, seed, device, told)
    record = trained | {
        "fingerprint": fingerprints.fingerprint(run),
        "params": run.setting.model_dump(mode="json"),
        "metrics": metrics,
        "masks": masks,
        "seconds": trained["seconds"] | {"evaluate": seconds},
        "provenance": trained["provenance"] | {"evaluation": records.provenance(device)},
    }
    del record["sha256"]
    if parallel.rank():
        return record
    return records.write_record(records.run_folder(run, seed, results) / "record.json", record)


def evaluated(
    run: Run, model: nn.Module, images: data.Dataset, seed: int, device: str, told: Told
) -> tuple[dict[str, Any], dict[str, str], float]:
    """Accuracies, the masks that they are of, and the seconds that it took."""
    started = time.perf_counter()
    metrics, masks = evaluate(run, model, images, seed, device, told.evaluating)
    kept = {name: packed(mask.cpu().numpy()) for name, mask in masks.items()}
    return metrics, kept, time.perf_counter() - started


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
    seconds = {part: sum(row[f"seconds_{part}"] for row in history) for part in measuring.TIMED}
    # the clock's; rows that version 0.1.0 made before it was interrupted have none
    wall = sum(row.get("seconds_wall", 0.0) for row in history)
    return {
        "format": records.FORMAT,
        "run": run.name,
        "profile": run.profile,
        "seed": seed,
        "fingerprint": fingerprints.fingerprint(run),
        "params": run.setting.model_dump(mode="json"),
        "method": run.method,
        "setting": run.setting_name,
        "data": experiment.data.source,
        **threads.asked()._asdict(),
        "plan": {"cost": plan.cost, "ceiling": plan.ceiling, "selections": plan.selections},
        "metrics": metrics,
        "seconds": seconds
        | {"total": sum(seconds.values()), "wall": wall, "evaluate": seconds_evaluate},
        "history": history,
        "provenance": provenance
        | {"precision": experiment.training.precision}
        | devices.recorded(
            experiment.data.train.device,
            experiment.training.precision,
            experiment.training.deterministic,
        )
        | fingerprints.provenance_of_own(run),
    }


def load_trained(
    run: Run, seed: int = 0, device: str | None = None, results: Path | None = None
) -> tuple[nn.Module, data.Dataset]:
    """The trained network of a finished run, in evaluation mode, and its data."""
    device = build.checked_device(device)
    path = records.weights_file(run, seed, results)
    dataset = build.load_data(run.setting, device, seed)
    model = build.build_model(run.setting, dataset, seed, device)
    checkpoints.load_weights(path, model, checkpoints.origin(run, seed))
    return model.to(device).eval(), dataset
