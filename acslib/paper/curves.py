"""What is measured for Figures 3 to 5 and Table 4's picture: the points that are drawn."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch

from acslib import evaluation, models, passes
from acslib.attacks.pgd import PGD
from acslib.paper import (
    build,
    config,
    files,
    fingerprints,
    frames,
    measures,
    params,
    records,
    rows,
    runs,
)
from acslib.paper.config import Run

# Figure 3's attacks, in units of the training's epsilon
NORM_FACTORS = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2)
IDENTITY = [
    *("profile", "setting", "run", "model", "network", "dataset", "data", "device", "commit"),
    *("seeds", "seed", "method"),
]
MEASURES = [
    *("acc_pct", "racc_pct", "relative_clean_error_pct", "relative_robust_error_pct"),
    *("speedup_x", "speedup_median_x", "speedup_ceiling_x", "time_s", "seconds_select"),
]


# ---- what is measured: Figures 4 and 5


def relative_error(accuracy, full):
    """The error above full training's as a percentage of that; error = 100 % - accuracy.

    `accuracy` and `full`: in percent. 0 is as good as full training, 100 makes twice its mistakes,
    below 0 is better.
    """
    return 100 * (full - accuracy) / (100 - full)


def points_by_seed(
    figure: str, profile: str, seeds: Sequence[int], results: Path | None = None
) -> pd.DataFrame:
    """Points of Figures 4, 5: a row a run and seed, errors relative to its full training."""
    table = pd.concat(
        [rows.gather(figure, profile, [seed], results).assign(seed=seed) for seed in seeds]
    )
    table = table.assign(seeds=len(seeds)).reset_index(drop=True)
    for kind, measure in (("clean", "acc"), ("robust", "racc")):
        full = table[f"{measure}_pct"] - pd.to_numeric(table[f"{measure}_diff_pct"]).fillna(0)
        table[f"relative_{kind}_error_pct"] = relative_error(table[f"{measure}_pct"], full)
    settings = {name: config.resolve(name, profile).setting for name in table.run.unique()}
    for varied in ("coreset_fraction", "warm_start"):
        table[varied] = [getattr(settings[name], varied) for name in table.run]
    extra = [name for name in ("series", "version") if name in table]
    return table[[*IDENTITY, *extra, "coreset_fraction", "warm_start", *MEASURES]]


def write_points(figure: str, table: pd.DataFrame, results: Path | None = None) -> Path:
    """Write results/<profile>/<figure>.csv, atomically; gives its path."""
    path = (results or files.RESULTS) / table.profile.iloc[0] / f"{figure}.csv"
    return frames.write_frame(path, table)


# ---- what is measured: Figure 3


def attack_curves(
    profile: str, seeds: Sequence[int], results: Path | None = None, progress: Callable = iter
) -> pd.DataFrame:
    """Figure 3's points: a row a run, seed and norm of the attack.

    Each curve is kept in results/<profile>/fig3-curves.csv as soon as it is there, and not attacked
    again for the same weights and evaluation.
    """
    path = (results or files.RESULTS) / profile / "fig3-curves.csv"
    known = pd.DataFrame({"weights": []})
    if path.exists():
        known = frames.read_frame(path, {"weights", "racc_pct"}, "delete it and run again")
    wanted = [
        row | {"seed": seed}
        for seed in seeds
        for row in rows.gather("fig3", profile, [seed], results).to_dict("records")
    ]
    curves = []
    for row in progress(wanted):
        run = config.resolve(row["run"], profile)
        mark = weights_mark(run, row["seed"], results)
        curve = known[known.weights == mark]
        if len(curve) != len(NORM_FACTORS):
            about = {name: row[name] for name in (*IDENTITY, "curve")}
            curve = attack_curve(run, row["seed"], results).assign(**about, weights=mark)
        curves.append(curve.assign(seeds=len(seeds)))
        table = pd.concat(curves, ignore_index=True)
        frames.write_frame(path, table)
    return table


def weights_mark(run: Run, seed: int, results: Path | None = None) -> str:
    """A digest of a finished run's parameters and weights."""
    weights = (records.run_folder(run, seed, results) / "weights.safetensors").read_bytes()
    return hashlib.sha256(fingerprints.fingerprint(run).encode() + weights).hexdigest()[:16]


def attack_curve(run: Run, seed: int, results: Path | None = None) -> pd.DataFrame:
    """A finished run's accuracy under PGD (its steps, one restart) at each of `NORM_FACTORS`.

    The step grows with the norm, so that every attack can cross its ball equally often.
    """
    model, dataset = runs.load_trained(run, seed, results=results)
    assert isinstance(model, models.ResNet)
    setting, test = run.setting, dataset.test
    n = measures.first(setting.evaluation_n, len(test.labels))
    images, labels = test.float_images()[:n], test.labels[:n]
    device = str(images.device)
    fast = models.folded(model, passes.DTYPES[build.precision(setting, device)])
    if setting.evaluation_step is None:
        raise params.ParamsError(f"{run.name} is evaluated under LPIPS: Figure 3 is of linf")
    ratio = setting.evaluation_step / setting.evaluation_epsilon
    points = []
    for norm in NORM_FACTORS:
        epsilon, generator = norm * setting.epsilon, torch.Generator(device).manual_seed(seed)
        attack = PGD(
            "linf", epsilon, ratio * epsilon, setting.evaluation_steps, generator=generator
        )
        robust, _ = evaluation.robust_accuracy(model, images, labels, attack, attacked=fast)
        rounded = round(255 * epsilon, 6)  # so that it is the same after a CSV
        points.append({"epsilon_255": rounded, "racc_pct": 100 * robust})
    return pd.DataFrame(points).assign(
        training_epsilon_255=round(255 * setting.epsilon, 6),
        steps=setting.evaluation_steps,
        test_images=n,
    )


# ---- what is measured: Table 4's picture


def robust_epochs(gathered: pd.DataFrame, seed: int, results: Path | None = None) -> pd.DataFrame:
    """Table 4's runs epoch by epoch: robust accuracy on the training batches under training's own
    attack, and beside it what PGD leaves on test images in the end (`racc_pct`). One seed.
    """
    parts = []
    for row in gathered.itertuples():
        record = rows.trained_record(config.resolve(row.run, row.profile), seed, results)
        trained = [epoch for epoch in record["history"] if "train_robust_accuracy" in epoch]
        part = {
            "profile": row.profile,
            "run": row.run,
            "method": row.method,
            "seed": seed,
            "epoch": [epoch["epoch"] for epoch in trained],
            "train_robust_pct": [100 * epoch["train_robust_accuracy"] for epoch in trained],
            "racc_pct": 100 * record["metrics"]["racc"],
        }
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)
