"""Any attack, called safely: ours, a plain function, or another library's bound to its network."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from acslib.attacks.common import Base
from acslib.passes import frozen
from acslib.protocols import why_not_called

TOLERATED = 1e-6  # how far outside [0, 1] an attack's normalising and back may put a pixel


def call(attack: Callable[..., Any], model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """What `attack` makes of `images`, checked: finite, in [0, 1], like `images` in shape and type.

    An attack is called as `attack(model, images, labels)`, or as `attack(images, labels)` if it has
    a network of its own (`bound_to`). Whatever the gradient mode around, gradients with respect to
    images can be taken inside, by `loss.backward()` too; the attack works on copies, and modes,
    buffers, gradients and `requires_grad` of the network are as before when it ends. Raises
    TypeError for what cannot be called so, ValueError for what came back.
    """
    if not callable(attack):
        raise TypeError(
            f"the attack is a {type(attack).__name__}: give one that is called as attack(model,"
            " images, labels)"
        )
    own = bound_to(attack)
    check_arguments(attack, 3 if own is None else 2)
    with torch.inference_mode(False), torch.enable_grad():
        given = images.detach().clone(), labels.detach().clone()
        with as_found(model if own is None else own):
            found = attack(model, *given) if own is None else attack(*given)
    return _checked_images(found, images, attack)


def check_arguments(attack: Callable[..., Any], count: int) -> None:
    """Raise TypeError unless it can be called with a model, images and labels, or the last two."""
    names = ("model", "images", "labels")[-count:]
    reason = why_not_called(attack, *names)
    if reason is not None:
        called = getattr(attack, "__name__", type(attack).__name__)
        raise TypeError(
            f"the attack {called} cannot be called as attack({', '.join(names)}): {reason}"
        )


def bound_to(attack: Callable[..., Any]) -> nn.Module | None:
    """The network that an attack was built on, as torchattacks' are; None for one that is told."""
    network = getattr(attack, "model", None)
    if not isinstance(network, nn.Module) or isinstance(attack, Base):
        return None
    return network if why_not_called(attack, "images", "labels") is None else None


@torch.no_grad()
def check_built_on(
    attack: Callable[..., Any], model: nn.Module, images: Tensor, purpose: str
) -> None:
    """Raise ValueError for an attack that was built on a network of other weights than the model
    that is to be trained or evaluated (`purpose`), or on one that answers otherwise, as the network
    without the model's normalisation does.
    """
    network = bound_to(attack)
    if network is None or network is model:
        return
    weights = {id(parameter) for parameter in model.parameters()}
    same = any(id(parameter) in weights for parameter in network.parameters())
    if same:
        few = images[:4]
        with frozen(network, "eval"), frozen(model, "eval"):
            logits, expected = network(few), model(few)
        same = isinstance(logits, Tensor) and logits.shape == expected.shape
        same = same and torch.allclose(logits.float(), expected.float(), rtol=1e-2, atol=1e-3)
    if not same:
        raise ValueError(
            f"the attack {type(attack).__name__} was built on another network than the one to be"
            f" {purpose}: build it on that, or, if a transferred attack is meant, wrap it as lambda"
            " model, images, labels: attack(images, labels)"
        )


@contextlib.contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """As `passes.frozen`, and the weights' gradients are put aside meanwhile."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with frozen(model):
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _checked_images(found: Any, images: Tensor, attack: Callable[..., Any]) -> Tensor:
    name = getattr(attack, "__name__", type(attack).__name__)
    if not isinstance(found, Tensor):
        raise ValueError(
            f"the attack {name} returned a {type(found).__name__}: it must return adversarial"
            " images, a tensor"
        )
    for what in ("shape", "dtype", "device"):
        got, wanted = getattr(found, what), getattr(images, what)
        if got != wanted:
            got, wanted = (tuple(x) if what == "shape" else x for x in (got, wanted))
            raise ValueError(
                f"the attack {name} returned images of {what} {got}: it must keep that of the"
                f" images, {wanted}"
            )
    adversarial: Tensor = found.detach()
    if adversarial.numel():
        low, high = (float(bound) for bound in torch.aminmax(adversarial))
        if not (low >= -TOLERATED and high <= 1 + TOLERATED):
            raise ValueError(
                f"the attack {name} returned images that span [{low:g}, {high:g}]: adversarial"
                " images must lie in [0, 1] and be finite"
            )
    return adversarial.clamp(0, 1)
