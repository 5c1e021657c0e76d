"""What a run has selected so far, and what other sizes and methods would select at its network.

`open_run` reads it, of a run that is finished or still training, and trains one where there is
none. Frames of it are in `membership`, pictures in `coreset_pictures`, one image in `one_image`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from acslib import selectors
from acslib.data import Dataset
from acslib.gradients import LastLayerGradients
from acslib.paper import build, checkpoints, config, notebook, params, records, runs, selecting
from acslib.paper.config import Run
from acslib.paper.files import RecordError
from acslib.paper.methods import METHODS
from acslib.schedule import coreset_size
from acslib.selectors.coreset import Coreset
from acslib.training import adversarial_gradients

MOST_IMAGES = 2000  # that coresets of other sizes and methods are selected from, in seconds


# ---- a run, finished or not


@dataclass(frozen=True)
class Seen:
    """What there is of a run. coresets: what it selected, by epoch. model: its network as it is
    now, in evaluation mode.
    """

    run: Run
    seed: int
    finished: bool
    history: list[dict[str, Any]]
    coresets: dict[int, Coreset]
    model: nn.Module
    data: Dataset

    @property
    def n(self) -> int:
        """Images that coresets are selected from."""
        return len(self.data.train)

    @property
    def last(self) -> Coreset:
        """The newest coreset."""
        return self.coresets[max(self.coresets)]


def open_run(run: Run, seed: int) -> Seen:
    """What there is of a run; it is trained first, with bars, unless it is finished or another
    process trains it. Raises ParamsError for full training, and RecordError where another process
    has not come to a selection yet.
    """
    if not METHODS[run.method].selects:
        raise params.ParamsError(
            f"run {run.name} selects nothing, as it trains on all the data: take another method,"
            f" like {run.setting_name}.gradmatch"
        )
    folder = records.run_folder(run, seed)
    if not (folder.is_dir() and records.is_training(folder)):
        notebook.train_run(run, seed)
    seen = seen_of(run, seed)
    if not seen.finished:
        print(f"{run.name} is still training: {len(seen.history)} of {len(run.plan)} epochs")
    return seen


def seen_of(run: Run, seed: int, results: Path | None = None) -> Seen:
    """What there is of a run, finished or not, on the default device.

    Raises RecordError where it has selected nothing yet.
    """
    record = records.finished_record(run, seed, results)
    if record is not None:
        model, data = runs.load_trained(run, seed, results=results)
        history = record["history"]
    else:
        model, data, history = _unfinished(run, seed, results)
    chosen = [row["epoch"] for row in history if row["selection"]]
    if not chosen:
        first = next(epoch.index for epoch in run.plan if epoch.select)
        raise RecordError(
            f"{run.name}, seed {seed}, has trained {len(history)} epochs and selects first in epoch"
            f" {first}: run this cell again then"
        )
    coresets = {epoch: checkpoints.load_coreset(run, seed, epoch, results) for epoch in chosen}
    return Seen(run, seed, record is not None, history, coresets, model.eval(), data)


def _unfinished(
    run: Run, seed: int, results: Path | None
) -> tuple[nn.Module, Dataset, list[dict[str, Any]]]:
    """Network, data and history of a run from its checkpoint; as before training without one."""
    experiment = build.experiment(run, seed, build.checked_device(None))
    path = records.run_folder(run, seed, results) / records.CHECKPOINT
    of = checkpoints.origin(run, seed)
    checkpoints.load_checkpoint(path, experiment.state, of, experiment.data.source)
    return experiment.state.model, experiment.data, experiment.state.history


def histories(seen: Seen) -> dict[str, list[dict[str, Any]]]:
    """Its history by the method's label, and those of the setting's other methods that are trained
    with the same seed and parameters.
    """
    found = {METHODS[seen.run.method].label: seen.history}
    for method in METHODS.values():
        if method.selects and method.name != seen.run.method:
            run = config.resolve(_with_method(seen.run, method.name), seen.run.profile)
            record = records.finished_record(run, seen.seed)
            if record is not None:
                found[method.label] = record["history"]
    return found


def _with_method(run: Run, method: str) -> str:
    setting_name, _, varied = config.parse(run.name)
    return config.run_name(setting_name, method, varied)


# ---- other sizes and other methods, from the same gradients


@dataclass(frozen=True)
class Reselected:
    """What methods would select: coresets by method and share, of the training images of `data`;
    errors has a row for each, with its gradient error (eq. 12).
    """

    data: Dataset
    coresets: dict[tuple[str, float], Coreset]
    errors: pd.DataFrame


def reselect(
    seen: Seen, fractions: Sequence[float], methods: Sequence[str], most: int = MOST_IMAGES
) -> Reselected:
    """What methods select at the network as it is now, from the first `most` training images."""
    data = dataclasses.replace(seen.data, train=seen.data.train[slice(0, most)])
    labels, n = data.train.labels, len(data.train)
    looking = config.resolve(_with_method(seen.run, "gradmatch"), seen.run.profile)
    training = build.training_of(looking, seen.seed, str(labels.device))
    training.generator.manual_seed(seen.seed)
    gradients = adversarial_gradients(seen.model, data, training)
    assert isinstance(gradients, LastLayerGradients), "GradMatch looks at gradients"
    found, rows = {}, []
    for method in methods:
        run = config.resolve(_with_method(seen.run, method), seen.run.profile)
        selector = selecting.build_selector(run, seen.seed)
        assert selector is not None, f"{method} selects nothing"
        for fraction in fractions:
            coreset = selector(gradients, coreset_size(fraction, n))
            error = selectors.gradient_error(gradients, coreset)[1]
            found[method, fraction] = coreset
            rows.append({"method": method, "coreset_fraction": fraction, "relative_error": error})
    return Reselected(data, found, pd.DataFrame(rows))
