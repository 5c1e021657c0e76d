"""What a run selects with: the selector that `METHODS` names, at the setting's granularity."""

import functools
import importlib
from collections.abc import Callable

from acslib import selectors
from acslib.paper.config import Run
from acslib.paper.methods import METHODS
from acslib.paper.settings import Setting
from acslib.protocols import Selector

SEEDS_BETWEEN_DRAWS = 1_000_000  # torch's generator on the CPU looks at 32 bits of a seed
SOLVERS = ("craig", "gradmatch")  # they look at inner products of gradients


def build_craig(setting: Setting, seed: int) -> Selector:
    """Algorithm 2."""
    if not setting.selection_epsilon:
        return selectors.craig
    return functools.partial(selectors.craig, epsilon=setting.selection_epsilon, seed=seed)


def build_gradmatch(setting: Setting, seed: int) -> Selector:
    """Algorithm 3."""
    return functools.partial(
        selectors.gradmatch,
        ridge=setting.ridge,
        tolerance=setting.tolerance,
        epsilon=setting.selection_epsilon,
        seed=seed,
    )


def build_random(setting: Setting, seed: int) -> Selector:
    """One random subset, kept for the run."""
    return selectors.Random(seed)


def build_adaptive_random(setting: Setting, seed: int) -> Selector:
    """A random subset, drawn anew at every selection."""
    return selectors.AdaptiveRandom(seed)


def build_el2n(setting: Setting, seed: int) -> Selector:
    """The largest errors |p - y|."""
    return selectors.el2n


def build_easiest(setting: Setting, seed: int) -> Selector:
    """The smallest gradients of the loss with respect to the image."""
    return selectors.easiest


def selector_of(method: str) -> Callable[[Setting, int], Selector]:
    """What builds a method's selector, by its entry in `METHODS`."""
    named = METHODS[method].selector
    if not isinstance(named, str):
        assert named is not None, f"{method} selects nothing"
        return named
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)


def build_selector(run: Run, seed: int) -> Selector | None:
    """The method's selector, at the setting's granularity; None for full training."""
    setting = run.setting
    if not METHODS[run.method].selects:
        return None
    seed += setting.selection_draw * SEEDS_BETWEEN_DRAWS
    selector = selector_of(run.method)(setting, seed)
    if selectors.needs_gradients(selector):
        if run.method in SOLVERS:
            selectors.compile_kernels()  # before any clock runs
        selector = at_granularity(selector, run, seed)
    return selector if setting.weights else selectors.Unweighted(selector)


def at_granularity(selector: Selector, run: Run, seed: int) -> Selector:
    """A selector of samples applied to batches, within classes, or to all samples at once; one that
    is grouped already stays as it is.
    """
    setting = run.setting
    if is_grouped(selector):
        pass
    elif setting.granularity == "batch":
        regroup = setting.selection_groups == "each"
        selector = selectors.BatchWise(
            selector, setting.selection_batch_size, seed, regroup=regroup
        )
    elif setting.granularity == "class":
        selector = selectors.PerClass(selector)
    return selectors.BiasOnly(selector) if setting.gradient_layer == "bias" else selector


def is_grouped(selector: Selector) -> bool:
    """Whether a selector, or what is inside of it, is a BatchWise or a PerClass."""
    while isinstance(selector, selectors.Unweighted | selectors.BiasOnly):
        selector = selector.selector
    return isinstance(selector, selectors.BatchWise | selectors.PerClass)
