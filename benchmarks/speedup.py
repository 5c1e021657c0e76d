"""How much of its schedule's ceiling a coreset run achieves: `mini`'s ResNet-18 settings, GradMatch
and CRAIG.

The l2 setting is timed on as many CIFAR-10 images, in batches as large, as the others: `mini` has
few of SVHN.

On one core, as Make gives to each run. Full epochs, coreset epochs and selections take turns; each
round's are put together as the schedule says, and the median of the rounds is reported, so that a
busy moment of the machine does not decide. The ceiling counts no selection at all.
"""

import statistics

import torch

from acslib import data
from acslib.measuring import Stopwatch
from acslib.paper import build, config
from acslib.training import State, everything, select_coreset, train_epoch

ROUNDS = 3
SETTINGS = {  # and what is varied
    "resnet18-linf-cifar10": "",
    "resnet18-trades-cifar10": "",
    "resnet18-l2-svhn": "+batch_size@128+dataset@cifar10+selection_batch_size@32+train_limit@10000",
}
METHODS = ("gradmatch", "craig")


def main() -> None:
    torch.set_num_threads(1)
    for setting, varied in SETTINGS.items():
        several = {
            method: config.resolve(f"{setting}.{method}{varied}", "mini") for method in METHODS
        }
        try:
            dataset = build.load_data(several["craig"].setting, "cpu")
        except data.DataError as error:
            print(f"  not measured, CIFAR-10 is not at hand: {error}")
            return
        print(f"  {setting}{varied}, profile mini, {len(dataset.train)} images, 1 thread")
        report(several, dataset)


def report(several: dict[str, config.Run], dataset: data.Dataset) -> None:
    run = several["gradmatch"]
    state = State(build.build_model(run.setting, dataset, 0, "cpu"), optimiser=None)
    state.optimiser = build.build_optimiser(run.setting, state.model)
    hows = {
        method: build.training_of(which, dataset.train.labels, 0, "cpu")
        for method, which in several.items()
    }
    seconds = {part: [] for part in ("full", "gradmatch", "coreset", "craig")}
    for _ in range(ROUNDS):
        for part, spent in seconds.items():
            clock, how = Stopwatch(torch.device("cpu")), hows.get(part, hows["gradmatch"])
            if part in hows:
                state.coreset, _ = select_coreset(state.model, dataset, how, clock)
            else:
                state.coreset = everything(len(dataset.train)) if part == "full" else state.coreset
                train_epoch(state, dataset, how, clock, part)
            spent.append(sum(clock.seconds.values()))
    cost = {part: statistics.median(spent) for part, spent in seconds.items()}
    print("  " + ", ".join(f"{part} {spent:.2f} s" for part, spent in cost.items()))
    for method in METHODS:
        shares = [
            achieved(run.plan, full, coreset, select) / run.plan.ceiling
            for full, coreset, select in zip(
                seconds["full"], seconds["coreset"], seconds[method], strict=True
            )
        ]
        rounds = ", ".join(f"{100 * share:.1f}" for share in shares)
        print(
            f"  {method}: {100 * statistics.median(shares):.1f} % of the ceiling of"
            f" {run.plan.ceiling:.2f}x"
            f" (target 97; rounds {rounds})",
            flush=True,
        )


def achieved(plan, full: float, coreset: float, select: float) -> float:
    """The speed-up over full training, given the seconds of a full epoch, a coreset epoch and a
    selection.
    """
    warm, small = (sum(epoch.phase == phase for epoch in plan) for phase in ("full", "coreset"))
    return len(plan) * full / (warm * full + small * coreset + plan.selections * select)
