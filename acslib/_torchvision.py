"""torchvision beside any build of torch: ``from acslib._torchvision import torchvision``.

The package index carries torchvision's CUDA build. Beside a CPU build of torch its compiled
operators cannot load, and ``import torchvision`` then stops at ``operator torchvision::nms does not
exist``, because it attaches shape rules to operators that were never declared. Declaring them first
is enough for models, transforms.v2 and datasets, which are pure Python; calling
``torchvision.ops.nms`` itself still fails, with torch's own message. Where the operators load,
nothing is declared. Import this module before anything that imports torchvision (lpips, for one).
"""

import importlib.util
import sys
from pathlib import Path

import torch

_DETECTION_OPERATORS = ("nms", "qnms")


def _operators_load() -> bool:
    """Whether torchvision's extension works with this torch; loading it twice does no harm."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("torchvision is not installed: pip install torchvision")
    package = Path(found.origin).parent
    for extension in sorted(package.glob("_C.*")):
        try:
            torch.ops.load_library(extension)  # type: ignore[no-untyped-call]
            return True
        except OSError:
            # built for another torch: undefined symbols, or CUDA libraries that are not here
            continue
    return False


_library = None  # a declaration lives only as long as its Library object
if "torchvision" not in sys.modules and not _operators_load():
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for _name in _DETECTION_OPERATORS:
        _library.define(  # type: ignore[no-untyped-call]
            f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )

import torchvision  # noqa: E402

__all__ = ["torchvision"]
