"""The life of a coreset: errors against those that are logged, choices by hand."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from acslib import selectors
from acslib.objectives import Vanilla
from acslib.paper import config, life, life_pictures, runs
from acslib.schedule import full
from acslib.selectors.coreset import Coreset
from acslib.training import Training

NAME = "study-linf.gradmatch+coreset_fraction@0.2"


@pytest.fixture(scope="module")
def table():
    return pd.DataFrame(life.errors(config.resolve(NAME, "smoke"), 0, epochs=2))


def test_every_method_view_condition_and_epoch_is_there(table):
    trained = table[table.draw < life.TRAINED_DRAWS]
    counts = trained.groupby(["view", "condition", "epoch"]).size()
    assert set(counts) == {2 + life.TRAINED_DRAWS}
    assert len(counts) == len(life.VIEWS) * len(life.CONDITIONS) * 3
    drawn = table[(table.method == "random") & (table.epoch == 0)]
    assert drawn.draw.nunique() == life.RANDOM_DRAWS


def test_at_the_selection_the_error_is_the_one_that_the_run_logs(table, tmp_path):
    record = runs.execute(config.resolve(NAME, "smoke"), 0, "cpu", tmp_path)
    logged = next(row["selection"] for row in record["history"] if row["selection"])
    here = table[(table.method == "adv_gradmatch") & (table.epoch == 0) & (table.view == "chosen")]
    assert here.error.unique() == pytest.approx([logged["relative_error"]], rel=1e-4)


def test_of_a_network_that_is_one_layer_all_weights_are_the_last_layers():
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3, dtype=torch.float64)
    images, labels = torch.rand(40, 5, dtype=torch.float64), torch.arange(40) % 3
    training = Training(Vanilla(), full(1), torch.Generator(), batch_size=16)
    p = model(images).softmax(1) - torch.nn.functional.one_hot(labels, 3)
    gradients = torch.cat([(p[:, :, None] * images[:, None, :]).flatten(1), p], 1).detach()
    coreset = selectors.gradmatch(gradients, 8)
    seen = life.View(images, labels, images, None)
    found = life.error_of_all_weights(model, seen, coreset, training)
    assert found == pytest.approx(selectors.gradient_error(gradients, coreset)[1], rel=1e-6)


def test_choices_by_hand():
    sets = [
        Coreset(torch.tensor([0, 1]), torch.tensor([1.0, 1.0])),
        Coreset(torch.tensor([1, 2]), torch.tensor([3.0, 1.0])),
    ]
    found = life.set_statistics(sets, 4)
    assert found["overlap"] == 0.5
    assert found["never"] == 0.25
    assert found["always"] == 0.25
    assert found["size"] == 0.5
    assert found["effective"] == pytest.approx((1 + 16 / (2 * 10)) / 2)


def test_the_figure_has_a_line_a_method_and_view(table):
    figure = life_pictures.figure_life(table)
    assert [len(axis.lines) for axis in figure.axes] == [3 * len(life.VIEWS) + 1] * 3
    plt.close(figure)
