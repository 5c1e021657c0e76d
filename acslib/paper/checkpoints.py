"""What a run keeps while it trains and afterwards: checkpoint, coresets, weights."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from acslib.paper.config import Run
from acslib.paper.files import RecordError, write_atomically
from acslib.paper.records import FORMAT, run_folder
from acslib.selectors.coreset import Coreset
from acslib.training import State


def save_checkpoint(path: Path, state: State, mark: str) -> None:
    """Model, optimiser, coreset, epoch and history in one file, so that they always belong
    together.
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
        raise RecordError(
            f"{path} is damaged ({error}): delete it and the run starts afresh"
        ) from None
    if note.get("format") != FORMAT or note["fingerprint"] != mark:
        raise RecordError(
            f"{path} belongs to a run with other parameters, other data or another version: move"
            f" {path.parent} away, or set ACS_RESULTS to another folder"
        )
    try:
        _restore(state, tensors, note)
    except (KeyError, ValueError, RuntimeError) as error:
        raise RecordError(
            f"{path} is damaged ({error}): delete it and the run starts afresh"
        ) from None
    return True


def _restore(state: State, tensors: dict, note: dict) -> None:
    state.model.load_state_dict(_part(tensors, "model."))
    entries: dict[int, dict] = {}
    for key, value in _part(tensors, "optimiser.").items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    groups = state.optimiser.state_dict()["param_groups"]
    state.optimiser.load_state_dict({"state": entries, "param_groups": groups})
    for (
        parameter,
        entry,
    ) in state.optimiser.state.items():  # the file is contiguous, channels_last is not
        state.optimiser.state[parameter] = {
            key: torch.empty_like(parameter).copy_(value)
            if torch.is_tensor(value) and value.shape == parameter.shape
            else value
            for key, value in entry.items()
        }
    if "coreset.indices" in tensors:
        state.coreset = Coreset(tensors["coreset.indices"], tensors["coreset.weights"])
    state.epoch, state.history = note["epoch"], note["history"]


def _part(tensors: dict, prefix: str) -> dict:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def save_coreset(folder: Path, state: State) -> None:
    """The coreset that was selected in the epoch just trained."""
    coreset = state.coreset
    write_atomically(
        folder / f"coreset-{state.epoch - 1:03d}.safetensors",
        save({"indices": coreset.indices, "weights": coreset.weights}),
    )


def load_coresets(run: Run, seed: int, results: Path | None = None) -> dict[int, Coreset]:
    """What a run selected, by epoch; empty for full training. Raises RecordError for a damaged or
    missing file.
    """
    folder, found = run_folder(run, seed, results), {}
    for epoch in [epoch.index for epoch in run.plan if epoch.select]:
        path = folder / f"coreset-{epoch:03d}.safetensors"
        try:
            found[epoch] = Coreset(**load_file(path))
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise RecordError(
                f"{path} is damaged or not there ({error}): move {folder} away and train {run.name} again"
            ) from None
    return found


def save_weights(path: Path, model: torch.nn.Module) -> None:
    write_atomically(
        path, save({key: value.contiguous().cpu() for key, value in model.state_dict().items()})
    )
