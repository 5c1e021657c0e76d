"""What all parts share: a small profile, runs, folders of results, and how runs end undisturbed."""

import functools
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from acslib.paper import (
    checkpoints,
    cli,
    config,
    endings,
    files,
    fingerprints,
    records,
    runs,
    style,
)
from tools.torture.children import Child, Ended, broken
from tools.torture.outcomes import Ending

ROOT = Path(__file__).parents[2]
SETTING, PROFILE, ITEM = "resnet18-linf-cifar10", "torture", "tortured"
METHODS = ("full", "gradmatch", "craig", "adaptive_random")
RUNS = {method: f"{SETTING}.{method}" for method in METHODS}
YAML = {
    f"profiles/{PROFILE}.yaml": """
about: a second of training, to be interrupted
extends: smoke
common:
  {epochs: 6, period: 2, train_limit: 160, test_limit: 40, monitor: 0, steps: 1,
   evaluation_steps: 3, evaluation_restarts: 1}
""",
    f"{ITEM}.yaml": f"""
title: "Tortured: what its runs are"
runs:
  - settings: [{SETTING}]
    methods: [{", ".join(METHODS)}]
""",
}
TIMES = ("seconds", "calibration")  # what a clock says of a run
Work = Callable[[], int]
Kind = TypeVar("Kind")


class Bench:
    """The scratch folder and the draws of the parts, one after the other.

    share: how much of each part is done; 1 is all of it.
    """

    def __init__(self, scratch: Path, seed: int, share: float) -> None:
        self.scratch, self.seed, self.share = scratch, seed, share
        self.chance, self.numbers = random.Random(seed), count()
        self.params = self.scratch / "params"
        for name, text in YAML.items():
            (self.params / name).parent.mkdir(parents=True, exist_ok=True)
            (self.params / name).write_text(text)
        self.cache = self.scratch / "cache"
        self.cache.mkdir()
        os.environ |= {"ACS_PARAMS": str(self.params), "ACS_CACHE": str(self.cache)}
        # what a first run imports and compiles, every child has then
        runs.execute(config.resolve(RUNS["gradmatch"], PROFILE), 0, "cpu", self.folder())

    def begin(self, part: str) -> None:
        """The draws of a part are the same, whether others came before it or not."""
        self.chance = random.Random(f"{part} {self.seed}")

    # ---- how much

    def times(self, number: int) -> int:
        """So many of a thing, or the part's share of them."""
        return max(1, round(number * self.share))

    def some(self, cases: Sequence[Kind]) -> list[Kind]:
        """All cases, or the part's share of them, drawn at random."""
        if self.share >= 1:
            return list(cases)
        return self.chance.sample(list(cases), self.times(len(cases)))

    # ---- folders and processes

    def folder(self, begin: Path | None = None) -> Path:
        """A new folder of results: empty, or a copy."""
        path = self.scratch / f"results-{next(self.numbers)}"
        if begin is None:
            path.mkdir()
        else:
            shutil.copytree(begin, path)
        return path

    def start(self, work: Work, results: Path) -> Child:
        """A process that does something in a folder of results."""
        return Child(lambda: at_home(work, results), self.scratch)

    def ended(self, work: Work, results: Path) -> Ended:
        return self.start(work, results).wait()

    # ---- undisturbed

    @functools.cached_property
    def whole(self) -> Path:
        """The results of all runs when nobody disturbs them."""
        return self.undisturbed(RUNS.values())

    def undisturbed(self, names: Sequence[str], seed: int = 0) -> Path:
        results = self.folder()
        for name in names:
            done = self.ended(train(name, seed), results)
            assert done.code == 0, done.err
        return results

    def seconds(self, names: Sequence[str], begin: Path | None) -> float:
        """How long runs side by side take when nobody disturbs them."""
        results, begun = self.folder(begin), time.monotonic()
        for child in [self.start(train(name), results) for name in names]:
            done = child.wait()
            assert done.code == 0, done.err
        return time.monotonic() - begun

    def finish(self, results: Path, names: Sequence[str]) -> tuple[Ending, str]:
        """What becomes of runs that were disturbed, when each command is given once more."""
        for name in names:
            done = self.ended(train(name), results)
            if bad := broken(done):
                return bad
            if done.code:
                return "failure", f"{name} does not go on: {done.err[-300:]}"
        return self.as_undisturbed(results, names)

    def as_undisturbed(self, results: Path, names: Sequence[str]) -> tuple[Ending, str]:
        """Whether finished runs are as undisturbed ones, bit for bit, and nothing else is left."""
        for name in names:
            if differs := difference(self.whole, results, name):
                return "failure", differs
        if left := sorted(path.name for path in results.rglob(".acs-*")):
            return "failure", f"{left[0]} is left, and {len(left) - 1} more"
        return "well", ""


def at_home(work: Work, results: Path) -> int:
    """Work in a process of its own, whose results are in that folder."""
    os.environ["ACS_RESULTS"] = str(results)
    files.RESULTS, style.FOLDER = results, results.parent / f"figures-of-{results.name}"
    os.chdir(ROOT)
    return work()


def acs(*arguments: str) -> Work:
    """A command, as a person gives it."""
    return lambda: cli.main(list(arguments))


def train(name: str, seed: int = 0, *options: str) -> Work:
    return acs("run", name, "--profile", PROFILE, "--seed", str(seed), *options)


def command(*arguments: str) -> list[str]:
    """The same in a Python of its own."""
    return [sys.executable, "-m", "acslib.paper", *arguments]


def told(call: Callable[[], Any]) -> Work:
    """Prints what a function gives, or as the command line does in which sentence it refuses."""

    def work() -> int:
        print(call())
        return 0

    return lambda: endings.exit_code(work)


# ---- what a run leaves


def run_folder(results: Path, name: str, seed: int = 0) -> Path:
    return records.run_folder(config.resolve(name, PROFILE), seed, results)


def difference(one: Path, other: Path, name: str, seed: int = 0) -> str:
    """What differs between the files of a finished run in two folders of results; empty if nothing
    does.
    """
    first, second = (run_folder(results, name, seed) for results in (one, other))
    there = [sorted(path.name for path in folder.iterdir()) for folder in (first, second)]
    if there[0] != there[1]:
        return f"{name} has {', '.join(there[1])}, not {', '.join(there[0])}"
    for file in there[0]:
        if digest(first / file) != digest(second / file):
            return f"{name}: {file} differs"
    return ""


def digest(path: Path) -> str:
    """Of all that is in a file; in a record, but for times, and who trained or evaluated again."""
    if path.suffix == ".safetensors":  # whose header has no fixed order
        tensors, note = checkpoints.read_tensors(path)
        return checkpoints.tensors_sha256(tensors, json.dumps(note, sort_keys=True))
    record = records.read_record(path)
    kept = {key: value for key, value in record.items() if key not in ("sha256", "warm_start")}
    kept["provenance"].pop("evaluation", None)  # where it was evaluated anew
    return fingerprints.sha256(json.dumps(timeless(kept), sort_keys=True))


def timeless(content: Any) -> Any:
    """The same without what a clock says."""
    if isinstance(content, dict):
        return {key: timeless(value) for key, value in content.items() if not key.startswith(TIMES)}
    return [timeless(value) for value in content] if isinstance(content, list) else content
