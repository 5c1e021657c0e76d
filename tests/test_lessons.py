"""The lessons: their checks with right, wrong and empty answers, both versions run, their form."""

import contextlib
import importlib.util
import math
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import alts
import nbclient
import nbformat
import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import cross_entropy

from acslib.paper import study, tables

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks" / "lessons"


def module(path):
    specification = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(specification)
    sys.modules.setdefault(path.stem, loaded)
    specification.loader.exec_module(loaded)
    return loaded


lessons = module(ROOT / "tools" / "lessons.py")
checks = module(FOLDER / "checks.py")
SOURCES = lessons.sources()
NUMBERS = [
    name.removeprefix("check_") for name in vars(checks) if re.fullmatch(r"check_\d_\d", name)
]
each_lesson = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
each_exercise = pytest.mark.parametrize("number", NUMBERS)


def said(capsys, number, answer):
    """Whether a check says yes, and the sentence that it prints."""
    capsys.readouterr()
    verdict = getattr(checks, f"check_{number}")(answer)
    sentence = capsys.readouterr().out
    assert sentence.count("\n") == 1, f"one sentence is expected: {sentence!r}"
    assert sentence.startswith(f"Exercise {number.replace('_', '.')} is ")
    return verdict, sentence


# ---- answers: those of the lessons are right, their stubs are empty, and mistakes are named


def exercises():
    """The code of each exercise by its number, solved and as a stub, with the name it defines."""
    found = {}
    for source in SOURCES:
        cells = {v: lessons.notebook(source, v).cells for v in ("answers", "student")}
        for solved, stub, following in zip(
            cells["answers"], cells["student"], cells["answers"][1:], strict=False
        ):
            if lessons.is_exercise(solved):
                number, name = re.search(r"check_(\d_\d)\((\w+)\)", following.source).groups()
                found[number] = source, solved.source, stub.source, name
    return found


EXERCISES = exercises()


@pytest.fixture(scope="module")
def given():
    """What a lesson's cells have at hand when an exercise is reached: imports, and fallbacks."""
    made = {}

    def of(source):
        if source not in made:
            names = vars(checks) | {"checks": checks, "torch": torch}
            names |= {"next_pick": checks.next_pick, "positive_refit": checks.refit_nonnegative}
            cells = lessons.notebook(source, "answers").cells
            imports = next(cell.source for cell in cells if cell.cell_type == "code")
            lines = [line for line in imports.splitlines() if line not in ("import course",)]
            exec("\n".join(lines), names)
            if source.stem.startswith("09"):
                names["table"] = names["printed"].paper_table("table1")
            made[source] = names
        return dict(made[source])

    return of


@each_exercise
def test_the_lesson_s_own_answer_is_right(number, given, capsys):
    verdict, sentence = said(capsys, number, answer_of(number, given))
    assert verdict is True, sentence
    assert " is right: " in sentence


@each_exercise
def test_the_stub_is_empty_and_says_what_to_do(number, given, capsys):
    source, _, stub, name = EXERCISES[number]
    names = given(source)
    exec(stub, names)
    for answer in (names[name], None, ...):
        verdict, sentence = said(capsys, number, answer)
        assert verdict is False
        assert " is empty: " in sentence
        assert len(sentence) > 40


def answer_of(number, given):
    """The lesson's own answer."""
    source, solved, _, name = EXERCISES[number]
    names = given(source)
    exec(solved, names)
    return names[name]


RIGHT = {
    "2_4": [lambda *a: torch.tensor(step(*a), requires_grad=True)],
    "4_3": [lambda d, s: torch.stack([(d[:, s].argmin(1) == k).sum() for k in range(len(s))])],
    "5_2": [lambda g, t, s: torch.linalg.pinv(g[s].T) @ t],
    "8_4": [
        lambda d, s, w: -int(-((d * s / w) ** 2) // 1),
        lambda d, s, w: np.ceil(d**2 * s**2 / w**2),
    ],
    "9_1": [
        lambda t, f: t.index[(t.acc_pct - f.acc_pct - t.acc_diff_printed_pct).abs() > 0.0051],
        lambda t, f: np.array(
            t.index[
                ((t.acc_pct - f.acc_pct).round(2) != t.acc_diff_printed_pct)
                & t.acc_diff_printed_pct.notna()
            ]
        ),
    ],
    "9_5": [
        lambda d: around(d, margin(len(d)) * d.std(ddof=1)),
        lambda d: [*around(d, margin(len(d)) * np.std(d, ddof=1))],
        lambda d: np.array(around(d, margin(len(d)) * d.std(ddof=1))),
        lambda d: torch.tensor(around(d, margin(len(d)) * d.std(ddof=1))),
        lambda d: stats.t.interval(0.95, len(d) - 1, loc=d.mean(), scale=stats.sem(d)),
    ],
    "9_6": [
        lambda s, h: np.ceil((1.96 * s / h) ** 2),
        lambda s, h: math.ceil(1.96**2 * s**2 / h**2),
    ],
}


@pytest.mark.parametrize(
    ("number", "answer"),
    [(number, answer) for number, answers in RIGHT.items() for answer in answers],
)
def test_other_right_answers_are_right_and_nothing_is_printed_beside(number, answer, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict, sentence = said(capsys, number, answer)
    assert verdict is True, sentence


HOLDERS = [np.float64, lambda x: np.array([x]), lambda x: torch.tensor(x, dtype=torch.float64)]
HOLDERS += [lambda x: torch.tensor([float(x)], dtype=torch.float64, requires_grad=True)]


@each_exercise
@pytest.mark.parametrize("holder", HOLDERS, ids=["numpy", "array", "tensor", "graph"])
def test_a_number_may_come_in_whatever_holds_one(number, holder, given, capsys):
    right = answer_of(number, given)

    def held(value):
        one = isinstance(value, torch.Tensor) and value.dim() == 0
        return holder(float(value)) if one or isinstance(value, int | float) else value

    answer = (lambda *arguments: held(right(*arguments))) if callable(right) else held(right)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict, sentence = said(capsys, number, answer)
    assert verdict is True, sentence


@each_exercise
def test_an_answer_for_the_first_arguments_alone_is_wrong(number, given, capsys):
    """Be it that a single number, word or list is written in, be it the whole result."""
    right = answer_of(number, given)
    if not callable(right):
        return
    calls = calls_of(number, right)
    for place, first in enumerate(calls[0][0]):
        if not isinstance(first, int | float | str | list):
            continue

        def held(*arguments, place=place, first=first):
            return right(*arguments[:place], first, *arguments[place + 1 :])

        assert said(capsys, number, held)[0] is False, f"argument {place} may be ignored"
    verdict, sentence = said(capsys, number, lambda *_: calls[0][1])
    assert verdict is False
    assert "stopped with" not in sentence


@each_exercise
@pytest.mark.parametrize("answer", [lambda *_: 1 / 0, lambda: 3, object(), "?", -1e9, [], torch])
def test_no_answer_makes_a_check_raise(number, answer, capsys):
    verdict, sentence = said(capsys, number, answer)
    assert verdict is False, sentence


ODD = [lambda: 1, object(), "?", {}, ({}, {}), [[], []], ["a", "b"], math.nan]
ODD += [torch.zeros(0), torch.zeros(2, 2), torch.zeros(2).requires_grad_(), np.zeros(3)]


@each_exercise
@pytest.mark.parametrize("value", ODD, ids=map(str, range(len(ODD))))
def test_a_value_of_another_kind_is_told_so(number, value, capsys):
    """It is the answer's fault, and none of code that stops."""
    verdict, sentence = said(capsys, number, lambda *_: value)
    assert verdict is False
    assert "stopped with" not in sentence


@each_exercise
@pytest.mark.parametrize("nothing", [None, ...])
def test_an_answer_that_is_empty_in_part_is_empty(number, nothing, given, capsys):
    """Where one of its calls gives nothing, or nothing in the place of one of its results."""
    right = answer_of(number, given)
    if not callable(right):
        assert " is empty: " in said(capsys, number, (right, nothing))[1]
        return
    results = [result for _, result in calls_of(number, right)]
    for call in sorted({0, len(results) - 1}):
        parts = len(results[call]) if isinstance(results[call], tuple | list) else 0
        for part in (None, *range(parts)):
            answer = with_nothing(right, call, part, nothing)
            verdict, sentence = said(capsys, number, answer)
            assert verdict is False
            assert " is empty: " in sentence, f"call {call}, part {part}: {sentence}"


def calls_of(number, right):
    """Arguments and results of a right answer, for each time that its check calls it."""
    calls = []

    def noted(*arguments):
        kept = tuple(list(a) if isinstance(a, list) else a for a in arguments)
        calls.append((kept, right(*arguments)))
        return calls[-1][1]

    getattr(checks, f"check_{number}")(noted)
    return calls


def with_nothing(right, call, part, nothing):
    """A right answer that gives nothing at one of its calls, or in one part of what it gives."""
    count = iter(range(10**6))

    def answer(*arguments):
        result = right(*arguments)
        if next(count) != call:
            return result
        if part is None:
            return nothing
        return type(result)([*result[:part], nothing, *result[part + 1 :]])

    return answer


def step(model, optimiser, attack, images, labels, *, clean=False, zero=True):
    adversarial = images if clean else attack(model, images, labels)
    loss = cross_entropy(model(adversarial), labels)
    if zero:
        optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def ascend(model, images, labels, size, sign=1):
    x = images.clone().requires_grad_()
    gradient = torch.autograd.grad(cross_entropy(model(x), labels, reduction="sum"), x)[0]
    return (images + sign * size * gradient.sign()).clamp(0, 1)


def climb(model, images, labels, epsilon, step, steps, *, fixed=False, late=False):
    """PGD with a mistake: gradients at the images alone, or one projection, at the end."""
    x = images
    for _ in range(steps):
        at = (images if fixed else x).clone().requires_grad_()
        loss = cross_entropy(model(at), labels, reduction="sum")
        x = x + step * torch.autograd.grad(loss, at)[0].sign()
        x = x if late else checks.projected(x, images, epsilon)
    return checks.projected(x, images, epsilon)


def loop(*arguments, **changes):
    """Algorithm 1 with one thing changed: of what the objective, the selector or the plan do."""
    model, optimiser, images, labels, plan, book, select = arguments
    if changes.get("blind"):
        plan = type(plan)(
            tuple(type(e)(e.index, e.phase, e.select and e.index < 5) for e in plan),
            plan.coreset_fraction,
        )
    if changes.get("clean"):
        loss = book.loss
        book.loss = lambda model, images, labels, adversarial: loss(model, images, labels, images)
    if changes.get("halved"):
        select = lambda gradients, budget: book.select(gradients, budget // 2)  # noqa: E731
    if changes.get("unweighted"):
        select = lambda gradients, budget: type(book.select(gradients, budget))(  # noqa: E731
            torch.arange(budget), torch.ones(budget)
        )
    counts = checks.train_with_coresets(model, optimiser, images, labels, plan, book, select)
    return [0] * len(counts) if changes.get("uncounted") else counts


def ignoring_missing(gradients, budget):
    """The largest first scores, never looking again."""
    target = gradients.sum(0)
    picks = (gradients @ target).argsort(descending=True)[:budget].tolist()
    return picks, checks.refit_nonnegative(gradients, target, picks)


softplus = torch.nn.functional.softplus


# a wrong answer for each way of going wrong that a check knows, and words of what it says
def phase_by(start_of, warm_of):
    """Exercise 6.1, with other roundings than the paper's Figure 1 has."""

    def answer(epoch, epochs, kappa, k):
        start = start_of(kappa * epochs)
        warm = warm_of(start * k)
        return "full" if epoch < warm else "skip" if epoch < start else "coreset"

    return answer


WRONG = {
    "1_1": [
        (lambda x, images, e: x.clamp(0, 1), "moves by"),
        (lambda x, images, e: x.clamp(images - e, images + e), "lives in"),
        (lambda x, images, e: images, "nearer point"),
    ],
    "1_2": [
        (lambda m, x, y, e: ascend(m, x, y, e, -1), "the loss falls"),
        (lambda m, x, y, e: ascend(m, x, y, e / 2), "less than it could"),
        (lambda m, x, y, e: ascend(m, x, y, 2 * e), "moves by"),
        (lambda m, x, y, e: ascend(m, x, y, e)[:2], "shape"),
    ],
    "1_3": [
        (lambda m, x, y, e, step, steps: ascend(m, x, y, step), "stops after one step"),
        (lambda m, x, y, e, step, steps: ascend(m, x, y, 0.9), "project"),
        (lambda m, x, y, e, step, steps: climb(m, x, y, e, -step, steps), "goes down"),
        (lambda m, x, y, e, step, steps: climb(m, x, y, e, e, steps), "size epsilon: take"),
        (lambda m, x, y, e, step, steps: climb(m, x, y, e, e / steps, steps), "epsilon / steps"),
        (lambda m, x, y, e, step, steps: climb(m, x, y, e, e / 4, steps), "epsilon / 4"),
        (lambda *a: climb(*a, fixed=True), "always the one at the images"),
        (lambda *a: climb(*a, late=True), "once, at the end"),
        (lambda *a: climb(*a[:-1], a[-1] - 1), "ends elsewhere"),
    ],
    "1_4": [
        (lambda right: right.float().mean(), "mean over restarts"),
        (lambda right: right.float().mean(1).max(), "weakest single"),
        (lambda right: right.any(0).float().mean(), "every restart must"),
        (lambda right: right.float().mean(1).min(), "strongest single"),
        (lambda right: 1 - right.all(0).float().mean(), "share that is fooled"),
        (lambda right: 0.55, "it is 0.167, not 0.550"),
    ],
    "1_5": [(50, "one restart"), (10, "50 steps"), (60, "times"), (501, "times")],
    "2_1": [
        (lambda t, x, y, e: x + e * y[:, None] * t.sign(), "margins grow"),
        (lambda t, x, y, e: x - 2 * e * y[:, None] * t.sign(), "moves by"),
        (lambda t, x, y, e: x - e * y[:, None] * t / t.norm(), "whole epsilon"),
    ],
    "2_2": [
        (lambda t, x, y, e: softplus(-y * (x @ t)), "clean images"),
        (lambda t, x, y, e: softplus(-y * (x @ t) - e * t.abs().sum()), "margin grew"),
        (lambda t, x, y, e: softplus(-y * (x @ t) + e * t.norm()), "l2 ball"),
        (lambda t, x, y, e: y * (x @ t), "worst images"),
        (lambda t, x, y, e: softplus(-y * (x @ t) + 0.1 * t.abs().sum()), "not for another"),
    ],
    "2_3": [
        (lambda t, x, y, e: checks.worst_gradient(t, x, y, 0), "clean images"),
        (lambda t, x, y, e: -checks.worst_gradient(t, x, y, e), "sign is wrong"),
        (lambda t, x, y, e: 2 * checks.worst_gradient(t, x, y, e), "differs"),
    ],
    "2_4": [
        (lambda *a: step(*a, clean=True), "clean images"),
        (lambda *a: step(*a, zero=False), "zero_grad"),
        (lambda m, o, a, x, y: 1.0, "not moved"),
        (lambda *a: [step(*a), step(*a)][1], "moved elsewhere"),
        (lambda *a: [step(*a), 0.0][1], "return the loss"),
    ],
    "2_5": [(10, "attack's passes"), (2, "count one pass"), (11.1, "count one pass")],
    "3_1": [
        (lambda z, y: -checks.errors(z, y), "sign is wrong"),
        (lambda z, y: checks.errors(z, y) / len(z), "mean over samples"),
        (lambda z, y: z.softmax(1), "labels are missing"),
        (lambda z, y: z, "autograd"),
    ],
    "3_2": [
        (torch.outer, "bias is missing"),
        (lambda e, h: checks.outer(e, h).T, "swapped"),
        (lambda e, h: checks.outer(e, h).roll(1, 1), "last, not first"),
        (lambda e, h: 2 * checks.outer(e, h), "entry"),
    ],
    "3_3": [
        (lambda e, h: (e @ e.T) * (h @ h.T), "bias is missing"),
        (lambda e, h: e @ e.T + h @ h.T, "product of the two"),
        (lambda e, h: e @ e.T, "explicit"),
    ],
    "3_4": [((100 + 2048) / (100 * 2049), "turn"), (204_900, "length"), (100, "divide")],
    "3_5": [
        (lambda m, x, y, a: checks.adversarial_gradients(m, x, y, lambda m, x, y: x), "clean"),
        (lambda m, x, y, a: checks.errors(m(x), y), "return LastLayerGradients"),
        (lambda m, x, y, a: checks.LastLayerGradients(checks.errors(m(x), y)), "features"),
        (
            lambda m, x, y, a: checks.LastLayerGradients(
                checks.errors(m(a(m, x, y)), y).detach(), m.features(x).detach()
            ),
            "belong to the attacked",
        ),
        (
            lambda m, x, y, a: checks.LastLayerGradients(
                2 * checks.errors(m(a(m, x, y)), y).detach(), m.features(a(m, x, y)).detach()
            ),
            "not eq. (18)",
        ),
        (
            lambda m, x, y, a: checks.LastLayerGradients(checks.errors(m(x), y), m.features(x)),
            "graph",
        ),
    ],
    "4_1": [
        (lambda d, s: d[:, s].sum(), "only the nearest"),
        (lambda d, s: d[:, s].amax(1).sum(), "farthest"),
        (lambda d, s: d[:, s].amin(1).mean(), "is a sum"),
        (lambda d, s: d[:, s].amin(0).sum(), "over the samples"),
        (lambda d, s: 1.0, "not 1.000"),
        (lambda d, s: d[:, s].amin(1), "one number is expected, not a tensor of shape (14,)"),
    ],
    "4_2": [
        (lambda d, s: d[:, s].amin(1).argmax() if s else checks.next_pick(d, s), "farthest"),
        (lambda d, s: 0, "lowers L most"),
        (lambda d, s: checks.next_pick(d, []), "chosen already"),
        (lambda d, s: max(range(len(d)), key=lambda e: checks.cost(d, [*s, e])), "the smallest L"),
        (lambda d, s: checks.cost(d, [0]), "a whole number"),
        (lambda d, s: checks.next_pick(d, s) if d.any() else len(d) - 1, "first one wins"),
    ],
    "4_3": [
        (lambda d, s: checks.cluster_sizes(d, s) / len(d), "shares"),
        (lambda d, s: checks.cluster_sizes(d, sorted(s)), "order"),
        (lambda d, s: checks.cluster_sizes(d, s) - 1, "serves itself"),
        (lambda d, s: torch.ones(3), "serve"),
        (lambda d, s: [1, 2, 3], "return a tensor"),
        (lambda d, s: d[:, s].argmin(1), "who serves each sample"),
        (lambda d, s: d[:, s].argmin(0).bincount(), "over the samples"),
    ],
    "4_4": [
        (lambda d, k: checks.greedy(d, 3), "budget"),
        (lambda d, k: [0] * k, "twice"),
        (lambda d, k: checks.greedy(d, k)[::-1], "order"),
        (lambda d, k: list(range(k)), "begin with nothing"),
        (lambda d, k: [checks.greedy(d, 1)[0], *range(3, 2 + k)], "CRAIG picks"),
        (lambda d, k: 2, "a list of indices"),
    ],
    "4_5": [("b", "others serve"), ("c", "try it"), ("d", "not one of")],
    "5_1": [
        (lambda g, m: g @ m / g.norm(dim=1), "lengths"),
        (lambda g, m: (g @ m).abs(), "sign"),
        (lambda g, m: 2 * (g @ m), "multiply"),
        (lambda g, m: (g @ m).requires_grad_(), "graph"),
    ],
    "5_2": [
        (lambda g, t, s: g[s] @ t / g[s].square().sum(1), "together"),
        (lambda g, t, s: torch.ones(len(s)), "perpendicular"),
    ],
    "5_3": [
        (checks.refit, "negative"),
        (lambda g, t, s: checks.refit(g, t, s).clamp_min(0), "fitted anew"),
        (lambda g, t, s: checks.refit_nonnegative(g, t, s).numpy(), "from_numpy"),
        (lambda g, t, s: torch.ones(len(s)), "nearer"),
    ],
    "5_4": [
        (lambda g, k: checks.pursuit(g, k)[0], "two things"),
        (lambda g, k: ([1, 2, 3], torch.ones(3)), "first pick"),
        (lambda g, k: (checks.pursuit(g, 1)[0] * k, torch.ones(k)), "twice"),
        (ignoring_missing, "largest first scores"),
        (lambda g, k: checks.pursuit(g, 2), "expected the picks"),
        (lambda g, k: (checks.pursuit(g, k)[0], torch.ones(1)), "as many weights"),
        (lambda g, k: (checks.pursuit(g, k)[0], torch.ones(k)), "fit all weights"),
        (lambda g, k: (sorted(checks.pursuit(g, k)[0]), torch.ones(k)), "order of picking"),
        (lambda g, k: matched(g, k, by_size=True), "negative score"),
        (lambda g, k: matched(g, k), "use `positive_refit`"),
    ],
    "5_5": [
        (lambda w: w.sum() ** 2 / w.square().sum(), "effective number"),
        (lambda w: len(w) * w.square().sum() / w.sum() ** 2, "turn it over"),
        (lambda w: 1.0, "not 1.000"),
        (lambda w: w.sum() ** 2 / (5 * w.square().sum()), "not for another"),
    ],
    "6_1": [
        (lambda e, epochs, kappa, k: "coreset", "is 'full'"),
        (lambda e, epochs, kappa, k: "train", "is expected"),
        (lambda e, epochs, kappa, k: checks.phase(e + 1, epochs, kappa, k), "not"),
        (lambda *given: phase_by(int, int)(*given), "epoch 2 is 'full', not 'skip'"),
        (lambda *given: phase_by(round, round)(*given), "epoch 7 is 'coreset', not 'skip'"),
    ],
    "6_2": [
        (lambda epochs, kappa, k: epochs * checks.plan_cost(epochs, kappa, k), "divide by E"),
        (lambda epochs, kappa, k: kappa * k, "it is 0.500"),
        (lambda epochs, kappa, k: k, "it is 0.450, not 0.500"),
    ],
    "6_3": [
        (70, "three-phase"),
        (30, "trained, too"),
        (32, "ends"),
        (5, "line 5"),
        (33.1, "line 5"),
    ],
    "6_4": [
        (lambda l, w: (w * l).sum() / w.sum(), "cancel"),
        (lambda l, w: (w * l).sum(), "take the mean"),
        (lambda l, w: l.mean(), "weights are missing"),
        (lambda l, w: 0.1, "expected"),
    ],
    "6_5": [
        (lambda *a: loop(*a, blind=True), "look at `epoch.select`"),
        (lambda *a: loop(*a, halved=True), "it must be 30"),
        (lambda *a: loop(*a, unweighted=True), "normalised weight"),
        (lambda *a: loop(*a, clean=True), "clean images"),
        (lambda *a: loop(*a, uncounted=True), "it returns"),
        (lambda *a: [0] * 8, "selects 0 times"),
    ],
    "6_6": [
        (lambda plan, epoch, select: plan.ceiling, "ceiling"),
        (lambda plan, epoch, select: 1 / checks.speed_up(plan, epoch, select), "turn it over"),
        (lambda plan, epoch, select: 1.1, "not 1.100"),
    ],
    "7_1": [
        (
            lambda z, m, y, b: (
                cross_entropy(z, y, reduction="none") + b * cross_entropy(m, y, reduction="none")
            ),
            "clean prediction",
        ),
        (lambda z, m, y, b: checks.trades_loss(z, m, y, 1 / b), "1 / lambda"),
        (
            lambda z, m, y, b: (
                cross_entropy(z, y, reduction="none")
                + b * cross_entropy(z, m.softmax(1), reduction="none")
            ),
            "swapped",
        ),
        (lambda z, m, y, b: cross_entropy(z, y, reduction="none"), "not eq. (4)"),
    ],
    "7_2": [
        (lambda z, m: m.softmax(1) - z.softmax(1), "second term"),
        (lambda z, m: -z.softmax(1) * m.log_softmax(1), "adding up to 1"),
        (lambda z, m: -checks.target_errors(z, m), "sign"),
        (lambda z, m: z, "autograd"),
    ],
    "7_3": [
        (lambda c, b, form: checks.constant_loss(c, b, "kl"), "forms differ"),
        (lambda c, b, form: checks.constant_loss(c, b, form) + 1, "clean part"),
        (lambda c, b, form: checks.constant_loss(c, b / 2, form), "entropy is"),
        (lambda c, b, form: checks.constant_loss(c, 6.0, form), "add 0.5 H"),
    ],
    "7_4": [
        (lambda one, other: checks.lpips_distance(one, other).square(), "root"),
        (
            lambda one, other: torch.cat(
                [(a - b).flatten(1) for a, b in zip(one, other, strict=True)], 1
            ).norm(dim=1),
            "not normalised",
        ),
        (
            lambda one, other: torch.cat(
                [
                    (a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)).flatten(1)
                    for a, b in zip(one, other, strict=True)
                ],
                1,
            ).norm(dim=1),
            "H * W",
        ),
        (lambda one, other: torch.ones(2), "normalise over dim 1"),
    ],
    "7_5": [("a", "gradients only"), ("c", "schedule"), ("z", "not one of")],
    "8_1": [
        (lambda g, c: len(g) * checks.gradient_error(g, c), "divide by n"),
        (lambda g, c: (len(g) * checks.gradient_error(g, c)) ** 2, "no square"),
        (lambda g, c: (g.mean(0) - c.weights @ g[c.indices]).norm(), "divided by n, too"),
        (lambda g, c: (g.mean(0) - shared(c) @ g[c.indices]).norm(), "sum of its weights"),
        (lambda g, c: (g.mean(0) - g[c.indices].mean(0)).norm(), "have weights"),
        (lambda g, c: 0.0, "not 0.0000"),
    ],
    "8_2": [
        (lambda gap, g, t, o: gap - g @ (t - o), "turn the difference"),
        (lambda gap, g, t, o: g @ (o - t) - gap, "theta - optimum"),
        (lambda gap, g, t, o: 0.0, "not 0.0000"),
    ],
    "8_3": [
        (lambda d, s, g: d * s / len(g) ** 0.5 + d * g.sum(), "divided by T"),
        (lambda d, s, g: d * s / len(g) + d * g.mean(), "root of T"),
        (lambda d, s, g: d * s / len(g) ** 0.5, "noise alone"),
        (lambda d, s, g: 0.1, "not 0.100"),
        (lambda d, s, g: d * s / 2 + d * g.mean(), "not for another"),
    ],
    "8_4": [
        (lambda d, s, w: d * s / w, "square it"),
        (lambda d, s, w: math.ceil(d * s / w), "square it"),
        (lambda d, s, w: (d * s / w) ** 2, "are whole"),
        (lambda d, s, w: int((d * s / w) ** 2), "are whole"),
        (lambda d, s, w: 7, "it takes"),
        (lambda d, s, w: int((d * s / w) ** 2) + 1, "it takes 64, not 65"),
    ],
    "8_5": [("a", "convex"), ("c", "projected"), ("?", "not one of")],
    "9_1": [
        (lambda t, f: [1, 2], "missing value"),
        (lambda t, f: [0, 1], "first row is right"),
        (
            lambda t, f: t.index[t.acc_diff_printed_pct + f.acc_pct != t.acc_pct].tolist(),
            "missing value",
        ),
        (
            lambda t, f: t.index[
                (t.acc_diff_printed_pct - (t.acc_pct - f.acc_pct)).abs() > 0
            ].tolist(),
            "own rounding",
        ),
        (lambda t, f: [], "row labelled 1 prints"),
        (lambda t, f: [1], "row labelled 4 prints"),
    ],
    "9_2": [(15, "leave the rows of full"), (16, "speedup_x"), (7.05, "speedup_x")],
    "9_3": [
        (lambda a, b: False, "the first dominates"),
        (lambda a, b: a.acc_pct >= b.acc_pct and a.racc_pct >= b.racc_pct, "fewer minutes"),
        (lambda a, b: at_least(a, b), "its equal"),
        (lambda a, b: at_least(a, b) and not a.equals(b), "its equal"),
        (
            lambda a, b: (
                a.time_min < b.time_min or (a.acc_pct > b.acc_pct and a.time_min <= b.time_min)
            ),
            "RACC is lower",
        ),
        (
            lambda a, b: (
                a.racc_pct >= b.racc_pct
                and a.time_min <= b.time_min
                and (a.acc_pct, a.racc_pct, a.time_min) != (b.acc_pct, b.racc_pct, b.time_min)
            ),
            "and ACC is lower",
        ),
        (
            lambda a, b: (
                a.acc_pct > b.acc_pct and a.racc_pct >= b.racc_pct and a.time_min <= b.time_min
            ),
            "whichever they are",
        ),
    ],
    "9_4": [("a", "twice as much"), ("c", "cheaper"), ("x", "not one of")],
    "9_5": [
        (lambda d: np.mean(d), "two numbers"),
        (lambda d: (0.0, 1.0), "about the mean"),
        (lambda d: around(d, 1.96 * np.std(d, ddof=1)), "root of their number"),
        (lambda d: around(d, 1.96 * np.std(d, ddof=1) / len(d) ** 0.5), "2.78"),
        (lambda d: around(d, 2.7764 * np.std(d) / len(d) ** 0.5), "ddof=1"),
        (lambda d: around(d, 9.0), "half-width"),
        (lambda d: around(d, 2.7764 * d.std(ddof=1) / 5**0.5), "not for another"),
        (lambda d: 2.0, "two numbers"),
        (lambda d: "ab", "one number is expected"),
    ],
    "9_6": [
        (lambda s, h: 1.96 * s / h, "square it"),
        (lambda s, h: (1.96 * s / h) ** 2, "round"),
        (lambda s, h: 1000, "it takes"),
        (lambda s, h: int((1.96 * s / h) ** 2) + 1, "it takes 2401, not 2402"),
        (lambda s, h: math.ceil(4 * (s / h) ** 2), "it takes 189, not 196"),
    ],
}


def matched(gradients, budget, *, by_size=False):
    """Matching pursuit whose weights may be negative; its picks by the sizes of the scores."""
    target = gradients.sum(0)
    chosen, missing = [], target
    for _ in range(budget):
        found = checks.scores(gradients, missing)
        found = found.abs() if by_size else found
        found[chosen] = -torch.inf
        chosen.append(int(found.argmax()))
        weights = checks.refit(gradients, target, chosen)
        missing = target - weights @ gradients[chosen]
    return chosen, weights


def shared(coreset):
    """The coreset's weights with the sum 1."""
    return coreset.weights / coreset.weights.sum()


def at_least(first, second):
    """Whether a row of Table 1 is as good as another one in all three."""
    more = first.acc_pct >= second.acc_pct and first.racc_pct >= second.racc_pct
    return more and first.time_min <= second.time_min


def around(differences, half):
    return np.mean(differences) - half, np.mean(differences) + half


def margin(n):
    """The half-width of a 95 % interval of the mean of n, in standard deviations."""
    return stats.t.ppf(0.975, n - 1) / n**0.5


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [(number, *case) for number, cases in WRONG.items() for case in cases],
)
def test_a_wrong_answer_is_told_what_is_wrong(number, answer, words, capsys):
    verdict, sentence = said(capsys, number, answer)
    assert verdict is False
    assert " is wrong: " in sentence
    assert words in sentence
    assert "stopped with" not in sentence


def test_code_that_stops_is_shown_where(capsys):
    """In the student's own line, however deep in other code the error was raised."""

    def answer(distances, chosen):
        nearest = distances[:, chosen]
        return nearest.amin(1, 2, 3)

    sentence = said(capsys, "4_1", answer)[1]
    line = answer.__code__.co_firstlineno + 2
    assert f"in its line {line} (return nearest.amin(1, 2, 3))." in sentence
    assert "stopped with TypeError: " in sentence
    assert "in its line" not in said(capsys, "4_1", 3)[1], "a number has no lines"


@pytest.mark.parametrize("written", ["{}", "({})", " {} ", "{}.", "{})", " ({}). ", "[{}]", "'{}'"])
@pytest.mark.parametrize(("number", "letter"), [("4_5", "a"), ("7_5", "b"), ("8_5", "b")])
def test_a_letter_may_be_written_as_it_is_printed(written, number, letter, capsys):
    for each in (letter, letter.upper()):
        assert said(capsys, number, written.format(each))[0] is True


def test_every_exercise_has_wrong_answers_and_a_cell():
    assert set(NUMBERS) == set(WRONG) == set(EXERCISES)
    assert len(NUMBERS) >= 30


# ---- form


def text_of(source, version="student"):
    cells = lessons.notebook(source, version).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@each_lesson
def test_begins_with_goals_needs_and_minutes_and_ends_with_a_quiz(source):
    cells = lessons.notebook(source, "student").cells
    head, last = cells[0].source, cells[-1].source
    for words in ("**Afterwards you can**", "**You need**", "**Minutes:**"):
        assert words in head
    assert 45 <= int(re.search(r"\*\*Minutes:\*\* (\d+)", head)[1]) <= 60
    assert "## Quiz" in last
    assert "<details><summary>Answers</summary>" in last


@pytest.mark.parametrize("place", ["notebooks/index.ipynb", "docs/teaching.md"])
def test_tables_of_lessons_say_what_their_heads_say(place):
    """Minutes, and how many exercises there are where a table has them, for all nine in order."""
    text = (ROOT / place).read_text()
    if place.endswith(".ipynb"):
        text = "\n\n".join(cell.source for cell in nbformat.reads(text, as_version=4).cells)
    table = text.split("| lesson | about ", 1)[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in row.strip("| ").split("|")] for row in table]
    assert [re.search(r"\d", row[0])[0] for row in rows] == [str(k + 1) for k in range(9)]
    for source, row in zip(SOURCES, rows, strict=True):
        minutes = re.search(r"\*\*Minutes:\*\* (\d+)", text_of(source))[1]
        exercises = len(re.findall(r"^### Exercise", text_of(source), re.M))
        assert row[2:] == [*[str(exercises)] * (len(row) == 4), minutes], source.stem


def test_an_afternoon_has_what_its_lessons_need():
    """A lesson's needs are taught before it; what Lesson 4 needs of Lesson 3 is in its own head."""
    said = (ROOT / "docs" / "teaching.md").read_text()
    plan = re.search(r"an afternoon only: Lessons ([^;]*)", " ".join(said.split()))[1]
    taught = list(map(int, re.findall(r"\d", plan)))
    assert len(taught) > 2
    for place, number in enumerate(taught):
        head = lessons.notebook(SOURCES[number - 1], "student").cells[0].source
        needs = " ".join(head.split("**You need**")[1].split("**Minutes:**")[0].split())
        before = {*taught[:place], *[3] * ("In a sentence:" in needs)}
        for group in needs.split(" and "):  # of which one is enough
            wanted = set(map(int, re.findall(r"(?:Lesson|\bor) (\d)", group)))
            assert not wanted or wanted & before, f"Lesson {number} needs {group}"


@each_lesson
@pytest.mark.parametrize("version", ["student", "answers"])
def test_has_few_short_cells_and_no_outputs(source, version):
    notebook = lessons.notebook(source, version)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 30
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            lines = [line for line in cell.source.splitlines() if line.strip()]
            limit = 24 if lessons.is_exercise(cell) else 12
            assert len(lines) <= limit, cell.source


@each_lesson
def test_predictions_come_before_pictures_and_a_slider_has_its_place(source):
    cells = lessons.notebook(source, "student").cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert code.index("prediction = None") < code.index("course.predicted(")
    assert "course.slider(" in code
    assert "course.show(" in code


@each_lesson
def test_exercises_are_headed_in_order_with_a_folded_hint(source):
    text = text_of(source)
    lesson = int(source.stem[:2])
    numbers = re.findall(r"^### Exercise (\d+)\.(\d+)$", text, re.M)
    assert numbers == [(str(lesson), str(i)) for i in range(1, len(numbers) + 1)]
    assert len(numbers) >= 4
    assert text.count("<details><summary>Hint</summary>") == len(numbers)


@each_lesson
def test_quotations_say_where_they_are_from(source):
    quoted = re.findall(r"(?:^> .*\n?)+", text_of(source), re.M)
    assert quoted
    place = r"\((?:[^()]*\b)?(section|appendix|Algorithm|Table|Abstract|caption|eq\.)[^)]*\)\s*$"
    for quotation in quoted:
        plain = re.sub(r"^> ?", "", quotation, flags=re.M)
        assert re.search(place, plain.strip(), re.S), quotation


@each_lesson
def test_students_find_answers_folded_or_for_marking_not_at_all(source):
    marked = lessons.notebook(source, "student", folded=False)
    folded = lessons.notebook(source, "student")
    for number, (where, solved, stub, _) in EXERCISES.items():
        if where != source:
            continue
        only = set(solved.splitlines()) - set(stub.splitlines())
        assert only, number
        everything = "\n".join(cell.source for cell in marked.cells)
        assert not any(line in everything.splitlines() for line in only if len(line) > 30)
        assert solved in "\n".join(c.source for c in folded.cells if c.cell_type == "markdown")
        assert ">>> answer" not in everything


@each_lesson
def test_links_between_lessons_lead_somewhere(source):
    for target in re.findall(r"\]\((\w+)\.ipynb\)", text_of(source)):
        assert (FOLDER / f"{target}.py").exists()


def links(notebook):
    """Where the links and pictures of its text lead, but for other lessons and the network."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", text)
    return [target for target in found if not re.fullmatch(r"\d\d_\w+\.ipynb", target)]


def test_links_to_documents_lead_somewhere_from_where_a_lesson_is_written():
    folder = ROOT / "build" / "lessons" / "student"
    root = lessons.root_from(folder)
    found = [
        target
        for source in SOURCES
        for target in links(lessons.notebook(source, "student", root=root))
    ]
    assert {Path(target).suffix for target in found} == {".md", ".png"}
    for target in found:
        assert (folder / target).resolve().is_file(), target


def test_what_is_handed_out_leads_to_nothing_outside_its_folder(tmp_path):
    """Written elsewhere, a lesson names its documents, and its pictures lie beside it."""
    pictures = 0
    for path in lessons.make(tmp_path):
        lesson = nbformat.read(path, as_version=4)
        for target in links(lesson):
            assert (path.parent / target).is_file(), f"{target} in {path.name}"
            assert Path(target).name == target
            pictures += 1
        assert "](../" not in "".join(cell.source for cell in lesson.cells)
    assert pictures == 2 * len(lessons.pictures()) > 0
    last = (tmp_path / "student" / f"{SOURCES[-1].stem}.ipynb").read_text()
    assert "claims (`docs/claims.md` in the repository)" in last


def test_the_last_lesson_says_what_the_study_found():
    """In the words of docs/study.md, of the published table; its numbers are read by a cell."""
    found = tables.read_table("study", "mini", ROOT / "results" / "published")
    text = " ".join(text_of(SOURCES[-1]).split())
    for asked in study.deciding(found).itertuples():
        said = study.judged(asked.ci_low, asked.ci_high)
        for arm, name in (("gradmatch", "GradMatch"), ("adaptive_random", "adaptive random")):
            said = said.replace(arm, name)
        assert said in text
    rows = found[found.k == study.MEAN].set_index(["objective", "arm", "measure"])
    assert rows.loc[("linf", "gradmatch", "acc"), "ci_low"] > 0
    assert rows.loc[("linf", "craig", "racc"), "ci_high"] < 0
    null = rows.loc[("linf", "adaptive_random_null", "racc")]
    assert null.ci_low < 0 < null.ci_high
    assert ("TRADES is still to be run" in text) == ("trades" not in study.deciding(found).index)


def test_what_is_made_is_the_same_every_time(tmp_path):
    for name in ("first", "second"):
        subprocess.run(
            [sys.executable, ROOT / "tools" / "lessons.py", "--into", tmp_path / name], check=True
        )
    made = sorted(
        path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.*")
    )
    assert len([path for path in made if path.suffix == ".ipynb"]) == 2 * len(SOURCES) == 18
    for path in made:
        first, second = (tmp_path / name / path for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_an_exercise_without_a_block_is_refused(tmp_path):
    source = tmp_path / "01_broken.py"
    source.write_text('# %% tags=["exercise"]\nx = 1\n')
    with pytest.raises(ValueError, match="cell 0: an exercise needs"):
        lessons.notebook(source, "student")


def test_lessons_compute_in_one_thread():
    """Whatever the machine has: threads of many students' kernels wait for each other."""
    code = "import course, torch; print(torch.get_num_threads())"
    given = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, env=given, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["1"], ran.stderr


# ---- both versions run


RECORDER = """
import functools
import sys

from torch.nn import Module

given = {"check": set(), "lesson": set()}


def recorded(function):
    @functools.wraps(function)
    def called(*arguments):
        by = "check" if sys._getframe(1).f_globals["__name__"] == "checks" else "lesson"
        given[by].add((function.__name__, *map(sort, arguments)))
        return function(*arguments)

    return called


def sort(value):
    if isinstance(value, Module):
        return "model"
    if isinstance(value, int | float):
        return "number"
    detail = (value.ndim, str(value.dtype)) if hasattr(value, "dtype") else ()
    return (type(value).__name__, *detail)
"""


def with_a_record(notebook):
    """The notebook, in which what an exercise's function is given by check and lesson is noted."""
    notebook.cells.insert(0, nbformat.v4.new_code_cell(RECORDER))
    for cell in notebook.cells:
        if lessons.is_exercise(cell):
            for name in re.findall(r"^def (my_\w+)", cell.source, re.M):
                cell.source += f"\n\n\n{name} = recorded({name})"
    last = 'print("given by the lesson alone:", given["lesson"] - given["check"])'
    notebook.cells.append(nbformat.v4.new_code_cell(last))


@pytest.mark.slow
@each_lesson
@pytest.mark.parametrize("version", ["student", "answers"])
def test_runs_from_top_to_bottom_at_a_small_size(source, version, tmp_path, monkeypatch):
    monkeypatch.setenv("ACS_LESSONS", "small")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    for helper in lessons.HELPERS:
        (tmp_path / helper).write_bytes((FOLDER / helper).read_bytes())
    notebook = lessons.notebook(source, version)
    if version == "answers":
        with_a_record(notebook)
    with contextlib.chdir(tmp_path):
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    texts = alts.of_outputs(notebook)
    assert texts
    assert not alts.all_faults(texts)
    printed = "".join(
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )
    here = [number for number, (where, *_) in EXERCISES.items() if where == source]
    word = {"answers": "right", "student": "empty"}[version]
    for number in here:
        assert f"Exercise {number.replace('_', '.')} is {word}: " in printed
    if version == "answers":
        alone = printed.split("given by the lesson alone: ")[1].strip()
        assert alone == "set()", f"its check does not give what the lesson does: {alone}"
    warned = [
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert not warned, warned
