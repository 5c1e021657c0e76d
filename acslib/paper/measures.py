"""What a trained network is worth: the evaluations of the paper's tables.

Of several processes each evaluates its share of the images.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from acslib import data, evaluation, models, parallel
from acslib.attacks import autoattack as auto
from acslib.attacks import lpips, perceptual, unseen
from acslib.attacks.pgd import PGD
from acslib.memory import evaluation_batch
from acslib.paper import config, threats
from acslib.paper.build import precision
from acslib.paper.config import Run
from acslib.passes import DTYPES

Masks = dict[str, torch.Tensor]  # of each measure, which images are right, (n,)


def table_c1_attacks(
    suite: dict[str, dict], distance, autoattack: tuple[str, ...], generator
) -> dict[str, Callable[..., torch.Tensor]]:
    """The attacks of Table C1 by `threats.table_c1`; LPIPS is `distance` for PPGD and LPA."""
    makers: dict[str, Callable[..., Callable[..., torch.Tensor]]] = {
        "autoattack_l2": lambda bound: auto.AutoAttack(
            "l2", bound, autoattack, generator=generator
        ),
        "autoattack_linf": lambda bound: auto.AutoAttack(
            "linf", bound, autoattack, generator=generator
        ),
        "jpeg": lambda bound, iterations: unseen.JPEG(bound, iterations, generator=generator),
        "stadv": lambda bound, iterations: unseen.StAdv(bound, iterations, generator=generator),
        "recolor": lambda bound, iterations: unseen.ReColor(bound, iterations, generator=generator),
        "ppgd": lambda bound, iterations: perceptual.PPGD(
            bound, distance, iterations=iterations, generator=generator
        ),
        "lpa": lambda bound, iterations: perceptual.LPA(
            bound, distance, iterations=iterations, generator=generator
        ),
    }
    return {name: makers[name](**entry) for name, entry in suite.items()}


def parts(run: Run) -> list[str]:
    """What a run is evaluated on, one after the other: clean images, then each attack."""
    if run.setting.norm == "lpips":
        return ["clean", *threats.table_c1(config.setting_layer(run.setting_name)["dataset"], 8)]
    return ["clean", "PGD", *["AutoAttack"] * (run.setting.autoattack_n != 0)]


def evaluate(
    run: Run,
    model,
    dataset: data.Dataset,
    seed: int,
    device: str,
    told: Callable[[str], object] = lambda part: None,
) -> tuple[dict[str, Any], Masks]:
    """Clean accuracy, and robust accuracy under the attacks that the paper evaluates the setting
    with; and which images each of them is of. `told` hears each of `parts` as it begins.
    """
    images, labels = dataset.test.float_images(), dataset.test.labels
    told("clean")
    batch = evaluation_batch(model, images)
    _, right = evaluation.clean_accuracy(model, images, labels, batch)
    generator = torch.Generator(device).manual_seed(parallel.own_seed(seed))
    measure = evaluate_perceptual if run.setting.norm == "lpips" else evaluate_pgd
    masks, counts = measure(run, model, images, labels, generator, told)
    masks = {"acc": right} | masks
    accuracies = {name: float(mask.float().mean()) for name, mask in masks.items()}
    return accuracies | {"n": len(labels)} | counts, masks


def withstood(model, images, labels, attack, batch: int, twin) -> torch.Tensor:
    """Which images stay rightly labelled under an attack, (n,): see `evaluation.robust_accuracy`.
    Each process attacks its share.
    """
    images, labels = parallel.share(images), parallel.share(labels)
    mask = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    if len(labels):  # there may be fewer images than processes
        _, mask = evaluation.robust_accuracy(model, images, labels, attack, batch, twin)
    return parallel.put_together(mask)


def first(wanted: int | None, there: int) -> int:
    """How many of the images that are there: so many, or all of them where none are given."""
    return there if wanted is None else min(wanted, there)


def evaluate_pgd(run: Run, model, images, labels, generator, told) -> tuple[Masks, dict[str, int]]:
    """PGD as in the paper on the first `evaluation_n` test images, and where that leaves some out
    PGD-20 on all; AutoAttack on the first `autoattack_n`.
    """
    setting = run.setting
    assert setting.norm != "lpips", "it has attacks of its own"
    assert setting.evaluation_step is not None, "only lpips has none, see Setting"
    pgd = partial(
        PGD, setting.norm, setting.evaluation_epsilon, setting.evaluation_step, generator=generator
    )
    fast = models.folded(model, DTYPES[precision(setting, str(images.device))])
    batch = evaluation_batch(model, images)
    masks: Masks = {}
    counts: dict[str, int] = {}
    told("PGD")
    n = first(setting.evaluation_n, len(labels))
    attack = pgd(setting.evaluation_steps, restarts=setting.evaluation_restarts)
    masks["racc"] = withstood(model, images[:n], labels[:n], attack, batch, fast)
    if n < len(labels):
        counts["evaluation_n"] = n
        masks["pgd20"] = withstood(model, images, labels, pgd(20), batch, fast)
    n = first(setting.autoattack_n, len(labels))
    if n:
        attack_all = auto.AutoAttack(
            setting.norm, setting.evaluation_epsilon, setting.autoattack, generator=generator
        )
        twin = models.folded(model)
        told("AutoAttack")
        masks["autoattack"] = withstood(model, images[:n], labels[:n], attack_all, batch, twin)
        counts["autoattack_n"] = n
    return masks, counts


def evaluate_perceptual(
    run: Run, model, images, labels, generator, told
) -> tuple[Masks, dict[str, int]]:
    """Every attack of Table C1 on the first `threats_n` test images."""
    setting, suite = run.setting, perceptual_suite(run, images.shape[-1])
    n = first(setting.threats_n, len(labels))
    distance = lpips.distance_for(setting.dataset, images.shape[-1], images.device)
    masks: Masks = {}
    twin, batch = models.folded(model), evaluation_batch(model, images)
    for name, attack in table_c1_attacks(suite, distance, setting.autoattack, generator).items():
        told(name)
        masks[f"racc_{name}"] = withstood(model, images[:n], labels[:n], attack, batch, twin)
    return masks, {"threats_n": n}


def perceptual_suite(run: Run, side: int) -> dict[str, dict]:
    """Table C1's attacks as the run has them at that side; `evaluation_epsilon` is for LPIPS."""
    suite = threats.table_c1(
        config.setting_layer(run.setting_name)["dataset"], side, run.setting.threats_effort
    )
    for name in threats.SEEN:
        suite[name]["bound"] = run.setting.evaluation_epsilon
    return suite
