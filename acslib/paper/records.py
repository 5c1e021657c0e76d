"""Records of runs on disk: atomic, resumable, with where they came from.

A run keeps its files in `results/<profile>/runs/<run>/seed<k>/`: `checkpoint.safetensors` while it
trains, what it selected in each epoch that did so, `weights.safetensors` when it is trained, and
`record.json`, written last: only a run with a record is done.
"""

import functools
import hashlib
import json
import platform
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch

from acslib.paper.config import Run
from acslib.paper.files import RESULTS, RecordError
from acslib.paper.settings import is_neutral, owner

FORMAT = 1


def run_folder(run: Run, seed: int, results: Path | None = None) -> Path:
    return (results or RESULTS) / run.profile / "runs" / run.name / f"seed{seed}"


def fingerprint(run: Run) -> str:
    """A short digest of every parameter that determines the run, but not of its name or profile."""
    return _digest(run, lambda key: True)


def training_fingerprint(run: Run) -> str:
    """The same without what only the evaluation looks at, so that a mistake there costs no
    training.
    """
    return _digest(run, lambda key: owner(key) != "evaluation")


def _digest(run: Run, counts: Callable[[str], bool]) -> str:
    setting = {
        key: value
        for key, value in run.setting.model_dump(mode="json").items()
        if counts(key) and not is_neutral(key, value)
    }
    text = json.dumps([run.method, setting], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_record(path: Path) -> dict:
    """A run's record, checked for damage and format."""
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        raise RecordError(f"there is no {path}: train that run first") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is damaged ({error}): delete it and run again") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise RecordError(
            f"{path} has format {found}, this version reads {FORMAT}: move the results folder away"
            " or set ACS_RESULTS to another one"
        )
    needed = {
        "run": str,
        "seed": int,
        "fingerprint": str,
        "params": dict,
        "data": str,
        "metrics": dict,
        "seconds": dict,
        "history": list,
    }
    if missing := sorted(
        name for name, kind in needed.items() if not isinstance(record.get(name), kind)
    ):
        raise RecordError(f"{path} is damaged (no {', '.join(missing)}): delete it and run again")
    return record


def finished_record(run: Run, seed: int, results: Path | None = None) -> dict | None:
    """The record of a finished run, None if there is none. Raises RecordError if other parameters
    made it.
    """
    path = run_folder(run, seed, results) / "record.json"
    if not path.exists():
        return None
    record = read_record(path)
    if record["fingerprint"] != fingerprint(run):
        changed = differences(record["params"], run.setting.model_dump(mode="json"))
        raise RecordError(
            f"{path} was made with other parameters ({changed}): move {path.parent} away, or set"
            " ACS_RESULTS to another folder"
        )
    return record


def differences(old: dict, new: dict) -> str:
    changed = [
        f"{key} {old.get(key)!r}, now {new.get(key)!r}"
        for key in new
        if old.get(key) != new.get(key)
    ]
    return "; ".join(changed[:5]) or "another method"


@functools.cache
def provenance(device: str) -> dict:
    """Versions, hardware and commit that made a record."""
    packages = ("torch", "numpy", "numba", "pyautoattack")
    kind = torch.device(device).type
    return {
        "versions": {name: metadata.version(name) for name in packages}
        | {"python": platform.python_version()},
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _commit() -> str | None:
    """The git commit of this checkout, with + when it has local changes; None outside one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "."], capture_output=True, text=True
        )
    except OSError:
        return None
    return (
        head.stdout.strip() + "+" * bool(changed.stdout.strip()) if head.returncode == 0 else None
    )
