"""Selectors that give each sample a score by itself and keep the highest: no sums, no weights.

A `Score` is called as any selector, and its `scores(gradients)` are there to be looked at, or to be
averaged by group, which `BatchWise` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from acslib.gradients import LastLayerGradients
from acslib.selectors.coreset import Coreset, NotACoreset, check_budget


@dataclass(frozen=True)
class Score:
    """A selector that keeps the `budget` samples of the highest score, each with weight n / budget.

    name: what refusals call it. score: LastLayerGradients -> (n,), higher is kept. needs: which
    fields of LastLayerGradients it reads; ValueError names one that is missing. Ties go to the
    lower index.
    """

    name: str
    score: Callable[[LastLayerGradients], Tensor]
    needs: tuple[str, ...] = ()

    def scores(self, gradients: LastLayerGradients) -> Tensor:
        """(n,) float64 on the CPU. Raises ValueError for scores that are not finite."""
        for field in self.needs:
            if getattr(gradients, field, None) is None:
                raise ValueError(
                    f"{self.name} needs the samples' {field}:"
                    f" give LastLayerGradients(..., {field}=...)"
                )
        found = self.score(gradients)
        if not isinstance(found, Tensor) or found.shape != (len(gradients),):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise NotACoreset(
                f"the scores of {self.name} are {shape}: give a tensor ({len(gradients)},), one"
                " number a sample"
            )
        scores = found.detach().cpu().double()
        bad = (~scores.isfinite()).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"{len(bad)} of {len(scores)} scores of {self.name} are not finite, the first is"
                f" number {bad[0]}; all must be: lower the learning rate if the loss has diverged"
            )
        return scores

    def __call__(self, gradients: LastLayerGradients, budget: int) -> Coreset:
        return highest(self.scores(gradients), budget)


def highest(scores: Tensor, budget: int) -> Coreset:
    """The `budget` highest of n scores, each with weight n / budget; ties go to the lower index."""
    budget = check_budget(budget, len(scores))
    picks = scores.argsort(descending=True, stable=True)[:budget]
    weights = torch.full((budget,), len(scores) / max(budget, 1), dtype=torch.float64)
    return Coreset(picks.sort().values, weights, picks=picks)


def _el2n(gradients: LastLayerGradients) -> Tensor:
    p, y = _given(gradients.predictions), _given(gradients.labels)
    errors: Tensor = p.double() - one_hot(y, p.shape[1])
    return errors.square().sum(1).sqrt()


def _entropy(gradients: LastLayerGradients) -> Tensor:
    terms: Tensor = torch.special.entr(_given(gradients.predictions).double())
    return terms.sum(1)


def _loss(gradients: LastLayerGradients) -> Tensor:
    return _given(gradients.losses)


def _smoothness(gradients: LastLayerGradients) -> Tensor:
    return -_given(gradients.input_norms)


def _given(field: Tensor | None) -> Tensor:
    assert field is not None  # `Score.scores` has looked at `needs`
    return field


el2n = Score("el2n", _el2n, needs=("predictions", "labels"))
"""The largest errors |p - y|, with p the softmax and y one-hot.

EL2N of Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet: Finding Important Examples Early
in Training" (NeurIPS 2021). They average over several networks early in training; here it is the
network of the selection."""

entropy = Score("entropy", _entropy, needs=("predictions",))
"""The least certain predictions, by -sum_c p_c log p_c (in nats).

Max-entropy uncertainty sampling, as Coleman et al., "Selection via Proxy: Efficient Data Selection
for Deep Learning" (ICLR 2020), select by it."""

hardest = Score("hardest", _loss, needs=("losses",))
"""The largest losses.

After Loshchilov and Hutter, "Online Batch Selection for Faster Training of Neural Networks" (arXiv
1511.06343), who draw samples by the rank of their loss; here the highest are kept."""

easiest = Score("easiest", _smoothness, needs=("input_norms",))
"""The smallest gradients of the loss with respect to the image.

EasyCore of Ramesh et al., "The Easy Path to Robustness: Coreset Selection using Sample Hardness"
(arXiv 2510.11018). They average the norm over the epochs of a training; here it is that of the
network at the selection, by `input_gradient_norms`."""


def input_gradient_norms(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """|d cross-entropy / d image| in the Euclidean norm, for each sample: (n,).

    One forward and one backward pass, in the model's mode and with its parameters' gradients left
    alone. It works whatever the gradient mode around it.
    """
    with torch.enable_grad():
        inputs = images.detach().clone().requires_grad_()
        loss = cross_entropy(model(inputs), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return norms
