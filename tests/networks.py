"""Networks that several tests train."""

import torch
from torch import Tensor, nn


class Smooth(nn.Module):
    """For digits: no BatchNorm, no corners, float64; what order sums are taken in hardly shows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh())
        self.head = nn.Linear(12, 10)
        self.double()

    def features(self, images: Tensor) -> Tensor:
        return self.body(images.double())

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))
