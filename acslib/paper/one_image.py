"""One image under attack: the attack, and the picture of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from acslib.attacks.pgd import PGD
from acslib.paper.config import Run
from acslib.paper.methods import METHODS
from acslib.paper.pictures import draw_image
from acslib.paper.seen import described, from_to
from acslib.paper.style import QUIET, literal


@dataclass(frozen=True)
class Hit:
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
) -> Hit:
    """PGD on one image (C, H, W) in [0, 1]. No step is longer than epsilon, and all of them reach
    two and a half times as far.
    """
    generator = torch.Generator(image.device).manual_seed(seed)
    step = epsilon * min(1.0, 2.5 / max(1, steps))
    pgd = PGD(norm, epsilon, step, steps, generator=generator)
    adversarial = pgd(model, image[None], torch.tensor([label], device=image.device))
    with torch.no_grad():
        before, after = model(torch.cat([image[None], adversarial])).float().softmax(1).cpu()
    return Hit(image.cpu(), adversarial[0].cpu(), label, before, after)


def draw_attack(found: Hit, names: Sequence[str]) -> Figure:
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
        f" {verb} the prediction ({said[0]}, then {said[1]}). The true class goes"
        f" {from_to(*sure)} %.",
    )


def _draw_probabilities(axis: Axes, found: Hit, names: Sequence[str], most: int = 10) -> None:
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
