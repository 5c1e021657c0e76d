import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from acslib import models
from acslib.attacks import FGSM, PGD
from acslib.attacks.pgd import NFGSM, project, uniform_in_ball
from acslib.evaluation import clean_accuracy, robust_accuracy
from acslib.objectives import Trades
from acslib.passes import frozen


def size(change, norm):
    return change.flatten(1).abs().amax(1) if norm == "linf" else change.flatten(1).norm(dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "options", [{}, {"restarts": 3}, {"early_stop": True, "restarts": 2}, {"random_start": False}]
)
def test_stays_in_the_ball_and_in_the_pixels(undefended, batch, norm, options):
    images, labels = batch
    epsilon = 0.1 if norm == "linf" else 0.8
    adversarial = PGD(norm, epsilon, epsilon / 3, 5, **options)(undefended, images, labels)
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert size(adversarial - images, norm).max() <= epsilon * (1 + 1e-5)
    assert not adversarial.requires_grad


def test_one_step_from_the_image_is_fgsm(tiny, batch):
    """Against the formula of Goodfellow et al. (2015), by plain autograd."""
    images, labels = batch[0].double(), batch[1]
    x = images.clone().requires_grad_()
    cross_entropy(tiny.eval()(x), labels, reduction="sum").backward()
    expected = (images + 0.07 * x.grad.sign()).clamp(0, 1)
    assert torch.equal(FGSM(0.1, 0.07, random_start=False)(tiny, images, labels), expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_matches_a_naive_loop(tiny, batch, norm):
    images, labels = batch[0][:8].double(), batch[1][:8]
    tiny.eval()
    x = images.clone()
    for _ in range(4):
        for i in range(len(x)):  # one sample at a time
            leaf = x[i : i + 1].clone().requires_grad_()
            gradient = torch.autograd.grad(cross_entropy(tiny(leaf), labels[i : i + 1]), leaf)[0]
            direction = gradient.sign() if norm == "linf" else gradient / gradient.norm()
            change = x[i : i + 1] + 0.05 * direction - images[i : i + 1]
            change = (
                change.clamp(-0.1, 0.1)
                if norm == "linf"
                else change * min(1, 0.1 / float(change.norm()))
            )
            x[i : i + 1] = (images[i : i + 1] + change).clamp(0, 1)
    got = PGD(norm, 0.1, 0.05, 4, random_start=False)(tiny, images, labels)
    torch.testing.assert_close(got, x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("early_stop", [True, False])
def test_model_is_left_as_found(undefended, batch, training, early_stop):
    undefended.train(training)
    undefended.stem[0].conv.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in undefended.state_dict().items()}
    flags = [parameter.requires_grad for parameter in undefended.parameters()]
    try:
        PGD("linf", 0.1, 0.05, 3, early_stop=early_stop, restarts=2)(undefended, *batch)
        assert all(module.training == training for module in undefended.modules())
        assert [parameter.requires_grad for parameter in undefended.parameters()] == flags
        assert all(
            torch.equal(value, before[key]) for key, value in undefended.state_dict().items()
        )
    finally:
        undefended.eval()
        undefended.stem[0].conv.weight.requires_grad_(True)


def test_model_is_left_as_found_after_an_error(undefended):
    def explode():
        with frozen(undefended, "train"):
            assert undefended.training
            raise KeyError("inside")

    with pytest.raises(KeyError):
        explode()
    assert not undefended.training
    assert all(parameter.requires_grad for parameter in undefended.parameters())


def test_train_mode_attacks_with_the_batch_statistics(batch):
    model = models.build("resnet18", channels=1, width=4, depths=(1, 1))
    images, labels = batch
    attack = PGD("linf", 0.1, 0.05, 2, random_start=False)
    assert not torch.equal(
        attack(model.train(), images, labels), attack(model.eval(), images, labels)
    )


def test_no_gradient_of_a_weight_is_computed(undefended, batch):
    seen = []
    hook = undefended.register_forward_hook(
        lambda model, *_: seen.extend(p.requires_grad for p in model.parameters())
    )
    PGD("linf", 0.1, 0.05, 2)(undefended, *batch)
    hook.remove()
    assert seen
    assert not any(seen)


class FooledInPassing(torch.nn.Module):
    """Right everywhere but where the mean pixel lies between 0.5 and 0.6; the loss always rises
    with the pixels.
    """

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        between = ((mean > 0.5) & (mean < 0.6)).float()
        return torch.stack([-0.01 * mean - between, 0.01 * mean - 1 + 2 * between], 1)


def test_an_iterate_that_fools_in_passing_counts():
    images, labels = torch.full((3, 1, 4, 4), 0.45), torch.zeros(3, dtype=torch.long)
    attack = PGD("linf", 0.4, 0.1, 3, random_start=False)
    model = FooledInPassing()
    assert (model(attack(model, images, labels)).argmax(1) == labels).all(), (
        "the last iterate fools nobody"
    )
    assert robust_accuracy(model, images, labels, attack)[0] == 0


def test_stopping_early_needs_classes(undefended, batch):
    images, labels = batch
    with pytest.raises(ValueError, match="labels are torch.float32: give class indices"):
        PGD("linf", 0.1, 0.05, 2, early_stop=True)(
            undefended, images, torch.full((len(labels), 10), 0.1)
        )


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("early_stop", [False, True])
def test_unusual_images(undefended, batch, norm, early_stop):
    """None at all, some that ask for a gradient, and others than float32."""
    images, labels = batch
    attack = PGD(norm, 0.1, 0.05, 2, early_stop=early_stop)
    assert len(attack(undefended, images[:0], labels[:0])) == 0
    assert not attack(undefended, images[:3].clone().requires_grad_(), labels[:3]).requires_grad
    low = attack(models.folded(undefended, torch.bfloat16), images[:3].bfloat16(), labels[:3])
    assert low.dtype == torch.bfloat16


def test_more_steps_and_restarts_are_stronger(undefended, batch):
    def loss(attack):
        torch.manual_seed(0)
        with torch.no_grad():
            return float(cross_entropy(undefended(attack(undefended, *batch)), batch[1]))

    assert loss(PGD("linf", 0.06, 0.02, 1)) < loss(PGD("linf", 0.06, 0.02, 10))
    assert loss(PGD("linf", 0.06, 0.02, 5)) <= loss(PGD("linf", 0.06, 0.02, 5, restarts=5)) + 1e-6


def test_early_stop_counts_any_iterate_of_any_restart(undefended, batch):
    """Against a plain loop that looks at every iterate of every restart."""
    images, labels = batch
    attack = PGD("linf", 0.08, 0.02, 6, restarts=3, generator=torch.Generator().manual_seed(5))
    fooled = torch.zeros(len(labels), dtype=torch.bool)
    with torch.no_grad():
        fooled |= undefended(images).argmax(1) != labels
    plain = PGD("linf", 0.08, 0.02, 1, random_start=False)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        x = (images + uniform_in_ball(images, "linf", 0.08, generator)).clamp(0, 1)
        for _ in range(6):
            x = project(x + (plain(undefended, x, labels) - x), images, "linf", 0.08)
            with torch.no_grad():
                fooled |= undefended(x).argmax(1) != labels
    _, mask = robust_accuracy(undefended, images, labels, attack)
    assert (
        abs(int(mask.sum()) - int((~fooled).sum())) <= 2
    )  # restarts draw for those left, so noise differs


def test_epsilon_zero_gives_the_images(undefended, batch, pgd):
    images, labels = batch
    assert torch.equal(PGD("l2", 0, 0.1, 10)(undefended, images, labels), images)


@given(epsilon=st.floats(0.01, 3), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_l2_start_is_in_the_ball_not_the_box(epsilon, seed):
    images = torch.zeros(50, 1, 4, 4)
    radii = size(uniform_in_ball(images, "l2", epsilon, torch.Generator().manual_seed(seed)), "l2")
    assert radii.max() <= epsilon * (1 + 1e-5)
    # uniform in 16 dimensions: P(radius < r) = (r / epsilon)^16, so half of the draws lie above
    # 0.9576 epsilon
    assert 8 <= int((radii > 0.9576 * epsilon).sum()) <= 42


def test_trades_inner_maximisation_climbs_its_own_loss(undefended, batch):
    images, labels = batch
    objective = Trades(PGD("linf", 0.1, 0.02, 10))
    with torch.no_grad():
        target = undefended(images).softmax(1)
        before = cross_entropy(undefended(images), target)
        after = cross_entropy(undefended(objective.perturb(undefended, images, labels)), target)
    assert after > before + 0.5


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((2, 1, 8, 8), 1.5), r"span \[1.5, 1.5\]"),
        (-torch.ones(2, 1, 8, 8), r"span \[-1, -1\]"),
        (torch.full((2, 1, 8, 8), float("nan")), "nan"),
        (torch.ones(2, 1, 8, 8, dtype=torch.uint8), "uint8"),
    ],
)
def test_images_outside_zero_one_are_refused(undefended, pgd, images, message):
    with pytest.raises(ValueError, match=message):
        pgd(undefended, images, torch.zeros(2, dtype=torch.long))


def test_labels_out_of_range_are_refused(undefended, pgd, batch):
    labels = batch[1].clone()
    labels[0] = 10
    with pytest.raises(
        ValueError, match=r"span 0..10, the model has 10 classes: they must lie in 0..9"
    ):
        pgd(undefended, batch[0], labels)


def test_bad_attack_is_refused():
    with pytest.raises(ValueError, match="l7"):
        PGD("l7", 0.1, 0.1, 1)
    with pytest.raises(ValueError, match="at least"):
        PGD("linf", -0.1, 0.1, 1)


@pytest.mark.parametrize("wrong", [math.inf, math.nan, -0.1, "8/255", None])
@pytest.mark.parametrize("name", ["epsilon", "step"])
def test_an_attacks_bounds_are_finite_numbers(name, wrong):
    """An infinite step times a gradient of 0 is no number, which counted as a success."""
    for norm in ("linf", "l2"):
        with pytest.raises(ValueError, match=f"{name} is .*: give a finite number of at least 0"):
            PGD(**{"norm": norm, "epsilon": 0.1, "step": 0.1, "steps": 2} | {name: wrong})
    if name == "epsilon":
        with pytest.raises(ValueError, match="epsilon is .*: give a finite number"):
            NFGSM(wrong)


@pytest.mark.parametrize(
    ("name", "wrong"), [("steps", 1.5), ("steps", -1), ("restarts", 0), ("restarts", "2")]
)
def test_an_attacks_counts_are_whole_numbers(name, wrong):
    with pytest.raises(ValueError, match=f"{name} is .*: give a whole number of at least [01]"):
        PGD(**{"norm": "linf", "epsilon": 0.1, "step": 0.1, "steps": 2} | {name: wrong})


def test_grey_images_are_not_stretched_to_a_models_channels():
    """Its normalisation would have made three of one, and nobody would have known."""
    model = models.build("resnet18", channels=3, width=4, depths=(1,)).eval()
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    for use in (
        lambda: PGD("linf", 0.1, 0.05, 2)(model, images, labels),
        lambda: clean_accuracy(model, images, labels),
    ):
        with pytest.raises(ValueError, match="images have 1 channel, and the model normalises 3"):
            use()
    assert clean_accuracy(model, images.expand(-1, 3, -1, -1), labels)[0] >= 0
