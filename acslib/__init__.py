"""Adversarial coreset selection for efficient robust training (Dolatabadi, Erfani and Leckie).

Where to find the paper: `objectives` eqs. (2)-(4), (18), (22); `attacks` eqs. (3), (17), (21);
`gradients` section 3.4; `selectors` eq. (12), Algorithms 2 and 3; `schedule` and `training`
Algorithm 1. The experiments are in `acslib.paper`.

Names are imported when they are first used, so that `acslib.paper` starts without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "attacks": ("FGSM", "PGD"),
    "data": ("Dataset", "ImageSet"),
    "evaluation": ("clean_accuracy", "robust_accuracy"),
    "gradients": ("LastLayerGradients",),
    "objectives": ("AdversarialTraining", "Objective", "Trades", "Vanilla"),
    "selectors": ("Coreset", "craig", "gradmatch"),
    "training": ("State", "Training", "fit"),
}
_MODULES = (*_HOMES, "measuring", "models", "passes", "protocols", "schedule")
# where each name is imported from when it is first used
LAZY = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *LAZY, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"acslib.{name}")
    if name in LAZY:
        return getattr(importlib.import_module(f"acslib.{LAZY[name]}"), name)
    raise AttributeError(f"module 'acslib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
