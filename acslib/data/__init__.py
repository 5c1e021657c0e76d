"""Data sets as one uint8 tensor per split on the device, and their augmentation there."""

from acslib.data.files import DataError
from acslib.data.sets import NAMES, Dataset, ImageSet, augment, check_labels, load

__all__ = ["NAMES", "DataError", "Dataset", "ImageSet", "augment", "check_labels", "load"]
