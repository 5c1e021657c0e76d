"""Laws for every attack of ours, and `call`, which makes any attack safe to use."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import spectral_norm

from acslib import models
from acslib.attacks import FGSM, NFGSM, PGD, call
from acslib.attacks.alexnet import AlexNet
from acslib.attacks.autoattack import AutoAttack
from acslib.attacks.common import clipped, right, usable
from acslib.attacks.lpips import LPIPS
from acslib.attacks.perceptual import LPA, PPGD, FastLPA
from acslib.attacks.unseen import JPEG, ReColor, StAdv
from acslib.evaluation import clean_accuracy, robust_accuracy
from acslib.objectives import AdversarialTraining, Trades
from acslib.protocols import check_images, checked_labels

HALVES = (torch.float16, torch.bfloat16)


class Smooth(nn.Module):
    """An ordinary little network that follows its images' type."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(64, 3, generator=generator))

    def forward(self, x):
        return torch.tanh(x.flatten(1) @ self.weight.to(x.dtype))


class Pixels(nn.Module):
    """Distances between images themselves."""

    def embed(self, images):
        return images.flatten(1)


class Flat(Smooth):
    """Its gradient is zero everywhere."""

    def forward(self, x):
        return super().forward(x) * 0 + torch.tensor([1.0, 0, 0], dtype=x.dtype)


class Root(Smooth):
    """Black pixels make its gradient infinite, or NaN."""

    def forward(self, x):
        return torch.sqrt(x).flatten(1) @ self.weight.to(x.dtype)


class Norm(Smooth):
    """The distance from the clean image: its gradient there is NaN, and its value is right there
    only.
    """

    def __init__(self, images):
        super().__init__()
        self.register_buffer("centre", images)

    def forward(self, x):
        far = ((x - self.centre[: len(x)]) ** 2).flatten(1).sum(1).sqrt()
        return torch.stack([0.05 - far, far - 0.05, far * 0 - 1], dim=1)


class Broken(Smooth):
    """Gives NaN for whatever is not exactly the clean image."""

    def __init__(self, images):
        super().__init__()
        self.register_buffer("centre", images)

    def forward(self, x):
        logits = torch.tensor([1.0, 0, 0]) + 0 * super().forward(x)
        same = (x == self.centre[: len(x)]).flatten(1).all(1)
        return torch.where(same[:, None], logits, torch.nan)


def perceptual(kind):
    torch.manual_seed(0)
    return lambda seeded: kind(0.1, LPIPS(AlexNet("digits").eval()), iterations=2, generator=seeded)


PIXELS = {
    "pgd": (lambda g: PGD("linf", 0.1, 0.04, 3, generator=g), "linf", 0.1),
    "pgd l2": (lambda g: PGD("l2", 0.5, 0.3, 3, generator=g), "l2", 0.5),
    "pgd normal": (lambda g: PGD("l2", 0.5, 0.3, 3, start="normal", generator=g), "l2", 0.5),
    "stopping": (lambda g: PGD("l2", 0.5, 0.3, 3, 2, early_stop=True, generator=g), "l2", 0.5),
    "still": (lambda g: PGD("l2", 0.5, 0.3, 3, random_start=False, generator=g), "l2", 0.5),
    "fgsm": (lambda g: FGSM(0.1, 0.125, generator=g), "linf", 0.1),
    "nfgsm": (lambda g: NFGSM(0.1, generator=g), "linf", 0.3),
}
OTHERS = {
    "fast lpa": perceptual(FastLPA),
    "lpa": perceptual(LPA),
    "ppgd": perceptual(PPGD),
    "stadv": lambda g: StAdv(iterations=3, generator=g),
    "recolor": lambda g: ReColor(iterations=2, generator=g),
    "jpeg": lambda g: JPEG(iterations=3, generator=g),
    "autoattack": lambda g: AutoAttack("l2", 0.5, ("apgd-ce",), generator=g),
}
ALL = {name: make for name, (make, *_) in PIXELS.items()} | OTHERS


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(seed, dtype=torch.float32, n=4):
    """Noise with black, white and some wholly black images among it."""
    images = torch.rand(n, 1, 8, 8, generator=seeded(seed)) * 1.6 - 0.3
    images[0] = 0
    return images.clamp(0, 1).to(dtype)


def network(kind, images):
    return kind(images) if kind in (Norm, Broken) else kind()


def labels_of(model, images):
    with torch.no_grad():
        return model(images).nan_to_num(0).argmax(1)


@pytest.mark.parametrize("kind", [Smooth, Flat, Root, Norm, Broken])
@pytest.mark.parametrize("name", ALL)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_attack_returns_images(name, kind, seed):
    images = pictures(seed)
    model = network(kind, images)
    labels, given_images = labels_of(model, images), images.clone()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = ALL[name](seeded(seed))(model, images, labels)
    assert found.isfinite().all()
    assert torch.equal(found, found.clamp(0, 1))
    assert (found.shape, found.dtype, found.device) == (images.shape, images.dtype, images.device)
    assert not found.requires_grad
    assert torch.equal(images, given_images)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert model.training


@pytest.mark.parametrize("kind", [Smooth, Flat, Root])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("name", PIXELS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_pixel_attacks_stay_in_their_ball_in_every_precision(name, dtype, kind, seed):
    make, norm, radius = PIXELS[name]
    images = pictures(seed, dtype)
    model = kind()
    found = make(seeded(seed))(model, images, labels_of(model, images))
    assert found.dtype == dtype
    assert found.isfinite().all()
    change = (found.double() - images.double()).flatten(1)
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    rounding = torch.finfo(dtype).eps / 2 if dtype in HALVES else 0  # of a pixel near 1
    assert size.max() <= radius * (1 + 1e-5) + rounding * (1 if norm == "linf" else 8)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", OTHERS)
def test_what_half_precision_cannot_do_is_refused(name, dtype):
    with pytest.raises(ValueError, match=r"needs float32.*images.float\(\)"):
        ALL[name](seeded())(Smooth(), pictures(0, dtype), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("name", [name for name in ALL if name != "autoattack"])
def test_float64_is_right(name):
    images = pictures(1)
    model = Smooth()
    labels = labels_of(model, images)
    if name in ("fast lpa", "lpa", "ppgd"):
        attack = ALL[name](seeded())
        attack.distance.double()
    else:
        attack = ALL[name](seeded())
    found = attack(model.double(), images.double(), labels)
    assert found.dtype == torch.float64
    assert found.isfinite().all()


def test_float64_sees_what_float32_rounds_away():
    """A probability of exp(-120) is 0 in float32, and has a gradient in float64."""

    class Faint(nn.Module):
        def forward(self, x):
            total = x.flatten(1).sum(1)
            return torch.stack([0 * total + 120, total - 32], 1)

    images = torch.full((2, 1, 8, 8), 0.5, dtype=torch.float64)
    found = PGD("linf", 0.1, 0.1, 1, random_start=False)(Faint(), images, torch.tensor([0, 0]))
    assert torch.allclose(found, images + 0.1)


# --- NaN is nobody's success


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), nan=st.floats(0, 1), inf=st.floats(0, 0.3))
def test_a_usable_gradient_is_finite_and_points_the_same_way(seed, nan, inf):
    clean = torch.randn(6, 1, 4, 4, generator=seeded(seed))
    assert usable(clean) is clean
    where = torch.rand(clean.shape, generator=seeded(seed + 1))
    gradient = torch.where(where < inf, torch.inf * clean.sign(), clean)
    gradient = torch.where(where > 1 - nan, torch.nan, gradient)
    found = usable(gradient)
    assert found.isfinite().all()
    for one, was in zip(found, gradient, strict=True):
        if was.isnan().all():
            assert one.abs().sum() > 0
        elif was.isinf().any():
            assert torch.equal(one, was.sign().where(was.isinf(), torch.zeros(())))
        else:
            assert torch.equal(one, was.nan_to_num(0))


def test_fast_lpa_looks_at_no_value():
    """On a GPU a look waits for the device. A tensor on "meta" has no values: a look at one raises
    an error, as the one does by which LPA stops early.
    """
    model = Smooth().to("meta")
    images = torch.rand(2, 1, 8, 8, device="meta")
    labels = torch.zeros(2, dtype=torch.long, device="meta")
    assert FastLPA(0.5, Pixels())._perturb(model, images, labels).shape == images.shape
    with pytest.raises(RuntimeError, match="meta"):
        LPA(0.5, Pixels(), iterations=1)._perturb(model, images, labels)


@given(
    values=st.lists(st.sampled_from([-2.0, -1, 0, 0.5, 1, 2]) | st.floats(-3, 3), min_size=1),
    low=st.sampled_from([-torch.inf, -1, 0]),
    high=st.sampled_from([0.5, 1, torch.inf]),
)
@settings(deadline=None)
def test_clipped_is_clamp_and_hears_what_lies_on_its_bounds(values, low, high):
    x = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    found = clipped(x, low, high)
    assert torch.equal(found, x.clamp(low, high))
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert gradient.tolist() == [float(low <= value <= high) for value in x.tolist()]


@pytest.mark.parametrize("attack", [StAdv(0.2), ReColor(), JPEG()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_black_and_white_pixels_are_attacked(attack, channels):
    """Images of nothing else move, too."""
    black_and_white = (torch.rand(2, channels, 16, 16, generator=seeded()) > 0.5).float()
    weight = torch.randn(channels, 16, 16, generator=seeded())

    def heard(images):
        start = torch.zeros_like(attack.start(images)).requires_grad_()
        (attack.render(images, start) * weight).sum().backward()
        return (start.grad != 0).float().mean()

    assert heard(black_and_white) > 0


def test_logits_that_are_no_numbers_are_never_right():
    logits = torch.tensor([[1.0, 0], [torch.nan, 0], [torch.inf, 0], [1, -torch.inf], [1, 2]])
    assert right(logits, torch.zeros(5, dtype=torch.long)).tolist() == [True] + [False] * 4


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, Norm) for name in (*PIXELS, "stadv", "jpeg")]
    # two begin at the clean image, where Broken's gradient is 0 rather than NaN
    + [(name, Broken) for name in (*PIXELS, "jpeg") if name != "still"],
)
def test_nobody_is_robust_by_nan(name, kind):
    """Argmax of NaN is 0, which is the label of all these images."""
    images = torch.rand(5, 1, 8, 8, generator=seeded(3)) * 0.8 + 0.1
    labels = torch.zeros(5, dtype=torch.long)
    model = kind(images)
    assert clean_accuracy(model, images, labels)[0] == 1
    attack = ALL[name](seeded())
    if name == "stadv":
        attack = StAdv(0.3, iterations=3, generator=seeded())
    assert robust_accuracy(model, images, labels, attack)[0] == 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_root_at_black_is_no_defence(norm, digits, undefended):
    """The same network with and without a small constant under its square root."""

    class Rooted(nn.Module):
        def __init__(self, constant):
            super().__init__()
            self.constant, self.net = constant, undefended

        def forward(self, x):
            return self.net((x**2 + self.constant).sqrt())

    images, labels = digits.test.float_images(slice(0, 40)), digits.test.labels[:40]
    attack = {"linf": PGD("linf", 0.15, 0.03, 10), "l2": PGD("l2", 1.2, 0.3, 10)}[norm]
    for each in (attack, attack.__class__(norm, attack.epsilon, attack.step, 10, 1, False)):
        plain, rooted = (
            robust_accuracy(Rooted(constant), images, labels, each)[0] for constant in (1e-12, 0)
        )
        assert rooted <= plain + 0.05


# --- one's own attack


class Torchattacks:
    """A PGD as torchattacks has them: built on a network, called with images and labels."""

    def __init__(self, model, eps=0.15, alpha=0.03, steps=10, train=False):
        self.model, self.eps, self.alpha, self.steps = model, eps, alpha, steps
        self.device = next(model.parameters()).device
        self.train_mode = train

    def forward(self, images, labels):
        images, labels = images.clone().detach(), labels.clone().detach()
        adv = (images + torch.empty_like(images).uniform_(-self.eps, self.eps)).clamp(0, 1).detach()
        for _ in range(self.steps):
            adv.requires_grad = True
            cost = cross_entropy(self.model(adv), labels)
            grad = torch.autograd.grad(cost, adv, retain_graph=False, create_graph=False)[0]
            adv = adv.detach() + self.alpha * grad.sign()
            adv = (images + (adv - images).clamp(-self.eps, self.eps)).clamp(0, 1).detach()
        return adv

    def __call__(self, inputs, labels=None, *args, **kwargs):
        given_training = self.model.training
        self.model.train(self.train_mode)
        adversarial = self.forward(inputs, labels, *args, **kwargs)
        self.model.train(given_training)
        return adversarial


def backward_attack(model, images, labels):
    """As most tutorials have it: loss.backward(), gradients of the weights and all."""
    images.requires_grad_()
    model.zero_grad(set_to_none=False)
    cross_entropy(model(images), labels).backward()
    return (images + 0.15 * images.grad.sign()).clamp(0, 1).detach()


def foreign(kind, model):
    return {
        "torchattacks": lambda: Torchattacks(model),
        "torchattacks in training mode": lambda: Torchattacks(model, train=True),
        "function": lambda: backward_attack,
        "lambda": lambda: lambda model, images, labels: Torchattacks(model)(images, labels),
    }[kind]()


FOREIGN = ["torchattacks", "torchattacks in training mode", "function", "lambda"]


@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", [*FOREIGN, *ALL])
def test_any_attack_works_whatever_the_gradient_mode(kind, around, undefended, batch):
    images, labels = batch[0][:8], batch[1][:8]
    attack = foreign(kind, undefended) if kind in FOREIGN else ALL[kind](seeded())
    was = images.clone()
    undefended.zero_grad()
    parameters = list(undefended.parameters())
    parameters[0].grad = gradient = torch.ones_like(parameters[0])
    before = {key: value.clone() for key, value in undefended.state_dict().items()}
    try:
        with around():
            found = call(attack, undefended, images.clone(), labels.clone())
            if kind not in FOREIGN:
                attack(undefended, images.clone(), labels.clone())
        assert found.shape == images.shape
        assert not found.requires_grad
        assert torch.equal(images, was)
        assert parameters[0].grad is gradient
        assert (gradient == 1).all()
        assert all(p.grad is None and p.requires_grad for p in parameters[1:])
        assert not undefended.training
        after = undefended.state_dict()
        assert all(torch.equal(value, after[key]) for key, value in before.items())
    finally:
        undefended.zero_grad()


@pytest.mark.parametrize("kind", ["torchattacks", "function", "lambda"])
def test_foreign_attacks_measure_as_ours_do(kind, undefended, batch):
    ours = robust_accuracy(undefended, *batch, PGD("linf", 0.15, 0.03, 10))[0]
    theirs = robust_accuracy(undefended, *batch, foreign(kind, undefended))[0]
    assert theirs == pytest.approx(ours, abs=0.25 if kind == "function" else 0.05)
    assert theirs < clean_accuracy(undefended, *batch)[0] - 0.4


def test_an_attack_on_another_network_is_no_evaluation(undefended, batch):
    with pytest.raises(ValueError, match="built on another network"):
        robust_accuracy(undefended, *batch, Torchattacks(Smooth()))


def test_an_attack_on_the_network_inside_is_evaluated_where_it_answers_the_same(batch):
    """`adapt` shares the weights: with a normalisation it is another function."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    attack = Torchattacks(net, steps=2)
    assert 0 <= robust_accuracy(models.adapt(net), *batch, attack)[0] <= 1
    normalising = models.adapt(net, mean=[0.5], std=[0.1])
    with pytest.raises(ValueError, match="built on another network than the one to be evaluated"):
        robust_accuracy(normalising, *batch, attack)


def test_objectives_take_attacks_that_hold_no_network(undefended, batch):
    """Inside an attack's frozen network, too, as training calls them."""
    with torch.no_grad():
        found = call(AdversarialTraining(PGD("linf", 0.1, 0.1, 1)).attack, undefended, *batch)
        target = undefended(batch[0]).softmax(1)
    assert found.shape == batch[0].shape
    assert call(Trades(FGSM(0.1, 0.1)).attack, undefended, batch[0], target).shape == found.shape


def test_spectral_norm_is_left_as_found():
    model = nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(64, 3))).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    call(PGD("linf", 0.1, 0.05, 3), model, pictures(0), torch.zeros(4, dtype=torch.long))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda x: (x, 1), "returned a tuple"),
        (lambda x: x[:1], r"shape \(1, 1, 8, 8\): it must keep that of the images, \(4, 1, 8, 8\)"),
        (lambda x: x.double(), "dtype torch.float64"),
        (lambda x: x * torch.nan, "must lie in"),
        (lambda x: x + 1, "must lie in"),
        (lambda x: x - torch.inf, "must lie in"),
    ],
)
def test_what_an_attack_returns_is_checked(returned, message):
    images, labels = pictures(0), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        call(lambda model, images, labels: returned(images), Smooth(), images, labels)


def test_what_is_no_attack_is_refused():
    with pytest.raises(TypeError, match="the attack is a str"):
        call("pgd", Smooth(), pictures(0), torch.zeros(4, dtype=torch.long))


def test_rounding_outside_the_pixels_is_brought_back():
    images = pictures(0)
    found = call(lambda m, x, y: x * (1 + 1e-7), Smooth(), images, torch.zeros(4).long())
    assert torch.equal(found, found.clamp(0, 1))


# --- labels and images


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_whole_labels_of_any_type_are_converted(dtype, undefended, batch):
    images, labels = batch
    attack = PGD("linf", 0.1, 0.05, 3, generator=seeded())
    expected = attack(undefended, images, labels)
    attack.generator.manual_seed(0)
    assert torch.equal(attack(undefended, images, labels.to(dtype)), expected)
    given = clean_accuracy(undefended, images, labels.to(dtype))
    assert given[0] == clean_accuracy(undefended, images, labels)[0]
    assert robust_accuracy(undefended, images, labels.to(dtype), attack)[1].shape == (64,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y[:, None], r"shape \(4, 1\)"),
        (lambda y: y[:3], "4 images and 3 labels"),
        (lambda y: y.float(), "labels are torch.float32: give"),
        (lambda y: y > 0, "labels are torch.bool"),
        (lambda y: y - 1, "span -1..-1"),
        (lambda y: y + 3, "span 3..3, the model has 3 classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change, message):
    images, labels = pictures(0) * 0.5, change(torch.zeros(4, dtype=torch.long))
    model = nn.Module()
    model.head, model.forward = nn.Linear(64, 3), lambda x: model.head(x.flatten(1))
    plain = nn.Sequential(nn.Flatten(), model.head)  # whose classes are known from its logits only
    for each in (model, plain):
        with pytest.raises(ValueError, match=message):
            clean_accuracy(each, images, labels)
        with pytest.raises(ValueError, match=message):
            robust_accuracy(each, images, labels, PGD("linf", 0.1, 0.1, 1))
    for name in OTHERS:
        with pytest.raises(ValueError, match=message):
            ALL[name](seeded())(model, images, labels)
    with pytest.raises(ValueError, match=message):
        checked_labels(labels, 4, 3)


def test_a_pixel_just_outside_is_printed_in_full():
    with pytest.raises(ValueError, match=r"span \[0.25, 1.00000011920\d*\], attacks need"):
        check_images(torch.tensor([0.25, 1.0000001]))
    with pytest.raises(ValueError, match=r"span \[-1e-09, 1\]"):
        check_images(torch.tensor([-1e-9, 1.0]))


# --- the two starts, and N-FGSM


def test_trades_own_start_is_a_small_normal_one():
    images = torch.full((50, 1, 8, 8), 0.5)
    attack = PGD("linf", 0.1, 0.1, 0, start="normal", generator=seeded())
    noise = attack(Smooth(), images, torch.zeros(50, dtype=torch.long)) - images
    again = torch.randn(images.shape, generator=seeded()) * 0.001
    assert torch.allclose(noise, again, atol=1e-7)
    with pytest.raises(ValueError, match="start is 'gauss': choose uniform or normal"):
        PGD("linf", 0.1, 0.1, 1, start="gauss")


def test_nfgsm_against_its_formula(tiny, batch):
    """De Jorge et al. (2022), Algorithm 1: noise in k * epsilon, a step, no clipping but to the
    pixels.
    """
    images, labels = batch[0].double(), batch[1]
    noise = (2 * torch.rand(images.shape, generator=seeded(), dtype=images.dtype) - 1) * 2 * 0.05
    x = (images + noise).clamp(0, 1).requires_grad_()
    cross_entropy(tiny.eval()(x), labels).backward()
    expected = (x + 0.05 * x.grad.sign()).clamp(0, 1).detach()
    found = NFGSM(0.05, generator=seeded())(tiny, images, labels)
    assert torch.allclose(found, expected, atol=1e-12)
    assert (found - images).abs().max() > 0.1  # beyond epsilon, as the method wants it
    longer = NFGSM(0.05, 0.1, noise=0.0)(tiny, images, labels)
    assert (longer - images).abs().max() == pytest.approx(0.1)
    with pytest.raises(ValueError, match="at least 0"):
        NFGSM(0.1, noise=-1)


# --- what is loaded


def test_attacks_load_nothing_optional():
    """Each optional package is imported where it is used."""
    program = (
        "import sys, acslib, acslib.evaluation, acslib.attacks, acslib.attacks.autoattack,"
        " acslib.attacks.perceptual, acslib.attacks.unseen, acslib.attacks.lpips;"
        "print(sorted({'pyautoattack', 'sklearn', 'pandas', 'torchvision', 'matplotlib', 'yaml',"
        " 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
