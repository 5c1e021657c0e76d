"""The study: arms that cost the same, differences paired by seed, a verdict by earlier rules."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from acslib.attacks.pgd import NFGSM
from acslib.gradients import Samples
from acslib.paper import build, config, intervals, masks, page, records, rows, selecting, study
from acslib.paper.params import ParamsError

ARMS = ("adaptive_random", "gradmatch", "adaptive_random_null", "full_early", "full")


def by_seed(n=9, sizes=(0.1, 0.2, 0.5), above=0.0, noise=0.2):
    """What `study.by_seed` gives: random accuracies, GradMatch's `above` the reference's."""
    random = np.random.default_rng(0)
    found = []
    for seed in range(n):
        level = random.normal(40, 3)  # a seed's own, which pairs take away
        for arm in ARMS:
            for k in {"full": (1.0,), "full_early": (0.2,)}.get(arm, sizes):
                for measure in study.MEASURES:
                    value = level + above * (arm == "gradmatch") + random.normal(0, noise)
                    row = {"objective": "linf", "k": k, "arm": arm, "seed": seed}
                    row |= {"measure": measure, "value": value, "seconds": 10 * k}
                    found.append(row | {"adversarial_images": 100, "device": "a test"})
    return pd.DataFrame(found)


def one(table, **wanted):
    for name, value in wanted.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_intervals_are_students_of_paired_differences():
    table = by_seed()
    found = study.compared(table)
    for k in (0.1, 0.2, 0.5):
        chosen = [
            table[(table.arm == arm) & (table.k == k) & (table.measure == "racc")]
            .sort_values("seed")
            .value.to_numpy()
            for arm in ("gradmatch", "adaptive_random")
        ]
        low, high = ttest_rel(*chosen).confidence_interval(0.95)
        row = one(found, arm="gradmatch", k=k, measure="racc")
        assert (row.ci_low, row.ci_high) == pytest.approx((low, high))
        assert row.difference == pytest.approx((chosen[0] - chosen[1]).mean())


def test_the_mean_over_sizes_is_that_of_each_seed():
    table = by_seed()
    wide = table[table.measure == "acc"].pivot_table("value", "seed", ["arm", "k"])
    means = {arm: wide[arm].mean(axis=1) for arm in ("gradmatch", "adaptive_random")}
    low, high = ttest_rel(means["gradmatch"], means["adaptive_random"]).confidence_interval(0.95)
    row = one(study.compared(table), arm="gradmatch", k=study.MEAN, measure="acc")
    assert (row.ci_low, row.ci_high) == pytest.approx((low, high))


def test_what_has_no_size_in_common_has_no_difference():
    found = study.compared(by_seed())
    assert found[found.arm == "full"].difference.isna().all()
    early = found[found.arm == "full_early"]
    assert list(early.k) == [0.2, 0.2]
    assert early.difference.notna().all()
    reference = found[found.arm == "adaptive_random"]
    assert (reference.difference == 0).all()
    assert reference.ci_low.isna().all()
    assert list(found) == study.COLUMNS
    # two measures: GradMatch and the null have three sizes and their mean, full_early has one size
    assert study.comparisons(found) == 2 * (4 + 4 + 1)


def test_one_seed_has_no_interval():
    found = study.compared(by_seed(n=1))
    assert found.ci_low.isna().all()
    assert found.ci_high.isna().all()
    (said,) = study.verdicts(found)
    assert "one seed cannot tell gradmatch from adaptive_random" in said
    assert said.endswith(" points, one seed; the stopping rule asks for more seeds).")
    assert "nan" not in said


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.9, "gradmatch beats adaptive_random, and not by more than a point"),
        (0.1, 1.9, "gradmatch beats adaptive_random"),
        (-0.9, -0.1, "gradmatch is worse than adaptive_random"),
        (-0.4, 0.9, "gradmatch does not beat adaptive_random by more than a point; whether"),
        (-0.4, 1.9, "whether gradmatch beats adaptive_random cannot be told"),
    ],
)
def test_the_verdict_is_what_the_interval_says(low, high, said):
    assert study.judged(low, high).startswith(said)
    if said.endswith("random"):
        assert study.judged(low, high) == said


def test_the_rule_asks_for_seeds_and_for_precision():
    assert study.is_enough(study.compared(by_seed(n=9, noise=0.05))) == {"linf": True}
    assert study.is_enough(study.compared(by_seed(n=7, noise=0.05))) == {"linf": False}
    assert study.is_enough(study.compared(by_seed(n=9, noise=3))) == {"linf": False}
    assert "asks for more seeds" in study.verdicts(study.compared(by_seed(n=7)))[0]


def test_a_true_difference_is_seen():
    found = study.compared(by_seed(above=0.6))
    assert study.verdicts(found)[0].startswith("linf: gradmatch beats adaptive_random, and not by")


def test_the_figure_has_every_arm_that_has_a_difference():
    figure = intervals.figure_study(study.compared(by_seed()))
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["Adv. GradMatch", "Adaptive random, other draws", "All data, fewer epochs"]
    plt.close(figure)


# ---- the arms


def runs(profile="mini"):
    planned = rows.planned(study.ITEM, profile)
    return [
        (row, config.resolve(config.run_name(row.setting_name, row.method, row.varied), profile))
        for row in planned
    ]


def test_arms_are_those_that_were_asked_for():
    found = {}
    for row, run in runs():
        found.setdefault(row.columns["arm"], set()).add(
            (study.objective_of(run), row.varied.get("coreset_fraction"))
        )
    everywhere = {(objective, k) for objective in ("linf", "trades") for k in (0.1, 0.2, 0.5)}
    of_three = ("adaptive_random", "adaptive_random_null", "gradmatch", "craig")
    assert all(found[arm] == everywhere for arm in of_three)
    once = {("linf", 0.2), ("trades", 0.2)}
    rest = {arm: where for arm, where in found.items() if arm not in of_three}
    assert rest.pop("full") == {("linf", None), ("trades", None)}
    assert set(rest) == {
        *("gradmatch_unweighted", "random", "adaptive_random_each_epoch", "el2n", "easiest"),
        *("full_early", "nfgsm"),
    }
    assert all(where == once for where in rest.values())


def test_arms_of_a_size_train_on_as_many_images_as_one_another():
    """But those that attack by a single step, which have as many more epochs as it is faster."""
    for row, run in runs():
        if row.columns["arm"] not in ("nfgsm", "full"):
            epochs = run.plan.cost * len(run.plan)
            assert epochs == pytest.approx(20 * row.varied["coreset_fraction"], abs=0.41)


def test_all_arms_of_a_seed_begin_with_the_same_images_and_others_with_others():
    run = config.resolve("study-linf.full", "demo")
    images = [
        build.load_data(run.setting.model_copy(update={"train_limit": 100}), "cpu", seed).train
        for seed in (0, 0, 1)
    ]
    assert torch.equal(images[0].images, images[1].images)
    assert not torch.equal(images[0].images, images[2].images)
    fixed = config.resolve("resnet18-linf-cifar10.full+train_limit@100", "demo").setting
    first, second = (build.load_data(fixed, "cpu", seed).train.images for seed in (0, 1))
    assert torch.equal(first, second)


def test_another_draw_chooses_others():
    name = "study-linf.adaptive_random+coreset_fraction@0.2"
    first, second = (
        selecting.build_selector(config.resolve(name + draw, "demo"), 0)(Samples(100), 20)
        for draw in ("", "+selection_draw@1")
    )
    assert not torch.equal(first.indices, second.indices)


def test_nfgsm_is_an_arm_by_name_and_for_linf():
    run = config.resolve("study-linf.full+attack@nfgsm", "demo")
    objective = build.build_objective(run.setting, 5, torch.Generator(), "cpu")
    assert isinstance(objective.attack, NFGSM)
    assert objective.attack.epsilon == run.setting.epsilon
    with pytest.raises(ParamsError, match="attack is nfgsm under norm l2: it is for linf"):
        config.resolve("resnet18-l2-svhn.full+attack@nfgsm", "demo")


# ---- what is counted and kept


def test_images_that_are_attacked_to_select_by_are_counted():
    history = [
        {"samples": 100, "selection": None},
        {"samples": 20, "selection": {"size": 20, "of": 100, "error": 0.1}},
        {"samples": 20, "selection": {"size": 20, "of": 100}},  # random: nothing was attacked
        {"selection": None},
    ]
    assert study.adversarial_images(history) == 100 + 20 + 100 + 20


@given(st.lists(st.booleans(), max_size=50))
def test_masks_come_back(values):
    mask = np.array(values, dtype=bool)
    assert np.array_equal(masks.unpacked(masks.packed(mask)), mask)


def test_a_records_masks_are_what_its_accuracies_are_of_and_shards_restore_it(tmp_path):
    from acslib.paper import runs as execution

    run = config.resolve("study-linf.full+epoch_factor@0.2", "smoke")
    record = execution.execute(run, 3, "cpu", tmp_path / "made")
    for name, text in record["masks"].items():
        mask = masks.unpacked(text)
        assert mask.mean() == pytest.approx(record["metrics"][name])
    assert set(record["masks"]) >= {"acc", "racc"}
    (kept,) = study.keep("smoke", [3], tmp_path / "made")
    assert study.restore("smoke", kept.parent, tmp_path / "again") == 1
    assert study.restore("smoke", kept.parent, tmp_path / "again") == 0  # it is there
    found = records.finished_record(run, 3, tmp_path / "again")
    assert json.dumps(found, sort_keys=True) == json.dumps(record, sort_keys=True)
    rows_of_it = study.by_seed("smoke", [3], tmp_path / "again", partial=True)
    assert list(rows_of_it.arm.unique()) == ["full_early"]


def test_what_a_seed_gave_is_published_too(tmp_path):
    shard = study.shard("smoke", 4, tmp_path)
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"as it is")
    folder = page.publish("smoke", [4], tmp_path, tmp_path / "figures")
    assert (folder / "study" / shard.name).read_bytes() == b"as it is"


def test_what_is_published_is_what_the_published_records_say(tmp_path):
    published = Path(__file__).parents[1] / "results" / "published" / "mini"
    assert study.restore("mini", published / "study", tmp_path) > 0
    seeds = study.seeds_of("mini", tmp_path)
    found = study.compared(study.by_seed("mini", seeds, tmp_path, partial=True))
    written = pd.read_csv(published / "study.csv", dtype={"k": str})
    found["k"] = found.k.astype(str)
    pd.testing.assert_frame_equal(found, written, check_dtype=False)
