"""Theorem 1's constants, lemmas and bounds on adversarial logistic regression, against brute force
and autograd.
"""

import shutil
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import softplus

from acslib import selectors
from acslib.paper import paramfiles, theory
from acslib.paper.params import ParamsError
from acslib.paper.theory import READINGS, SELECTORS, AdversarialLogistic, descend, sides

NORMS = ("linf", "l2")
SEEDS = st.integers(0, 2**31 - 1)


def draw(seed, *shape, scale=1.0):
    return scale * torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def small(seed, norm, mu=0.0, n=12, d=5, epsilon=0.3):
    labels = draw(seed + 1, n).sign()
    return AdversarialLogistic(draw(seed, n, d), labels, norm, epsilon, mu, radius=4.0)


def pair(seed, problem):
    """Two points of the ball, far apart or near."""
    a, b = draw(seed, 2, problem.images.shape[1], scale=2.0)
    return problem.project(a), problem.project(a + b * 10.0 ** -(seed % 4))


@pytest.fixture(scope="module")
def problems():
    numbers = theory.numbers("smoke")
    return {(norm, part): numbers.problem(norm, part) for norm in NORMS for part in (1, 2)}


# ---- the inner maximum


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_linf_maximum_is_the_best_vertex(seed):
    problem, theta = small(seed, "linf"), draw(seed + 2, 5)
    vertices = (
        torch.tensor(list(product((-1.0, 1.0), repeat=5)), dtype=torch.float64) * problem.epsilon
    )
    losses = torch.stack([problem.losses(theta, problem.images + vertex) for vertex in vertices])
    torch.testing.assert_close(problem.losses(theta), losses.max(0).values)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_l2_maximum_is_the_formula_and_no_point_of_the_sphere_beats_it(seed):
    problem, theta = small(seed, "l2"), draw(seed + 2, 5)
    margins = problem.labels * (problem.images @ theta) - problem.epsilon * theta.norm()
    torch.testing.assert_close(problem.losses(theta), softplus(-margins))
    sphere = draw(seed + 3, 300, 5)
    sphere *= problem.epsilon / sphere.norm(dim=1, keepdim=True)
    losses = torch.stack([problem.losses(theta, problem.images + delta) for delta in sphere])
    assert (losses.max(0).values <= problem.losses(theta) + 1e-12).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_worst_image_stays_in_its_threat(norm):
    problem = small(3, norm)
    order = torch.inf if norm == "linf" else 2
    moved = (problem.worst_images(draw(4, 5)) - problem.images).norm(order, dim=1)
    torch.testing.assert_close(moved, torch.full_like(moved, problem.epsilon))
    torch.testing.assert_close(
        problem.worst_images(torch.zeros(5, dtype=torch.float64)), problem.images
    )


# ---- Danskin, Lemmas 1 and 2


@pytest.mark.parametrize("mu", [0.0, 0.2])
@pytest.mark.parametrize("norm", NORMS)
def test_danskins_gradient_is_finite_differences(norm, mu):
    problem, theta, h = small(7, norm, mu), draw(8, 5), 1e-6
    columns = [
        (problem.losses(theta + h * e) - problem.losses(theta - h * e)) / (2 * h)
        for e in torch.eye(5).double()
    ]
    torch.testing.assert_close(
        problem.gradients(theta), torch.stack(columns, 1), rtol=1e-6, atol=1e-8
    )


@given(SEEDS, st.sampled_from(NORMS), st.sampled_from([0.0, 0.1]))
@settings(max_examples=60, deadline=None)
def test_lipschitz_as_lemma_1_says(seed, norm, mu):
    problem = small(seed, norm, mu)
    a, b = pair(seed, problem)
    rise = (problem.losses(a) - problem.losses(b)).abs()
    assert (rise <= problem.lipschitz() * (a - b).norm() * (1 + 1e-9)).all()
    assert (problem.gradients(a).norm(dim=1) <= problem.lipschitz() * (1 + 1e-9)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_lipschitz_constant_is_not_too_large(norm):
    """Misclassified ever more, along its own worst image, a sample's slope comes up to the
    constant.
    """
    problem = AdversarialLogistic(
        torch.ones(1, 4).double(), torch.ones(1).double(), norm, 0.3, radius=1e3
    )
    slope = problem.gradients(torch.full((4,), -50.0, dtype=torch.float64)).norm()
    torch.testing.assert_close(slope, problem.lipschitz()[0])


@given(SEEDS, st.sampled_from(NORMS), st.sampled_from([0.0, 0.1, 1.0]))
@settings(max_examples=60, deadline=None)
def test_convex_and_strongly_so_as_lemma_2_says(seed, norm, mu):
    problem = small(seed, norm, mu)
    a, b = pair(seed, problem)
    line = problem.losses(a) + problem.gradients(a) @ (b - a) + mu / 2 * (a - b).square().sum()
    assert (problem.losses(b) >= line - 1e-12).all()


def test_convex_at_a_kink():
    """A zero in theta under linf, and theta = 0: what `gradients` gives there is a subgradient."""
    problem = small(5, "linf")
    for a in (torch.zeros(5).double(), draw(6, 5) * torch.tensor([1, 0, 1, 0, 1])):
        for b in draw(7, 50, 5):
            assert (
                problem.losses(b) >= problem.losses(a) + problem.gradients(a) @ (b - a) - 1e-12
            ).all()


# ---- theta*


@pytest.mark.parametrize("part", [1, 2])
@pytest.mark.parametrize("norm", NORMS)
def test_the_optimum_is_one(problems, norm, part):
    problem = problems[norm, part]
    best = problem.losses(problem.optimum).mean()
    assert problem.residual(problem.optimum) * problem.delta < 1e-7
    for step in draw(1, 50, len(problem.optimum), scale=1e-2):
        assert problem.losses(problem.optimum + step).mean() >= best


def test_a_ball_without_the_optimum_is_refused():
    with pytest.raises(ValueError, match="larger radius"):
        _ = theory.digits("l2", epsilon=0.2, radius=1.0).optimum


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_projection_brings_no_point_farther_from_the_ball(seed):
    problem = small(seed, "l2")
    inside, outside = 0.999 * problem.project(draw(seed, 5)), draw(seed + 1, 5, scale=10.0)
    there = problem.project(outside)
    assert there.norm() <= problem.radius * (1 + 1e-12)
    assert (there - inside).norm() <= (outside - inside).norm() + 1e-12
    assert torch.equal(problem.project(inside), inside)
    torch.testing.assert_close(problem.project(there), there, rtol=1e-14, atol=0.0)


# ---- Theorem 1


@pytest.mark.parametrize("method", SELECTORS)
@pytest.mark.parametrize("part", [1, 2])
@pytest.mark.parametrize("norm", NORMS)
def test_the_bound_holds_for_every_selector(problems, norm, part, method):
    problem = problems[norm, part]
    for name in ("mean, rate with μ", "sum, weights sum to 1"):
        reading = READINGS[name]
        both = sides(
            problem,
            descend(problem, theory.selector(method, len(problem), 0.1), 12, reading),
            reading,
        )
        assert both["left"] <= both["bound"]
        assert both["gradient_norm"] <= 1
        assert both["smallest_total"] == pytest.approx(1) == both["largest_total"]


@given(SEEDS, st.sampled_from(NORMS), st.sampled_from([0.0, 0.1]), st.integers(2, 15))
@settings(max_examples=40, deadline=None)
def test_the_bound_holds_for_any_weights_of_sum_one(seed, norm, mu, iterations):
    """The proof needs no good coreset: whatever is chosen, the bound pays for its error."""
    problem = AdversarialLogistic(draw(9, 12, 5), draw(10, 12).sign(), norm, 0.5, mu, radius=4.0)
    generator = torch.Generator().manual_seed(seed)

    def anything(gradients):
        weights = torch.rand(3, generator=generator, dtype=torch.float64) + 0.01
        return selectors.Coreset(selectors.random(12, 3, generator).indices, weights)

    both = sides(problem, descend(problem, anything, iterations))
    assert both["left"] <= both["bound"]


@pytest.mark.parametrize(
    ("part", "name"),
    [(1, "sum, weights of eq. (12)"), (2, "sum, weights of eq. (12)"), (2, "mean, rate with nμ")],
)
def test_the_printed_bound_fails_where_it_is_not_proved(problems, part, name):
    """With the full gradient, so that no selection is to blame."""
    problem, reading = problems["linf", part], READINGS[name]
    both = sides(
        problem, descend(problem, theory.selector("full", len(problem), 1.0), 30, reading), reading
    )
    assert both["left"] > both["bound"]


@pytest.mark.parametrize("part", [1, 2])
def test_a_sum_with_n_sigma_is_the_mean_again(problems, part):
    """Weights of sum n, Lipschitz constant n sigma, modulus n mu: everything is n times the first
    reading.
    """
    problem = problems["l2", part]
    n, all_of_it = len(problem), theory.selector("full", len(problem), 1.0)
    path, theta = descend(problem, all_of_it, 10), torch.zeros_like(problem.images[0])
    best = problem.losses(problem.optimum).sum()
    for t, gap in enumerate(path.gaps):
        torch.testing.assert_close(problem.losses(theta).sum() - best, n * gap)
        rate = (
            problem.delta / (n * problem.sigma * 10**0.5)
            if part == 1
            else 2 / (n * problem.mu * (1 + t))
        )
        theta = problem.project(theta - rate * problem.gradients(theta).sum(0))


def test_with_a_sum_and_weights_of_sum_one_even_all_the_data_have_an_error(problems):
    problem, reading = problems["linf", 1], READINGS["sum, weights sum to 1"]
    path = descend(problem, theory.selector("full", len(problem), 1.0), 3, reading)
    expected = (len(problem) - 1) * problem.gradients(torch.zeros_like(problem.optimum)).mean(
        0
    ).norm()
    torch.testing.assert_close(path.errors[0], expected)


@pytest.mark.parametrize("norm", NORMS)
def test_gradmatchs_error_falls_with_the_budget(problems, norm):
    problem, reading = problems[norm, 1], READINGS["mean, weights of eq. (12)"]
    gradients = problem.gradients(problem.optimum / 2)
    errors = [
        selectors.gradient_error(gradients, selectors.gradmatch(gradients, k))[0]
        for k in (2, 5, 10, 20, 40)
    ]
    assert all(more <= less + 1e-9 for less, more in pairwise(errors))
    means = [
        sides(
            problem,
            descend(problem, theory.selector("gradmatch", len(problem), share), 5, reading),
            reading,
        )
        for share in (0.01, 0.03, 0.1)
    ]
    assert means[0]["gradient_error"] > means[1]["gradient_error"] > means[2]["gradient_error"]


def test_the_right_side_is_the_printed_formula(problems):
    errors, T, printed = [0.3, 0.1, 0.4, 0.2], 4, READINGS["sum, weights sum to 1"]
    p = problems["linf", 1]
    expected = (p.delta * p.sigma / T**0.5, p.delta / T * sum(errors))
    assert theory.right_side(p, torch.tensor(errors).double(), printed) == pytest.approx(expected)
    p = problems["linf", 2]
    error = sum(2 * p.delta * t / (T * (T - 1)) * gamma for t, gamma in enumerate(errors))
    expected = (2 * p.sigma**2 / (len(p) * p.mu * (T - 1)), error)
    assert theory.right_side(p, torch.tensor(errors).double(), printed) == pytest.approx(expected)
    assert theory.rates(p, T, printed).tolist() == pytest.approx(
        [2 / (len(p) * p.mu * (1 + t)) for t in range(T)]
    )


def test_part_2_needs_two_iterations(problems):
    problem = problems["l2", 2]
    path = descend(problem, theory.selector("full", len(problem), 1.0), 1)
    with pytest.raises(ValueError, match="2 iterations"):
        sides(problem, path)


# ---- B.1, and what is refused


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_trades_gradient_splits_as_eq_b4(seed):
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)
    ).double()
    images = draw(seed, 6, 5)
    whole, moved, clean = theory.trades_split(
        network, images, images + draw(seed + 1, 6, 5, scale=0.2)
    )
    torch.testing.assert_close(moved + clean, whole, rtol=1e-10, atol=1e-12)
    assert clean.norm() > 0


def test_what_cannot_be_is_refused():
    images, labels = draw(0, 4, 2), torch.tensor([1.0, -1, 1, -1]).double()
    for wrong in (
        {"norm": "l1"},
        {"epsilon": -1.0},
        {"mu": -1.0},
        {"radius": 0.0},
        {"labels": labels + 1},
    ):
        with pytest.raises(ValueError):
            AdversarialLogistic(
                **{"images": images, "labels": labels, "norm": "l2", "epsilon": 0.1} | wrong
            )
    with pytest.raises(ValueError, match="choose one of"):
        theory.selector("greedy", 10, 0.1)
    with pytest.raises(ParamsError, match="smoke"):
        theory.numbers("smok")


def test_a_profile_has_the_numbers_of_the_one_that_it_extends(tmp_path, monkeypatch):
    shutil.copytree(paramfiles.FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / "profiles" / "mine.yaml").write_text("about: mine\nextends: smoke\n")
    (tmp_path / "profiles" / "new.yaml").write_text("about: new\n")
    with monkeypatch.context() as patch:
        patch.setattr(paramfiles, "FOLDER", tmp_path)
        assert theory.numbers("mine") == theory.numbers("smoke")
        with pytest.raises(ParamsError, match="no profile 'new': add it under profiles"):
            theory.numbers("new")
