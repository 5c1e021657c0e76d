"""How much of its schedule's ceiling a coreset run achieves: the `mini` profile's linf setting, GradMatch and CRAIG.

Full epochs, selections and coreset epochs take turns, and medians of them are put together as the schedule says, so
that a busy moment of the machine does not decide. The ceiling counts no selection at all.
"""

import statistics

import torch

from acslib import data, params, runs
from acslib.training import State, Stopwatch, everything, select_coreset, train_epoch

ROUNDS = 3
SETTING = "resnet18-linf-cifar10"


def main() -> None:
    try:
        dataset = runs.load_data(params.resolve(f"{SETTING}.full", "mini").setting, "cpu")
    except data.DataError as error:
        print(f"  not measured, CIFAR-10 is not at hand: {error}")
        return
    print(f"  {SETTING}, profile mini, {len(dataset.train)} images, {torch.get_num_threads()} thread(s)")
    for method in ("gradmatch", "craig"):
        report(params.resolve(f"{SETTING}.{method}", "mini"), dataset)


def report(run: params.Run, dataset: data.Dataset) -> None:
    model = runs.build_model(run.setting, dataset, 0, "cpu")
    how = runs.training_of(run, dataset.train.labels, 0, "cpu")
    state = State(model, runs.build_optimiser(run.setting, model))
    seconds = {"full": [], "select": [], "coreset": []}
    for _ in range(ROUNDS):
        for part, spent in seconds.items():
            clock = Stopwatch(torch.device("cpu"))
            if part == "select":
                state.coreset, _ = select_coreset(model, dataset, how, clock)
            else:
                state.coreset = state.coreset if part == "coreset" else everything(len(dataset.train))
                train_epoch(state, dataset, how, clock, part)
            spent.append(sum(clock.seconds.values()))
    cost = {part: statistics.median(spent) for part, spent in seconds.items()}
    warm, coreset = (sum(epoch.phase == phase for epoch in run.plan) for phase in ("full", "coreset"))
    spent = warm * cost["full"] + coreset * cost["coreset"] + run.plan.selections * cost["select"]
    achieved = len(run.plan) * cost["full"] / spent
    print(f"  {run.method}: full epoch {cost['full']:.2f} s, coreset epoch {cost['coreset']:.2f} s, selection"
          f" {cost['select']:.2f} s: {achieved:.3f}x of {run.plan.ceiling:.3f}x,"
          f" {100 * achieved / run.plan.ceiling:.1f} % of the ceiling", flush=True)  # fmt: skip
