"""What a user may hand over: refused in one sentence before anything is trained, or right."""

import copy
import dataclasses
import functools
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy, cross_entropy, kl_div, linear, log_softmax

from acslib import data as datasets
from acslib import gradients, models
from acslib.attacks import PGD
from acslib.evaluation import clean_accuracy
from acslib.gradients import LastLayerGradients
from acslib.objectives import (
    AdversarialTraining,
    Objective,
    Trades,
    Vanilla,
    gradients_by_autograd,
    gradients_of,
)
from acslib.schedule import full, plan
from acslib.selectors import (
    AdaptiveRandom,
    BatchWise,
    BiasOnly,
    Coreset,
    PerClass,
    Random,
    Score,
    Unweighted,
    easiest,
    el2n,
    entropy,
    gradmatch,
    hardest,
    random,
)
from acslib.selectors.coreset import selector_name
from acslib.training import State, Training, everything, fit

ATTACK = PGD("linf", 0.1, 0.05, 2)


class Plain(nn.Module):
    """The least that is a model."""

    def __init__(self, bias=True, classes=10):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU())
        self.head = nn.Linear(12, classes, bias=bias)

    def features(self, images):
        return self.body(images)

    def forward(self, images):
        return self.head(self.features(images))


@pytest.fixture(scope="module")
def few(digits):
    return dataclasses.replace(digits, train=digits.train[slice(0, 100)])


def train(model, data, objective=None, **options):
    """`fit` with these, stopping where an epoch has been trained: nothing may have been before."""
    optimiser = torch.optim.SGD(model.parameters(), 0.1) if list(model.parameters()) else None
    seen = []
    options = {"plan": plan(2, 0.5, 0.5, 1), "selector": gradmatch, "monitor": 0} | options
    training = Training(objective or Vanilla(), generator=torch.Generator(), **options)
    try:
        return fit(State(model, optimiser), data, training, seen.append)
    except ValueError:
        assert not seen
        raise


class Unused(Plain):
    def forward(self, images):
        return self.features(images)[:, :10]


class Convolved(Plain):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(12, 10, 1)


class Returned(Plain):
    """Gives its logits in something, perhaps in training mode alone."""

    def __init__(self, wrap, always=True):
        super().__init__()
        self.wrap, self.always = wrap, always

    def forward(self, images):
        logits = super().forward(images)
        return self.wrap(logits) if self.always or self.training else logits


class Reshaped(Plain):
    def features(self, images):
        return self.body(images)[:, :6]


class Listed(Plain):
    def features(self, images):
        return [self.body(images)]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "no features and no head: .*adapt"),
        (nn.DataParallel(Plain()), "wrapped in DataParallel: give model.module"),
        (Unused(), r"output is not head\(features\(images\)\)"),
        (Convolved(), "head is Conv2d: it must be the last layer, nn.Linear"),
        (Reshaped(), r"features have shape \(4, 6\), the head takes \(4, 12\)"),
        (Returned(lambda z: (z, z)), r"output is tuple: return its logits, .* \(4, classes\)"),
        (Returned(lambda z: {"logits": z}, always=False), "output is dict: return its logits"),
        (Returned(lambda z: z[..., None]), r"output has shape \(4, 10, 1\): return logits of"),
        (Plain().double(), "Plain of torch.float64 weights does not take .* float32 of shape"),
        (Listed(), r"features\(images\) are a list: return a tensor of shape \(4, 12\)"),
        (
            Plain(classes=7),
            r"data.train: labels span 0..9, the model has 7 classes: they must lie in 0..6",
        ),
    ],
)
def test_models(few, model, message):
    with pytest.raises(ValueError, match=message):
        train(model, few)


class Scalar(Vanilla):
    def loss(self, model, images, labels, adversarial=None):
        return cross_entropy(model(images), labels)


class Integer(Vanilla):
    def loss(self, model, images, labels, adversarial=None):
        return (model(images).argmax(1) == labels).long()


class Shrunk(Vanilla):
    def perturb(self, model, images, labels):
        return images[:, :, 1:]


class Bright(Vanilla):
    def perturb(self, model, images, labels):
        return images + 1


class NotAnImage(Vanilla):
    def perturb(self, model, images, labels):
        return None


class Together(Objective):
    """A loss of the batch, whatever its shape says."""

    def loss(self, model, images, labels, adversarial=None):
        losses = cross_entropy(model(images), labels, reduction="none")
        return losses / losses.sum()


class Elsewhere(Vanilla):
    def gradients(self, model, images, labels, adversarial=None):
        return super().gradients(model, images, labels.roll(1), adversarial)


class OfThree(Vanilla):
    def loss(self, model, images, labels):
        return cross_entropy(model(images), labels, reduction="none")


class Detached(Vanilla):
    def loss(self, model, images, labels, adversarial=None):
        return super().loss(model, images, labels, adversarial).detach()


class Functional(Vanilla):
    def loss(self, model, images, labels, adversarial=None):
        logits = linear(model.features(images), model.head.weight, model.head.bias)
        return cross_entropy(logits, labels, reduction="none")


class Decayed(Vanilla):
    def loss(self, model, images, labels, adversarial=None):
        decay = model.head.weight.square().sum()
        return super().loss(model, images, labels, adversarial) + decay


class Bound:
    """An attack with a network of its own, as torchattacks' are."""

    def __init__(self, model):
        self.model = model

    def __call__(self, images, labels):
        return images


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Scalar(), r"loss has shape \(\): return one number for each of the 4 samples"),
        (Integer(), "loss is torch.int64: return a floating-point tensor"),
        (Shrunk(), r"perturb gave \(4, 1, 7, 8\): return images of shape \(4, 1, 8, 8\)"),
        (Bright(), r"images span \[1, 2\]"),
        (NotAnImage(), "perturb gave .*NoneType"),
        (Together(), "depends on other samples' logits"),
        (Elsewhere(), r"gradients are not those of its loss \(relative error"),
        (Objective(), "Objective has no loss"),
        (Vanilla, r"objective is the class Vanilla: make one, like Vanilla\(\)"),
        (lambda model, images, labels: images, "give an object with perturb"),
        (Functional(), "the loss does not pass through the model's head"),
        (Decayed(), "uses the weights of the model's head besides its outputs"),
        (
            OfThree(),
            r"the loss of .*objective cannot be called as loss\(model, images, labels, adv",
        ),
        (Detached(), "loss has no gradient with respect to the model's weights"),
        (AdversarialTraining(Bound(Plain())), "Bound was built on another network"),
    ],
)
def test_objectives(few, objective, message):
    """What is trained, and what is selected by."""
    error = NotImplementedError if "has no loss" in message else ValueError
    with pytest.raises(error, match=message):
        train(Plain(), few, objective)
    message = message.replace("objective is the class", "selection_objective is the class")
    with pytest.raises(error, match=message):
        train(Plain(), few, Vanilla(), selection_objective=objective)


def test_an_attack_on_the_network_without_its_normalisation_is_refused(few):
    """It shares the weights, and attacks another function."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert train(models.adapt(net), few, AdversarialTraining(Foreign(net))).epoch == 2
    normalising = models.adapt(net, mean=[0.5], std=[0.1])
    with pytest.raises(ValueError, match="Foreign was built on another network"):
        train(normalising, few, AdversarialTraining(Foreign(net)))
    assert train(normalising, few, AdversarialTraining(Foreign(normalising))).epoch == 2


@dataclasses.dataclass
class Blind:
    """Needs no gradients, so that it can be tried on all samples."""

    choose: object
    needs_gradients = False

    def __call__(self, samples, budget):
        return self.choose(samples, budget)


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (None, "selects coresets and there is no selector"),
        ("gradmatch", "the selector is 'gradmatch': give a callable"),
        (
            lambda g, k: torch.arange(k),
            "selector returned a Tensor; it must return a selectors.Coreset",
        ),
        (lambda g, k: (torch.arange(k), torch.ones(k)), "selector returned a tuple"),
        (lambda g, k: None, "selector returned a NoneType"),
        (
            Score("wide", lambda g: g.dense()),
            r"scores of wide are \(100, 130\): give a tensor \(100,\)",
        ),
        (Score("one", lambda g: 1.0), r"scores of one are float: give a tensor \(100,\)"),
        (Score("typo", lambda g: g.losses, needs=("loss",)), "needs 'loss', which no gradients"),
        (Random, "the selector is <class .*Random'>: give a callable"),
        (lambda g, k: Coreset(torch.arange(k).int(), torch.ones(k)), "indices are torch.int32"),
        (lambda g, k: Coreset(torch.arange(k).flip(0), torch.ones(k)), "must be ascending"),
        (lambda g, k: Coreset(torch.arange(k), -torch.ones(k)), "returned a weight of -1"),
        (lambda g, k: Coreset(torch.arange(k), torch.ones(k) / 0), "weights must be finite"),
        (BatchWise(gradmatch, groups=torch.arange(90) // 10), "one integer for each of the 100"),
        (Blind(lambda samples, k: torch.arange(k)), "selector returned a Tensor"),
        (Blind(lambda samples, k: everything(len(samples))), "100 samples; the budget allows 50"),
        (Blind(lambda samples, k: samples.squared_norms()), "and a budget, stopped with Attribute"),
        (BatchWise(gradmatch, groups=["a"] * 100), "groups are no numbers: give one integer"),
    ],
)
def test_selectors(few, selector, message):
    with pytest.raises(ValueError, match=message):
        train(Plain(), few, selector=selector)


class Mixed(AdversarialTraining):
    """Mixup: what it mixes is drawn at every call."""

    def loss(self, model, images, labels, adversarial=None):
        other = torch.randperm(len(images))
        logits = model((adversarial + adversarial[other]) / 2)
        return sum(cross_entropy(logits, y, reduction="none") / 2 for y in (labels, labels[other]))


class Tied(Plain):
    """The last layer's weights are another's, too."""

    def __init__(self):
        super().__init__(classes=12)
        self.other = nn.Linear(12, 12)
        self.other.weight = self.head.weight

    def features(self, images):
        return self.other(self.body(images))


def test_a_head_may_share_its_weights(few):
    assert len(train(Tied(), few, Smoothed(ATTACK)).coreset) == 50


def test_a_loss_may_draw_at_random(few):
    assert len(train(Plain(), few, Mixed(ATTACK)).coreset) == 50


def test_labels_of_all_splits_are_within_the_logits(few):
    for name in ("validation", "test"):
        split = datasets.ImageSet(few.train.images[:3], torch.tensor([0, 1, 11]))
        names = tuple("abcdefghijkl")
        wider = dataclasses.replace(few, class_names=names, **{name: split})
        with pytest.raises(ValueError, match=rf"data.{name}: labels span 0..11, the model has 10"):
            train(Plain(), wider)


def test_data_of_other_shapes_and_kinds(few):
    with pytest.raises(ValueError, match="the data are a ImageSet: give a data.Dataset"):
        train(Plain(), few.train)
    split = datasets.ImageSet(few.train.images[..., :7], few.train.labels)
    narrow = dataclasses.replace(few, train=split, validation=None, test=split)
    with pytest.raises(ValueError, match=r"does not take .* float32 of shape \(4, 1, 8, 7\)"):
        train(Plain(), narrow)
    with pytest.raises(ValueError, match="images are ndarray: give a tensor"):
        clean_accuracy(Plain(), few.train.float_images().numpy(), few.train.labels)


class Closing(torch.optim.SGD):
    def step(self, closure):
        closure()
        super().step()


class PassingOn:
    """An optimiser's wrapper, whose class has no step of its own."""

    def __init__(self, inside):
        self.inside = inside

    def __getattr__(self, name):
        return getattr(self.inside, name)


def test_an_optimiser_may_be_wrapped(few):
    ends = []
    for wrapped in (PassingOn, lambda optimiser: optimiser):
        torch.manual_seed(0)
        model = Plain()
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        training = Training(Vanilla(), full(1), torch.Generator())
        fit(State(model, wrapped(optimiser)), few, training)
        ends.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*ends)


def test_what_cannot_be_trained(few):
    with pytest.raises(ValueError, match="no weight of the model asks for a gradient"):
        train(Plain().requires_grad_(False), few)
    training = Training(Vanilla(), full(1), torch.Generator())
    with pytest.raises(ValueError, match="make it of model.parameters"):
        fit(State(Plain(), torch.optim.SGD(Plain().parameters(), 0.1)), few, training)
    model = Plain()
    with pytest.raises(ValueError, match="LBFGS evaluates the loss several times a step"):
        fit(State(model, torch.optim.LBFGS(model.parameters())), few, training)
    with pytest.raises(ValueError, match="Closing evaluates the loss several times a step"):
        fit(State(model, Closing(model.parameters(), 0.1)), few, training)
    with pytest.raises(ValueError, match="the optimiser is a list: give one of torch's kind"):
        fit(State(model, list(model.parameters())), few, training)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="state is a Plain: give a State"):
        fit(model, few, training)
    with pytest.raises(ValueError, match="training is a Vanilla: give a Training"):
        fit(State(model, optimiser), few, Vanilla())
    for on_epoch in (None, lambda: None):
        with pytest.raises(ValueError, match="on_epoch is .*: give a function of the state"):
            fit(State(model, optimiser), few, training, on_epoch)
    with torch.inference_mode():
        model = Plain()
    with pytest.raises(ValueError, match=r"made in torch.inference_mode\(\).*make it outside"):
        clean_accuracy(model, few.test.float_images(), few.test.labels)
    blind = Plain()
    blind.body.forward = torch.no_grad()(blind.body.forward)
    with pytest.raises(ValueError, match="no gradient with respect to the images"):
        ATTACK(blind, few.test.float_images(), few.test.labels)
    with pytest.raises(ValueError, match="the model is a function: give a torch.nn.Module"):
        clean_accuracy(lambda images: images, few.test.float_images(), few.test.labels)
    for options, message in (
        ({"batch_size": 8.5}, "batch_size is 8.5: give a whole number of at least 1"),
        ({"monitor": -1}, "monitor is -1: give a whole number of at least 0"),
        ({"seed": 0.5}, "seed is 0.5: give a whole number of at most 64 bits"),
        ({"gradient_clip": -1.0}, "gradient_clip is -1.0: give a finite number above 0"),
        ({"lr_factor": 0}, "lr_factor is 0: give a finite number above 0"),
        ({"before_step": "awp"}, r"before_step is 'awp': give a function \(model, compute"),
        ({"before_step": lambda model: None}, r"before_step is .* give a function \(model, comp"),
    ):
        with pytest.raises(ValueError, match=message):
            Training(Vanilla(), full(1), torch.Generator(), **options)
    with pytest.raises(ValueError, match=r"generator is None: give a torch.Generator\(\)"):
        Training(Vanilla(), full(1), None)


def test_a_coreset_of_other_data_is_refused_where_training_goes_on_with_it(few):
    going_on = plan(8, 0.5, 0.5, 2)
    at = next(epoch.index for epoch in going_on if epoch.phase == "coreset" and not epoch.select)
    training = Training(Vanilla(), going_on, torch.Generator(), selector=Random(0))
    model = Plain()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    others = Coreset(torch.arange(200), torch.ones(200))
    with pytest.raises(ValueError, match="has sample number 199 and there are 100 training images"):
        fit(State(model, optimiser, epoch=at, coreset=others), few, training)
    # a full epoch, or a selection, takes its place
    assert len(fit(State(model, optimiser, coreset=others), few, training).coreset) == 50


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_training_works_whatever_the_gradient_mode(few, around):
    torch.manual_seed(0)
    model = Plain()
    other = copy.deepcopy(model)
    train(model, few, AdversarialTraining(ATTACK))
    with around():
        train(other, few, AdversarialTraining(ATTACK))
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def too_many(gradients, budget):
    """All but one, whatever is asked for."""
    return everything(len(gradients) - 1)


def of_every_class(gradients, budget):
    """One sample a class or more: with few samples that is more than the budget, with all less."""
    each = max(1, budget // 10)
    picks = [(gradients.labels == label).nonzero().squeeze(1)[:each] for label in range(10)]
    chosen = torch.cat(picks).sort().values
    return Coreset(chosen, torch.ones(len(chosen)))


def scaled(gradients, budget):
    """Weights from 0 to 1, which one sample alone does not have."""
    norms = gradients.squared_norms()
    top = norms.topk(budget).indices.sort().values
    low, high = norms[top].aminmax()
    return Coreset(top, (norms[top] - low) / (high - low))


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (too_many, "99 samples; the budget allows 50"),
        (Unweighted(too_many), "99 samples; the budget allows 50"),
        (PerClass(too_many), "samples; the budget allows"),
        (BatchWise(too_many, 10), "9 samples; the budget allows 5"),
        (BatchWise(too_many, groups=torch.arange(100) // 10), "9 samples; the budget allows 5"),
        (lambda g, k: Coreset(torch.arange(k) + 97, torch.ones(k)), "sample number 1"),
    ],
)
def test_a_selector_that_looks_at_gradients_is_tried_on_less_than_all_samples(
    few, selector, message
):
    with pytest.raises(ValueError, match=message) as caught:
        train(Plain(), few, selector=selector)
    assert "in epoch" not in str(caught.value), "it is told before training"


@pytest.mark.parametrize(
    "selector", [of_every_class, scaled, BatchWise(scaled, 10), BatchWise(too_many, 50)]
)
def test_a_selector_that_needs_more_than_a_few_samples_is_tried_on_all(few, selector):
    assert len(train(Plain(), few, selector=selector).coreset) <= 50


def test_of_every_class_takes_more_than_a_small_budget():
    gradients = LastLayerGradients(torch.randn(4, 10), labels=torch.arange(4))
    assert len(of_every_class(gradients, 1)) == 4


def test_what_shows_later_names_the_epoch_and_the_selector(few):
    calls = []

    def tiring(gradients, budget):
        calls.append(len(gradients))
        return everything(budget + (calls.count(100) > 1))

    seen = []
    model, how = Plain(), {"selector": tiring, "plan": plan(4, 0.5, 0.0, 1), "monitor": 0}
    state = State(model, torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(ValueError, match="selector tiring in epoch 1: .* 51 samples; .* allows 50"):
        fit(state, few, Training(Vanilla(), generator=torch.Generator(), **how), seen.append)
    assert len(seen) == 1
    assert selector_name(Unweighted(BatchWise(functools.partial(tiring), 3))) == (
        "Unweighted(BatchWise(tiring))"
    )


def test_a_plan_without_selections_needs_no_selector(few):
    assert train(Plain(), few, plan=full(1), selector=None).epoch == 1


def test_a_coreset_known_beforehand_is_a_selector(few):
    """It cannot be tried on a few samples, and is not."""
    chosen = Coreset(torch.tensor([50, 70, 99]), torch.ones(3))
    state = train(Plain(), few, selector=lambda gradients, budget: chosen)
    assert torch.equal(state.coreset.indices, chosen.indices)


@pytest.mark.parametrize("wrapped", [lambda s: s, Unweighted, BiasOnly])
@pytest.mark.parametrize("selector", [gradmatch, functools.partial(gradmatch, ridge=1.0)])
def test_a_selection_that_cannot_fit_in_memory(few, monkeypatch, selector, wrapped):
    """50 of 100 samples: 2,500 inner products among them; of ten groups or classes far fewer. Bias
    parts have as many entries as there are classes, and without a ridge hardly more are chosen.
    """
    monkeypatch.setattr(gradients, "GRAM_ELEMENTS", 500)
    monkeypatch.setattr(sys.modules["acslib.selectors.gradmatch"], "GRAM_ELEMENTS", 500)
    if wrapped is BiasOnly and selector is gradmatch:
        train(Plain(), few, selector=wrapped(selector))
    else:
        with pytest.raises(ValueError, match="inner products take .* per class or batch-wise"):
            train(Plain(), few, selector=wrapped(selector))
    train(Plain(), few, selector=wrapped(BatchWise(selector, 10)))
    train(Plain(), few, selector=wrapped(PerClass(selector)))


@pytest.mark.parametrize("selector", [el2n, entropy, hardest, easiest])
def test_scores_select_in_training(few, selector):
    """Each finds what it needs in the gradients of our objectives; autograd's lack predictions."""
    for objective in (AdversarialTraining(ATTACK), Trades(ATTACK)):
        assert len(train(Plain(), few, objective, selector=selector).coreset) == 50
    if "predictions" in selector.needs:
        with pytest.raises(ValueError, match="needs the samples' predictions"):
            train(Plain(), few, Smoothed(ATTACK), selector=selector)


def test_nothing_is_moved_by_the_trial(few):
    model = models.build("resnet18", channels=1, width=4, depths=(1, 1)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="no selector"):
        train(model, few, AdversarialTraining(ATTACK), selector=None, attack_mode="train")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


# ---- objectives of one's own get exact gradients


class Smoothed(AdversarialTraining):
    """Label smoothing: its loss is not the one whose closed form it inherits."""

    def loss(self, model, images, labels, adversarial=None):
        adversarial = self.perturb(model, images, labels) if adversarial is None else adversarial
        return cross_entropy(model(adversarial), labels, reduction="none", label_smoothing=0.1)


class Mart(AdversarialTraining):
    """Misclassification-aware training (Wang et al., ICLR 2020), with two passes of the model."""

    def loss(self, model, images, labels, adversarial=None):
        adversarial = self.perturb(model, images, labels) if adversarial is None else adversarial
        clean, moved = model(images).softmax(1), model(adversarial).softmax(1)
        right = labels[:, None]
        wrong = moved.scatter(1, right, 0).amax(1)
        boosted = -moved.gather(1, right).squeeze(1).log() - (1 - wrong).log()
        apart = (clean * (clean.log() - moved.log())).sum(1)
        return boosted + 5 * apart * (1 - clean.gather(1, right).squeeze(1))


class Joined(AdversarialTraining):
    """The same two passes as one, as many codes write it; and a third, to have three."""

    def loss(self, model, images, labels, adversarial=None):
        clean, moved = model(torch.cat([images, adversarial])).chunk(2)
        grey = model(images.mean((2, 3), keepdim=True).expand_as(images))
        apart = kl_div(log_softmax(moved, 1), clean.softmax(1), reduction="none").sum(1)
        faint = binary_cross_entropy(grey.softmax(1), clean.softmax(1), reduction="none").sum(1)
        return cross_entropy(clean, labels, reduction="none") + apart + faint


class Duck:
    """No base class, no `gradients`."""

    def perturb(self, model, images, labels):
        return ATTACK(model, images, labels)

    def loss(self, model, images, labels, adversarial=None):
        return cross_entropy(model(adversarial), labels, reduction="none") ** 2


def sample_by_sample(model, objective, images, labels, adversarial):
    """The oracle: a backward pass through the whole network for each sample."""
    parameters = list(model.head.parameters())
    rows = []
    for i in range(len(labels)):
        one = slice(i, i + 1)
        loss = objective.loss(model, images[one], labels[one], adversarial[one]).sum()
        found = torch.autograd.grad(loss, parameters)
        rows.append(torch.cat([f if f.ndim == 2 else f[:, None] for f in found], 1).flatten())
    return torch.stack(rows)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "objective",
    [Smoothed(ATTACK), Mart(ATTACK), Joined(ATTACK), Duck(), Vanilla(), Trades(ATTACK, 3.0)],
    ids=lambda objective: type(objective).__name__,
)
def test_gradients_are_those_of_the_loss(batch, objective, bias):
    model = Plain(bias).double()
    images, labels = batch[0][:8].double(), batch[1][:8]
    adversarial = (images + 0.1 * torch.randn_like(images)).clamp(0, 1)
    expected = sample_by_sample(model, objective, images, labels, adversarial)
    assert expected.shape == (8, 10 * (12 + bias))
    found = gradients_by_autograd(objective, model, images, labels, adversarial)
    torch.testing.assert_close(found.dense(), expected, rtol=1e-9, atol=1e-12)
    losses = objective.loss(model, images, labels, adversarial).detach()
    torch.testing.assert_close(found.losses, losses)
    if isinstance(objective, Objective):
        own = objective.gradients(model, images, labels, adversarial)
        torch.testing.assert_close(own.dense(), expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(own.losses, losses)
        assert torch.equal(own.labels, labels)
    gram = found.gram()
    torch.testing.assert_close(gram, expected @ expected.T, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.total(), expected.sum(0), rtol=1e-9, atol=1e-12)
    vector = torch.randn(expected.shape[1], dtype=torch.float64)
    torch.testing.assert_close(found.correlations(vector), expected @ vector)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("objective", [Smoothed(ATTACK), Mart(ATTACK), Duck()])
def test_own_objectives_train_and_select(few, objective):
    state = train(Plain(bias=False), few, objective)
    assert state.history[-1]["selection"]["relative_error"] < 0.2


def test_a_selector_sees_labels_losses_and_the_epoch(few):
    seen = []

    def selector(gradients, budget):
        seen.append(gradients)
        return random(len(gradients), budget, torch.Generator())

    train(Plain(), few, selector=selector, plan=plan(3, 0.5, 0.0, 1))
    seen = seen[-3:]  # it was tried before
    assert [g.epoch for g in seen] == [0, 1, 2]
    assert all(torch.equal(g.labels, few.train.labels) for g in seen)
    model = Plain()
    first = gradients_of(Vanilla(), model, few.train.float_images(), few.train.labels)
    torch.testing.assert_close(seen[0].losses, first.losses)


def test_terms_of_several_batches_are_joined():
    torch.manual_seed(0)
    factors = [torch.randn(6, 3), torch.randn(6, 4), torch.randn(6, 3), torch.randn(6, 4)]
    more = ((torch.randn(6, 3), torch.randn(6, 4)),)
    whole = LastLayerGradients(*factors, more=more, labels=torch.arange(6), losses=torch.rand(6))
    parts = LastLayerGradients.concatenated([whole[slice(0, 4)], whole[slice(4, 6)]])
    assert torch.equal(parts.dense(), whole.dense())
    assert torch.equal(parts.labels, whole.labels)
    assert torch.equal(parts.losses, whole.losses)
    assert parts.bias_only().shape == (6, 3)


# ---- attacks of others


class Foreign:
    """As torchattacks' classes: built on a network, called as attack(images, labels)."""

    def __init__(self, model):
        self.model = model

    def __call__(self, images, labels):
        images = images.clone().requires_grad_()
        loss = cross_entropy(self.model(images), labels)
        gradient = torch.autograd.grad(loss, images)[0]
        return (images + 0.1 * gradient.sign()).clamp(0, 1).detach()


def backward(model, images, labels):
    """A plain function that calls `backward`."""
    images = images.clone().requires_grad_()
    cross_entropy(model(images), labels).backward()
    return (images + 0.1 * images.grad.sign()).clamp(0, 1)


@pytest.mark.parametrize("bound", [True, False])
def test_others_attacks_train_and_select(few, bound):
    """In the steps, in the gradients of a selection and in what is monitored."""
    model = Plain()
    attack = Foreign(model) if bound else backward
    state = train(model, few, AdversarialTraining(attack), monitor=20)
    row = state.history[-1]
    assert row["selection"]["relative_error"] < 0.2
    assert "train_robust_accuracy" in row


def mistaken(gradients, budget):
    raise KeyError("weights")


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        (lambda gradients: None, "called with gradients and a budget, stopped with TypeError"),
        (mistaken, "called with gradients and a budget, stopped with KeyError: 'weights'"),
        (
            lambda gradients, budget: Coreset(torch.arange(0), torch.ones(0)),
            "gives no sample a positive weight, whatever the budget",
        ),
        (
            lambda gradients, budget: Coreset(torch.arange(budget), torch.zeros(budget)),
            "gives no sample a positive weight, whatever the budget",
        ),
    ],
)
def test_a_selector_that_cannot_be_used_is_told_before_training(few, selector, said):
    with pytest.raises(ValueError, match=said):
        train(Plain(), few, selector=selector)


class OfTwo(nn.Module):
    """Has a network, under a name that nobody knows."""

    def forward(self, images, labels):
        return images


@pytest.mark.parametrize("attack", [lambda images, labels: images, OfTwo()])
def test_an_attack_of_other_arguments_is_told_what_it_is_called_with(few, attack):
    with pytest.raises(TypeError, match=r"cannot be called as attack\(model, images, labels\)"):
        train(Plain(), few, AdversarialTraining(attack))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Random(seed="a"), "seed is 'a': give a whole number"),
        (lambda: Random(2**80), "seed is .*: give a whole number of at most 64 bits"),
        (lambda: BatchWise(gradmatch, 8, seed=1.5), "seed is 1.5: give a whole number"),
        (lambda: plan(4.5, 0.5, 0.5, 1), "epochs is 4.5: at least 1 is needed, a whole number"),
        (lambda: plan(4, 0.5, 0.5, 1.5), "period is 1.5"),
        (lambda: full(0), "epochs is 0"),
        (
            lambda: Training(Vanilla(), generator=torch.Generator(), plan=[1, 2]),
            "give one that schedule.plan or schedule.full makes",
        ),
        (
            lambda: Training(Vanilla(), full(2), torch.Generator(), lr_drops=(1.5,)),
            "lr_drops are .*: give epochs, whole numbers",
        ),
        (
            lambda: Training(Vanilla(), full(2), torch.Generator(), lr_drops=3),
            "lr_drops are 3: give epochs, whole numbers",
        ),
        (
            lambda: Training(Vanilla(), list(full(2)), torch.Generator()),
            "give one that schedule.plan or schedule.full makes",
        ),
        (
            lambda: Training(Vanilla(), full(2), torch.Generator(), learning_rate="0.1"),
            "learning_rate is '0.1': give a finite one above 0",
        ),
        (
            lambda: Training(Vanilla(), full(2), torch.Generator(), seed=2**70),
            "seed is .*: give a whole number of at most 64 bits",
        ),
    ],
)
def test_numbers_are_of_their_kind(make, said):
    with pytest.raises(ValueError, match=said):
        make()


class NoNumber(Objective):
    def loss(self, model, images, labels, adversarial=None):
        return cross_entropy(model(images), labels, reduction="none") * torch.nan


def test_a_loss_that_is_no_number_is_called_that(few):
    with pytest.raises(ValueError, match="the loss is not finite on the first images"):
        train(Plain(), few, NoNumber())


def counted(gradients, budget, samples=1):
    """A parameter of its own, of a name that others use."""
    return gradmatch(gradients, budget - samples)


@pytest.mark.parametrize(
    "selector", [easiest, BatchWise(gradmatch, 30), BatchWise(el2n, 30), Random(0), counted]
)
def test_a_partial_of_a_selector_is_that_selector(few, selector):
    """It needs what that needs, and may return as many."""
    options = {"samples": 2} if selector is counted else {}
    row = train(Plain(), few, selector=functools.partial(selector, **options)).history[-1]
    expected = 48 if selector is counted else 60 if isinstance(selector, BatchWise) else 50
    assert row["selection"]["size"] <= expected
    if isinstance(selector, Score):
        inside = BatchWise(functools.partial(selector), 30)
        assert len(train(Plain(), few, selector=inside).coreset) in (60, 40)


class Smoothing:
    """A loss to be mixed into a class."""

    def loss(self, model, images, labels, adversarial=None):
        adversarial = images if adversarial is None else adversarial
        return cross_entropy(model(adversarial), labels, reduction="none", label_smoothing=0.3)


class MixedIn(Smoothing, AdversarialTraining):
    pass


class BelowIt(MixedIn):
    pass


@pytest.mark.parametrize("kind", [MixedIn, BelowIt])
def test_the_loss_of_a_mixin_has_gradients_of_its_own(batch, kind):
    objective, model = kind(ATTACK), Plain().eval()
    adversarial = objective.perturb(model, *batch)
    found = objective.gradients(model, *batch, adversarial).dense()
    exact = gradients_by_autograd(objective, model, *batch, adversarial).dense()
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("seed", [2**63, -(2**63), 2**64 - 1])
def test_every_seed_that_is_taken_can_be_drawn_by(few, seed):
    assert train(Plain(), few, selector=AdaptiveRandom(seed), seed=seed).epoch == 2
