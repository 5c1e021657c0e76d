"""A coreset that one can look at: what a run has selected so far, as frames and as pictures.

`open_run` reads it, of a run that is finished or still training, and trains one where there is
none. All other functions take coresets, labels and histories, and give frames and figures. A
figure's label says what is seen on it, and `notebook.show` hands that on to those who cannot see.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from acslib import selectors
from acslib.attacks.pgd import PGD
from acslib.data import Dataset
from acslib.gradients import LastLayerGradients
from acslib.paper import build, checkpoints, config, notebook, records, runs
from acslib.paper.config import Run
from acslib.paper.files import RecordError
from acslib.paper.methods import METHODS
from acslib.paper.pictures import draw_image, image_grid, only_words
from acslib.paper.style import QUIET, described, line, literal
from acslib.selectors.coreset import Coreset
from acslib.training import adversarial_gradients, coreset_size

KINDS = ("always", "sometimes", "never")
PAGE = 20  # chosen images that are shown at once
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
        raise config.ParamsError(
            f"run {run.name} selects nothing, as it trains on all the data: take another method,"
            f" like {run.setting_name}.gradmatch"
        )
    folder = records.run_folder(run, seed)
    if not (folder.is_dir() and records.is_training(folder)):
        notebook.train_run(run, seed)
    seen = read(run, seed)
    if not seen.finished:
        print(f"{run.name} is still training: {len(seen.history)} of {len(run.plan)} epochs")
    return seen


def read(run: Run, seed: int, results: Path | None = None) -> Seen:
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
    found = {label(seen.run.method): seen.history}
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


# ---- frames


def times_chosen(coresets: Mapping[Any, Coreset], n: int) -> Tensor:
    """For each of n images, how many of the coresets have it, (n,) int64."""
    times = torch.zeros(n, dtype=torch.int64)
    for coreset in coresets.values():
        times[coreset.indices] += 1
    return times


def kinds(coresets: Mapping[Any, Coreset], n: int) -> dict[str, Tensor]:
    """The images that are in every coreset, in some and in none, each as ascending indices."""
    times = times_chosen(coresets, n)
    masks = {"always": times == len(coresets), "never": times == 0}
    masks["sometimes"] = ~(masks["always"] | masks["never"])
    return {kind: masks[kind].nonzero().squeeze(1) for kind in KINDS}


def kind_shares(coresets: Mapping[Any, Coreset], n: int) -> pd.DataFrame:
    """Percent of the images of each kind, beside what independent random draws would give."""
    found = kinds(coresets, n)
    shares = [len(coreset) / n for coreset in coresets.values()]
    always, never = math.prod(shares), math.prod(1 - share for share in shares)
    chance = {"always": always, "sometimes": 1 - always - never, "never": never}
    return pd.DataFrame(
        {
            "images": [len(found[kind]) for kind in KINDS],
            "share_pct": [100 * len(found[kind]) / n for kind in KINDS],
            "by_chance_pct": [100 * chance[kind] for kind in KINDS],
        },
        index=pd.Index(KINDS, name="chosen"),
    )


def overlap(coresets: Mapping[Any, Coreset]) -> pd.DataFrame:
    """Row a, column b: percent of a's images that b has, too. By chance it is b's share of all."""
    table = [
        [100 * float(torch.isin(a.indices, b.indices).double().mean()) for b in coresets.values()]
        for a in coresets.values()
    ]
    names = list(coresets)
    return pd.DataFrame(table, index=names, columns=names)


def balance(labels: Tensor, coreset: Coreset, names: Sequence[str]) -> pd.DataFrame:
    """Percent of each class in all the data, among the chosen images, and in their weight."""
    labels, weights = labels.cpu(), coreset.weights
    chosen, count = labels[coreset.indices], len(names)
    parts = {
        "data_pct": torch.bincount(labels, minlength=count).double(),
        "images_pct": torch.bincount(chosen, minlength=count).double(),
        "weight_pct": torch.bincount(chosen, weights=weights, minlength=count),
    }
    shares = {name: (100 * part / part.sum()).numpy() for name, part in parts.items()}
    return pd.DataFrame(shares, index=pd.Index(list(names), name="class"))


def errors(histories: Mapping[str, Sequence[dict[str, Any]]]) -> pd.DataFrame:
    """A row a selection: the relative gradient error (eq. 12), and that of a random subset of the
    same size. Selections without gradients are left out.
    """
    rows = [
        {
            "training": name,
            "epoch": row["epoch"],
            "relative_error": row["selection"]["relative_error"],
            "random_relative_error": row["selection"]["random_relative_error"],
        }
        for name, history in histories.items()
        for row in history
        if (row["selection"] or {}).get("relative_error") is not None
    ]
    columns = ["training", "epoch", "relative_error", "random_relative_error"]
    return pd.DataFrame(rows, columns=columns)


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
    training = build.training_of(looking, labels, seen.seed, str(labels.device))
    training.generator.manual_seed(seen.seed)
    gradients = adversarial_gradients(seen.model, data, training)
    assert isinstance(gradients, LastLayerGradients), "GradMatch looks at gradients"
    found, rows = {}, []
    for method in methods:
        run = config.resolve(_with_method(seen.run, method), seen.run.profile)
        selector = build.build_selector(run, n, seen.seed)
        assert selector is not None, f"{method} selects nothing"
        for fraction in fractions:
            coreset = selector(gradients, coreset_size(fraction, n))
            error = selectors.gradient_error(gradients, coreset)[1]
            found[method, fraction] = coreset
            rows.append({"method": method, "coreset_fraction": fraction, "relative_error": error})
    return Reselected(data, found, pd.DataFrame(rows))


def label(method: str) -> str:
    """A method's name for people."""
    return METHODS[method].label


# ---- pictures of coresets


def draw_images(data: Dataset, coreset: Coreset, page: int = 0, epoch: int | None = None) -> Figure:
    """Twenty chosen images in the order of their weights, from the `page`-th twenty on, and as many
    of those that are left out, spread over all of them.
    """
    order = coreset.indices[coreset.weights.argsort(descending=True, stable=True)]
    weight = dict(zip(coreset.indices.tolist(), coreset.weights.tolist(), strict=True))
    chosen = order[PAGE * page : PAGE * (page + 1)]
    rest = torch.ones(len(data.train), dtype=torch.bool).index_fill_(0, coreset.indices, False)
    out = rest.nonzero().squeeze(1)
    out = out[page % max(1, len(out) // PAGE) :: max(1, len(out) // PAGE)][:PAGE]
    figure = plt.figure(figsize=(10, 6.2))
    upper, lower = figure.subfigures(2, 1, squeeze=False).flat
    name = _namer(data)
    first, last = PAGE * page + 1, PAGE * page + len(chosen)
    upper.suptitle(f"chosen, number {first} to {last} of {len(coreset)} by weight", fontsize=10)
    lower.suptitle(f"left out, {len(out)} of {int(rest.sum())}", fontsize=10)
    _fill(upper, data, chosen, [f"{name(i)}\n{weight[i]:.2f}" for i in chosen.tolist()])
    _fill(lower, data, out, [name(i) for i in out.tolist()])
    when = "" if epoch is None else f" in epoch {epoch}"
    return described(
        figure,
        f"Images chosen{when}, heaviest first, each under its class and weight"
        f" ({_listed(f'{name(i)} {weight[i]:.2f}' for i in chosen[:5].tolist())} ...); below them"
        " images left out, under their classes.",
    )


def _fill(place: Any, data: Dataset, indices: Tensor, titles: Sequence[str]) -> None:
    where = indices.to(data.train.device)
    if len(indices):
        image_grid(place, data.train.float_images(where), titles)


def _namer(data: Dataset) -> Callable[[int], str]:
    """The class of a training image by its number, short enough for a picture."""
    labels = data.train.labels.cpu()
    return lambda index: data.class_names[int(labels[index])][:12]


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def draw_membership(coresets: Mapping[int, Coreset], data: Dataset) -> Figure:
    """A row a selection, a column an image, black where it is chosen; images sorted by class, and
    within a class by how often they are chosen.
    """
    labels, n = data.train.labels.cpu(), len(data.train)
    times = times_chosen(coresets, n)
    order = torch.from_numpy(np.lexsort((-times.numpy(), labels.numpy())))
    chosen = torch.zeros(len(coresets), n)
    for row, coreset in enumerate(coresets.values()):
        chosen[row, coreset.indices] = 1
    figure, axis = plt.subplots(figsize=(10, 0.9 + 0.4 * len(coresets)))
    axis.imshow(
        chosen[:, order].numpy(), cmap="gray_r", aspect="auto", interpolation="nearest", vmax=1
    )
    counts = torch.bincount(labels, minlength=len(data.class_names))
    ends = counts.cumsum(0)
    for row in range(len(coresets) - 1):
        axis.axhline(row + 0.5, color=QUIET, linewidth=0.8)
    for end in ends[:-1]:
        axis.axvline(float(end) - 0.5, color=QUIET, linewidth=0.8)
    axis.set(xlabel="training images by class", ylabel="epoch")
    axis.set_xticks((ends - counts / 2).tolist(), [literal(one) for one in data.class_names])
    axis.tick_params(axis="x", labelrotation=0 if len(counts) <= 12 else 90, length=0)
    axis.set_yticks(range(len(coresets)), [str(epoch) for epoch in coresets])
    axis.grid(False)
    found = kind_shares(coresets, n).share_pct
    return described(
        figure,
        f"{len(coresets)} rows of {n} marks, black where an image is chosen:"
        f" {found['always']:.0f} % are black in every row, {found['never']:.0f} % in none.",
    )


def draw_balance(shares: pd.DataFrame) -> Figure:
    """`balance` as bars: all the data, chosen images, their weight."""
    figure, axis = plt.subplots(figsize=(max(6, 0.85 * len(shares)), 3))
    position = np.arange(len(shares))
    looks = {
        "data_pct": ("all the data", "#FFFFFF", ""),
        "images_pct": ("chosen images", "#BBBBBB", "//"),
        "weight_pct": ("their weight", METHODS["gradmatch"].colour, ""),
    }
    for place, (name, (label, colour, hatch)) in enumerate(looks.items()):
        axis.bar(
            position + 0.27 * (place - 1),
            shares[name],
            0.27,
            color=colour,
            edgecolor=QUIET,
            hatch=hatch,
            label=label,
        )
    axis.set_xticks(position, [literal(str(name)) for name in shares.index])
    axis.set(xlabel="class", ylabel="share (%)")
    axis.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
    change = shares.weight_pct - shares.data_pct
    return described(
        figure,
        "Bars for each class: its share of the data, of the chosen images and of their weight. By"
        f" weight, {change.idxmax()} gains most ({change.max():+.1f} points) and {change.idxmin()}"
        f" loses most ({change.min():+.1f}).",
    )


def draw_overlap(shares: pd.DataFrame, by_chance: float, what: str) -> Figure:
    """`overlap` as a table of numbers on shades of grey."""
    size = min(1.6 + 0.75 * len(shares), 9)
    small = 10 if len(shares) <= 10 else 6
    figure, axis = plt.subplots(figsize=(size + 1.2, size))
    axis.imshow(shares, cmap="Greys", vmin=0, vmax=200)  # light enough for black numbers
    for (row, column), value in np.ndenumerate(shares.to_numpy()):
        axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=small)
    names = [literal(str(name)) for name in shares]
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_title(f"% of a row's images in the column, too\nby chance {by_chance:.0f}", fontsize=9)
    axis.grid(False)
    values = shares.to_numpy()[~np.eye(len(shares), dtype=bool)]
    spread = f"{values.min():.0f} to {values.max():.0f} %" if len(values) else "nothing to compare"
    return described(
        figure,
        f"A square of numbers, the overlap of {what}: {spread}; by chance {by_chance:.0f} %.",
    )


def draw_kinds(coresets: Mapping[int, Coreset], data: Dataset, count: int = 10) -> Figure:
    """Images that are always, sometimes and never chosen, a row each, with how many there are."""
    found, shares = kinds(coresets, len(data.train)), kind_shares(coresets, len(data.train))
    name = _namer(data)
    figure = plt.figure(figsize=(10, 4.8))
    for place, kind in zip(figure.subfigures(3, 1, squeeze=False).flat, KINDS, strict=True):
        row = shares.loc[kind]
        place.suptitle(
            f"{kind} chosen: {row.images:.0f} images, {row.share_pct:.0f} %"
            f" (independent random draws: {row.by_chance_pct:.0f} %)",
            fontsize=10,
        )
        indices = found[kind]
        some = indices[:: max(1, len(indices) // count)][:count]
        _fill(place, data, some, [name(i) for i in some.tolist()])
    text = ", ".join(f"{shares.share_pct[kind]:.0f} % {kind}" for kind in KINDS)
    return described(
        figure,
        f"Three rows of training images under their classes: {text} chosen in {len(coresets)}"
        " selections.",
    )


# ---- pictures of gradient errors


def draw_errors(found: pd.DataFrame) -> Figure:
    """`errors`: a line a training, and dashed with open marks the random subsets' beside it."""
    if found.empty:
        return only_words("none of these selections has looked at gradients")
    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    labels = {method.label: method for method in METHODS.values()}
    for name, part in found.groupby("training", sort=False):
        look = line(labels[name]) if name in labels else {"marker": "o"}
        drawn = axis.plot(part.epoch, part.relative_error, label=literal(name), **look)[0]
        axis.plot(
            part.epoch,
            part.random_relative_error,
            marker=look["marker"],
            color=drawn.get_color(),
            fillstyle="none",
            linestyle="--",
            linewidth=1,
            label=literal(f"random subset, in {name}'s training"),
        )
    axis.set(xlabel="epoch of the selection", ylabel="relative gradient error", ylim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    means = found.groupby("training", sort=False)[
        ["relative_error", "random_relative_error"]
    ].mean()
    said = [
        f"{name} {row.relative_error:.2f}, random beside it {row.random_relative_error:.2f}"
        for name, row in means.iterrows()
    ]
    return described(
        figure, f"Relative gradient error at each selection; in the mean: {'; '.join(said)}."
    )


def draw_sizes(found: pd.DataFrame, marked: float | None = None) -> Figure:
    """The errors of `reselect` against the size; a vertical line at the size `marked`."""
    figure, axis = plt.subplots(figsize=(6.4, 3.2))
    for name, part in found.groupby("method", sort=False):
        method = METHODS[name]
        axis.plot(
            100 * part.coreset_fraction,
            part.relative_error,
            label=literal(method.label),
            **line(method),
        )
    if marked is not None:
        axis.axvline(100 * marked, color=QUIET, linestyle=":", label=f"k = {100 * marked:g} %")
    axis.set(xlabel="size k (% of the images)", ylabel="relative gradient error", ylim=(0, None))
    axis.legend(fontsize=9)
    ends = [
        f"{METHODS[name].label} from {part.relative_error.iloc[0]:.2f} to"
        f" {part.relative_error.iloc[-1]:.2f}"
        for name, part in found.groupby("method", sort=False)
    ]
    low, high = found.coreset_fraction.iloc[0], found.coreset_fraction.iloc[-1]
    return described(
        figure,
        f"Gradient error against the size of the coreset, {100 * low:g} to {100 * high:g} %:"
        f" {'; '.join(ends)}.",
    )


# ---- one image under attack


@dataclass(frozen=True)
class Attacked:
    """An image (C, H, W) before and after an attack, with the classes' probabilities (classes,)."""

    image: Tensor
    adversarial: Tensor
    label: int
    before: Tensor
    after: Tensor


def attack(
    model: nn.Module,
    image: Tensor,
    label: int,
    epsilon: float,
    steps: int,
    norm: Literal["linf", "l2"] = "linf",
    seed: int = 0,
) -> Attacked:
    """PGD on one image (C, H, W) in [0, 1]. No step is longer than epsilon, and all of them reach
    two and a half times as far.
    """
    generator = torch.Generator(image.device).manual_seed(seed)
    step = epsilon * min(1.0, 2.5 / max(1, steps))
    pgd = PGD(norm, epsilon, step, steps, generator=generator)
    adversarial = pgd(model, image[None], torch.tensor([label], device=image.device))
    with torch.no_grad():
        before, after = model(torch.cat([image[None], adversarial])).float().softmax(1).cpu()
    return Attacked(image.cpu(), adversarial[0].cpu(), label, before, after)


def draw_attack(found: Attacked, names: Sequence[str]) -> Figure:
    """The image, its change enlarged, the attacked image, and probabilities before and after."""
    figure, axes = plt.subplots(1, 4, figsize=(11, 2.9), width_ratios=(1, 1, 1, 1.7))
    change = found.adversarial - found.image
    largest = float(change.abs().max())
    times = 0.5 / largest if largest else 1.0
    said = [names[int(part.argmax())] for part in (found.before, found.after)]
    titles = (
        f"is {names[found.label]}, taken for {said[0]}",
        f"change, {times:.2g} times" if largest else "no change",
        f"taken for {said[1]}",
    )
    shown = (found.image, (0.5 + times * change).clamp(0, 1), found.adversarial)
    for axis, image, title in zip(axes, shown, titles, strict=False):
        draw_image(axis, image)
        axis.set_title(literal(title), fontsize=9)
        axis.axis("off")
    _draw_probabilities(axes[3], found, names)
    sure = [100 * float(part[found.label]) for part in (found.before, found.after)]
    verb = "changes" if said[0] != said[1] else "does not change"
    return described(
        figure,
        f"An image of {names[found.label]}; the attack moves pixels by up to {largest:.3f} and"
        f" {verb} the prediction ({said[0]}, then {said[1]}). The true class goes from"
        f" {sure[0]:.0f} to {sure[1]:.0f} %.",
    )


def _draw_probabilities(axis: Axes, found: Attacked, names: Sequence[str], most: int = 10) -> None:
    """The classes that are likeliest before or after, in their own order."""
    likely = torch.maximum(found.before, found.after).topk(min(most, len(names))).indices
    rows = likely.sort().values.tolist()
    position = np.arange(len(rows))
    looks = {"before": ("#FFFFFF", ""), "after": (METHODS["craig"].colour, "//")}
    for place, (when, (colour, hatch)) in enumerate(looks.items()):
        values = (100 * getattr(found, when)[rows]).numpy()
        axis.bar(
            position + 0.4 * place - 0.2,
            values,
            0.4,
            color=colour,
            hatch=hatch,
            edgecolor=QUIET,
            label=when,
        )
    axis.set_xticks(position, [literal(names[row][:12]) for row in rows])
    axis.tick_params(axis="x", labelrotation=0 if max(len(names[row]) for row in rows) < 3 else 45)
    axis.set(ylabel="probability (%)", ylim=(0, 100))
    axis.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def reach(run: Run) -> tuple[float, Literal["linf", "l2"]]:
    """The bound and the norm to attack single images of a run by: its training's, or linf at 8/255
    where it was trained by a perceptual distance.
    """
    setting = run.setting
    return (8 / 255, "linf") if setting.norm == "lpips" else (setting.epsilon, setting.norm)
