"""What `tools/claims.py` writes: intervals by scipy, and pages that fill themselves when there is
something to fill in.
"""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from acslib.paper import intervals, life, study, timing

ROOT = Path(__file__).parents[1]
SIZES = {"adaptive_random": (0.1, 0.2, 0.5), "gradmatch": (0.1, 0.2, 0.5), "full_early": (0.2,)}


@pytest.fixture
def claims():
    spec = importlib.util.spec_from_file_location("claims", ROOT / "tools" / "claims.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def published(claims, monkeypatch, tmp_path):
    """publish(name, table): as if it were published, beside everything that is."""
    for source in (ROOT / "results" / "published").glob("*/*.csv"):
        target = tmp_path / source.parent.name / source.name
        target.parent.mkdir(exist_ok=True)
        if source.stem not in ("study", "life", "time"):
            target.write_bytes(source.read_bytes())
    monkeypatch.setattr(claims, "PUBLISHED", tmp_path)

    def publish(name, table, profile=claims.PROFILE):
        (tmp_path / profile).mkdir(exist_ok=True)
        table.to_csv(tmp_path / profile / f"{name}.csv", index=False)

    return publish


def a_study(seeds, above=0.0, noise=0.1, arms=SIZES):
    random = np.random.default_rng(0)
    rows = [
        {"objective": objective, "k": k, "arm": arm, "seed": seed, "measure": measure}
        | {"value": 40 + above * (arm == "gradmatch") + random.normal(0, noise)}
        | {"seconds": 10.0, "adversarial_images": 100, "device": "a test"}
        for objective in ("linf", "trades")
        for arm, sizes in arms.items()
        for k in sizes
        for seed in range(seeds)
        for measure in study.MEASURES
    ]
    return study.compared(pd.DataFrame(rows))


def test_intervals_of_table_1_are_welchs(claims):
    random = np.random.default_rng(0)
    draws = random.normal(40, 1, 3), random.normal(41, 3, 4)
    runs = [
        pd.Series({"racc_pct": x.mean(), "racc_std_pct": x.std(ddof=1), "seeds": len(x)})
        for x in draws
    ]
    interval = ttest_ind(*draws, equal_var=False).confidence_interval(0.95)
    assert claims.half_width(*runs, "racc") == pytest.approx((interval.high - interval.low) / 2)
    alone = pd.Series({"racc_pct": 40.0, "racc_std_pct": np.nan, "seeds": 1})
    assert claims.difference(alone, runs[1], "racc").count("to") == 0


def test_without_a_study_nothing_is_decided(claims, published):
    assert claims.decided() == "not decided yet: 0 of 8 seeds"
    assert "**not decided yet**" in claims.verdict()
    for name in ("arms", "figure", "lives", "last_layer", "arithmetic"):
        assert "yet" in claims.written(name) or "published" in claims.written(name)


@pytest.mark.parametrize(
    ("made", "word", "sentence"),
    [
        ({"seeds": 1}, "not decided yet: 1 of 8 seeds", "one seed cannot tell GradMatch from Adap"),
        ({"seeds": 3}, "not decided yet: 3 of 8 seeds", "So far: "),
        ({"seeds": 9, "noise": 3}, "not decided yet: half-width", "of 0.3 points"),
        (
            {"seeds": 9, "above": 0.6},
            "holds, by less than a point",
            "GradMatch beats Adaptive random, and not by more",
        ),
        ({"seeds": 9, "above": -2}, "does not hold: worse", "GradMatch is worse than"),
        ({"seeds": 9}, "does not hold by more than a point", "does not beat Adaptive random by"),
    ],
)
def test_words_and_sentences_follow_the_study(claims, published, made, word, sentence):
    published("study", a_study(**made))
    assert claims.decided().startswith(f"linf-PGD: {word}")
    linf, trades = claims.verdict().splitlines()
    assert sentence in linf
    assert trades.startswith("- TRADES: ")
    assert "gradmatch" not in linf + trades
    assert "adaptive_random" not in linf + trades
    assert claims.arms().count("GradMatch") == 1
    assert ("one seed" in claims.arms()) == (made["seeds"] == 1)


def test_an_arm_whose_runs_are_not_there_yet_is_left_out(claims, published):
    table = a_study(2)
    gone = (table.objective == "trades") & (table.arm == "full_early")
    published("study", table[~gone])
    (line,) = [row for row in claims.arms().splitlines() if "fewer epochs" in row]
    assert line.endswith("| - | - |")


def a_life():
    key = ["method", "draw", "view"]
    rows = [
        {"condition": "as trained", "epoch": epoch, "error": 0.1 * (i + 1) + epoch, "seed": 0}
        | dict(zip(key, (method, 0, view), strict=True))
        for i, method in enumerate(("adv_gradmatch", "adv_craig", "random"))
        for view in life.VIEWS
        for epoch in (0, 1, 4)
    ]
    return pd.DataFrame(rows).assign(profile="mini")


def a_time():
    known = pd.DataFrame(timing.schedules()).assign(profile="mini", selections=2, speedup_x=1.9)
    known = known.assign(images=32, threads=1, device="a test", rounds=3)
    return pd.concat(
        known.assign(selection_steps=steps, papers=steps == 1) for steps in (1, 10)
    ).reset_index(drop=True)


def test_what_is_published_later_is_on_the_page(claims, published):
    published("life", a_life())
    published("time", a_time())
    assert claims.last_layer() == "holds (rank correlation 1.00)"
    assert "| GradMatch | 0.10 | 0.10 | 0.10 | 1.10 | 4.10 |" in claims.lives()
    assert claims.measured_on() == "a test (32 images at a time)"
    assert "| ResNet-18, TRADES, CIFAR-10 | 2.00 | 1.90 | 1.92 / 1.93 |" in claims.arithmetic()
    published("time", a_time().assign(speedup_x=1.5, device="a GPU"), "full")
    assert claims.measured_on().endswith(", a GPU (32 images at a time)")
    assert "| 2.00 | 1.90, 1.50 | 1.92 / 1.93 | 1.90 | 1.90 |" in claims.arithmetic()


def test_claims_are_short_whatever_comes(claims, published):
    """With everything on it, the page has 3,000 words at most."""
    published("study", a_study(3, noise=3))
    published("life", a_life())
    published("time", a_time())
    text = claims.filled((ROOT / "docs" / "claims.md").read_text())
    assert len(text.split()) <= 3000


def test_every_block_and_word_is_written_by_a_function(claims):
    for document in claims.DOCUMENTS:
        text = document.read_text()
        marks = re.findall(r"<!-- (?:numbers|word): (\w+) -->", text)
        found = [*claims.BLOCK.finditer(text), *claims.WORD.finditer(text)]
        assert sorted(marks) == sorted(one[2] for one in found)
        assert text.count("<!-- end -->") == len(marks)
        # a comment that begins a line ends the paragraph in Markdown
        assert not re.search(r"^ *<!-- word", text, re.M)


def test_what_the_papers_tables_say_at_equal_time(claims):
    """Typed here from the printed tables."""
    table = claims.equal_time()
    assert "| CIFAR-10, all data | 60 | 1024 | 86.79 | 48.86 |" in table
    assert "| CIFAR-10, GradMatch | 120 | 1364 | 83.47 | 42.16 |" in table
    assert claims.shorter_wins() == "more accurate, more robust and done earlier"
    assert claims.twofold() == "7 of 16"
    assert claims.above().startswith("5 of ")


def test_arms_have_names_for_people():
    assert intervals.arm_label("easiest") == "EasyCore"
