"""A trained network, evaluated by AutoAttack's own code or by RobustBench's.

    acs export resnet18-linf-cifar10.gradmatch --profile full --to mine
    pip install git+https://github.com/fra31/auto-attack git+https://github.com/RobustBench/robustbench
    python examples/robustbench_eval.py mine autoattack    # or robustbench

Both take a network from images in [0, 1] to logits, which is what load.py of the folder gives.
RobustBench brings CIFAR-10 itself; AutoAttack is given the data set's test images.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acslib import data, evaluation

NORMS = {"linf": "Linf", "l2": "L2"}


def exported(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network and what model.json says of it. Raises ValueError for a network that only its own
    function builds: give that to the load of load.py instead.
    """
    about = json.loads((folder / "model.json").read_text())
    if own := about["build"].get("registered_in"):
        raise ValueError(f"{folder} has a network that {own} builds: give it to load in load.py")
    spec = importlib.util.spec_from_file_location("load", folder / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(), about


def autoattack(
    model: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: float
) -> dict[str, float]:
    """Clean accuracy, and that under the standard AutoAttack of Croce and Hein's own package."""
    from autoattack import AutoAttack

    attack = AutoAttack(model, norm=NORMS[norm], eps=epsilon, version="standard", device="cpu")
    adversarial = attack.run_standard_evaluation(images, labels, bs=250)
    return {
        "clean": evaluation.clean_accuracy(model, images, labels)[0],
        "robust": evaluation.clean_accuracy(model, adversarial, labels)[0],
    }


def robustbench(model: nn.Module, norm: str, epsilon: float, n: int = 10_000) -> dict[str, float]:
    """The same as RobustBench's leaderboard for CIFAR-10 measures it."""
    from robustbench import benchmark

    clean, robust = benchmark(
        model,
        n_examples=n,
        dataset="cifar10",
        threat_model=NORMS[norm],
        eps=epsilon,
        device=torch.device("cpu"),
    )
    return {"clean": clean, "robust": robust}


def main(folder: str, judge: str = "autoattack") -> dict[str, float]:
    """Evaluate the network in a folder that `acs export` has written, under its own bound.

    Raises ValueError for another judge than these two, and for what a judge has no attack or no
    images for.
    """
    model, about = exported(Path(folder))
    norm, epsilon = about["evaluated_by"]["norm"], about["evaluated_by"]["epsilon"]
    if judge not in ("autoattack", "robustbench"):
        raise ValueError(f"judge is {judge!r}: write autoattack or robustbench")
    if norm not in NORMS:
        raise ValueError(f"{folder} is evaluated under {norm}, and both have linf and l2 only")
    if judge == "robustbench":
        if about["dataset"] != "cifar10":
            raise ValueError(
                f"{folder} was trained on {about['dataset']}, and RobustBench brings CIFAR-10:"
                " evaluate it by autoattack"
            )
        return robustbench(model, norm, epsilon)
    images = data.load(about["dataset"]).test
    return autoattack(model, images.float_images(), images.labels, norm, epsilon)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    print(main(*sys.argv[1:]))
