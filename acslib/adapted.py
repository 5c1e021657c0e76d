"""A model of any classifier whose last layer is an nn.Linear: torchvision's, or one's own."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from acslib.passes import check_initialised, frozen, last_layer


def adapt(
    net: nn.Module,
    head: str | nn.Module | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> "Adapted":
    """A model of any classifier `net` of images (n, C, H, W) whose last layer is an nn.Linear.

    `head` is that layer, or its name in `net`. Without it, it is the Linear that a pass uses last.
    `mean` and `std`, one number a channel, normalise images from [0, 1] before `net` sees them.
    Give them unless `net` does so itself.

    The model has the very parameters of `net`, no copies: whoever trains one trains the other. The
    object `net` works as before, but set its mode (`net.eval()`) before you use it on its own.

    Raises ValueError if no Linear's output is exactly what `net` returns: something after the last
    layer (softmax, Dropout), several outputs, another kind of layer. Where no image size is found
    that `net` takes, that is checked in the model's first pass.
    """
    _refuse_wrappers(net)
    check_initialised(net)
    images = _images_for(net)
    name = _last_linear(net, images) if head is None else _name_of(net, head)
    layer = net.get_submodule(name)
    if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward:
        raise ValueError(
            f"head {name!r} is a {type(layer).__name__}: the last layer must be an nn.Linear,"
            " whose gradients are the products that coresets are selected by"
        )
    model = Adapted(net, name, layer, mean, std)
    if images is not None:
        if mean is not None and len(mean) not in (1, images.shape[1]):
            raise ValueError(
                f"mean has {len(mean)} numbers, the network takes images of {images.shape[1]}"
                " channels: give one number a channel"
            )
        _check_passes(model, images)
    return model


class Adapted(nn.Module):
    """What `adapt` makes: `forward` is `head` of `features`, images are in [0, 1].

    `net` is the network without its last layer, `head` is that layer; so are the names in
    `state_dict`.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        name: str,
        head: nn.Linear,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ):
        super().__init__()
        self._name, self._of, self._has_run = name, type(net).__name__, False
        where = next(net.parameters()).device
        for key, values in _statistics(mean, std).items():
            self.register_buffer(key, None if values is None else values.to(where))
        self.net = _with_instead(net, head, _End(), {})
        self.head = head
        self.training = net.training

    def features(self, images: Tensor) -> Tensor:
        """What the last layer sees, (n, D), in the type of its weights.

        Raises NotTheLastLayer where `net` does not return just that layer's output.
        """
        if self.mean is not None and self.std is not None:
            images = (images - self.mean) / self.std
        end = cast(_End, self.net.get_submodule(self._name))
        try:
            output: Tensor = self.net(images.to(_dtype(self.net) or images.dtype))
        except Exception as error:
            if self._has_run:
                raise
            raise NotTheLastLayer(
                f"{self._of} fails without its layer {self._name!r}, which was taken for its last:"
                f" {WAY_OUT}; or it does not take such images"
            ) from error
        finally:
            seen, end.seen = end.seen, None
        if output is not seen or _version(output) != end.version:  # nor changed in place
            mode = "training" if self.training else "evaluation"
            raise NotTheLastLayer(
                f"what {self._of} returns in {mode} mode is"
                f" not just the output of its layer {self._name!r}: take away what follows it"
                f" (softmax, Dropout, further outputs), or {WAY_OUT}"
            )
        dimensions = getattr(output, "ndim", None)
        if isinstance(dimensions, int) and dimensions != 2:  # `folding` follows a symbol through
            raise NotTheLastLayer(
                f"the layer {self._name!r} of {self._of} sees features of shape"
                f" {tuple(output.shape)}: they must be (n, D), one row an image"
            )
        self._has_run = True
        weight = next(self.head.parameters(), None)  # none in a network that is adapted again
        return output if weight is None else output.to(weight.dtype)

    def forward(self, images: Tensor) -> Tensor:
        return last_layer(self.head, self.features(images))

    def plain_state(self) -> dict[str, Tensor]:
        """The weights under the names that `net` had for them, without `mean` and `std`."""
        prefixes = {"net": "", "head": f"{self._name}."}
        split = (
            (*name.partition(".")[::2], tensor)
            for name, tensor in self.state_dict().items()
            if name not in ("mean", "std")
        )
        return {prefixes[part] + rest: tensor for part, rest, tensor in split}


WAY_OUT = "name the right nn.Linear, adapt(net, head=...)"


class NotTheLastLayer(ValueError):
    """A network does not return just the output of the layer that was taken for its last."""


class _End(nn.Module):
    """In the last layer's place: gives on what that layer would see, and remembers it."""

    seen: Tensor | None = None
    version: int | None = None

    def forward(self, features: Tensor) -> Tensor:
        self.seen, self.version = features, _version(features)
        return features


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None where nobody counts, as in inference mode and
    for the symbols that `folding` follows.
    """
    try:
        version = tensor._version
    except RuntimeError:
        return None
    return version if isinstance(version, int) else None


def _with_instead(
    module: nn.Module, layer: nn.Module, instead: nn.Module, made: dict[int, nn.Module]
) -> nn.Module:
    """`module` with `instead` in place of `layer`: what contains the layer is another object, with
    the same parameters, and all other parts are the same.
    """
    if module is layer:
        return instead
    if id(module) not in made:
        parts = {
            name: None if part is None else _with_instead(part, layer, instead, made)
            for name, part in module._modules.items()
        }
        made[id(module)] = module
        if any(part is not module._modules[name] for name, part in parts.items()):
            made[id(module)] = other = type(module).__new__(type(module))
            vars(other).update(vars(module), _modules=parts, _compiled_call_impl=None)
    return made[id(module)]


def _dtype(module: nn.Module) -> torch.dtype | None:
    """The type of the first weight, where there is one."""
    types = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(types, None)


def _statistics(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> dict[str, Tensor | None]:
    if mean is None and std is None:
        return {"mean": None, "std": None}
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and not hasattr(values, "__len__"):
            raise ValueError(f"{name} is {values!r}: give one number a channel, like [{values!r}]")
    if mean is None or std is None or len(mean) != len(std) or not all(s > 0 for s in std):
        raise ValueError(
            f"mean is {mean} and std is {std}: give one number a channel for both, std above 0"
        )
    return {
        name: torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
        for name, values in (("mean", mean), ("std", std))
    }


# Which layer is the last one. --------------------------------------------------------------------


def _refuse_wrappers(net: nn.Module) -> None:
    if not isinstance(net, nn.Module):
        raise ValueError(f"net is {net!r}: give a torch.nn.Module")
    if hasattr(net, "parts_in_any_dtype"):
        raise ValueError(f"{type(net).__name__} is a model already: use it as it is")
    for part in net.modules():
        if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise ValueError(f"net is in a {type(part).__name__}: unwrap it, give net.module")
        if hasattr(part, "_orig_mod"):
            raise ValueError(
                "net is compiled: give the network that torch.compile was given, and compile what"
                " adapt makes of it"
            )


def _name_of(net: nn.Module, head: str | nn.Module) -> str:
    for name, module in net.named_modules(remove_duplicate=False):
        if head is module or head == name:
            return str(name)
    linears = ", ".join(name for name, part in net.named_modules() if isinstance(part, nn.Linear))
    raise ValueError(
        f"head is {head!r}, which is no part of {type(net).__name__}; its nn.Linear layers are:"
        f" {linears or 'none'}"
    )


def _last_linear(net: nn.Module, images: Tensor | None) -> str:
    """The name of the Linear that a pass uses last; without images, of the one defined last."""
    linears = {name: part for name, part in net.named_modules() if isinstance(part, nn.Linear)}
    used: list[str] = []
    if images is not None:
        handles = [
            part.register_forward_hook(lambda *_, name=name: used.append(name))
            for name, part in linears.items()
        ]
        try:
            _pass(net, images, "eval")
        finally:
            for handle in handles:
                handle.remove()
    names = used or list(linears)
    if not names:
        raise ValueError(
            f"{type(net).__name__} has no nn.Linear: its last layer must be one, as coresets are"
            " selected by that layer's gradients"
        )
    return names[-1]


def _images_for(net: nn.Module) -> Tensor | None:
    """Two images of a size that the network takes, if one of the usual sizes is."""
    weight = next(net.parameters(), None)
    if weight is None:
        raise ValueError(f"{type(net).__name__} has no weights: there is nothing to train")
    generator = torch.Generator().manual_seed(0)
    for shape in _shapes(net):
        images = torch.rand(2, *shape, generator=generator).to(weight.device, _dtype(net))
        try:
            _pass(net, images, "eval")
        except Exception:  # a network's own way of saying that the size does not fit
            continue
        return images
    return None


def _shapes(net: nn.Module) -> Iterator[tuple[int, int, int]]:
    first = next((part for part in net.modules() if isinstance(part, nn.Conv2d | nn.Linear)), None)
    channels = (first.in_channels,) if isinstance(first, nn.Conv2d) else (3, 1)
    size = getattr(net, "image_size", None)
    sizes = [size] if isinstance(size, int) else [32, 28, 64, 96, 128, 224, 299, 8, 16]
    for channel in channels:
        if isinstance(first, nn.Linear):  # which sees an image's pixels as one row
            side = math.isqrt(first.in_features // channel)
            yield channel, side, side
        yield from ((channel, side, side) for side in sizes)


def _check_passes(model: Adapted, images: Tensor) -> None:
    _pass(model, images, "eval", "features")
    try:
        _pass(model, images, "train", "features")
    except NotTheLastLayer:
        raise
    except Exception:  # what else fails on two small images need not fail on a batch of real ones
        return


@torch.inference_mode(False)  # in which changes in place are not counted
@torch.no_grad()
def _pass(
    net: nn.Module, images: Tensor, mode: Literal["eval", "train"], method: str = "forward"
) -> None:
    """One pass that leaves the network and the random numbers as they were."""
    devices = [images.device] if images.device.type == "cuda" else []
    with frozen(net, mode), torch.random.fork_rng(devices=devices):
        (net if method == "forward" else getattr(net, method))(images)
