"""This version beside commit 0bc7172, the last one before work was done once only: selections class
by class, and evaluation by PGD-50-10.

Each version runs in a process of its own, which imports it from a folder of its own; they take
turns. Without that commit in the repository's history nothing is compared.
"""

import contextlib
import inspect
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.measured import Row

COMMIT, ROUNDS = "0bc7172", 3
ROOT = Path(__file__).parents[1]
CORES = os.cpu_count() or 1


def rows() -> Iterator[Row]:
    try:
        with unpacked() as earlier:
            found = [(measured(ROOT), measured(earlier)) for _ in range(ROUNDS)]
    except LookupError as error:
        print(f"  not measured, {error}")
        return
    for name in found[0][0]:
        now, then = ([one[name] for one in each] for each in zip(*found, strict=True))
        ours, theirs = ([one["seconds"] for one in each] for each in (now, then))
        note = f"{now[0]['found']}, then {then[0]['found']}"
        yield Row("Before", name, ours, f"commit {COMMIT}", theirs, note=note)


@contextlib.contextmanager
def unpacked() -> Iterator[Path]:
    """A folder with that commit's library. Raises LookupError where there is no such commit."""
    command = ["git", "-C", str(ROOT), "archive", COMMIT, "acslib"]
    try:
        archive = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise LookupError(f"commit {COMMIT} is not in this copy's history") from None
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def measured(folder: Path) -> dict[str, Any]:
    """What `kernels` gives with the version in that folder."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(CORES))
    environment = os.environ | threads | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-P", "-c", CHILD.format(root=str(ROOT))]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# the benchmarks of today in any case, behind the library of its version
CHILD = "import sys; sys.path.append({root!r}); from benchmarks import before; before.kernels()"


def kernels() -> None:
    """Print, as JSON, the seconds of each kernel, and what it found."""
    found = {}
    torch.set_num_threads(CORES)
    for name, kernel in class_by_class().items():
        found[name] = timed(kernel, time.perf_counter)
    torch.set_num_threads(1)
    for name, kernel in evaluation().items():
        found[name] = timed(kernel, time.process_time)
    print(json.dumps(found))


def timed(kernel: Callable[[], str], clock: Callable[[], float]) -> dict[str, Any]:
    started = clock()
    answer = kernel()
    return {"seconds": clock() - started, "found": answer}


def class_by_class(n: int = 5_000) -> dict[str, Callable[[], str]]:
    """By the clock, with a class on each core where the version can; NumPy takes all of them."""
    from acslib import selectors
    from benchmarks.factors import network_like

    gradients = network_like(n)
    labels = gradients.errors.argmin(1)  # where the target takes one off
    parallel = "workers" in inspect.signature(selectors.per_class).parameters
    more: dict[str, Any] = {"workers": CORES} if parallel else {}

    def select(name: str) -> str:
        selector = getattr(selectors, name)
        coreset = selectors.per_class(selector, gradients, labels, n // 2, **more)
        return f"relative error {selectors.gradient_error(gradients, coreset)[1]:.3g}"

    for name in ("gradmatch", "craig"):
        getattr(selectors, name)(torch.eye(4), 2)  # compiles
    what = f"class by class, {n} to {n // 2}, {CORES} cores by the clock"
    return {
        f"GradMatch {what}": lambda: select("gradmatch"),
        f"CRAIG {what}": lambda: select("craig"),
    }


def evaluation(n: int = 360) -> dict[str, Callable[[], str]]:
    from acslib import data, models
    from acslib.attacks import PGD
    from acslib.evaluation import robust_accuracy
    from acslib.objectives import AdversarialTraining

    digits = data.load("digits")
    torch.manual_seed(0)
    statistics = models.CHANNEL_STATISTICS["digits"]
    model = models.build("resnet18", channels=1, width=16, depths=(1, 1), statistics=statistics)
    images, labels = digits.test.float_images(), digits.test.labels
    how = {"generator": torch.Generator().manual_seed(0)}
    objective = AdversarialTraining(PGD("linf", 0.1, 0.04, 3, **how))
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    x, y = digits.train.float_images(), digits.train.labels
    for step in range(120):
        rows = torch.arange(step * 64, step * 64 + 64) % len(y)
        adversarial = objective.perturb(model.eval(), x[rows], y[rows])
        optimiser.zero_grad()
        objective.loss(model.train(), x[rows], y[rows], adversarial).mean().backward()
        optimiser.step()
    model.eval()
    attack = PGD("linf", 0.2, 0.02, 50, restarts=10, **how)
    twin = models.folded(model)

    def evaluate() -> str:
        accuracy, _ = robust_accuracy(model, images[:n], labels[:n], attack, attacked=twin)
        return f"{100 * accuracy:.1f} % robust"

    return {f"evaluation by PGD-50-10, {n} digits": evaluate}
