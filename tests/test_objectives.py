"""Losses against torch's functions, gradients against autograd's, by sample, in float64."""

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from acslib.attacks import PGD
from acslib.objectives import AdversarialTraining, Trades, Vanilla


@pytest.fixture
def setup(tiny, batch):
    images, labels = batch[0][:6].double(), batch[1][:6]
    torch.manual_seed(2)
    torch.nn.init.normal_(tiny.head.bias)
    adversarial = (images + 0.1 * torch.randn_like(images)).clamp(0, 1)
    return tiny.eval(), images, labels, adversarial


def last_layer_gradients_by_autograd(model, objective, images, labels, adversarial):
    """One backward pass a sample through the whole loss; the head's [weight, bias] gradient, row by
    row.
    """
    rows = []
    for i in range(len(labels)):
        one = slice(i, i + 1)
        loss = objective.loss(model, images[one], labels[one], adversarial[one]).sum()
        weight, bias = torch.autograd.grad(loss, [model.head.weight, model.head.bias])
        rows.append(torch.cat([weight, bias[:, None]], 1).flatten())
    return torch.stack(rows)


ATTACK = PGD("linf", 0.1, 0.05, 2)


@pytest.mark.parametrize(
    "objective",
    [
        Vanilla(),
        AdversarialTraining(ATTACK),
        Trades(ATTACK, 6.0, "ce"),
        Trades(ATTACK, 6.0, "kl"),
        Trades(ATTACK, 0.5),
    ],
    ids=["eq2", "eq18", "eq22-ce", "eq22-kl", "eq22-small-beta"],
)
def test_last_layer_gradients_are_autograds(setup, objective):
    expected = last_layer_gradients_by_autograd(setup[0], objective, *setup[1:])
    got = objective.gradients(*setup).dense()
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_trades_split_of_b1(setup):
    """Eq. (B4): the gradient with both arguments alive is the sum of the two with one of them
    frozen.
    """
    model, images, _, adversarial = setup

    def gradient(first, second):
        moved, clean = model(adversarial), model(images)
        loss = cross_entropy(first(moved), second(clean).softmax(1), reduction="sum")
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.head.parameters())])

    def alive(x):
        return x

    whole = gradient(alive, alive)
    split = gradient(alive, torch.detach) + gradient(torch.detach, alive)
    torch.testing.assert_close(whole, split)


def test_losses_are_the_equations(setup):
    model, images, labels, adversarial = setup
    clean, moved = model(images), model(adversarial)
    torch.testing.assert_close(
        Vanilla().loss(model, images, labels), cross_entropy(clean, labels, reduction="none")
    )
    torch.testing.assert_close(
        AdversarialTraining(ATTACK).loss(model, images, labels, adversarial),
        cross_entropy(moved, labels, reduction="none"),
    )
    p, q = clean.softmax(1), moved.softmax(1)
    ce = cross_entropy(clean, labels, reduction="none") - 6 * (p * q.log()).sum(1)
    torch.testing.assert_close(
        Trades(ATTACK, form="ce").loss(model, images, labels, adversarial), ce
    )
    kl = cross_entropy(clean, labels, reduction="none") + 6 * kl_div(
        q.log(), p, reduction="none"
    ).sum(1)
    torch.testing.assert_close(Trades(ATTACK).loss(model, images, labels, adversarial), kl)


def test_ce_and_kl_differ_by_the_clean_entropy(setup):
    model, images, labels, adversarial = setup
    p = model(images).softmax(1)
    entropy = -(p * p.log()).sum(1)
    gap = Trades(ATTACK, form="ce").loss(model, images, labels, adversarial) - Trades(
        ATTACK, form="kl"
    ).loss(model, images, labels, adversarial)
    torch.testing.assert_close(gap, 6 * entropy)


def test_perturb_is_used_when_nothing_is_given(undefended, batch):
    attack = PGD("linf", 0.1, 0.05, 3, random_start=False)
    objective = AdversarialTraining(attack)
    adversarial = attack(undefended, *batch)
    with torch.no_grad():
        torch.testing.assert_close(
            objective.loss(undefended, *batch),
            objective.loss(undefended, *batch, adversarial=adversarial),
        )
        assert (
            objective.loss(undefended, *batch).mean()
            > Vanilla().loss(undefended, *batch).mean() + 1
        )


def test_trades_attacks_the_prediction_that_its_gradients_start_from(setup):
    """Without an adversarial image, that of `perturb`; and the clean image is passed through the
    network once.
    """
    model, images, labels, _ = setup
    objective = Trades(PGD("linf", 0.1, 0.05, 1, random_start=False))
    expected = objective.gradients(model, images, labels, objective.perturb(model, images, labels))
    passes = []
    handle = model.head.register_forward_hook(lambda *_: passes.append(1))
    got = objective.gradients(model, images, labels)
    handle.remove()
    assert torch.equal(got.dense(), expected.dense())
    assert len(passes) == 3  # clean, the attack's step, adversarial


@pytest.mark.parametrize(
    "objective", [Vanilla(), AdversarialTraining(ATTACK), Trades(ATTACK)], ids=["2", "3", "4"]
)
def test_bad_images_and_labels_are_refused(undefended, batch, objective):
    images, labels = batch
    for method in (objective.loss, objective.gradients):
        with pytest.raises(ValueError, match=r"attacks need \[0, 1\]"):
            method(undefended, 255 * images, labels)
        with pytest.raises(ValueError, match=r"span .*the model has 10 classes"):
            method(undefended, images, labels + 5)


def test_unknown_form_of_trades():
    with pytest.raises(ValueError, match="form is 'KL': choose ce or kl"):
        Trades(ATTACK, form="KL")
