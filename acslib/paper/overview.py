"""Figures 1 and 2 from a real run: what they show, and what an experiment keeps for them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load, save
from torch import Tensor

from acslib import selectors, training
from acslib.data.sets import Dataset
from acslib.gradients import LastLayerGradients
from acslib.paper import build, files, frames, rows, tables
from acslib.paper.config import Run
from acslib.paper.methods import METHODS
from acslib.paper.pictures import PARTS
from acslib.schedule import Epoch, Plan
from acslib.selectors.coreset import Coreset

FACTORS = ("errors", "features", "errors2", "features2")  # of `LastLayerGradients`

# ---- what is drawn: Figures 1 and 2


@dataclasses.dataclass(frozen=True)
class Selection:
    """A pass through the selection module: images (n, C, H, W), what the attack made of them (None
    for vanilla training), their last-layer gradients, and the coreset that a greedy solver
    picked.
    """

    images: Tensor
    adversarial: Tensor | None
    gradients: LastLayerGradients
    coreset: Coreset


def select(objective, model, images: Tensor, labels: Tensor, budget: int) -> Selection:
    """Figure 1b or 1c: the selection for `objective` on a few images, sample-wise, by GradMatch."""
    seen = objective.perturb(model, images, labels)
    gradients = objective.gradients(model, images, labels, seen)
    coreset = selectors.gradmatch(gradients, budget)
    return Selection(images, None if seen is images else seen, gradients, coreset)


def sample_gradients(run: Run, model, data: Dataset, seed: int, count: int) -> LastLayerGradients:
    """Adversarial last-layer gradients of the first `count` training images, as in selections."""
    how = build.training_of(run, seed, str(data.train.labels.device))
    how.generator.manual_seed(seed)
    few = dataclasses.replace(data, train=data.train[:count])
    gradients = training.adversarial_gradients(model, few, how)
    assert isinstance(gradients, LastLayerGradients), "an attack's selection needs gradients"
    return gradients


def in_plane(gradients: LastLayerGradients, coreset: Coreset) -> tuple[float, float]:
    """The coreset's total gradient, in units of the true one: the part along it, the rest's length.

    The distance from there to (1, 0) is the relative error of eq. (12), in however many dimensions.
    """
    total = gradients.total(dtype=torch.float64)
    own = gradients[coreset.indices].total(coreset.weights, dtype=torch.float64)
    along = (own @ total / (total @ total)).item()
    return along, float((own - along * total).norm() / total.norm())


# ---- what an experiment keeps for its picture: a CSV, and the tensors beside it


def write_kept(
    item: str, table: pd.DataFrame, tensors: dict[str, Tensor], results: Path | None = None
) -> Path:
    """Write results/<profile>/<item>.safetensors, then <item>.csv with its digest; that path."""
    folder = (results or files.RESULTS) / table.profile.iloc[0]
    content = save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()})
    files.write_file(folder / f"{item}.safetensors", content)
    return frames.write_frame(
        folder / f"{item}.csv", table.assign(weights=files.file_digest(content))
    )


def read_kept(
    item: str, profile: str, results: Path | None = None
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """What `write_kept` wrote. RecordError for files missing, damaged or of different runs."""
    table = tables.read_table(item, profile, results)
    path = (results or files.RESULTS) / profile / f"{item}.safetensors"
    content = path.read_bytes() if path.is_file() else b""
    if files.file_digest(content) != table.weights.iloc[0]:
        raise files.RecordError(
            f"{path} is missing, damaged or of another run than {item}.csv: delete both and make"
            f" {item} PROFILE={profile} again"
        )
    return table, load(content)


def gradient_tensors(gradients: LastLayerGradients, prefix: str = "") -> dict[str, Tensor]:
    """The factors of gradients, by name."""
    factors = {name: getattr(gradients, name) for name in FACTORS}
    return {prefix + name: factor for name, factor in factors.items() if factor is not None}


def coreset_tensors(coreset: Coreset, prefix: str = "") -> dict[str, Tensor]:
    """Indices and weights of a coreset, by name."""
    return {f"{prefix}indices": coreset.indices, f"{prefix}weights": coreset.weights}


def selection_tensors(selection: Selection, prefix: str) -> dict[str, Tensor]:
    """All of a selection, by name."""
    tensors = {f"{prefix}images": selection.images}
    if selection.adversarial is not None:
        tensors[f"{prefix}adversarial"] = selection.adversarial
    tensors |= coreset_tensors(selection.coreset, prefix)
    return tensors | gradient_tensors(selection.gradients, prefix)


def gradients_from(tensors: dict[str, Tensor], prefix: str = "") -> LastLayerGradients:
    """What `gradient_tensors` made these of."""
    errors, *others = (tensors.get(prefix + name) for name in FACTORS)
    if errors is None:
        raise files.RecordError(f"there are no gradients {prefix}errors among {', '.join(tensors)}")
    return LastLayerGradients(errors, *others[:3])


def coreset_from(tensors: dict[str, Tensor], prefix: str = "") -> Coreset:
    """What `coreset_tensors` made these of."""
    return Coreset(tensors[f"{prefix}indices"], tensors[f"{prefix}weights"])


def selection_from(tensors: dict[str, Tensor], prefix: str) -> Selection:
    """What `selection_tensors` made these of."""
    return Selection(
        tensors[f"{prefix}images"],
        tensors.get(f"{prefix}adversarial"),
        gradients_from(tensors, prefix),
        coreset_from(tensors, prefix),
    )


def plan_from(table: pd.DataFrame) -> Plan:
    """The plan that a CSV with a row an epoch has: epoch, phase, selects, coreset_fraction."""
    epochs = tuple(Epoch(row.epoch, row.phase, bool(row.selects)) for row in table.itertuples())
    return Plan(epochs, float(table.coreset_fraction.iloc[0]))


def epoch_table(run: Run, record: dict, full: dict) -> pd.DataFrame:
    """Figure 1a's CSV: a row an epoch of a run's record, beside the full training's seconds."""
    history, plan = pd.DataFrame(record["history"]), list(run.plan)
    seconds = [f"seconds_{part}" for part in PARTS]
    return history[["epoch", *seconds]].assign(
        phase=[epoch.phase for epoch in plan],
        selects=[epoch.select for epoch in plan],
        coreset_fraction=run.setting.coreset_fraction,
        seconds_full_epoch=full["seconds"]["total"] / len(full["history"]),
        seconds_total=record["seconds"]["total"],
        seconds_full=full["seconds"]["total"],
        profile=run.profile,
        run=run.name,
        seed=record["seed"],
        about=about_run(run, record["seed"], record["data"]),
    )


def coreset_table(
    run: Run,
    seed: int,
    source: str,
    gradients: LastLayerGradients,
    coresets: dict[str, Sequence[Coreset]],
) -> pd.DataFrame:
    """Figure 2's CSV: a row a coreset, with its relative gradient error, eq. (12)."""
    rows = [
        {
            "profile": run.profile,
            "run": run.name,
            "seed": seed,
            "method": METHODS[name].printed,
            "draw": draw,
            "samples": len(gradients),
            "size": len(coreset),
            "relative_error": selectors.gradient_error(gradients, coreset)[1],
            "about": about_run(run, seed, source),
        }
        for name, several in coresets.items()
        for draw, coreset in enumerate(several)
    ]
    return pd.DataFrame(rows)


def about_run(run: Run, seed: int, source: str) -> str:
    """Run, profile, seed, data and network in a line, for below a picture."""
    return f"{run.name}, profile {run.profile}, seed {seed}, {source}, {rows.network(run.setting)}"


def coresets_from(tensors: dict[str, Tensor], table: pd.DataFrame) -> dict[str, list[Coreset]]:
    """Figure 2's coresets by method, in the order of its CSV."""
    found: dict[str, list[Coreset]] = {}
    names = {method.printed: name for name, method in METHODS.items()}
    for row in table.itertuples():
        name = names[row.method]
        found.setdefault(name, []).append(coreset_from(tensors, f"{name}.{row.draw}."))
    return found
