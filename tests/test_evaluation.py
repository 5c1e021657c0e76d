import copy

import pytest
import torch

from acslib import models
from acslib.attacks import PGD
from acslib.attacks.autoattack import AutoAttack
from acslib.attacks.common import Base
from acslib.attacks.unseen import JPEG, ReColor, StAdv
from acslib.evaluation import clean_accuracy, robust_accuracy
from acslib.paper import config


def test_clean_accuracy_by_hand(undefended, digits):
    images, labels = digits.test.float_images(), digits.test.labels
    with torch.no_grad():
        right = sum(
            int(undefended(images[i : i + 1]).argmax()) == int(labels[i]) for i in range(50)
        )
    fraction, mask = clean_accuracy(undefended.train(), images[:50], labels[:50], batch_size=7)
    assert undefended.training
    undefended.eval()
    assert fraction == pytest.approx(right / 50)
    assert int(mask.sum()) == right


def test_epsilon_zero_is_clean_accuracy(undefended, batch):
    assert (
        robust_accuracy(undefended, *batch, PGD("linf", 0.0, 0.01, 5))[0]
        == clean_accuracy(undefended, *batch)[0]
    )


def test_robust_is_a_subset_of_right_and_shrinks_with_epsilon(undefended, batch):
    masks = [
        robust_accuracy(undefended, *batch, PGD("linf", e, e / 4, 10, restarts=2))[1]
        for e in (0.0, 0.03, 0.06, 0.2)
    ]
    counts = [int(mask.sum()) for mask in masks]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 0.2 * counts[0]
    assert all((mask <= masks[0]).all() for mask in masks)


def test_an_undefended_network_falls(undefended, digits):
    """At the demo's epsilon, under PGD-50-10: less than a tenth stands."""
    images, labels = digits.test.float_images(), digits.test.labels
    demo = config.resolve("resnet18-linf-cifar10.full", "demo").setting
    attack = PGD("linf", demo.evaluation_epsilon, demo.evaluation_step, 50, restarts=10)
    fraction, _ = robust_accuracy(undefended, images, labels, attack)
    assert clean_accuracy(undefended, images, labels)[0] > 0.9
    assert fraction < 0.10


def test_attack_on_a_folded_twin_is_judged_by_the_model(undefended, digits):
    images, labels = digits.test.float_images(slice(0, 200)), digits.test.labels[:200]
    attack = PGD("linf", 0.04, 0.01, 20, restarts=2, generator=torch.Generator().manual_seed(0))
    plain, _ = robust_accuracy(undefended, images, labels, attack)
    twin, _ = robust_accuracy(
        undefended, images, labels, attack, attacked=models.folded(undefended)
    )
    assert twin == pytest.approx(plain, abs=0.02)

    class Confused(torch.nn.Module):
        def forward(self, x):
            return (
                torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 10).float()
                + 0 * x.sum()
            )

    fooled, _ = robust_accuracy(undefended, images, labels, attack, attacked=Confused())
    assert fooled == pytest.approx(plain, abs=0.02)


class Constant(torch.nn.Module):
    """Sure of one class, whatever it sees: nothing fools it, and nothing can be learnt from it."""

    def __init__(self, label: int):
        super().__init__()
        self.label = label

    def forward(self, x):
        logits = torch.zeros(len(x), 10) + 0 * x.sum()
        return logits + torch.nn.functional.one_hot(torch.tensor(self.label), 10)


@pytest.mark.parametrize(
    "attack",
    [
        PGD("linf", 0.2, 0.05, 20),
        AutoAttack("linf", 0.2, ("apgd-ce",)),
        JPEG(1.0, 50),
        ReColor(0.3, 50, lr=0.1),  # by its own rate, five steps go nowhere
        StAdv(0.5, 50),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_who_withstands_an_attack_on_the_twin_is_attacked_on_the_network(
    attack, undefended, digits
):
    """Never optimistic, however little the twin is worth."""
    of_one = (digits.test.labels == 3).nonzero().squeeze(1)[:20]
    images, labels = digits.test.float_images(of_one), digits.test.labels[of_one]
    clean, _ = clean_accuracy(undefended, images, labels)
    robust, _ = robust_accuracy(undefended, images, labels, attack, attacked=Constant(3))
    assert clean > 0.9
    assert robust < 0.5


def test_the_short_attack_leaves_the_draws_of_the_long_one_alone(undefended, digits):
    images, labels = digits.test.float_images(slice(0, 20)), digits.test.labels[:20]
    ends = []
    for twin in (models.folded(undefended), None):
        generator = torch.Generator().manual_seed(0)
        attack = ReColor(0.01, 10, generator=generator)  # so weak that all stand
        robust_accuracy(undefended, images, labels, attack, attacked=twin)
        ends.append(generator.get_state())
    assert torch.equal(*ends)


class Brighter(Base):
    """One's own: an attack of so many steps that is no dataclass."""

    def __init__(self, steps):
        super().__init__()
        object.__setattr__(self, "steps", steps)

    def _perturb(self, model, images, labels):
        return (images + 0.01 * self.steps).clamp(0, 1)


def test_an_attack_that_cannot_be_shortened_is_run_on_the_twin(undefended, batch):
    plain, mask = robust_accuracy(undefended, *batch, Brighter(30))
    twin = models.folded(undefended)
    found, same = robust_accuracy(undefended, *batch, Brighter(30), attacked=twin)
    assert found == plain < clean_accuracy(undefended, *batch)[0]
    assert torch.equal(mask, same)


def test_a_collapsed_network_is_evaluated(batch):
    """No image is right when clean, so that there is nothing to attack."""

    def refuse(model, images, labels):
        raise AssertionError(f"asked to attack {len(images)} images")

    class Wrong(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot((batch[1] + 1) % 10, 10).float()

    fraction, mask = robust_accuracy(Wrong(), *batch, refuse)
    assert fraction == 0
    assert not mask.any()


def test_a_network_that_has_diverged_has_no_accuracy(undefended, batch):
    broken = copy.deepcopy(undefended)
    broken.head.weight.data.mul_(float("inf"))
    with pytest.raises(
        ValueError, match="outputs are not all finite, its training has diverged: lower lr"
    ):
        clean_accuracy(broken, *batch)


def test_images_out_of_range(undefended, batch):
    with pytest.raises(ValueError, match=r"attacks need \[0, 1\]: divide bytes by 255"):
        clean_accuracy(undefended, 255 * batch[0], batch[1])
    with pytest.raises(ValueError, match="images span"):
        clean_accuracy(undefended, batch[0] * float("nan"), batch[1])


def test_labels_out_of_range(undefended, batch):
    with pytest.raises(ValueError, match=r"span 0..10, the model has 10 classes"):
        clean_accuracy(undefended, batch[0][:2], torch.tensor([0, 10]))
    with pytest.raises(ValueError, match="0 images"):
        clean_accuracy(undefended, batch[0][:0], batch[1][:0])
