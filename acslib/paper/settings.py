"""A setting: one column of Tables C2 and C3, every parameter with its meaning, unit and limits.

A new parameter is one line in `Setting` and its value under `defaults` in params/settings.yaml.
What it belongs to is said on its line, by `parameter(..., of=...)`.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

from acslib import schedule as schedules
from acslib.paper.plugins import Registry
from acslib.paper.values import (
    BelowOne,
    Blocks,
    Channels,
    Count,
    CountOrNone,
    Decay,
    Degrees,
    Draws,
    Epochs,
    Factor,
    Flag,
    Name,
    Names,
    NotNegative,
    Part,
    Pixels,
    Positive,
    Rate,
    Share,
    Steps,
    distinct,
)

# ---- what one's own files may add to, see acslib/paper/register.py; None is built in

Builder = Callable[..., Any] | None
MODELS: Registry[Builder] = Registry(
    "model", dict.fromkeys(("resnet18", "resnet34", "resnet50", "wideresnet28_10"))
)
DATASETS: Registry[Builder] = Registry(
    "data set", dict.fromkeys(("digits", "cifar10", "svhn", "imagenet12", "imagenet100"))
)
OBJECTIVES: Registry[Builder] = Registry(
    "objective", dict.fromkeys(("vanilla", "adversarial", "trades", "fast_lpa"))
)
REGISTRIES = {"model": MODELS, "dataset": DATASETS, "objective": OBJECTIVES}


def known_to(registry: Registry) -> AfterValidator:
    """Refuses what is no name of a registry, of which one's own are."""

    def known(name: str) -> str:
        if name not in registry:
            *names, last = map(repr, registry)
            raise ValueError(
                f"should be {', '.join(names)} or {last}; ACS_PLUGINS names files that register"
                " others"
            )
        return name

    return AfterValidator(known)


MOST_BLOCKS = 1000  # twice as many as the deepest ResNet that was ever published
MOST_WEIGHTS = 10**9  # the paper's largest network has 36 million
LEAST_DEPTHS, LEAST_WIDTH = (2, 2, 2), 64  # of the paper's own architectures

ModelName = Annotated[Name, known_to(MODELS)]
DatasetName = Annotated[Name, known_to(DATASETS)]
ObjectiveName = Annotated[Name, known_to(OBJECTIVES)]

# ---- what a parameter belongs to

Owner = Literal["training", "coreset", "evaluation"]


def parameter(description: str, of: Owner = "training", **since: Any) -> Any:
    """A parameter of `Setting`, with what it means, in which unit, and what it belongs to.

    of: "coreset" where full training knows nothing of it, "evaluation" where training does not.
    neutral: for a parameter that came later, the value at which runs are what they were before; a
    record made before stays valid at that value. only: the one objective that looks at the
    parameter; `unused` stands for its value in the identity of a run with another one.
    """
    return Field(description=description, json_schema_extra={"of": of, **since})


class Setting(BaseModel):
    """One column of Tables C2/C3 as it is run: all that determines training and evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # what is trained, on what
    table: Literal["C2", "C3"] | None = parameter(
        "The paper's table that prints this setting; null for a setting of one's own."
    )
    model: ModelName = parameter("The network's architecture.")
    width: Channels | None = parameter(
        "Channels of the first stage; null is the architecture's own."
    )
    depths: Annotated[tuple[Blocks, ...], Field(min_length=1)] | None = parameter(
        "Blocks in each stage; null is the architecture's own."
    )
    stem: Literal["cifar", "half", "imagenet"] = parameter(
        "The first layers: cifar keeps the images' side, half halves it, imagenet divides it by 4."
    )
    dataset: DatasetName = parameter("The data set.")
    image_size: Pixels | None = parameter(
        "Side of the images in pixels, for image folders; null is the data set's own."
    )
    train_limit: Count | None = parameter("At most so many training images; null is all.")
    test_limit: Count | None = parameter("At most so many test images; null is all.")
    draw_images: Literal["fixed", "each"] = parameter(
        "Which images the limits keep and are held out: fixed for all seeds, or drawn by each.",
        neutral="fixed",
    )
    classes: Annotated[Names, Field(min_length=1)] | None = parameter(
        "WordNet ids of the classes, for image folders; null is all that there are.", neutral=None
    )
    sample: Flag = parameter(
        "Whether a part of the data set, or a stand-in, may be taken where the whole is not at"
        " hand. What was taken is in the record.",
        of="evaluation",
        neutral=False,
    )
    validation_fraction: BelowOne = parameter("Share of the training images that is held out.")

    augmentation: Literal["crop", "resized_crop"] = parameter(
        "How training images are varied: crop shifts them by a few pixels, resized_crop stretches a"
        " random part, for image folders.",
        neutral="crop",
    )
    color_jitter: Share = parameter(
        "By which share brightness, contrast and saturation of training images vary; 0 for not at"
        " all.",
        neutral=0.0,
    )
    rotation: Degrees = parameter(
        "By how many degrees, either way, training images may be turned; 0 for not at all.",
        neutral=0.0,
    )

    # the objective and its attack
    objective: ObjectiveName = parameter(
        "The training objective: eq. (2), (3), (4), or (3) with Fast-LPA."
    )
    norm: Literal["linf", "l2", "lpips"] = parameter("The distance that bounds the attack.")
    epsilon: NotNegative = parameter(
        "The attack's bound in training, for pixels in [0, 1]; for lpips in units of LPIPS."
    )
    step: NotNegative | None = parameter(
        "The attack's step in training, in units of epsilon; null for lpips, which has its own."
    )
    steps: Steps = parameter("The attack's steps in training.")
    attack: Literal["pgd", "nfgsm"] = parameter(
        "Training's attack under linf: PGD, or N-FGSM, whose single step has the size epsilon.",
        neutral="pgd",
    )
    selection_steps: Steps = parameter(
        "The attack's steps when gradients are computed to select by.", of="coreset"
    )
    beta: NotNegative = parameter(
        "1 / lambda of eq. (4); the paper prints none, TRADES has 6.", only="trades", unused=6.0
    )
    trades_form: Literal["ce", "kl"] = parameter(
        "TRADES' second term: kl is the divergence of TRADES' own code, ce eq. (4), which ends in a"
        " constant prediction.",
        only="trades",
        unused="ce",  # the default before version 0.2.0
    )
    trades_start: Literal["uniform", "normal"] = parameter(
        "Where TRADES' attack begins: uniform in the ball, or TRADES' own code's 0.001 N(0, 1).",
        neutral="uniform",
    )
    attack_mode: Literal["train", "eval"] = parameter(
        "BatchNorm's mode while the attack runs in training."
    )
    only_correct: Flag = parameter(
        "Fast-LPA attacks only images that the network gets right, as the authors' code does.",
        neutral=False,
    )

    # optimisation
    lr: Rate = parameter("The initial learning rate.")
    lr_drops: tuple[Count, ...] = parameter("Epochs at which the rate is multiplied.")
    lr_factor: Part = parameter("What the rate is multiplied by.")
    lr_warmup: Steps = parameter("Epochs of rising rate at the start; 0 for none.", neutral=0)
    gradient_clip: Positive | None = parameter(
        "Largest entry of a weight's gradient; null for no limit.", neutral=None
    )
    momentum: BelowOne = parameter("SGD's momentum.")
    weight_decay: Decay = parameter("SGD's weight decay.")
    batch_size: Annotated[Count, Field(ge=2)] = parameter("Images in a training batch.")
    epochs: Epochs = parameter("Epochs, E; skipped ones count.")

    # coresets
    coreset_fraction: Part = parameter(
        "Share of the training images in a coreset, k.", of="coreset"
    )
    warm_start: Share = parameter("The warm start's kappa, as a share of the epochs.", of="coreset")
    period: Count = parameter("Epochs between selections, T.", of="coreset")
    schedule: schedules.ScheduleName = parameter(
        "How Algorithm 1's warm start is read, see acslib/schedule.py.", of="coreset"
    )
    granularity: Literal["batch", "class", "sample"] = parameter(
        "What is selected: batches, samples class by class, or samples.", of="coreset"
    )
    selection_batch_size: Count = parameter("Images in a batch that is selected.", of="coreset")
    selection_groups: Literal["fixed", "each"] = parameter(
        "Batches to select from: fixed for the run, or drawn anew at each selection, which"
        " Algorithm 1's line 8 may be read as.",
        of="coreset",
        neutral="fixed",
    )
    gradient_layer: Literal["full", "bias"] = parameter(
        "Gradients to select by: of the whole last layer, or of its bias alone.", of="coreset"
    )
    ridge: NotNegative = parameter(
        "Algorithm 3's lambda, in units of a squared gradient; the paper prints none. It spreads"
        " the weights over more samples, at the cost of gradient error.",
        of="coreset",
        neutral=0.0,
    )
    tolerance: BelowOne = parameter(
        "Algorithm 3's epsilon, as a share of the total gradient; the paper prints none.",
        of="coreset",
        neutral=1e-6,
    )
    selection_epsilon: BelowOne = parameter(
        "What a step of CRAIG or GradMatch may miss by looking at a random n / k * log(1 / epsilon)"
        " of the n candidates alone; 0 looks at all.",
        of="coreset",
        neutral=0.0,
    )
    selection_draw: Draws = parameter(
        "Which of a seed's independent draws selections and their groups take; 0 is the first.",
        of="coreset",
        neutral=0,
    )
    weights: Flag = parameter(
        "Train with the coreset's weights; false gives every sample the same.",
        of="coreset",
        neutral=True,
    )
    half_half: Flag = parameter(
        "Train on clean images beside the coreset's adversarial ones, Table 5.", of="coreset"
    )
    epoch_factor: Factor = parameter("Multiplies every epoch-related number; Table 3 has 0.5.")
    period_factor: Factor = parameter("Multiplies the period after that, Table 6.", of="coreset")

    # how it is computed
    micro_batch: Count | None = parameter(
        "Images that are attacked and differentiated at once, to bound the memory: BatchNorm sees"
        " each part by itself; null for whole batches.",
        neutral=None,
    )
    precision: Literal["float32", "tf32", "bfloat16", "auto"] = parameter(
        "Numbers that networks compute in: tf32 is float32 with products rounded as GPUs can; auto"
        " is bfloat16 where the device multiplies it, else float32."
    )
    deterministic: Flag = parameter(
        "Train on a GPU only by algorithms that give the same bits twice; a CPU always does.",
        neutral=False,
    )
    memory_format: Literal["contiguous", "channels_last"] = parameter("Images' layout in memory.")

    # what is measured
    evaluation_epsilon: NotNegative = parameter(
        "The attack's bound in evaluation, as epsilon.", of="evaluation"
    )
    evaluation_step: NotNegative | None = parameter(
        "PGD's step in evaluation, in units of epsilon; null for lpips.", of="evaluation"
    )
    evaluation_steps: Annotated[Steps, Field(ge=1)] = parameter(
        "PGD's steps in evaluation.", of="evaluation"
    )
    evaluation_restarts: Annotated[Steps, Field(ge=1)] = parameter(
        "PGD's random restarts in evaluation.", of="evaluation"
    )
    evaluation_n: Count | None = parameter(
        "Test images that this PGD runs on, the first so many; null for all. Where it leaves some"
        " out, PGD of 20 steps without restarts runs on all.",
        of="evaluation",
        neutral=None,
    )
    autoattack: Annotated[
        tuple[Literal["apgd-ce", "apgd-t", "fab-t", "square"], ...], AfterValidator(distinct)
    ] = parameter("AutoAttack's parts.", of="evaluation")
    autoattack_n: CountOrNone | None = parameter(
        "Test images that AutoAttack runs on, the first so many; 0 for none, null for all.",
        of="evaluation",
    )
    threats_n: Count | None = parameter(
        "Test images that each attack of Table C1 runs on, the first so many; null for all.",
        of="evaluation",
    )
    threats_effort: Part = parameter(
        "Multiplies the iterations of Table C1's attacks.", of="evaluation"
    )
    monitor: CountOrNone = parameter("Images whose accuracy is logged every epoch; 0 for none.")

    @model_validator(mode="after")
    def consistent(self):
        for name in ("step", "evaluation_step"):
            if self.norm != "lpips" and getattr(self, name) is None:
                raise ValueError(
                    f"{name} is missing: an attack under {self.norm} needs one, like 2/255"
                )
        if not self.autoattack and (self.autoattack_n != 0 or self.norm == "lpips"):
            raise ValueError(
                "autoattack is empty: name its attacks, like [apgd-ce, apgd-t], or set"
                " autoattack_n to 0"
            )
        for name in ("epsilon", "evaluation_epsilon"):
            if self.norm == "linf" and getattr(self, name) > 1:
                raise ValueError(
                    f"{name} is {getattr(self, name):g}, pixels span 0 to 1: write it like 8/255"
                )
        own = OBJECTIVES.get(self.objective) is not None  # which is given either attack
        if not own and (self.norm == "lpips") != (self.objective == "fast_lpa"):
            raise ValueError(
                f"objective {self.objective} does not go with norm {self.norm}: lpips is for"
                " fast_lpa"
            )
        if self.memory_format == "channels_last" and self.width is not None and self.width < 8:
            # the gradient of a 1x1 convolution with stride 2 writes outside its memory there, torch
            # 2.13 on AVX2
            raise ValueError(
                f"width is {self.width} in memory_format channels_last, in which torch may crash"
                " below 8 channels: take contiguous, or 8 or more"
            )
        self._check_size()
        if self.only_correct and self.objective != "fast_lpa":
            raise ValueError(
                f"only_correct is true with objective {self.objective}: it is for fast_lpa"
            )
        if self.attack == "nfgsm" and self.norm != "linf":
            raise ValueError(f"attack is nfgsm under norm {self.norm}: it is for linf")
        if self.trades_start != "uniform" and self.objective != "trades":
            raise ValueError(
                f"trades_start is {self.trades_start} with objective {self.objective}: it is for"
                " trades"
            )
        return self

    def _check_size(self) -> None:
        depths, width = self.depths or (), self.width or 1
        if MODELS[self.model] is None:  # one of ours, so that null is known
            depths, width = self.depths or LEAST_DEPTHS, self.width or LEAST_WIDTH
        if sum(depths) > MOST_BLOCKS:
            raise ValueError(
                f"depths has {sum(depths)} blocks in all: take at most {MOST_BLOCKS}, or null"
            )
        # a block of a stage with c channels has some 17 c^2 weights, and each stage doubles c
        weights = sum(depth * 17 * (width * 2**stage) ** 2 for stage, depth in enumerate(depths))
        if weights > MOST_WEIGHTS:
            asked = f"width {self.width or 'null'} and depths {list(self.depths or ()) or 'null'}"
            raise ValueError(
                f"{asked} make a network of at least {weights:.1e} weights: take fewer, at most"
                f" {MOST_WEIGHTS:.0e} can be trained"
            )

    def scaled(self) -> "Setting":
        """Apply `epoch_factor` and `period_factor` to every epoch-related number, once.

        What this gives may be out of range; whoever resolves a run checks it again.
        """
        factor = self.epoch_factor
        changes = {
            "epochs": max(1, math.floor(self.epochs * factor + 0.5)),
            "lr_drops": tuple(max(1, math.floor(drop * factor)) for drop in self.lr_drops),
            "lr_warmup": math.floor(self.lr_warmup * factor),
            "period": max(1, math.floor(self.period * factor * self.period_factor + 0.5)),
            "epoch_factor": 1.0,
            "period_factor": 1.0,
        }
        return self.model_copy(update=changes)

    def plan(self, method: str) -> schedules.Plan:
        if method == "full":
            return schedules.full(self.epochs)
        return schedules.plan(
            self.epochs, self.coreset_fraction, self.warm_start, self.period, self.schedule
        )


# ---- questions about parameters


def _mark(name: str) -> dict[str, Any]:
    extra = Setting.model_fields[name].json_schema_extra
    assert isinstance(extra, dict), f"{name} is not made by `parameter`"
    return extra


def owner(name: str) -> Owner:
    """What a parameter belongs to."""
    return _mark(name)["of"]


def is_neutral(name: str, value: Any) -> bool:
    """Whether a run with this value (as JSON has it) is what it was before there was the parameter.

    False for the parameters that were always there.
    """
    mark = _mark(name)
    return "neutral" in mark and value == mark["neutral"]


def unused(setting: Setting) -> dict[str, Any]:
    """The parameters that nothing looks at in a setting, with what stands for them in the identity
    of a run: their value makes no other run. One's own objectives may look at all of training's.
    """
    found: dict[str, Any] = {}
    limit, n = setting.test_limit, setting.evaluation_n
    if setting.norm == "lpips" or (limit is not None and n is not None and limit <= n):
        found["evaluation_n"] = None  # there are no more images than that
    if OBJECTIVES[setting.objective] is not None:
        return found
    marks = {name: _mark(name) for name in Setting.model_fields}
    return found | {
        name: mark["unused"]
        for name, mark in marks.items()
        if "only" in mark and mark["only"] != setting.objective
    }


def choices(name: str) -> tuple[str, ...]:
    """The words that a parameter may be."""
    if name in REGISTRIES:
        return tuple(REGISTRIES[name])
    return get_args(Setting.model_fields[name].annotation)


if TYPE_CHECKING:
    Layer = BaseModel
else:
    Layer = create_model(
        "Layer",
        __doc__="Some of a setting's parameters, each as in `Setting`: `given()` has them.",
        __config__=ConfigDict(extra="forbid", frozen=True),
        **{
            name: (
                Annotated[field.annotation, *field.metadata, Field(description=field.description)],
                None,
            )
            for name, field in Setting.model_fields.items()
        },
    )


def given(layer: BaseModel | None) -> dict[str, Any]:
    """The parameters that a layer names."""
    return {} if layer is None else layer.model_dump(exclude_unset=True)
