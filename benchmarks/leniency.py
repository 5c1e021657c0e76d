"""Whether evaluation calls an image robust that an earlier version broke, or that an attack on the
network itself breaks, and how long each takes.

    python -m benchmarks.leniency study-linf.gradmatch+coreset_fraction@0.5 --profile mini

A trained run's test images are evaluated by PGD-50-10 with this version, with this one on the
network itself in float32 (no twin that is folded and of fewer bits), and with commit 0bc7172, each
in a process of its own, on one thread, with the same weights and several seeds. What one calls
robust and the other does not is held against what other draws of one of them change.
It needs the run's weights, so that it is no part of `make bench`.

It writes results/published/bench/leniency.csv, a row for each pair of evaluations.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.before import COMMIT, ROOT, unpacked

FILE = ROOT / "results" / "published" / "bench" / "leniency.csv"
NO_TWIN = "today, no twin"
VERSIONS = ("today", NO_TWIN, COMMIT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run under linf that is trained")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3, help="how many draws of each version")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, unpacked() as earlier:
        save_what_is_evaluated(Path(scratch), options)
        folders = dict(zip(VERSIONS, (ROOT, ROOT, earlier), strict=True))
        found = {
            (version, seed): evaluated(folder, scratch, seed, version)
            for seed in range(options.seeds)
            for version, folder in folders.items()
        }
    table = pd.DataFrame(pairs(options.run, found))
    before = pd.read_csv(FILE) if FILE.exists() else pd.DataFrame(columns=table.columns)
    kept = before[before.run != options.run]
    pd.concat([kept, table] if len(kept) else [table]).to_csv(FILE, index=False)
    print(table.to_string(index=False))


def save_what_is_evaluated(folder: Path, options: argparse.Namespace) -> None:
    """In a file that both versions can read."""
    from acslib.paper import build, config, runs

    run = config.resolve(options.run, options.profile)
    setting, (model, dataset) = run.setting, runs.load_trained(run, 0, "cpu")
    content = {
        "architecture": setting.model,
        "build": {
            "classes": len(dataset.class_names),
            "channels": dataset.train.images.shape[1],
            "stem": setting.stem,
            "width": setting.width,
            "depths": setting.depths,
            "statistics": [value.flatten().tolist() for value in (model.mean, model.std)],
        },
        "weights": model.state_dict(),
        "images": dataset.test.float_images(slice(0, options.images)),
        "labels": dataset.test.labels[: options.images],
        "attack": (setting.norm, setting.evaluation_epsilon, setting.evaluation_step, 50),
        "precision": build.precision(setting, "cpu"),
    }
    torch.save(content, folder / "evaluated.pt")


def evaluated(folder: Path, scratch: str, seed: int, version: str) -> dict[str, Any]:
    """What `child` gives with the version in that folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    command = [
        sys.executable,
        "-P",
        "-c",
        CHILD.format(root=str(ROOT)),
        scratch,
        str(seed),
        version,
    ]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# the benchmarks of today in any case, behind the library of its version
CHILD = "import sys; sys.path.append({root!r}); from benchmarks import leniency; leniency.child()"


def child() -> None:
    """Print, as JSON, which images are robust, and the processor's seconds."""
    import time

    from acslib import models
    from acslib.attacks import PGD
    from acslib.evaluation import robust_accuracy

    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    given = torch.load(folder / "evaluated.pt")
    model = models.build(given["architecture"], **given["build"])
    model.load_state_dict(given["weights"])
    model = model.to(memory_format=torch.channels_last).eval()
    generator = torch.Generator().manual_seed(seed)
    attack = PGD(*given["attack"], restarts=10, generator=generator)
    twin = models.folded(model, getattr(torch, given["precision"]))
    started = time.process_time()
    attacked = model if sys.argv[3] == NO_TWIN else twin
    _, mask = robust_accuracy(model, given["images"], given["labels"], attack, attacked=attacked)
    print(json.dumps({"robust": mask.tolist(), "seconds": time.process_time() - started}))


def pairs(run: str, found: dict[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """Each evaluation beside each other one: how many images only one of them calls robust."""
    rows = []
    for (first, one), (second, other) in itertools.combinations(found.items(), 2):
        ours, theirs = (torch.tensor(each["robust"]) for each in (one, other))
        rows.append(
            {
                "run": run,
                "images": len(ours),
                "first": first[0],
                "first_seed": first[1],
                "second": second[0],
                "second_seed": second[1],
                "first_robust": int(ours.sum()),
                "second_robust": int(theirs.sum()),
                "only_first": int((ours & ~theirs).sum()),
                "only_second": int((theirs & ~ours).sum()),
                "first_seconds": round(one["seconds"], 1),
                "second_seconds": round(other["seconds"], 1),
            }
        )
    return rows


if __name__ == "__main__":
    main()
