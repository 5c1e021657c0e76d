"""torchvision beside any build of torch: ``from acslib._torchvision import torchvision``.

The package index carries torchvision's CUDA build. Beside a CPU build of torch its compiled
operators cannot load, and ``import torchvision`` then stops at ``operator torchvision::nms does not
exist``, because it attaches shape rules to operators that were never declared. Declaring them is
enough for models, transforms.v2 and datasets, which are pure Python; calling
``torchvision.ops.nms`` itself still fails, with torch's own message. They are declared only after
torchvision has stopped there: declared beside its own, they end the process. Import this module
before anything that imports torchvision (lpips, for one).
"""

import sys

import torch

_DETECTION_OPERATORS = ("nms", "qnms")


def _declared() -> torch.library.Library:
    """The operators by name; they are there as long as the Library object is."""
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in _DETECTION_OPERATORS:
        library.define(  # type: ignore[no-untyped-call]
            f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    return library


_library: torch.library.Library | None = globals().get("_library")  # kept by a reload

try:
    import torchvision
except ModuleNotFoundError as error:
    if error.name != "torchvision":
        raise
    raise ModuleNotFoundError("torchvision is not installed: pip install torchvision") from error
except RuntimeError as error:
    if "operator torchvision::" not in str(error):
        raise
    for _name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[_name]  # its half-imported parts
    _library = _declared()
    import torchvision

__all__ = ["torchvision"]
