"""Draws of samples in which every class keeps its share."""

import torch


def stratified(labels: torch.Tensor, count: int | None, seed: int) -> torch.Tensor:
    """At most `count` indices, ascending; every class has its share to within one sample.

    A smaller count is a subset of a larger one.
    """
    if count is None or count >= len(labels):
        return torch.arange(len(labels))
    return mixed(labels, seed)[:count].sort().values


def hold_out(labels: torch.Tensor, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two complementary sets of indices, ascending; the second has `count`, by classes' shares."""
    held_out = stratified(labels, count, seed)
    mask = torch.ones(len(labels), dtype=torch.bool)
    mask[held_out] = False
    return mask.nonzero()[:, 0], held_out


def mixed(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """All indices, in an order of which any first n hold every class's share to within one sample.

    Each sample's place in a shuffled queue of its class, divided by the class's size, is a number
    in (0, 1): smallest first.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(int(seed)))
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.bincount().nonzero()[:, 0]:
        queue = order[labels[order] == label]
        place[queue] = (torch.arange(len(queue), dtype=torch.float64) + 0.5) / len(queue)
    return order[place[order].argsort(stable=True)]
