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
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from acslib.paper import files
from acslib.paper.config import Run
from acslib.paper.files import RecordError, write_json
from acslib.paper.params import shown
from acslib.paper.settings import is_neutral, owner

FORMAT = 1
CHECKPOINT = "checkpoint.safetensors"


def run_folder(run: Run, seed: int, results: Path | None = None) -> Path:
    return (results or files.RESULTS) / run.profile / "runs" / run.name / f"seed{seed}"


def clear_leftovers(run: Run, results: Path | None = None) -> None:
    """Remove what killed runs of a profile have left: temporary files, and checkpoints beside
    finished records.
    """
    for folder in run_folder(run, 0, results).parent.parent.glob("*/seed*"):
        files.clear_leftovers(folder)
        if (folder / "record.json").exists():
            (folder / CHECKPOINT).unlink(missing_ok=True)


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


class Part(BaseModel):
    """Of a record; more than what is named here is kept as it is."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Metrics(Part):
    """Accuracies as fractions, and how many images they are of."""

    acc: Annotated[float, Field(ge=0, le=1, description="Clean accuracy on the test images.")]
    n: Annotated[int, Field(ge=1, description="Test images.")]


class Seconds(Part):
    """What the run took; `total` is training without what is logged and evaluated."""

    select: Annotated[float, Field(ge=0, description="Selecting coresets.")]
    attack: Annotated[float, Field(ge=0, description="Making adversarial images.")]
    update: Annotated[float, Field(ge=0, description="Updating weights.")]
    total: Annotated[float, Field(ge=0, description="Their sum.")]


class Row(Part):
    """An epoch of the history."""

    epoch: Annotated[int, Field(ge=0, description="From 0.")]
    phase: Literal["full", "skip", "coreset"]
    selection: Annotated[dict[str, Any] | None, Field(description="Size and errors of a coreset.")]
    seconds_select: float
    seconds_attack: float
    seconds_update: float


class Record(BaseModel):
    """record.json. Everything that tables and figures look at must be there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    run: Annotated[str, Field(description="The run's name.")]
    profile: str | None = None
    seed: Annotated[int, Field(ge=0)]
    fingerprint: Annotated[str, Field(description="Digest of all parameters.")]
    params: Annotated[dict[str, Any], Field(description="The parameters themselves.")]
    method: str | None = None
    setting: str | None = None
    data: Annotated[str, Field(description="Which images, in words.")]
    plan: Annotated[dict[str, Any] | None, Field(description="Cost of the schedule.")] = None
    metrics: Metrics
    seconds: Seconds
    history: Annotated[tuple[Row, ...], Field(min_length=1, description="One row an epoch.")]
    provenance: Annotated[dict[str, Any], Field(description="Versions, hardware, commit.")]
    sha256: Annotated[str | None, Field(description="Of the rest; none in version 0.1.0.")] = None


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
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """A run's record, checked for damage and format."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"there is no {path}: train that run first") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} is damaged ({error}): delete it and run again") from None
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
    return record


def _damage(mistake: Any) -> str:
    place = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "missing":
        return f"no {place}"
    return f"{place} is {shown(mistake['input'])}: {mistake['msg'].removeprefix('Input ')}"


def finished_record(run: Run, seed: int, results: Path | None = None) -> dict[str, Any] | None:
    """The record of a finished run, None if there is none. Raises RecordError if it is damaged, of
    another run, or made with other parameters.
    """
    path = run_folder(run, seed, results) / "record.json"
    if not path.exists():
        return None
    record = read_record(path)
    way_out = f"move {path.parent} away, or set ACS_RESULTS to another folder"
    if (record["run"], record["seed"]) != (run.name, seed):
        raise RecordError(f"{path} is of {record['run']}, seed {record['seed']}: {way_out}")
    if record["fingerprint"] != fingerprint(run):
        changed = differences(record["params"], run.setting.model_dump(mode="json"))
        raise RecordError(f"{path} was made with other parameters ({changed}): {way_out}")
    return record


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    changed = [
        f"{key} {shown(old.get(key))}, now {shown(new[key])}"
        for key in new
        if old.get(key) != new[key] and not (key not in old and is_neutral(key, new[key]))
    ]
    return "; ".join(changed[:5]) or "another method"


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
