"""An epoch of attacks and updates by precision and layout, and what of a schedule's ceiling a
coreset run achieves: `mini`'s linf setting on a part of its images.

Full epochs, coreset epochs and selections take turns; each round's are put together as the schedule
says. The ceiling counts no selection at all. That the faster precisions attack as well is for
`attacks` to show.
"""

from collections.abc import Iterator
from dataclasses import replace

from acslib import data, passes
from acslib.batching import batches
from acslib.paper import build, config
from acslib.paper.operations import OperationCount
from acslib.paper.timing import achieved
from acslib.schedule import Epoch, Plan
from acslib.training import adversarial_examples, everything, fit, sgd_step
from benchmarks.measured import Row, Work

PART = "Training"
SETTING, ROUNDS, IMAGES = "resnet18-linf-cifar10", 3, 512
METHODS = ("gradmatch", "craig")


def rows() -> Iterator[Row]:
    try:
        yield from precisions()
        yield from shares()
    except data.DataError as error:
        print(f"  not measured, CIFAR-10 is not at hand: {error}")


def resolved(method: str, **changes: object) -> config.Run:
    return config.resolve(f"{SETTING}.{method}", "mini", {"train_limit": IMAGES} | changes)


def precisions() -> Iterator[Row]:
    ways = {}
    fastest = passes.fastest_precision("cpu")
    for precision, layout in (
        ("float32", "contiguous"),
        ("float32", "channels_last"),
        (fastest, "channels_last"),
    ):
        run = resolved("gradmatch", precision=precision, memory_format=layout)
        ways[f"{precision}, {layout}"] = run
    seconds = in_turn(ways)
    reference = next(iter(ways))
    epochs = {
        name: [spent["attack"] + spent["update"] for spent in found]
        for name, found in seconds.items()
    }
    for name, run in ways.items():
        attack, update = operations_an_image(run)
        floors = Work(IMAGES * (attack + update), run.setting.precision)
        than = {} if name == reference else {"than": reference, "theirs": epochs[reference]}
        yield Row(PART, f"a full epoch, {IMAGES} images, {name}", epochs[name], work=floors, **than)


def operations_an_image(run: config.Run) -> tuple[float, float]:
    """Of the attack and of the update, counted on one batch."""
    made = build.experiment(run, 0, "cpu")
    state, how = made.state, made.training
    state.coreset = everything(len(made.data.train))
    batch = next(batches(state, made.data, how, "full"))
    with OperationCount() as attack:
        adversarial = adversarial_examples(state.model, batch, how)
    with OperationCount() as update:
        sgd_step(state, made.data, batch, adversarial, how)
    return attack.total / len(batch.labels), update.total / len(batch.labels)


def shares() -> Iterator[Row]:
    """Of a run on coresets, against full training, as its schedule puts epochs together."""
    several = {method: resolved(method) for method in METHODS}
    for method, rounds in in_turn(several).items():
        plan = several[method].plan
        full = [len(plan) * (spent["attack"] + spent["update"]) for spent in rounds]
        speed = [achieved(plan, **spent) for spent in rounds]
        ours = [seconds / times for seconds, times in zip(full, speed, strict=True)]
        note = f"at most {plan.ceiling:.2f}x by its schedule"
        name = f"a run on coresets by {method}, {len(plan)} epochs, {IMAGES} images"
        yield Row(PART, name, ours, "full training", full, note=note)


def in_turn(runs: dict[str, config.Run]) -> dict[str, list[dict[str, float]]]:
    """Each run's seconds in each round: attacks and updates of an epoch on all the data, a
    selection, an epoch on what was selected. A first round does not count.
    """
    made = {name: build.experiment(run, 0, "cpu") for name, run in runs.items()}
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for done in range(1 + ROUNDS):
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
    return {name: found[1:] for name, found in seconds.items()}
