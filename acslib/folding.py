"""BatchNorm folded into the convolution before it: in evaluation mode the same logits, sooner.

A pair is folded only where that is certain: `acslib.tracing` follows a symbolic image through the
network, and the BatchNorm must be all that ever sees the convolution's output. The folded network
is followed too, and must take the same steps. What cannot be followed keeps its BatchNorm.
"""

import copy
import operator
import weakref
from collections.abc import Iterator
from types import NoneType
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from acslib.tracing import Pairs, pairs_in, same_steps, steps_of

SETTINGS = (bool, int, float, str, NoneType)
OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # weights, parts, hooks, the mode
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@torch.no_grad()
def folded(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A frozen copy for attacks: evaluation mode, BatchNorm folded into the convolutions.

    The copy's logits are those of `model.eval()` up to rounding, by `forward` and by `features`. It
    does not follow later changes of `model`. It computes in `dtype`: the networks of
    `acslib.models` have their weights in it (the head stays as it is), every other network
    keeps its weights and computes under autocast where `dtype` is below float32.
    """
    # torch copies only leaves; weight_norm and the older spectral_norm keep what they computed last
    computed: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    instead = _replacements(model, foldable(model), _of_weights(model, dtype))
    copied = copy.deepcopy(model, memo=computed | instead)
    return _computing_in(dtype, copied.eval().requires_grad_(False))


@torch.no_grad()
def twin(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """What `folded` gives, for a moment: it shares memory with `model` and with the next twin.

    One twin is kept, and brought up to date in place, as long as it is asked for a network of the
    same modules, options and tensors. So it takes a fraction of the time of a copy, and is good
    until `model` changes. A network without a pair to fold is returned itself: freeze it.
    """
    kept = _kept_for(model, dtype)
    if kept is not None:
        return kept.updated().eval()
    pairs = foldable(model)
    if not pairs:
        return model if _is_full(dtype) else Autocast(model, dtype)
    instead = _replacements(model, pairs, _of_weights(model, dtype))
    return _keep(model, dtype, _computing_in(dtype, _shared(model, instead)), pairs)


@torch.no_grad()
def lowered(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A network for attacks under autocast, in the modes of `model`: its convolutions' weights are
    in `dtype` already, which autocast would do in each pass.

    That is for the parts of a network that converts what goes in and out of them; any other one is
    returned itself. It shares memory and is kept as `twin` does.
    """
    if _of_weights(model, dtype) is None:
        return model
    kept = _kept_for(model, ("lowered", dtype))
    if kept is not None:
        return _in_modes_of(model, kept.updated())
    instead: dict[int, nn.Module] = {}
    for part in cast(Any, model).parts_in_any_dtype:
        for module in model.get_submodule(part).modules():
            if type(module) is nn.Conv2d and not module._forward_pre_hooks:
                instead[id(module)] = one = _shell(module)
                vars(one)["_parameters"] = {
                    name: None if value is None else nn.Parameter(value.to(dtype), False)
                    for name, value in module._parameters.items()
                }
    return _in_modes_of(model, _keep(model, ("lowered", dtype), _shared(model, instead), []))


def _in_modes_of(model: nn.Module, net: nn.Module) -> nn.Module:
    for module, shell in zip(model.modules(), net.modules(), strict=True):
        shell.training = module.training
    return net


# What is kept. -----------------------------------------------------------------------------------


class _Kept:
    """A twin, what it was made of, and what has to be computed when the weights have changed."""

    def __init__(self, model: nn.Module, key: object, net: nn.Module, pairs: Pairs):
        self.model, self.key, self.net = weakref.ref(model, self._forget), key, net
        inner = net.net if isinstance(net, Autocast) else net
        self.pairs: list[tuple[Any, Any, Any]] = [
            (inner.get_submodule(conv), model.get_submodule(conv), model.get_submodule(norm))
            for conv, norm in pairs
        ]
        self.copies = _copies(model, inner, {id(one) for one, _, _ in self.pairs})
        self.made_of, self.looks = _contents(model), _contents(net)

    def _forget(self, _model: object) -> None:
        if _kept and _kept[0] is self:
            _kept.clear()

    def fits(self, model: nn.Module, key: object) -> bool:
        """Whether the twin is of this very network, and neither has been changed otherwise than in
        its numbers.
        """
        return (
            self.model() is model
            and self.key == key
            and _same_contents(self.made_of, _contents(model))
            and _same_contents(self.looks, _contents(self.net))
            and not any(p.requires_grad or p.is_inference() for p in self.net.parameters())
        )

    def updated(self) -> nn.Module:
        for one, conv, norm in self.pairs:
            weight, bias = _fused(conv, norm)
            one.weight.copy_(weight)
            one.bias.copy_(bias)
        for target, source in self.copies:
            target.copy_(source)
        return self.net


_kept: list[_Kept] = []  # one at most


def _kept_for(model: nn.Module, key: object) -> "_Kept | None":
    return _kept[0] if _kept and _kept[0].fits(model, key) else None


def _keep(model: nn.Module, key: object, net: nn.Module, pairs: Pairs) -> nn.Module:
    _kept[:] = [_Kept(model, key, net, pairs)]
    return net


def _copies(model: nn.Module, net: nn.Module, computed: set[int]) -> list[tuple[Tensor, Tensor]]:
    """The twin's tensors that have memory of their own, each with the one that it is a copy of."""
    found = []
    for name, module in net.named_modules():
        if id(module) in computed:
            continue
        source = model.get_submodule(name)
        for own, theirs in (
            (module._parameters, source._parameters),
            (module._buffers, source._buffers),
        ):
            for key, tensor in own.items():
                original = theirs[key]
                if tensor is not None and original is not None:
                    if tensor.data_ptr() != original.data_ptr():
                        found.append((tensor.data, original))
    return found


def _contents(model: nn.Module) -> tuple[list[object], list[object]]:
    """What modules are made of, to be compared one by one, and where their tensors are."""
    objects: list[object] = []
    places: list[object] = []
    for module in model.modules():
        if module is not model:  # of which nothing is to be kept
            objects.append(module)
        objects.append(type(module))
        for name, value in vars(module).items():
            if name == "training":
                continue
            values = [*value, *value.values()] if isinstance(value, dict) else [value]
            objects += values
            places += [_place(one) for one in values if isinstance(one, Tensor)]
            if name not in OF_EVERY_MODULE and type(value) not in SETTINGS:
                places += _held(value, set())
    return objects, places


def _place(tensor: Tensor) -> object:
    return tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape, tensor.stride()


def _same_contents(
    before: tuple[list[object], list[object]], now: tuple[list[object], list[object]]
) -> bool:
    return (
        len(before[0]) == len(now[0])
        and all(map(operator.is_, before[0], now[0]))
        and before[1] == now[1]
    )


class Autocast(nn.Module):
    """A network, and everything that it computes under autocast to `dtype`."""

    def __init__(self, net: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.net, self.dtype = net, dtype
        self.train(net.training)

    @property
    def head(self) -> Any:
        return self.net.head

    def features(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, self.dtype):
            return cast(Tensor, cast(Any, self.net).features(images))

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, self.dtype):
            return cast(Tensor, self.net(images))


def _is_full(dtype: torch.dtype) -> bool:
    return dtype in (torch.float32, torch.float64)


def _of_weights(model: nn.Module, dtype: torch.dtype) -> torch.dtype | None:
    """`dtype` for a network that converts what goes in and out of its parts, else None."""
    return dtype if hasattr(model, "parts_in_any_dtype") else None


def _computing_in(dtype: torch.dtype, twin: nn.Module) -> nn.Module:
    if _of_weights(twin, dtype) is None:
        return twin if _is_full(dtype) else Autocast(twin, dtype)
    for part in cast(Any, twin).parts_in_any_dtype:
        twin.get_submodule(part).to(dtype)
    return twin


def _replacements(
    model: nn.Module, pairs: Pairs, dtype: torch.dtype | None
) -> dict[int, nn.Module]:
    """By id of a module of `model`: the one convolution for a pair's two, and nothing after it.

    `dtype` None is each convolution's own.
    """
    instead: dict[int, nn.Module] = {}
    for conv_name, norm_name in pairs:
        conv, norm = cast(Any, model.get_submodule(conv_name)), model.get_submodule(norm_name)
        instead[id(conv)] = _one(conv, norm, dtype or conv.weight.dtype)
        instead[id(norm)] = nn.Identity()
    return instead


def _one(conv: Any, norm: Any, dtype: torch.dtype) -> nn.Module:
    """The one convolution that both are in evaluation mode, with every option of `conv`."""
    one = _shell(conv)
    weight, bias = _fused(conv, norm)
    one._parameters = {
        "weight": nn.Parameter(weight.to(dtype), requires_grad=False),
        "bias": nn.Parameter(bias.to(dtype), requires_grad=False),
    }
    return one


def _fused(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    return fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )


def _shell(module: nn.Module) -> nn.Module:
    """A module with the same attributes, its dictionaries its own, in evaluation mode."""
    shell = type(module).__new__(type(module))
    attributes = vars(shell)
    for name, value in vars(module).items():
        attributes[name] = value.copy() if isinstance(value, dict) else value
    # a compiled forward pass is the original's
    attributes.update(training=False, _compiled_call_impl=None)
    return shell


def _shared(model: nn.Module, instead: dict[int, nn.Module]) -> nn.Module:
    """A network of other modules with the weights of `model`, which here ask for no gradient.

    `instead` has, by id, what stands in the place of some of them.
    """
    made: dict[int, Any] = dict(instead)

    def weight(parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is not None and id(parameter) not in made:
            made[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        return None if parameter is None else made[id(parameter)]

    def module(of: nn.Module | None) -> nn.Module | None:
        if of is not None and id(of) not in made:
            made[id(of)] = shell = _shell(of)
            # past Module's own, slow, assignment
            vars(shell)["_parameters"] = {n: weight(value) for n, value in of._parameters.items()}
            vars(shell)["_modules"] = {n: module(child) for n, child in of._modules.items()}
        return None if of is None else made[id(of)]

    return cast(nn.Module, module(model))


# Which pairs can be folded. ----------------------------------------------------------------------

_known: WeakKeyDictionary[nn.Module, tuple[object, Pairs]] = WeakKeyDictionary()


def foldable(model: nn.Module) -> Pairs:
    """The names of the convolutions and of the BatchNorm that each of them goes through.

    Found once, and again when a module or one of its settings has become another.
    """
    now = _settings(model)
    if model not in _known or _known[model][0] != now:
        _known[model] = now, _find(model)
    return [(conv, norm) for conv, norm in _known[model][1] if _plain(model, conv, norm)]


def _settings(model: nn.Module) -> object:
    """All that can decide which way a pass in evaluation mode takes, the images apart."""
    return [(name, type(module), _settings_of(module)) for name, module in model.named_modules()]


def _settings_of(module: nn.Module) -> dict[str, list[str]]:
    return {
        name: list(_held(value, set()))
        for name, value in vars(module).items()
        if name not in OF_EVERY_MODULE
    }


def _held(value: object, seen: set[int], attributes: bool = True) -> Iterator[str]:
    """The settings in a value, whatever else it holds: those in containers to any depth, and those
    that are attributes of an object, but not of an object in that one.
    """
    if type(value) in SETTINGS:
        yield repr(value)
    elif id(value) not in seen and not isinstance(value, Tensor | nn.Module):
        seen.add(id(value))
        if isinstance(value, dict):
            parts = [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            parts = [*value]
        else:
            parts = [*vars(value).values()] if attributes and hasattr(value, "__dict__") else []
            attributes = False
        yield f"{type(value).__name__} of {len(parts)}"
        for part in parts:
            yield from _held(part, seen, attributes)


def _plain(model: nn.Module, conv_name: str, norm_name: str) -> bool:
    """Both are torch's own, without hooks, and the statistics are the running ones."""
    conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
    return (
        type(conv) is nn.Conv2d
        and type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm)
        and norm.running_mean is not None
        and norm.running_var is not None
        and conv.weight.dtype == norm.running_mean.dtype
        and not any(getattr(module, hooks) for module in (conv, norm) for hooks in HOOKS)
    )


def _find(model: nn.Module) -> Pairs:
    try:
        steps = steps_of(_shared(model, {}))
        with torch.enable_grad():  # as attacks run it: it may take another way there
            if not same_steps(steps, steps_of(_shared(model, {}))):
                return []
        pairs = [pair for pair in pairs_in(steps) if _plain(model, *pair)]
        instead = _replacements(model, pairs, None)
        if pairs and not same_steps(steps, steps_of(_shared(model, instead))):
            return []
    except Exception:  # whatever a network's own code says to an image that has no values
        return []
    return pairs
