"""A network looked at without being changed: frozen, as attacks see it, in bfloat16, at its last
layer.
"""

import contextlib
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acslib.models import ResNet, folded


@contextlib.contextmanager
def frozen(model: nn.Module, mode: Literal["eval", "train"] | None = None):
    """Within it, no parameter asks for a gradient and BatchNorm's running statistics stand still.

    `mode` None keeps the model's own mode. On leaving, modes and `requires_grad` are as before,
    also after an error.
    """
    modes = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tracking = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        if mode is not None:
            model.train(mode == "train")
        for module in tracking:
            module.track_running_stats = not module.training
        yield model
    finally:
        for module in tracking:
            module.track_running_stats = True
        for module, training in modes:
            module.training = training
        for parameter in trainable:
            parameter.requires_grad_(True)


def penultimate(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, D) and logits (n, C) of one pass."""
    features = model.features(images)
    with torch.autocast(images.device.type, enabled=False):
        return features, model.head(features)


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@contextlib.contextmanager
def attacker(model: nn.Module, mode: str, precision: str):
    """The network that attacks see: a folded copy for evaluation mode, else the model itself under
    autocast.
    """
    if mode == "eval" and isinstance(model, ResNet):
        yield folded(model, DTYPES[precision])
    else:
        device = next(model.parameters()).device
        with (
            frozen(model, mode),
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            yield model


def autocast(images: Tensor, precision: str):
    return torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextlib.contextmanager
def watch(module: nn.Module):
    """Collect a module's outputs while inside."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output.detach())
    )
    try:
        yield outputs
    finally:
        handle.remove()


def fastest_precision(device: str) -> str:
    """bfloat16 where the device multiplies it in hardware, else float32."""
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return (
        "bfloat16"
        if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        else "float32"
    )
