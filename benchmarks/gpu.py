"""First contact with a GPU: is everything right on it, and how fast? In less than six minutes.

    python -m benchmarks gpu                            # writes results/published/gpu/<card>/
    python -m benchmarks gpu --device cpu --tiny        # the same on a CPU, in small: tries itself

Attacks, objectives, a selection and a tiny run are compared with the CPU. PGD-10 training of the
paper's ResNet-18 is timed by precision and layout, and set beside the card's own measured peak of
bfloat16 matrix products. What makes Python wait for the device is counted by file and line. Images
are noise: no data set is needed.
"""

import argparse
import itertools
import re
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from acslib import data, devices, evaluation, models, objectives, passes, schedule, selectors
from acslib.attacks import FGSM, PGD, autoattack, lpips, perceptual, unseen
from acslib.batching import batches
from acslib.folding import twin
from acslib.gradients import LastLayerGradients
from acslib.paper.operations import Looks, OperationCount
from acslib.training import State, Training, adversarial_examples, fit, sgd_step
from benchmarks.report import Report

PUBLISHED = Path(__file__).parents[1] / "results" / "published" / "gpu"
NHWC, NCHW = torch.channels_last, torch.contiguous_format
EPSILON = 8 / 255
NAMES = tuple("0123456789")


@dataclass(frozen=True)
class Place:
    """Where and how large: all that is measured knows nothing else of the machine."""

    device: str
    tiny: bool
    batch: int
    n: int  # training images
    width: int
    depths: tuple[int, ...] | None
    square: int  # rows of the matrices that the peak is measured with

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def generator(self, seed: int = 0) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def net(self, layout: torch.memory_format = NHWC) -> models.ResNet:
        torch.manual_seed(0)
        model = models.build(
            "resnet18",
            width=self.width,
            depths=self.depths,
            statistics=models.CHANNEL_STATISTICS["cifar10"],
        )
        return model.to(self.device, memory_format=layout)

    def images(self, n: int) -> data.ImageSet:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
        labels = torch.randint(10, (n,), generator=generator)
        return data.ImageSet(pixels, labels).to(self.device)

    def dataset(self, n: int) -> data.Dataset:
        train, test = self.images(n), self.images(64)
        return data.Dataset("cifar10", train, None, test, NAMES, True, 4, "noise")

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def timed(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """What `work` gives, and the clock's seconds until the device is done with it."""
        self.wait()
        started = time.perf_counter()
        found = work()
        self.wait()
        return found, time.perf_counter() - started


def main() -> None:
    asked = arguments()
    place = the_place(asked)
    if not place.cuda:
        torch.set_num_threads(1)
    folder = folder_of(asked, place)
    about = machine(place)
    report = Report(f"First contact: {about['device']}", about, folder)
    with devices.computing(place.device):
        for measure in (ceilings, numbers, attacks, gradients, selection, runs):
            measure(report, place)
    throughput(report, place, asked.seconds)
    for measure in (waits, profiled):
        measure(report, place)
    failed = report.failures()
    print(f"{len(failed)} failures in {len(report.rows)} rows, {report.seconds():.0f} s")
    if failed:
        raise SystemExit(1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try it on a CPU")
    parser.add_argument("--batch", type=int, default=128, help="images in a training batch")
    parser.add_argument(
        "--seconds", type=float, default=240, help="no further way to train is timed after so many"
    )
    parser.add_argument(
        "--to", type=Path, help="folder for the card's folder; results/published/gpu on a GPU"
    )
    return parser.parse_args()


def the_place(asked: argparse.Namespace) -> Place:
    if asked.tiny:
        return Place(asked.device, True, 16, 64, 8, (1, 1), 128)
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here: try --device cpu --tiny")
    return Place(asked.device, False, asked.batch, 24 * asked.batch, 64, None, 8192)


def folder_of(asked: argparse.Namespace, place: Place) -> Path | None:
    """The card's own. What a CPU tries is published nowhere, unless a folder is named."""
    parent = asked.to or (PUBLISHED if place.cuda else None)
    card = torch.cuda.get_device_name(place.device) if place.cuda else "cpu"
    return parent and parent / re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def machine(place: Place) -> dict[str, Any]:
    from acslib.paper.records import provenance

    found = provenance(place.device)
    about = {"device": found["device"], "commit": found["commit"], **found["versions"]}
    if place.cuda:
        card = torch.cuda.get_device_properties(place.device)
        about |= {
            "memory_gib": round(card.total_memory / 2**30, 1),
            "capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return about | {
        "sizes": "tiny" if place.tiny else f"the paper's ResNet-18, batches of {place.batch}",
        "fastest_precision": passes.fastest_precision(place.device),
    }


# ---- what the device can do at most


def ceilings(report: Report, place: Place) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        report.check("ceilings", f"matrix products, {name}", lambda dtype=dtype: peak(place, dtype))
    report.check("ceilings", "memory, a copy", lambda: bandwidth(place))


def peak(place: Place, dtype: torch.dtype) -> dict[str, float]:
    """Operations a second of square matrix products; the median of 10 rounds, and the best."""
    n = place.square
    left, right = (torch.randn(n, n, device=place.device, dtype=dtype) for _ in range(2))
    torch.mm(left, right)
    seconds = [place.timed(lambda: torch.mm(left, right))[1] for _ in range(10)]
    rates = [2 * n**3 / spent / 1e12 for spent in seconds]
    return {"tflop_per_s": statistics.median(rates), "best": max(rates)}


def bandwidth(place: Place) -> dict[str, float]:
    source = torch.zeros(place.square**2, dtype=torch.float32, device=place.device)
    target = torch.empty_like(source)
    seconds = [place.timed(lambda: target.copy_(source))[1] for _ in range(11)][1:]
    return {"gb_per_s": 2 * source.nbytes / statistics.median(seconds) / 1e9}


# ---- right as on the CPU


def numbers(report: Report, place: Place) -> None:
    """Logits of one network here and on the CPU, and of its folded twins."""
    images = place.images(64).float_images()
    for layout, tf32 in itertools.product((NCHW, NHWC), (False, True)):
        name = f"float32 logits, {layout_name(layout)}, TF32 {'on' if tf32 else 'off'}"
        report.check("numbers", name, lambda: as_on_the_cpu(place, images, layout, tf32))  # noqa: B023
    for dtype in (torch.float32, torch.bfloat16):
        name = f"folded, {str(dtype).removeprefix('torch.')}, against the network"
        report.check("numbers", name, lambda: folding(place, images, dtype))  # noqa: B023


@torch.no_grad()
def as_on_the_cpu(
    place: Place, images: Tensor, layout: torch.memory_format, tf32: bool
) -> dict[str, float]:
    model = place.net(layout).eval()
    with devices.computing(place.device, "tf32" if tf32 else "float32"):
        here = model(images).cpu()
    there = model.cpu()(images.cpu())
    error = float((here - there).abs().max() / there.abs().max())
    within(error, 1e-2 if tf32 else 1e-4)
    return {"relative_error": error}


@torch.no_grad()
def folding(place: Place, images: Tensor, dtype: torch.dtype) -> dict[str, float]:
    model = place.net().eval()
    plain = model(images)
    error = float((models.folded(model, dtype)(images) - plain).abs().max() / plain.abs().max())
    within(error, 1e-4 if dtype == torch.float32 else 0.1)
    seconds = []
    for _ in range(5):
        with passes.attacker(model, "eval", "float32"):
            seconds.append(place.timed(lambda: twin(model, dtype))[1])
    return {"relative_error": error, "milliseconds": 1e3 * statistics.median(seconds)}


def within(error: float, limit: float) -> None:
    if not error <= limit:
        raise AssertionError(f"{error:.2g} is more than {limit:g}")


def attacks(report: Report, place: Place) -> None:
    """Every attack ends, on this device, in [0, 1]; the plain ones are those of the CPU."""
    model, part = place.net().eval(), place.images(16)
    images, labels = part.float_images(), part.labels
    for name, attack in all_attacks(place).items():
        report.check("attacks", name, lambda: attacked(attack, model, images, labels))  # noqa: B023
    for name, exact in {
        "PGD linf": PGD("linf", EPSILON, 2 / 255, 3, random_start=False),
        "PGD l2": PGD("l2", 0.5, 0.1, 3, random_start=False),
    }.items():
        report.check(
            "attacks",
            f"{name} without chance, against the CPU",
            lambda: same_attack(exact, model, images, labels),  # noqa: B023
        )
    low = models.folded(model, torch.bfloat16)
    truth = model(images).argmax(1)
    pgd = PGD("linf", EPSILON, 2 / 255, 3, generator=place.generator())
    report.check(
        "attacks",
        "robust accuracy, by a bfloat16 twin and without",
        lambda: {
            "by_the_twin": evaluation.robust_accuracy(model, images, truth, pgd, attacked=low)[0],
            "without": evaluation.robust_accuracy(model, images, truth, pgd)[0],
        },
    )


def all_attacks(place: Place) -> dict[str, Callable[..., Tensor]]:
    torch.manual_seed(0)
    seen = models.build("resnet18", width=8, depths=(1, 1)).to(place.device).eval()
    distance, generator = lpips.LPIPS(seen), place.generator()
    few = ("apgd-ce",) if place.tiny else ("apgd-ce", "apgd-t")
    return {
        "PGD linf": PGD("linf", EPSILON, 2 / 255, 3, generator=generator),
        "PGD l2, restarts": PGD("l2", 0.5, 0.1, 3, restarts=2, generator=generator),
        "PGD, early stop": PGD(
            "linf", EPSILON, 2 / 255, 5, restarts=2, early_stop=True, generator=generator
        ),
        "FGSM": FGSM(EPSILON, 10 / 255, generator=generator),
        "StAdv": unseen.StAdv(0.02, 3, generator=generator),
        "ReColor": unseen.ReColor(0.06, 3, generator=generator),
        "JPEG": unseen.JPEG(0.125, 3, generator=generator),
        "Fast-LPA": perceptual.FastLPA(0.5, distance, iterations=3, generator=generator),
        "LPA": perceptual.LPA(0.5, distance, iterations=2, rounds=2, generator=generator),
        "PPGD": perceptual.PPGD(0.5, distance, iterations=3, generator=generator),
        "AutoAttack by APGD": lambda model, images, labels: autoattack.AutoAttack(
            "linf", EPSILON, few, generator=generator
        )(model, images[:4], labels[:4]),
    }


def attacked(attack: Any, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    found = attack(model, images, labels)
    change = float((found - images[: len(found)]).abs().max())
    low, high = map(float, found.aminmax())
    if found.device != images.device or low < 0 or high > 1:
        raise AssertionError(f"on {found.device}, in [{low:.3g}, {high:.3g}]")
    if isinstance(attack, PGD) and attack.norm == "linf":
        within(change, attack.epsilon + 1e-6)
    return {"largest_change": change}


def same_attack(attack: PGD, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """The sign of a gradient of almost 0 is chance; nearly all others are the same."""
    here = attack(model, images, labels).cpu()
    there = attack(model.cpu(), images.cpu(), labels.cpu())
    model.to(images.device)
    share = float(((here - there).abs() < 1e-3).float().mean())
    if share < 0.95:
        raise AssertionError(f"only {100 * share:.1f} % of the pixels are those of the CPU")
    return {"equal_pixels_percent": 100 * share}


def gradients(report: Report, place: Place) -> None:
    pgd = PGD("linf", EPSILON, 2 / 255, 2, generator=place.generator())
    for name, objective in {
        "vanilla": objectives.Vanilla(),
        "adversarial": objectives.AdversarialTraining(pgd),
        "TRADES, kl": objectives.Trades(pgd),
        "TRADES, ce": objectives.Trades(pgd, form="ce"),
    }.items():
        report.check("objectives", name, lambda: gram_as_on_the_cpu(place, objective))  # noqa: B023


def gram_as_on_the_cpu(place: Place, objective: Any) -> dict[str, float]:
    model, part = place.net().eval(), place.images(64)
    images, labels = part.float_images(), part.labels
    moved = objective.perturb(model, images, labels)
    here = objective.gradients(model, images, labels, moved).to(torch.float64).gram().cpu()
    given = (model.cpu(), images.cpu(), labels.cpu(), moved.cpu())
    there = objective.gradients(*given).to(torch.float64).gram()
    error = float((here - there).norm() / there.norm())
    within(error, 1e-3)
    return {"relative_error_of_the_gram_matrix": error}


def selection(report: Report, place: Place) -> None:
    """At the paper's size: 49,500 samples, groups of 128; and class by class, as Figure 5 does."""
    n, width = (400, 64) if place.tiny else (49_500, 512)
    generator = place.generator()
    errors = torch.randn(n, 10, device=place.device, generator=generator)
    features = torch.rand(n, width, device=place.device, generator=generator)
    found = LastLayerGradients(errors, features)
    labels = torch.arange(n, device=place.device) % 10
    for name in ("gradmatch", "craig"):
        selector = getattr(selectors, name)
        selector(torch.eye(2), 1)  # compiles
        ways = {
            "batch-wise, half": lambda: selectors.batch_wise(selector, found, 128, n // 2),  # noqa: B023
            "by classes, a tenth": lambda: selectors.per_class(selector, found, labels, n // 10),  # noqa: B023
        }
        for way, select in ways.items():
            report.check("selection", f"{name}, {way}", lambda: selected(place, found, select))  # noqa: B023


def selected(place: Place, found: LastLayerGradients, select: Callable[[], Any]) -> dict[str, Any]:
    coreset, seconds = place.timed(select)
    error = selectors.gradient_error(found, coreset)[1]
    return {"samples": len(coreset), "relative_error": error, "seconds": seconds}


def runs(report: Report, place: Place) -> None:
    """A whole run of the smoke profile here, twice deterministically, and on the CPU."""
    report.check("runs", "resnet18-linf-cifar10.gradmatch, smoke", lambda: executed(place))


def executed(place: Place) -> dict[str, Any]:
    from acslib.paper import config, runs

    run = config.resolve("resnet18-linf-cifar10.gradmatch", "smoke")
    exactly = config.resolve("resnet18-linf-cifar10.gradmatch+deterministic@true", "smoke")
    places = ((run, place.device), (exactly, place.device), (exactly, place.device), (run, "cpu"))
    made = []
    for run, device in places:
        with tempfile.TemporaryDirectory() as folder:
            made.append(runs.execute(run, 0, device, Path(folder)))
    first, *twice, cpu = ([row.get("loss") for row in record["history"]] for record in made)
    drift = max(abs(a - b) for a, b in zip(first, cpu, strict=True) if a is not None)
    if twice[0] != twice[1]:
        raise AssertionError("two deterministic runs differ")
    return {
        "accuracy": made[0]["metrics"]["acc"],
        "on_the_cpu": made[-1]["metrics"]["acc"],
        "largest_difference_of_a_loss": drift,
        "deterministic_equal_to_the_bit_twice": True,
    }


# ---- how fast


def pgd10(place: Place, generator: torch.Generator) -> objectives.AdversarialTraining:
    steps = 2 if place.tiny else 10
    attack = PGD("linf", EPSILON, 1.25 / 255, steps, generator=generator)
    return objectives.AdversarialTraining(attack)


def fat(place: Place, generator: torch.Generator) -> objectives.AdversarialTraining:
    return objectives.AdversarialTraining(FGSM(EPSILON, 10 / 255, generator=generator))


def trades(place: Place, generator: torch.Generator) -> objectives.Trades:
    return objectives.Trades(pgd10(place, generator).attack)


@dataclass(frozen=True)
class Way:
    """One way to train. The first of an objective is what the profile `full` does."""

    objective: Callable[[Place, torch.Generator], Any]
    precision: str
    mode: str  # BatchNorm's, while attacking
    layout: torch.memory_format = NHWC
    deterministic: bool = False

    @property
    def name(self) -> str:
        parts = [self.objective.__name__, self.precision, layout_name(self.layout)]
        parts += [f"attacked in {self.mode} mode", *["deterministic"] * self.deterministic]
        return ", ".join(parts)


WAYS = (
    Way(pgd10, "float32", "train"),
    Way(pgd10, "float32", "train", NCHW),
    Way(pgd10, "tf32", "train"),
    Way(pgd10, "tf32", "train", NCHW),
    Way(pgd10, "bfloat16", "train"),
    Way(pgd10, "bfloat16", "train", NCHW),
    Way(pgd10, "bfloat16", "train", deterministic=True),
    Way(pgd10, "bfloat16", "eval"),
    Way(trades, "tf32", "eval"),
    Way(trades, "bfloat16", "eval"),
    Way(fat, "tf32", "train"),
    Way(fat, "bfloat16", "train"),
)


def layout_name(layout: torch.memory_format) -> str:
    return "channels_last" if layout == NHWC else "contiguous"


def throughput(report: Report, place: Place, seconds: float) -> None:
    rates = [row["numbers"] for row in report.rows if row["name"].endswith("bfloat16")]
    best = rates[0].get("best", 0.0)
    for way in WAYS:
        if report.seconds() > seconds:
            report.row("throughput", way.name, left_out=f"{seconds:g} s have passed")
            continue
        report.check("throughput", way.name, lambda: speed(place, way, best))  # noqa: B023
    report.check("throughput", "PGD-10 alone on the folded bfloat16 twin", lambda: compiled(place))
    if place.cuda:
        report.check("throughput", "the same as CUDA graphs", lambda: cuda_graphs(place))


def trainer(place: Place, way: Way) -> tuple[State, Training]:
    generator = place.generator()
    how = Training(
        way.objective(place, generator),
        schedule.full(1),
        generator,
        batch_size=place.batch,
        attack_mode=way.mode,
        precision=way.precision,
        monitor=0,
        learning_rate=0.01,
        deterministic=way.deterministic,
    )
    model = place.net(way.layout)
    return State(model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)), how


def speed(place: Place, way: Way, best: float) -> dict[str, Any]:
    """An epoch as `fit` trains it, after one of two batches; the share of the matrix peak."""
    state, how = trainer(place, way)
    dataset = place.dataset(place.n)
    with OperationCount() as count:
        one_step(state, dataset, how)
    operations = count.total / place.batch
    fit(state, place.dataset(2 * place.batch), how)
    state.epoch = 0
    if place.cuda:
        torch.cuda.reset_peak_memory_stats(place.device)
    _, seconds = place.timed(lambda: fit(state, dataset, how))
    row = state.history[-1]  # the rest of the seconds is `fit` trying what it was given
    rate = place.n / (row["seconds_attack"] + row["seconds_update"])
    found = {
        "images_per_s": round(rate),
        "attack_s": row["seconds_attack"],
        "update_s": row["seconds_update"],
        "of_s": seconds,
        "gflop_per_image": operations / 1e9,
        "percent_of_the_matrix_peak": 100 * operations * rate / 1e12 / best if best else None,
    }
    if place.cuda:
        found["peak_gib"] = torch.cuda.max_memory_allocated(place.device) / 2**30
    return found


def one_step(state: State, dataset: data.Dataset, how: Training) -> None:
    """Lines 15 to 17 of Algorithm 1, once."""
    state.coreset = selectors.Coreset(
        torch.arange(len(dataset.train)), torch.ones(len(dataset.train))
    )
    batch = next(batches(state, dataset, how, "full"))
    adversarial = adversarial_examples(state.model, batch, how)
    sgd_step(state, dataset, batch, adversarial, how)


def compiled(place: Place) -> dict[str, Any]:
    """What torch.compile makes of the attack, on a GPU; elsewhere it takes a minute to start."""
    twin = models.folded(place.net().eval(), torch.bfloat16)
    rates = {"eager_images_per_s": attacked_per_s(place, twin)}
    if place.cuda:
        rates["compiled_images_per_s"] = attacked_per_s(place, torch.compile(twin))
    return rates


def cuda_graphs(place: Place) -> dict[str, Any]:
    """The same, each pass recorded once and then launched as a whole."""
    twin = models.folded(place.net().eval(), torch.bfloat16)
    return {"images_per_s": attacked_per_s(place, torch.compile(twin, mode="reduce-overhead"))}


def attacked_per_s(place: Place, network: Callable[..., Any]) -> int:
    """Images a second that PGD-10 attacks; the first two times are not counted."""
    part = place.images(place.batch)
    images, labels = part.float_images(), part.labels
    attack = pgd10(place, place.generator()).attack
    seconds = [place.timed(lambda: attack(network, images, labels))[1] for _ in range(7)]
    return round(place.batch / statistics.median(seconds[2:]))


# ---- what a step waits for, and what it does


def waits(report: Report, place: Place) -> None:
    way = Way(pgd10, "bfloat16", "train")
    state, how = trainer(place, way)
    dataset = place.dataset(place.n)
    fit(state, dataset, how)
    steps = place.n // place.batch - 1
    found = of_a_longer_epoch(place, lambda dataset: looks(state, dataset, how))
    show_places(report, "by operation", found, steps)
    if place.cuda:
        found = of_a_longer_epoch(place, lambda dataset: warned(state, dataset, how))
        show_places(report, "as CUDA warns", found, steps)


def of_a_longer_epoch(place: Place, count: Callable[[data.Dataset], Counter[str]]) -> Counter[str]:
    """What an epoch of all batches has more than one of one batch: what `fit` does once is out."""
    once = count(place.dataset(place.batch))
    found = count(place.dataset(place.n))
    return found - once


def looks(state: State, dataset: data.Dataset, how: Training) -> Counter[str]:
    state.epoch = 0
    with Looks() as found:
        fit(state, dataset, how)
    return found.places


def warned(state: State, dataset: data.Dataset, how: Training) -> Counter[str]:
    state.epoch = 0
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            fit(state, dataset, how)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{Path(one.filename).name}:{one.lineno}" for one in seen)


def show_places(report: Report, how: str, places: Counter[str], steps: int) -> None:
    total = sum(places.values())
    report.row("waits", f"{how}: all", a_step=total / steps, steps=steps)
    for name, count in places.most_common(12):
        report.row("waits", f"{how}: {name}", a_step=count / steps)


def profiled(report: Report, place: Place) -> None:
    state, how = trainer(place, Way(pgd10, "bfloat16", "train"))
    dataset = place.dataset(place.n)
    fit(state, dataset, how)
    state.epoch = 0
    kinds = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * place.cuda]
    with profile(activities=kinds) as profiler:
        _, wall = place.timed(lambda: fit(state, dataset, how))
    events = profiler.key_averages()
    kind = "CUDA" if place.cuda else "CPU"
    own = "self_device_time_total" if place.cuda else "self_cpu_time_total"
    there = [event for event in events if event.device_type.name == kind]
    there.sort(key=lambda event: -getattr(event, own))
    busy, steps = sum(getattr(event, own) for event in there) / 1e6, -(-place.n // place.batch)
    report.row(
        "profile",
        "an epoch, the profiler on",
        busy_s=busy,
        of_s=wall,
        steps=steps,
        calls_a_step=sum(event.count for event in there) / steps,
    )
    for event in there[:10]:
        report.row(
            "profile",
            event.key[:60],
            milliseconds_a_step=getattr(event, own) / 1e3 / steps,
            calls_a_step=event.count / steps,
        )
