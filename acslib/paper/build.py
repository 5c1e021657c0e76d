"""From a run's parameters to the objects that Algorithm 1 works on."""

import dataclasses
import math
import os
from collections.abc import Callable

import torch

from acslib import data, models, objectives, selectors
from acslib.attacks.lpips import distance_for
from acslib.attacks.perceptual import FastLPA
from acslib.attacks.pgd import PGD
from acslib.gradients import check_gram
from acslib.paper import config
from acslib.paper.config import Run
from acslib.paper.settings import Setting
from acslib.passes import fastest_precision
from acslib.training import Training


def training_attack(setting, steps: int, generator: torch.Generator, device="cpu") -> FastLPA:
    """Fast-LPA of `steps` steps with the bound and the data set's distance of a `Setting`."""
    distance = distance_for(setting.dataset, setting.image_size or 224, device, train=True)
    return FastLPA(
        setting.epsilon,
        distance,
        iterations=steps,
        only_correct=setting.only_correct,
        generator=generator,
    )


def default_device() -> str:
    """`ACS_DEVICE`, by default CUDA where there is one."""
    return os.environ.get("ACS_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")


def checked_device(name: str | None) -> str:
    """The device by name, or ParamsError where torch has none such, or none that knows double
    precision.
    """
    name = name or default_device()
    try:
        torch.ones(
            1, dtype=torch.float64, device=name
        ).item()  # groups of gradients are summed in it
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise config.ParamsError(
            f"there is no device {name!r} here ({reason}): say cpu, or nothing"
        ) from None
    return name


def precision(setting: Setting, device: str) -> str:
    """The setting's, `auto` being the device's fastest."""
    return fastest_precision(device) if setting.precision == "auto" else setting.precision


def load_data(setting: Setting, device: str) -> data.Dataset:
    return data.load(
        setting.dataset,
        device=device,
        train_limit=setting.train_limit,
        test_limit=setting.test_limit,
        validation_fraction=setting.validation_fraction,
        image_size=setting.image_size,
        classes=setting.classes,
        sample=setting.sample,
    )


def build_model(setting: Setting, dataset: data.Dataset, seed: int, device: str) -> models.ResNet:
    """The setting's network with the initial weights of `seed`."""
    torch.manual_seed(seed)
    model = models.build(
        setting.model,
        classes=len(dataset.class_names),
        channels=dataset.train.images.shape[1],
        stem=setting.stem,
        width=setting.width,
        depths=setting.depths,
        statistics=models.CHANNEL_STATISTICS[setting.dataset],
    )
    layout = (
        torch.channels_last if setting.memory_format == "channels_last" else torch.contiguous_format
    )
    return model.to(device, memory_format=layout)


def build_optimiser(setting: Setting, model: torch.nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(), setting.lr, momentum=setting.momentum, weight_decay=setting.weight_decay
    )


def build_objective(setting: Setting, steps: int, generator: torch.Generator, device: str):
    """The objective Phi of the setting, with an inner attack of `steps` steps."""
    if setting.objective == "vanilla":
        return objectives.Vanilla()
    if setting.objective == "fast_lpa":
        return objectives.AdversarialTraining(training_attack(setting, steps, generator, device))
    attack = PGD(setting.norm, setting.epsilon, setting.step, steps, generator=generator)
    if setting.objective == "trades":
        return objectives.Trades(attack, setting.beta, setting.trades_form)
    return objectives.AdversarialTraining(attack)


def build_selector(
    run: Run, labels: torch.Tensor, seed: int, generator: torch.Generator
) -> Callable | None:
    """The method as a callable (gradients, budget) -> Coreset, at the setting's granularity.

    `generator` is the training's, which is seeded afresh in every epoch.
    """
    setting = run.setting
    if run.method == "full":
        return None
    if run.method == "random":
        return BlindSelector(lambda: seed)
    if run.method == "adaptive_random":
        return BlindSelector(generator.initial_seed)
    greedy = {"craig": selectors.craig, "gradmatch": selectors.gradmatch}[run.method]
    if (
        setting.granularity == "sample"
    ):  # too many inner products are better known now than at the first selection
        n = len(labels)
        budget = math.ceil(setting.coreset_fraction * n)
        check_gram(n if run.method == "craig" else selectors.gram_rows_held(n, budget), n)
    greedy(torch.eye(2), 1)  # numba compiles, or loads what it has compiled, before any clock runs
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    groups = torch.empty_like(order)
    groups[order] = torch.arange(len(labels)) // setting.selection_batch_size

    def select(gradients, budget):
        if setting.gradient_layer == "bias":
            gradients = gradients.bias_only()
        if setting.granularity == "batch":
            return selectors.batch_wise(greedy, gradients, groups, budget)
        if setting.granularity == "class":
            return selectors.per_class(greedy, gradients, labels, budget)
        return greedy(gradients, budget)

    return select


@dataclasses.dataclass
class BlindSelector:
    """Sees no gradient, and draws samples whatever the granularity.

    `random` has one seed, `adaptive_random` that of the epoch: a resumed run draws the same.
    """

    seed: Callable[[], int]
    needs_gradients = False

    def __call__(self, samples, budget: int):
        return selectors.random(samples, budget, torch.Generator().manual_seed(self.seed()))


def training_of(run: Run, labels: torch.Tensor, seed: int, device: str) -> Training:
    setting = run.setting
    generator = torch.Generator(device)
    return Training(
        objective=build_objective(setting, setting.steps, generator, device),
        selection_objective=build_objective(setting, setting.selection_steps, generator, device),
        plan=run.plan,
        selector=build_selector(run, labels, seed, generator),
        generator=generator,
        seed=seed,
        learning_rate=setting.lr,
        lr_drops=setting.lr_drops,
        lr_factor=setting.lr_factor,
        lr_warmup=setting.lr_warmup,
        gradient_clip=setting.gradient_clip,
        batch_size=setting.batch_size,
        attack_mode=setting.attack_mode,
        precision=precision(setting, device),
        half_half=setting.half_half,
        monitor=setting.monitor,
    )
