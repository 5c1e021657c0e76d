"""One's own images and network, trained robustly on coresets: the library alone.

    python examples/own_folder.py birds

`birds` has a folder for each class, or train/<class> and test/<class>.
"""

import sys

import torch
from torch import nn

from acslib import data, evaluation, models, schedule
from acslib.attacks import PGD
from acslib.objectives import AdversarialTraining
from acslib.selectors import BatchWise, gradmatch
from acslib.training import State, Training, fit


def network(classes: int) -> nn.Module:
    """Any classifier that ends in an nn.Linear will do."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


def train(folder: str, epochs: int = 30, size: int = 32, batch: int = 64) -> dict[str, float]:
    """Accuracies of a network that was trained on half of the images of `folder` in most epochs."""
    images = data.from_folder(folder, image_size=size, flip=True, padding=size // 8)
    torch.manual_seed(0)
    model = models.adapt(network(len(images.class_names)))
    attack = PGD("linf", 4 / 255, 1 / 255, 10, generator=torch.Generator())
    training = Training(
        objective=AdversarialTraining(attack),
        plan=schedule.plan(epochs, 0.5, warm_start=0.5, period=5),
        selector=BatchWise(gradmatch, batch),
        generator=torch.Generator(),
        batch_size=batch,
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    fit(State(model, optimiser), images, training)
    model.eval()
    test = images.test.float_images(), images.test.labels
    return {
        "clean": evaluation.clean_accuracy(model, *test)[0],
        "robust": evaluation.robust_accuracy(model, *test, attack)[0],
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, accuracy in train(sys.argv[1]).items():
        print(f"{name} accuracy: {100 * accuracy:.1f} %")
