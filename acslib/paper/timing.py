"""How much faster a coreset run is at the paper's sizes, by arithmetic.

Training costs the same for every image: an attack and an update. A selection attacks all images
once more, by fewer steps perhaps, and looks at their gradients. So a few images tell the seconds,
and the paper's schedule tells how often each is spent. What the solver itself takes is left out:
thousandths of a selection (`make bench`). Processors differ in seconds; in speed-ups they should
not (footnote 7 of the paper).
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from acslib import data
from acslib.measuring import EpochLog
from acslib.paper import build, ceilings, config, printed, records
from acslib.paper.methods import METHODS
from acslib.paper.seen import brief, described
from acslib.paper.style import PAPER, QUIET
from acslib.schedule import Epoch, Plan
from acslib.selectors import gradmatch
from acslib.training import State, adversarial_gradients, fit

ITEM = "time"
TABLES = ("table1", "table4", "table6")  # whose printed times are compared
MEASURED = "resnet18"  # the network that is timed, in the place of wider ones, too
WIDER = "wrn28_10"
ONE_BY_ONE = ("attack", "update")


def achieved(plan: Plan, attack: float, update: float, select: float, coreset: float) -> float:
    """The speed-up over full training, given the seconds of a full epoch's attacks and updates, of
    a selection and of an epoch on a coreset.
    """
    full = attack + update
    warm, small = (sum(epoch.phase == phase for epoch in plan) for phase in ("full", "coreset"))
    return len(plan) * full / (warm * full + small * coreset + plan.selections * select)


def by_plan(plan: Plan, cost: dict[Any, float], selection_steps: int) -> float:
    """The same from seconds an image, as `seconds_an_image` gives them."""
    coreset = plan.coreset_fraction * (cost["attack"] + cost["update"])
    return achieved(plan, cost["attack"], cost["update"], cost[selection_steps], coreset)


# ---- measuring


def seconds_an_image(
    setting: str, images: int, rounds: int, selection_steps: Sequence[int], device: str = "cpu"
) -> dict[Any, float]:
    """Medians over rounds, of the paper's own network and attacks on a batch of so many images.

    Under `attack` and `update`: of training. Under a number: of a selection whose attack takes so
    many steps, its gradients included. What the images show does not matter, and they are noise.
    """
    changes = {"batch_size": images, "monitor": 0}
    run = config.resolve(f"{setting}.full", ceilings.PAPERS, changes)
    dataset = noise(images, device)
    model = build.build_model(run.setting, dataset, 0, device)
    state = State(model, build.build_optimiser(run.setting, model))
    training = build.training_of(run, 0, device)
    found: dict[Any, list[float]] = {name: [] for name in (*ONE_BY_ONE, *selection_steps)}
    for done in range(rounds):
        epochs = tuple(Epoch(index, "full") for index in range(done + 1))
        row = fit(state, dataset, replace(training, plan=Plan(epochs, 1.0))).history[-1]
        for part in ONE_BY_ONE:
            found[part].append(row[f"seconds_{part}"])
        for steps in selection_steps:
            objective = build.build_objective(run.setting, steps, training.generator, device)
            selecting = replace(training, selection_objective=objective, selector=gradmatch)
            log = EpochLog(epochs[-1], 0.0, torch.device(device))
            with log.time("select"):
                adversarial_gradients(model, dataset, selecting)
            found[steps].append(log.row([])["seconds_select"])
    return {part: median(seconds) / images for part, seconds in found.items()}


def noise(images: int, device: str) -> data.Dataset:
    """Images of CIFAR-10's and SVHN's size, of ten classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(images) % 10
    names = [str(label) for label in range(10)]
    more: dict[str, Any] = {"class_names": names, "padding": 4, "device": device}
    return data.from_arrays(pixels, labels, pixels, labels, **more)


# ---- the table


def table(
    profile: str, images: int, rounds: int, selection_steps: Sequence[int], device: str = "cpu"
) -> pd.DataFrame:
    """One row a printed schedule and number of steps of the selection's attack.

    `papers`: whether these steps are the paper's own. `speedup_x` is by arithmetic, `craig_x` and
    `gradmatch_x` are what the printed times give.
    """
    costs: dict[str, dict[Any, float]] = {}
    found = []
    made = {"profile": profile, "images": images, "rounds": rounds, "threads": threads_on(device)}
    made |= {"device": records.provenance(device)["device"]}
    for row in schedules():
        setting = row["setting"].replace(WIDER, MEASURED)
        run = config.resolve(row.pop("run"), ceilings.PAPERS)
        steps = tuple(dict.fromkeys((*selection_steps, run.setting.selection_steps)))
        if setting not in costs:
            costs[setting] = seconds_an_image(setting, images, rounds, steps, device)
        cost = costs[setting]
        for count in steps:
            about = row | {"selections": run.plan.selections, "selection_steps": count}
            about |= {"papers": count == run.setting.selection_steps}
            about |= {"speedup_x": by_plan(run.plan, cost, count), "measured_on": setting}
            about |= {f"seconds_{part}": cost[part] for part in ONE_BY_ONE}
            found.append(about | {"seconds_select": cost[count]} | made)
    return pd.DataFrame(found)


def threads_on(device: str) -> int:
    """The threads that are timed on; 0 on a GPU."""
    return torch.get_num_threads() if torch.device(device).type == "cpu" else 0


def schedules() -> list[dict[str, Any]]:
    """The printed schedules on images of 32 pixels: what they are called, ceiling, speed-ups."""
    found: dict[tuple, dict[str, Any]] = {}
    for item in TABLES:
        for _, row in ceilings.printed_speedups(item).iterrows():
            if row.setting.replace(WIDER, MEASURED).startswith(MEASURED):
                period = row.get("selection_freq_epochs")
                about = {
                    "table": item,
                    "schedule": schedule_in_words(row, period),
                    "setting": row.setting,
                }
                line = found.setdefault((item, row.setting, period), about | {"run": row.run})
                line["ceiling_x"] = row.ceiling_x
                line[f"{row.method.removeprefix('adv_')}_x"] = row.speedup_x
    return list(found.values())


def schedule_in_words(row: pd.Series, period: float | None) -> str:
    """A printed row without its method."""
    every = "" if period is None else f", T = {period:g}"
    return f"{row.model}, {printed.OBJECTIVE_LABELS[row.objective]}, {row.dataset}{every}"


# ---- the figure


def figure_time(rows: pd.DataFrame) -> Figure:
    """A line a schedule: its ceiling, what the arithmetic gives, what is printed."""
    own = rows[rows.papers].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(own) + 1.6))
    places = range(len(own))
    axis.plot(own.ceiling_x, places, "|", color=QUIET, markersize=16, label="ceiling")
    for name in ("craig", "gradmatch"):
        mark, label = METHODS[name].marker, f"the paper's {METHODS[name].label}"
        axis.plot(own[f"{name}_x"], places, mark, color=PAPER, markersize=7, label=label)
    axis.plot(own.speedup_x, places, "o", color="#0072B2", markersize=5, label="by arithmetic")
    numbers = [f"Table {item.removeprefix('table')}: " for item in own.table]
    axis.set_yticks(places, [a + b for a, b in zip(numbers, own.schedule, strict=True)])
    axis.invert_yaxis()
    axis.set_xlabel("times faster than full training")
    figure.legend(ncols=4, fontsize=8, loc="outside lower center")
    said = [
        f"{tick.get_text()}: {brief(row.speedup_x)} of {brief(row.ceiling_x)}, the paper's CRAIG"
        f" {brief(row.craig_x)} and GradMatch {brief(row.gradmatch_x)}."
        for tick, row in zip(axis.get_yticklabels(), own.itertuples(), strict=True)
    ]
    what = "How many times faster than full training, by arithmetic and at most"
    return described(figure, f"{what}, a line a schedule. {' '.join(said)}")
