"""Records of runs on disk: atomic, resumable, with where they came from.

A run keeps its files in `results/<profile>/runs/<run>/seed<k>/`: `checkpoint.safetensors` while it trains, what it
selected in each epoch that did so, `weights.safetensors` when it is trained, and `record.json`, written last: only a
run with a record is done.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from acslib.params import EVALUATION_ONLY, Run
from acslib.selectors import Coreset
from acslib.training import State

FORMAT = 1
# parameters added since; at these values runs are what they were before
SINCE_FORMAT_1 = {"only_correct": False, "lr_warmup": 0, "gradient_clip": None, "classes": None, "sample": False}
RESULTS = Path(os.environ.get("ACS_RESULTS") or Path(__file__).parent.parent / "results")


class RecordError(ValueError):
    """A file of results is missing, damaged, made with other parameters, or could not be written."""


def run_folder(run: Run, seed: int, results: Path | None = None) -> Path:
    return (results or RESULTS) / run.profile / "runs" / run.name / f"seed{seed}"


def fingerprint(run: Run) -> str:
    """A short digest of every parameter that determines the run, but not of its name or profile."""
    return _digest(run, lambda key: True)


def training_fingerprint(run: Run) -> str:
    """The same without what only the evaluation looks at, so that a mistake there costs no training."""
    return _digest(run, lambda key: key not in EVALUATION_ONLY)


def _digest(run: Run, counts: Callable[[str], bool]) -> str:
    setting = {key: value for key, value in run.setting.model_dump(mode="json").items()
               if counts(key) and (key not in SINCE_FORMAT_1 or value != SINCE_FORMAT_1[key])}  # fmt: skip
    text = json.dumps([run.method, setting], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_atomically(path: Path, content: bytes) -> None:
    """All of the file or none of it: what stood at `path` stays until the new content is safely on disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = "the disk is full: free some space" if error.errno == errno.ENOSPC else f"{error.strerror}: mend that"
        raise RecordError(f"could not write {path}, {reason} and run again, it goes on from the last epoch") from error


def check_writable(folder: Path) -> None:
    """RecordError now, before any training, if nothing can be written to `folder`."""
    probe = folder / "writable"
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    write_atomically(path, json.dumps(content, indent=1).encode())


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
        raise RecordError(f"{path} has format {found}, this version reads {FORMAT}: move the results folder away"
                          " or set ACS_RESULTS to another one")  # fmt: skip
    needed = {"run": str, "seed": int, "fingerprint": str, "params": dict, "data": str, "metrics": dict,
              "seconds": dict, "history": list}  # fmt: skip
    if missing := sorted(name for name, kind in needed.items() if not isinstance(record.get(name), kind)):
        raise RecordError(f"{path} is damaged (no {', '.join(missing)}): delete it and run again")
    return record


def finished_record(run: Run, seed: int, results: Path | None = None) -> dict | None:
    """The record of a finished run, None if there is none. Raises RecordError if other parameters made it."""
    path = run_folder(run, seed, results) / "record.json"
    if not path.exists():
        return None
    record = read_record(path)
    if record["fingerprint"] != fingerprint(run):
        changed = differences(record["params"], run.setting.model_dump(mode="json"))
        raise RecordError(f"{path} was made with other parameters ({changed}): move {path.parent} away, or set"
                          " ACS_RESULTS to another folder")  # fmt: skip
    return record


def differences(old: dict, new: dict) -> str:
    changed = [f"{key} {old.get(key)!r}, now {new.get(key)!r}" for key in new if old.get(key) != new.get(key)]
    return "; ".join(changed[:5]) or "another method"


def save_checkpoint(path: Path, state: State, mark: str) -> None:
    """Model, optimiser, coreset, epoch and history in one file, so that they always belong together."""
    tensors = {f"model.{key}": value for key, value in state.model.state_dict().items()}
    for index, entry in state.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value for key, value in entry.items() if torch.is_tensor(value)}
    if state.coreset is not None:
        tensors |= {"coreset.indices": state.coreset.indices, "coreset.weights": state.coreset.weights}
    note = {"format": FORMAT, "fingerprint": mark, "epoch": state.epoch, "history": state.history}
    tensors = {key: value.detach().contiguous().cpu() for key, value in tensors.items()}
    write_atomically(path, save(tensors, {"state": json.dumps(note)}))


def load_checkpoint(path: Path, state: State, mark: str) -> bool:
    """Continue from `path` if it is there; raises RecordError if it is damaged or of another run."""
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            note = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} is damaged ({error}): delete it and the run starts afresh") from None
    if note.get("format") != FORMAT or note["fingerprint"] != mark:
        raise RecordError(f"{path} belongs to a run with other parameters, other data or another version: move"
                          f" {path.parent} away, or set ACS_RESULTS to another folder")  # fmt: skip
    try:
        _restore(state, tensors, note)
    except (KeyError, ValueError, RuntimeError) as error:
        raise RecordError(f"{path} is damaged ({error}): delete it and the run starts afresh") from None
    return True


def _restore(state: State, tensors: dict, note: dict) -> None:
    state.model.load_state_dict(_part(tensors, "model."))
    entries: dict[int, dict] = {}
    for key, value in _part(tensors, "optimiser.").items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    groups = state.optimiser.state_dict()["param_groups"]
    state.optimiser.load_state_dict({"state": entries, "param_groups": groups})
    for parameter, entry in state.optimiser.state.items():  # the file is contiguous, channels_last is not
        state.optimiser.state[parameter] = {
            key: torch.empty_like(parameter).copy_(value) if torch.is_tensor(value) and value.shape == parameter.shape
            else value for key, value in entry.items()}  # fmt: skip
    if "coreset.indices" in tensors:
        state.coreset = Coreset(tensors["coreset.indices"], tensors["coreset.weights"])
    state.epoch, state.history = note["epoch"], note["history"]


def _part(tensors: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def save_coreset(folder: Path, state: State) -> None:
    """The coreset that was selected in the epoch just trained."""
    coreset = state.coreset
    write_atomically(folder / f"coreset-{state.epoch - 1:03d}.safetensors",
                     save({"indices": coreset.indices, "weights": coreset.weights}))  # fmt: skip


def load_coresets(run: Run, seed: int, results: Path | None = None) -> dict[int, Coreset]:
    """What a run selected, by epoch; empty for full training. Raises RecordError for a damaged or missing file."""
    folder, found = run_folder(run, seed, results), {}
    for epoch in [epoch.index for epoch in run.plan if epoch.select]:
        path = folder / f"coreset-{epoch:03d}.safetensors"
        try:
            found[epoch] = Coreset(**load_file(path))
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise RecordError(f"{path} is damaged or not there ({error}): move {folder} away and train {run.name} again"
                              ) from None  # fmt: skip
    return found


def save_weights(path: Path, model: torch.nn.Module) -> None:
    write_atomically(path, save({key: value.contiguous().cpu() for key, value in model.state_dict().items()}))


@functools.cache
def provenance(device: str) -> dict:
    """Versions, hardware and commit that made a record."""
    packages = ("torch", "numpy", "numba", "pyautoattack")
    kind = torch.device(device).type
    return {
        "versions": {name: metadata.version(name) for name in packages} | {"python": platform.python_version()},
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """The git commit of this checkout, with + when it has local changes; None outside one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True)
    except OSError:
        return None
    return head.stdout.strip() + "+" * bool(changed.stdout.strip()) if head.returncode == 0 else None
