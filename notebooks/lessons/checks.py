"""The exercises' checks: `check_N_M(answer)` prints one sentence and says whether it is right.

A right answer is told so, a wrong one what is wrong with it, an empty one what to do. Nothing is
raised, whatever the answer. The functions without an underscore are the answers that a lesson goes
on with where yours is not there yet.
"""

import functools
import math
import string
import traceback

import numpy as np
import pandas as pd
import torch
from scipy import stats
from scipy.optimize import nnls
from torch import Tensor
from torch.nn.functional import cross_entropy

from acslib import models, schedule, selectors
from acslib.attacks import PGD
from acslib.gradients import LastLayerGradients


class Empty(Exception):
    """Nothing has been written yet."""


class Wrong(Exception):
    """What is wrong with an answer, said where it is noticed."""


def exercise(number: str, todo: str, right: str, examples=((),)):
    """Makes a check of a function that returns what is wrong with an answer, or None.

    examples: the arguments of the body beside the answer, for each time that it is asked. A second
    example finds the answers that are right for the first one alone.
    """

    def wrap(body):
        def wrong_with(answer) -> str | None:
            for place, example in enumerate(examples):
                wrong = body(filled(answer), *example)
                if wrong:
                    return f"right for one example, not for another: {wrong}" if place else wrong
            return None

        @functools.wraps(body)
        def check(answer=None) -> bool:
            wrong, empty = None, False
            try:
                wrong = wrong_with(answer)
            except Empty:
                empty = True
            except Wrong as found:
                wrong = str(found)
            except Exception as error:  # the student's code may stop in any way
                wrong = stopped(answer, error)
            if empty:
                print(f"Exercise {number} is empty: {todo}.")
            elif wrong is None:
                print(f"Exercise {number} is right: {right}.")
            else:
                print(f"Exercise {number} is wrong: {' '.join(wrong.split())}.")
            return wrong is None and not empty

        return check

    return wrap


def stopped(answer, error: Exception) -> str:
    """With what the student's code stopped, and in which of its lines."""
    said = str(error).strip().rstrip(".")
    sentence = f"your code stopped with {type(error).__name__}: {said}".rstrip(": ")
    file = getattr(getattr(answer, "__code__", None), "co_filename", None)
    places = [at for at in traceback.extract_tb(error.__traceback__) if at.filename == file]
    if not places:
        return sentence
    return f"{sentence}, in its line {places[-1].lineno} ({places[-1].line})".removesuffix(" ()")


def filled(value):
    """The value, unless it or a part of it is one of those that stand for nothing."""
    for part in value if isinstance(value, tuple | list) else [value]:
        if part is None or part is Ellipsis:
            raise Empty
    return value


def call(function, *arguments):
    """What the student's function gives for copies of the arguments."""
    copies = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    return filled(function(*copies))


def tensor(value, shape) -> Tensor:
    """The value as float64, if it is a tensor of this shape and without a graph behind it."""
    if isinstance(value, np.ndarray):
        raise Wrong("it gives a numpy array: torch.from_numpy makes a tensor of it")
    if not isinstance(value, Tensor):
        raise Wrong(f"it gives {kind(value)}: return a tensor")
    if value.shape != shape:
        raise Wrong(f"the answer has shape {tuple(value.shape)}, expected {tuple(shape)}")
    if value.requires_grad:
        raise Wrong("the answer carries autograd's graph: use torch.no_grad() or detach()")
    return value.double()


def kind(value) -> str:
    """A value's type with its article; a tensor's shape, too."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def scalar(value) -> float:
    """The value as a number, if it is one or holds one; without a word about autograd's graph."""
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"one number is expected, not {kind(value)}") from None


def floats(value) -> Tensor:
    """The value as float64, if it is a tensor or anything that torch makes one of."""
    try:
        return torch.as_tensor(value).double()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"a tensor is expected, not {kind(value)}") from None


def truth(value) -> bool:
    """The value as True or False, if it is one of them or stands for one."""
    try:
        found = scalar(value)
    except Wrong:
        found = math.nan
    if found not in (0, 1):
        raise Wrong(f"True or False is expected, not {kind(value)}")
    return bool(found)


def pair(value, of: str) -> tuple[float, float]:
    """The value as two numbers, whatever holds them; `of` says which they are."""
    try:
        ends = list(value)
    except TypeError:
        ends = []
    if len(ends) != 2:
        raise Wrong(f"return two numbers: {of}")
    return scalar(ends[0]), scalar(ends[1])


def index(value) -> int:
    """The value as the index of a sample."""
    found = scalar(value)
    if not found.is_integer():
        raise Wrong(f"it gives {found:g}: return the index of a sample, a whole number")
    return int(found)


def listed(value, of: str) -> list:
    """The value as a list of what is called `of`."""
    try:
        return list(value)
    except TypeError:
        raise Wrong(f"it gives {kind(value)}: return a list of {of}") from None


def indices(value) -> list[int]:
    """The values as the indices of samples."""
    return [index(each) for each in listed(value, "indices")]


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return bool(torch.allclose(got, expected.double(), rtol=tolerance, atol=tolerance))


def number(value, expected: float, tolerance: float = 0.01) -> bool:
    """Whether a number is right to a share `tolerance`."""
    return abs(scalar(value) - expected) <= tolerance * max(abs(expected), 1e-9)


def choice(answer, options: str) -> str:
    """One of the letters, with whatever is written about it; anything else is wrong."""
    letter = str(answer).strip(string.punctuation + string.whitespace).lower()
    if letter not in tuple(options):
        raise Wrong(f"{answer!r} is not one of {', '.join(options)}")
    return letter


# Lesson 1: adversarial examples


def toy(outputs: int = 3) -> torch.nn.Module:
    """A fixed linear network on 1 x 2 x 2 images, in float32."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, outputs))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        model[1].weight.copy_(3 * torch.randn(outputs, 4, generator=generator))
        model[1].bias.zero_()
    return model


def curved() -> torch.nn.Module:
    """A fixed network like `toy`, with a layer of tanh: the gradient's signs change on the way."""
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
    )
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(2 * torch.randn(weights.shape, generator=generator))
    return model


def toy_images(count: int = 6) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(4))
    return images, torch.arange(count) % 3


def outside(got: Tensor, images: Tensor, epsilon: float) -> str | None:
    """Which of the two limits an adversarial image breaks."""
    if (got - images).abs().max() > epsilon + 1e-5:
        far = float((got - images).abs().max())
        return f"a pixel moves by {far:.3g}, and epsilon is {epsilon:g}"
    if got.min() < -1e-6 or got.max() > 1 + 1e-6:
        low, high = float(got.min()), float(got.max())
        return f"pixels reach from {low:.3g} to {high:.3g}, and an image lives in [0, 1]"
    return None


@exercise(
    "1.1",
    "return x, moved to the nearest point within epsilon of the images and within [0, 1]",
    "every pixel stays within epsilon of the image and within [0, 1]",
    examples=((0.2,), (0.05,)),
)
def check_1_1(project, epsilon):
    images, _ = toy_images()
    x = images + torch.linspace(-0.5, 0.5, images.numel()).view_as(images)
    got = tensor(call(project, x, images, epsilon), images.shape)
    wrong = outside(got, images, epsilon)
    if wrong:
        return wrong
    if not close(got, projected(x, images, epsilon)):
        return "both limits hold, but there is a nearer point: leave pixels alone that break none"
    return None


@exercise(
    "1.2",
    "return the images after one step of size epsilon along the sign of the gradient",
    "one step along the sign of the gradient raises the loss as far as one step can",
    examples=((0.1,), (0.04,)),
)
def check_1_2(fgsm, epsilon):
    model, (images, labels) = toy(), toy_images()
    got = tensor(call(fgsm, model, images, labels, epsilon), images.shape)
    wrong = outside(got, images, epsilon)
    if wrong:
        return wrong
    before = cross_entropy(model(images), labels)
    if cross_entropy(model(got.float()), labels) < before:
        return "the loss falls: go up the gradient, not down"
    expected = PGD("linf", epsilon, epsilon, 1, random_start=False)(model, images, labels)
    if not close(got, expected):
        return "the loss grows, but less than it could: every pixel must move by the whole epsilon"
    return None


@exercise(
    "1.3",
    "repeat steps of size `step` along the gradient's sign, and project after each",
    "it takes the steps that the library's PGD takes without a random start",
    examples=((0.2, 0.06, 6), (0.1, 0.03, 5)),
)
def check_1_3(pgd, epsilon, step, steps):
    model, (images, labels) = curved(), toy_images()
    got = tensor(call(pgd, model, images, labels, epsilon, step, steps), images.shape)
    wrong = outside(got, images, epsilon)
    if wrong:
        return f"{wrong}: project after every step"
    for mistake, elsewhere in climbs(model, images, labels, epsilon, step, steps).items():
        if close(got, elsewhere):
            return mistake or None
    return "it ends elsewhere than projected steps of size `step` do"


def climbs(model, images, labels, epsilon, step, steps) -> dict[str, Tensor]:
    """Where PGD ends without a random start, under "", and where common mistakes end."""

    def signs(x):
        x = x.detach().requires_grad_()
        loss = cross_entropy(model(x), labels, reduction="sum")
        return torch.autograd.grad(loss, x)[0].sign()

    def climb(length, count, *, at=lambda x: x, after=lambda x: projected(x, images, epsilon)):
        x = images
        for _ in range(count):
            x = after(x + length * signs(at(x)))
        return projected(x, images, epsilon)

    return {
        "": climb(step, steps),
        "it stops after one step: take the gradient anew at the moved image, `steps` times": climb(
            step, 1
        ),
        "it goes down the gradient: add the step": climb(-step, steps),
        "it projects once, at the end: project after every step": climb(
            step, steps, after=lambda x: x
        ),
        "the gradient is always the one at the images: take it at the moved image": climb(
            step, steps, at=lambda x: images
        ),
        "its steps have the size epsilon: take `step`": climb(epsilon, steps),
        "its steps have the size epsilon / steps: take `step`": climb(epsilon / steps, steps),
        "its steps have the size epsilon / 4: take `step`": climb(epsilon / 4, steps),
    }


def projected(x: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The nearest point to x within epsilon of the images and within [0, 1]."""
    return x.clamp(images - epsilon, images + epsilon).clamp(0, 1)


def robust_share(right: Tensor) -> float:
    """The share of samples that are right in every restart; right: (restarts, n) booleans."""
    return float(right.all(0).float().mean())


@exercise(
    "1.4",
    "return the share of samples that are right in every one of the restarts",
    "a sample counts as robust only if no restart fools the network",
    examples=(
        ([[1, 1, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0], [1, 1, 1, 0, 0, 0]],),
        ([[1, 1, 0, 1, 1], [1, 1, 1, 1, 0]],),
    ),
)
def check_1_4(share, rows):
    right = torch.tensor(rows).bool()
    got = scalar(call(share, right))
    if number(got, 1 - robust_share(right)):
        return "that is the share that is fooled"
    if number(got, float(right.float().mean())):
        return "that is the mean over restarts: an attacker keeps the best of them, for each sample"
    if number(got, float(right.float().mean(1).min())):
        return (
            "that is the strongest single restart: an attacker may use another one for each sample"
        )
    if number(got, float(right.float().mean(1).max())):
        return "that is the weakest single restart: an attacker may use another one for each sample"
    if number(got, float(right.any(0).float().mean())):
        return "that counts samples that some restart leaves right: every restart must"
    expected = robust_share(right)
    if number(got, expected):
        return None
    return f"for {rows} it is {expected:.3f}, not {got:.3f}"


@exercise(
    "1.5", "set the number of gradients that one image costs", "50 steps in each of 10 restarts"
)
def check_1_5(answer):
    if number(answer, 50):
        return "that is one restart: the steps begin anew in each of the 10"
    if number(answer, 10):
        return "that is one gradient for each restart: each takes 50 steps"
    return None if number(answer, 500, 0) else f"steps times restarts is not {answer}"


# Lesson 2: adversarial training


def plane(dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """A linear classifier theta (2,), images (5, 2) and labels (5,) of -1 and 1."""
    images = torch.tensor([[1, 0.5], [0.2, 1], [-1, 0.3], [0.4, -0.8], [-0.3, -0.6]])
    theta, labels = torch.tensor([1.5, -0.5]), torch.tensor([1.0, -1, -1, 1, -1])
    return theta.to(dtype), images.to(dtype), labels.to(dtype)


def worst(theta: Tensor, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """The worst images for a linear classifier, (n, d)."""
    return images - epsilon * labels[:, None] * theta.sign()


def worst_loss(theta: Tensor, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """The logistic loss of the worst images, (n,), without looking for them."""
    margins = labels * (images @ theta) - epsilon * theta.abs().sum()
    return torch.nn.functional.softplus(-margins)


def worst_gradient(theta: Tensor, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """The gradient of `worst_loss` for each sample, (n, d), by Danskin's theorem."""
    signed = labels[:, None] * worst(theta, images, labels, epsilon)
    return -torch.sigmoid(-signed @ theta)[:, None] * signed


@exercise(
    "2.1",
    "return the images, each coordinate moved by epsilon to where the margin shrinks most",
    "every coordinate goes the whole epsilon against the label's side",
    examples=((0.1, torch.float64), (0.3, torch.float32)),  # the lesson has both
)
def check_2_1(answer, epsilon, dtype):
    got = tensor(call(answer, *plane(dtype), epsilon), (5, 2))
    theta, images, labels = plane()
    margin = labels * (got @ theta)
    far = float((got - images).abs().max())
    if far > epsilon + 1e-6:
        return f"a coordinate moves by {far:.3g}, and epsilon is {epsilon:g}"
    if (margin > labels * (images @ theta) + 1e-6).any():
        return "some margins grow, so the attack helps: mind the label's sign"
    if not close(got, worst(theta, images, labels, epsilon)):
        return "the margins could shrink more: move every coordinate by the whole epsilon"
    return None


@exercise(
    "2.2",
    "return log(1 + exp(-margin)) with the margin that the worst image has",
    "the attack costs a linear classifier epsilon times the sum of |theta|",
    examples=((0.1,), (0.3,)),
)
def check_2_2(answer, epsilon):
    theta, images, labels = plane()
    got = tensor(call(answer, theta, images, labels, epsilon), labels.shape)
    if close(got, worst_loss(theta, images, labels, 0)):
        return "that is the loss of the clean images: subtract what the attack takes off the margin"
    if close(got, worst_loss(theta, images, labels, -epsilon)):
        return "the margin grew: the attack takes epsilon |theta|_1 away"
    euclidean = labels * (images @ theta) - epsilon * theta.norm()
    if close(got, torch.nn.functional.softplus(-euclidean)):
        return "that is for the l2 ball: under a limit on each coordinate it is the sum of |theta|"
    expected = worst_loss(theta, images, labels, epsilon)
    return None if close(got, expected) else "it is not the loss of the worst images"


@exercise(
    "2.3",
    "return the gradient of the loss at the worst images, held fixed",
    "find the worst image, hold it fixed, take the ordinary gradient",
    examples=((0.1,), (0.3,)),
)
def check_2_3(answer, epsilon):
    theta, images, labels = plane()
    got = tensor(call(answer, theta, images, labels, epsilon), images.shape)
    if close(got, worst_gradient(theta, images, labels, 0)):
        return "that is the gradient at the clean images: put the worst ones in their place"
    expected = worst_gradient(theta, images, labels, epsilon)
    if close(got, -expected):
        return "the sign is wrong: the loss falls where the margin grows"
    return None if close(got, expected) else "it differs from the slope of the worst-case loss"


def adversarial_step(model, optimiser, attack, images, labels) -> float:
    """One step of adversarial training; gives the loss before it."""
    adversarial = attack(model, images, labels)
    loss = cross_entropy(model(adversarial), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


@exercise(
    "2.4",
    "attack the images, then take one step of the optimiser on the loss there; return the loss",
    "attack, loss, gradient, step: adversarial training in five lines",
)
def check_2_4(step):
    images, labels = toy_images()
    attack = PGD("linf", 0.1, 0.05, 4, random_start=False)

    def after(function, *, stale: bool = False):
        model = toy()
        optimiser = torch.optim.SGD(model.parameters(), 0.5)
        if stale:
            model[1].weight.grad = torch.ones_like(model[1].weight)
        loss = filled(function(model, optimiser, attack, images.clone(), labels.clone()))
        return model[1].weight.detach().double(), scalar(loss)

    (got, loss), (expected, expected_loss) = after(step), after(adversarial_step)
    if close(got, toy()[1].weight.detach().double()):
        return "the weights have not moved: call `loss.backward()` and `optimiser.step()`"
    clean = after(lambda m, o, a, x, y: adversarial_step(m, o, lambda m, x, y: x, x, y))[0]
    if close(got, clean):
        return "the step was taken on the clean images: the loss is that of the attacked ones"
    if not close(got, expected):
        return "the weights moved elsewhere: take one step on the mean loss of the attacked images"
    if not close(after(step, stale=True)[0], expected):
        return "gradients of the step before are added to this one's: call `optimiser.zero_grad()`"
    if not number(loss, expected_loss, 1e-4):
        return "the weights are right; return the loss of the attacked images as a number, too"
    return None


@exercise(
    "2.5",
    "set how many times as many passes as vanilla training PGD training with 10 steps takes",
    "ten passes to attack and one to learn",
)
def check_2_5(answer):
    if number(answer, 10):
        return "those are the attack's passes; the step that learns is a pass, too"
    return None if number(answer, 11, 0) else "count one pass for each attack step and one to learn"


# Lesson 3: last-layer gradients


def factors(count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, 4), logits (n, 3) and labels (n,), all in float64."""
    generator = torch.Generator().manual_seed(7)
    features = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    logits = 2 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return features, logits, torch.arange(count) % 3


def errors(logits: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each sample's cross-entropy with respect to its logits, (n, C)."""
    return logits.softmax(1) - torch.nn.functional.one_hot(labels, logits.shape[1])


def outer(error: Tensor, features: Tensor) -> Tensor:
    """One sample's gradient with respect to [W, b]: (C, D + 1)."""
    return torch.outer(error, torch.cat([features, features.new_ones(1)]))


def gram(error: Tensor, features: Tensor) -> Tensor:
    """All inner products of the gradients, (n, n), without forming a gradient."""
    return (error @ error.T) * (features @ features.T + 1)


def adversarial_gradients(model, images, labels, attack) -> LastLayerGradients:
    """Eq. (18): the last-layer gradients of the attacked images."""
    with torch.no_grad():
        features = model.features(attack(model, images, labels))
        return LastLayerGradients(errors(model.head(features), labels), features)


@exercise(
    "3.1",
    "return the gradient of the cross-entropy with respect to the logits, for each sample",
    "what the network says minus what it should say",
    examples=((5,), (2,)),  # two samples do not show every class
)
def check_3_1(answer, count):
    _, logits, labels = factors(count)
    got = tensor(call(answer, logits.float(), labels), logits.shape)
    expected = errors(logits, labels)
    if close(got, -expected):
        return "the sign is wrong: the loss falls where the right logit grows"
    if close(got, expected / len(logits)):
        return "that is for the mean over samples: every sample has its own gradient, undivided"
    if close(got, logits.softmax(1)):
        return "the labels are missing: subtract 1 from the right class"
    return None if close(got, expected) else "autograd finds another gradient of the cross-entropy"


@exercise(
    "3.2",
    "return the (C, D + 1) matrix of products of an error and a feature, the bias last",
    "the whole gradient of a linear layer is an outer product",
    examples=((0,), (1,)),
)
def check_3_2(answer, sample):
    features, logits, labels = factors()
    feature, error = features[sample], errors(logits, labels)[sample]
    got = call(answer, error.float(), feature.float())
    shape = getattr(got, "shape", None)
    if shape == (3, 4):
        return "the bias is missing: its gradient is the error itself, the last column"
    if shape == (5, 3):
        return "rows and columns are swapped: a row for each class"
    got = tensor(got, (3, 5))
    expected = outer(error, feature)
    if close(got, expected.roll(1, 1)):
        return "the bias comes last, not first"
    return None if close(got, expected) else "entry (c, d) must be error[c] times feature[d]"


@exercise(
    "3.3",
    "return <e_i, e_j> times (<h_i, h_j> + 1) for all pairs",
    "n x n inner products, and no gradient was ever formed",
    examples=((5,), (2,)),
)
def check_3_3(answer, count):
    features, logits, labels = factors(count)
    error = errors(logits, labels)
    got = tensor(call(answer, error.float(), features.float()), (count, count))
    if close(got, (error @ error.T) * (features @ features.T)):
        return "the bias is missing: add 1 to the inner product of the features"
    if close(got, error @ error.T + features @ features.T):
        return "the inner product of outer products is the product of the two, not their sum"
    return None if close(got, gram(error, features)) else "it differs from the explicit gradients'"


@exercise(
    "3.4",
    "set how many times smaller the two factors are than the matrix of gradients",
    "that is 104 GB against 1 GB in 4-byte numbers",
)
def check_3_4(answer):
    whole, kept = 100 * 2049, 100 + 2048
    if number(answer, kept / whole, 0.02):
        return "turn the ratio over: the matrix is the larger one"
    if number(answer, whole, 0.02):
        return "that is the length of one gradient: divide by what the factors of one image take"
    return None if number(answer, whole / kept, 0.02) else "divide 100 * 2049 by 100 + 2048"


@exercise(
    "3.5",
    "attack, take features and logits of the attacked images, return LastLayerGradients",
    "eq. (18): the coreset is chosen by what the attacked images would teach",
    examples=((6,), (4,)),
)
def check_3_5(answer, count):
    torch.manual_seed(0)
    model = models.build("resnet18", channels=1, width=4, depths=(1, 1), classes=3).eval()
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    labels, attack = torch.arange(count) % 3, PGD("linf", 0.2, 0.1, 3, random_start=False)
    got = call(answer, model, images, labels, attack)
    if not isinstance(got, LastLayerGradients):
        return f"it gives {kind(got)}: return LastLayerGradients(errors, features)"
    if got.features is None:
        return "the features are missing: LastLayerGradients(errors, features)"
    if got.errors.requires_grad or got.features.requires_grad:
        return "the factors carry autograd's graph: compute them within torch.no_grad()"
    clean = adversarial_gradients(model, images, labels, lambda model, x, y: x)
    expected = adversarial_gradients(model, images, labels, attack)
    if got.dense().shape != expected.dense().shape:
        shape = tuple(got.dense().shape)
        return f"the gradients have shape {shape}: each image has an error and features"
    if close(got.dense().double(), clean.dense()):
        return "those are the clean images' gradients: attack first"
    if close(got.features.double(), clean.features):
        return (
            "the features are those of the clean images: both factors belong to the attacked ones"
        )
    return (
        None
        if close(got.dense().double(), expected.dense())
        else "the gradients are not eq. (18)'s"
    )


# Lesson 4: CRAIG


def points() -> Tensor:
    """Fourteen gradients with two entries: three clouds and one far away, (14, 2)."""
    generator = torch.Generator().manual_seed(193)
    centres = torch.tensor([[0.0, 0.0], [3.0, 0.5], [1.0, 2.6]]).repeat_interleave(
        torch.tensor([6, 4, 3]), 0
    )
    clouds = centres + 0.5 * torch.randn(13, 2, generator=generator)
    return torch.cat([clouds, torch.tensor([[5.0, 3.2]])]).double()


def cost(distances: Tensor, chosen: list[int]) -> float:
    """L(S): from every sample to the nearest chosen one, summed."""
    return float(distances[:, chosen].amin(1).sum())


def next_pick(distances: Tensor, chosen: list[int]) -> int:
    """The sample that lowers L most; of equals the first."""
    costs = [cost(distances, [*chosen, e]) for e in range(len(distances))]
    return min(range(len(costs)), key=lambda e: (costs[e], e))


def cluster_sizes(distances: Tensor, chosen: list[int]) -> Tensor:
    """How many samples have each chosen one as their nearest, in the order of `chosen`."""
    nearest = distances[:, chosen].argmin(1)
    return torch.bincount(nearest, minlength=len(chosen))


def greedy(distances: Tensor, budget: int) -> list[int]:
    """Algorithm 2: the picks in order."""
    chosen = []
    for _ in range(budget):
        chosen.append(next_pick(distances, chosen))
    return chosen


def apart() -> Tensor:
    return torch.cdist(points(), points())


@exercise(
    "4.1",
    "return the sum over all samples of the distance to the nearest chosen one",
    "everyone is served by the nearest chosen sample",
    examples=(([0, 7],), ([2, 9, 13],)),
)
def check_4_1(answer, chosen):
    distances = apart()
    got, expected = scalar(call(answer, distances, list(chosen))), cost(distances, chosen)
    to_chosen = distances[:, chosen]
    if number(got, float(to_chosen.sum()), 1e-6):
        return "it sums the distances to all chosen samples: only the nearest one serves"
    if number(got, float(to_chosen.amax(1).sum()), 1e-6):
        return "it takes the farthest chosen sample: the nearest one serves"
    if number(got, expected / len(distances), 1e-6):
        return "it takes the mean over the samples: L is a sum"
    if number(got, float(to_chosen.amin(0).sum()), 1e-6):
        return "the minimum runs over the samples: for each sample, take it over the chosen ones"
    return (
        None
        if number(got, expected, 1e-6)
        else f"L of samples {chosen} is {expected:.3f}, not {got:.3f}"
    )


@exercise(
    "4.2",
    "return the sample whose addition gives the smallest L",
    "one greedy step: the largest fall of L",
)
def check_4_2(answer):
    distances = apart()
    for chosen in ([], [2], [2, 7]):
        got, expected = index(call(answer, distances, list(chosen))), next_pick(distances, chosen)
        farthest = int(distances[:, chosen].amin(1).argmax()) if chosen else -1
        if got == farthest != expected:
            return (
                f"after {chosen} it takes the farthest sample: the one that helps most others wins"
            )
        if got in chosen:
            return f"after {chosen} it takes {got}, which is chosen already: L does not fall"
        costs = [cost(distances, [*chosen, e]) for e in range(len(distances))]
        if got == costs.index(max(costs)) != expected:
            return f"after {chosen} it takes the sample that leaves L largest: the smallest L wins"
        if got != expected:
            return f"after {chosen} sample {expected} lowers L most, and yours is {got}"
    twins = torch.zeros(3, 3, dtype=torch.float64)
    if index(call(answer, twins, [])) != 0:
        return "where several are as good, the first one wins"
    return None


@exercise(
    "4.3",
    "return how many samples each chosen one serves, as a tensor in the order of `chosen`",
    "the weights add up to the number of samples",
    examples=(([9, 1, 11],), ([13, 4],)),
)
def check_4_3(answer, chosen):
    distances = apart()
    got, expected = call(answer, distances, list(chosen)), cluster_sizes(distances, chosen)
    served_by = distances[:, chosen].argmin(1)
    if isinstance(got, Tensor) and torch.equal(got, served_by):
        return "that says who serves each sample: count how many each of the chosen ones serves"
    if isinstance(got, Tensor) and torch.equal(got, distances[:, chosen].argmin(0).bincount()):
        return "the minimum runs over the samples: for each sample, take it over the chosen ones"
    got = tensor(got, (len(chosen),))
    if close(got, expected / len(distances)):
        return "those are shares: the weights of eq. (12) count samples"
    if close(got.sort().values, expected.sort().values.double()) and not close(got, expected):
        return "the numbers are right and the order is not: give them in the order of `chosen`"
    if close(got, expected - 1):
        return "a chosen sample serves itself, too"
    return (
        None if close(got, expected) else f"{chosen} serve {expected.tolist()}, not {got.tolist()}"
    )


@exercise(
    "4.4",
    "return the list of `budget` samples that greedy steps pick, in order",
    "your Algorithm 2 picks what the library's CRAIG picks",
    examples=((5,), (3,)),
)
def check_4_4(answer, budget):
    distances = apart()
    picks = indices(call(answer, distances, budget))
    if len(picks) != budget:
        return f"the budget is {budget}, and it picks {len(picks)}"
    if len(set(picks)) < budget:
        return f"it picks a sample twice: {picks}"
    expected = selectors.craig(points(), budget).picks.tolist()
    if sorted(picks) == sorted(expected) and picks != expected:
        return f"the samples are right, the order is {expected}: the best one comes first"
    if picks[0] != expected[0]:
        return f"it begins with {picks[0]}: begin with nothing, the first sample is picked as well"
    return None if picks == expected else f"CRAIG picks {expected}, and yours are {picks}"


@exercise(
    "4.5",
    'set "a", "b" or "c"',
    "the more are chosen, the less a further one can help: F is submodular",
)
def check_4_5(answer):
    letter = choice(answer, "abc")
    return {
        "a": None,
        "b": "with more chosen, others serve already what this one could serve",
        "c": "try it: compare next gains after 1 and after 4 picks, for every sample",
    }[letter]


# Lesson 5: GradMatch


def arrows() -> Tensor:
    """Eight gradients with three entries, (8, 3)."""
    generator = torch.Generator().manual_seed(282)
    return torch.randn(8, 3, generator=generator).double() + torch.tensor([0.9, 0.6, 0.5])


def crossing() -> Tensor:
    """Six gradients with four entries: the fourth pick makes the first one's weight negative."""
    rows = [[-1, -1, -1, 2], [-2, 3, 1, 2], [-1, -2, 0, 3]]
    rows += [[1, -2, -2, -1], [0, 1, 3, 3], [3, 2, 2, 0]]
    return torch.tensor(rows, dtype=torch.float64)


def scores(gradients: Tensor, missing: Tensor) -> Tensor:
    """How well each gradient is aligned with what is missing, (n,)."""
    return gradients @ missing


def refit(gradients: Tensor, target: Tensor, chosen: list[int]) -> Tensor:
    """The weights of the chosen gradients whose sum is nearest to the target, of either sign."""
    return torch.linalg.lstsq(gradients[chosen].T, target[:, None]).solution[:, 0]


def refit_nonnegative(gradients: Tensor, target: Tensor, chosen: list[int]) -> Tensor:
    """The same with weights of at least 0."""
    return torch.from_numpy(nnls(gradients[chosen].T.numpy(), target.numpy())[0])


def pursuit(gradients: Tensor, budget: int) -> tuple[list[int], Tensor]:
    """Picks in order and their weights: matching pursuit with non-negative weights."""
    target = gradients.sum(0)
    chosen, weights, missing = [], torch.zeros(0, dtype=torch.float64), target
    for _ in range(budget):
        found = scores(gradients, missing)
        found[chosen] = -torch.inf
        if found.max() <= 1e-9:
            break
        chosen.append(int(found.argmax()))
        weights = refit_nonnegative(gradients, target, chosen)
        missing = target - weights @ gradients[chosen]
    return chosen, weights


@exercise(
    "5.1",
    "return the inner product of every gradient with what is missing",
    "the largest of them points best towards what is missing",
    examples=((8, [1.0, -2.0, 0.5]), (5, [-0.5, 1.0, 3.0])),
)
def check_5_1(answer, count, missing):
    gradients, missing = arrows()[:count], torch.tensor(missing, dtype=torch.float64)
    got, expected = tensor(call(answer, gradients, missing), (count,)), scores(gradients, missing)
    if close(got, expected / gradients.norm(dim=1)):
        return "those are divided by the gradients' lengths: Algorithm 3 takes the inner products"
    if close(got, expected.abs()):
        return "leave the sign: whether a gradient points there or away matters below"
    return None if close(got, expected) else "multiply the (n, d) gradients with the (d,) vector"


@exercise(
    "5.2",
    "return the least-squares weights of the chosen gradients",
    "what is still missing is now perpendicular to every chosen gradient",
    examples=(([1, 4],), ([6, 0, 3],)),
)
def check_5_2(answer, chosen):
    gradients = arrows()
    target = gradients.sum(0)
    got = tensor(call(answer, gradients, target, list(chosen)), (len(chosen),))
    expected = refit(gradients, target, chosen)
    if close(got, (gradients[chosen] @ target) / gradients[chosen].square().sum(1)):
        return "each weight is fitted alone: fit them together, they share the work"
    if not close(got, expected):
        off = gradients[chosen] @ (target - got @ gradients[chosen])
        off = [round(value, 3) for value in off.tolist()]
        return f"what is missing is not perpendicular to the chosen ones, but at {off} to them"
    return None


@exercise(
    "5.3",
    "return the least-squares weights that are at least 0",
    "no sample is to be unlearnt",
    examples=(([0, 1, 2, 5],), ([6, 1],)),
)
def check_5_3(answer, chosen):
    gradients = arrows()
    target = gradients.sum(0)
    got = tensor(call(answer, gradients, target, list(chosen)), (len(chosen),))
    if (got < -1e-9).any():
        return f"a weight is negative: {float(got.min()):.3g}"
    free = refit(gradients, target, chosen)
    expected = refit_nonnegative(gradients, target, chosen)
    if close(got, free.clamp_min(0)) and not close(got, expected):
        return "negative weights were cut to 0 and the others left: they must be fitted anew"
    return None if close(got, expected) else "there are weights of at least 0 that come nearer"


@exercise(
    "5.4",
    "return the picks, a list, and their weights, a tensor",
    "score, pick, refit, look again: Algorithm 3 with non-negative weights",
)
def check_5_4(answer):
    gradients = arrows()
    result = call(answer, gradients, 3)
    if not isinstance(result, tuple | list) or len(result) != 2:
        return "return two things: the picks and their weights"
    picks, weights = indices(result[0]), floats(result[1])
    expected, fitted = pursuit(gradients, 3)
    if picks[:1] != expected[:1]:
        return (
            f"the first pick is {expected[0]}: nothing is chosen yet, so everyone's sum is missing"
        )
    if len(set(picks)) < len(picks):
        return f"it picks a sample twice: {picks}"
    largest = scores(gradients, gradients.sum(0)).argsort(descending=True)[:3].tolist()
    if picks == largest != expected:
        return (
            "it takes the three largest first scores: after each refit, look at what is missing now"
        )
    if picks == [0, 7, 4]:  # by the sizes of the scores
        return "the third pick has a negative score: pick the largest score, not the largest size"
    if picks != expected and sorted(picks) == sorted(expected):
        return f"give the picks in the order of picking, {expected}, and the weights likewise"
    if picks != expected:
        return f"expected the picks {expected}, got {picks}"
    if weights.shape != fitted.shape:
        return f"{len(picks)} picks need as many weights, not {tuple(weights.shape)}"
    if not close(weights, fitted):
        return "the picks are right; fit all weights anew at the end"
    weights, fitted = floats(call(answer, crossing(), 4)[1]), pursuit(crossing(), 4)[1]
    if weights.shape != fitted.shape:
        return f"4 picks need as many weights, not {tuple(weights.shape)}"
    if (weights < -1e-9).any():
        return f"with other gradients a weight is {float(weights.min()):.2f}: use `positive_refit`"
    return None if close(weights, fitted) else f"with other gradients it gives {weights.tolist()}"


def effective_share(weights: Tensor) -> float:
    """Kish's effective share of the samples: 1 if all are equal, 1 / k if one has it all."""
    return float(weights.sum() ** 2 / (len(weights) * weights.square().sum()))


@exercise(
    "5.5",
    "return (sum of the weights) squared over (their number times the sum of their squares)",
    "1 says that all weights are equal, 1 / k that a single sample has it all",
    examples=(([4, 1, 1, 0, 2],), ([1, 2, 6],)),
)
def check_5_5(answer, values):
    weights = torch.tensor(values, dtype=torch.float64)
    got, expected = scalar(call(answer, weights)), effective_share(weights)
    if number(got, expected * len(weights)):
        return "that is the effective number: divide by how many weights there are"
    if number(got, 1 / expected):
        return "turn it over: a share is at most 1"
    return (
        None
        if number(got, expected)
        else f"for the weights {values} it is {expected:.3f}, not {got:.3f}"
    )


# Lesson 6: Algorithm 1


def phase(epoch: int, epochs: int, kappa: float, k: float) -> str:
    """What an epoch, counted from 0, is spent on in the three-phase plan."""
    start = int(kappa * epochs + 1e-9)
    return "full" if epoch < round(start * k) else "skip" if epoch < start else "coreset"


def plan_cost(epochs: int, kappa: float, k: float) -> float:
    """The images that a plan trains on, over those of full training."""
    price = {"full": 1.0, "skip": 0.0, "coreset": k}
    return sum(price[phase(epoch, epochs, kappa, k)] for epoch in range(epochs)) / epochs


def speed_up(plan, epoch_seconds: float, select_seconds: float) -> float:
    """How many times faster than full training a plan is, its selections included."""
    spent = plan.cost * len(plan) * epoch_seconds + plan.selections * select_seconds
    return len(plan) * epoch_seconds / spent


def weighted_loss(losses: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of a batch's losses; the weights have mean 1 over the coreset."""
    return (weights * losses).mean()


@exercise(
    "6.1", 'return "full", "skip" or "coreset"', "warm start, a pause, coresets: the three phases"
)
def check_6_1(answer):
    for epochs, kappa, k in ((10, 0.5, 0.6), (100, 0.6, 0.5), (12, 0.0, 0.3), (10, 0.75, 0.4)):
        for epoch in range(epochs):
            got, expected = call(answer, epoch, epochs, kappa, k), phase(epoch, epochs, kappa, k)
            if not isinstance(got, str) or got not in ("full", "skip", "coreset"):
                return f'it gives {got!r}: "full", "skip" or "coreset" is expected'
            if got != expected:
                return (
                    f"with E={epochs}, κ={kappa}, k={k} epoch {epoch} is {expected!r}, not {got!r}"
                )
    return None


@exercise(
    "6.2",
    "return the cost of the plan over that of full training",
    "it is k whatever κ is, up to rounding: κ moves when the work is done, not how much",
    # the last: of 5 epochs before the coresets 2 are warm start, since epochs are whole
    examples=((100, 0.6, 0.5), (60, 0.75, 0.2), (10, 0.5, 0.5)),
)
def check_6_2(answer, epochs, kappa, k):
    got, expected = scalar(call(answer, epochs, kappa, k)), plan_cost(epochs, kappa, k)
    if number(got, expected * epochs):
        return "that counts epochs: divide by E"
    if number(got, expected, 1e-3):
        return None
    return f"with E={epochs}, κ={kappa}, k={k} it is {expected:.3f}, not {got:.3f}"


@exercise(
    "6.3",
    "set how many of the 100 epochs Algorithm 1 as printed trains in",
    "30 of warm start and the epochs 60, 80 and 100",
)
def check_6_3(answer):
    if number(answer, 70):
        return "that is the three-phase plan: as printed, `else: continue` leaves the training out"
    if number(answer, 30):
        return "the epochs in which a coreset is selected are trained, too"
    if number(answer, 32):
        return "count the ends: 60 and 100 both meet line 7"
    return None if number(answer, 33, 0) else "count the epochs that meet line 5 or line 7"


@exercise(
    "6.4",
    "return the mean of the weights times the losses",
    "eq. (23), estimated on one batch",
    examples=(([1, 2, 4, 0.5], [2, 0.5, 1, 0.1]), ([3, 0.2, 1], [0.4, 2.5, 1.5])),
)
def check_6_4(answer, losses, weights):
    losses, weights = torch.tensor(losses).float(), torch.tensor(weights).float()
    got, expected = scalar(call(answer, losses, weights)), float(weighted_loss(losses, weights))
    if number(got, float((weights * losses).sum() / weights.sum())):
        return (
            "it divides by this batch's weights: then equal weights in a batch cancel, large or "
            "small; divide by how many samples there are"
        )
    if number(got, len(losses) * expected):
        return (
            "that is the sum: take the mean, so that the rate does not depend on the batch's size"
        )
    if number(got, float(losses.mean())):
        return "the weights are missing"
    return None if number(got, expected, 1e-4) else f"expected {expected:.4f}, got {got:.4f}"


def train_with_coresets(model, optimiser, images, labels, plan, objective, select) -> list[int]:
    """Algorithm 1, lines 4 to 19; gives how many images each epoch was trained on."""
    counts, coreset = [], None
    for epoch in plan:
        if epoch.phase == "full":
            coreset = selectors.Coreset(torch.arange(len(labels)), torch.ones(len(labels)))
        elif epoch.select:
            gradients = objective.gradients(model, images, labels)
            coreset = select(gradients, schedule.coreset_size(plan.coreset_fraction, len(labels)))
        if epoch.phase == "skip":
            counts.append(0)
            continue
        coreset, trained = coreset.normalised(), 0
        for rows in torch.randperm(len(coreset)).split(32):
            batch, weights = coreset.indices[rows], coreset.weights[rows]
            adversarial = objective.perturb(model, images[batch], labels[batch])
            losses = objective.loss(model, images[batch], labels[batch], adversarial)
            optimiser.zero_grad()
            weighted_loss(losses, weights.float()).backward()
            optimiser.step()
            trained += len(batch)
        counts.append(trained)
    return counts


class Recorded:
    """An objective and a selector that write down what is asked of them."""

    def __init__(self):
        self.gradients_of, self.seen, self.selected, self.clean = [], [], [], False

    def gradients(self, model, images, labels):
        self.gradients_of.append(len(labels))
        return LastLayerGradients(errors(model(images), labels).detach())

    def perturb(self, model, images, labels):
        self.seen.append(len(labels))
        return 1 - images

    def loss(self, model, images, labels, adversarial=None):
        if adversarial is None or torch.equal(adversarial, images):
            self.clean, adversarial = True, images
        return cross_entropy(model(adversarial), labels, reduction="none")

    def select(self, gradients, budget):
        self.selected.append(budget)
        indices = torch.arange(budget)
        return selectors.Coreset(indices, (indices + 1.0).double())


@exercise(
    "6.5",
    "fill in the marked lines of the loop",
    "warm start, selection, attack, weighted step: that is Algorithm 1",
)
def check_6_5(answer):
    images, labels = toy_images(60)

    def after(loop):
        torch.manual_seed(0)
        model, book = toy(), Recorded()
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        plan = schedule.plan(8, 0.5, 0.5, 2)
        counts = filled(loop(model, optimiser, images, labels, plan, book, book.select))
        counts = [scalar(count) for count in listed(counts, "numbers of images")]
        return counts, book, model[1].weight.detach().double()

    counts, book, weight = after(answer)
    expected, should, target = after(train_with_coresets)
    if len(book.selected) != len(should.selected):
        return (
            f"it selects {len(book.selected)} times in 8 epochs, the plan says "
            f"{len(should.selected)}: look at `epoch.select`"
        )
    if book.selected != should.selected:
        return f"the budget is {book.selected[0]} of 60 images with k = 0.5: it must be 30"
    if not book.gradients_of or set(book.gradients_of) != {60}:
        return "the gradients to select by are those of all 60 images"
    if sum(book.seen) != sum(should.seen):
        return f"it attacks {sum(book.seen)} images in all, the plan asks for {sum(should.seen)}"
    if book.clean:
        return "the loss is that of the clean images: give `objective.loss` the attacked ones"
    if counts != expected:
        shown = [f"{count:g}" for count in counts]
        return f"the images of each epoch are {expected}, and it returns {', '.join(shown)}"
    if close(weight, toy()[1].weight.detach().double()):
        return "the network has not changed: zero_grad, backward, step"
    return (
        None
        if close(weight, target, 1e-4)
        else ("the network ends elsewhere: weigh each sample's loss by its normalised weight")
    )


@exercise(
    "6.6",
    "return the seconds of full training over those of the plan, selections included",
    "selecting costs something, so the speed-up stays below 1 / k",
    examples=(((100, 0.5, 0.6, 20), 10.0, 8.0), ((40, 0.3, 0.5, 4), 5.0, 20.0)),
)
def check_6_6(answer, planned, epoch, select):
    plan = schedule.plan(*planned)
    got, expected = scalar(call(answer, plan, epoch, select)), speed_up(plan, epoch, select)
    if number(got, plan.ceiling, 1e-4):
        return "that is the ceiling: add the seconds of the selections"
    if number(got, 1 / expected):
        return "turn it over: a speed-up is above 1"
    return (
        None
        if number(got, expected, 1e-3)
        else f"for the example it is {expected:.3f}, not {got:.3f}"
    )


# Lesson 7: TRADES and perceptual attacks


def trades_loss(clean: Tensor, moved: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Eq. (4) from the logits of the clean and of the attacked images, (n,)."""
    distance = cross_entropy(moved, clean.softmax(1), reduction="none")
    return cross_entropy(clean, labels, reduction="none") + beta * distance


def target_errors(clean: Tensor, moved: Tensor) -> Tensor:
    """The gradient of CE(moved, softmax(clean)) with respect to the clean logits, (n, C)."""
    p, surprise = clean.softmax(1), -moved.log_softmax(1)
    return p * (surprise - (p * surprise).sum(1, keepdim=True))


def constant_loss(confidence: Tensor, beta: float, form: str) -> Tensor:
    """Eq. (4) for a network that says the same for every image: one class with `confidence`."""
    rest = (1 - confidence) / 9
    clean = -0.1 * confidence.log() - 0.9 * rest.log()
    entropy = -confidence * confidence.log() - 9 * rest * rest.log()
    return clean + beta * entropy * (form == "ce")


def normal(maps: Tensor) -> Tensor:
    """Feature maps with length 1 at every position."""
    return maps / (maps.norm(dim=1, keepdim=True) + 1e-10)


def lpips_distance(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """The unweighted LPIPS distance between two images' feature maps, (n,)."""

    def embed(maps):
        return normal(maps).flatten(1) / (maps.shape[2] * maps.shape[3]) ** 0.5

    parts = [embed(one) - embed(other) for one, other in zip(first, second, strict=True)]
    return torch.cat(parts, 1).norm(dim=1)


@exercise(
    "7.1",
    "return the clean cross-entropy plus beta times that of the two predictions, for each sample",
    "eq. (4), with beta in place of 1 / lambda",
    examples=((3.0,), (0.5,)),
)
def check_7_1(answer, beta):
    _, clean, labels = factors()
    moved = clean.flip(0)
    got = tensor(call(answer, clean, moved, labels, beta), labels.shape)
    first = cross_entropy(clean, labels, reduction="none")
    if close(got, first + beta * cross_entropy(moved, labels, reduction="none")):
        return "the second term compares with the clean prediction, softmax(clean), not the label"
    if close(got, trades_loss(clean, moved, labels, 1 / beta)):
        return "beta is 1 / lambda: multiply by it"
    swapped = cross_entropy(clean, moved.softmax(1), reduction="none")
    if close(got, first + beta * swapped):
        return "the two predictions are swapped: the clean one is the target"
    return None if close(got, trades_loss(clean, moved, labels, beta)) else "it is not eq. (4)"


@exercise(
    "7.2",
    "return the gradient with respect to the clean logits, for each sample",
    "the third term of eq. (22): the target moves, too",
    examples=((5,), (2,)),
)
def check_7_2(answer, count):
    _, clean, _ = factors(count)
    moved = clean.flip(0)
    got, expected = tensor(call(answer, clean, moved), clean.shape), target_errors(clean, moved)
    p, surprise = clean.softmax(1), -moved.log_softmax(1)
    if close(got, moved.softmax(1) - p):
        return "that is the second term, through the attacked image: here the target p moves"
    if close(got, p * surprise):
        return "the probabilities must go on adding up to 1: subtract the mean surprise under p"
    if close(got, -expected):
        return "the sign is wrong"
    return None if close(got, expected) else "autograd finds another gradient"


@exercise(
    "7.3",
    "return eq. (4) for the constant prediction, for either form",
    "with the cross-entropy form it pays to be sure, even if wrong",
    examples=((6.0,), (0.5,)),
)
def check_7_3(answer, beta):
    confidence = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    ce = tensor(call(answer, confidence.float(), beta, "ce"), (3,))
    kl = tensor(call(answer, confidence.float(), beta, "kl"), (3,))
    if close(ce, kl):
        return 'the forms differ: for "ce" add beta times the entropy of the prediction'
    if not close(kl, constant_loss(confidence, beta, "kl")):
        return (
            "the clean part is wrong: a tenth of the images have the favoured class, nine tenths "
            "have one that gets (1 - confidence) / 9"
        )
    entropy = constant_loss(confidence, 1.0, "ce") - constant_loss(confidence, 1.0, "kl")
    if not close(ce, kl + beta * entropy):
        return f"add {beta:g} H, where the entropy is H = -c log(c) - 9 r log(r), r = (1 - c) / 9"
    return None


@exercise(
    "7.4",
    "return the distance between the normalised feature maps, for each image",
    "every position counts by its direction, every layer the same",
    # shapes of maps: a map need not be square
    examples=(([(2, 3, 4, 4), (2, 5, 2, 2)],), ([(3, 2, 2, 4)],)),
)
def check_7_4(answer, shapes):
    generator = torch.Generator().manual_seed(9)
    first, second = ([torch.rand(s, generator=generator) for s in shapes] for _ in range(2))
    got = tensor(call(answer, first, second), (len(first[0]),))
    expected = lpips_distance(first, second)
    if close(got, expected.square()):
        return "that is the squared distance: take the root"
    sizes = zip(first, second, strict=True)
    unscaled = [(normal(a) - normal(b)).flatten(1) for a, b in sizes]
    if close(got, torch.cat(unscaled, 1).norm(dim=1), 1e-4):
        return "divide each layer by the root of its number of positions, H * W"
    plain = torch.cat([(a - b).flatten(1) for a, b in zip(first, second, strict=True)], 1)
    if close(got, plain.norm(dim=1)):
        return "the maps are not normalised: divide each position by its norm over the channels"
    return (
        None
        if close(got, expected, 1e-4)
        else "normalise over dim 1, divide by sqrt(H W), join, norm"
    )


@exercise(
    "7.5",
    'set "a", "b" or "c"',
    "AdversarialTraining(attack) has the loss and its gradients; other losses get autograd's",
)
def check_7_5(answer):
    return {
        "a": "the solver sees gradients only, and these may come from any attack",
        "b": None,
        "c": "the schedule does not look at the objective",
    }[choice(answer, "abc")]


# Lesson 8: Theorem 1


def gradient_error(gradients: Tensor, coreset: selectors.Coreset) -> float:
    """Gamma with L the mean loss: the length of what is missing from the mean gradient."""
    matched = coreset.weights.to(gradients) @ gradients[coreset.indices]
    return float((gradients.sum(0) - matched).norm() / len(gradients))


def right_side(delta: float, sigma: float, gammas: Tensor) -> float:
    """The bound of Theorem 1 (1)."""
    return float(delta * sigma / len(gammas) ** 0.5 + delta * gammas.mean())


def slack(gap: float, gradient: Tensor, theta: Tensor, optimum: Tensor) -> float:
    """By how much eq. (B19) holds; negative where it fails."""
    return float(gradient @ (theta - optimum) - gap)


@exercise(
    "8.1",
    "return the length of the mean gradient minus the weighted sum over n",
    "the Γ that Theorem 1 has, for L the mean loss",
    examples=((8, [1, 4, 6], [2.0, 3.0, 1.5]), (5, [0, 2], [1.0, 2.5])),
)
def check_8_1(answer, count, chosen, weights):
    gradients = arrows()[:count]
    coreset = selectors.Coreset(torch.tensor(chosen), torch.tensor(weights).double())
    got, expected = scalar(call(answer, gradients, coreset)), gradient_error(gradients, coreset)
    of_coreset = coreset.weights @ gradients[coreset.indices]
    if number(got, float((gradients.mean(0) - of_coreset).norm()), 1e-4):
        return "the coreset's sum is divided by n, too"
    if number(got, float((gradients.mean(0) - of_coreset / coreset.weights.sum()).norm()), 1e-4):
        return "divide the coreset's sum by n, not by the sum of its weights"
    if number(got, float((gradients.mean(0) - gradients[coreset.indices].mean(0)).norm()), 1e-4):
        return "the coreset's gradients have weights"
    if number(got, expected * len(gradients), 1e-4):
        return "that is for L the sum of the losses: divide by n for the mean"
    if number(got, (expected * len(gradients)) ** 2, 1e-4):
        return "that is the squared length: Γ has no square"
    return (
        None
        if number(got, expected, 1e-4)
        else f"for the example it is {expected:.4f}, not {got:.4f}"
    )


@exercise(
    "8.2",
    "return the gradient times (θ - θ*), minus L(θ) - L(θ*)",
    "a convex function lies above its tangents, so this is never negative",
    examples=((0.7, 1), (0.2, 2)),
)
def check_8_2(answer, gap, seed):
    generator = torch.Generator().manual_seed(seed)
    gradient, theta, optimum = torch.randn(3, 4, generator=generator).double()
    got = scalar(call(answer, torch.tensor(gap).double(), gradient, theta, optimum))
    expected = slack(gap, gradient, theta, optimum)
    if number(got, -expected):
        return "turn the difference over: the right side of (B19) minus the left one"
    if number(got, -float(gradient @ (theta - optimum)) - gap):
        return "the vector goes from θ* to θ: theta - optimum"
    return (
        None
        if number(got, expected, 1e-4)
        else f"for the example it is {expected:.4f}, not {got:.4f}"
    )


@exercise(
    "8.3",
    "return delta sigma / sqrt(T) plus delta times the mean of the gammas",
    "noise that time removes, and an error that only better coresets remove",
    examples=((3.0, 2.0, [0.1, 0.3, 0.2, 0.4]), (1.5, 4.0, [0.5, 0.2, 0.6])),
)
def check_8_3(answer, delta, sigma, values):
    gammas = torch.tensor(values, dtype=torch.float64)
    got, expected = scalar(call(answer, delta, sigma, gammas)), right_side(delta, sigma, gammas)
    noise, error = delta * sigma / len(gammas) ** 0.5, delta * float(gammas.mean())
    if number(got, noise + error * len(gammas)):
        return "take the mean of the gammas: the sum in (1) is divided by T"
    if number(got, delta * sigma / len(gammas) + error):
        return "the first term is divided by the root of T"
    if number(got, noise):
        return "that is the noise alone: add delta times the mean of the gammas"
    return (
        None
        if number(got, expected, 1e-4)
        else f"for the example it is {expected:.3f}, not {got:.3f}"
    )


@exercise(
    "8.4",
    "return how many iterations make delta sigma / sqrt(T) at most `wanted`",
    "ten times the precision takes a hundred times the iterations",
    # the last: 64 iterations to the dot, so that there is nothing to round
    examples=((20.0, 1.0, 0.3), (22.0, 1.2, 0.7), (16.0, 2.0, 4.0)),
)
def check_8_4(answer, delta, sigma, wanted):
    got, exact = scalar(call(answer, delta, sigma, wanted)), (delta * sigma / wanted) ** 2
    if got == math.ceil(exact):
        return None
    if number(got, exact**0.5, 0.05):
        return "square it: the noise falls with the root of T"
    if abs(got - exact) < 1:
        return f"iterations are whole: round {exact:.2f} up to {math.ceil(exact)}"
    asked = f"Δ={delta:g}, σ={sigma:g}, wanted {wanted:g}"
    return f"{asked}: it takes {math.ceil(exact)}, not {got:g}"


@exercise(
    "8.5",
    'set "a", "b" or "c"',
    "with weights that add up to n the gradient is n times too long for σ",
)
def check_8_5(answer):
    return {
        "a": "every loss is convex here, whatever the weights",
        "b": None,
        "c": "θ is projected into the ball after every step",
    }[choice(answer, "abc")]


# Lesson 9: reading critically


def printed_table(labels=None) -> pd.DataFrame:
    """Three rows in the shape of Table 1, the second difference of which is wrong.

    labels: those of the index, three.
    """
    return pd.DataFrame(
        {
            "method": ["adv_craig", "adv_gradmatch", "full"],
            "acc_pct": [80.1, 81.5, 83.0],
            "acc_diff_printed_pct": [-2.9, -1.75, math.nan],
        },
        labels,
    )


def wrong_rows(table: pd.DataFrame, full: pd.DataFrame) -> list:
    """The rows whose printed difference in clean accuracy is not what the accuracies give."""
    off = (table.acc_diff_printed_pct - (table.acc_pct - full.acc_pct)).abs()
    return off.index[off > 0.0051].tolist()


def dominates(first, second) -> bool:
    """Whether the first is at least as good in ACC, RACC and minutes, and better in one."""
    least = (
        first.acc_pct >= second.acc_pct,
        first.racc_pct >= second.racc_pct,
        first.time_min <= second.time_min,
    )
    more = (
        first.acc_pct > second.acc_pct,
        first.racc_pct > second.racc_pct,
        first.time_min < second.time_min,
    )
    return all(least) and any(more)


def interval(differences) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences, by Student's t."""
    values = np.asarray(differences, float)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)


def seeds_needed(deviation: float, half_width: float) -> int:
    """How many seeds make 1.96 standard errors of the mean at most `half_width`."""
    return math.ceil((1.96 * deviation / half_width) ** 2)


@exercise(
    "9.1",
    "return the index labels of the rows whose printed difference is more than 0.0051 off",
    "a table can be checked against itself",
    examples=(([0, 1, 2],), ([12, 4, 7],)),
)
def check_9_1(answer, labels):
    table, (good, wrong, of_full) = printed_table(labels), labels
    full = table.iloc[[2, 2, 2]].set_index(table.index)
    got = indices(call(answer, table.copy(), full.copy()))
    if of_full in got:
        return "full training has no printed difference: a missing value is not an error"
    if got == [good, wrong]:
        return "the first row is right: -2.90 is 80.10 - 83.00 up to the computer's own rounding"
    if got == [wrong]:
        return None
    return f"the row labelled {wrong} prints -1.75 for 81.50 - 83.00, and it gives {got}"


@exercise(
    "9.2",
    "set in how many of Table 1's 16 coreset rows the speed-up is at least 2",
    'seven of sixteen are not "most cases"',
)
def check_9_2(answer):
    if number(answer, 15) or number(answer, 24):
        return "leave the rows of full training out, and count those with a speed-up of 2 or more"
    return (
        None if number(answer, 7, 0) else "count `speedup_x >= 2` among the rows that are not full"
    )


@exercise(
    "9.3",
    "return whether the first row is at least as good in all three and better in one",
    "no weighing of points against minutes is needed where one row dominates",
)
def check_9_3(answer):
    def row(acc, racc, minutes, method="adv_craig"):
        numbers = {"acc_pct": acc, "racc_pct": racc, "time_min": minutes}
        return pd.Series({"method": method, **numbers})

    same, better, slower = row(80, 40, 100, "full"), row(81, 40, 100), row(81, 41, 120)
    if not truth(call(answer, better, same)):
        return "more ACC at the same RACC and minutes: the first dominates"
    if truth(call(answer, slower, same)):
        return (
            "a row that takes longer does not dominate, however accurate: fewer minutes are better"
        )
    if truth(call(answer, row(80, 40, 100), same)):
        return "a row does not dominate its equal: at least one must be better"
    if truth(call(answer, row(81, 39, 90), same)):
        return "all three must be at least as good, and RACC is lower here"
    if truth(call(answer, row(79, 41, 90), same)):
        return "all three must be at least as good, and ACC is lower here"
    for better in (row(80, 41, 100), row(80, 40, 90)):
        if not truth(call(answer, better, same)):
            return "one that is better and two that are equal are enough, whichever they are"
    return None


@exercise(
    "9.5",
    "return the lower and the upper end of the 95 % interval",
    "what the seeds together say, and how sure they are",
    examples=(([1.0, -0.5, 2.0, 0.3, 1.4],), ([0.6, 1.1, -2.0],)),
)
def check_9_5(answer, values):
    low, high = pair(call(answer, np.array(values)), "the lower and the upper end")
    expected = interval(values)
    half, middle = (high - low) / 2, (high + low) / 2
    if abs(middle - float(np.mean(values))) > 1e-6:
        return "the interval must lie about the mean of the differences"
    spread, n = float(np.std(values, ddof=1)), len(values)
    if number(half, 1.96 * spread):
        return "that is where single seeds lie: divide by the root of their number for the mean"
    if number(half, 1.96 * spread / n**0.5, 0.005):
        factor = stats.t.ppf(0.975, n - 1)
        return f"with {n} seeds the factor is t's {factor:.2f}, not 1.96: stats.t.ppf(0.975, n - 1)"
    if number(half, stats.t.ppf(0.975, n - 1) * float(np.std(values)) / n**0.5, 1e-3):
        return "divide by n - 1 in the standard deviation: ddof=1"
    return (
        None
        if number(half, (expected[1] - expected[0]) / 2, 1e-3)
        else (
            f"the half-width for {values} is {(expected[1] - expected[0]) / 2:.3f}, not {half:.3f}"
        )
    )


@exercise(
    "9.6",
    "return (1.96 deviation / half_width) squared, rounded up",
    "half the width takes four times the seeds",
    # the last: 49 squared to the dot, so that there is nothing to round
    examples=((2.0, 1.0), (3.5, 0.5), (25.0, 1.0)),
)
def check_9_6(answer, deviation, half):
    got, expected = scalar(call(answer, deviation, half)), seeds_needed(deviation, half)
    if got == expected:
        return None
    if number(got, 1.96 * deviation / half):
        return "square it: the width falls with the root of the number"
    if abs(got - expected) < 1:
        return f"seeds are whole: round {got:.2f} up to {expected}"
    return f"deviation {deviation:g}, half-width {half:g}: it takes {expected}, not {got:g}"


@exercise(
    "9.4", 'set "a", "b" or "c"', "half the epochs on everything cost what all epochs on half cost"
)
def check_9_4(answer):
    return {
        "a": "full training in 120 epochs costs twice as much",
        "b": None,
        "c": "0.3 is cheaper than 0.5, and both are selected: it says nothing about selecting",
    }[choice(answer, "abc")]
