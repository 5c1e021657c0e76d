"""Images per second of attack, update and selection by precision and memory format: what the
profiles' choices rest on.

On the CPU `mini`'s linf setting, on a part of its images; on CUDA `full`'s, the paper's ResNet-18
on all of CIFAR-10. All combinations take turns; medians of the rounds, after one that does not
count. bfloat16 is left out where the device does not multiply it in hardware. That the faster ones
attack as well is for `attacks` to show.
"""

import itertools
import statistics

import torch

from acslib import data, passes
from acslib.measuring import Stopwatch
from acslib.paper import build, config
from acslib.training import State, everything, select_coreset, train_epoch

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
    run = next(iter(ways.values()))
    try:
        dataset = build.load_data(run.setting, device)
    except data.DataError as error:
        print(f"  not measured, CIFAR-10 is not at hand: {error}")
        return
    cuda = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"{torch.get_num_threads()} thread(s)"
    print(
        f"  {run.name}, profile {profile}, {len(dataset.train)} images, {name}; images per second"
    )
    report(ways, dataset, device)


def report(ways: dict[str, config.Run], dataset: data.Dataset, device: str) -> None:
    seconds = {name: [] for name in ways}
    states, n = {}, len(dataset.train)
    for name, run in ways.items():
        model = build.build_model(run.setting, dataset, 0, device)
        states[name] = State(
            model, build.build_optimiser(run.setting, model), coreset=everything(n)
        )
    for _ in range(1 + ROUNDS):
        for name, run in ways.items():
            how, clock = (
                build.training_of(run, dataset.train.labels, 0, device),
                Stopwatch(torch.device(device)),
            )
            train_epoch(states[name], dataset, how, clock, "full")
            select_coreset(states[name].model, dataset, how, clock)
            seconds[name].append(clock.seconds)
    first = None
    for name, rounds in seconds.items():
        cost = {part: statistics.median(spent[part] for spent in rounds[1:]) for part in rounds[0]}
        epoch = cost["attack"] + cost["update"]
        first = first or epoch
        speeds = ", ".join(f"{part} {n / spent:.0f}" for part, spent in cost.items())
        print(f"  {name:24s} {speeds}; an epoch {epoch:.2f} s, {first / epoch:.2f}x", flush=True)
