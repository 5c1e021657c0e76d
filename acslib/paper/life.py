"""The life of a coreset: how near its gradient is to everyone's, when, and on which images.

A coreset is chosen so that eq. (12) is small: for the last layer, on the images as they are, at the
weights of that moment. Training then sees other crops of these images, and moves away from those
weights. `errors` measures what is left of the choice; `selections` looks at what was chosen.
"""

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from acslib import selectors
from acslib.data.sets import Dataset
from acslib.gradients import LastLayerGradients
from acslib.paper import build, checkpoints, config, rows, selecting
from acslib.paper.methods import METHODS
from acslib.passes import attacker
from acslib.schedule import Epoch, Plan, coreset_size
from acslib.selectors.coreset import Coreset
from acslib.training import State, Training, adversarial_gradients, fit, greedy_solver, seeded_for

ITEM = "life"
VIEWS = {
    "chosen": "the images that were chosen from",
    "crops": "other crops and flips of them",
    "weights": "the images, all weights of the network",
}
CONDITIONS = ("as trained", "no augmentation", "a tenth of the rate")
RANDOM_DRAWS = 10
TRAINED_DRAWS = 3  # of them


# ---- what is left of a choice


def errors(
    run: config.Run, seed: int, device: str = "cpu", epochs: int = 4
) -> Iterator[dict[str, Any]]:
    """Relative gradient errors (eq. 12 over the norm of everyone's gradient): a row each.

    The warm start of `run` is trained up to its first selection. Each selector chooses there, and
    training goes on for `epochs` on what it has chosen. A row says of which `method` and `draw`,
    under which `condition`, how many epochs after the selection, and by which of `VIEWS`.
    """
    experiment = build.experiment(run, seed, device)
    training, data = experiment.training, experiment.data
    first = next(epoch.index for epoch in run.plan if epoch.select)
    before = Plan(run.plan.epochs[:first], run.plan.coreset_fraction)
    state = fit(experiment.state, data, dataclasses.replace(training, plan=before, monitor=0))
    for method, draw, coreset in candidates(run, state, data, training, seed, first):
        about = {"method": METHODS[method].printed, "draw": draw}
        measured = list(errors_of(state.model, data, training, coreset, first))
        for condition in CONDITIONS:
            yield from (about | {"condition": condition, "epoch": 0} | row for row in measured)
        if draw >= TRAINED_DRAWS:
            continue
        for condition in CONDITIONS:
            for epoch, model in trained_on(coreset, state, data, training, condition, epochs):
                for row in errors_of(model, data, training, coreset, first + epoch):
                    yield about | {"condition": condition, "epoch": epoch} | row


def candidates(
    run: config.Run, state: State, data: Dataset, training: Training, seed: int, epoch: int
) -> Iterator[tuple[str, int, Coreset]]:
    """What each method chooses at the present weights, several times where it is drawn."""
    n = len(data.train)
    budget = coreset_size(run.plan.coreset_fraction, n)
    for method in ("gradmatch", "craig"):
        name = run.name.replace(f".{run.method}", f".{method}", 1)
        selector = selecting.build_selector(config.resolve(name, run.profile), seed)
        asks = dataclasses.replace(training, selector=selector)
        with seeded_for(training, epoch):
            gradients = adversarial_gradients(state.model, data, asks, epoch)
            coreset = greedy_solver(state, gradients, budget, asks)
        yield method, 0, coreset
    for draw in range(RANDOM_DRAWS):
        generator = torch.Generator().manual_seed(1000 * seed + draw)
        yield "random", draw, selectors.random(n, budget, generator)


def trained_on(
    coreset: Coreset, state: State, data: Dataset, training: Training, condition: str, epochs: int
) -> Iterator[tuple[int, nn.Module]]:
    """The network after each of some epochs on a coreset, of which `state` knows nothing."""
    assert training.learning_rate is not None
    if condition == "no augmentation":
        data = dataclasses.replace(data, flip=False, padding=0, color_jitter=0, rotation=0)
    if condition == "a tenth of the rate":
        training = dataclasses.replace(training, learning_rate=training.learning_rate / 10)
    model, optimiser = copy.deepcopy((state.model, state.optimiser))
    own = State(model, optimiser, state.epoch, coreset)
    fraction = len(coreset) / len(data.train)
    for epoch in range(1, epochs + 1):
        later = (*_so_far(own.epoch), Epoch(own.epoch, "coreset"))
        one = dataclasses.replace(training, plan=Plan(later, fraction), selector=None, monitor=0)
        fit(own, data, one)
        yield epoch, own.model


def _so_far(epochs: int) -> tuple[Epoch, ...]:
    """Epochs that are over: a plan counts from the first one."""
    return tuple(Epoch(index, "skip") for index in range(epochs))


def errors_of(
    model: nn.Module, data: Dataset, training: Training, coreset: Coreset, epoch: int
) -> Iterator[dict[str, Any]]:
    """A row for each of `VIEWS`. The attacks start as those of a selection in that epoch do."""
    with seeded_for(training, epoch):
        plain = view(model, data.train.float_images(), data.train.labels, training)
    yield {"view": "chosen", "error": selectors.gradient_error(plain.gradients, coreset)[1]}
    everything = torch.arange(len(data.train), device=data.train.labels.device)
    with seeded_for(training, epoch):
        crops = data.augmented(everything, training.generator)
        cropped = view(model, crops, data.train.labels, training)
    yield {"view": "crops", "error": selectors.gradient_error(cropped.gradients, coreset)[1]}
    yield {"view": "weights", "error": error_of_all_weights(model, plain, coreset, training)}


@dataclasses.dataclass(frozen=True)
class View:
    """Images (n, C, H, W), labels, what the selection's attack makes of them, and gradients."""

    images: Tensor
    labels: Tensor
    adversarial: Tensor
    gradients: LastLayerGradients


def view(model: nn.Module, images: Tensor, labels: Tensor, training: Training) -> View:
    """The selection's pass (lines 9 and 10 of Algorithm 1) over some images."""
    objective: Any = training.selection_objective or training.objective
    attacks, gradients = [], []
    with attacker(model, "eval", training.precision) as attacked:
        for x, y in _batches(training, images, labels):
            attacks.append(objective.perturb(attacked, x, y))
            gradients.append(objective.gradients(attacked, x, y, attacks[-1]))
    whole = LastLayerGradients.concatenated(gradients)
    return View(images, labels, torch.cat(attacks), whole)


def error_of_all_weights(
    model: nn.Module, seen: View, coreset: Coreset, training: Training
) -> float:
    """Eq. (12) with the gradients of all weights in the place of the last layer's, relative."""
    n = len(seen.labels)
    weights = torch.zeros(n)
    weights[coreset.indices.cpu()] = coreset.weights.cpu().float()
    everyone = gradient_of_all_weights(model, seen, torch.ones(n), training)
    difference = everyone - gradient_of_all_weights(model, seen, weights, training)
    return float(difference.norm() / everyone.norm())


def gradient_of_all_weights(
    model: nn.Module, seen: View, weights: Tensor, training: Training
) -> Tensor:
    """The sum over samples of weight times gradient, as one vector in double precision."""
    objective: Any = training.selection_objective or training.objective
    was_training = model.training
    model.eval()
    parameters = [one for one in model.parameters() if one.requires_grad]
    total = torch.zeros(sum(map(Tensor.numel, parameters)), dtype=torch.float64)
    chosen = weights.nonzero().flatten().to(seen.labels.device)
    for rows_ in torch.split(chosen, training.batch_size):
        x, y, adversarial = seen.images[rows_], seen.labels[rows_], seen.adversarial[rows_]
        with torch.enable_grad():
            losses = objective.loss(model, x, y, adversarial)
            loss = (losses * weights.to(losses)[rows_]).sum()
            found = torch.autograd.grad(loss, parameters)
        total += torch.cat([part.flatten() for part in found]).double().cpu()
    model.train(was_training)
    return total


def _batches(training: Training, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    yield from zip(*(torch.split(part, training.batch_size) for part in tensors), strict=True)


# ---- what was chosen


def selections(profile: str, seeds: Sequence[int], results: Path | None = None) -> pd.DataFrame:
    """A row for each run of the item and seed. Raises RecordError for one that is not finished.

    overlap: the share of a coreset that the one before had, too; by chance it is k. chosen once,
    never: shares of the images over all of a run's selections. effective: Kish's share of the
    samples that the weights leave, (sum w)^2 / (m sum w^2), 1 for equal weights.
    """
    found = []
    for planned in rows.planned(ITEM, profile):
        name = config.run_name(planned.setting_name, planned.method, planned.varied)
        run = config.resolve(name, profile)
        for seed in seeds:
            sets = list(checkpoints.load_coresets(run, seed, results).values())
            n = images_of(rows.trained_record(run, seed, results))
            found.append(
                {"method": METHODS[run.method].printed, "seed": seed} | set_statistics(sets, n)
            )
    return pd.DataFrame(found)


def images_of(record: dict[str, Any]) -> int:
    """How many images a run has chosen from."""
    return next(row["selection"]["of"] for row in record["history"] if row["selection"])


def set_statistics(sets: Sequence[Coreset], n: int) -> dict[str, float]:
    """A run's coresets of n images in numbers, see `selections`."""
    times = torch.zeros(n)
    overlaps = []
    for position, coreset in enumerate(sets):
        times[coreset.indices] += 1
        if position:
            both = torch.isin(coreset.indices, sets[position - 1].indices)
            overlaps.append(float(both.double().mean()))
    shares = [effective_share(coreset.weights) for coreset in sets]
    return {
        "selections": len(sets),
        "size": sum(map(len, sets)) / (n * len(sets)),
        "overlap": sum(overlaps) / len(overlaps) if overlaps else float("nan"),
        "never": float((times == 0).double().mean()),
        "always": float((times == len(sets)).double().mean()),
        "effective": sum(shares) / len(shares),
    }


def effective_share(weights: Tensor) -> float:
    """Kish's effective sample size of m weights, over m."""
    weights = weights.double()
    return float(weights.sum() ** 2 / (len(weights) * weights.square().sum()))
