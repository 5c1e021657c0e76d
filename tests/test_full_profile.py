"""The paper's own settings, with its own networks: a few steps on the CPU, selection included.

Nothing here was trained at full size: images are noise where real ones are not at hand, and LPIPS
looks through an untrained network. What is tested is that all eleven settings run as they stand.
"""

import dataclasses

import pytest
import torch

from acslib import data
from acslib.attacks.alexnet import AlexNet
from acslib.attacks.lpips import LPIPS
from acslib.paper import build, config, paramfiles
from acslib.training import State, fit

SETTINGS = [  # the paper's, without those of the study
    name
    for name, layer in paramfiles.checked_settings().settings.items()
    if not name.startswith("study-")
]
CLASSES = {"imagenet12": 12, "imagenet100": 100}


def a_few_images(name: str, count: int = 4) -> data.Dataset:
    """Real ones where they are at hand, else noise: the code path is the same."""
    try:
        whole = data.load(name, sample=True, image_size=None if name not in CLASSES else 224)
    except data.DataError:
        side, classes = (224, CLASSES[name]) if name in CLASSES else (32, 10)
        generator = torch.Generator().manual_seed(0)
        shape = (count, 3, side, side)
        images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        part = data.ImageSet(images, torch.arange(count))
        names = tuple(map(str, range(classes)))
        return data.Dataset(name, part, None, part, names, name != "svhn", 4, "noise")
    return dataclasses.replace(whole, train=whole.train[slice(0, count)])


def untrained(dataset: str, side: int, device: str, **others) -> LPIPS:
    torch.manual_seed(0)
    return LPIPS(AlexNet("imagenet" if dataset in CLASSES else "cifar").eval())


def test_there_are_eleven():
    assert len(SETTINGS) == 11


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_one_epoch_of_full_data_and_one_of_a_coreset(name, monkeypatch):
    """Everything as printed but the number of images, of images in a group, and of epochs."""
    monkeypatch.setenv("ACS_OFFLINE", "1")
    monkeypatch.setattr(build.lpips, "distance_for", untrained)
    run = config.resolve(f"{name}.gradmatch", "full")
    dataset = build.with_augmentation(a_few_images(run.setting.dataset), run.setting)
    model = build.build_model(run.setting, dataset, 0, "cpu")
    optimiser = build.build_optimiser(run.setting, model)
    few = run.model_copy(
        update={"setting": run.setting.model_copy(update={"selection_batch_size": 2})}
    )
    how = build.training_of(few, 0, "cpu")
    short = run.setting.model_copy(update={"epochs": 3, "warm_start": 0.7, "period": 1}).plan(
        "gradmatch"
    )
    state = fit(
        State(model, optimiser),
        dataset,
        dataclasses.replace(how, plan=short, batch_size=len(dataset.train), monitor=0),
    )
    assert [row["phase"] for row in state.history] == ["full", "skip", "coreset"]
    assert all(row["loss"] > 0 for row in state.history if "loss" in row)
    assert state.history[2]["selection"]["error"] >= 0


@pytest.mark.parametrize("name", SETTINGS)
def test_perceptual_training_alone_varies_colours_and_angles(name):
    """As the authors' code does."""
    for profile in ("full", "mini", "demo"):
        setting = config.resolve(f"{name}.full", profile).setting
        varied = profile == "full" and setting.objective == "fast_lpa"
        assert (setting.color_jitter, setting.rotation) == ((0.25, 2) if varied else (0, 0))
