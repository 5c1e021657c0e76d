"""A coreset that one can look at: what the frames count, what the pictures show, what is read of
runs, and that sliders redraw.
"""

import base64
import html
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acslib import selectors
from acslib.data import Dataset, ImageSet
from acslib.paper import (
    checkpoints,
    config,
    coreset_pictures,
    explain,
    explore,
    files,
    inventory,
    items,
    membership,
    notebook,
    one_image,
    paramfiles,
    params,
    records,
    runs,
    verdict,
    widgets,
)
from acslib.selectors import Coreset

NAME = "resnet18-linf-cifar10.gradmatch"
N = 12


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of results with a finished coreset run and its full training."""
    results = tmp_path_factory.mktemp("explored")
    for method in ("full", "gradmatch"):
        runs.execute(config.resolve(f"resnet18-linf-cifar10.{method}", "smoke"), 0, "cpu", results)
    return results


@pytest.fixture
def run(trained, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", trained)
    return config.resolve(NAME, "smoke")


def coreset(*indices, weights=None):
    return Coreset(
        torch.tensor(indices, dtype=torch.int64), torch.tensor(weights or [1.0] * len(indices))
    )


def some_data(n=N, classes=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    part = ImageSet(images, torch.arange(n) % classes)
    return Dataset("some", part, None, part, ("a", "b$", "c"), False, 0, "made up")


# ---- frames


subsets = st.lists(st.sets(st.integers(0, N - 1), min_size=1), min_size=1, max_size=5)


@given(subsets)
def test_every_image_is_of_one_kind_and_counted_as_often_as_it_is_chosen(several):
    coresets = {epoch: coreset(*sorted(chosen)) for epoch, chosen in enumerate(several)}
    times = membership.times_chosen(coresets, N).tolist()
    assert times == [sum(i in chosen for chosen in several) for i in range(N)]
    found = membership.kinds(coresets, N)
    assert sorted(torch.cat(list(found.values())).tolist()) == list(range(N))
    assert set(found["always"].tolist()) == set.intersection(*several)
    assert set(found["never"].tolist()) == set(range(N)) - set.union(*several)
    shares = membership.kind_shares(coresets, N)
    assert shares.share_pct.sum() == pytest.approx(100)
    assert shares.by_chance_pct.sum() == pytest.approx(100)
    assert (shares.by_chance_pct > -1e-9).all()


def test_what_chance_gives_by_hand():
    """Half of the images twice: a quarter always, a quarter never."""
    halves = {0: coreset(*range(6)), 1: coreset(*range(3, 9))}
    shares = membership.kind_shares(halves, N)
    assert shares.by_chance_pct.tolist() == [25, 50, 25]
    assert shares.images.tolist() == [3, 6, 3]


@given(subsets)
def test_overlap_is_the_share_that_is_in_both(several):
    coresets = {str(place): coreset(*sorted(chosen)) for place, chosen in enumerate(several)}
    table = membership.overlap(coresets)
    for a, first in enumerate(several):
        for b, second in enumerate(several):
            assert table.loc[str(a), str(b)] == pytest.approx(
                100 * len(first & second) / len(first)
            )


def test_balance_by_hand():
    labels = torch.tensor([0, 0, 0, 1])
    shares = membership.balance(labels, coreset(0, 3, weights=[1.0, 3.0]), ("a", "b"))
    assert shares.data_pct.tolist() == [75, 25]
    assert shares.images_pct.tolist() == [50, 50]
    assert shares.weight_pct.tolist() == [25, 75]


def test_errors_are_those_of_selections_that_looked_at_gradients():
    looked = {"size": 3, "relative_error": 0.1, "random_relative_error": 0.4}
    history = [{"epoch": 0, "selection": None}, {"epoch": 1, "selection": looked}]
    blind = [{"epoch": 1, "selection": {"size": 3, "reason": "budget"}}]
    found = membership.gradient_errors({"GradMatch": history, "Random": blind})
    assert found.to_dict("records") == [
        {"training": "GradMatch", "epoch": 1, "relative_error": 0.1, "random_relative_error": 0.4}
    ]


# ---- pictures


def texts(figure):
    found = [text.get_text() for axis in figure.axes for text in (axis.title, *axis.texts)]
    return found + [part.get_suptitle() for part in figure.subfigs]


def test_chosen_images_stand_above_those_left_out_with_class_and_weight():
    chosen = coreset(1, 4, 8, weights=[0.5, 2.0, 1.0])
    figure = coreset_pictures.draw_images(some_data(), chosen, epoch=7)
    upper, lower = figure.subfigs
    assert [axis.get_title() for axis in upper.axes][:3] == ["b\\$\n2.00", "c\n1.00", "b\\$\n0.50"]
    left_out = [axis.get_title() for axis in lower.axes if axis.images]
    assert len(left_out) == N - 3
    assert set("\n".join(left_out)) <= set("abc\\$\n")
    assert "number 1 to 3 of 3" in texts(figure)[-2]
    assert "(b$ 2.00, c 1.00, b$ 0.50 ...)" in figure.get_label()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_pages_show_every_chosen_image_once(n, k, page):
    k = min(n, k)
    chosen = coreset(*range(k), weights=[float(1 + i) for i in range(k)])
    shown = len(chosen.indices[coreset_pictures.PAGE * page : coreset_pictures.PAGE * (page + 1)])
    figure = coreset_pictures.draw_images(some_data(n), chosen, page)
    upper, lower = figure.subfigs
    assert sum(bool(axis.images) for axis in upper.axes) == shown
    assert sum(bool(axis.images) for axis in lower.axes) == min(coreset_pictures.PAGE, n - k)
    plt.close(figure)


def test_membership_is_black_where_an_image_is_chosen():
    coresets = {3: coreset(0, 1, 2), 5: coreset(0, 1, 5)}
    figure = coreset_pictures.draw_membership(coresets, some_data())
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (2, N)
    assert shown.sum(1).tolist() == [3, 3]
    both = np.flatnonzero(shown.sum(0) == 2)
    assert len(both) == 2
    assert figure.get_label().endswith("17 % are black in every row, 67 % in none.")


def test_an_overlap_says_every_number():
    table = membership.overlap({"x": coreset(0, 1), "y": coreset(1, 2, 3, 4)})
    figure = coreset_pictures.draw_overlap(table, 33, "two things")
    assert [text.get_text() for text in figure.axes[0].texts] == ["100", "50", "25", "100"]
    assert "25 to 50 %" in figure.get_label()
    assert "by chance 33 %" in figure.get_label()


def test_bars_of_classes_differ_by_more_than_colour():
    shares = membership.balance(torch.arange(N) % 3, coreset(0, 1, 3), ("a", "b", "c"))
    figure = coreset_pictures.draw_balance(shares)
    looks = {(bars[0].get_facecolor(), bars[0].get_hatch()) for bars in figure.axes[0].containers}
    brightness = {round(sum(colour[:3]), 1) for colour, _ in looks}
    assert len(brightness) == 3
    assert [len(bars) for bars in figure.axes[0].containers] == [3, 3, 3]


def test_errors_and_sizes_are_drawn_as_they_are():
    found = pd.DataFrame(
        {
            "training": ["Adv. GradMatch"] * 2,
            "epoch": [1, 2],
            "relative_error": [0.1, 0.2],
            "random_relative_error": [0.3, 0.4],
        }
    )
    axis = coreset_pictures.draw_gradient_errors(found).axes[0]
    assert [line.get_ydata().tolist() for line in axis.lines] == [[0.1, 0.2], [0.3, 0.4]]
    assert axis.lines[1].get_fillstyle() == "none"
    sizes = pd.DataFrame(
        {"method": ["craig"] * 2, "coreset_fraction": [0.1, 0.5], "relative_error": [0.4, 0.2]}
    )
    figure = coreset_pictures.draw_sizes(sizes, 0.5)
    assert figure.axes[0].lines[0].get_xdata().tolist() == [10, 50]
    assert "from 0.4 to 0.2" in figure.get_label()
    assert (
        "looked at gradients"
        in coreset_pictures.draw_gradient_errors(found[:0]).axes[0].texts[0].get_text()
    )


# ---- one image under attack


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_an_attack_keeps_to_its_bound(undefended, batch, norm, steps):
    images, labels = batch
    found = one_image.attack(undefended, images[0], int(labels[0]), 0.2, steps, norm)
    change = found.adversarial - found.image
    size = change.abs().max() if norm == "linf" else change.norm()
    assert float(size) <= 0.2 + 1e-6
    for part in (found.before, found.after):
        assert float(part.sum()) == pytest.approx(1, abs=1e-5)


def test_no_bound_is_no_change_and_a_larger_one_hurts(undefended, batch):
    images, labels = batch
    at = [one_image.attack(undefended, images[3], int(labels[3]), size, 10) for size in (0, 0.3)]
    assert torch.equal(at[0].image, at[0].adversarial)
    assert float(at[1].after[labels[3]]) < float(at[0].after[labels[3]])
    names = [str(k) for k in range(10)]
    assert "no change" in texts(one_image.draw_attack(at[0], names))
    said = one_image.draw_attack(at[1], names).get_label()
    assert f"An image of {int(labels[3])}; the attack moves pixels by up to 0.300" in said


# ---- runs


def test_a_finished_run_is_read_whole(run):
    seen = explore.seen_of(run, 0)
    assert seen.finished
    assert list(seen.coresets) == [epoch.index for epoch in run.plan if epoch.select]
    assert not seen.model.training
    assert seen.last.indices.equal(checkpoints.load_coresets(run, 0)[max(seen.coresets)].indices)
    assert explore.histories(seen) == {"Adv. GradMatch": seen.history}


def test_a_run_that_is_still_training_shows_what_it_has(tmp_path, monkeypatch, capsys):
    """Another process trains it: it is neither waited for nor trained a second time."""
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    run = config.resolve(NAME, "smoke")
    first = next(epoch.index for epoch in run.plan if epoch.select)

    class Killed(Exception):
        pass

    def until(epochs):
        def stop(row):
            if row["epoch"] + 1 == epochs:
                raise Killed

        with pytest.raises(Killed):
            runs.execute(run, 0, "cpu", told=runs.Told(progress=stop))

    until(first + 1)
    monkeypatch.setattr(notebook, "train_run", None)
    monkeypatch.setattr(records, "is_training", lambda folder: True)
    with pytest.raises(files.RecordError, match=f"selects first in epoch {first}: run this cell"):
        explore.open_run(run, 0)
    until(first + 2)
    seen = explore.open_run(run, 0)
    assert list(seen.coresets) == [first]
    assert f"still training: {first + 1} of {len(run.plan)} epochs" in capsys.readouterr().out


def test_full_training_is_refused_in_a_sentence(run):
    full = config.resolve("resnet18-linf-cifar10.full", "smoke")
    with pytest.raises(params.ParamsError, match="selects nothing, .* resnet18-linf-cifar10.gradm"):
        explore.open_run(full, 0)


def test_other_sizes_and_methods_from_the_same_gradients(run):
    seen = explore.seen_of(run, 0)
    sizes, methods = [0.2, 0.5], ["gradmatch", "craig", "random"]
    made = explore.reselect(seen, sizes, methods, most=96)
    found = made.coresets
    assert len(made.data.train) == 96
    assert list(found) == [(method, size) for method in methods for size in sizes]
    for (_, size), one in found.items():
        assert len(one) <= math.ceil(size * 96) + run.setting.selection_batch_size
        assert int(one.indices.max()) < 96
    by_method = made.errors.pivot_table("relative_error", "coreset_fraction", "method")
    assert (by_method.gradmatch < by_method.random).all()
    again = explore.reselect(seen, sizes, methods, most=96)
    assert again.errors.equals(made.errors)
    assert all(found[key].indices.equal(again.coresets[key].indices) for key in found)


# ---- sliders


def drawn(calls):
    def draw(**values):
        calls.append(values)
        return plt.figure()

    return draw


@pytest.fixture
def shown(monkeypatch):
    """What is displayed."""
    found = []
    monkeypatch.setattr(notebook, "display", lambda thing, metadata=None: found.append(metadata))
    monkeypatch.setattr(widgets, "display", lambda bundle, raw: found.append(bundle))
    return found


def test_a_slider_stands_below_its_pictures_and_redraws(shown):
    calls = []
    still = [{"k": 0.1}, {"k": 0.5}]
    box = widgets.scrub(drawn(calls), still, begin={"k": 0.5}, k=[0.1, 0.5, 0.9])
    assert calls[:2] == still
    assert shown[-1]["text/plain"] == widgets.WITHOUT_KERNEL
    view = shown[-1]["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == box.model_id
    handle = box.children[0]
    assert (handle.value, handle.description) == (0.5, "k")
    handle.value = 0.9
    assert calls[-1] == {"k": 0.9}


IMAGE = '<img alt="(.*)" src="data:image/png;base64,(.*)">'


def test_pressing_an_image_draws_it(shown):
    calls = []
    images = torch.rand(3, 1, 4, 4)
    box = widgets.gallery(
        images,
        ['"x" & <x>', "y", "z"],
        drawn(calls),
        [{"image": 0, "steps": 5}],
        begin={"image": 1, "steps": 5},
        steps=[0, 5],
    )
    row, controls = box.children
    row.children[2].children[1].click()
    assert calls[-1] == {"image": 2, "steps": 5}
    controls.children[1].value = 0
    assert calls[-1] == {"image": 2, "steps": 0}
    alt, picture = re.search(IMAGE, row.children[0].children[0].value).groups()
    assert html.unescape(alt) == 'image "x" & <x>'
    assert base64.b64decode(picture)[:4] == b"\x89PNG"


def test_a_picture_is_shown_once_and_closed(shown):
    """The text comes from `style.use`, see `test_figures.py`."""
    figure = plt.figure()
    notebook.show(figure)
    assert len(shown) == 1
    assert not plt.get_fignums()


# ---- the story of a run


def test_a_dozen_parameters_with_the_papers_and_why_they_differ():
    run = config.resolve(f"{NAME}+period@2", "demo")
    first, others = explain.at_a_glance(run)
    found = {one.name: one for one in first}
    assert 10 <= len(first) <= 14
    assert (found["epochs"].here, found["epochs"].because) == ("20", "profile demo")
    assert found["period"].because == "the run's name"
    assert found["epsilon"].paper == "8/255"
    assert found["epsilon"].here == "0.125"
    assert found["norm"] == ("norm", "linf", "linf", "", explain.meanings()["norm"])
    assert found["warm_start"].paper == "0.6, not printed"
    assert {one.name for one in others} >= {"stem", "test_limit"}
    assert all(one.because for one in others)


def test_full_training_has_no_parameters_of_coresets():
    run = config.resolve("resnet18-linf-cifar10.full", "full")
    first, others = explain.at_a_glance(run)
    assert not {"coreset_fraction", "warm_start", "period"} & {one.name for one in first}
    assert [one.name for one in others] == ["memory_format"]
    assert not any(one.because for one in first)


def test_the_papers_numbers_are_grey_and_slanted_and_rows_are_ruled():
    table = pd.DataFrame({"ours": ["1 < 2"], "paper ours": ["3"]})
    html = notebook.ruled(table).to_html()
    assert "border-bottom" in html
    assert "1 &lt; 2" in html
    grey = re.search(r"#(T_\w+_row0_col1) \{\s+opacity: 0.65;\s+font-style: italic;", html)
    assert grey
    assert "row0_col0 {" not in html


def test_a_verdict_is_computed_from_the_records(run):
    said = verdict.of_run(run, 0)
    record = records.finished_record(run, 0)
    full = records.finished_record(config.resolve("resnet18-linf-cifar10.full", "smoke"), 0)
    assert f"{100 * record['metrics']['acc']:.1f} % of 60 test images" in said
    difference = 100 * (full["metrics"]["racc"] - record["metrics"]["racc"])
    assert verdict.points(difference) + " under attack" in said
    assert "times as fast, of 2.00 that its schedule allows" in said
    of_full = verdict.of_run(config.resolve("resnet18-linf-cifar10.full", "smoke"), 0)
    assert of_full.endswith("which coresets are compared with.")


def test_a_verdict_without_full_training_says_how_to_get_it(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    (tmp_path / "smoke" / "runs").mkdir(parents=True)
    (tmp_path / "smoke" / "runs" / NAME).symlink_to(trained / "smoke" / "runs" / NAME)
    said = verdict.of_run(config.resolve(NAME, "smoke"), 0)
    assert "make run RUN=resnet18-linf-cifar10.full SEED=0 PROFILE=smoke." in said
    assert "times as fast" not in said


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (0.04, "as accurate"),
        (-0.04, "as accurate"),
        (1.26, "1.3 points better"),
        (-3, "3.0 points worse"),
    ],
)
def test_points_in_words(difference, words):
    assert verdict.points(difference) == words


# ---- what is there


def test_progress_counts_finished_runs_of_every_item(run, trained):
    (trained / "smoke" / "table4.csv").write_text("x\n")
    found = {one.item: one for one in inventory.progress("smoke")}
    assert list(found) == paramfiles.item_names()
    assert (found["table1"].finished, found["table1"].of) == (
        2,
        len(items.table_runs("table1", "smoke")),
    )
    assert found["table4"].gathered
    assert not found["table1"].gathered
    assert not any(one.finished for one in inventory.progress("smoke", seed=1))
    text = notebook.show_progress("smoke").data
    assert "[make it](experiments/table1.ipynb), [draw it](figures/table1.ipynb) | 2 of 40" in text
    (trained / "smoke" / "table4.csv").unlink()


def test_random_is_no_better_than_random(run):
    """The frames know no favourites: random subsets are chosen as often as chance says."""
    generator = torch.Generator().manual_seed(0)
    coresets = {k: selectors.random(2000, 1000, generator) for k in range(3)}
    shares = membership.kind_shares(coresets, 2000)
    assert (shares.share_pct - shares.by_chance_pct).abs().max() < 3
