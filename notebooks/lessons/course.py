"""What every lesson uses: the library's source shown, networks trained, pictures with sliders.

ACS_LESSONS=small in the environment makes every lesson small: fewer images, fewer epochs. The tests
use it. The numbers in the lessons' text are those of the usual size.
"""

import inspect
import os
import textwrap
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display
from ipywidgets import SelectionSlider, interactive
from matplotlib.ticker import NullLocator

import acslib
from acslib import data, models, selectors
from acslib.attacks import PGD
from acslib.data import Dataset
from acslib.evaluation import robust_accuracy
from acslib.objectives import AdversarialTraining
from acslib.paper import seen, style, tables
from acslib.paper.methods import METHODS
from acslib.schedule import full
from acslib.training import State, Training, fit

PUBLISHED = Path(acslib.__file__).parents[1] / "results" / "published"  # a checkout has it
SMALL = os.environ.get("ACS_LESSONS") == "small"
EPSILON = 0.1  # of the attacks in most lessons: a tenth of the way from black to white
LOOKS = {name: style.line(METHODS[name]) for name in METHODS}
BLUE, ORANGE, GREY = (METHODS[name].colour for name in ("gradmatch", "craig", "random"))
# networks this small gain nothing from a second thread, and threads that wait for each other on a
# busy machine lose everything: Lesson 1 took 13 s with one and 338 s with two, beside six programs
torch.set_num_threads(1)
style.use()
plt.rcParams["figure.figsize"] = (5, 3.2)


def size(usual, small):
    """`usual` for a reader, `small` for a quick test of the lesson."""
    return small if SMALL else usual


def show(*things) -> None:
    """The source of functions and classes as it stands in the library, under its place there."""
    for thing in map(inspect.unwrap, things):
        place = Path(inspect.getsourcefile(thing)).relative_to(Path(acslib.__file__).parents[1])
        line = inspect.getsourcelines(thing)[1]
        code = textwrap.dedent(inspect.getsource(thing)).rstrip()
        display(Markdown(f"`{place}`, line {line}:\n\n```python\n{code}\n```"))


def published(item: str, profile: str = "mini"):
    """A table of this repository's own results, as a pandas frame.

    Raises RecordError where acslib was installed without its checkout.
    """
    return tables.read_table(item, profile, PUBLISHED)


@cache
def digits() -> Dataset:
    """Scikit-learn's 8 x 8 digits, 1,437 to train on, 360 to test on; fewer in a small lesson."""
    return data.load("digits", train_limit=300 if SMALL else None, test_limit=60 if SMALL else None)


def unseen(count: int | None = None):
    """The first `count` test images as floats in [0, 1], (n, 1, 8, 8), and their labels."""
    part = digits().test
    return part.float_images(slice(0, count)), part.labels[:count]


def network(seed: int = 0) -> torch.nn.Module:
    """A small residual network for digits, untrained."""
    torch.manual_seed(seed)
    return models.build(
        "resnet18",
        channels=1,
        width=8,
        depths=(1, 1),
        statistics=models.CHANNEL_STATISTICS["digits"],
    )


def train(
    objective, epochs: int, *, plan=None, selector=None, seed=0, on_epoch=None, **options
) -> State:
    """Algorithm 1 on digits by the library's `fit`; all the data in every epoch without a `plan`.

    The learning rate drops tenfold after three quarters of the epochs.
    """
    model = network(seed)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    how = Training(
        objective,
        plan or full(epochs),
        torch.Generator(),
        selector=selector,
        seed=seed,
        lr_drops=(int(0.75 * epochs),),
        **{"learning_rate": 0.1, "batch_size": 64, "monitor": 0} | options,
    )
    state = fit(State(model, optimiser), digits(), how, on_epoch or (lambda state: None))
    model.eval()
    return state


def robust(model, epsilon: float = EPSILON, *, steps=20, restarts=1, count=None, seed=0) -> float:
    """Percent of test images still right under linf-PGD; clean accuracy at epsilon 0."""
    attack = PGD(
        "linf",
        epsilon,
        epsilon * max(0.25, min(1, 2.5 / steps)),
        steps,
        restarts,
        generator=torch.Generator().manual_seed(seed),
    )
    return 100 * robust_accuracy(model, *unseen(count), attack)[0]


def predicted(prediction, measured, what: str, unit: str = "") -> None:
    """What was foreseen beside what was found."""
    shown = (lambda value: f"{value:.3g}") if isinstance(measured, int | float) else str
    found = f"{what}: {shown(measured)}{unit}."
    if prediction is None:
        print(f"{found} You wrote no prediction: a guess costs nothing and makes you look twice.")
    else:
        print(f"{found} You predicted {shown(prediction)}{unit}.")


def slider(draw, label: str, values, still=None, *, width=3.1, height=2.9, **subplot) -> None:
    """`draw(axis, value)` at a few values side by side, then at any of `values` under a slider.

    What `draw` gives says in words what is seen, where the panel's own words do not.

    still: the values of the fixed pictures, for where no kernel runs; by default the first, the
    middle and the last.
    """
    values = list(values)
    still = still or [values[0], values[len(values) // 2], values[-1]]

    def one(axis, value):
        words = draw(axis, value)
        axis.set_title(f"{label} = {value}")
        if words:
            seen.described(axis, words)

    def alone(value):
        one(plt.subplots(figsize=(1.6 * width, 1.4 * height), subplot_kw=subplot)[1], value)
        plt.show()

    axes = plt.subplots(
        1, len(still), figsize=(width * len(still), height), squeeze=False, subplot_kw=subplot
    )[1]
    for axis, value in zip(axes[0], still, strict=True):
        one(axis, value)
    plt.show()
    handle = SelectionSlider(options=values, description=label, continuous_update=False)
    display(interactive(alone, value=handle))


def pictures(images, titles, *, limit=None, width=1.3) -> None:
    """Grey images (n, 1, H, W) in a row, each under its title.

    limit: shades run from -limit to limit, for changes of images; else from 0 to 1.
    """
    figure, axes = plt.subplots(
        1, len(images), figsize=(width * len(images), width + 0.4), squeeze=False
    )
    for axis, image, title in zip(axes[0], images, titles, strict=True):
        low, high, colours = (-limit, limit, "PuOr") if limit else (0, 1, "gray_r")
        axis.imshow(image[0], cmap=colours, vmin=low, vmax=high)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    if limit:  # more ink is a larger number, in the colours of the images
        shares = seen.changes_in_words(images, limit, "darker", "lighter")
        seen.described(figure, f"What the attack changes in {len(images)} images: {shares}.")
    plt.show()


def curves(x, lines: dict, xlabel: str, ylabel: str, *, log=False, title=None) -> None:
    """Lines over `x`, each with a colour and a marker; methods have the same ones everywhere."""
    spare = iter(LOOKS[name] for name in LOOKS if name not in lines)
    for name, values in lines.items():
        plt.plot(x, values, label=name, **(LOOKS[name] if name in LOOKS else next(spare)))
    if log:
        plt.loglog()
        plt.gca().yaxis.set_major_formatter("{x:g}")
        low, high = plt.ylim()
        plt.gca().yaxis.set_minor_formatter("{x:g}" if high < 20 * low else "")
    if len(x) < 9:
        plt.xticks(x, [f"{value:g}" for value in x])
        plt.gca().xaxis.set_minor_locator(NullLocator())
    plt.gca().set(xlabel=xlabel, ylabel=ylabel, title=title)
    plt.legend()
    plt.show()


def in_turn(phases) -> str:
    """The phases of epochs in words: how many of a kind come one after the other."""
    kinds = ((name, len(list(epochs))) for name, epochs in groupby(phases))
    return "epochs in turn: " + ", ".join(f"{count} {name}" for name, count in kinds)


def random_error(gradients, size: int, draws: int = 20) -> float:
    """The relative error of eq. (12), the mean over random subsets of `size` samples."""
    generator = torch.Generator().manual_seed(0)
    subsets = [selectors.random(gradients, size, generator) for _ in range(draws)]
    return sum(selectors.gradient_error(gradients, subset)[1] for subset in subsets) / draws


@cache
def real_gradients():
    """Eq. (18) for every training image, with a network trained against attacks for a while."""
    attack = PGD("linf", EPSILON, 0.04, 5, generator=torch.Generator().manual_seed(0))
    objective = AdversarialTraining(attack)
    model = train(objective, size(8, 1)).model
    return objective.gradients(model, digits().train.float_images(), digits().train.labels)


def squares(axis, images, moved, labels, epsilon: float) -> None:
    """Points of two classes, what an attacker may choose for each, and what it did choose."""
    for label, colour, marker in ((1, BLUE, "o"), (-1, ORANGE, "s")):
        axis.plot(*images[labels == label].T, marker, color=colour)
        axis.plot(*moved[labels == label].T, marker, color=colour, markersize=3, fillstyle="none")
        for x, y in images[labels == label] - epsilon:
            axis.add_patch(plt.Rectangle((x, y), 2 * epsilon, 2 * epsilon, fill=False, ec=colour))
    axis.set(xlim=(-2.2, 2.2), ylim=(-1.8, 1.8), aspect="equal")


def joined(axis, points, chosen, served_by) -> None:
    """Points (n, 2) in grey, each with a line to the chosen one that serves it.

    served_by: which of `chosen` that is, (n,).
    """
    for i, column in enumerate(served_by.tolist()):
        axis.plot(*points[[i, chosen[column]]].T, color=GREY, linewidth=0.8)
    axis.plot(*points.T, "o", color=GREY, markersize=4)


def envelope(axis, x, lines) -> None:
    """Curves (len(x), m) in grey, and the largest of them everywhere in black."""
    for values, dashes in zip(lines.T, ("-", "--", "-.", ":"), strict=True):
        axis.plot(x, values, dashes, color=GREY, linewidth=1)
    axis.plot(x, lines.amax(1), color="black")
    axis.set(xlabel="t, along a line of θ", ylim=(0, 3))


def tangent(axis, t: float, height: float, slope: float) -> str:
    """A point of a curve and its tangent, in blue; gives what is seen then on an `envelope`."""
    axis.plot(t, height, "o", color=BLUE)
    axis.axline((t, height), slope=slope, color=BLUE)
    return (
        f"four curves in grey and the largest of them everywhere in black; on it, at t = {t:g}, a"
        f" blue point {height:.2f} high, and its tangent with the slope {slope:.2f}"
    )


def with_interval(axis, place: float, values, low: float, high: float, colour: str) -> str:
    """Values as circles, their mean and an interval beside them; gives that in words."""
    axis.plot([place] * len(values), values, "o", color=colour, fillstyle="none")
    axis.plot([place + 0.2] * 2, [low, high], color=colour, linewidth=3)
    axis.plot(place + 0.2, values.mean(), "D", color=colour)
    return (
        f"{len(values)} circles {seen.span(values)}, mean {seen.brief(values.mean())},"
        f" interval {seen.from_to(low, high)}"
    )


def arrows(axis, gradients, chosen=(), weights=()) -> None:
    """Gradients in space, their sum in black, and the chosen ones at their weights, end to end."""
    target, tips = gradients.sum(0), [torch.zeros(3).double()]
    for j, weight in zip(chosen, weights, strict=True):
        tips.append(tips[-1] + weight * gradients[j])
    for gradient in gradients:
        axis.quiver(0, 0, 0, *gradient, color=GREY, linewidth=0.8, arrow_length_ratio=0.1)
    axis.quiver(0, 0, 0, *target, color="black", linewidth=2, arrow_length_ratio=0.06)
    for start, end in pairwise(tips):
        axis.quiver(*start, *(end - start), color=BLUE, arrow_length_ratio=0.06)
    if len(chosen):
        axis.plot(*torch.stack([tips[-1], target]).T, ":", color=ORANGE, linewidth=2.5)
    axis.set(xlim=(-1, 6), ylim=(-2.5, 2.5), zlim=(-1.2, 3.5), xticks=[], yticks=[], zticks=[])
    axis.set_box_aspect((7, 5, 4.7), zoom=1.2)
    axis.view_init(20, -50)
    seen.described(axis, arrows_in_words(gradients, chosen, weights, tips[-1]))


def arrows_in_words(gradients, chosen, weights, tip) -> str:
    """What `arrows` shows; tip: where the chosen ones end, (3,)."""
    target = gradients.sum(0)
    where = ", ".join(f"{value:.1f}" for value in target.tolist())
    words = [f"{len(gradients)} grey arrows from one point, and their sum in black to ({where})"]
    if len(chosen):
        walk = ", ".join(f"{w:.1f} times sample {j}" for j, w in zip(chosen, weights, strict=True))
        words += [f"end to end in blue {walk}", f"{float((target - tip).norm()):.2f} are missing"]
    return "; ".join(words)
