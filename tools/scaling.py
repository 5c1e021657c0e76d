"""Writes the tables of docs/scaling.md: what the paper's experiments cost on GPUs, and what memory
the largest network needs, by arithmetic.

    python tools/scaling.py

Operations are counted by torch as the library's own code does them, on two images: an attack, an
update and a pass of the selection, for each of the paper's eleven settings with its own network.
The plan of a run says how many images see which. Time is operations over a rate: two that one H100
gave (`results/published/gpu/`), and one to aim at. Nothing here was run at the paper's size.
"""

import heapq
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from claims import BLOCK

from acslib import data, memory
from acslib.attacks.alexnet import AlexNet
from acslib.attacks.lpips import LPIPS
from acslib.paper import build, config, paramfiles, rules, selecting, warm
from acslib.paper.items import table_runs
from acslib.paper.operations import OperationCount
from acslib.paper.settings import Setting
from acslib.passes import attacker

DOCUMENT = Path(__file__).parent.parent / "docs" / "scaling.md"
# training images in all; ImageNet-12's classes, which the paper does not print, are taken to have
# as many as ImageNet's do
IMAGES = {"cifar10": 50_000, "svhn": 73_257, "imagenet12": 15_600, "imagenet100": 126_689}
TESTS = {"cifar10": 10_000, "svhn": 26_032, "imagenet12": 600, "imagenet100": 5_000}
CLASSES = {"cifar10": 10, "svhn": 10, "imagenet12": 12, "imagenet100": 100}
REPORT = DOCUMENT.parents[1] / "results/published/gpu/nvidia-h100-80gb-hbm3/report.json"
PROFILED = 24  # steps of a batch, where an earlier report does not say how many
BATCH = 128
PEAK = 989e12  # operations a second: an H100's bfloat16 matrix products, by its data sheet
SHARE = 0.26  # of them, which we aim at; not measured
AIM = PEAK * SHARE
ITEMS = ("table1", "table2", "table3", "table4", "table5", "fig4", "table6", "fig5", "tableD4")
GPUS = (1, 8, 64)
LARGEST = "resnet50-trades-imagenet100.full"
CARDS = (40, 24)  # GB


# ---- operations


class Work(NamedTuple):
    """Floating-point operations for one image; a multiplication and an addition are two."""

    attack: float
    update: float
    select: float


@cache
def work(setting: Setting) -> Work:
    """Counted on two images of noise, whose labels the network gets right: all are attacked."""
    torch.manual_seed(0)
    side = setting.image_size or 32
    images = torch.randint(256, (2, 3, side, side), dtype=torch.uint8)
    names = tuple(map(str, range(CLASSES[setting.dataset])))
    part = data.ImageSet(images, torch.arange(2))
    dataset = data.Dataset(setting.dataset, part, None, part, names, True, 4, "noise")
    model = build.build_model(setting, dataset, 0, "cpu")
    x = images.float() / 255
    y = model.eval()(x).argmax(1)
    objective, selection = (
        build.build_objective(setting, steps, torch.Generator(), "cpu")
        for steps in (setting.steps, setting.selection_steps)
    )
    counts = {name: OperationCount() for name in Work._fields}
    with counts["attack"], attacker(model, setting.attack_mode, "float32") as attacked:
        adversarial = objective.perturb(attacked, x, y)
    with counts["select"], attacker(model, "eval", "float32") as attacked:
        selection.gradients(attacked, x, y, selection.perturb(attacked, x, y))
    with counts["update"]:  # the last, as it moves BatchNorm's statistics
        objective.loss(model.train(), x, y, adversarial).sum().backward()
    return Work(*(counts[name].total / 2 for name in Work._fields))


@cache
def forward(setting: Setting) -> float:
    """Of one image, once through the network."""
    torch.manual_seed(0)
    side = setting.image_size or 32
    part = data.ImageSet(torch.zeros(2, 3, side, side, dtype=torch.uint8), torch.arange(2))
    names = tuple(map(str, range(CLASSES[setting.dataset])))
    dataset = data.Dataset(setting.dataset, part, None, part, names, True, 4, "noise")
    model = build.build_model(setting, dataset, 0, "cpu").eval()
    with OperationCount() as count, torch.no_grad():
        model(torch.zeros(2, 3, side, side))
    return count.total / 2


def untrained(dataset: str, side: int, device: str = "cpu", **others) -> LPIPS:
    """LPIPS' network costs the same whatever its weights are."""
    return LPIPS(AlexNet("imagenet" if dataset.startswith("imagenet") else "cifar").eval())


build.lpips.distance_for = untrained


def of_epochs(run: config.Run, phases: Iterable[str], selections: int) -> float:
    """Operations of so many epochs of these phases and so many selections."""
    setting, per_image = run.setting, work(run.setting)
    n = IMAGES[setting.dataset] * (1 - setting.validation_fraction)
    share = {"full": 1.0, "coreset": setting.coreset_fraction, "skip": 0.0}
    trained = n * sum(share[phase] for phase in phases)
    chosen = n * selections if run.method in selecting.SOLVERS else 0
    return trained * (per_image.attack + per_image.update) + chosen * per_image.select


def training(run: config.Run) -> float:
    return of_epochs(run, (epoch.phase for epoch in run.plan), run.plan.selections)


def evaluation(run: config.Run) -> float:
    """PGD where half of the test images stand and are attacked to the end; AutoAttack, which ours
    adds to some tables, is not counted. Perceptual training: as much for each attack of Table C1.
    """
    setting = run.setting
    steps = setting.evaluation_steps * setting.evaluation_restarts
    return TESTS[setting.dataset] / 2 * steps * 2 * forward(setting)


# ---- memory


class Bytes(NamedTuple):
    """What autograd keeps of an image in an attack's step, in an update, in an update whose blocks
    are computed anew, and in its largest block meanwhile; and what there is once: weights, their
    gradients and the optimiser's momentum.
    """

    attack: float
    update: float
    anew: float
    block: float
    once: float


@cache
def kept(setting: config.Setting) -> Bytes:
    """Counted in float32, on two images."""
    model, x, y = network(setting)
    objective = build.build_objective(setting, setting.steps, torch.Generator(), "cpu")
    model.eval()
    update = memory.of_an_update(objective, model, x, y)
    with memory.recomputed(model):
        anew = memory.of_an_update(objective, model, x, y)
    block = largest_block(model, x)
    with attacker(model, setting.attack_mode, "float32") as attacked:
        attack = memory.of_an_attack(attacked, x)
    once = 3 * sum(parameter.nbytes for parameter in model.parameters())
    return Bytes(attack, update, anew, block, once)


def network(setting: config.Setting) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A setting's network, and two images of noise for it with labels."""
    side = setting.image_size or 32
    images = torch.randint(256, (2, 3, side, side), dtype=torch.uint8)
    part = data.ImageSet(images, torch.arange(2))
    names = tuple(map(str, range(CLASSES[setting.dataset])))
    dataset = data.Dataset(setting.dataset, part, None, part, names, True, 4, "noise")
    model = build.build_model(setting, dataset, 0, "cpu")
    return model, part.float_images(), part.labels


def largest_block(model: torch.nn.Module, images: torch.Tensor) -> float:
    """Bytes an image of the block that keeps most, its input included."""
    sizes: list[float] = []

    def measure(block, inputs):
        if torch.is_grad_enabled():  # the block itself, below
            return
        (x,) = inputs
        sizes.append(
            memory.an_image(lambda n: block.forward(x[:n].detach().requires_grad_()), block, len(x))
        )

    handles = [block.register_forward_pre_hook(measure) for block in memory.blocks(model)]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return max(sizes)


def largest() -> str:
    """The paper's largest training, in whole batches and in parts, beside two cards."""
    run = config.resolve(LARGEST, "full")
    each, batch = kept(run.setting), run.setting.batch_size
    cards = " | ".join(f"{card} GB" for card in CARDS)
    lines = [
        f"| images at once | blocks | attack, GB | update, GB | in all, GB | {cards} |",
        "|--:|:--|--:|--:|--:|" + "--:|" * len(CARDS),
    ]
    for n in (batch, batch // 2, batch // 4):
        for how, update in (("kept", each.update), ("anew", each.anew + each.block)):
            lines.append(memory_row(each, n, how, update))
    return "\n".join(lines) + "\n"


def memory_row(each: Bytes, n: int, how: str, update: float) -> str:
    whole = n * max(each.attack, update) + each.once
    fits = ("yes" if whole <= memory.USED * card * 1e9 else "no" for card in CARDS)
    numbers = (n * each.attack, n * update, whole)
    return (
        " | ".join((f"| {n} | {how}", *(f"{number / 1e9:.1f}" for number in numbers), *fits)) + " |"
    )


# ---- how fast


@cache
def report() -> list[dict]:
    """What the card gave, a row each."""
    return json.loads(REPORT.read_text())["rows"]


def measured(part: str, name: str) -> dict[str, float]:
    """The numbers of the first row of a part whose name begins so."""
    rows = (row for row in report() if row["part"] == part and row["name"].startswith(name))
    return next(rows)["numbers"]


def per_step() -> tuple[float, float]:
    """Milliseconds a step of the profile for which the card was busy, and of BatchNorm's kernels
    among them.
    """
    profile = measured("profile", "an epoch")
    busy = 1000 * profile["busy_s"] / profile.get("steps", PROFILED)
    batch_norm = sum(
        row["numbers"]["milliseconds_a_step"] for row in report() if "::batch_norm_" in row["name"]
    )
    return busy, batch_norm


def rates() -> tuple[float, float, float]:
    """Operations a second: of the training timed, in float32; of its profile in bfloat16, had the
    card never been idle; and what we aim at.
    """
    training = measured("throughput", "pgd10, float32, channels_last")
    an_image = 1e9 * training["gflop_per_image"]
    busy, _ = per_step()
    return training["images_per_s"] * an_image, 1000 * BATCH / busy * an_image, AIM


RATES = "float32, measured | bfloat16, never idle | aim"


def hours(operations: float, digits: int = 1) -> str:
    """Three cells: hours at each of the rates."""
    return " | ".join(f"{operations / rate / 3600:.{digits}f}" for rate in rates())


# ---- when what is done


@dataclass(frozen=True)
class Job:
    """What one GPU does without a break. after: the job that must be done before."""

    name: str
    seconds: float
    after: str | None = None


def jobs(profile: str, wanted: Sequence[str]) -> list[Job]:
    """The first epochs that several runs have in common, and what is left of each run, at the rate
    that we aim at.
    """
    names = dict.fromkeys(name for item in wanted for name in table_runs(item, profile))
    runs = [config.resolve(name, profile) for name in names]
    found: dict[str, Job] = {}
    for run in runs:
        starts = rules.first_epochs(run, runs, 0)
        lengths = warm.shared(run, [other for other in runs if other != run])
        before, done = None, 0
        for path, length in zip(starts, lengths, strict=True):
            own = of_epochs(run, ["full"] * (length - done), 0)
            found.setdefault(str(path), Job(str(path), own / AIM, before))
            before, done = str(path), length
        rest = training(run) - of_epochs(run, ["full"] * done, 0) + evaluation(run)
        found[run.name] = Job(run.name, rest / AIM, before)
    return list(found.values())


def makespan(several: Sequence[Job], workers: int) -> float:
    """Seconds until all is done: whoever is free takes the job with the longest way to the end."""
    by_name = {job.name: job for job in several}
    followers: dict[str | None, list[Job]] = {}
    for job in several:
        followers.setdefault(job.after if job.after in by_name else None, []).append(job)

    @cache
    def way(name: str) -> float:
        after = (way(job.name) for job in followers.get(name, []))
        return by_name[name].seconds + max(after, default=0.0)

    ready = [(-way(job.name), job.name) for job in followers.get(None, [])]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            _, name = heapq.heappop(ready)
            heapq.heappush(running, (now + by_name[name].seconds, name))
        now, name = heapq.heappop(running)
        for job in followers.get(name, []):
            heapq.heappush(ready, (-way(job.name), job.name))
    return now


# ---- tables


def settings() -> str:
    """Each of the paper's settings: a full training."""
    lines = [
        "| setting | GFLOP an image: attack | update | selection | PFLOP, full training"
        f" | hours: {RATES} |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|",
    ]
    found = paramfiles.checked_settings().settings.items()
    lines += [setting_row(name) for name, layer in found if layer.extends is None]
    return "\n".join(lines) + "\n"


def setting_row(name: str) -> str:
    run = config.resolve(f"{name}.full", "full")
    one, total = work(run.setting), training(run)
    each = " | ".join(f"{part / 1e9:.1f}" for part in (one.attack, one.update, one.select))
    return f"| `{name}` | {each} | {total / 1e15:.0f} | {hours(total, 2)} |"


def items() -> str:
    """Each table and figure by itself, with as many seeds as the paper has."""
    lines = [f"| item | jobs | PFLOP | GPU hours: {RATES} |", "|:--|--:|--:|--:|--:|--:|"]
    for item in ITEMS:
        several = jobs("full", [item])
        total = AIM * sum(job.seconds for job in several)
        lines.append(f"| `{item}` | {len(several)} | {total / 1e15:.0f} | {hours(total)} |")
    return "\n".join(lines) + "\n"


def gpus() -> str:
    """All of them together."""
    several = jobs("full", ITEMS)
    whole = sum(job.seconds for job in several)
    longest = makespan(several, len(several))
    lines = [f"| GPUs | hours: {RATES} | of them at work |", "|--:|--:|--:|--:|--:|"]
    for count in GPUS:
        seconds = makespan(several, count)
        lines.append(
            f"| {count} | {hours(AIM * seconds)} | {100 * whole / count / seconds:.0f} % |"
        )
    lines.append(f"| as many as there are jobs | {hours(AIM * longest)} | |")
    return "\n".join(lines) + "\n"


def bounds() -> str:
    """What bounds the paper's ResNet-18 row under linf on the card that was at hand."""
    run = config.resolve("resnet18-linf-cifar10.full", "full")
    float32, busy_rate, _ = (training(run) / rate / 60 for rate in rates())
    busy, batch_norm = per_step()
    compiled = measured("throughput", "PGD-10 alone")
    profile = measured("profile", "an epoch")
    without = busy_rate * (1 - batch_norm / busy)
    lines = [
        f"| ResNet-18, linf, {run.setting.epochs} epochs | minutes |",
        "|:--|--:|",
        "| to aim at | 10 |",
        f"| float32, as measured | {float32:.0f} |",
        f"| bfloat16, were the card never idle (busy {busy:.1f} ms a step) | {busy_rate:.0f} |",
        f"| the same without BatchNorm's kernels ({batch_norm:.1f} ms of them) | {without:.0f} |",
        "",
        f"Under the profiler, which slows Python too, the card was busy for"
        f" {100 * profile['busy_s'] / profile['of_s']:.0f} % of the time and got"
        f" {profile['calls_a_step']:.0f} launches a step. PGD-10 alone, on the folded bfloat16"
        f" twin, makes {compiled['eager_images_per_s']:.0f} images a second and compiled"
        f" {compiled['compiled_images_per_s']:.0f}.",
    ]
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    """The document with every block as it should be."""
    return BLOCK.sub(lambda found: found[1] + globals()[found[2]]() + found[3], text)


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text()))
