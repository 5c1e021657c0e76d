"""One run from its name to its record; and the command line that Make calls.

    python -m acslib.runs train RUN --profile demo --seed 0
    python -m acslib.runs list TABLE --profile demo
    python -m acslib.runs rules --profile demo --seeds "0 1 2"
    python -m acslib.runs show TABLE --profile demo
"""

import argparse
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from acslib import data, evaluation, models, objectives, params, perceptual, records, selectors, tables, threats
from acslib.attacks import PGD
from acslib.gradients import check_gram
from acslib.params import Run, Setting
from acslib.training import DTYPES, Diverged, State, Training, fit

PROBLEMS = (ValueError, OSError)  # ValueError: what is wrong with parameters, data, records and losses, in a sentence


def default_device() -> str:
    """`ACS_DEVICE`, by default CUDA where there is one."""
    return os.environ.get("ACS_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")


def checked_device(name: str | None) -> str:
    """The device by name, or ParamsError where torch has none such, or none that knows double precision."""
    name = name or default_device()
    try:
        torch.ones(1, dtype=torch.float64, device=name).item()  # groups of gradients are summed in it
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise params.ParamsError(f"there is no device {name!r} here ({reason}): say cpu, or nothing") from None
    return name


def precision(setting: Setting, device: str) -> str:
    """The setting's, `auto` being the device's fastest."""
    return fastest_precision(device) if setting.precision == "auto" else setting.precision


def fastest_precision(device: str) -> str:
    """bfloat16 where the device multiplies it in hardware, else float32."""
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported() else "float32"


def load_data(setting: Setting, device: str) -> data.Dataset:
    return data.load(
        setting.dataset, device=device, train_limit=setting.train_limit, test_limit=setting.test_limit,
        validation_fraction=setting.validation_fraction, image_size=setting.image_size, classes=setting.classes,
        sample=setting.sample,
    )  # fmt: skip


def build_model(setting: Setting, dataset: data.Dataset, seed: int, device: str) -> models.ResNet:
    """The setting's network with the initial weights of `seed`."""
    torch.manual_seed(seed)
    model = models.build(
        setting.model, classes=len(dataset.class_names), channels=dataset.train.images.shape[1], stem=setting.stem,
        width=setting.width, depths=setting.depths, statistics=models.CHANNEL_STATISTICS[setting.dataset],
    )  # fmt: skip
    layout = torch.channels_last if setting.memory_format == "channels_last" else torch.contiguous_format
    return model.to(device, memory_format=layout)


def build_optimiser(setting: Setting, model: torch.nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(), setting.lr, momentum=setting.momentum, weight_decay=setting.weight_decay
    )


def build_objective(setting: Setting, steps: int, generator: torch.Generator, device: str):
    """The objective Phi of the setting, with an inner attack of `steps` steps."""
    if setting.objective == "vanilla":
        return objectives.Vanilla()
    if setting.objective == "fast_lpa":
        return objectives.AdversarialTraining(perceptual.training_attack(setting, steps, generator, device))
    attack = PGD(setting.norm, setting.epsilon, setting.step, steps, generator=generator)
    if setting.objective == "trades":
        return objectives.Trades(attack, setting.beta, setting.trades_form)
    return objectives.AdversarialTraining(attack)


def build_selector(run: Run, labels: torch.Tensor, seed: int, generator: torch.Generator) -> Callable | None:
    """The method as a callable (gradients, budget) -> Coreset, at the setting's granularity.

    `generator` is the training's, which is seeded afresh in every epoch.
    """
    setting = run.setting
    if run.method == "full":
        return None
    if run.method == "random":
        return BlindSelector(lambda: seed)
    if run.method == "adaptive_random":
        return BlindSelector(generator.initial_seed)
    greedy = {"craig": selectors.craig, "gradmatch": selectors.gradmatch}[run.method]
    if setting.granularity == "sample":  # too many inner products are better known now than at the first selection
        n = len(labels)
        budget = math.ceil(setting.coreset_fraction * n)
        check_gram(n if run.method == "craig" else selectors.gram_rows_held(n, budget), n)
    greedy(torch.eye(2), 1)  # numba compiles, or loads what it has compiled, before any clock runs
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    groups = torch.empty_like(order)
    groups[order] = torch.arange(len(labels)) // setting.selection_batch_size

    def select(gradients, budget):
        if setting.gradient_layer == "bias":
            gradients = gradients.bias_only()
        if setting.granularity == "batch":
            return selectors.batch_wise(greedy, gradients, groups, budget)
        if setting.granularity == "class":
            return selectors.per_class(greedy, gradients, labels, budget)
        return greedy(gradients, budget)

    return select


@dataclasses.dataclass
class BlindSelector:
    """Sees no gradient, and draws samples whatever the granularity.

    `random` has one seed, `adaptive_random` that of the epoch: a resumed run draws the same.
    """

    seed: Callable[[], int]
    needs_gradients = False

    def __call__(self, samples, budget: int):
        return selectors.random(samples, budget, torch.Generator().manual_seed(self.seed()))


def training_of(run: Run, labels: torch.Tensor, seed: int, device: str) -> Training:
    setting = run.setting
    generator = torch.Generator(device)
    return Training(
        objective=build_objective(setting, setting.steps, generator, device),
        selection_objective=build_objective(setting, setting.selection_steps, generator, device),
        plan=run.plan, selector=build_selector(run, labels, seed, generator), generator=generator, seed=seed,
        learning_rate=setting.lr, lr_drops=setting.lr_drops, lr_factor=setting.lr_factor,
        lr_warmup=setting.lr_warmup, gradient_clip=setting.gradient_clip,
        batch_size=setting.batch_size, attack_mode=setting.attack_mode, precision=precision(setting, device),
        half_half=setting.half_half, monitor=setting.monitor,
    )  # fmt: skip


def train(
    run: Run, dataset: data.Dataset, seed: int, device: str, folder: Path, progress=lambda row: None
) -> State:
    """Train, or go on training, the run whose files are in `folder`."""
    setting = run.setting
    model = build_model(setting, dataset, seed, device)
    state = State(model, build_optimiser(setting, model))
    mark = f"{records.training_fingerprint(run)}-seed{seed}-{dataset.source}"
    checkpoint = folder / "checkpoint.safetensors"
    records.load_checkpoint(checkpoint, state, mark)

    def keep(state: State):
        progress(state.history[-1])
        if state.history[-1]["selection"]:
            records.save_coreset(folder, state)
        if state.history[-1]["phase"] != "skip" or state.epoch == len(run.plan):
            records.save_checkpoint(checkpoint, state, mark)

    try:
        fit(state, dataset, training_of(run, dataset.train.labels, seed, device), keep)
    except Diverged as error:
        if not checkpoint.exists():
            raise
        raise Diverged(f"{error}; move {folder} away before, it keeps the epochs up to {state.epoch - 1}") from None
    records.save_weights(folder / "weights.safetensors", model)
    return state


def evaluate(run: Run, model, dataset: data.Dataset, seed: int, device: str) -> dict:
    """Clean accuracy, and robust accuracy under the attacks that the paper evaluates the setting with."""
    images, labels = dataset.test.float_images(), dataset.test.labels
    clean, _ = evaluation.clean_accuracy(model, images, labels)
    generator = torch.Generator(device).manual_seed(seed)
    measure = evaluate_perceptual if run.setting.norm == "lpips" else evaluate_pgd
    return {"acc": clean, "n": len(labels)} | measure(run, model, images, labels, generator)


def evaluate_pgd(run: Run, model, images, labels, generator) -> dict:
    """PGD with the paper's steps and restarts on every test image, AutoAttack on the first `autoattack_n`."""
    setting = run.setting
    attack = PGD(
        setting.norm, setting.evaluation_epsilon, setting.evaluation_step, setting.evaluation_steps,
        restarts=setting.evaluation_restarts, generator=generator,
    )  # fmt: skip
    fast = models.folded(model, DTYPES[precision(setting, str(images.device))])
    measures = {"racc": evaluation.robust_accuracy(model, images, labels, attack, attacked=fast)[0]}
    n = min(setting.autoattack_n, len(labels))
    if n:
        auto = threats.AutoAttack(setting.norm, setting.evaluation_epsilon, setting.autoattack, generator=generator)
        twin = models.folded(model)
        measures["autoattack"], _ = evaluation.robust_accuracy(model, images[:n], labels[:n], auto, attacked=twin)
        measures["autoattack_n"] = n
    return measures


def evaluate_perceptual(run: Run, model, images, labels, generator) -> dict:
    """Every attack of Table C1 on the first `threats_n` test images."""
    setting, suite = run.setting, perceptual_suite(run, images.shape[-1])
    n = min(setting.threats_n, len(labels))
    distance = perceptual.distance_for(setting.dataset, images.shape[-1], images.device)
    measures = {"threats_n": n}
    twin = models.folded(model)
    for name, attack in evaluation.table_c1_attacks(suite, distance, setting.autoattack, generator).items():
        measures[f"racc_{name}"], _ = evaluation.robust_accuracy(model, images[:n], labels[:n], attack, attacked=twin)
    return measures


def perceptual_suite(run: Run, side: int) -> dict[str, dict]:
    """The attacks of Table C1 as the run has them on images of that side; `evaluation_epsilon` is for LPIPS."""
    suite = params.table_c1(params.setting_layer(run.setting_name)["dataset"], side, run.setting.threats_effort)
    for name in tables.SEEN:
        suite[name]["bound"] = run.setting.evaluation_epsilon
    return suite


def execute(run: Run, seed: int = 0, device: str | None = None, results=None, progress=lambda row: None,
            announce=lambda source: None) -> dict:
    """The record of a run: read if it is finished, made otherwise (going on from its last epoch).

    `announce` is told which images these are before anything is trained, `progress` every epoch's row.
    """
    device = checked_device(device)
    done = records.finished_record(run, seed, results)
    if done is not None:
        return done
    folder = records.run_folder(run, seed, results)
    records.check_writable(folder)
    dataset = load_data(run.setting, device)
    announce(dataset.source)
    state = train(run, dataset, seed, device, folder, progress)
    started = time.perf_counter()
    measures = evaluate(run, state.model, dataset, seed, device)
    seconds = {part: sum(row[f"seconds_{part}"] for row in state.history) for part in ("select", "attack", "update")}
    record = {
        "format": records.FORMAT, "run": run.name, "profile": run.profile, "seed": seed,
        "fingerprint": records.fingerprint(run), "params": run.setting.model_dump(mode="json"),
        "method": run.method, "setting": run.setting_name, "data": dataset.source,
        "plan": {"cost": run.plan.cost, "ceiling": run.plan.ceiling, "selections": run.plan.selections},
        "metrics": measures,
        "seconds": seconds | {"total": sum(seconds.values()), "evaluate": time.perf_counter() - started},
        "history": state.history,
        "provenance": records.provenance(device) | {"precision": precision(run.setting, device)},
    }  # fmt: skip
    records.write_json(folder / "record.json", record)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return record


def load_trained(run: Run, seed: int = 0, device: str | None = None, results=None):
    """The trained network of a finished run, in evaluation mode, and its data."""
    device = checked_device(device)
    dataset = load_data(run.setting, device)
    model = build_model(run.setting, dataset, seed, device)
    path = records.run_folder(run, seed, results) / "weights.safetensors"
    if not path.exists():
        lost = f"delete {path.parent}, which has lost it, and " if (path.parent / "record.json").exists() else ""
        raise records.RecordError(f"there is no {path}: {lost}train {run.name}")
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise records.RecordError(f"{path} is damaged ({error}): delete its folder and train again") from None
    return model.to(device).eval(), dataset


def epoch_line(row: dict) -> str:
    """One line of log for an epoch."""
    parts = [f"epoch {row['epoch']:3d} {row['phase']:7s} lr {row['rate']:.4g}"]
    if "loss" in row:
        parts.append(f"loss {row['loss']:.3f}, robust (train) {100 * row['train_robust_accuracy']:.1f} %")
    if "train_clean_accuracy" in row:
        parts.append(f"clean (train) {100 * row['train_clean_accuracy']:.1f} %")
    if row["selection"]:
        error = row["selection"].get("relative_error")
        parts.append(f"selected {row['selection']['size']} ({row['selection']['reason']})"
                     + (f", gradient error {100 * error:.1f} %" if error is not None else ""))  # fmt: skip
    seconds = " ".join(f"{part} {row[f'seconds_{part}']:.1f}" for part in ("select", "attack", "update"))
    return ", ".join(parts) + f"; seconds: {seconds}"


def train_command(arguments) -> None:
    for seed in arguments.seeds:
        run = params.resolve(arguments.name, arguments.profile)
        print(f"{run.name}, profile {run.profile}, seed {seed}: {len(run.plan)} epochs, speed-up at most"
              f" {run.plan.ceiling:.2f}x", flush=True)  # fmt: skip
        record = execute(run, seed, progress=lambda row: print(epoch_line(row), flush=True),
                         announce=lambda source: print(f"data: {source}", flush=True))  # fmt: skip
        shown = ", ".join(f"{name} {100 * value:.2f} %" for name, value in record["metrics"].items()
                          if isinstance(value, float))  # fmt: skip
        print(f"{run.name}: {shown}, {record['seconds']['total']:.1f} s")


def list_command(arguments) -> None:
    for name in params.table_runs(arguments.name, arguments.profile):
        print(name)


def rules_command(arguments) -> None:
    """Which records each table needs, for Make to include: RECORDS_<table> := ...

    A record that other parameters made depends on `always`, so that Make asks for it again and the user is told, until
    the right one is there.
    """
    stale = {}
    for table in params.tables():
        paths = []
        for name in params.table_runs(table, arguments.profile):
            run = params.resolve(name, arguments.profile)
            for seed in arguments.seeds:
                paths.append(records.run_folder(run, seed, shown_results()) / "record.json")
                try:
                    records.finished_record(run, seed, shown_results())
                except records.RecordError:
                    stale[paths[-1]] = records.fingerprint(run)
        print(f"RECORDS_{table} := {' '.join(map(str, paths))}")
    for path, wanted in stale.items():
        print(f"{path}: $(if $(shell grep -s {wanted} {path}),,always)")


def shown_results() -> Path:
    """The folder of results as Make and messages name it."""
    return Path(os.environ.get("ACS_RESULTS") or "results")


def show_command(arguments) -> None:
    """Where a table or figure is, and the table itself."""
    name, known = arguments.name, [*params.tables(), "theorem1"]
    if name not in known:
        raise params.ParamsError(f"there is no table or figure {name!r}{params.nearest(name, known)}")
    if arguments.name.startswith("table"):
        print(f"{tables.text(arguments.name, arguments.profile)}\n")
        notebook = Path("build", arguments.profile, f"{name}.ipynb")
        print(f"{shown_results()}/{arguments.profile}/{name}.csv (and .tex)"
              + (f"; {notebook} shows it with its pictures" if notebook.exists() else ""))  # fmt: skip
    else:
        picture = shown_results().parent / "figures" / arguments.profile / f"{arguments.name}.pdf"
        if not picture.exists():
            raise records.RecordError(f"there is no {picture}: make {name} PROFILE={arguments.profile} makes it")
        print(f"{picture} (and .png)")


COMMANDS = {"train": train_command, "list": list_command, "rules": rules_command, "show": show_command}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="acslib.runs", description="Train runs and list what tables need.")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("name", nargs="?", help="a run, or a table for list")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", default="0", help='like "0 1 2"')
    arguments = parser.parse_args(argv)
    if arguments.name is None and arguments.command != "rules":
        parser.error(f"{arguments.command} needs a name")
    try:
        arguments.seeds = params.seeds(arguments.seeds)
        COMMANDS[arguments.command](arguments)
    except PROBLEMS as error:
        print(f"acs: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
