"""Selectors against scikit-learn's OMP, submodlib and apricot, and what selection costs at the
paper's sizes.

Equality is asserted: the same atoms as scikit-learn's, exact non-negative least squares, the
objective of the other facility locations to 2e-6.
"""

import contextlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

import numpy as np
import torch
from sklearn.linear_model import orthogonal_mp_gram
from threadpoolctl import threadpool_limits

from acslib.gradients import LastLayerGradients
from acslib.selectors import batch_wise, gradmatch
from acslib.selectors.craig import facility_location, to_distances
from acslib.selectors.pursuit import MatchingPursuit
from benchmarks.factors import CLASSES, WIDTH, network_like
from benchmarks.measured import Row, Work, in_turn

GRADMATCH, CRAIG = "GradMatch", "CRAIG"


def rows() -> Iterator[Row]:
    with threadpool_limits(1):
        yield from pursuit_given_gram()
        yield from pursuit_from_factors()
        yield from batches_of_cifar()
        yield from facility_locations()
        yield from imagenet100()
    yield from with_all_cores()


def pursuit(n: int, budget: int) -> float:
    """Operations of the algorithm: each pick's Gram row is made orthogonal to those before."""
    return n * budget**2


def gram_rows(count: int, n: int) -> float:
    """Operations of so many Gram rows from factors."""
    return 2 * count * n * (CLASSES + WIDTH)


def pursuit_given_gram(n: int = 2500, budget: int = 1250) -> Iterator[Row]:
    gram = network_like(n, dtype=torch.float64).gram().numpy()
    correlations = gram.sum(1)
    given = (gram, correlations, gram.diagonal(), correlations.sum(), budget)
    MatchingPursuit(np.eye(2), np.ones(2), np.ones(2), 2.0, 1).run()  # compiles
    took, found = in_turn(
        {
            "sklearn": lambda: orthogonal_mp_gram(gram, correlations, n_nonzero_coefs=budget),
            "free": lambda: MatchingPursuit(*given, nonnegative=False).run(),
            "nonnegative": lambda: MatchingPursuit(*given).run(),
        },
        rounds=3,
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
    what, work = f"{n} to {budget}, given the Gram matrix", Work(pursuit(n, budget), "float64")
    than = f"scikit-learn {version('scikit-learn')}, orthogonal_mp_gram"
    for way, note in (("free", "any sign, the same atoms"), ("nonnegative", "weights >= 0, exact")):
        yield Row(GRADMATCH, f"{what}, {note}", took[way], than, took["sklearn"], work)


def pursuit_from_factors(n: int = 5000, budget: int = 500) -> Iterator[Row]:
    gradients = network_like(n)
    took, _ = in_turn({"select": lambda: gradmatch(gradients, budget)}, rounds=5)
    work = Work(pursuit(n, budget) + gram_rows(budget, n), "float64")
    yield Row(GRADMATCH, f"{n} to {budget}, from the factors", took["select"], work=work)


def with_all_cores(n: int = 2500, budget: int = 1250, rounds: int = 3) -> Iterator[Row]:
    """By the clock, with all cores at hand and with one: more of them must not make it slower.

    Each in a process of its own, as a linear algebra library looks for cores once.
    """
    cores = os.cpu_count() or 1
    seconds: dict[int, list[float]] = {cores: [], 1: []}
    for _ in range(rounds):
        for count, taken in seconds.items():
            with at_hand(count), multiprocessing.get_context("spawn").Pool(1) as pool:
                taken.append(pool.apply(_by_the_clock, (n, budget)))
    name = f"{n} to {budget}, from the factors, {cores} cores at hand, by the clock"
    yield Row(GRADMATCH, name, seconds[cores], "one core at hand", seconds[1])


@contextlib.contextmanager
def at_hand(cores: int) -> Iterator[None]:
    """So many cores for the libraries of the processes that are started within."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ |= dict.fromkeys(names, str(cores))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _by_the_clock(n: int, budget: int) -> float:
    gradients = network_like(n)
    gradmatch(network_like(50), 10)  # compiles
    started = time.perf_counter()
    gradmatch(gradients, budget)
    return time.perf_counter() - started


def batches_of_cifar(n: int = 50_000, batch_size: int = 128) -> Iterator[Row]:
    gradients = network_like(n)
    took, coresets = in_turn(
        {"select": lambda: batch_wise(gradmatch, gradients, batch_size, n // 2)}, rounds=5
    )
    assert len(coresets["select"]) == 196 * batch_size
    groups = -(-n // batch_size)
    sums, products = 2 * n * CLASSES * (WIDTH + 1), groups**2 * CLASSES * (WIDTH + 1)
    work = Work(sums + products, "float64", 4 * n * (CLASSES + WIDTH))
    name = f"{n} in {groups} batches to 196 of them, from the factors"
    yield Row(GRADMATCH, name, took["select"], work=work)


def facility_locations(n: int = 5000, budget: int = 2500) -> Iterator[Row]:
    gradients = network_like(n, dtype=torch.float64)
    distances = gradients.gram().numpy()
    to_distances(distances, gradients.squared_norms().numpy())
    similarities = distances.max() - distances
    matrices = {"float64": distances, "float32": distances.astype(np.float32)}
    for matrix in matrices.values():
        facility_location(matrix[:10, :10].copy(), 2, -1.0)  # compiles
    ways = {
        name: lambda matrix=matrix: facility_location(matrix, budget, -1.0)[0]
        for name, matrix in matrices.items()
    }
    peers = {}
    for name, (peer, package) in PEERS.items():
        try:
            ways[name] = peer(similarities, budget)
            peers[name] = f"{name} {version(package)}, lazy greedy"
        except ImportError:
            print(f"  {name} is not installed here: `make bench` installs it; the rest is measured")
    took, picks = in_turn(ways, rounds=3)
    values = {name: similarities[chosen].max(0).sum() for name, chosen in picks.items()}
    for kind, matrix in matrices.items():
        for name in peers:
            difference = abs(values[kind] / values[name] - 1)
            assert difference <= 2e-6, f"the objective is {difference:.1e} from that of {name}"
        what, work = f"{n} to {budget}, given the distances, {kind}", Work(bytes=matrix.nbytes)
        for name, than in peers.items() or (("", ""),):
            yield Row(CRAIG, what, took[kind], than, took.get(name, ()), work, "same objective")


def submodlib_lazy(similarities: np.ndarray, budget: int) -> Callable[[], list[int]]:
    from submodlib import FacilityLocationFunction

    function = FacilityLocationFunction(
        n=len(similarities), mode="dense", separate_rep=False, sijs=similarities
    )
    options = {"stopIfZeroGain": False, "stopIfNegativeGain": False, "show_progress": False}
    return lambda: [
        i for i, _ in function.maximize(budget=budget, optimizer="LazyGreedy", **options)
    ]


def apricot_lazy(similarities: np.ndarray, budget: int) -> Callable[[], np.ndarray]:
    from apricot import FacilityLocationSelection

    def select(matrix, size):
        return (
            FacilityLocationSelection(size, metric="precomputed", optimizer="lazy")
            .fit(matrix)
            .ranking
        )

    select(similarities[:50, :50], 5)  # compiles
    return lambda: select(similarities, budget)


PEERS = {"submodlib": (submodlib_lazy, "submodlib-py"), "apricot": (apricot_lazy, "apricot-select")}


def imagenet100() -> Iterator[Row]:
    """ImageNet-100 with a ResNet-50, in a process of its own, whose memory tells."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, peak_gb = pool.apply(_imagenet100)
    name = "126,000 x 204,900 as factors (ImageNet-100): sums of 985 batches"
    work = Work(2 * 126_000 * 100 * 2049, "float64", 4 * 126_000 * (100 + 2048))
    note = f"peak memory of the process {peak_gb:.2f} GB"
    yield Row(GRADMATCH, name, [seconds], work=work, note=note)


def _imagenet100(n: int = 126_000, classes: int = 100, width: int = 2048) -> tuple[float, float]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (n,), generator=generator)
    errors = torch.rand(n, classes, generator=generator).softmax(1)
    errors[torch.arange(n), labels] -= 1
    gradients = LastLayerGradients(errors, torch.rand(n, width, generator=generator))
    started = time.process_time()
    gradients.group(torch.arange(n) // 128, dtype=torch.float64)
    seconds = time.process_time() - started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
