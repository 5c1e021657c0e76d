"""Records of runs on disk: atomic, resumable, with where they came from.

A run keeps its files in `results/<profile>/runs/<run>/seed<k>/`: `checkpoint.safetensors` while it
trains, what it selected in each epoch that did so, `weights.safetensors` when it is trained, and
`record.json`, written last: only a run with a record is done.
"""

import contextlib
import fcntl
import functools
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from acslib.paper import files, fingerprints, plugins, threads
from acslib.paper.config import Run
from acslib.paper.files import RecordError, write_json
from acslib.paper.methods import METHODS
from acslib.paper.params import shown
from acslib.paper.record_fields import Record
from acslib.paper.settings import REGISTRIES, is_neutral, owner, unused
from acslib.paper.threads import Workers
from acslib.writing import reason

FORMAT = 1
CHECKPOINT = "checkpoint.safetensors"


def run_folder(run: Run, seed: int, results: Path | None = None) -> Path:
    """Where a run keeps its files."""
    return (results or files.RESULTS) / run.profile / "runs" / run.name / f"seed{seed}"


def weights_file(run: Run, seed: int, results: Path | None = None) -> Path:
    """The weights of a finished run. Raises RecordError, with the way out, where there are none."""
    path = run_folder(run, seed, results) / "weights.safetensors"
    if not path.exists():
        finished = (path.parent / "record.json").exists()
        lost = f"delete {path.parent}, which has lost it, and " if finished else ""
        raise RecordError(f"there is no {path}: {lost}train {run.name}")
    return path


def clear_killed_runs(run: Run, results: Path | None = None) -> None:
    """Remove what a profile's killed runs left: temporary files, checkpoints beside records."""
    profile = run_folder(run, 0, results).parents[2]
    for folder in (*profile.glob("runs/*/seed*"), *profile.glob("warm/*/seed*")):
        files.clear_leftovers(folder)
        if (folder / "record.json").exists():
            (folder / CHECKPOINT).unlink(missing_ok=True)


def clear_outdated(run: Run, seed: int, results: Path | None = None) -> None:
    """Remove what a run keeps from an earlier content of a plugin's file: it is trained anew."""
    folder = run_folder(run, seed, results)
    path = folder / "record.json"
    if path.exists():
        old = fingerprints.is_outdated(
            read_record(path)["fingerprint"], fingerprints.fingerprint(run)
        )
    else:
        found = checkpoint_note(folder / CHECKPOINT).get("of", {}).get("fingerprint", "")
        old = fingerprints.is_outdated(found, fingerprints.training_fingerprint(run))
    if old:
        for file in (path, *folder.glob("*.safetensors")):
            file.unlink(missing_ok=True)


def checkpoint_note(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, read without its tensors; empty if that cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
        return json.loads(metadata.get("note") or metadata.get("state") or "{}")
    except (SafetensorError, OSError, ValueError):
        return {}


@contextlib.contextmanager
def marked_as_training(folder: Path) -> Iterator[None]:
    """Let `is_training` see, from other processes, that a run is trained in its folder. Several may
    train it: they make the same files.
    """
    with files.locked(folder, fcntl.LOCK_SH):
        yield


def is_training(folder: Path) -> bool:
    """Whether a living process is in `marked_as_training` of a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    finally:
        os.close(handle)
    return False


# ---- writing and reading one


def write_record(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write a record with a checksum; gives it as it is read again."""
    record = json.loads(json.dumps(record))
    record["sha256"] = checksum(record)
    Record.model_validate(record)
    write_json(path, record)
    return record


def checksum(record: dict[str, Any]) -> str:
    """SHA-256 of all of a record but the checksum itself."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return fingerprints.sha256(json.dumps(rest, sort_keys=True))


def read_record(path: Path) -> dict[str, Any]:
    """A run's record, checked for damage and format, and that it is its folder's."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"there is no {path}: train that run first") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} is damaged ({reason(error)}): delete it and run again") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise RecordError(
            f"{path} has format {shown(found)}, this version reads {FORMAT}: move the results"
            " folder away or set ACS_RESULTS to another one"
        )
    if "sha256" in record and record["sha256"] != checksum(record):
        raise RecordError(
            f"{path} is damaged (its SHA-256 is not that of what it holds): delete it and run again"
        )
    try:
        Record.model_validate(record)
    except ValidationError as error:
        said = [_damage(mistake) for mistake in error.errors()[:3]]
        raise RecordError(
            f"{path} is damaged ({'; '.join(said)}): delete it and run again"
        ) from None
    _check_names(path, record)
    _check_folder(path, record)
    return record


def _check_folder(path: Path, record: dict[str, Any]) -> None:
    """RecordError for a record that lies in the folder of another run or seed."""
    folder = path.absolute().parent
    if folder.parents[1].name != "runs":  # a copy, somewhere else
        return
    if (folder.parent.name, folder.name) != (record["run"], f"seed{record['seed']}"):
        raise RecordError(
            f"{path} is of {record['run']}, seed {record['seed']}: move {path.parent} away, or set"
            " ACS_RESULTS to another folder"
        )


def _check_names(path: Path, record: dict[str, Any]) -> None:
    """RecordError for a method, model, data set or objective that nobody knows here."""
    names = {"method": record.get("method")} | record["params"]
    own = list(record["provenance"].get("plugins", {}))
    way_out = f"set ACS_PLUGINS to its file{', ' * bool(own)}{', '.join(own)}"
    if own == [plugins.CELL]:
        way_out = (
            f"{plugins.CELL} registered it, for its kernel alone; write it to a file of"
            " ACS_PLUGINS, and train again"
        )
    known: dict[str, plugins.Registry] = {"method": METHODS, **REGISTRIES}
    for part, registry in known.items():
        name = names.get(part)
        if name is not None and name not in registry:
            raise RecordError(
                f"{path} was made with the {registry.what} {shown(name)}, which is registered"
                f" nowhere here: {way_out}"
            )


def _damage(mistake: Any) -> str:
    place = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "missing":
        return f"no {place}"
    if mistake["type"] == "extra_forbidden":
        return f"{place} is {shown(mistake['input'])}: this version knows no such field"
    return f"{place} is {shown(mistake['input'])}: {mistake['msg'].removeprefix('Input ')}"


def finished_record(run: Run, seed: int, results: Path | None = None) -> dict[str, Any] | None:
    """The record of a finished run. None if there is none, if a file of one's own that registered a
    part of it has changed since, or if it was evaluated with other parameters. Raises RecordError
    if it is damaged, of another run, or trained with other parameters.
    """
    record = own_record(run, seed, results)
    if record is None:
        return None
    path = run_folder(run, seed, results) / "record.json"
    way_out = f"move {path.parent} away, or set ACS_RESULTS to another folder"
    state = state_of(record, run)
    if state == "outdated":
        return None
    if state == "other":
        changed = changes_in_words(
            record["params"] | unused(run.setting), fingerprints.identity(run)
        )
        raise RecordError(f"{path} was made with other parameters ({changed}): {way_out}")
    threads.check_workers(path, threads.workers_of(record), way_out)
    return None if state == "evaluated" else record


def own_record(run: Run, seed: int, results: Path | None = None) -> dict[str, Any] | None:
    """The record in a run's folder, None without one. Raises RecordError if it is damaged or of
    another run.
    """
    path = run_folder(run, seed, results) / "record.json"
    return read_record(path) if path.exists() else None


def evaluated_otherwise(run: Run, seed: int, results: Path | None = None) -> dict[str, Any] | None:
    """The record of a run that was trained as it is asked for, evaluated with other parameters, and
    still has its weights; else None. It needs an evaluation, and no training.
    """
    record = own_record(run, seed, results)
    if record is None or state_of(record, run) != "evaluated":
        return None
    weights = run_folder(run, seed, results) / "weights.safetensors"
    return record if threads.workers_of(record) == threads.asked() and weights.exists() else None


def state_of(
    record: dict[str, Any], run: Run
) -> Literal["valid", "outdated", "evaluated", "other"]:
    """Whether a record is of a run as it is now; outdated where a plugin's file has changed since,
    evaluated where parameters of the evaluation alone have, other where any has.
    """
    workers = threads.workers_of(record) if "threads" in record else Workers()
    now = fingerprints.fingerprint(run, workers)
    if record["fingerprint"] in (now, fingerprints.fingerprint_before(run, workers)):
        return "valid"
    if fingerprints.is_outdated(record["fingerprint"], now):
        return "outdated"
    # what the objective does not look at is no change; the evaluation may have looked at it before
    never = {key: value for key, value in unused(run.setting).items() if owner(key) != "evaluation"}
    changed = changed_parameters(record["params"] | never, fingerprints.identity(run))
    of_evaluation = changed and all(owner(key) == "evaluation" for key in changed)
    return "evaluated" if of_evaluation and record.get("method") == run.method else "other"


def changes_in_words(old: dict[str, Any], new: dict[str, Any]) -> str:
    """In words, what a record's parameters were and are now; at most five of them."""
    changed = [
        f"{key} {shown(old.get(key))}, now {shown(new[key])}"
        for key in changed_parameters(old, new)
    ]
    return "; ".join(changed[:5]) or "another method"


def changed_parameters(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The names of those that differ; one that came later may have its neutral value."""
    return [
        key
        for key in new
        if old.get(key) != new[key] and not (key not in old and is_neutral(key, new[key]))
    ]


@functools.cache
def provenance(device: str) -> dict[str, Any]:
    """Versions, hardware and commit that made a record."""
    packages = ("torch", "numpy", "numba", "pyautoattack")
    return {
        "versions": {name: metadata.version(name) for name in packages}
        | {"python": platform.python_version()},
        "device": _graphics_card(device) if device.startswith("cuda") else _processor(),
        "commit": _commit(),
    }


def _graphics_card(device: str) -> str:
    import torch  # here, so that records are read and pages written without

    return torch.cuda.get_device_name(device)


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
