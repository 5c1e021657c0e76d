"""What a run keeps while it trains and afterwards: checkpoint, coresets, weights.

Each file says what it is of and has a SHA-256 of all that is in it: a flipped bit, a truncated file
or another seed's is refused. Files of version 0.1.0 say neither; they are read as they are.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from acslib.paper import fingerprints, records, threads
from acslib.paper.config import Run
from acslib.paper.files import RecordError, write_file
from acslib.selectors.coreset import Coreset
from acslib.training import State
from acslib.writing import reason

DAMAGE = (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Origin:
    """What a file is of: its training is determined by these three."""

    run: str
    seed: int
    fingerprint: str


def origin(run: Run, seed: int) -> Origin:
    """What the files of a run and seed are of."""
    return Origin(run.name, seed, fingerprints.training_fingerprint(run))


# ---- tensors with a note


def write_tensors(path: Path, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
    """All or nothing, with a note (JSON) and a checksum of both."""
    # clones: tied weights are one tensor in memory, which safetensors refuses
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(note)
    write_file(path, save(kept, {"note": text, "sha256": tensors_sha256(kept, text)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and note of a file. Raises ValueError or one of DAMAGE where it is damaged."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if set(metadata) == {"note", "sha256"}:
        if tensors_sha256(tensors, metadata["note"]) != metadata["sha256"]:
            raise ValueError("its SHA-256 is not that of what it holds")
        return tensors, json.loads(metadata["note"])
    if set(metadata) <= {"state"}:  # of version 0.1.0
        return tensors, json.loads(metadata.get("state", "{}"))
    raise ValueError(f"it has {', '.join(sorted(metadata))} beside its tensors")


def tensors_sha256(tensors: dict[str, Tensor], note: str) -> str:
    """SHA-256 of names, types, shapes and bytes, and of the note."""
    found = hashlib.sha256(note.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_origin(path: Path, note: dict[str, Any], expected: Origin) -> None:
    """RecordError if a file says that it is of another run or seed."""
    found = note.get("of", asdict(expected))
    if found != asdict(expected):
        raise RecordError(
            f"{path} is of {found.get('run')}, seed {found.get('seed')}, trained with parameters"
            f" {found.get('fingerprint')}, not of {expected.run}, seed {expected.seed},"
            f" {expected.fingerprint}: move {path.parent} away and train again"
        )


# ---- checkpoints


def save_checkpoint(
    path: Path, state: State, of: Origin, data: str, warm_start: dict[str, Any] | None = None
) -> None:
    """Model, optimiser, coreset, epoch and history in one file, so that they always belong
    together. `warm_start` is what the record will say of it.
    """
    tensors = {f"model.{key}": value for key, value in state.model.state_dict().items()}
    for index, entry in state.optimiser.state_dict()["state"].items():
        tensors |= {
            f"optimiser.{index}.{key}": value
            for key, value in entry.items()
            if torch.is_tensor(value)
        }
    if state.coreset is not None:
        tensors |= {
            "coreset.indices": state.coreset.indices,
            "coreset.weights": state.coreset.weights,
        }
    note = {
        "format": records.FORMAT,
        "of": asdict(of),
        "fingerprint": mark(of, data),
        "epoch": state.epoch,
        "history": state.history,
        "warm_start": warm_start,
        **threads.asked()._asdict(),
    }
    write_tensors(path, tensors, note)


def mark(of: Origin, data: str) -> str:
    """What a training that is gone on with must have in common."""
    return f"{of.fingerprint}-seed{of.seed}-{data}"


def load_checkpoint(path: Path, state: State, of: Origin, data: str) -> dict[str, Any] | None:
    """Continue from `path` and give its note, if it is there. RecordError if it is damaged, of
    another run, or made on other threads or processes than are asked for.
    """
    if not path.exists():
        return None
    try:
        tensors, note = read_tensors(path)
    except DAMAGE as error:
        raise _damaged(path, error, "delete it and the run starts afresh") from None
    if note.get("format") != records.FORMAT or note.get("fingerprint") != mark(of, data):
        raise RecordError(
            f"{path} belongs to a run with other parameters, other data or another version: move"
            f" {path.parent} away, or set ACS_RESULTS to another folder"
        )
    made = threads.Workers(note.get("threads", 1), note.get("processes", 1))
    threads.check_workers(path, made, f"move {path.parent} away and the run starts afresh")
    try:
        _restore(state, tensors, note)
    except DAMAGE as error:
        raise _damaged(path, error, "delete it and the run starts afresh") from None
    return note


def _damaged(path: Path, error: Exception, way_out: str) -> RecordError:
    return RecordError(f"{path} is damaged ({reason(error)}): {way_out}")


def _restore(state: State, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
    state.model.load_state_dict(_part(tensors, "model."))
    entries: dict[int, dict] = {}
    for key, value in _part(tensors, "optimiser.").items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    groups = state.optimiser.state_dict()["param_groups"]
    state.optimiser.load_state_dict({"state": entries, "param_groups": groups})
    # the file is contiguous, channels_last is not
    for parameter, entry in state.optimiser.state.items():
        state.optimiser.state[parameter] = {
            key: torch.empty_like(parameter).copy_(value)
            if torch.is_tensor(value) and value.shape == parameter.shape
            else value
            for key, value in entry.items()
        }
    if "coreset.indices" in tensors:
        state.coreset = Coreset(tensors["coreset.indices"], tensors["coreset.weights"])
    state.epoch, state.history = note["epoch"], note["history"]


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


# ---- what stays of a finished run


def coreset_file(folder: Path, epoch: int) -> Path:
    """Where the coreset of an epoch is kept."""
    return folder / f"coreset-{epoch:03d}.safetensors"


def save_coreset(folder: Path, coreset: Coreset, of: Origin, epoch: int) -> None:
    """The coreset that was selected in an epoch."""
    tensors = {"indices": coreset.indices, "weights": coreset.weights}
    write_tensors(coreset_file(folder, epoch), tensors, {"of": asdict(of), "epoch": epoch})


def load_coresets(run: Run, seed: int, results: Path | None = None) -> dict[int, Coreset]:
    """What a run selected, by epoch; empty for full training. Raises RecordError for a damaged or
    missing file, or one of another run.
    """
    chosen = [epoch.index for epoch in run.plan if epoch.select]
    return {epoch: load_coreset(run, seed, epoch, results) for epoch in chosen}


def load_coreset(run: Run, seed: int, epoch: int, results: Path | None = None) -> Coreset:
    """What a run selected in an epoch. Raises RecordError as `load_coresets` does."""
    folder = records.run_folder(run, seed, results)
    path = coreset_file(folder, epoch)
    way_out = f"move {folder} away and train {run.name} again"
    try:
        tensors, note = read_tensors(path)
        coreset = Coreset(tensors["indices"], tensors["weights"])
    except FileNotFoundError:
        raise RecordError(f"{path} is not there: {way_out}") from None
    except DAMAGE as error:
        raise _damaged(path, error, way_out) from None
    check_origin(path, note, origin(run, seed))
    if note.get("epoch", epoch) != epoch:
        raise RecordError(f"{path} is of epoch {note['epoch']}: {way_out}")
    return coreset


def save_weights(path: Path, model: nn.Module, of: Origin) -> None:
    """The weights of a trained run, all or nothing."""
    write_tensors(path, model.state_dict(), {"of": asdict(of)})


def load_weights(path: Path, model: nn.Module, of: Origin) -> None:
    """The weights of a finished run. Raises RecordError if they are damaged or of another run."""
    try:
        tensors, note = read_tensors(path)
        check_origin(path, note, of)
        model.load_state_dict(tensors)
    except RecordError:
        raise
    except DAMAGE as error:
        raise _damaged(path, error, "delete its folder and train again") from None
