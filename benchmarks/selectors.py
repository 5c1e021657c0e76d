"""The solvers against scikit-learn, submodlib and apricot, and what selection costs at the paper's
sizes.

Ratios of one run on one core: medians of CPU seconds over several rounds in turn. Equality is
asserted: the same atoms as scikit-learn's, exact non-negative least squares, the objective of the
other facility locations to 2e-6.
"""

import multiprocessing
import resource
import statistics
import time

import numpy as np
import torch
from sklearn.linear_model import orthogonal_mp_gram
from threadpoolctl import threadpool_limits
from torch.nn.functional import one_hot

from acslib import models
from acslib.attacks import FGSM
from acslib.gradients import LastLayerGradients
from acslib.selectors import batch_wise, gradmatch
from acslib.selectors.craig import facility_location, to_distances
from acslib.selectors.pursuit import MatchingPursuit

ROUNDS = 3


def main() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        pursuit_given_gram()
        pursuit_from_factors()
        batches_of_cifar()
        facility_locations()
        imagenet100()
    torch.set_num_threads(threads)


def network_like(
    n: int, classes: int = 10, width: int = 512, seed: int = 0, dtype=torch.float32
) -> LastLayerGradients:
    """Last-layer factors correlated within a class and opposed between classes, as a trained
    network's are.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    means = torch.randn(classes, width, generator=generator)
    features = torch.relu(means[labels] / 2 + 2 * torch.randn(n, width, generator=generator))
    errors = (features @ (means - means.mean(0)).T / width**0.5).softmax(1) - one_hot(
        labels, classes
    )
    return LastLayerGradients(errors.to(dtype), features.to(dtype))


def rounds(count=ROUNDS, /, **ways):
    """Median CPU seconds of each way, taking turns, and its last answer."""
    seconds, answers = {name: [] for name in ways}, {}
    for _ in range(count):
        for name, way in ways.items():
            started = time.process_time()
            answers[name] = way()
            seconds[name].append(time.process_time() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}, answers


def show(what: str, value: float, unit: str, target: str = "") -> None:
    print(f"  {what:<72} {value:8.3g} {unit:<2} {target}", flush=True)


def pursuit_given_gram(n: int = 2500, budget: int = 1250) -> None:
    print(f"GradMatch, n={n} -> {budget}, float64, given the Gram matrix")
    gram = network_like(n, dtype=torch.float64).gram().numpy()
    correlations = gram.sum(1)
    given = (gram, correlations, gram.diagonal(), correlations.sum(), budget)
    took, found = rounds(
        sklearn=lambda: orthogonal_mp_gram(gram, correlations, n_nonzero_coefs=budget),
        free=lambda: MatchingPursuit(*given, nonnegative=False).run(),
        nonnegative=lambda: MatchingPursuit(*given).run(),
    )
    assert sorted(found["free"].atoms) == np.flatnonzero(found["sklearn"]).tolist(), (
        "other atoms than scikit-learn's"
    )
    atoms, weights = found["nonnegative"].atoms, found["nonnegative"].weights
    exact = np.linalg.solve(gram[np.ix_(atoms, atoms)], correlations[atoms])
    assert len(atoms) == budget, f"{len(atoms)} atoms for a budget of {budget}"
    assert exact.min() > 0, "the support is not that of a non-negative least-squares answer"
    assert np.abs(exact - weights).max() <= 1e-10 * weights.max(), (
        "not the least-squares weights of the support"
    )
    show("scikit-learn's orthogonal_mp_gram", took["sklearn"], "s")
    show(
        "ours, unconstrained, same atoms: times faster",
        took["sklearn"] / took["free"],
        "x",
        "(target 5)",
    )
    show(
        "ours, non-negative, exact: times faster",
        took["sklearn"] / took["nonnegative"],
        "x",
        "(target 2.2)",
    )


def pursuit_from_factors(n: int = 5000, budget: int = 500) -> None:
    print(
        f"GradMatch, n={n} -> {budget}, from last-layer factors (10 classes, 512 features, float32)"
    )
    gradients = network_like(n)
    ways = {
        "free": lambda: gradmatch(gradients, budget, nonnegative=False),
        "nonnegative": lambda: gradmatch(gradients, budget),
    }
    took, _ = rounds(9, **ways)  # short, and so the more exposed to what else the machine does
    show("unconstrained", took["free"], "s", "(target 0.35)")
    show("non-negative", took["nonnegative"], "s", "(target 0.35)")


def batches_of_cifar(n: int = 50_000, batch_size: int = 128) -> None:
    print(f"GradMatch on batches, {n} samples in 391 batches -> 196, from factors to coreset")
    gradients, few = network_like(n), 32
    took, coresets = rounds(select=lambda: batch_wise(gradmatch, gradients, batch_size, n // 2))
    assert len(coresets["select"]) == 196 * batch_size
    model, attack = models.build("resnet18").eval(), FGSM(8 / 255, 10 / 255)
    images, labels = torch.rand(few, 3, 32, 32), torch.zeros(few, dtype=torch.long)
    attacked, _ = rounds(attack=lambda: attack(model, images, labels))
    share = took["select"] / (attacked["attack"] * n / few)
    show("selection", took["select"], "s")
    show(
        f"share of a PGD-1 pass (ResNet-18, timed on {few} images)",
        100 * share,
        "%",
        "(target under 10)",
    )


def facility_locations(n: int = 5000, budget: int = 2500) -> None:
    print(f"CRAIG, n={n} -> {budget}, given the similarities")
    gradients = network_like(n, dtype=torch.float64)
    distances = gradients.gram().numpy()
    to_distances(distances, gradients.squared_norms().numpy())
    similarities = distances.max() - distances
    single = distances.astype(np.float32)
    for matrix in (distances, single):
        facility_location(matrix[:10, :10].copy(), 2, -1.0)  # compiles
    ways = {
        "float64": lambda: facility_location(distances, budget, -1.0)[0],
        "float32": lambda: facility_location(single, budget, -1.0)[0],
    }
    targets = {}
    for peer, target in ((submodlib_lazy, 8), (apricot_lazy, 12)):
        try:
            ways[peer.__name__], targets[peer.__name__] = peer(similarities, budget), target
        except ImportError as error:
            print(
                f"  {error.name} is not installed here: `make bench` installs it; the rest is"
                " measured"
            )
    took, picks = rounds(**ways)
    values = {name: similarities[chosen].max(0).sum() for name, chosen in picks.items()}
    for ours in ("float64", "float32"):
        show(f"ours, {ours}", took[ours], "s")
        for name, target in targets.items():
            difference = abs(values[ours] / values[name] - 1)
            assert difference <= 2e-6, (
                f"the objective differs by {difference:.1e} from that of {name}"
            )
            show(
                f"  times faster than {name}, same objective",
                took[name] / took[ours],
                "x",
                f"(target {target})",
            )


def submodlib_lazy(similarities: np.ndarray, budget: int):
    from submodlib import FacilityLocationFunction

    function = FacilityLocationFunction(
        n=len(similarities), mode="dense", separate_rep=False, sijs=similarities
    )
    options = {"stopIfZeroGain": False, "stopIfNegativeGain": False, "show_progress": False}
    return lambda: [
        i for i, _ in function.maximize(budget=budget, optimizer="LazyGreedy", **options)
    ]


def apricot_lazy(similarities: np.ndarray, budget: int):
    from apricot import FacilityLocationSelection

    def select(matrix, size):
        return (
            FacilityLocationSelection(size, metric="precomputed", optimizer="lazy")
            .fit(matrix)
            .ranking
        )

    select(similarities[:50, :50], 5)  # compiles
    return lambda: select(similarities, budget)


def imagenet100() -> None:
    print(
        "ImageNet-100 with a ResNet-50: 126,000 x 204,900 gradients as factors, batches of 128,"
        " half of them"
    )
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, sums_gb, peak_gb, size = pool.apply(_imagenet100)
    show("totals and group sums", seconds["sums"], "s")
    show("peak memory of the process", sums_gb, "GB", "(target 4)")
    show(f"on to a coreset of {size} samples", seconds["coreset"], "s")
    show("peak memory of the process", peak_gb, "GB")


def _imagenet100(n: int = 126_000, classes: int = 100, width: int = 2048):
    torch.set_num_threads(1)
    generator, seconds = torch.Generator().manual_seed(0), {}
    labels = torch.randint(classes, (n,), generator=generator)
    errors = torch.rand(n, classes, generator=generator).softmax(1)
    errors[torch.arange(n), labels] -= 1
    gradients = LastLayerGradients(errors, torch.rand(n, width, generator=generator))
    started = time.process_time()
    gradients.total(dtype=torch.float64)
    sums = gradients.group(torch.arange(n) // 128, dtype=torch.float64)
    seconds["sums"] = time.process_time() - started
    sums_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    del sums
    started = time.process_time()
    coreset = batch_wise(gradmatch, gradients, 128, n // 2)
    seconds["coreset"] = time.process_time() - started
    return seconds, sums_gb, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, len(coreset)
