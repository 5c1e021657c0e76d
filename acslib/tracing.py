"""The steps that a network takes in evaluation mode, by torch.fx, which follows a symbolic image.

A network whose control flow depends on the images cannot be followed.
"""

import inspect
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

Pairs = list[tuple[str, str]]  # names of a module, and of the one that it goes through
GraphSteps = list[tuple[fx.Graph, dict[str, Tensor]]]


def steps_of(model: nn.Module) -> GraphSteps:
    """The steps of `forward`, and of `features` where there is one; each with its constants."""
    names = ["forward"]
    if inspect.ismethod(getattr(model, "features", None)):
        names.append("features")
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        raise ValueError("a network on several devices")
    followed = []
    with torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]):
        for name in names:
            graph = _Tracer(name, *devices).trace(model, _defaults(getattr(model, name)))
            constants = {
                str(node.target): value
                for node in graph.nodes
                if node.op == "get_attr"
                and isinstance(value := vars(model).get(str(node.target)), Tensor)
            }
            followed.append((graph, constants))
    return followed


def _defaults(method: Any) -> dict[str, Any]:
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


class _Image(fx.Proxy):
    """A symbolic tensor that knows where it is, as all in a network are on one device. It says that
    it is a tensor to a network that asks.
    """

    device = property(lambda self: self.tracer.where)
    __class__ = property(lambda self: Tensor)
    _is_param = _is_buffer = False


class _Tracer(fx.Tracer):
    def __init__(self, method: str, device: torch.device):
        super().__init__()
        self.traced_func_name, self.where = method, device

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Image(node, self)

    def create_arg(self, a: Any) -> Any:
        return a.node if isinstance(a, fx.Proxy) else super().create_arg(a)  # else a constant


def pairs_in(steps: GraphSteps) -> Pairs:
    """Pairs of modules, each used once in a pass, the second on nothing but the first's output."""
    edges: dict[tuple[str, str], None] = {}
    no_first, no_second = set(), set()
    for graph, _ in steps:
        calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        here = [_edge(node) for node in graph.nodes]
        once = [pair for pair in here if pair and calls[pair[0]] == calls[pair[1]] == 1]
        edges |= dict.fromkeys(once)
        no_first |= calls.keys() - {first for first, _ in once}
        no_second |= calls.keys() - {second for _, second in once}
        for node in graph.nodes:
            if node.op == "get_attr":  # a weight that is used without its module
                owner = str(node.target).rpartition(".")[0]
                no_first.add(owner)
                no_second.add(owner)
    return [pair for pair in edges if pair[0] not in no_first and pair[1] not in no_second]


def _edge(node: fx.Node) -> tuple[str, str] | None:
    """The two modules, if `node` is a module's step on another's output, and the only one on it."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    first = node.args[0]
    if not isinstance(first, fx.Node) or first.op != "call_module" or list(first.users) != [node]:
        return None
    return str(first.target), str(node.target)


def same_steps(steps: GraphSteps, others: GraphSteps) -> bool:
    """The same steps, whatever the modules are that take them."""
    return all(
        str(graph) == str(other)
        and constants.keys() == different.keys()
        and all(torch.equal(value, different[name]) for name, value in constants.items())
        for (graph, constants), (other, different) in zip(steps, others, strict=True)
    )
