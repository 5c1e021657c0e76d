"""AutoAttack by the package pyautoattack: inside its ball, repeatable, for few classes."""

import sys

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from acslib.attacks.autoattack import AutoAttack


def digits(start, stop):
    content = load_digits()
    images = torch.tensor(content.images[start:stop] / 16, dtype=torch.float32).unsqueeze(1)
    return images, torch.tensor(content.target[start:stop])


@pytest.fixture(scope="module")
def weak(trained):
    """An undefended network."""
    return trained(*digits(0, 1200), epochs=8)


def error(model, images, labels):
    with torch.no_grad():
        return (model(images).argmax(1) != labels).float().mean().item()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_autoattack_at_epsilon_zero_returns_the_clean_images(norm, weak):
    images, labels = digits(1400, 1420)
    assert torch.equal(AutoAttack(norm, 0.0)(weak, images, labels), images)


def assert_in_ball(adversarial, images, norm, epsilon):
    change = (adversarial - images).flatten(1)
    assert (change.abs().amax(1) if norm == "linf" else change.norm(dim=1)).max() <= epsilon + 1e-5
    assert torch.equal(adversarial, adversarial.clamp(0, 1))


@pytest.mark.parametrize(
    ("norm", "epsilons"), [("linf", (0.02, 0.05, 0.15)), ("l2", (0.1, 0.4, 0.8))]
)
def test_autoattack_stays_in_its_ball_and_grows_with_it(norm, epsilons, weak):
    images, labels = digits(1400, 1424)
    errors = []
    for epsilon in epsilons:
        adversarial = AutoAttack(norm, epsilon, ("apgd-ce",))(weak, images, labels)
        assert_in_ball(adversarial, images, norm, epsilon)
        errors.append(error(weak, adversarial, labels))
    assert errors == sorted(errors)
    assert errors[-1] >= 0.8


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.15), ("l2", 0.8)])
def test_standard_autoattack_runs_all_four_and_repeats(norm, epsilon, weak):
    images, labels = digits(1400, 1408)
    attack = AutoAttack(norm, epsilon)
    assert attack.attacks == ("apgd-ce", "apgd-t", "fab-t", "square")
    first, second = (attack(weak, images, labels) for _ in range(2))
    assert torch.equal(first, second)
    assert_in_ball(first, images, norm, epsilon)


@pytest.mark.parametrize("name", ["apgd-t", "fab-t"])
def test_attacks_can_be_chosen(name, weak):
    images, labels = digits(1400, 1404)
    adversarial = AutoAttack("linf", 0.15, (name,))(weak, images, labels)
    assert_in_ball(adversarial, images, "linf", 0.15)
    assert error(weak, adversarial, labels) > error(weak, images, labels)


class FewClasses(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.classes = classes
        self.head = nn.Linear(64, classes)

    def forward(self, images):
        return self.head(images.flatten(1))


def test_autoattack_with_few_classes():
    images, labels = digits(0, 4)
    with pytest.raises(ValueError, match="apgd-t needs 4 classes, the model has 3"):
        AutoAttack("linf", 0.1)(FewClasses(3), images, labels % 3)
    attack = AutoAttack("linf", 0.1, ("apgd-ce", "fab-t"))
    assert attack(FewClasses(3), images, labels % 3).shape == images.shape
    suite = AutoAttack("linf", 0.1)._suite(FewClasses(5), 5, images.device)
    assert suite.apgd_targeted.n_target_classes == suite.fab.n_target_classes == 4


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="choose linf or l2"):
        AutoAttack("l1", 0.1)
    with pytest.raises(ValueError, match="choose from apgd-ce"):
        AutoAttack("l2", 0.1, ("pgd",))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match=r"pip install adversarial-coresets\[autoattack\]"):
        AutoAttack("linf", 0.1)
