"""Figures 1 to 5: what relative errors are, what the CSVs hold, and that drawings show what the
tables say.
"""

import io
import re
from pathlib import Path

import alts
import matplotlib.pyplot as plt
import nbclient
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.colors import to_hex, to_rgb

from acslib import models, objectives, schedule, selectors
from acslib.attacks import PGD
from acslib.gradients import LastLayerGradients
from acslib.paper import (
    config,
    curves,
    figures,
    files,
    items,
    overview,
    overview_pictures,
    pictures,
    records,
    rows,
    runs,
    seen,
    style,
    sweeps,
    table_pictures,
    tables,
)
from acslib.paper.methods import METHODS

ABOUT = {"profile": "smoke", "network": "ResNet-18 (width 4)", "data": "digits"}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def line(axis, label):
    """The points of the line, or of the error bar's line, that the legend calls `label`."""
    handles, labels = axis.get_legend_handles_labels()
    handle = handles[labels.index(label)]
    return np.array((handle if hasattr(handle, "get_xydata") else handle.lines[0]).get_xydata())


def points(method, fractions, errors, seed=0, seeds=1, **columns):
    rows = [
        ABOUT
        | columns
        | {
            "method": method,
            "seed": seed,
            "seeds": seeds,
            "coreset_fraction": fraction,
            "speedup_median_x": 1 / fraction,
            "relative_robust_error_pct": error,
            "relative_clean_error_pct": 2 * error,
        }
        for fraction, error in zip(fractions, errors, strict=True)
    ]
    return pd.DataFrame(rows)


# ---- relative error


def test_relative_error_by_hand():
    """Full training makes 20 % of errors; 25 % are a quarter more, 10 % half as many."""
    accuracy = pd.Series([80.0, 75.0, 90.0, 60.0])
    assert curves.relative_error(accuracy, 80.0).tolist() == [0, 25, -50, 100]


def test_errors_are_relative_to_the_full_training_of_the_same_seed(monkeypatch):
    full, chosen = (
        "resnet18-trades-cifar10.full",
        "resnet18-trades-cifar10.gradmatch+coreset_fraction@0.3",
    )

    def gather(figure, profile, seeds, results):
        robust = {0: (40.0, 34.0), 1: (50.0, 55.0)}[seeds[0]]
        blank = dict.fromkeys((*curves.IDENTITY, *curves.MEASURES), 0.0)
        return pd.DataFrame(
            [
                blank
                | {
                    "run": full,
                    "acc_pct": 90.0,
                    "acc_diff_pct": None,
                    "racc_pct": robust[0],
                    "racc_diff_pct": None,
                },
                blank
                | {
                    "run": chosen,
                    "acc_pct": 85.0,
                    "acc_diff_pct": -5.0,
                    "racc_pct": robust[1],
                    "racc_diff_pct": robust[1] - robust[0],
                },
            ]
        )

    monkeypatch.setattr(rows, "gather", gather)
    table = curves.points_by_seed("fig4", "smoke", [0, 1])
    assert table.relative_robust_error_pct.round(9).tolist() == [0, 10, 0, -10]
    assert table.relative_clean_error_pct.round(9).tolist() == [0, 50, 0, 50]
    assert table.seed.tolist() == [0, 0, 1, 1]
    assert (table.seeds == 2).all()
    assert table.coreset_fraction.tolist() == [0.5, 0.3] * 2


def test_mean_and_spread_over_seeds():
    table = pd.DataFrame({"size": [1, 1, 2], "error": [1.0, 3.0, 5.0]})
    summary = figures.over_seeds(table, ["size"], ["error"])
    assert summary.error.tolist() == [2, 5]
    assert summary.error_std[0] == pytest.approx(2**0.5)
    assert np.isnan(summary.error_std[1])


# ---- Figure 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A results folder with Figure 3's runs, trained on the smoke profile."""
    results = tmp_path_factory.mktemp("results")
    for run, seed in rows.missing("fig3", "smoke", [0], results):
        runs.execute(run, seed, "cpu", results)
    return results


def test_a_curve_is_attacked_once(trained, monkeypatch):
    """Also at a commit whose name is all digits, which a CSV's reader would take for a number."""
    monkeypatch.setattr(
        rows, "together", lambda several, name: "7732715" if name == "commit" else name
    )
    first = curves.attack_curves("smoke", [0], trained)
    calls = []
    monkeypatch.setattr(curves, "attack_curve", lambda *arguments: calls.append(arguments))
    pd.testing.assert_frame_equal(
        curves.attack_curves("smoke", [0], trained), first, check_dtype=False
    )
    assert not calls
    assert len(first) == 4 * len(curves.NORM_FACTORS)
    assert not (trained / "smoke" / "fig3.csv").exists()  # what Make looks at comes last


def test_curves_start_at_the_clean_accuracy_and_reach_twice_the_training_norm(trained):
    table = curves.attack_curves("smoke", [0], trained)
    for name, curve in table.groupby("run"):
        record = records.finished_record(config.resolve(name, "smoke"), 0, trained)
        assert curve.racc_pct.iloc[0] == pytest.approx(100 * record["metrics"]["acc"])
        assert curve.epsilon_255.max() == pytest.approx(2 * curve.training_epsilon_255.iloc[0])
        assert (curve.racc_pct <= curve.racc_pct.iloc[0]).all()


def test_other_weights_are_attacked_anew(trained):
    run = config.resolve(items.table_runs("fig3", "smoke")[0], "smoke")
    path = records.run_folder(run, 0, trained) / "weights.safetensors"
    before, mark = path.read_bytes(), curves.weights_mark(run, 0, trained)
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert curves.weights_mark(run, 0, trained) != mark
    path.write_bytes(before)
    assert curves.weights_mark(run, 0, trained) == mark


def test_figure3_draws_the_means_over_seeds():
    table = pd.concat(
        [
            pd.DataFrame(
                ABOUT
                | {
                    "curve": curve,
                    "method": method,
                    "seed": seed,
                    "seeds": 2,
                    "steps": 50,
                    "training_epsilon_255": 8.0,
                    "epsilon_255": [0.0, 8.0, 16.0],
                    "racc_pct": [80 + seed, 50 + seed, 10 + 3 * seed],
                }
            )
            for curve, method in (("PGD", "full"), ("PGD", "adv_gradmatch"), ("FAT", "full"))
            for seed in (0, 2)
        ]
    )
    axis = figures.figure3(table).axes[0]
    for label in ("PGD, all the data", "PGD, Adv. GradMatch", "FAT, all the data"):
        assert line(axis, label).tolist() == [[0, 81], [8, 51], [16, 13]]
    assert line(axis, "norm of the training, 8/255")[:, 0].tolist() == [8, 8]
    assert len(axis.collections) == 3
    assert axis.get_ylabel() == "robust accuracy, PGD-50 (%)"
    assert "n = 2 seeds" in axis.get_title().replace("\n", " ")


# ---- Figures 4 and 5


def figure4_table(seeds=1):
    parts = []
    for seed in range(seeds):
        parts.append(points("full", [1.0], [0.0], seed, seeds, warm_start=0.6))
        for method in ("random", "adaptive_random", "adv_gradmatch"):
            errors = [len(method) + 2 * seed, 30 + seed]
            parts.append(
                points(method, [0.5, 0.1], errors, seed, seeds, series="size", warm_start=0.6)
            )
        for warm in (0.2, 0.6):
            parts.append(
                points(
                    "adv_gradmatch",
                    [0.5],
                    [10 * warm],
                    seed,
                    seeds,
                    series="warm_start",
                    warm_start=warm,
                )
            )
    return pd.concat(parts, ignore_index=True)


def test_figure4_draws_sizes_left_and_warm_starts_right():
    left, right = figures.figure4(figure4_table()).axes
    assert line(left, "Random").tolist() == [[2, 6], [10, 30]]
    assert line(left, "Adaptive random").tolist() == [[2, 15], [10, 30]]
    assert line(left, "Adv. GradMatch").tolist() == [[2, 13], [10, 30]]
    assert line(left, "Full").tolist() == [[1, 0]]
    assert line(right, "warm start 20 %").tolist() == [[2, 2]]
    assert line(right, "warm start 60 %").tolist() == [[2, 6]]
    assert "50, 10 %" in left.get_title()


def test_figure4s_warm_starts_look_like_their_methods():
    """Of several methods: colour and marker say which, size and shade how long."""
    table = figure4_table()
    another = table[table.series == "warm_start"].assign(method="el2n")
    table = pd.concat([table, another], ignore_index=True)
    axis = figures.figure4(table).axes[1]
    handles, labels = axis.get_legend_handles_labels()
    marks = {
        label: handle.lines[0]
        for handle, label in zip(handles, labels, strict=True)
        if label != "Full"
    }
    looks = style.looks(table.method)
    for value in ("adv_gradmatch", "el2n"):
        method = looks[value]
        short, long = (marks[f"{method.label}, warm start {start} %"] for start in (20, 60))
        for mark in (short, long):
            assert (mark.get_color(), mark.get_marker()) == (method.colour, method.marker)
        assert short.get_markersize() < long.get_markersize()
        assert sum(to_rgb(short.get_markerfacecolor())) < sum(to_rgb(long.get_markerfacecolor()))


def test_error_bars_are_over_seeds_and_absent_for_one():
    def bars(table):
        handles, labels = figures.figure4(table).axes[0].get_legend_handles_labels()
        return handles[labels.index("Random")]

    assert not bars(figure4_table()).has_yerr
    handle = bars(figure4_table(2))
    vertical = handle.lines[2][1].get_segments()
    assert np.diff(vertical[0][:, 1]) == pytest.approx(2 * 2**0.5)


def test_figure5_has_the_papers_panels():
    parts = [points("full", [1.0], [0.0])]
    for i, method in enumerate(("adv_craig", "adv_gradmatch")):
        for j, version in enumerate(list(figures.VERSIONS)[:3]):
            parts.append(points(method, [0.5, 0.1], [10 * i + j, 50], version=version))
    parts.append(points("adaptive_random", [0.5, 0.1], [7, 9], version="adaptive random"))
    axes = figures.figure5(pd.concat(parts, ignore_index=True)).axes
    assert [axis.get_title() for axis in axes] == [
        "(a) Adv. CRAIG, clean error",
        "(b) Adv. CRAIG, robust error",
        "(c) Adv. GradMatch, clean error",
        "(d) Adv. GradMatch, robust error",
    ]
    for panel, axis in enumerate(axes):
        factor, first = 2 - panel % 2, 10 * (panel // 2)
        for j, version in enumerate(list(figures.VERSIONS)[:3]):
            assert line(axis, version).tolist() == [[2, factor * (first + j)], [10, factor * 50]]
        assert line(axis, "adaptive random").tolist() == [[2, factor * 7], [10, factor * 9]]


def test_no_two_versions_look_alike():
    assert len({to_hex(colour) for colour, _ in figures.VERSIONS.values()}) == len(figures.VERSIONS)
    assert len({marker for _, marker in figures.VERSIONS.values()}) == len(figures.VERSIONS)


# ---- Figures 1 and 2


@pytest.fixture
def network():
    torch.manual_seed(0)
    return models.build("resnet18", channels=1, width=4, depths=(1, 1)).eval()


def test_selection_module_with_and_without_an_attack(network, digits):
    images, labels = digits.train.float_images(slice(0, 12)), digits.train.labels[:12]
    vanilla = overview.select(objectives.Vanilla(), network, images, labels, 3)
    robust = overview.select(
        objectives.AdversarialTraining(PGD("linf", 0.1, 0.05, 2)), network, images, labels, 3
    )
    assert vanilla.adversarial is None
    assert 0 < (robust.adversarial - images).abs().max() <= 0.1 + 1e-6
    history = [
        {"epoch": i, "seconds_select": 0.1, "seconds_attack": i, "seconds_update": 1.0}
        for i in range(4)
    ]
    plan = schedule.plan(4, 0.5, 0.5, 1)
    figure = overview_pictures.figure1(plan, history, 3.0, vanilla, robust)
    bars = figure.subfigs[0].axes[1]
    tops = [
        max(bar.get_y() + bar.get_height() for bar in group)
        for group in zip(*bars.containers, strict=True)
    ]
    assert tops == pytest.approx([1.1, 2.1, 3.1, 4.1])
    pictures = [sum(bool(axis.images) for axis in part.axes) for part in figure.subfigs[1:]]
    assert pictures == [3, 4]
    framed = figure.subfigs[2].axes[-1].patches
    assert len(framed) == len(robust.coreset)


def test_mosaic_places_images_in_rows():
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 2) / 10
    grid = overview_pictures.mosaic(images, 3)
    assert grid.shape == (5, 8, 3)
    assert grid[0, 0, 0] == 0
    assert grid[0, 6, 0] == pytest.approx(0.2)
    assert grid[4, 4, 0] == pytest.approx(0.4)
    assert (grid[2] == 1).all()
    assert (grid[3:, 6:] == 1).all()


def test_distance_to_the_total_is_the_gradient_error():
    generator = torch.Generator().manual_seed(0)
    gradients = LastLayerGradients(
        torch.randn(40, 3, generator=generator), torch.rand(40, 5, generator=generator)
    )
    for coreset in (selectors.gradmatch(gradients, 4), selectors.random(40, 8, generator)):
        along, across = overview.in_plane(gradients, coreset)
        error = selectors.gradient_error(gradients, coreset)[1]
        assert np.hypot(along - 1, across) == pytest.approx(error)


def test_figure2_shows_every_gradient_and_sizes_the_coreset_by_weight():
    generator = torch.Generator().manual_seed(0)
    gradients = LastLayerGradients(
        torch.randn(40, 3, generator=generator), torch.rand(40, 5, generator=generator)
    )
    chosen = selectors.gradmatch(gradients, 6)
    draws = [selectors.random(40, 6, generator) for _ in range(5)]
    left, right = overview_pictures.figure2(
        gradients, {"gradmatch": [chosen], "random": draws}
    ).axes
    everything, coreset = left.collections
    assert len(everything.get_offsets()) == 40
    assert coreset.get_offsets().data == pytest.approx(
        everything.get_offsets().data[chosen.indices]
    )
    area_for_one = coreset.get_sizes() / chosen.weights.numpy()
    assert area_for_one == pytest.approx(np.full(len(chosen), area_for_one[0]))
    assert line(right, "Adv. GradMatch")[0] == pytest.approx(overview.in_plane(gradients, chosen))
    assert line(right, "Random, 5 draws").shape == (5, 2)


def test_sample_gradients_are_those_of_a_selection(trained):
    run = config.resolve("resnet18-linf-cifar10.gradmatch", "smoke")
    model, data = runs.load_trained(run, 0, "cpu", trained)
    gradients = overview.sample_gradients(run, model, data, 0, 30)
    again = overview.sample_gradients(run, model, data, 0, 30)
    assert len(gradients) == 30
    assert torch.equal(gradients.errors, again.errors)


@pytest.mark.parametrize("profile", ["demo", "mini"])
@pytest.mark.parametrize("number", [3, 4, 5])
def test_what_is_published_can_be_drawn(profile, number):
    """A CSV of an older version would lack what the axes show."""
    table = pd.read_csv(
        Path(__file__).parents[1] / "results" / "published" / profile / f"fig{number}.csv"
    )
    figure = getattr(figures, f"figure{number}")(table)
    assert all(axis.lines or axis.collections for axis in figure.axes)


# ---- every method that is in a CSV


def with_another(table, value="margin"):
    """The same CSV with one method more, as if it had been registered when it was made."""
    like = table[table.method == "adaptive_random"]
    more = like.assign(method=value)
    if "method_label" in table:
        more = more.assign(method_label=value)
    if "version" in table:
        more = more.assign(version=None)
    return pd.concat([table, more.assign(paper_racc_pct=float("nan"))], ignore_index=True)


def legends(figure):
    found = [text.get_text() for box in figure.legends for text in box.get_texts()]
    for axis in figure.axes:
        found += axis.get_legend_handles_labels()[1]
    return found


DRAWN = {
    "fig3": lambda table: figures.figure3(table),
    "fig4": lambda table: figures.figure4(table),
    "fig5": lambda table: figures.figure5(table),
    "table1": lambda table: table_pictures.tradeoff(table),
    "table2": lambda table: table_pictures.tradeoff(table, "racc_unseen", "_mean"),
    "table3": lambda table: table_pictures.tradeoff(table),
    "table4": lambda table: table_pictures.fast_training(table, epochs_of(table)),
    "table5": lambda table: table_pictures.half_half(table),
    "table6": lambda table: table_pictures.periods(table),
    "tableD4": lambda table: table_pictures.attack_panels(table),
}


def epochs_of(table):
    parts = [
        pd.DataFrame(
            {"method": method, "epoch": [0, 1], "train_robust_pct": [50, 60], "racc_pct": 40}
        )
        for method in table.method
    ]
    return pd.concat(parts)


def published(name, profile="demo"):
    folder = Path(__file__).parents[1] / "results" / "published"
    return tables.read_table(name, profile, folder)


@pytest.mark.parametrize("name", DRAWN)
def test_every_method_of_a_csv_is_drawn(name):
    table = with_another(published(name))
    said = " ".join(legends(DRAWN[name](table)))
    wanted = {method.label for method in style.looks(table.method).values()}
    if name in ("fig3", "fig5"):  # full training has another name there; versions have their own
        wanted = {"margin"} | ({"adaptive random"} if name == "fig5" else set())
    assert {label for label in wanted if label not in said} == set()


def test_no_two_methods_look_alike_and_those_of_the_list_look_as_it_says():
    values = [method.printed for method in METHODS.values()]
    looks = style.looks([*values, "margin", "another"])
    assert list(looks) == [*values, "margin", "another"]
    assert [looks[value] for value in values] == list(METHODS.values())
    assert len({(look.colour, look.marker) for look in looks.values()}) == len(looks)
    assert (looks["margin"].label, looks["margin"].printed) == ("margin", "margin")


@pytest.mark.parametrize("name", DRAWN)
def test_words_of_others_are_drawn_as_they_are(name):
    """A dollar sign in a data set, a network or a method is no mathematics."""
    strange = "$x^{$"
    table = with_another(published(name), strange).assign(data=strange, network=strange)
    if "dataset" in table:
        table = table.assign(dataset=strange)
    DRAWN[name](table).savefig(io.BytesIO(), format="png", dpi=20)


@pytest.mark.parametrize("name", DRAWN)
def test_a_csv_without_a_column_is_drawn_or_refused(name, tmp_path):
    """Any one column: nothing ends in a traceback."""
    whole = published(name)
    whole = whole[whole.setting.isin(whole.setting.unique()[:2])]
    path = tmp_path / "demo" / f"{name}.csv"
    path.parent.mkdir()
    for column in whole:
        whole.drop(columns=column).to_csv(path, index=False)
        if column in tables.NEEDED.get(name, tables.TABLE | {"racc_pct"}):
            with pytest.raises(files.RecordError, match=column):
                tables.read_table(name, "demo", tmp_path)
        else:
            DRAWN[name](tables.read_table(name, "demo", tmp_path))
            plt.close("all")


# ---- items of one's own


def swept(*rows, seeds=1):
    """An item's table, as far as a picture needs it; rows are method, robust accuracy, the rest."""
    about = ABOUT | {"setting": "a", "seeds": seeds, "racc_std_pct": 1.0, "acc_std_pct": 1.0}
    return pd.DataFrame(
        [
            about | {"method": method, "racc_pct": robust, "acc_pct": robust + 30.0} | varied
            for method, robust, varied in rows
        ]
    )


def test_what_varies_is_the_axis_and_each_method_has_its_line():
    table = swept(
        ("full", 50.0, {}),
        *[
            (method, robust - period, {"period": period, "coreset_fraction": 0.2})
            for period in (8, 2, 4)
            for method, robust in (("adv_gradmatch", 45.0), ("mine", 40.0))
        ],
    )
    robust, clean = sweeps.sweep(table, ["coreset_fraction", "period"]).axes
    assert line(robust, "Adv. GradMatch").tolist() == [[2, 43], [4, 41], [8, 37]]
    assert line(clean, "mine").tolist() == [[2, 68], [4, 66], [8, 62]]
    assert set(line(robust, "Full")[:, 1]) == {50}
    assert [tick.get_text() for tick in robust.get_xticklabels()] == ["8", "2", "4"]
    assert robust.get_xlabel() == "period"
    assert (robust.get_ylabel(), clean.get_ylabel()) == (
        "robust accuracy (%)",
        "clean accuracy (%)",
    )
    assert robust.get_title() == "a"
    for value, method in style.looks(table.method).items():
        if value != "full":
            handles, labels = robust.get_legend_handles_labels()
            drawn = handles[labels.index(method.label)].lines[0]
            assert (drawn.get_color(), drawn.get_marker()) == (method.colour, method.marker)


def test_what_else_varies_and_each_setting_have_panels_of_their_own():
    table = pd.concat(
        [
            swept(
                ("full", 50.0, {"epsilon": epsilon}),
                *[
                    ("adv_gradmatch", 10.0 * period + epsilon, {"period": period} | rest)
                    for period in (1, 2, 3)
                ],
            ).assign(setting=setting)
            for setting in ("a", "b")
            for epsilon in (1.0, 2.0)
            for rest in [{"epsilon": epsilon}]
        ]
    )
    figure = sweeps.sweep(table, ["epsilon", "period"])
    left = figure.axes[::2]
    assert [axis.get_title() for axis in left] == [
        "a, epsilon = 1",
        "a, epsilon = 2",
        "b, epsilon = 1",
        "b, epsilon = 2",
    ]
    for axis, epsilon in zip(left, [1, 2, 1, 2], strict=True):
        assert line(axis, "Adv. GradMatch")[:, 1].tolist() == [
            10 + epsilon,
            20 + epsilon,
            30 + epsilon,
        ]
        assert set(axis.get_legend_handles_labels()[1]) == {"Full", "Adv. GradMatch"}


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("schedule", ["three_phase", "literal"], ["three_phase", "literal"]),
        ("weights", [True, False], ["true", "false"]),
        ("gradient_clip", [None, 1.0], ["null", "1"]),
        ("lr_drops", ["[75, 90]", "[]"], ["[75, 90]", "[]"]),
    ],
)
def test_words_stand_side_by_side_on_the_axis(name, values, words, tmp_path):
    """Also after a CSV."""
    rows = [("adv_gradmatch", 30.0 + i, {name: value}) for i, value in enumerate(values)]
    swept(("full", 50.0, {}), *rows).to_csv(tmp_path / "x.csv", index=False)
    table = pd.read_csv(tmp_path / "x.csv")
    axis = sweeps.sweep(table[table.method != "full"], [name]).axes[0]
    axis.figure.canvas.draw()
    assert [tick.get_text() for tick in axis.get_xticklabels()] == words
    assert line(axis, "Adv. GradMatch").tolist() == [[0, 30], [1, 31]]


def test_full_training_has_a_line_along_what_it_knows_of():
    table = swept(
        *[(method, 40.0 + lr, {"lr": lr}) for method in ("full", "random") for lr in (0.01, 1)]
    )
    axis = sweeps.sweep(table, ["lr"]).axes[0]
    assert line(axis, "Full").tolist() == line(axis, "Random").tolist() == [[0.01, 40.01], [1, 41]]
    assert axis.get_xscale() == "log"


def test_where_nothing_varies_the_picture_is_the_tradeoff():
    table = published("table1")
    drawn = sweeps.sweep(table, [])
    assert [axis.get_xlabel() for axis in drawn.axes if axis.axison] == [
        axis.get_xlabel() for axis in table_pictures.tradeoff(table).axes if axis.axison
    ]


def test_a_measure_that_only_some_settings_have_has_a_column_of_panels():
    perceptual = swept(*[("random", 20.0, {"lr": lr}) for lr in (1, 2)]).rename(
        columns={"racc_pct": "racc_unseen_mean_pct", "racc_std_pct": "racc_unseen_std_pct"}
    )
    plain = swept(*[("random", 30.0, {"lr": lr}) for lr in (1, 2)])
    both = pd.concat([plain, perceptual.assign(setting="b")])
    axes = sweeps.sweep(both, ["lr"]).axes
    assert [len(axis.get_legend_handles_labels()[1]) for axis in axes] == [1, 0, 1, 0, 1, 1]
    assert axes[1].get_ylabel() == "robust accuracy, unseen attacks (%)"


# ---- files


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_a_figure_is_written_whole_or_not_at_all(kind, tmp_path, monkeypatch):
    """Stopped in the middle of writing: what stood there before stays, and nothing beside it."""
    monkeypatch.setattr(style, "FOLDER", tmp_path)
    figure = plt.figure()
    before = style.save_figure(figure, "fig3", "demo").parent
    stamps = {path.name: path.read_bytes() for path in before.iterdir()}
    plain = figure.savefig

    def stopped(target, *arguments, **options):
        if options.get("format") == kind or str(target).endswith(kind):
            if isinstance(target, io.BytesIO):
                target.write(b"half")
            else:
                Path(target).write_bytes(b"half")
            raise KeyboardInterrupt
        plain(target, *arguments, **options)

    monkeypatch.setattr(figure, "savefig", stopped)
    with pytest.raises(KeyboardInterrupt):
        style.save_figure(figure, "fig3", "demo")
    assert set(stamps) == {path.name for path in before.iterdir()} == {"fig3.png", "fig3.pdf"}
    assert (before / f"fig3.{kind}").read_bytes() == stamps[f"fig3.{kind}"]
    assert (before / "fig3.pdf").read_bytes().endswith(b"%%EOF\n")


def kept(tmp_path):
    generator = torch.Generator().manual_seed(0)
    gradients = LastLayerGradients(
        torch.randn(20, 3, generator=generator), torch.rand(20, 5, generator=generator)
    )
    images = torch.rand(20, 1, 8, 8, generator=generator)
    coreset = selectors.gradmatch(gradients, 4)
    return overview.Selection(images, images, gradients, coreset)


def test_what_a_picture_needs_comes_back_as_it_was(tmp_path):
    one = kept(tmp_path)
    table = pd.DataFrame(dict.fromkeys(tables.NEEDED["fig1"], 0) | {"profile": ["smoke"]})
    overview.write_kept("fig1", table, overview.selection_tensors(one, "a."), tmp_path)
    _, tensors = overview.read_kept("fig1", "smoke", tmp_path)
    again = overview.selection_from(tensors, "a.")
    assert torch.equal(again.images, one.images)
    assert torch.equal(again.gradients.errors, one.gradients.errors)
    assert torch.equal(again.coreset.indices, one.coreset.indices)
    assert torch.equal(again.coreset.weights, one.coreset.weights)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_tensors_are_refused_in_a_sentence(damage, tmp_path):
    table = pd.DataFrame(dict.fromkeys(tables.NEEDED["fig1"], 0) | {"profile": ["smoke"]})
    tensors = overview.selection_tensors(kept(tmp_path), "a.")
    overview.write_kept("fig1", table, tensors, tmp_path)
    path = tmp_path / "smoke" / "fig1.safetensors"
    content = path.read_bytes()
    changed = {"flip": content[:-1] + bytes([content[-1] ^ 1]), "cut": content[:-9]}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    with pytest.raises(files.RecordError, match="delete both and make fig1 PROFILE=smoke again"):
        overview.read_kept("fig1", "smoke", tmp_path)


def test_fooled_images_were_right_and_are_wrong(undefended, digits, pgd):
    """Above the columns stand the true class and what the network says, which differ."""
    figure = pictures.show_fooled(undefended, digits, pgd, count=5)
    titles = [axis.get_title() for axis in figure.axes]
    true = [title.removeprefix("is ") for title in titles[:5]]
    said = [title.removeprefix("says ") for title in titles[10:]]
    assert len(true) == len(said) == 5
    assert all(before != after for before, after in zip(true, said, strict=True))
    assert all(title.startswith("change, ") for title in titles[5:10])
    nothing = pictures.show_fooled(undefended, digits, lambda model, images, labels: images)
    assert "none of" in nothing.axes[0].texts[0].get_text()


def test_fooled_images_stand_beside_an_undefended_network(undefended, digits):
    """The same images, each network with its own attack and what it says then."""
    names, labels = digits.class_names, digits.test.labels[:200]

    def defended(images):
        """Right about images as they are, and one class beside about black ones."""
        black = (images.flatten(1).sum(1) == 0).long()
        return torch.eye(len(names))[(labels + black) % len(names)]

    def attack(model, images, labels):
        return torch.ones_like(images) if model is undefended else torch.zeros_like(images)

    figure = pictures.show_fooled(defended, digits, attack, count=5, undefended=undefended)
    says = names[int(undefended(torch.ones(1, 1, 8, 8)).argmax())]
    assert [axis.get_title() for axis in figure.axes[15:]] == [f"undefended: {says}"] * 5
    first, second = figure.get_suptitle().splitlines()
    assert first.startswith("the network gets 200 of 200 test images right, and 200 of those wrong")
    assert second.startswith("an undefended one gets")


# ---- for those who do not see pictures


def test_a_picture_is_described_by_its_own_words():
    """All of them: titles, axes, what is in the legend, with the ends of lines and where else they
    are highest; a panel without words adds nothing, and neither does a line that nobody has named.
    """
    figure, (left, right, single, _) = plt.subplots(1, 4)
    left.plot([0, 3, 1], label="CRAIG")
    left.plot([1, 0.25, float("nan")], label="random")
    left.plot([5], "o", label="a point")
    left.fill_between([0, 1], [0, 1], label="an area")
    left.axhline(2, label="a limit")
    left.plot([8, 9], label="_nobody")
    single.plot([0, 3])
    single.set(xlabel="restarts", ylabel="right, %")
    left.set(title="Errors", xlabel="coreset, %", ylabel="gradient error, %")
    left.legend()
    right.set_title(r"a 3, $\ell_2$")
    figure.suptitle("Lesson 4.")
    assert seen.in_words(figure) == (
        "A picture. Lesson 4. Errors: gradient error, % against coreset, %: CRAIG, from 0 at 0 to 1"
        " at 2, highest 3 at 1; random, from 1 at 0 to 0.25 at 1; a point, at (0, 5); an area,"
        " filled from 0 to 1 in height; a limit, a level line at 2. a 3, l2."
        " right, % against restarts: from 0 at 0 to 3 at 1."
    )


def test_few_bars_are_described_by_their_heights_and_many_by_the_longest():
    figure, (left, right) = plt.subplots(1, 2)
    left.bar([0, 1], [0.5, 0.25], label="error")
    left.bar([0.3, 1.3], [2, 3], label="time")
    left.set_xticks([0.15, 1.15], ["CRAIG", "random"])
    right.barh(range(40), range(40), label="seconds of an epoch")
    left.legend()
    right.legend()
    assert seen.in_words(figure) == (
        "A picture. error (CRAIG: 0.5, random: 0.25); time (CRAIG: 2, random: 3)."
        " seconds of an epoch (40 bars from 0 to 39, longest at 39)."
    )


def test_points_are_described_by_their_number_their_ranges_and_how_they_go_together():
    x = np.arange(40.0)
    figure, (few, cloud, cells, steps) = plt.subplots(1, 4)
    few.plot([1, 2], [4, 3], "o")
    few.annotate("7", (2, 3))
    cloud.scatter(x, -x)
    cells.hexbin(np.repeat(x, 40), np.tile(x, 40), gridsize=8)
    steps.hist([1.0, 1.0, 2.0], [0.5, 1.5, 2.5], histtype="step", label="weights")
    assert seen.in_words(figure) == (
        "A picture. 2 points, x from 1 to 2, y from 3 to 4; marked 7 at (2, 3)."
        " 40 points, x from 0 to 39, y from -39 to 0, correlation -1.00. 1600 points, x from 0 to"
        f" 39, y from 0 to 39, correlation 0.00, most of them about ({largest_cell(cells)})."
        " weights, a histogram from 0.5 to 2.5, highest 2 at 0.5."
    )


def largest_cell(axis):
    cells = axis.collections[0]
    x, y = cells.get_offsets()[cells.get_array().argmax()]
    return f"{seen.brief(x)}, {seen.brief(y)}"


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, pd.Series])
def test_a_span_is_of_whatever_holds_numbers(kind):
    assert seen.span(kind([2.0, 0.5, 1.0])) == "from 0.5 to 2"
    assert seen.span(kind([3.0, 3.0])) == "3"


def test_images_are_described_by_what_stands_at_them_and_changes_by_their_signs():
    figure, axes = plt.subplots(1, 5)
    for axis, title in zip(axes[:3], ("a 3", "a 3", "an 8"), strict=True):
        axis.imshow(np.ones((8, 6)))
        axis.set(title=title)
    axes[2].set_xlabel("seen: 3")
    axes[3].plot([1, 2])
    axes[4].imshow([[-0.1, 0.0], [0.1, 0.1]])
    assert seen.in_words(figure) == (
        "A picture. 3 images of 6 x 8 points: a 3 (2 times); an 8, seen: 3."
        " from 1 at 0 to 2 at 1."
        " an image of 2 x 2 points; 50 % of the pixels are raised, 50 % by the whole 0.1; 25 % of"
        " the pixels are lowered, 25 % by the whole 0.1; 25 % stay as they are."
    )


def test_of_a_change_it_is_said_what_share_of_pixels_moves_where_and_how_many_all_the_way():
    """In float32, where an image plus 0.1 minus the image is not quite 0.1."""
    image = np.linspace(0, 0.9, 8, dtype=np.float32)
    change = np.array([0.1, 0.1, 0.1, 0.03, 0, -0.1, -0.02, -0.01], dtype=np.float32)
    assert seen.shares_in_words((image + change) - image, 0.1, "darker", "lighter") == (
        "50 % of the pixels are darker, 38 % by the whole 0.1; 38 % of the pixels are lighter,"
        " 12 % by the whole 0.1; 12 % stay as they are"
    )


def test_who_draws_may_say_what_is_seen_of_a_figure_or_of_a_panel():
    figure, (left, right) = plt.subplots(1, 2)
    left.set_title("k = 0.1")
    seen.described(left, "three arrows that end at 1")
    right.plot([1, 2])
    told = "A picture. k = 0.1: three arrows that end at 1. from 1 at 0 to 2 at 1."
    assert seen.in_words(figure) == told
    seen.described(figure, "All of it.")
    assert seen.in_words(figure) == "All of it."


def test_what_cannot_be_described_is_said_to_be_left_out():
    """Arrows in space, areas of any form, a dozen lines without a name; each once only."""
    figure = plt.figure()
    space = figure.add_subplot(1, 3, 1, projection="3d")
    area, lines = figure.add_subplot(1, 3, 2), figure.add_subplot(1, 3, 3)
    space.quiver(0, 0, 0, 1, 2, 3)
    area.broken_barh([(0, 1)], (0, 1))
    lines.plot(np.arange(24).reshape(2, 12))
    text = seen.in_words(figure)
    assert text.count(seen.UNSAID) == 2
    assert "12 lines or marks, from 0 to 23 in height" in text


numbers = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9)


@given(numbers, st.sampled_from(["line", "dots", "bars", "points", "steps"]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_whatever_is_drawn_is_told_in_numbers(heights, kind, named):
    """Lines, points, bars and histograms, with a name and without: the words say more than the
    title and the axes, and have no fault.
    """
    figure, axis = plt.subplots()
    axis.set(title="title", xlabel="below", ylabel="beside")
    draw = {
        "line": axis.plot,
        "dots": lambda x, y, **look: axis.plot(x, y, "o", **look),
        "bars": axis.bar,
        "points": axis.scatter,
        "steps": lambda x, y, **look: axis.hist(y, 5, histtype="step", **look),
    }[kind]
    draw(range(len(heights)), heights, **({"label": "name"} if named else {}))
    text = seen.in_words(figure)
    plt.close(figure)
    bare = re.sub("title: beside against below", "", text)
    assert not alts.faults(text + " " * alts.SHORTEST), text
    assert re.search(r"\d", bare), text


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_says_what_is_seen(name):
    assert not alts.all_faults([seen.in_words(DRAWN[name](published(name)))])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no alternative text"),
        ("A picture. change. change.", "says too little"),
        (f"A picture. {'a title and two axes ' * 3}.", "no numbers"),
        ("A picture. 7 images of 8 x 8 points: change (7 times).", "no numbers but sizes"),
        (f"A picture of 3 panels, and in all of them {seen.UNSAID}.", "left out"),
        (f"A picture. {2 * 'a line from 1 at 2 to 3 at 4. '}", "comes twice"),
        (r"A picture of the $\ell_2$ norm of 3 lines, from 1 to 5.", "mathematics"),
    ],
)
def test_words_that_say_nothing_are_found(text, fault):
    assert any(fault in one for one in alts.faults(text))


def test_whatever_shows_a_picture_in_a_kernel_has_its_text_beside_it():
    """A cell's end, `plt.show`, `notebook.show`; only once, also where the style is set again."""
    begin = "from acslib.paper import notebook, style\nimport matplotlib.pyplot as plt"
    cells = [begin, "style.use()", "style.use()"]
    cells += ["plt.plot([1, 5])", "plt.plot([1, 5]); plt.show()"]
    cells += ["plt.plot([1, 5]); notebook.show(plt.gcf())"]
    written = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    nbclient.NotebookClient(written, timeout=120, kernel_name="python3").execute()
    assert alts.of_outputs(written) == ["A picture. from 1 at 0 to 5 at 1."] * 3


def test_pictures_have_a_ground_of_their_own():
    """On a dark page black axes stand on white."""
    with plt.rc_context():
        style.use()
        content = io.BytesIO()
        plt.figure().savefig(content, dpi=20)
        content.seek(0)
        assert (plt.imread(content)[..., 3:] == 1).all()
        content.seek(0)
        assert (plt.imread(content)[..., :3] == 1).all()


def test_a_notebook_has_the_description_beside_the_picture():
    """As the text that stands for it, which the site takes for its alternative text."""
    shell = InteractiveShell.instance()
    try:
        style.use()
        figure, axis = plt.subplots()
        axis.set_title("Errors")
        assert shell.display_formatter.format(figure)[0]["text/plain"] == "A picture. Errors."
    finally:
        InteractiveShell.clear_instance()
