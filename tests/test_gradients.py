"""Factored gradients against autograd's, one sample at a time, in float64."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, one_hot

from acslib import gradients as gradients_module
from acslib.gradients import LastLayerGradients, as_gradients

CLASSES, WIDTH = 4, 6


def head(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(CLASSES, WIDTH + 1, generator=generator, dtype=torch.float64)


def make(n=30, terms=1, bias_only=False, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    factors = []
    for _ in range(terms):
        factors.append(torch.randn(n, CLASSES, generator=generator, dtype=torch.float64).to(dtype))
        factors.append(
            None
            if bias_only
            else torch.randn(n, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
        )
    return LastLayerGradients(*factors)


KINDS = [
    {"terms": terms, "bias_only": bias_only} for terms in (1, 2) for bias_only in (False, True)
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def logits(matrix, features):
    return features @ matrix[:, :-1].T + matrix[:, -1]


def per_sample(loss, *inputs):
    rows = torch.func.vmap(torch.func.grad(loss), (None, *(0 for _ in inputs)))(head(), *inputs)
    return rows.flatten(1)


def test_vanilla_matches_autograd():
    features = torch.randn(9, WIDTH, dtype=torch.float64)
    labels = torch.arange(9) % CLASSES
    expected = per_sample(lambda m, h, y: cross_entropy(logits(m, h), y), features, labels)
    errors = logits(head(), features).softmax(1) - one_hot(labels, CLASSES)
    torch.testing.assert_close(
        LastLayerGradients(errors, features).dense(), expected, rtol=1e-12, atol=1e-12
    )
    bias = LastLayerGradients(errors, features).bias_only().dense()
    torch.testing.assert_close(bias, expected.view(9, CLASSES, -1)[..., -1], rtol=1e-12, atol=1e-12)


def test_trades_needs_two_terms_and_matches_autograd():
    clean, moved = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    labels, beta = torch.arange(9) % CLASSES, 6.0

    def loss(m, h, h_moved, y):
        z = logits(m, h)
        return cross_entropy(z, y) + beta * cross_entropy(logits(m, h_moved), z.softmax(0))

    p, log_q = logits(head(), clean).softmax(1), logits(head(), moved).log_softmax(1)
    through_target = p * ((p * log_q).sum(1, keepdim=True) - log_q)
    first = p - one_hot(labels, CLASSES) + beta * through_target
    gradients = LastLayerGradients(first, clean, beta * (log_q.exp() - p), moved)
    expected = per_sample(loss, clean, moved, labels)
    torch.testing.assert_close(gradients.dense(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients.gram(), expected @ expected.T, rtol=1e-12, atol=1e-12)


@every_kind
def test_every_method_agrees_with_the_dense_matrix(kind):
    gradients = make(**kind)
    dense, weights = gradients.dense(), torch.rand(30, dtype=torch.float64)
    vector = torch.randn(gradients.shape[1], dtype=torch.float64)
    rows = torch.tensor([3, 1, 29])
    assert dense.shape == gradients.shape
    assert len(gradients) == 30
    close = {"rtol": 1e-12, "atol": 1e-11}
    torch.testing.assert_close(gradients.gram(), dense @ dense.T, **close)
    torch.testing.assert_close(gradients.gram_rows(rows), dense[rows] @ dense.T, **close)
    torch.testing.assert_close(gradients.squared_norms(), dense.square().sum(1), **close)
    torch.testing.assert_close(gradients.total(), dense.sum(0), **close)
    torch.testing.assert_close(gradients.total(weights), weights @ dense, **close)
    torch.testing.assert_close(gradients.correlations(vector), dense @ vector, **close)
    torch.testing.assert_close(gradients[rows].dense(), dense[rows], **close)
    torch.testing.assert_close(as_gradients(dense).gram(), gradients.gram(), **close)


@every_kind
def test_groups_are_sums_and_a_short_last_one_counts_by_its_size(kind):
    gradients = make(n=23, **kind)
    dense, assignment = gradients.dense(), torch.arange(23) // 5
    sums = gradients.group(assignment)
    assert sums.shape == (5, gradients.shape[1])
    for group in range(5):
        torch.testing.assert_close(
            sums[group], dense[assignment == group].sum(0), rtol=1e-12, atol=1e-12
        )
    torch.testing.assert_close(sums.sum(0), gradients.total(), rtol=1e-12, atol=1e-12)
    shuffled = torch.tensor([7, 0, 3])[torch.arange(23) % 3]
    expected = torch.zeros(8, gradients.shape[1], dtype=torch.float64).index_add(0, shuffled, dense)
    torch.testing.assert_close(gradients.group(shuffled), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("elements", [1, 40, 1 << 20])
def test_block_size_changes_nothing_but_rounding(monkeypatch, elements):
    gradients = make(n=50, terms=2)
    weights, vector = (
        torch.rand(50, dtype=torch.float64),
        torch.randn(gradients.shape[1], dtype=torch.float64),
    )
    dense = gradients.dense()
    monkeypatch.setattr(gradients_module, "BLOCK_ELEMENTS", elements)
    close = {"rtol": 1e-12, "atol": 1e-11}
    torch.testing.assert_close(gradients.total(weights), weights @ dense, **close)
    torch.testing.assert_close(gradients.correlations(vector), dense @ vector, **close)
    torch.testing.assert_close(gradients.gram_rows(torch.arange(3)), dense[:3] @ dense.T, **close)
    torch.testing.assert_close(gradients.squared_norms(), dense.square().sum(1), **close)


def test_gram_is_right_across_its_blocks():
    gradients = make(n=1100, terms=2)
    dense = gradients.dense()
    torch.testing.assert_close(gradients.gram(), dense @ dense.T, rtol=1e-11, atol=1e-10)


def test_half_precision_factors_are_worked_on_in_single():
    gradients = make(dtype=torch.bfloat16)
    assert gradients.total().dtype == gradients.gram().dtype == torch.float32
    assert gradients.total(dtype=torch.bfloat16).dtype == torch.float32
    exact = gradients.to(torch.float64)
    torch.testing.assert_close(
        gradients.gram(dtype=torch.float64), exact.gram(), rtol=1e-14, atol=1e-14
    )


def test_gradients_of_a_live_graph_are_detached():
    features = torch.randn(5, WIDTH, requires_grad=True)
    gradients = LastLayerGradients(features[:, :CLASSES] * 2, features)
    assert not gradients.gram().requires_grad
    assert not gradients.total().requires_grad


# forward-mode derivatives are scripted inside torch, which warns of itself
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_weights_and_vectors_may_be_differentiated():
    gradients = make(n=12, terms=2)
    weights = torch.rand(12, dtype=torch.float64, requires_grad=True)
    vector = torch.randn(gradients.shape[1], dtype=torch.float64, requires_grad=True)
    dense = gradients.dense()
    by_weights, by_vector = torch.autograd.grad(
        gradients.total(weights) @ vector, [weights, vector]
    )
    torch.testing.assert_close(by_weights, dense @ vector)
    torch.testing.assert_close(by_vector, dense.T @ weights)
    slope = torch.autograd.grad(gradients.correlations(vector) @ weights, vector)[0]
    torch.testing.assert_close(slope, dense.T @ weights)
    _, along = torch.func.jvp(gradients.total, (weights.detach(),), (torch.ones_like(weights),))
    torch.testing.assert_close(along, dense.sum(0))


def test_no_samples_and_weights_that_do_not_fit():
    gradients = make(n=6, terms=2)
    none = gradients[:0]
    assert none.gram_rows(torch.arange(0)).shape == none.gram().shape == (0, 0)
    assert none.total().abs().sum() == 0
    assert none.correlations(torch.ones(none.shape[1])).shape == none.squared_norms().shape == (0,)
    with pytest.raises(
        ValueError, match=r"weights have shape \(1,\); give one for each of the 6 samples"
    ):
        gradients.total(torch.ones(1))


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(),
    reason="only Linux tells the peak of a stretch of code",
)
@pytest.mark.parametrize("terms", [1, 2])
def test_fifty_thousand_samples_stay_small(terms):
    """ResNet-18 on CIFAR-10: sums, correlations and a batch-wise coreset, from factors, in 400 MB
    beside them.
    """
    script = f"""
import pathlib, torch
from acslib import gradients as gradients_module
from acslib.gradients import LastLayerGradients
from acslib.selectors import batch_wise, gradmatch

def memory(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1e3

torch.manual_seed(0)  # another draw may choose the last batch, which has 80 samples
gradients = LastLayerGradients(*(torch.randn(50_000, width) for width in (10, 512) * {terms}))
gradmatch(gradients[:100], 5)
before = memory("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
gradients.correlations(gradients.total(dtype=torch.float64), dtype=torch.float64)
gradients.squared_norms(dtype=torch.float64)
assert len(batch_wise(gradmatch, gradients, 128, 25_000)) in (196 * 128, 195 * 128 + 80)
print(memory("VmHWM") - before)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert 10 < float(ran.stdout) < 400


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 12), st.integers(1, 2), st.booleans(), st.integers(0, 2**31))
def test_inner_products_factor(n, terms, bias_only, seed):
    gradients = make(n, terms, bias_only, seed)
    dense = gradients.dense()
    torch.testing.assert_close(gradients.gram(), dense @ dense.T, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(gradients.total(), dense.sum(0), rtol=1e-12, atol=1e-11)


def test_what_does_not_fit_together_is_refused():
    errors, features = torch.randn(5, 3), torch.randn(5, 4)
    refused = {
        "features has 4 rows": (errors, features[:4]),
        "floating-point": (errors.long(), features),
        r"shape \(5,\)": (errors[:, 0], features),
        "features2 is given without errors2": (errors, features, None, features),
        "both be None": (errors, features, errors),
        "errors2 has 2 classes": (errors, features, errors[:, :2], features),
        "features2 is 3 wide": (errors, features, errors, features[:, :3]),
        "float64": (errors, features.double()),
    }
    for message, factors in refused.items():
        with pytest.raises(ValueError, match=message):
            LastLayerGradients(*factors)
    gradients = LastLayerGradients(errors, features)
    with pytest.raises(ValueError, match=r"shape \(7,\); give one of shape \(15,\)"):
        gradients.correlations(torch.randn(7))
    with pytest.raises(ValueError, match="one integer for each of the 5 samples"):
        gradients.group(torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="contains -1"):
        gradients.group(torch.tensor([0, 1, -1, 0, 0]))
    with pytest.raises(ValueError, match="give LastLayerGradients or an"):
        as_gradients([[1.0]])
    with pytest.raises(
        ValueError, match="20 GB; the limit is 4 GB: select per class or batch-wise"
    ):
        LastLayerGradients(torch.zeros(50_000, 1)).gram()
