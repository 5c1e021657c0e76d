"""One training on one core, and on two processes with a core each, as `NPROC=2` runs it: seconds of
a step, bytes that are summed, and what the sum costs.

`python -m torch.distributed.run ... -m benchmarks.processes FOLDER` is what each process runs.
Seconds are the clock's: two processes wait for each other. What a step spends in `all_reduce` is
mostly waiting for the other one's gradients; what the message alone takes is timed apart, when
nothing else is to be done.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from acslib import data, parallel, schedule
from acslib.paper import build, config
from acslib.training import fit
from benchmarks.measured import Row

RUN, IMAGES, ROUNDS, MESSAGES = "resnet18-linf-cifar10.full", 512, 3, 30


def rows() -> Iterator[Row]:
    if (os.cpu_count() or 1) < 2:
        print("  not measured, there is one core")
        return
    rounds = [(launched(1), launched(2)) for _ in range(ROUNDS)]
    if not all(found for pair in rounds for found in pair):
        print("  not measured, CIFAR-10 is not at hand")
        return
    alone, together = zip(*rounds, strict=True)
    step = statistics.median(found["step"] for found in together)
    waits = statistics.median(found["reducing"] for found in together)
    message = statistics.median(found["message"] for found in together)
    size = together[0]["bytes"]
    note = (
        f"{size / 1e6:.1f} MB are summed in a step; the message alone takes"
        f" {1e3 * message:.1f} ms ({100 * message / step:.1f} % of the step's {1e3 * step:.0f} ms),"
        f" with waiting for the other process {1e3 * waits:.1f} ms ({100 * waits / step:.1f} %)"
    )
    ours, theirs = ([found["step"] for found in each] for each in (together, alone))
    name = f"a step of {RUN}, batches of {together[0]['batch']}, two processes on two cores"
    yield Row("Processes", name, ours, "one process on one core", theirs, note=note)


def launched(count: int) -> dict[str, Any]:
    """What the first of so many processes finds; nothing where there are no images."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        command = [*torchrun(count), "-m", "benchmarks.processes", folder]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        found = Path(folder) / "found.json"
        return json.loads(found.read_text()) if found.exists() else {}


def torchrun(count: int) -> list[str]:
    """What starts so many processes of a module on this machine, as Make does."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1"),
        *(f"--nproc-per-node={count}", "--rdzv-backend=c10d"),
        *("--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"),
    ]


class Reducing:
    """Counts the bytes and the seconds of `all_reduce`, which it stands in for."""

    def __init__(self) -> None:
        self.reduce, self.messages = dist.all_reduce, []

    def __call__(self, tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        found = self.reduce(tensor, *args, **options)
        self.messages.append((tensor.nbytes, time.perf_counter() - started))
        return found


def child(folder: Path) -> None:
    """An epoch after one that does not count, in each process; the first writes what it found."""
    torch.set_num_threads(1)
    parallel.join("cpu")
    run = config.resolve(RUN, "mini", {"train_limit": IMAGES})
    try:
        made = build.experiment(run, 0, "cpu")
    except data.DataError:
        return
    how = replace(made.training, plan=schedule.full(1), monitor=0)
    fit(made.state, made.data, how)
    made.state.epoch = 0
    dist.all_reduce = reducing = Reducing()
    row = fit(made.state, made.data, how).history[-1]
    dist.all_reduce = reducing.reduce
    steps = -(-len(made.data.train) // how.batch_size)
    size = max((size for size, _ in reducing.messages), default=0)  # the gradients'
    taken = [spent for nbytes, spent in reducing.messages if nbytes == size]
    found = {
        "step": row["seconds_wall"] / steps,
        "batch": how.batch_size,
        "bytes": size,
        "reducing": sum(taken) / steps,
        "message": message(size) if size else 0.0,
    }
    if parallel.rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))


def message(size: int) -> float:
    """Median seconds of the sum of so many bytes when both processes are ready."""
    flat, seconds = torch.zeros(size // 4), []
    for _ in range(MESSAGES):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(flat)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    child(Path(sys.argv[1]))
