"""Scores against their definitions, sample by sample."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from acslib.attacks import PGD
from acslib.gradients import LastLayerGradients
from acslib.objectives import AdversarialTraining, Trades
from acslib.selectors import (
    BatchWise,
    PerClass,
    Score,
    Unweighted,
    easiest,
    el2n,
    entropy,
    hardest,
    input_gradient_norms,
)


def scored(n=40, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(n, classes, generator=generator, dtype=torch.float64).softmax(1)
    labels = torch.randint(classes, (n,), generator=generator)
    return LastLayerGradients(
        p - torch.nn.functional.one_hot(labels, classes),
        torch.rand(n, 6, generator=generator, dtype=torch.float64),
        labels=labels,
        losses=torch.rand(n, generator=generator),
        predictions=p,
        input_norms=torch.rand(n, generator=generator),
    )


def brute_force(gradients, name):
    """Higher is kept."""
    values = []
    for i in range(len(gradients)):
        p, y = gradients.predictions[i].tolist(), int(gradients.labels[i])
        values.append(
            {
                "el2n": math.sqrt(sum((q - (c == y)) ** 2 for c, q in enumerate(p))),
                "entropy": -sum(q * math.log(q) for q in p),
                "hardest": float(gradients.losses[i]),
                "easiest": -float(gradients.input_norms[i]),
            }[name]
        )
    return values


@pytest.mark.parametrize("selector", [el2n, entropy, hardest, easiest], ids=lambda s: s.name)
def test_the_highest_scores_are_kept(selector):
    gradients = scored()
    expected = brute_force(gradients, selector.name)
    assert selector.scores(gradients).tolist() == pytest.approx(expected)
    found = selector(gradients, 10)
    best = sorted(range(40), key=lambda i: -expected[i])[:10]
    assert found.picks.tolist() == best
    assert found.weights.tolist() == [4.0] * 10


def test_ties_go_to_the_lower_index():
    level = Score("level", lambda gradients: torch.zeros(len(gradients)))
    assert level(scored(), 3).picks.tolist() == [0, 1, 2]
    assert len(level(scored(), 0)) == 0


def test_scores_are_averaged_by_group():
    gradients = scored(43)
    value = BatchWise(hardest, 5, seed=1)
    groups = value.assignment(gradients)
    means = torch.stack([gradients.losses[groups == group].mean() for group in range(9)])
    best = means.topk(5).indices  # ceil(20 of 43 samples, in 9 groups)
    found = value(gradients, 20)
    assert torch.equal(found.indices, torch.isin(groups, best).nonzero().squeeze(1))
    assert found.weights.unique().tolist() == [9 / 5]


def test_scores_go_per_class_and_unweighted():
    gradients = scored()
    found = PerClass(el2n)(gradients, 20)
    for label in range(5):
        members = (gradients.labels == label).nonzero().squeeze(1)
        inside = torch.isin(found.indices, members)
        own = el2n(gradients[members], int(inside.sum()))
        assert torch.equal(members[own.indices], found.indices[inside])
    assert torch.equal(Unweighted(el2n)(gradients, 9).picks, el2n(gradients, 9).picks)


def test_a_perfect_prediction_has_no_entropy_and_no_error():
    labels = torch.tensor([0, 1])
    gradients = LastLayerGradients(torch.zeros(2, 2), labels=labels, predictions=torch.eye(2))
    assert entropy.scores(gradients).tolist() == [0, 0]
    assert el2n.scores(gradients).tolist() == [0, 0]


@pytest.mark.parametrize("objective", [AdversarialTraining, Trades])
def test_objectives_give_the_prediction_for_the_image_trained_on(tiny, batch, objective):
    images, labels = batch[0][:6].double(), batch[1][:6]
    phi = objective(PGD("linf", 0.1, 0.05, 1, generator=torch.Generator()))
    model = tiny.eval()
    adversarial = phi.perturb(model, images, labels)
    gradients = phi.gradients(model, images, labels, adversarial)
    torch.testing.assert_close(gradients.predictions, model(adversarial).softmax(1).detach())


def test_input_gradient_norms_are_those_of_each_image_alone(tiny, batch):
    images, labels = batch[0][:5].double(), batch[1][:5]
    model = tiny.eval()
    expected = []
    for image, label in zip(images, labels, strict=True):
        one = image[None].clone().requires_grad_()
        cross_entropy(model(one), label[None]).backward()
        expected.append(float(one.grad.norm()))
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        found = input_gradient_norms(model, images, labels)
    assert found.tolist() == pytest.approx(expected)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not images.requires_grad


def test_extras_stay_with_their_samples():
    gradients = scored()
    rows = torch.tensor([7, 3])
    for changed in (
        gradients[rows],
        gradients.to(torch.float32)[rows],
        gradients.bias_only()[rows],
    ):
        for name, values in gradients.extras.items():
            assert torch.equal(getattr(changed, name), values[rows])
    with pytest.raises(ValueError, match="input_norms have shape"):
        LastLayerGradients(torch.eye(3), input_norms=torch.ones(2))
    with pytest.raises(ValueError, match="predictions have shape"):
        LastLayerGradients(torch.eye(3), predictions=torch.ones(3))


def test_what_is_missing_or_not_finite_is_said():
    bare = LastLayerGradients(torch.eye(4), labels=torch.arange(4))
    losses = LastLayerGradients(torch.eye(4), losses=torch.tensor([1.0, 2.0, math.nan, 0.0]))
    refused = {
        "el2n needs the samples' predictions": lambda: el2n(bare, 2),
        "entropy needs the samples' predictions": lambda: entropy(bare, 2),
        "hardest needs the samples' losses": lambda: hardest(bare, 2),
        "easiest needs the samples' input_norms": lambda: easiest(torch.eye(4), 2),
        "1 of 4 scores of hardest are not finite, the first is number 2": lambda: hardest(
            losses, 2
        ),
        "budget is 5": lambda: Score("flat", lambda g: torch.ones(len(g)))(bare, 5),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()
