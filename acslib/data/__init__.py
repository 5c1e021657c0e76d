"""Data sets as one uint8 tensor per split on the device, and their augmentation there.

`load` gives the paper's by name; `from_folder`, `from_dataset` and `from_arrays` give one's own.
"""

from acslib.data.augmentation import augment, jitter, resized_crop, rotate
from acslib.data.files import DataError
from acslib.data.loading import NAMES, load
from acslib.data.own import from_arrays, from_dataset, from_folder
from acslib.data.sets import Dataset, ImageSet

__all__ = [
    "NAMES",
    "DataError",
    "Dataset",
    "ImageSet",
    "augment",
    "from_arrays",
    "from_dataset",
    "from_folder",
    "jitter",
    "load",
    "resized_crop",
    "rotate",
]
