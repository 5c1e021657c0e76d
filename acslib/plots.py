"""The paper's figures: 1 and 2 drawn from a real run, 3 to 5 from CSV files.

What is measured (`attack_curves`, `by_seed`) and what is drawn (`figure1` to `figure5`) are apart: drawings take
tables with one row a run and seed, and neither train nor attack.
"""

import dataclasses
import hashlib
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from acslib import evaluation, layouts, models, params, records, runs, selectors, tables, training
from acslib.attacks import PGD
from acslib.data import Dataset
from acslib.figures import COLOURS, MARKERS, timeline
from acslib.gradients import LastLayerGradients
from acslib.params import Run
from acslib.selectors import Coreset

NORMS = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2)  # Figure 3's attacks, in units of the training's epsilon
FAT = ("#D55E00", "s")  # FAT's colour and marker; the other curves have those of their method
VERSIONS = {"plain": ("#CC79A7", "v"), "batch-wise": ("#E69F00", "s"),
            "batch-wise + warm start": (COLOURS["gradmatch"], MARKERS["gradmatch"]),
            "adaptive random": (COLOURS["adaptive_random"], MARKERS["adaptive_random"])}  # fmt: skip
SPEED_UP = "speed-up over full adversarial training (medians of epochs)"
IDENTITY = ["profile", "setting", "run", "model", "network", "dataset", "data", "device", "commit", "seeds", "seed",
            "method"]
MEASURES = ["acc_pct", "racc_pct", "relative_clean_error_pct", "relative_robust_error_pct", "speedup_x",
            "speedup_median_x", "speedup_ceiling_x", "time_s", "seconds_select"]  # fmt: skip


# ---- what is measured: Figures 4 and 5


def relative_error(accuracy, full):
    """(error - error of full training) / error of full training, in percent; error = 100 % - accuracy.

    `accuracy` and `full`: in percent. 0 is as good as full training, 100 makes twice its mistakes, below 0 is better.
    """
    return 100 * (full - accuracy) / (100 - full)


def by_seed(figure: str, profile: str, seeds: Sequence[int], results: Path | None = None) -> pd.DataFrame:
    """Figure 4's or 5's points: a row a run and seed, errors relative to the full training of the same seed."""
    table = pd.concat([tables.gather(figure, profile, [seed], results).assign(seed=seed) for seed in seeds])
    table = table.assign(seeds=len(seeds)).reset_index(drop=True)
    for kind, measure in (("clean", "acc"), ("robust", "racc")):
        full = table[f"{measure}_pct"] - pd.to_numeric(table[f"{measure}_diff_pct"]).fillna(0)
        table[f"relative_{kind}_error_pct"] = relative_error(table[f"{measure}_pct"], full)
    settings = {name: params.resolve(name, profile).setting for name in table.run.unique()}
    for varied in ("coreset_fraction", "warm_start"):
        table[varied] = [getattr(settings[name], varied) for name in table.run]
    extra = [name for name in ("series", "version") if name in table]
    return table[[*IDENTITY, *extra, "coreset_fraction", "warm_start", *MEASURES]]


def save(figure: str, table: pd.DataFrame, results: Path | None = None) -> Path:
    """Write results/<profile>/<figure>.csv, atomically; gives its path."""
    path = (results or records.RESULTS) / table.profile.iloc[0] / f"{figure}.csv"
    records.write_atomically(path, table.to_csv(index=False).encode())
    return path


# ---- what is measured: Figure 3


def attack_curves(
    profile: str, seeds: Sequence[int], results: Path | None = None, progress: Callable = iter
) -> pd.DataFrame:
    """Figure 3's points, also written to results/<profile>/fig3.csv: a row a run, seed and norm of the attack.

    A curve that the file already holds for the same weights and evaluation is not attacked again.
    """
    path = (results or records.RESULTS) / profile / "fig3.csv"
    known = pd.read_csv(path, dtype=tables.DIGESTS) if path.exists() else pd.DataFrame({"weights": []})
    rows = [row | {"seed": seed} for seed in seeds
            for row in tables.gather("fig3", profile, [seed], results).to_dict("records")]  # fmt: skip
    curves = []
    for row in progress(rows):
        run = params.resolve(row["run"], profile)
        mark = weights_mark(run, row["seed"], results)
        curve = known[known.weights == mark]
        if len(curve) != len(NORMS):
            about = {name: row[name] for name in (*IDENTITY, "curve")}
            curve = attack_curve(run, row["seed"], results).assign(**about, weights=mark)
        curves.append(curve.assign(seeds=len(seeds)))
        table = pd.concat(curves, ignore_index=True)
        save("fig3", table, results)
    return table


def weights_mark(run: Run, seed: int, results: Path | None = None) -> str:
    """A digest of a finished run's parameters and weights."""
    weights = (records.run_folder(run, seed, results) / "weights.safetensors").read_bytes()
    return hashlib.sha256(records.fingerprint(run).encode() + weights).hexdigest()[:16]


def attack_curve(run: Run, seed: int, results: Path | None = None) -> pd.DataFrame:
    """Robust accuracy of a finished run under PGD with the setting's steps and one restart, for each of `NORMS`.

    The step grows with the norm, so that every attack can cross its ball equally often.
    """
    model, dataset = runs.load_trained(run, seed, results=results)
    setting, images, labels = run.setting, dataset.test.float_images(), dataset.test.labels
    device = str(images.device)
    fast = models.folded(model, training.DTYPES[runs.precision(setting, device)])
    ratio, rows = setting.evaluation_step / setting.evaluation_epsilon, []
    for norm in NORMS:
        epsilon, generator = norm * setting.epsilon, torch.Generator(device).manual_seed(seed)
        attack = PGD("linf", epsilon, ratio * epsilon, setting.evaluation_steps, generator=generator)
        robust, _ = evaluation.robust_accuracy(model, images, labels, attack, attacked=fast)
        rows.append({"epsilon_255": round(255 * epsilon, 6), "racc_pct": 100 * robust})  # the same after a CSV
    return pd.DataFrame(rows).assign(training_epsilon_255=round(255 * setting.epsilon, 6),
                                     steps=setting.evaluation_steps, test_images=len(labels))  # fmt: skip


# ---- what is drawn: Figures 3 to 5


def over_seeds(table: pd.DataFrame, by: list[str], measures: list[str]) -> pd.DataFrame:
    """Mean and sample standard deviation (`<measure>_std`; NaN for one seed) of `measures` for each of `by`."""
    groups = table.groupby(by, sort=False)[measures]
    return groups.mean().join(groups.std().add_suffix("_std")).reset_index()


def note(table: pd.DataFrame, width: int = 160) -> str:
    """What the points are: profile, data, network, and what the error bars mean."""
    n = int(table.seeds.iloc[0])
    bars = "one seed, no error bars" if n == 1 else f"mean and standard deviation (bars) of n = {n} seeds"
    about = [f"profile {table.profile.iloc[0]}", *table["data"].unique(), *table.network.unique(), bars]
    return textwrap.fill(", ".join(about), width)


def figure3(table: pd.DataFrame) -> Figure:
    """Figure 3: robust accuracy against the linf norm of the attack, a curve a training."""
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    for (curve, name), part in table.groupby(["curve", "method"], sort=False):
        method = name.removeprefix("adv_")
        colour, marker = FAT if curve == "FAT" else (COLOURS[method], MARKERS[method])
        points = over_seeds(part, ["epsilon_255"], ["racc_pct"]).sort_values("epsilon_255")
        label = f"{curve}, {'all the data' if method == 'full' else layouts.LABELS[method]}"
        axis.plot(points.epsilon_255, points.racc_pct, marker=marker, color=colour, label=label, clip_on=False)
        low, high = points.racc_pct - points.racc_pct_std, points.racc_pct + points.racc_pct_std
        axis.fill_between(points.epsilon_255, low, high, color=colour, alpha=0.2, linewidth=0)
    trained = table.training_epsilon_255.iloc[0]
    axis.axvline(trained, color="#555555", linestyle="--", linewidth=1, label=f"norm of the training, {trained:g}/255")
    axis.set(xlabel=r"$\ell_\infty$ norm of the attack (1/255)", ylim=(0, None),
             ylabel=f"robust accuracy, PGD-{table.steps.iloc[0]:g} (%)")  # fmt: skip
    axis.legend(fontsize=9)
    axis.set_title(note(table, 110).replace("(bars)", "(shaded)"), fontsize=7, color="#555555")
    return figure


def trace(axis, part: pd.DataFrame, by: str, measure: str, look: tuple[str, str], label: str, **line):
    """One line of relative errors against speed-up with error bars over seeds, from the largest `by` to the least."""
    points = over_seeds(part, [by], ["speedup_median_x", measure]).sort_values(by, ascending=False)
    bars = {f"{end}err": points[f"{name}_std"] for end, name in (("x", "speedup_median_x"), ("y", measure))}
    colour, marker = look
    line |= bars if len(part) > len(points) else {}
    return axis.errorbar(points.speedup_median_x, points[measure], color=colour, marker=marker, label=label, capsize=2,
                         elinewidth=1, **line)  # fmt: skip


def full_training(axis) -> None:
    """Where full training stands: speed-up 1, relative error 0."""
    axis.axhline(0, color="#555555", linestyle=":", linewidth=1, zorder=0)
    axis.plot(1, 0, MARKERS["full"], color=COLOURS["full"], markersize=11, label="Full", zorder=3)


def figure4(table: pd.DataFrame) -> Figure:
    """Figure 4: relative robust error against speed-up, over coreset sizes (left) and warm starts (right)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4), sharey=True)
    measure = "relative_robust_error_pct"
    for axis in (left, right):
        full_training(axis)
        axis.set(xlabel=SPEED_UP)
    sizes = table[table.series == "size"]
    for method in ("random", "adaptive_random", "adv_gradmatch"):
        name = method.removeprefix("adv_")
        trace(left, sizes[sizes.method == method], "coreset_fraction", measure, (COLOURS[name], MARKERS[name]),
              layouts.LABELS[name])  # fmt: skip
    left.set(title=f"coreset sizes {spelt(sizes.coreset_fraction)}", ylabel=error_label("robust"))
    warm = table[table.series == "warm_start"]
    values, marks = sorted(warm.warm_start.unique()), "vs^oDPX"
    for i, value in enumerate(values):
        look = plt.get_cmap("cividis")(i / max(1, len(values) - 1) * 0.85), marks[i % len(marks)]
        trace(right, warm[warm.warm_start == value], "warm_start", measure, look,
              f"warm start {100 * value:g} %", linestyle="")  # fmt: skip
    right.set(title=f"{layouts.LABELS['gradmatch']}, coreset size {spelt(warm.coreset_fraction)}")
    for axis in (left, right):
        axis.legend(fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    figure.suptitle(note(table), fontsize=7, color="#555555")
    return figure


def figure5(table: pd.DataFrame) -> Figure:
    """Figure 5: relative clean (a, c) and robust error (b, d) against speed-up for CRAIG (a, b), GradMatch (c, d)."""
    figure, axes = plt.subplots(2, 2, figsize=(9.6, 7), sharex=True, sharey="col")
    panels = [(selector, kind) for selector in ("craig", "gradmatch") for kind in ("clean", "robust")]
    for letter, (selector, kind), axis in zip("abcd", panels, axes.flat, strict=True):
        full_training(axis)
        for version, look in VERSIONS.items():
            part = table[(table.version == version) & table.method.isin((f"adv_{selector}", "adaptive_random"))]
            trace(axis, part, "coreset_fraction", f"relative_{kind}_error_pct", look, version,
                  linestyle="--" if version == "adaptive random" else "-")  # fmt: skip
        axis.set(title=f"({letter}) {layouts.LABELS[selector]}, {kind} error", ylabel=error_label(kind))
    for axis in axes[1]:
        axis.set(xlabel=SPEED_UP)
    figure.legend(*axis.get_legend_handles_labels(), ncols=5, loc="outside lower center")
    sizes = f"coreset sizes {spelt(table.coreset_fraction[table.version.notna()])}"
    figure.suptitle(f"{sizes}, from left to right; {note(table)}", fontsize=7, color="#555555")
    return figure


def error_label(kind: str) -> str:
    return f"relative {kind} error,\n(error - error of full) / error of full (%)"


def spelt(fractions: pd.Series) -> str:
    """Distinct fractions, the largest first: 50, 40 %."""
    return ", ".join(f"{100 * value:g}" for value in sorted(fractions.unique(), reverse=True)) + " %"


# ---- what is drawn: Figures 1 and 2


@dataclasses.dataclass(frozen=True)
class Selection:
    """A pass through the selection module: images (n, C, H, W), what the attack made of them (None for vanilla
    training), their last-layer gradients, and the coreset that a greedy solver picked."""

    images: Tensor
    adversarial: Tensor | None
    gradients: LastLayerGradients
    coreset: Coreset


def select(objective, model, images: Tensor, labels: Tensor, budget: int) -> Selection:
    """Figure 1b or 1c: the selection module for `objective` on a few images, sample by sample with GradMatch."""
    seen = objective.perturb(model, images, labels)
    gradients = objective.gradients(model, images, labels, seen)
    coreset = selectors.gradmatch(gradients, budget)
    return Selection(images, None if seen is images else seen, gradients, coreset)


def figure1(
    plan, history: Sequence[dict], seconds_full_epoch: float, vanilla: Selection, robust: Selection, about: str = ""
) -> Figure:
    """Figure 1: (a) the phases of a run and what each epoch cost, (b, c) selection for vanilla and robust training."""
    figure = plt.figure(figsize=(9.6, 8.4))
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1.15, 1, 1])
    boxes, bars = top.subplots(2, 1, sharex=True, height_ratios=[1, 1.6])
    timeline(plan, boxes)
    boxes.set(xlabel="")
    epoch_seconds(bars, history, seconds_full_epoch)
    top.suptitle("(a) training with coreset selection", x=0.01, ha="left")
    bottom.supxlabel(about, fontsize=7, color="#555555")
    scale = max(float(selection.gradients.errors.abs().max()) for selection in (vanilla, robust))
    module(middle, vanilla, scale)
    middle.suptitle("(b) selection for vanilla training", x=0.01, ha="left")
    module(bottom, robust, scale)
    bottom.suptitle("(c) selection for adversarial training: the images are attacked first", x=0.01, ha="left")
    return figure


def epoch_seconds(axis, history: Sequence[dict], seconds_full_epoch: float) -> None:
    """Seconds of each epoch as a stack of what took them, under an epoch of full training as a line."""
    rows = pd.DataFrame(history)
    base = 0 * rows.epoch.astype(float)
    for part, colour in (("select", "#009E73"), ("attack", "#666666"), ("update", "#BBBBBB")):
        axis.bar(rows.epoch + 0.5, rows[f"seconds_{part}"], 0.8, bottom=base, color=colour, label=part)
        base = base + rows[f"seconds_{part}"]
    axis.axhline(seconds_full_epoch, color="black", linestyle="--", linewidth=1, label="full training, mean")
    axis.set(xlabel="epoch", ylabel="seconds")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def module(figure, selection: Selection, scale: float) -> None:
    """One row: images, the attack's images, their gradients, the coreset; an arrow from each to the next."""
    grid = figure.add_gridspec(1, 7, width_ratios=[1.5, 0.7, 1.5, 0.7, 0.8, 0.7, 1.5])
    show_mosaic(empty(figure, grid[0]), selection.images, "images")
    if selection.adversarial is None:
        arrow(empty(figure, grid[1:4]), "last layer's gradients")
    else:
        arrow(empty(figure, grid[1]), "attack")
        show_mosaic(empty(figure, grid[2]), selection.adversarial, "adversarial images")
        arrow(empty(figure, grid[3]), "last layer's\ngradients")
    errors = empty(figure, grid[4])
    errors.imshow(selection.gradients.errors.float().cpu().numpy(), cmap="RdBu_r", vmin=-scale, vmax=scale,
                  aspect="auto")  # fmt: skip
    errors.set_title("gradients", fontsize=9)
    errors.set_xlabel("classes", fontsize=8)
    errors.set_ylabel("images", fontsize=8)
    arrow(empty(figure, grid[5]), "greedy\nsolver")
    show_mosaic(empty(figure, grid[6]), selection.images, "weighted coreset", selection.coreset)


def empty(figure, place):
    """A panel without ticks, grid and frame."""
    axis = figure.add_subplot(place)
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)
    return axis


def arrow(axis, text: str) -> None:
    """An arrow across a panel, its text above it."""
    look = {"arrowstyle": "-|>", "color": "black", "mutation_scale": 14, "linewidth": 1.4}
    axis.annotate("", (1, 0.5), (0, 0.5), "axes fraction", arrowprops=look)
    axis.text(0.5, 0.56, text, ha="center", va="bottom", fontsize=8, transform=axis.transAxes)


def show_mosaic(axis, images: Tensor, title: str, coreset: Coreset | None = None, columns: int = 6) -> None:
    """Images side by side; with a coreset, its own framed as thickly as they weigh and the others faded."""
    images = images.float().cpu()
    chosen = torch.zeros(len(images), dtype=torch.bool)
    if coreset is not None:
        chosen[coreset.indices.cpu()] = True
        images = torch.where(chosen[:, None, None, None], images, 1 - 0.2 * (1 - images))
    axis.imshow(mosaic(images, columns).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=9)
    if coreset is None:
        return
    height, width = images.shape[2] + 1, images.shape[3] + 1
    for index, weight in zip(coreset.indices.tolist(), (coreset.weights / coreset.weights.max()).tolist(), strict=True):
        row, column = divmod(index, columns)
        axis.add_patch(Rectangle((column * width, row * height), width - 1, height - 1, fill=False,
                                 edgecolor=COLOURS["gradmatch"], linewidth=0.8 + 3 * weight))  # fmt: skip


def mosaic(images: Tensor, columns: int) -> Tensor:
    """(n, C, H, W) as one picture (rows, columns, C), a white pixel between the images."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    canvas = torch.ones(rows * columns, channels, height + 1, width + 1)
    canvas[:n, :, :height, :width] = images
    grid = canvas.view(rows, columns, channels, height + 1, width + 1).permute(0, 3, 1, 4, 2)
    return grid.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]


def sample_gradients(run: Run, model, data: Dataset, seed: int, count: int) -> LastLayerGradients:
    """Adversarial last-layer gradients of the first `count` training images, as the run's selections see them."""
    how = runs.training_of(run, data.train.labels, seed, str(data.train.labels.device))
    how.generator.manual_seed(seed)
    return training.adversarial_gradients(model, dataclasses.replace(data, train=data.train[:count]), how)


def in_plane(gradients: LastLayerGradients, coreset: Coreset) -> tuple[float, float]:
    """The coreset's weighted total gradient, in units of the total: its part along the total, and the rest's length.

    The distance from there to (1, 0) is the relative error of eq. (12), in however many dimensions.
    """
    total = gradients.total(dtype=torch.float64)
    own = gradients[coreset.indices].total(coreset.weights, dtype=torch.float64)
    along = (own @ total / (total @ total)).item()
    return along, float((own - along * total).norm() / total.norm())


def figure2(gradients: LastLayerGradients, coresets: dict[str, Sequence[Coreset]], about: str = "") -> Figure:
    """Figure 2: a coreset among all gradients (two principal components), and how near its total comes to theirs.

    `coresets`: one or more for each method of `figures.COLOURS`; the first of "gradmatch" is drawn on the left.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2))
    dense = gradients.dense(dtype=torch.float64).cpu()
    centred = dense - dense.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False)[2][:2]
    places, shown = centred @ axes.T, coresets["gradmatch"][0]
    share = float((places**2).sum() / (centred**2).sum())
    left.scatter(*places.T, s=8, color="#BBBBBB", label=f"all {len(gradients)} samples", linewidths=0)
    left.scatter(*places[shown.indices].T, s=(120 * shown.weights / shown.weights.max()).numpy(), alpha=0.75,
                 color=COLOURS["gradmatch"], edgecolors="white", linewidths=0.5,
                 label=f"coreset of {len(shown)}, area by weight")  # fmt: skip
    left.set(xlabel="first principal component", ylabel="second principal component",
             title=f"gradients ({share:.0%} of their variance)")  # fmt: skip
    right.plot([0, 1], [0, 0], color=COLOURS["full"], zorder=0)
    right.plot(1, 0, MARKERS["full"], color=COLOURS["full"], markersize=14, label="total of all samples")
    for method, several in coresets.items():
        ends = torch.tensor([in_plane(gradients, coreset) for coreset in several])
        draws = f", {len(ends)} draws" if len(ends) > 1 else ""
        right.plot(*ends.T, MARKERS[method], color=COLOURS[method], label=layouts.LABELS[method] + draws)
        if not draws:
            right.plot(*zip((0, 0), ends[0], strict=True), color=COLOURS[method], zorder=0)
    right.set(xlabel="along the total gradient (its length = 1)", ylabel="across it", title="totals, weighted")
    right.set_aspect("equal", adjustable="datalim")  # lengths are to be compared
    for axis in (left, right):
        axis.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.suptitle(about, fontsize=7, color="#555555")
    return figure
