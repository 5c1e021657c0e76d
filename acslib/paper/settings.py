"""A setting: one column of Tables C2 and C3, every parameter with its type and limits."""

import math
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from acslib import schedule


def number(value: Any) -> Any:
    """Accept 8/255 and 1e-3, which YAML 1.1 hands on as text; refuse booleans, which Python counts
    as numbers.
    """
    if isinstance(value, bool):
        raise ValueError("is a truth value, a number is needed")
    if isinstance(value, str):
        over, _, under = value.partition("/")
        try:
            return float(Fraction(over.strip()) / Fraction(under.strip() or 1))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise ValueError("is not a number: write it like 0.1, 1e-3 or 8/255") from None
    return value


def flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


Real = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Part = Annotated[Real, Field(gt=0, le=1)]
Share = Annotated[Real, Field(ge=0, le=1)]
Count = Annotated[int, BeforeValidator(number), Field(ge=1)]
CountOrNone = Annotated[int, BeforeValidator(number), Field(ge=0)]
Flag = Annotated[bool, BeforeValidator(flag)]


class Setting(BaseModel):
    """One column of Tables C2/C3 as it is run: every number that determines a training and its
    evaluation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: Literal["C2", "C3"]
    model: Literal["resnet18", "resnet34", "resnet50", "wideresnet28_10"]
    width: Count | None
    depths: tuple[Count, ...] | None
    stem: Literal["cifar", "half", "imagenet"]
    dataset: Literal["digits", "cifar10", "svhn", "imagenet12", "imagenet100"]
    image_size: Count | None
    train_limit: Count | None
    test_limit: Count | None
    classes: tuple[str, ...] | None
    sample: Flag
    validation_fraction: Annotated[Real, Field(ge=0, lt=1)]
    objective: Literal["vanilla", "adversarial", "trades", "fast_lpa"]
    norm: Literal["linf", "l2", "lpips"]
    epsilon: NotNegative
    step: NotNegative | None
    steps: CountOrNone
    selection_steps: CountOrNone
    beta: NotNegative
    trades_form: Literal["ce", "kl"]
    attack_mode: Literal["train", "eval"]
    only_correct: Flag
    lr: Positive
    lr_drops: tuple[Count, ...]
    lr_factor: Part
    lr_warmup: CountOrNone
    gradient_clip: Positive | None
    momentum: Annotated[Real, Field(ge=0, lt=1)]
    weight_decay: NotNegative
    batch_size: Annotated[Count, Field(ge=2)]
    epochs: Count
    coreset_fraction: Part
    warm_start: Share
    period: Count
    schedule: Literal["three_phase", "literal", "no_skip"]
    granularity: Literal["batch", "class", "sample"]
    selection_batch_size: Count
    gradient_layer: Literal["full", "bias"]
    half_half: Flag
    epoch_factor: Positive
    period_factor: Positive
    precision: Literal["float32", "bfloat16", "auto"]
    memory_format: Literal["contiguous", "channels_last"]
    evaluation_epsilon: NotNegative
    evaluation_step: NotNegative | None
    evaluation_steps: Count
    evaluation_restarts: Count
    autoattack: tuple[Literal["apgd-ce", "apgd-t", "fab-t", "square"], ...]
    autoattack_n: CountOrNone
    threats_n: CountOrNone
    threats_effort: Part
    monitor: CountOrNone

    @model_validator(mode="after")
    def consistent(self):
        for name in ("step", "evaluation_step"):
            if self.norm != "lpips" and getattr(self, name) is None:
                raise ValueError(
                    f"{name} is missing: an attack under {self.norm} needs one, like 2/255"
                )
        if not self.autoattack and (self.autoattack_n or self.norm == "lpips"):
            raise ValueError(
                "autoattack is empty: name its attacks, like [apgd-ce, apgd-t], or set autoattack_n to 0"
            )
        for name in ("epsilon", "evaluation_epsilon"):
            if self.norm == "linf" and getattr(self, name) > 1:
                raise ValueError(
                    f"{name} is {getattr(self, name):g}, pixels span 0 to 1: write it like 8/255"
                )
        if (self.norm == "lpips") != (self.objective == "fast_lpa"):
            raise ValueError(
                f"objective {self.objective} does not go with norm {self.norm}: lpips is for fast_lpa"
            )
        if self.memory_format == "channels_last" and self.width is not None and self.width < 8:
            # the gradient of a 1x1 convolution with stride 2 writes outside its memory there, torch
            # 2.13 on AVX2
            raise ValueError(
                f"width is {self.width} in memory_format channels_last, in which torch may crash below 8"
                " channels: take contiguous, or 8 or more"
            )
        if self.only_correct and self.objective != "fast_lpa":
            raise ValueError(
                f"only_correct is true with objective {self.objective}: it is for fast_lpa"
            )
        return self

    def scaled(self) -> "Setting":
        """Apply `epoch_factor` and `period_factor` to every epoch-related number, once."""
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

    def plan(self, method: str) -> schedule.Plan:
        if method == "full":
            return schedule.full(self.epochs)
        return schedule.plan(
            self.epochs, self.coreset_fraction, self.warm_start, self.period, self.schedule
        )
