"""From a run's parameters to the objects that Algorithm 1 works on, by `experiment`."""

import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Sequence
from inspect import unwrap
from typing import Any

import torch

from acslib import data, models, objectives, selectors
from acslib.attacks import lpips
from acslib.attacks.perceptual import FastLPA
from acslib.attacks.pgd import NFGSM, PGD
from acslib.paper import params, selecting
from acslib.paper.config import Run
from acslib.paper.settings import DATASETS, MODELS, OBJECTIVES, Setting
from acslib.passes import fastest_precision
from acslib.protocols import Model, head_of
from acslib.schedule import coreset_size
from acslib.training import State, Training

# what asks nothing of a data set, where it is not null
WITHOUT = {
    "validation_fraction": "validation_fraction to 0",
    "augmentation": "augmentation to crop",
    "seed": "draw_images to fixed",
}


def default_device() -> str:
    """`ACS_DEVICE`, by default CUDA where there is one."""
    return os.environ.get("ACS_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")


def checked_device(name: str | None) -> str:
    """The device by name, or ParamsError where torch has none such with double precision."""
    name = name or default_device()
    try:
        # groups of gradients are summed in double precision
        torch.ones(1, dtype=torch.float64, device=name).item()
    except Exception as error:  # each backend has its own way to say that it is not there
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise params.ParamsError(
            f"there is no device {name!r} here ({reason}): say cpu, or nothing"
        ) from None
    return name


def precision(setting: Setting, device: str) -> str:
    """The setting's, `auto` being the device's fastest."""
    return fastest_precision(device) if setting.precision == "auto" else setting.precision


def load_data(setting: Setting, device: str, seed: int = 0) -> data.Dataset:
    """The setting's data set; `seed` matters where images are drawn by each seed."""
    own = DATASETS[setting.dataset]
    asked: dict[str, Any] = {
        "train_limit": setting.train_limit,
        "test_limit": setting.test_limit,
        "validation_fraction": setting.validation_fraction,
        "image_size": setting.image_size,
        "classes": setting.classes,
    }
    if setting.augmentation != "crop":  # which is whatever a data set of one's own does
        asked["augmentation"] = setting.augmentation
    if setting.draw_images == "each":
        asked["seed"] = seed
    if own is not None:
        return with_augmentation(load_own(setting.dataset, own, asked, device), setting)
    dataset = data.load(setting.dataset, device=device, sample=setting.sample, **asked)
    return with_augmentation(dataset, setting)


def with_augmentation(dataset: data.Dataset, setting: Setting) -> data.Dataset:
    """A data set with the setting's variation of colours and angles; 0 leaves it as it is."""
    asked: dict[str, Any] = {"color_jitter": setting.color_jitter, "rotation": setting.rotation}
    changes = {name: value for name, value in asked.items() if value}
    return dataclasses.replace(dataset, **changes) if changes else dataset


def load_own(
    name: str, load: Callable[..., Any], asked: dict[str, Any], device: str
) -> data.Dataset:
    """A registered data set, with as many of the things asked for as its function has parameters.

    Raises ParamsError where a setting asks for something that it has no parameter for.
    """
    known = inspect.signature(load).parameters
    all_known = any(one.kind is one.VAR_KEYWORD for one in known.values())
    given = {}
    for key, value in ({"device": device} | asked).items():
        if key in known or all_known:
            given[key] = value
        elif key == "seed" or (key != "device" and value):
            raise params.ParamsError(
                f"{key} is {value}, and the data set {name!r} has none: give its function a"
                f" parameter {key}, or set {WITHOUT.get(key, f'{key} to null')}"
            )
    dataset = load(**given)
    if not isinstance(dataset, data.Dataset):
        raise params.ParamsError(
            f"the data set {name!r} is a {type(dataset).__name__}: its function must return an"
            " acslib.data.Dataset, as data.from_folder and data.from_arrays do"
        )
    splits = {split: getattr(dataset, split) for split in ("train", "validation", "test")}
    moved = {split: images.to(device) for split, images in splits.items() if images is not None}
    return dataclasses.replace(dataset, **moved)


def build_model(setting: Setting, dataset: data.Dataset, seed: int, device: str) -> torch.nn.Module:
    """The setting's network with the initial weights of `seed`."""
    torch.manual_seed(seed)
    own = MODELS[setting.model]
    model = own_model(setting, own, dataset) if own else paper_model(setting, dataset)
    layout = (
        torch.channels_last if setting.memory_format == "channels_last" else torch.contiguous_format
    )
    return model.to(device, memory_format=layout)  # type: ignore[call-overload]


def paper_model(setting: Setting, dataset: data.Dataset) -> models.ResNet:
    """A network of the paper's, untrained, with the data's classes, channels and statistics."""
    return models.build(
        setting.model,
        classes=len(dataset.class_names),
        channels=dataset.train.images.shape[1],
        stem=setting.stem,
        width=setting.width,
        depths=setting.depths,
        statistics=statistics(setting, dataset),
    )


def own_model(
    setting: Setting, build: Callable[..., Any], dataset: data.Dataset
) -> torch.nn.Module:
    """A registered network; adapted, with the data's statistics, unless it is a `Model` already."""
    net = build(setting, dataset)
    if not isinstance(net, torch.nn.Module):
        raise params.ParamsError(
            f"the model {setting.model!r} is a {type(net).__name__}: its function must return an"
            " nn.Module"
        )
    return net if isinstance(net, Model) else models.adapt(net, None, *statistics(setting, dataset))


def statistics(setting: Setting, dataset: data.Dataset) -> tuple[Sequence[float], Sequence[float]]:
    """Channels' means and standard deviations: the usual ones, else the training images' own."""
    usual = models.CHANNEL_STATISTICS.get(setting.dataset)
    return usual or channel_statistics(dataset.train.images)


def channel_statistics(images: torch.Tensor) -> tuple[list[float], list[float]]:
    """Exact, from the number of pixels of each of the 256 values; a constant channel has std 1."""
    means, deviations = [], []
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel in images.unbind(1):
        share = channel.flatten().bincount(minlength=256).cpu().double() / channel.numel()
        mean = float(share @ values)
        means.append(mean)
        deviations.append(math.sqrt(float(share @ (values - mean) ** 2)) or 1.0)
    return means, deviations


class SGD(torch.optim.SGD):
    """torch's SGD, with its methods as they are before they are wrapped for torch's compiler. Each
    of the wrappers loads the compiler, which takes a second, and a run compiles nothing.
    """

    add_param_group = unwrap(torch.optim.SGD.add_param_group)
    load_state_dict = unwrap(torch.optim.SGD.load_state_dict)
    state_dict = unwrap(torch.optim.SGD.state_dict)
    zero_grad = unwrap(torch.optim.SGD.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


def build_optimiser(setting: Setting, model: torch.nn.Module) -> torch.optim.SGD:
    """SGD as the setting has it."""
    return SGD(
        model.parameters(), setting.lr, momentum=setting.momentum, weight_decay=setting.weight_decay
    )


# ---- objectives


def training_attack(setting, steps: int, generator: torch.Generator, device="cpu") -> FastLPA:
    """Fast-LPA of `steps` steps with the bound and the data set's distance of a `Setting`."""
    distance = lpips.distance_for(setting.dataset, setting.image_size or 224, device)
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
    attack = inner_attack(setting, steps, generator, device)
    own = OBJECTIVES[setting.objective]
    if own is not None:
        return own(setting, attack)
    if setting.objective == "trades":
        return objectives.Trades(attack, setting.beta, setting.trades_form)
    return objectives.AdversarialTraining(attack)


def inner_attack(setting: Setting, steps: int, generator: torch.Generator, device: str):
    """What training attacks with: Fast-LPA where the norm is lpips, else PGD or N-FGSM."""
    if setting.norm == "lpips":
        return training_attack(setting, steps, generator, device)
    if setting.attack == "nfgsm":
        return NFGSM(setting.epsilon, generator=generator)
    assert setting.step is not None, "only lpips has none, see Setting"
    return PGD(
        setting.norm,
        setting.epsilon,
        setting.step,
        steps,
        generator=generator,
        start=setting.trades_start,
    )


# ---- the whole


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What `fit` works on."""

    data: data.Dataset
    state: State
    training: Training


def prepare_lpips(run: Run, device: str, announce: Callable[[str], object]) -> None:
    """Fetch or train what a run needs and does not make itself: the network that LPIPS looks
    through. It stays in the cache, so that this takes long once.
    """
    setting = run.setting
    if setting.norm == "lpips":
        announce(f"LPIPS' network for {setting.dataset}: from the cache, else made now, once")
        lpips.prepare(setting.dataset, setting.image_size or 224, device=device)


def experiment(run: Run, seed: int, device: str) -> Experiment:
    """A run, ready to be trained from its first epoch."""
    dataset = load_data(run.setting, device, seed)
    model = build_model(run.setting, dataset, seed, device)
    state = State(model, build_optimiser(run.setting, model))
    return Experiment(dataset, state, training_of(run, seed, device))


def beyond_rank(run: Run, made: Experiment) -> str:
    """In a line, that GradMatch is asked for more than it can weight; else nothing.

    More samples or groups than the rank of their gradients are not independent. With a ridge all
    of them may have a weight.
    """
    setting = run.setting
    if run.method != "gradmatch" or setting.ridge:
        return ""
    head = head_of(made.state.model)
    width = 0 if setting.gradient_layer == "bias" else head.in_features
    rank, n = selectors.rank_limit(head.out_features, width), len(made.data.train)
    kind, parts = "samples", 1
    if setting.granularity == "batch":
        kind, n = "batches", math.ceil(n / setting.selection_batch_size)
    elif setting.granularity == "class":
        kind, parts = "samples of a class", head.out_features
    budget = coreset_size(setting.coreset_fraction, n) // parts
    if budget <= rank:
        return ""
    return (
        f"GradMatch is asked for {budget:,} {kind} and can weight {rank:,}, the rank of the last"
        " layer's gradients: it ends earlier, with an error near 0; a ridge spreads the weights"
    )


def training_of(run: Run, seed: int, device: str) -> Training:
    """How a run trains."""
    setting = run.setting
    generator = torch.Generator(device)
    return Training(
        objective=build_objective(setting, setting.steps, generator, device),
        selection_objective=build_objective(setting, setting.selection_steps, generator, device),
        plan=run.plan,
        selector=selecting.build_selector(run, seed),
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
        deterministic=setting.deterministic,
        micro_batch=setting.micro_batch,
    )
