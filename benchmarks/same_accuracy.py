"""Whether a run over several processes is as accurate as in one, where BatchNorm has the statistics
of each process's share of a batch.

    python -m benchmarks.same_accuracy --profile demo --seeds 20     # ten minutes on two idle cores

Each seed is trained in one process and over several, with the same parameters, in folders of their
own. It takes too long for `make bench`.

It writes results/published/bench/same_accuracy.csv: for each measure the mean difference, paired by
seed, with Student's 95 % interval, in points.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from acslib.paper import config, records
from acslib.paper.study import half_width
from benchmarks.before import ROOT
from benchmarks.processes import torchrun

FILE = ROOT / "results" / "published" / "bench" / "same_accuracy.csv"
MEASURES = {"acc": "clean accuracy", "racc": "robust accuracy"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="resnet18-linf-cifar10.gradmatch")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", type=int, default=20, help="how many: 0, 1, 2 and so on")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.seeds < 2 or options.processes < 2:
        parser.error("an interval needs two seeds or more, and a comparison two processes or more")
    if config.resolve(options.run, options.profile).setting.norm == "lpips":
        parser.error(
            "perceptual runs have no robust accuracy of their own: give one under linf or l2"
        )
    alone, together = (trained(options, count) for count in (1, options.processes))
    table = pd.DataFrame(compared(options, alone, together))
    print(table.to_string(index=False))
    before = pd.read_csv(FILE) if FILE.exists() else table.iloc[:0]
    keys = ["run", "profile", "processes"]
    kept = before[~before[keys].eq(table[keys].iloc[0]).all(axis=1)]
    pd.concat([kept, table] if len(kept) else [table]).to_csv(
        FILE, index=False, float_format="%.3f"
    )


def trained(options: argparse.Namespace, processes: int) -> pd.DataFrame:
    """A row a seed with each measure, in percent, of training over so many processes."""
    run = config.resolve(options.run, options.profile)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        environment |= {"ACS_RESULTS": folder, "ACS_PROCESSES": str(processes)}
        for seed in range(options.seeds):
            asked = ["train", options.run, "--seeds", str(seed), "--profile", options.profile]
            start = [sys.executable] if processes == 1 else torchrun(processes)
            command = [*start, "-m", "acslib.paper", *asked]
            subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True
            )
        found = [
            records.read_record(records.run_folder(run, seed, Path(folder)) / "record.json")
            for seed in range(options.seeds)
        ]
    assert {record["processes"] for record in found} == {processes}
    return pd.DataFrame(
        {name: [100 * record["metrics"][name] for record in found] for name in MEASURES}
    )


def compared(
    options: argparse.Namespace, alone: pd.DataFrame, together: pd.DataFrame
) -> list[dict[str, Any]]:
    """A row a measure: means, and the difference with its interval."""
    rows = []
    for name, measure in MEASURES.items():
        differences = together[name] - alone[name]
        half = half_width(differences)
        rows.append(
            {
                "run": options.run,
                "profile": options.profile,
                "processes": options.processes,
                "seeds": options.seeds,
                "measure": measure,
                "one_process": alone[name].mean(),
                "several": together[name].mean(),
                "difference": differences.mean(),
                "ci_low": differences.mean() - half,
                "ci_high": differences.mean() + half,
            }
        )
    return rows


if __name__ == "__main__":
    main()
