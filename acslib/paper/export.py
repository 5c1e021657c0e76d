"""A trained network as a folder that other programs can use: weights.pt, model.json, load.py.

weights.pt is a plain state dict for `torch.load(..., weights_only=True)`. Its names are
torchvision's where the network is one of torchvision's ResNets. load.py builds the network from
model.json and gives it in evaluation mode: images in [0, 1] to logits, normalisation inside. A
network of one's own, which only its own function builds, is given to load.py untrained.
"""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acslib import models
from acslib.paper import files, fingerprints, records, runs
from acslib.paper.config import Run
from acslib.paper.settings import MODELS
from acslib.writing import reason

TORCHVISION = ("resnet18", "resnet34", "resnet50")


def write_network(run: Run, seed: int, folder: Path) -> list[Path]:
    """Write the folder; gives its files. Raises RecordError for a run that is not trained, or a
    folder that cannot be made.
    """
    model, dataset = runs.load_trained(run, seed, device="cpu")
    channels, *sides = dataset.train.images.shape[1:]
    about = {
        "run": run.name,
        "profile": run.profile,
        "seed": seed,
        "fingerprint": fingerprints.fingerprint(run),
        "dataset": run.setting.dataset,
        "data": dataset.source,
        "class_names": list(dataset.class_names),
        "images": {"channels": channels, "height": sides[0], "width": sides[1], "range": [0, 1]},
        "evaluated_by": {
            "norm": run.setting.norm,
            "epsilon": run.setting.evaluation_epsilon,
            "metrics": _metrics(run, seed),
        },
    }
    content, how, code = _parts(run, model, about)
    files_written = {
        "weights.pt": _saved(content),
        "model.json": json.dumps(about | {"build": how}, indent=1).encode(),
        "load.py": f'"""{HEAD.format(run=run.name)}"""\n\n{code}'.encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.RecordError(
            f"cannot make the folder {folder} ({reason(error)}): name another one by --to"
        ) from error
    for name, data in files_written.items():
        files.write_file(folder / name, data)
    return [folder / name for name in files_written]


def _metrics(run: Run, seed: int) -> dict[str, Any]:
    record = records.finished_record(run, seed)
    return record["metrics"] if record else {}


def _saved(content: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in content.items()}, buffer
    )
    return buffer.getvalue()


def _parts(
    run: Run, model: nn.Module, about: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """A state dict, what builds its network, and the code that does."""
    setting = run.setting
    how: dict[str, Any]
    if MODELS[setting.model] is not None:
        source = MODELS.sources[setting.model]
        how = {"model": setting.model, "registered_in": source.name, "content": source.content}
        if not isinstance(model, models.Adapted):
            return model.state_dict(), how | {"mean": None, "std": None}, OWN
        mean, std = (
            None if numbers is None else numbers.flatten().tolist()
            for numbers in (model.mean, model.std)
        )
        return model.plain_state(), how | {"mean": mean, "std": std}, OWN
    assert isinstance(model, models.ResNet)
    mean, std = (buffer.flatten().tolist() for buffer in (model.mean, model.std))
    classes = len(about["class_names"])
    if is_torchvisions(run, model):
        how = {"torchvision": setting.model, "num_classes": classes, "mean": mean, "std": std}
        return torchvision_state(model, setting.model), how, FOR_TORCHVISION
    how = {
        "architecture": setting.model,
        "classes": classes,
        "channels": about["images"]["channels"],
        "stem": setting.stem,
        "width": setting.width,
        "depths": setting.depths,
        "statistics": [mean, std],
    }
    return model.state_dict(), how, FOR_ACSLIB


# ---- torchvision's names


def is_torchvisions(run: Run, model: models.ResNet) -> bool:
    """Whether torchvision has this very network, apart from the normalisation."""
    setting = run.setting
    if setting.model not in TORCHVISION:
        return False
    _, depths, width = models.ARCHITECTURES[setting.model]
    same_size = setting.width in (None, width) and setting.depths in (None, depths)
    return same_size and setting.stem == "imagenet" and model.mean.numel() == 3


def torchvision_state(model: models.ResNet, architecture: str) -> dict[str, Tensor]:
    """The weights under torchvision's names; without the normalisation, which it has not."""
    names = {"stem.0.conv": "conv1", "stem.0.norm": "bn1", "head": "fc"}
    parts = {"first": "1", "second": "2", "third": "3"}
    block = 0
    for stage, depth in enumerate(models.ARCHITECTURES[architecture][1], 1):
        for position in range(depth):
            ours, theirs = f"blocks.{block}", f"layer{stage}.{position}"
            for part, number in parts.items():
                names[f"{ours}.{part}.conv"] = f"{theirs}.conv{number}"
                names[f"{ours}.{part}.norm"] = f"{theirs}.bn{number}"
            names[f"{ours}.shortcut.conv"] = f"{theirs}.downsample.0"
            names[f"{ours}.shortcut.norm"] = f"{theirs}.downsample.1"
            block += 1
    return {
        f"{names[module]}.{leaf}": tensor
        for name, tensor in model.state_dict().items()
        if name not in ("mean", "std")
        for module, leaf in [name.rsplit(".", 1)]
    }


# ---- load.py

HEAD = """The network of {run}, as `acs export` wrote it.

load gives it in evaluation mode: images (n, channels, height, width) in [0, 1] to logits.
"""

NORMALISED = '''
class Normalised(nn.Module):
    """Takes images in [0, 1]."""

    def __init__(self, net, mean, std):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images):
        return self.net((images - self.mean) / self.std)
'''

FOR_TORCHVISION = (
    """import json
from pathlib import Path

import torch
from torch import nn

try:  # which is importable beside any build of torch
    from acslib._torchvision import torchvision
except ModuleNotFoundError:
    import torchvision

HERE = Path(__file__).parent

"""
    + NORMALISED
    + """

def load():
    how = json.loads((HERE / "model.json").read_text())["build"]
    net = torchvision.models.get_model(how["torchvision"], num_classes=how["num_classes"])
    net.load_state_dict(torch.load(HERE / "weights.pt", weights_only=True))
    return Normalised(net, how["mean"], how["std"]).eval()
"""
)

FOR_ACSLIB = """import json
from pathlib import Path

import torch

from acslib import models

HERE = Path(__file__).parent


def load():
    how = json.loads((HERE / "model.json").read_text())["build"]
    model = models.build(how.pop("architecture"), **how)
    model.load_state_dict(torch.load(HERE / "weights.pt", weights_only=True))
    return model.eval()
"""

OWN = (
    """import json
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent

"""
    + NORMALISED
    + '''

def load(net):
    """`net` is an untrained one, as it comes from the function that was registered in the file that
    model.json names.
    """
    how = json.loads((HERE / "model.json").read_text())["build"]
    net.load_state_dict(torch.load(HERE / "weights.pt", weights_only=True))
    return (Normalised(net, how["mean"], how["std"]) if how["mean"] else net).eval()
'''
)
