"""From a run's parameters to the objects that Algorithm 1 works on, by `experiment`."""

import dataclasses
import functools
import importlib
import math
import os
from collections.abc import Callable

import torch

from acslib import data, models, objectives, selectors
from acslib.attacks import alexnet
from acslib.attacks.lpips import distance_for
from acslib.attacks.perceptual import FastLPA
from acslib.attacks.pgd import PGD
from acslib.gradients import check_gram
from acslib.paper import config
from acslib.paper.config import Run
from acslib.paper.methods import METHODS
from acslib.paper.settings import Setting
from acslib.passes import fastest_precision
from acslib.training import State, Training

Selector = Callable[..., selectors.Coreset]  # see protocols.Selector


def default_device() -> str:
    """`ACS_DEVICE`, by default CUDA where there is one."""
    return os.environ.get("ACS_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")


def checked_device(name: str | None) -> str:
    """The device by name, or ParamsError where torch has none such, or none that knows double
    precision.
    """
    name = name or default_device()
    try:
        # groups of gradients are summed in double precision
        torch.ones(1, dtype=torch.float64, device=name).item()
    except (
        Exception
    ) as error:  # each of torch's backends has its own way to say that it is not there
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
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
    return model.to(device, memory_format=layout)  # type: ignore[call-overload]


def build_optimiser(setting: Setting, model: torch.nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(), setting.lr, momentum=setting.momentum, weight_decay=setting.weight_decay
    )


# ---- objectives


def training_attack(setting, steps: int, generator: torch.Generator, device="cpu") -> FastLPA:
    """Fast-LPA of `steps` steps with the bound and the data set's distance of a `Setting`."""
    distance = distance_for(setting.dataset, setting.image_size or 224, device)
    return FastLPA(
        setting.epsilon,
        distance,
        iterations=steps,
        only_correct=setting.only_correct,
        generator=generator,
    )


def build_objective(setting: Setting, steps: int, generator: torch.Generator, device: str):
    """The objective Phi of the setting, with an inner attack of `steps` steps."""
    if setting.objective == "vanilla":
        return objectives.Vanilla()
    if setting.objective == "fast_lpa":
        return objectives.AdversarialTraining(training_attack(setting, steps, generator, device))
    assert setting.norm != "lpips", "fast_lpa alone has it, see Setting"
    assert setting.step is not None, "only fast_lpa has none, see Setting"
    attack = PGD(
        setting.norm,
        setting.epsilon,
        setting.step,
        steps,
        generator=generator,
        start=setting.trades_start,
    )
    if setting.objective == "trades":
        return objectives.Trades(attack, setting.beta, setting.trades_form)
    return objectives.AdversarialTraining(attack)


# ---- selectors, which `METHODS` names


def craig(setting: Setting, seed: int) -> Selector:
    """Algorithm 2."""
    return selectors.craig


def gradmatch(setting: Setting, seed: int) -> Selector:
    """Algorithm 3."""
    return functools.partial(selectors.gradmatch, ridge=setting.ridge, tolerance=setting.tolerance)


def random(setting: Setting, seed: int) -> Selector:
    """One random subset, kept for the run."""
    return selectors.Random(seed)


def adaptive_random(setting: Setting, seed: int) -> Selector:
    """A random subset, drawn anew at every selection."""
    return selectors.AdaptiveRandom(seed)


def selector_of(method: str) -> Callable[[Setting, int], Selector]:
    """What builds a method's selector, by its entry in `METHODS`."""
    named = METHODS[method].selector
    if not isinstance(named, str):
        assert named is not None, f"{method} selects nothing"
        return named
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)


def build_selector(run: Run, n: int, seed: int) -> Selector | None:
    """The method's selector for n samples, at the setting's granularity; None for full training."""
    setting = run.setting
    if not METHODS[run.method].selects:
        return None
    selector = selector_of(run.method)(setting, seed)
    if selectors.needs_gradients(selector):
        # numba compiles, or loads what it has compiled, before any clock runs
        selector(torch.eye(2), 1)
        selector = at_granularity(selector, run, n, seed)
    return selector if setting.weights else selectors.Unweighted(selector)


def at_granularity(selector: Selector, run: Run, n: int, seed: int) -> Selector:
    """A selector of samples applied to batches, within classes, or to all samples at once."""
    setting = run.setting
    if setting.granularity == "batch":
        regroup = setting.selection_groups == "each"
        selector = selectors.BatchWise(
            selector, setting.selection_batch_size, seed, regroup=regroup
        )
    elif setting.granularity == "class":
        selector = selectors.PerClass(selector)
    else:
        # too many inner products are better known now than at the first selection
        budget = math.ceil(setting.coreset_fraction * n)
        rows = selectors.gram_rows_held(n, budget) if run.method == "gradmatch" else n
        check_gram(rows, n)
    return selectors.BiasOnly(selector) if setting.gradient_layer == "bias" else selector


# ---- the whole


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What `fit` works on."""

    data: data.Dataset
    state: State
    training: Training


def prepare(run: Run, device: str, announce: Callable[[str], object]) -> None:
    """Fetch or train what a run needs and does not make itself: the network that LPIPS looks
    through. It stays in the cache, so that this takes long once.
    """
    setting = run.setting
    if setting.norm == "lpips":
        announce(f"LPIPS' network for {setting.dataset}: from the cache, else made now, once")
        alexnet.prepare(setting.dataset, setting.image_size or 224, device=device)


def experiment(run: Run, seed: int, device: str) -> Experiment:
    """A run, ready to be trained from its first epoch."""
    dataset = load_data(run.setting, device)
    model = build_model(run.setting, dataset, seed, device)
    state = State(model, build_optimiser(run.setting, model))
    return Experiment(dataset, state, training_of(run, dataset.train.labels, seed, device))


def training_of(run: Run, labels: torch.Tensor, seed: int, device: str) -> Training:
    setting = run.setting
    generator = torch.Generator(device)
    return Training(
        objective=build_objective(setting, setting.steps, generator, device),
        selection_objective=build_objective(setting, setting.selection_steps, generator, device),
        plan=run.plan,
        selector=build_selector(run, len(labels), seed),
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
