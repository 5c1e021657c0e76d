"""Records of runs on disk: atomic, resumable, with where they came from.

A run keeps its files in `results/<profile>/runs/<run>/seed<k>/`: `checkpoint.safetensors` while it
trains, what it selected in each epoch that did so, `weights.safetensors` when it is trained, and
`record.json`, written last: only a run with a record is done.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Collection, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from acslib.paper import files, plugins
from acslib.paper.config import Run
from acslib.paper.files import RecordError, write_json
from acslib.paper.methods import METHODS
from acslib.paper.params import ParamsError, shown
from acslib.paper.record_fields import Record
from acslib.paper.settings import REGISTRIES, is_neutral, owner, unused
from acslib.writing import reason

FORMAT = 1
CHECKPOINT = "checkpoint.safetensors"


def run_folder(run: Run, seed: int, results: Path | None = None) -> Path:
    return (results or files.RESULTS) / run.profile / "runs" / run.name / f"seed{seed}"


def weights_file(run: Run, seed: int, results: Path | None = None) -> Path:
    """The weights of a finished run. Raises RecordError, with the way out, where there are none."""
    path = run_folder(run, seed, results) / "weights.safetensors"
    if not path.exists():
        finished = (path.parent / "record.json").exists()
        lost = f"delete {path.parent}, which has lost it, and " if finished else ""
        raise RecordError(f"there is no {path}: {lost}train {run.name}")
    return path


def clear_leftovers(run: Run, results: Path | None = None) -> None:
    """Remove what a profile's killed runs left: temporary files, checkpoints beside records."""
    profile = run_folder(run, 0, results).parents[2]
    for folder in (*profile.glob("runs/*/seed*"), *profile.glob("warm/*/seed*")):
        files.clear_leftovers(folder)
        if (folder / "record.json").exists():
            (folder / CHECKPOINT).unlink(missing_ok=True)


# ---- what determines a record


class Workers(NamedTuple):
    """On how many threads and processes a run computes: its numbers depend on both."""

    threads: int = 1
    processes: int = 1


def asked() -> Workers:
    """As many threads as ACS_THREADS or else OMP_NUM_THREADS says, as many processes as torchrun
    has started or else ACS_PROCESSES says; one where nobody says anything.
    """
    return Workers(
        _number("ACS_THREADS") or _number("OMP_NUM_THREADS") or 1,
        _number("WORLD_SIZE") or _number("ACS_PROCESSES") or 1,
    )


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    first = text.split(",")[0].strip()  # OpenMP allows one number for each level of nesting
    if not re.fullmatch("[1-9][0-9]{0,4}", first, re.ASCII):
        raise ParamsError(f"{variable} is {shown(text)}: give a whole number from 1 to 99999")
    return int(first)


def workers_of(record: dict[str, Any]) -> Workers:
    """A record's; version 0.1.0 has the threads under `provenance`, and never several processes."""
    before = record["provenance"].get("threads", 1)
    return Workers(record.get("threads", before), record.get("processes", 1))


def fingerprint(run: Run, workers: Workers | None = None) -> str:
    """A short digest of all that determines the record: every parameter, but not the run's name or
    profile; threads and processes where there are several (those that are asked for by default).
    """
    return _fingerprint(run, identity(run), asked() if workers is None else workers)


def fingerprint_before(run: Run, workers: Workers) -> str:
    """What version 0.1.0 called by this name: a parameter that the objective does not look at
    counts with its own value.
    """
    return _fingerprint(run, run.setting.model_dump(mode="json"), workers)


def _fingerprint(run: Run, values: dict[str, Any], workers: Workers) -> str:
    several = [] if workers == Workers() else [list(workers)]
    return digest([run.method, _counted(values, lambda key: True), *several]) + made_with(run)


def training_fingerprint(run: Run) -> str:
    """The same of what training looks at: a mistake in the evaluation costs no training."""
    counted = parameters(run, lambda key: owner(key) != "evaluation")
    return digest([run.method, counted]) + made_with(run)


def parameters(run: Run, counts: Callable[[str], bool]) -> dict[str, Any]:
    """Those that count, unless their value is what it was before there was the parameter."""
    return _counted(identity(run), counts)


def identity(run: Run) -> dict[str, Any]:
    """All parameters, those that the run's objective does not look at with one value for all."""
    return run.setting.model_dump(mode="json") | unused(run.setting)


def _counted(values: dict[str, Any], counts: Callable[[str], bool]) -> dict[str, Any]:
    return {
        key: value for key, value in values.items() if counts(key) and not is_neutral(key, value)
    }


def digest(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True))[:16]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ---- parts of one's own, and processes at work


def own_parts(run: Run) -> dict[str, plugins.Source]:
    """What registered the method, model, data set and objective of a run that are not built in."""
    setting = run.setting
    names = {"method": run.method} | {part: getattr(setting, part) for part in REGISTRIES}
    known: dict[str, plugins.Registry] = {"method": METHODS, **REGISTRIES}
    return {
        part: known[part].sources[name]
        for part, name in names.items()
        if name in known[part].sources
    }


def provenance_of_own(run: Run) -> dict[str, Any]:
    """For a record: the files that registered parts of the run, with digests of their contents."""
    found = {source.name: source.content for source in own_parts(run).values()}
    return {"plugins": found} if found else {}


def made_with(run: Run, parts: Collection[str] = ("method", *REGISTRIES)) -> str:
    """The end of a fingerprint: empty without parts of one's own, else a digest of their files."""
    own = own_parts(run)
    contents = tuple(own[part].content for part in parts if part in own)
    return f"-{plugins.combined(contents)}" if contents else ""


def is_outdated(found: str, now: str) -> bool:
    """Whether a fingerprint differs from that of now in the contents of plugin files alone."""
    return found != now and "-" in found and found.split("-")[0] == now.split("-")[0]


def clear_outdated(run: Run, seed: int, results: Path | None = None) -> None:
    """Remove what a run keeps from an earlier content of a plugin's file: it is trained anew."""
    folder = run_folder(run, seed, results)
    path = folder / "record.json"
    if path.exists():
        old = is_outdated(read_record(path)["fingerprint"], fingerprint(run))
    else:
        found = checkpoint_note(folder / CHECKPOINT).get("of", {}).get("fingerprint", "")
        old = is_outdated(found, training_fingerprint(run))
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
def training(folder: Path) -> Iterator[None]:
    """Let `is_training` see, from other processes, that a run is trained in its folder. Several may
    train it: they make the same files.
    """
    with files.locked(folder, fcntl.LOCK_SH):
        yield


def is_training(folder: Path) -> bool:
    """Whether a living process is in `training` of a folder."""
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
    return sha256(json.dumps(rest, sort_keys=True))


def read_record(path: Path) -> dict[str, Any]:
    """A run's record, checked for damage and format."""
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
    return record


def _check_names(path: Path, record: dict[str, Any]) -> None:
    """RecordError for a method, model, data set or objective that nobody knows here."""
    names = {"method": record.get("method")} | record["params"]
    own = ", ".join(record["provenance"].get("plugins", {}))
    known: dict[str, plugins.Registry] = {"method": METHODS, **REGISTRIES}
    for part, registry in known.items():
        name = names.get(part)
        if name is not None and name not in registry:
            raise RecordError(
                f"{path} was made with the {registry.what} {shown(name)}, which is registered"
                f" nowhere here: set ACS_PLUGINS to its file{f', {own}' if own else ''}"
            )


def _damage(mistake: Any) -> str:
    place = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "missing":
        return f"no {place}"
    return f"{place} is {shown(mistake['input'])}: {mistake['msg'].removeprefix('Input ')}"


def finished_record(run: Run, seed: int, results: Path | None = None) -> dict[str, Any] | None:
    """The record of a finished run. None if there is none, if a file of one's own that registered a
    part of it has changed since, or if it was evaluated with other parameters. Raises RecordError
    if it is damaged, of another run, or trained with other parameters.
    """
    record = read_own(run, seed, results)
    if record is None:
        return None
    path = run_folder(run, seed, results) / "record.json"
    way_out = f"move {path.parent} away, or set ACS_RESULTS to another folder"
    state = state_of(record, run)
    if state in ("outdated", "evaluated"):
        return None
    if state == "other":
        changed = differences(record["params"] | unused(run.setting), identity(run))
        raise RecordError(f"{path} was made with other parameters ({changed}): {way_out}")
    check_workers(path, workers_of(record), way_out)
    return record


def read_own(run: Run, seed: int, results: Path | None = None) -> dict[str, Any] | None:
    """The record in a run's folder, None without one. Raises RecordError if it is damaged or of
    another run.
    """
    path = run_folder(run, seed, results) / "record.json"
    if not path.exists():
        return None
    record = read_record(path)
    if (record["run"], record["seed"]) != (run.name, seed):
        raise RecordError(
            f"{path} is of {record['run']}, seed {record['seed']}: move {path.parent} away, or set"
            " ACS_RESULTS to another folder"
        )
    return record


def evaluated_otherwise(run: Run, seed: int, results: Path | None = None) -> dict[str, Any] | None:
    """The record of a run that was trained as it is asked for, evaluated with other parameters, and
    still has its weights; else None. It needs an evaluation, and no training.
    """
    record = read_own(run, seed, results)
    if record is None or state_of(record, run) != "evaluated":
        return None
    weights = run_folder(run, seed, results) / "weights.safetensors"
    return record if workers_of(record) == asked() and weights.exists() else None


def state_of(
    record: dict[str, Any], run: Run
) -> Literal["valid", "outdated", "evaluated", "other"]:
    """Whether a record is of a run as it is now; outdated where a plugin's file has changed since,
    evaluated where parameters of the evaluation alone have, other where any has.
    """
    workers = workers_of(record) if "threads" in record else Workers()
    now = fingerprint(run, workers)
    if record["fingerprint"] in (now, fingerprint_before(run, workers)):
        return "valid"
    if is_outdated(record["fingerprint"], now):
        return "outdated"
    changed = changed_parameters(record["params"] | unused(run.setting), identity(run))
    of_evaluation = changed and all(owner(key) == "evaluation" for key in changed)
    return "evaluated" if of_evaluation and record.get("method") == run.method else "other"


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
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


def check_workers(path: Path, made: Workers, way_out: str) -> None:
    """RecordError if a file was made on other threads or processes than are asked for."""
    if made != asked():
        raise RecordError(
            f"{path} was made on {_in_words(made)}, but {_in_words(asked())} are asked for, and"
            f" numbers depend on it: set ACS_THREADS to {made.threads} and ACS_PROCESSES to"
            f" {made.processes}, or {way_out}"
        )


def _in_words(workers: Workers) -> str:
    threads = f"{workers.threads} thread{'s' * (workers.threads > 1)}"
    return f"{threads} and {workers.processes} process{'es' * (workers.processes > 1)}"


@functools.cache
def provenance(device: str) -> dict[str, Any]:
    """Versions, hardware and commit that made a record."""
    import torch  # here, so that records are read without

    packages = ("torch", "numpy", "numba", "pyautoattack")
    kind = torch.device(device).type
    return {
        "versions": {name: metadata.version(name) for name in packages}
        | {"python": platform.python_version()},
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else _processor(),
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
