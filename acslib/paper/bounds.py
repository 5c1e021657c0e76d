"""What `notebooks/theorem1.ipynb` measures and draws.

Both sides of Theorem 1, by method, by reading of the theorem, and by size of the coreset.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from acslib.paper import theory
from acslib.paper.methods import METHODS
from acslib.paper.seen import brief, described, from_to, span
from acslib.paper.style import line
from acslib.paper.theory import CONSISTENT, READINGS, AdversarialLogistic, Descent, Norm, Numbers

RAW = "mean, weights of eq. (12)"  # the reading in which weights stay as they were matched
LOOK = {"linf": METHODS["gradmatch"].colour, "l2": METHODS["craig"].colour}
# which methods show what a reading does, by norm
SHOWN = {"linf": ("full", "gradmatch", "random"), "l2": ("full", "gradmatch")}


class Descents:
    """Descents on the four problems of a profile: each is made once, for all who ask."""

    def __init__(self, numbers: Numbers, seeds: Sequence[int]):
        self.numbers, self.seeds = numbers, list(seeds)
        self.most = max(numbers.iterations)
        self._descents: dict[tuple, Descent] = {}

    @cached_property
    def problems(self) -> dict[tuple[Norm, int], AdversarialLogistic]:
        """By norm and part of the theorem."""
        parts = [(norm, part) for norm in self.numbers.epsilon for part in (1, 2)]
        return {(norm, part): self.numbers.problem(norm, part) for norm, part in parts}

    def draws(self, method: str) -> list[int]:
        """The seeds that a method needs: one is enough for those that draw nothing."""
        return self.seeds if "random" in method else self.seeds[:1]

    def descent(
        self,
        norm: Norm,
        part: int,
        method: str,
        iterations: int,
        reading: str = CONSISTENT,
        fraction: float | None = None,
        seed: int | None = None,
    ) -> Descent:
        """Coreset gradient descent; by default the profile's fraction and the first seed."""
        fraction = self.numbers.fraction if fraction is None else fraction
        seed = self.seeds[0] if seed is None else seed
        key = norm, part, method, iterations, reading, fraction, seed
        if key not in self._descents:
            problem = self.problems[norm, part]
            select = theory.selector(method, len(problem), fraction, seed)
            made = theory.descend(problem, select, iterations, READINGS[reading])
            self._descents[key] = made
        return self._descents[key]

    def measure(self, norm: Norm, part: int, method: str, iterations: int, **others) -> dict:
        """A row: what the descent was, and both sides of the theorem in units of L / n."""
        what = {
            "norm": norm,
            "part": part,
            "method": method,
            "iterations": iterations,
            "reading": others.get("reading", CONSISTENT),
            "fraction": others.get("fraction", self.numbers.fraction),
            "seed": others.get("seed", self.seeds[0]),
        }
        path = self.descent(**what)
        both = theory.sides(self.problems[norm, part], path, READINGS[what["reading"]])
        return what | both | {"holds": both["left"] <= both["bound"]}

    def sweep(self) -> pd.DataFrame:
        """Every problem, method, number of iterations and seed."""
        rows = [
            self.measure(norm, part, method, iterations, seed=seed)
            for norm, part in self.problems
            for method in theory.SELECTORS
            for iterations in self.numbers.iterations
            for seed in self.draws(method)
        ]
        return pd.DataFrame(rows)

    def readings(self) -> pd.DataFrame:
        """Every reading of the theorem, with the most iterations."""
        rows = [
            self.measure(norm, part, method, self.most, reading=reading)
            for norm, part in self.problems
            for reading in READINGS
            for method in SHOWN[norm]
            if (part, reading) != (1, "mean, rate with nμ")  # (1) has no rate with μ in it
        ]
        return pd.DataFrame(rows)

    def sizes(self) -> pd.DataFrame:
        """Part (2) under linf, every selector at several coreset sizes."""
        rows = [
            self.measure("linf", 2, method, self.most, fraction=fraction, seed=seed)
            for method in theory.SELECTORS
            if method != "full"
            for fraction in self.numbers.fractions
            for seed in self.draws(method)
        ]
        return pd.DataFrame(rows)

    def constants(self) -> pd.DataFrame:
        """What the theorem needs to know of each problem."""
        rows = [
            {
                "norm": norm,
                "part": part,
                "n": len(problem),
                "epsilon": problem.epsilon,
                "mu": problem.mu,
                "R": problem.radius,
                "sigma": problem.sigma,
                "Delta": problem.delta,
                "|theta*|": float(problem.optimum.norm()),
                "zeros in theta*": int((problem.optimum == 0).sum()),
                "L(theta*)/n": float(problem.losses(problem.optimum).mean()),
                "slope left": problem.residual(problem.optimum),
            }
            for (norm, part), problem in self.problems.items()
        ]
        return pd.DataFrame(rows)


# ---- Danskin's theorem, Lemmas 1 and 2


def danskin_errors(
    problem: AdversarialLogistic, steps: Tensor, generator: torch.Generator
) -> Tensor:
    """How far central differences of phi with each of `steps` lie from the gradient of eq. (16), as
    a fraction of it; at a random point in a random direction.
    """
    theta, way = torch.randn(2, problem.images.shape[1], generator=generator).double()
    slope = problem.gradients(theta) @ way
    differences = [
        (problem.losses(theta + h * way) - problem.losses(theta - h * way)) / (2 * h) for h in steps
    ]
    return torch.stack([(found - slope).norm() / slope.norm() for found in differences])


def random_pairs(
    problem: AdversarialLogistic, generator: torch.Generator, count: int = 400
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of points in the problem's ball, some near to each other."""
    shape = 2, count, problem.images.shape[1]
    a, b = torch.randn(shape, generator=generator, dtype=torch.float64)
    b = a + b * 10 ** (-3 * torch.rand(count, 1, generator=generator, dtype=torch.float64))
    return [(problem.project(x), problem.project(y)) for x, y in zip(a, b, strict=True)]


def slopes(problem: AdversarialLogistic, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """|phi_i(a) - phi_i(b)| / |a - b| over its Lipschitz constant (Lemma 1), (pairs, n)."""
    found = [(problem.losses(a) - problem.losses(b)).abs() / (a - b).norm() for a, b in pairs]
    return torch.stack(found) / problem.lipschitz()


def curvatures(problem: AdversarialLogistic, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """2 [L(b) - L(a) - grad L(a) (b - a)] / (n |b - a|^2), at least mu (Lemma 2), (pairs,)."""
    found = [
        (problem.losses(b) - problem.losses(a) - problem.gradients(a) @ (b - a)).mean()
        / (b - a).norm() ** 2
        for a, b in pairs
    ]
    return 2 * torch.stack(found)


def split_distances(problem: AdversarialLogistic) -> pd.Series:
    """How far eq. (B4)'s parts, and their sum, lie from autograd's gradient of TRADES, relatively,
    for a small network.
    """
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(problem.images.shape[1], 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)
    ).double()
    moved = problem.images + 0.1 * torch.randn_like(problem.images)
    whole, adversarial, clean = theory.trades_split(network, problem.images, moved)
    parts = {
        "both parts (B4)": adversarial + clean,
        "through f(x_adv) alone": adversarial,
        "through f(x) alone": clean,
    }
    return pd.Series(
        {name: float((part - whole).norm() / whole.norm()) for name, part in parts.items()},
        name="relative distance from autograd's gradient",
    )


def rank_correlations(sizes: pd.DataFrame) -> pd.Series:
    """Spearman's, of gradient error and left side: by method, and without adaptive random."""
    ranks = {
        method: rows.gradient_error.corr(rows.left, "spearman")
        for method, rows in sizes.groupby("method", sort=False)
    }
    steady = sizes[sizes.method != "adaptive_random"]
    ranks["all but adaptive random"] = steady.gradient_error.corr(steady.left, "spearman")
    return pd.Series(ranks, name="rank correlation of gradient error and left side")


# ---- pictures


def draw_sides(axis: Axes, sweep: pd.DataFrame, norm: str, part: int) -> None:
    """Left sides (solid) and bounds (dashed) against the iterations, with bars over seeds."""
    chosen = sweep[(sweep.norm == norm) & (sweep.part == part)]
    for name, rows in chosen.groupby("method", sort=False):
        over = rows.groupby("iterations")[["left", "bound"]].agg(["mean", "std"]).fillna(0)
        method = METHODS[name]
        looks: dict[str, dict[str, Any]] = {
            "left": {"ls": "-", "label": method.label},
            "bound": {"ls": "--", "mfc": "w"},
        }
        for side, look in looks.items():
            axis.errorbar(over.index, over[side]["mean"], over[side]["std"], **look, **line(method))
    axis.set(
        xscale="log", yscale="log", xlabel="iterations T", ylabel="above the optimum, per sample"
    )
    marks = sorted(sweep.iterations.unique())
    axis.set_xticks(marks, marks)
    axis.set_xticks([], minor=True)
    axis.set_title(f"({part}) {'strongly ' * (part == 2)}convex, {norm}: bound dashed")
    said = []
    for name, rows in chosen.groupby("method", sort=False):
        means = rows.groupby("iterations")[["left", "bound"]].mean()
        left, bound = (from_to(*one.iloc[[0, -1]]) for _, one in means.items())
        said.append(f"{METHODS[name].label} {left}, its bound {bound}")
    described(axis, f"{span(marks)} iterations: {'; '.join(said)}")


def draw_all_sides(sweep: pd.DataFrame) -> Figure:
    """All problems, a panel each."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 6))
    keys = sweep[["norm", "part"]].drop_duplicates().itertuples(index=False)
    for axis, key in zip(axes.flat, keys, strict=True):
        draw_sides(axis, sweep, *key)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def draw_readings(
    axis: Axes, readings: pd.DataFrame, norm: str = "linf", method: str = "full"
) -> None:
    """A line a reading from its left side (filled) to its bound (open); crosses where it fails."""
    rows = readings[(readings.norm == norm) & (readings.method == method)].iloc[::-1]
    for y, row in enumerate(rows.itertuples()):
        colour = METHODS["gradmatch" if row.holds else "craig"].colour
        mark = "o" if row.holds else "X"
        look: dict[str, Any] = {"color": colour, "marker": mark, "markersize": 8}
        axis.plot([row.left, row.bound], [y, y], "-" if row.holds else ":", color=colour)
        axis.plot(row.left, y, **look)
        axis.plot(row.bound, y, markerfacecolor="white", **look)
    axis.set_yticks(range(len(rows)), [f"({row.part}) {row.reading}" for row in rows.itertuples()])
    axis.set(xscale="log", xlabel="per sample: left side (filled), bound (open)")
    axis.set_title(f"full gradient, {norm}; crosses: bound fails")
    said = (
        f"({row.part}) {row.reading} {brief(row.left)}, bound {brief(row.bound)}"
        f" {'holds' if row.holds else 'fails'}"
        for row in rows.itertuples()
    )
    described(axis, "; ".join(said))


def draw_errors(axis: Axes, sizes: pd.DataFrame, delta: float, floor: float) -> None:
    """What is left against the gradient error, beside the bound's second term, `delta` times the
    error, and what full gradient descent leaves, `floor`.
    """
    term = "second term of the bound"
    axis.axline((1e-2, delta * 1e-2), slope=1, color="#BBBBBB", label=term)
    iterations = sizes.iterations.iloc[0]
    axis.axhline(floor, color="black", ls=":", label=f"full gradient, T = {iterations}")
    for name, rows in sizes.groupby("method", sort=False):
        look = {"ls": "", "label": METHODS[name].label, **line(METHODS[name])}
        axis.loglog(rows.gradient_error, rows.left, **look)
    axis.set(
        xlabel="mean gradient error (weighted as in the bound)", ylabel="left side, per sample"
    )
    axis.set(title="(2) strongly convex, linf", ylim=(sizes.left.min() / 2, sizes.left.max() * 4))
    axis.tick_params(which="minor", labelbottom=False, labelleft=False)
    axis.legend(fontsize=8)


def draw_normalising(experiment: Descents) -> Figure:
    """GradMatch's gradient error, as matched and scaled to sum to 1; and its sums of weights."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3))
    for axis, norm in zip(axes, experiment.numbers.epsilon, strict=False):
        ways = {RAW: ("as matched", "gradmatch"), CONSISTENT: ("scaled to sum to 1", "craig")}
        for reading, (name, method) in ways.items():
            path = experiment.descent(norm, 2, "gradmatch", experiment.most, reading)
            axis.semilogy(path.errors.numpy(), color=METHODS[method].colour, label=name)
        axis.set(title=f"GradMatch, (2), {norm}", xlabel="iteration t", ylabel="gradient error")
        totals = experiment.descent(norm, 2, "gradmatch", experiment.most, RAW).totals
        axes[2].plot(totals.numpy(), color="black", ls="-" if norm == "linf" else "--", label=norm)
    axes[2].set(xlabel="iteration t", ylabel="sum of matched weights / n", ylim=(0, 1.1))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    sums = axes[2].get_legend_handles_labels()
    figure.legend(*sums, loc="outside lower right", ncols=2)
    return figure


def draw_theorem(
    sweep: pd.DataFrame, readings: pd.DataFrame, sizes: pd.DataFrame, delta: float, floor: float
) -> Figure:
    """All of it: both sides, the readings, and what is left against the gradient error."""
    figure, axes = plt.subplots(2, 3, figsize=(14, 7.5))
    keys = sweep[["norm", "part"]].drop_duplicates().itertuples(index=False)
    for axis, key in zip(axes[:, :2].flat, keys, strict=True):
        draw_sides(axis, sweep, *key)
    draw_readings(axes[0, 2], readings)
    draw_errors(axes[1, 2], sizes, delta, floor)
    axes[1, 2].legend(*(found[:2] for found in axes[1, 2].get_legend_handles_labels()), fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure
