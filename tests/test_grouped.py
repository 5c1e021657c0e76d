"""Selectors made of a selector, random ones, and what a selector may return."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acslib import selectors
from acslib.gradients import LastLayerGradients, Samples
from acslib.selectors import (
    AdaptiveRandom,
    BatchWise,
    BiasOnly,
    Coreset,
    PerClass,
    Random,
    Unweighted,
    batch_wise,
    check_coreset,
    craig,
    gradient_error,
    gradmatch,
    most_returned,
    needed_fields,
    needs_gradients,
    per_class,
)

laws = settings(max_examples=30, deadline=None)


def labelled(n, classes=4, width=12, seed=0, epoch=0):
    """Errors and features with something of a class in them, and labels sorted as folders are."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) * classes // n
    means = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    features = torch.relu(
        means[labels] / 2 + torch.randn(n, width, generator=generator, dtype=torch.float64)
    )
    errors = (features @ means.T / width**0.5).softmax(1)
    errors = errors - torch.nn.functional.one_hot(labels, classes)
    return LastLayerGradients(errors, features, labels=labels, epoch=epoch)


def same(first: Coreset, second: Coreset) -> bool:
    return all(
        torch.equal(getattr(first, name), getattr(second, name))
        for name in ("indices", "weights", "picks", "trace")
    )


def readme_selector(gradients, budget):
    """As the README has it: float32 weights, no picks."""
    top = gradients.squared_norms().topk(budget).indices.sort().values
    return Coreset(top, torch.ones(budget))


# BatchWise


@pytest.mark.parametrize("selector", [craig, gradmatch])
def test_batch_wise_draws_seeded_groups(selector):
    """The seed's permutation, cut into batches: what a run's records depend on."""
    gradients = labelled(205)
    order = torch.randperm(205, generator=torch.Generator().manual_seed(7))
    groups = torch.empty_like(order)
    groups[order] = torch.arange(205) // 10
    value = BatchWise(selector, 10, seed=7)
    assert torch.equal(value.assignment(gradients), groups)
    assert same(value(gradients, 97), batch_wise(selector, gradients, groups, 97))
    assert same(value(gradients, 97), BatchWise(selector, groups=groups)(gradients, 97))
    assert not torch.equal(BatchWise(selector, 10, seed=8).assignment(gradients), groups)


def test_groups_of_sorted_samples_have_every_class():
    """In consecutive batches of samples sorted by class, a class may have no sample at all."""
    gradients = labelled(200, classes=10)
    chosen = BatchWise(gradmatch, 10)(gradients, 60)
    assert len(gradients.labels[chosen.indices].unique()) == 10
    consecutive = batch_wise(gradmatch, gradients, 10, 60)
    assert len(gradients.labels[consecutive.indices].unique()) <= 6


def test_regrouping_draws_anew_by_the_epoch_and_repeats():
    value = BatchWise(gradmatch, 10, seed=3, regroup=True)
    fixed = BatchWise(gradmatch, 10, seed=3)
    epochs = [value.assignment(Samples(100, epoch=epoch)) for epoch in (5, 6, 5)]
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], epochs[2])
    assert torch.equal(epochs[0], BatchWise(craig, 10, seed=3 * 100_003 + 5).assignment(range(100)))
    assert torch.equal(
        fixed.assignment(Samples(100, epoch=5)), fixed.assignment(Samples(100, epoch=6))
    )


@laws
@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 99), st.data())
def test_batch_wise_returns_at_most_what_it_says(n, size, seed, data):
    budget = data.draw(st.integers(0, n))
    groups = torch.randint(5, (n,), generator=torch.Generator().manual_seed(seed))
    for value in (BatchWise(Random(seed), size, seed), BatchWise(Random(seed), groups=groups)):
        found = value(Samples(n), budget)
        check_coreset(found, n, most_returned(value, n, budget))
        assert len(found) >= min(budget, 1)
    found = BatchWise(Random(seed), size, seed)(Samples(n), budget)
    assert len(found) < budget + 2 * size


def test_a_selector_of_ones_own_works_in_every_wrapper():
    gradients = labelled(80)
    for wrapped in (
        partial(batch_wise, readme_selector, gradients, 8),
        partial(BatchWise(readme_selector, 8), gradients),
        partial(PerClass(readme_selector), gradients),
        partial(Unweighted(readme_selector), gradients),
    ):
        found = wrapped(20)
        assert found.weights.dtype == torch.float64
        assert 20 <= len(found) < 28


# PerClass


@pytest.mark.parametrize("selector", [craig, gradmatch, Random(4)])
def test_per_class_takes_the_labels_of_the_gradients(selector):
    gradients = labelled(90)
    found = PerClass(selector)(gradients, 31)
    assert same(found, per_class(selector, gradients, gradients.labels, 31))
    assert torch.bincount(gradients.labels[found.indices]).max() <= 8


def test_per_class_of_batches():
    gradients = labelled(120)
    value = PerClass(BatchWise(gradmatch, 5))
    found = value(gradients, 41)
    check_coreset(found, 120, most_returned(value, 120, 41))
    assert 41 <= len(found) < 41 + 4 * 5


@pytest.mark.parametrize("selector", [craig, gradmatch])
def test_classes_in_parallel_change_no_bit(selector):
    gradients = labelled(400, classes=5, width=30)
    alone = PerClass(selector)(gradients, 150)
    for workers in (2, 3, 9):
        assert same(PerClass(selector, workers=workers)(gradients, 150), alone)


# Random


def test_random_draws_the_same_and_adaptive_random_by_the_epoch():
    samples = [Samples(50, epoch=epoch) for epoch in (3, 4, 3)]
    assert same(Random(1)(samples[0], 20), Random(1)(samples[1], 20))
    assert not same(Random(1)(samples[0], 20), Random(2)(samples[0], 20))
    first, second, again = (AdaptiveRandom(1)(which, 20) for which in samples)
    assert same(first, again)
    assert not same(first, second)
    assert same(first, selectors.random(50, 20, torch.Generator().manual_seed(100_003 + 3)))
    assert same(AdaptiveRandom(2)(torch.eye(50), 20), AdaptiveRandom(2)(Samples(50), 20))


def test_adaptive_random_among_groups_goes_by_the_epoch_too():
    value = BatchWise(AdaptiveRandom(0), 5)
    first, second = (value(labelled(60, epoch=epoch), 20) for epoch in (1, 2))
    assert not same(first, second)
    assert same(first, value(Samples(60, epoch=1), 20))


# Unweighted


def test_unweighted_keeps_the_picks_and_the_sum():
    gradients = labelled(90)
    found, weighted = Unweighted(gradmatch)(gradients, 20), gradmatch(gradients, 20)
    assert torch.equal(found.picks, weighted.picks)
    assert found.weights.tolist() == [4.5] * 20
    assert gradient_error(gradients, found)[0] > gradient_error(gradients, weighted)[0]
    assert len(Unweighted(gradmatch)(gradients, 0)) == 0
    batches = Unweighted(BatchWise(gradmatch, 8))
    check_coreset(batches(gradients, 20), 90, most_returned(batches, 90, 20))


def test_bias_only_selects_by_the_bias_part_and_keeps_labels():
    gradients = labelled(90)
    bias = gradients.bias_only()
    assert same(BiasOnly(craig)(gradients, 20), craig(gradients.errors, 20))
    assert not same(BiasOnly(craig)(gradients, 20), craig(gradients, 20))
    value = BiasOnly(BatchWise(craig, 5, seed=1))
    assert same(value(gradients, 20), BatchWise(craig, 5, seed=1)(bias, 20))
    assert most_returned(value, 92, 20) == 25
    assert same(BiasOnly(PerClass(craig))(gradients, 20), PerClass(craig)(bias, 20))
    assert same(BiasOnly(Random(2))(Samples(90), 20), Random(2)(Samples(90), 20))


# What a selector needs, and may return


def test_a_wrapper_needs_what_its_selector_needs():
    for wrap in (PerClass, Unweighted, BiasOnly, lambda selector: BatchWise(selector, 4)):
        assert needs_gradients(wrap(gradmatch))
        assert not needs_gradients(wrap(Random(0)))
        assert not needs_gradients(wrap(Unweighted(AdaptiveRandom(0))))
        assert set(needed_fields(selectors.el2n)) <= set(needed_fields(wrap(selectors.el2n)))
    assert needed_fields(PerClass(craig)) == ("labels",)
    assert needed_fields(gradmatch) == ()


def test_wrappers_are_values():
    assert BatchWise(gradmatch, 20, seed=1) == BatchWise(gradmatch, 20, seed=1)
    assert BatchWise(gradmatch, 20, seed=1) != BatchWise(gradmatch, 20, seed=2)
    groups = torch.tensor([0, 1, 0])
    assert BatchWise(craig, groups=groups) == BatchWise(craig, groups=(0, 1, 0))
    assert BatchWise(craig, groups=groups) != BatchWise(craig, groups=1 - groups)
    assert hash(PerClass(BatchWise(Random(3), 5))) == hash(PerClass(BatchWise(Random(3), 5)))


def test_weights_of_any_type_become_float64():
    for weights in (torch.ones(2), torch.ones(2, dtype=torch.float16), torch.tensor([1, 2])):
        found = Coreset(torch.tensor([0, 3]), weights.requires_grad_(weights.is_floating_point()))
        assert found.weights.dtype == torch.float64
        assert not found.weights.requires_grad


def test_what_a_selector_returns_is_refused_in_one_sentence():
    gradients = labelled(20)
    ones = torch.ones(2)
    returned = {
        "returned a Tensor; it must return a selectors.Coreset": torch.arange(3),
        "returned a tuple": (torch.arange(3), torch.ones(3)),
        "returned a NoneType": None,
        "sample number 20; there are 20": Coreset(torch.tensor([3, 20]), ones),
        "returned 4 samples; the budget allows 3": Coreset(torch.arange(4), torch.ones(4)),
        "a weight of -1": Coreset(torch.tensor([1, 2]), torch.tensor([2.0, -1.0])),
    }
    for message, value in returned.items():
        with pytest.raises(ValueError, match=message):
            check_coreset(value, 20, 3)
    for value in (torch.arange(3), (torch.arange(3), torch.ones(3)), None):
        for wrapped in (
            partial(batch_wise, lambda g, k, value=value: value, gradients, 4),
            partial(PerClass(lambda g, k, value=value: value), gradients),
            partial(Unweighted(lambda g, k, value=value: value), gradients),
        ):
            with pytest.raises(ValueError, match=r"must return a selectors\.Coreset"):
                wrapped(8)
    made = {
        "indices are a list": lambda: Coreset([1, 2], ones),
        "sort them first": lambda: Coreset(torch.tensor([2, 1]), ones),
        "picks must be the indices": lambda: Coreset(
            torch.tensor([1, 2]), ones, picks=torch.tensor([1, 3])
        ),
        "weights must be finite": lambda: Coreset(torch.tensor([1]), torch.tensor([math.inf])),
    }
    for message, make in made.items():
        with pytest.raises(ValueError, match=message):
            make()


class Lossy:
    needs = ("losses",)

    def __call__(self, gradients, budget):
        return selectors.hardest(gradients, budget)


def test_scores_that_are_not_weighted_are_averaged_by_group_too():
    gradients = dataclasses.replace(labelled(20), losses=torch.rand(20, dtype=torch.float64))
    plain = BatchWise(selectors.hardest, 5)(gradients, 10)
    assert same(BatchWise(Unweighted(selectors.hardest), 5)(gradients, 10), plain)


def test_what_a_wrapper_lacks_is_said():
    gradients = labelled(20)
    refused = {
        "PerClass needs the samples' labels": lambda: PerClass(craig)(torch.eye(4), 2),
        "groups of samples have no labels": lambda: BatchWise(PerClass(craig), 5),
        "groups of samples have no losses": lambda: BatchWise(Lossy(), 5),
        "Unweighted is made of None": lambda: Unweighted(None),
        "PerClass is made of <class": lambda: PerClass(Random),
        "batch size is 0": lambda: BatchWise(craig, 0),
        r"batch size is 2\.5": lambda: BatchWise(craig, 2.5),
        "give one of the two": lambda: BatchWise(craig),
        "groups are given; give one": lambda: BatchWise(craig, 4, groups=gradients.labels),
        "leave one of them out": lambda: BatchWise(craig, groups=gradients.labels, regroup=True),
        "groups is": lambda: BatchWise(craig, groups=gradients.labels[:5])(gradients, 10),
        "budget is 21": lambda: BatchWise(craig, 5)(gradients, 21),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()
