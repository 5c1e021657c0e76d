"""What torch does, counted as it does it: floating-point operations, and looks at a tensor."""

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

LIBRARY = str(Path(__file__).parents[1])
_aten = torch.ops.aten
# Python, or a shape, needs a number that only the device knows
LOOKS = {_aten._local_scalar_dense, _aten.equal, _aten.nonzero, _aten.masked_select, _aten._unique2}
INDEXED = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}


class OperationCount(TorchDispatchMode):
    """Counts operations within it by torch's own formulas.

    torch's FlopCounterMode does the same, by module as well, for which it hangs hooks on tensors
    that an attack's `autograd.grad` does not bear.
    """

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=found)
        return found


class Looks(TorchDispatchMode):
    """Counts, by file and line of this library, what would make Python wait for a GPU.

    It works on any device, so that a test without a GPU can say how often a step waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if is_look(function._overloadpacket, args):
            self.places[place()] += 1
        return function(*args, **(kwargs or {}))


def is_look(packet: Any, args: tuple[Any, ...]) -> bool:
    """An index by a mask asks how many are true; one by numbers asks nothing."""
    if packet not in INDEXED:
        return packet in LOOKS
    return any(index is not None and index.dtype == torch.bool for index in args[1])


def place() -> str:
    """The innermost line of this library that is at work."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(LIBRARY) and frame.filename != __file__:
            return f"{frame.filename.removeprefix(LIBRARY)[1:]}:{frame.lineno}"
    return "elsewhere"
