"""What a finished run shows, in a few sentences that are computed from its record."""

import math
from pathlib import Path
from typing import Any

from acslib.paper import config, records, rows
from acslib.paper.methods import METHODS
from acslib.paper.printing import counted


def of_run(run: config.Run, seed: int, results: Path | None = None) -> str:
    """What the network is worth, and what the coreset has cost and saved.

    It is compared with the full training of the same seed and parameters, where that is trained.
    Raises RecordError for a run that is not finished.
    """
    full = config.resolve(full_training_of(run), run.profile)
    compared = records.finished_record(full, seed, results) is not None
    row = rows.row_of(run, full if compared else run, {}, [seed], results)
    said = [worth(row, run)]
    if not METHODS[run.method].selects:
        return said[0] + " This is full training, which coresets are compared with."
    if not compared:
        return said[0] + (
            " What that costs is seen beside full training, which is not trained here:"
            f" make run RUN={full.name} SEED={seed} PROFILE={run.profile}."
        )
    return " ".join([*said, lost(row), saved(row)])


def full_training_of(run: config.Run) -> str:
    """The name of the full training that a run is compared with."""
    setting_name, _, varied = config.parse(run.name)
    return config.run_name(setting_name, "full", varied)


def measure_of(row: dict[str, Any]) -> tuple[str, str]:
    """Where a row has its robust accuracy, and the column with the number of its images."""
    if "racc_pct" in row:
        return "racc", "racc_images"
    return "racc_unseen", "threats_n"


def worth(row: dict[str, Any], run: config.Run) -> str:
    """Clean and robust accuracy in a sentence."""
    measure, count = measure_of(row)
    setting = run.setting
    attack = "attacks that it has not been trained against (the mean of Table C1's)"
    value = row.get("racc_unseen_mean_pct")
    if measure == "racc":
        steps = counted(setting.evaluation_steps, "step")
        attack = f"PGD with {steps}, {counted(setting.evaluation_restarts, 'restart')}"
        value = row["racc_pct"]
    return (
        f"The network labels {row['acc_pct']:.1f} % of"
        f" {counted(row['test_images'], 'test image')} rightly,"
        f" and {value:.1f} % of {row[count]:g} under {attack}."
    )


def lost(row: dict[str, Any]) -> str:
    """The differences to full training, and whether the images can tell the robust one."""
    measure, count = measure_of(row)
    value = row["racc_pct"] if measure == "racc" else row["racc_unseen_mean_pct"]
    clean, robust = row["acc_diff_pct"], row[f"{measure}_diff_pct"]
    share = min(max((value - robust / 2) / 100, 0.0), 1.0)
    chance = 200 * math.sqrt(2 * share * (1 - share) / row[count])
    clear = "more than" if abs(robust) > chance else "no more than"
    return (
        f"Full training of the same seed is {points(-clean)} when clean and"
        f" {points(-robust)} under attack; the second is {clear} the {chance:.1f} points that the"
        " choice of so many test images makes by chance."
    )


def points(difference: float) -> str:
    """A difference in percent in words."""
    if round(difference, 1) == 0:
        return "as accurate"
    return f"{abs(difference):.1f} points {'better' if difference > 0 else 'worse'}"


def saved(row: dict[str, Any]) -> str:
    """The time against full training's."""
    return (
        f"Training on the coreset was {row['speedup_median_x']:.2f} times as fast, of"
        f" {row['speedup_ceiling_x']:.2f} that its schedule allows."
    )
