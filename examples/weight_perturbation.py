"""Adversarial weight perturbation (AWP) on coresets: the library alone.

    python examples/weight_perturbation.py

Wu et al., "Adversarial Weight Perturbation Helps Robust Generalization" (NeurIPS 2020), Algorithm 1
with one step for the weights. Between a batch's backward pass and the optimiser's step,
`Training.before_step` moves the weights uphill, takes the gradients there and moves them back.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from acslib import data, evaluation, models, schedule
from acslib.attacks import PGD
from acslib.objectives import AdversarialTraining
from acslib.selectors import BatchWise, gradmatch
from acslib.training import State, Training, fit


class WeightPerturbation:
    """Each layer's weights move by `gamma` times their norm along their gradient, eqs. (8)-(10).

    Biases and BatchNorm's parameters stay, as in the authors' code.
    """

    def __init__(self, gamma: float = 0.01) -> None:
        self.gamma = gamma

    @torch.no_grad()
    def __call__(self, model: nn.Module, compute_gradients: Callable[[], Tensor]) -> None:
        moved = [p for p in model.parameters() if p.ndim > 1 and p.grad is not None]
        before = [p.clone() for p in moved]
        for p in moved:
            assert p.grad is not None
            p.add_(p.grad, alpha=float(self.gamma * p.norm() / p.grad.norm().clamp_min(1e-12)))
        with torch.enable_grad():
            compute_gradients()
        for p, value in zip(moved, before, strict=True):
            p.copy_(value)


def train(images: data.Dataset, epochs: int = 20, gamma: float = 0.01) -> dict[str, float]:
    """Accuracies of a small network, trained on half of the images in most epochs."""
    torch.manual_seed(0)
    model = models.build("resnet18", channels=1, width=8, depths=(1, 1))
    attack = PGD("linf", 0.1, 0.025, 7, generator=torch.Generator())
    training = Training(
        objective=AdversarialTraining(attack),
        plan=schedule.plan(epochs, 0.5, warm_start=0.5, period=5),
        selector=BatchWise(gradmatch, 20),
        generator=torch.Generator(),
        before_step=WeightPerturbation(gamma) if gamma else None,
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    fit(State(model, optimiser), images, training)
    model.eval()
    test = images.test.float_images(), images.test.labels
    return {
        "clean": evaluation.clean_accuracy(model, *test)[0],
        "robust": evaluation.robust_accuracy(model, *test, attack)[0],
    }


if __name__ == "__main__":
    for gamma in (0.0, 0.01):
        found = train(data.load("digits"), gamma=gamma)
        print(f"gamma {gamma}:", ", ".join(f"{k} {100 * v:.1f} %" for k, v in found.items()))
