"""PGD with restarts as evaluation searches: against plain loops, and never on the lenient side."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acslib import models
from acslib.attacks import PGD
from acslib.attacks.common import margin, right
from acslib.attacks.restarts import FEWEST, finish, in_reach, search
from acslib.evaluation import clean_accuracy, robust_accuracy


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Counting(nn.Module):
    """How many images were shown, and in what batches."""

    def __init__(self, model):
        super().__init__()
        self.model, self.sizes = model, []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.model(x)


def strongest_by_a_loop(model, images, labels, attack):
    """Largest margins over all iterates of a climb, each image by itself to its first success."""
    tops = []
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        x, top = image.clone(), -torch.inf
        for _ in range(attack.steps + 1):
            leaf = x.clone().requires_grad_()
            logits = model(leaf)
            top = max(top, float(margin(logits, label).detach()))
            if top > 0:
                break
            loss = nn.functional.cross_entropy(logits, label)
            x = attack._ascend(x, torch.autograd.grad(loss, leaf)[0], image)
        tops.append(top)
    return torch.tensor(tops)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_climb_is_what_a_loop_over_images_finds(norm, batch_size, undefended, batch):
    images, labels = (part[:24].double() if i == 0 else part[:24] for i, part in enumerate(batch))
    model = models.folded(undefended).double()
    attack = PGD(norm, 0.08 if norm == "linf" else 0.5, 0.02, 12, random_start=False)
    expected = strongest_by_a_loop(model, images, labels, attack)
    with torch.no_grad():
        found = attack.climb(attack.steps, batch_size)(model, images, labels)
        assert torch.allclose(found.margins, expected, atol=1e-4)
        assert torch.allclose(margin(model(found.images), labels).float(), found.margins, atol=1e-4)
    assert 0 < int((found.margins > 0).sum()) < 24


def test_the_batch_stays_full_while_images_wait(undefended, batch):
    images, labels = batch
    model = Counting(undefended)
    attack = PGD("linf", 0.06, 0.02, 10, generator=seeded())
    with torch.no_grad():
        attack.climb(10, 8)(model, images, labels)
    full = [size == 8 for size in model.sizes]
    assert full == sorted(full, reverse=True)
    assert sum(full) > 0.6 * len(full)


def test_an_iterate_that_repeats_is_climbed_no_further():
    """A linear network is at its maximum after a few steps, and stays there or swings about it."""
    model = Counting(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    images = torch.rand(10, 1, 8, 8, generator=seeded()) * 0.6 + 0.2
    labels = torch.zeros(10, dtype=torch.long)
    with torch.no_grad():
        model.model[1].bias.copy_(torch.tensor([2.0, -2.0]))
        attack = PGD("linf", 0.1, 0.04, 1000, generator=seeded())
        found = attack.climb(1000, 10)(model, images, labels)
    assert len(model.sizes) < 12
    corner = (images + 0.1 * model.model[1].weight.diff(dim=0).sign().view(1, 1, 8, 8)).clamp(0, 1)
    with torch.no_grad():
        assert torch.allclose(found.margins, margin(model.model(corner), labels), atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 300), spread=st.floats(0, 3))
def test_who_is_out_of_reach_is_far(seed, n, spread):
    """Nobody out of reach would be fooled by the largest difference ever seen, twice over."""
    first = torch.rand(n, generator=seeded(seed)) * -10
    second = (first + spread * torch.randn(n, generator=seeded(seed + 1))).clamp(max=0)
    reach = in_reach(first, second)
    if n < FEWEST:
        assert reach.all()
    else:
        most = (first - second).abs().max()
        assert (torch.maximum(first, second)[~reach] + 2 * most <= 0).all()
        assert (torch.maximum(first, second)[reach] + 2 * most > 0).all()


def test_restarts_go_to_those_who_stand(undefended, digits):
    """As many are fooled as by ten whole restarts, with fewer images shown to the network."""
    images, labels = digits.test.float_images(), digits.test.labels
    images, labels = images[:240], labels[:240]
    attack = PGD("linf", 0.05, 0.0125, 30, restarts=8, generator=seeded())
    plain = torch.ones(240, dtype=torch.bool)
    shown = 0
    with torch.no_grad():
        plain &= right(undefended(images), labels)
        for _ in range(8):
            rows = plain.nonzero().squeeze(1)
            x = attack._begin(images[rows])
            for _ in range(31):
                shown += int(plain.sum())
                leaf = x.requires_grad_()
                with torch.enable_grad():
                    logits = undefended(leaf)
                    loss = nn.functional.cross_entropy(logits, labels[rows], reduction="sum")
                plain[rows] &= right(logits.detach(), labels[rows])
                x = attack._ascend(
                    x.detach(), torch.autograd.grad(loss, leaf)[0], images[rows]
                ).detach()
    model = Counting(undefended)
    _, mask = robust_accuracy(model, images, labels, attack)
    assert int(mask.sum()) == pytest.approx(int(plain.sum()), abs=3)
    assert 20 < int(mask.sum()) < 220
    assert sum(model.sizes) < 0.7 * shown


# --- a twin is a way to be fast, never a way to look robust


class Saturated(nn.Module):
    """The same labels as the network's, but no gradient to find others by."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).detach() * 1000 + 0 * x.sum()


def test_who_withstands_a_twin_is_tried_on_the_network_itself(undefended, batch):
    attack = PGD("linf", 0.15, 0.03, 50, restarts=2, generator=seeded())
    alone, _ = robust_accuracy(undefended, *batch, attack)
    twin, mask = robust_accuracy(undefended, *batch, attack, attacked=Saturated(undefended))
    assert clean_accuracy(undefended, *batch)[0] > alone + 0.5
    assert twin <= alone + 0.1
    assert mask.sum() == round(twin * len(mask))


def test_finishing_begins_at_what_the_twin_found(undefended, batch):
    """The strongest iterate of another search is no weaker afterwards."""
    images, labels = batch
    attack = PGD("linf", 0.05, 0.0125, 20, generator=seeded())
    with torch.no_grad():
        rows = right(undefended(images), labels)
        images, labels = images[rows], labels[rows]
        found = search(attack.climb(20, 64), 2, models.folded(undefended), images, labels)
        before = margin(undefended(found.images), labels)
        after = finish(attack.climb(5, 64), undefended, images, labels, found.images)
    assert (after.margins >= before - 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_twin_and_the_network_agree(dtype, undefended, digits):
    images, labels = digits.test.float_images(), digits.test.labels
    attack = PGD("linf", 0.05, 0.0125, 20, restarts=3, generator=seeded())
    _, alone = robust_accuracy(undefended, images, labels, attack)
    _, twin = robust_accuracy(
        undefended, images, labels, attack, attacked=models.folded(undefended, dtype)
    )
    assert int((twin & ~alone).sum()) <= 2
    assert int((twin ^ alone).sum()) <= 4


@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_evaluation_works_whatever_the_gradient_mode(around, undefended, batch):
    attack = PGD("linf", 0.05, 0.0125, 5, generator=seeded())
    with around():
        images, labels = batch[0].clone(), batch[1].clone()
        given = robust_accuracy(undefended, images, labels, attack)[0]
    attack.generator.manual_seed(0)
    assert given == robust_accuracy(undefended, *batch, attack)[0]
