"""The paper's own settings, with its own networks: an epoch of a few batches on the CPU, selection
included.
"""

import dataclasses

import pytest
import torch

from acslib import data
from acslib.paper import build, config
from acslib.training import State, fit

SETTINGS = [
    "resnet18-trades-cifar10",
    "resnet18-linf-cifar10",
    "resnet18-fat-cifar10",
    "wrn28_10-trades-cifar10",
    "wrn28_10-linf-cifar10",
    "resnet18-l2-svhn",
]


def a_few_images(name: str) -> data.Dataset:
    """Real ones where they are at hand, else noise: the code path is the same."""
    try:
        whole = data.load(name, sample=True)
    except data.DataError:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (8, 3, 32, 32), generator=generator, dtype=torch.uint8)
        part = data.ImageSet(images, torch.arange(8))
        return data.Dataset(name, part, None, part, tuple("0123456789"), name != "svhn", 4, "noise")
    return dataclasses.replace(whole, train=whole.train[slice(0, 8)])


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_one_epoch_of_full_data_and_one_of_a_coreset(name, monkeypatch):
    """Everything as printed but the number of images, of images in a batch or group, and of epochs."""
    monkeypatch.setenv("ACS_OFFLINE", "1")
    run = config.resolve(f"{name}.gradmatch", "full")
    dataset = a_few_images(run.setting.dataset)
    model = build.build_model(run.setting, dataset, 0, "cpu")
    optimiser = build.build_optimiser(run.setting, model)
    few = run.model_copy(
        update={"setting": run.setting.model_copy(update={"selection_batch_size": 2})}
    )
    how = build.training_of(few, dataset.train.labels, 0, "cpu")
    short = run.setting.model_copy(update={"epochs": 3, "warm_start": 0.7, "period": 1}).plan(
        "gradmatch"
    )
    state = fit(
        State(model, optimiser),
        dataset,
        dataclasses.replace(how, plan=short, batch_size=4, monitor=0),
    )
    assert [row["phase"] for row in state.history] == ["full", "skip", "coreset"]
    assert all(row["loss"] > 0 for row in state.history if "loss" in row)
    assert state.history[2]["selection"]["error"] >= 0
