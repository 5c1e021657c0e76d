"""One's own parts by name: in runs' names, YAML, `acs`, Make, tables and figures.

    # mine.py, found by ACS_PLUGINS=mine.py
    from acslib.paper import register

    register.method("el2n", my_selector, label="EL2N", items=("table1", "fig4"))

After that `resnet18-linf-cifar10.el2n` is a run, and Table 1 and Figure 4 have it beside the
paper's methods. A name is letters, digits, - and _. Each function raises PluginError for a name
that is taken, or that no file can have. In a notebook cell, a name is known in that kernel.
"""

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from acslib.paper import methods, settings
from acslib.paper.plugins import PluginError, Registry, source_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")


def method(
    name: str,
    selector: Callable[..., Any] | None = None,
    *,
    build: Callable[..., Any] | None = None,
    label: str | None = None,
    colour: str | None = None,
    marker: str | None = None,
    items: Sequence[str] = (),
) -> None:
    """A way to choose what a run trains on.

    selector: (gradients, budget) -> Coreset, as in `acslib.selectors`. The setting's granularity is
    put around it, unless it is a BatchWise or PerClass itself. build: instead of a selector, what
    makes one for each run, (setting, seed) -> selector. label: for people, by default the name.
    colour, marker: for figures, "#rrggbb" and one of matplotlib's; by default ones that no other
    method has. items: tables and figures that get the method wherever they have gradmatch, with all
    that they vary there; not Figures 1 and 2, the study and life, which are about certain methods.
    """
    if (selector is None) == (build is None):
        raise PluginError(
            f"method {name!r} has {'no' if build is None else 'both a'} selector"
            f"{' and no' if build is None else ' and a'} build: give one of them"
        )
    for given in (selector, build):
        if given is not None and not callable(given):
            raise PluginError(f"method {name!r}: {given!r} cannot be called, give a function")
    if label is not None and not (isinstance(label, str) and label.strip()):
        raise PluginError(f"method {name!r}: the label is {label!r}, give a text for people")
    others = [other for other in methods.METHODS.values() if other.name != name]
    if same := [other.name for other in others if other.label == (label or name)]:
        raise PluginError(
            f"method {name!r} has the label {label or name!r}, as {same[0]} has: give it another,"
            " so that tables and figures tell them apart"
        )
    if build is not None:
        _check_takes(f"method {name!r}, build", build, "setting", "seed")
    if isinstance(items, str):
        raise PluginError(f"method {name!r}: items is {items!r}, give a list like [{items!r}]")
    printed = {method.printed for method in methods.BUILT_IN.values()}
    if name in printed - set(methods.BUILT_IN):
        raise PluginError(f"method {name!r} has a name that tables give to a method of the paper")
    free_colour, free_marker = methods.free_look(others)
    added = methods.Method(
        name,
        label or name,
        methods.checked_colour(colour) if colour else free_colour,
        methods.checked_marker(marker) if marker else free_marker,
        printed=name,
        selector=build or (lambda setting, seed: selector),
        items=tuple(items),
    )
    _add(methods.METHODS, name, added)


def objective(name: str, build: Callable[..., Any]) -> None:
    """A training objective.

    build: (setting, attack) -> Objective, see `acslib.objectives`. `attack` is the setting's, with
    its norm, bound, step and number of steps: PGD, N-FGSM where the setting's `attack` is nfgsm, or
    Fast-LPA where the norm is lpips.
    """
    _add(settings.OBJECTIVES, name, build, "setting", "attack")


def model(name: str, build: Callable[..., Any]) -> None:
    """A network.

    build: (setting, dataset) -> nn.Module, its initial weights drawn from torch's global generator,
    which is seeded before. `dataset.class_names` and `dataset.train.images` say how many classes,
    channels and pixels there are. A network without `features` and a `head` of its own is given to
    `acslib.models.adapt`, with the data's channel statistics.
    """
    _add(settings.MODELS, name, build, "setting", "dataset")


def dataset(name: str, load: Callable[..., Any]) -> None:
    """A data set.

    load: keyword arguments of `acslib.data.load` -> `acslib.data.Dataset`, such as
    functools.partial(acslib.data.from_folder, "birds"). It is given train_limit, test_limit,
    validation_fraction, image_size, classes and device, as far as it has parameters of these names,
    augmentation where that is not crop, and seed where each seed draws its images. What a setting
    asks for and `load` cannot do is refused.
    """
    _add(settings.DATASETS, name, load)


def _check_takes(where: str, function: Callable[..., Any], *arguments: str) -> None:
    """Raise PluginError for a function that cannot be called with these arguments, in order."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise PluginError(
            f"{where}: it is called with ({', '.join(arguments)}), and {error}: give it these"
            " parameters"
        ) from error
    except ValueError:
        return  # some functions of C do not say what they take


def _add(registry: Registry, name: str, value: Any, *arguments: str) -> None:
    """`arguments`: what a function is called with, in order, where that is known before."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise PluginError(
            f"the {registry.what} {name!r} cannot be a name in files: take up to 60 letters,"
            " digits, - and _"
        )
    if not (callable(value) or isinstance(value, methods.Method)):
        raise PluginError(f"{registry.what} {name!r}: {value!r} cannot be called, give a function")
    if arguments:
        _check_takes(f"{registry.what} {name!r}", value, *arguments)
    registry.add(name, value, source_of(sys._getframe(2)))
