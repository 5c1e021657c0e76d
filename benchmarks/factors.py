"""Gradients to select from, like those of a trained network."""

import torch
from torch.nn.functional import one_hot

from acslib.gradients import LastLayerGradients

CLASSES, WIDTH = 10, 512


def network_like(
    n: int, classes: int = CLASSES, width: int = WIDTH, seed: int = 0, dtype=torch.float32
) -> LastLayerGradients:
    """Last-layer factors correlated within a class and opposed between classes, as a trained
    network's are.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    means = torch.randn(classes, width, generator=generator)
    features = torch.relu(means[labels] / 2 + 2 * torch.randn(n, width, generator=generator))
    errors = (features @ (means - means.mean(0)).T / width**0.5).softmax(1) - one_hot(
        labels, classes
    )
    return LastLayerGradients(errors.to(dtype), features.to(dtype))
