"""A network looked at, not changed: frozen, as attacks see it, in bfloat16, at its last layer."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from acslib.folding import lowered, twin

__all__ = [
    "DTYPES",
    "attacker",
    "autocast",
    "buffers_put_back",
    "check_initialised",
    "fastest_precision",
    "frozen",
    "last_layer",
    "penultimate",
    "watch",
]

# Left alone. -------------------------------------------------------------------------------------


@contextlib.contextmanager
def frozen(model: nn.Module, mode: Literal["eval", "train"] | None = None) -> Iterator[nn.Module]:
    """Within it, no parameter asks for a gradient. Afterwards, the model is as it was before.

    That holds for modes, for `requires_grad` and for every buffer: running statistics, the vectors
    of spectral_norm, counters. It holds after an error, too. `mode` None keeps the model's own
    mode. Raises ValueError for a lazy module that has not seen a batch yet.
    """
    check_initialised(model)
    modules = list(model.modules())
    modes = [(module, module.training) for module in modules]
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # BatchNorm can be told to stand still, all others are put back
    tracking: list[Any] = [m for m in modules if _is_batch_norm(m) and m.track_running_stats]
    others = [module for module in modules if not _is_batch_norm(module)]
    with buffers_put_back(others):
        try:
            for parameter in asking:
                parameter.requires_grad_(False)
            if mode is not None:
                model.train(mode == "train")
            for module in tracking:
                module.track_running_stats = False  # in training mode, which an attack may set
            yield model
        finally:
            for module in tracking:
                module.track_running_stats = True
            for module, training in modes:
                if module.training != training:
                    module.training = training
            for parameter in asking:
                parameter.requires_grad_(True)


def check_initialised(model: nn.Module) -> None:
    """Raise ValueError for what is no network, for a lazy module that has not seen a batch yet, and
    for weights that cannot take part in a gradient.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model is a {type(model).__name__}: give a torch.nn.Module")
    for module in model.modules():
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
            raise ValueError(
                f"{type(module).__name__} has no weights yet: pass a batch through it first"
            )
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError(
            "the model was made in torch.inference_mode(), where weights never have gradients: make"
            " it outside"
        )


def _is_batch_norm(module: nn.Module) -> bool:
    """Whether its pass is torch's own, in which `track_running_stats` decides what changes."""
    return type(module).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)


@contextlib.contextmanager
def buffers_put_back(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Afterwards each module's own buffers are those of before, and have their values again."""
    before = []
    for module in modules:
        buffers: dict[str, Any] = dict(module._buffers)
        values = {name: b.detach().clone() for name, b in buffers.items() if _can_change(b)}
        before.append((module, buffers, values))
    try:
        yield
    finally:
        for module, buffers, values in before:
            module._buffers.clear()
            module._buffers.update(buffers)
            for name, value in values.items():
                # `data`: autograd need not know, whatever it keeps has its value again
                buffers[name].data.copy_(value)


def _can_change(buffer: Tensor | None) -> bool:
    """Not if there is none, nor if one place in memory is several of its entries (`expand`)."""
    if buffer is None:
        return False
    return all(s > 0 or n == 1 for s, n in zip(buffer.stride(), buffer.shape, strict=True))


# Attacked. ---------------------------------------------------------------------------------------

# in which weights and activations are; what TF32 is, see `acslib.devices`
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


@contextlib.contextmanager
def attacker(model: nn.Module, mode: str, precision: str) -> Iterator[nn.Module]:
    """The network that attacks see, frozen, for a `mode` (eval, train) and `precision` of `DTYPES`.

    For evaluation mode it is a twin of `model` with BatchNorm folded into the convolutions, where
    that can be done. It shares the weights of `model`, which must not change meanwhile. For
    training mode it is `model` itself and everything in the context is under autocast; in bfloat16,
    the networks of `acslib.models` have their convolutions' weights cast once.
    """
    if mode == "eval":
        with frozen(model, "eval"):
            yield twin(model, DTYPES[precision])
    else:
        with (
            frozen(model, "train"),
            torch.autocast(_device(model).type, torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            yield lowered(model, DTYPES[precision]) if precision == "bfloat16" else model


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def autocast(images: Tensor, precision: str) -> torch.autocast:
    """The context in which a network of float32 weights computes in `precision`, of `DTYPES`."""
    return torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16")


def fastest_precision(device: str) -> str:
    """bfloat16 where the device multiplies it in hardware, else float32."""
    if torch.device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if fast else "float32"


# At its last layer. ------------------------------------------------------------------------------


def penultimate(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, D), in the type of the last layer's weights, and logits (n, C) of one pass."""
    features = model.features(images)
    features = features.to(next(model.head.parameters()).dtype)
    return features, last_layer(model.head, features)


def last_layer(head: nn.Module, features: Tensor) -> Tensor:
    """Logits (n, C) from features (n, D) in the weights' type, never in bfloat16 by autocast."""
    weight = next(head.parameters(), None)  # none where `models.adapt` has put an end there
    with torch.autocast(features.device.type, enabled=False):
        logits: Tensor = head(features if weight is None else features.to(weight.dtype))
    return logits


@contextlib.contextmanager
def watch(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect a module's outputs while inside."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output.detach())
    )
    try:
        yield outputs
    finally:
        handle.remove()


@contextlib.contextmanager
def trainable(model: nn.Module) -> Iterator[None]:
    """Within it every weight of a frozen model asks for a gradient."""
    frozen_ones = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen_ones:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen_ones:
            parameter.requires_grad_(False)
