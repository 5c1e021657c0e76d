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
from acslib.paper import config
from acslib.paper.timing import achieved
from benchmarks.training import in_turn

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
            n, seconds = in_turn(several, ROUNDS, "cpu")
        except data.DataError as error:
            print(f"  not measured, CIFAR-10 is not at hand: {error}")
            return
        print(f"  {setting}{varied}, profile mini, {n} images, 1 thread")
        for method, run in several.items():
            report(method, run, seconds[method])


def report(method: str, run: config.Run, rounds: list[dict[str, float]]) -> None:
    shares = [achieved(run.plan, **spent) / run.plan.ceiling for spent in rounds]
    each = ", ".join(f"{100 * share:.1f}" for share in shares)
    print(
        f"  {method}: {100 * statistics.median(shares):.1f} % of the ceiling of"
        f" {run.plan.ceiling:.2f}x (target 97; rounds {each})",
        flush=True,
    )
