"""Images per second of attack, update and selection by precision and memory format: what the
profiles' choices rest on.

On the CPU `mini`'s linf setting, on a part of its images; on CUDA `full`'s, the paper's ResNet-18
on all of CIFAR-10. All combinations take turns; medians of the rounds, after one that does not
count. bfloat16 is left out where the device does not multiply it in hardware. That the faster ones
attack as well is for `attacks` to show.
"""

import itertools
import statistics
from dataclasses import replace

import torch

from acslib import data, passes
from acslib.paper import build, config
from acslib.schedule import Epoch, Plan
from acslib.training import fit

RUN, ROUNDS = "resnet18-linf-cifar10.gradmatch", 3
SIZES = {"cpu": ("mini", 1024), "cuda": ("full", 50_000)}


def main() -> None:
    device = build.default_device()
    profile, limit = SIZES[torch.device(device).type]
    ways = {}
    precisions = dict.fromkeys(("float32", passes.fastest_precision(device)))
    for precision, layout in itertools.product(precisions, ("contiguous", "channels_last")):
        changes = {"train_limit": limit, "precision": precision, "memory_format": layout}
        ways[f"{precision}, {layout}"] = config.resolve(RUN, profile, changes)
    cuda = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"{torch.get_num_threads()} thread(s)"
    try:
        n, seconds = in_turn(ways, 1 + ROUNDS, device)
    except data.DataError as error:
        print(f"  not measured, CIFAR-10 is not at hand: {error}")
        return
    print(f"  {RUN}, profile {profile}, {n} images, {name}; images per second")
    report(n, seconds)


def in_turn(
    runs: dict[str, config.Run], rounds: int, device: str
) -> tuple[int, dict[str, list[dict[str, float]]]]:
    """The number of images, and each run's seconds in each round: attacks and updates of an epoch
    on all the data, a selection, an epoch on what was selected.

    In a round every run has its turn, so that a busy moment of the machine hits them all.
    """
    made = {name: build.experiment(run, 0, device) for name, run in runs.items()}
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for done in range(rounds):
        epochs = [Epoch(i, "coreset" if i % 2 else "full", i % 2 == 1) for i in range(2 + 2 * done)]
        for name, run in runs.items():
            plan = Plan(tuple(epochs), run.plan.coreset_fraction)
            training = replace(made[name].training, plan=plan, monitor=0)
            full, coreset = fit(made[name].state, made[name].data, training).history[-2:]
            seconds[name].append(
                {
                    "attack": full["seconds_attack"],
                    "update": full["seconds_update"],
                    "select": coreset["seconds_select"],
                    "coreset": coreset["seconds_attack"] + coreset["seconds_update"],
                }
            )
    return len(next(iter(made.values())).data.train), seconds


def report(n: int, seconds: dict[str, list[dict[str, float]]]) -> None:
    first = None
    for name, rounds in seconds.items():
        parts = ("attack", "update", "select")
        cost = {part: statistics.median(spent[part] for spent in rounds[1:]) for part in parts}
        epoch = cost["attack"] + cost["update"]
        first = first or epoch
        speeds = ", ".join(f"{part} {n / spent:.0f}" for part, spent in cost.items())
        print(f"  {name:24s} {speeds}; an epoch {epoch:.2f} s, {first / epoch:.2f}x", flush=True)
