"""The page of speed: what it computes from rounds of seconds, and that nothing is lost on it."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from benchmarks import measured, page, same_accuracy
from benchmarks.measured import Row, Work

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "results" / "published" / "bench"
RATES = {"float64": [2e9], "float32": [4e9], "bfloat16": [8e9, 8e9, 1e9], "copy": [1e9]}
CEILINGS = {"float64": 2e9, "float32": 4e9, "bfloat16": 8e9, "copy": 1e9}
positive = st.floats(1e-6, 1e3)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=5))
def test_a_ratio_is_taken_round_by_round(rounds):
    ours, theirs = zip(*rounds, strict=True)
    assert Row("a", "b", ours, "c", theirs).ratios == [t / o for o, t in rounds]
    assert Row("a", "b", ours).ratios == []


def test_a_floor_is_the_larger_of_operations_and_bytes():
    assert Work(4e9, "float32", 2e9).floor(CEILINGS) == 2
    assert Work(4e9, "float64", 1e9).floor(CEILINGS) == 2
    assert Work(bytes=3e9).floor(CEILINGS) == 3
    row = Row("a", "b", [8.0, 4.0, 5.0], work=Work(4e9, "float64"))
    assert row.share(CEILINGS) == pytest.approx(2 / 5)
    assert Row("a", "b", [1.0]).share(CEILINGS) is None


@pytest.mark.parametrize("work", [None, Work(1e9, "bfloat16", 7.0)])
def test_rows_come_back_from_the_other_process(work):
    row = Row("a", "b", [1.0, 2.0], "c", [3.0, 4.0], work, "d")
    assert Row.from_json(row.to_json()) == row


def test_ways_take_turns_and_the_first_rounds_do_not_count():
    said = []
    ways = {name: lambda name=name: said.append(name) or name for name in "ab"}
    seconds, answers = measured.in_turn(ways, 2, first=1)
    assert said == ["b", "a", "a", "b", "b", "a"]
    assert {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}
    assert answers == {"a": "a", "b": "b"}


def test_seconds_are_those_of_the_work():
    ways = {"short": lambda: time.sleep(0.01), "long": lambda: time.sleep(0.05)}
    seconds, _ = measured.in_turn(ways, 3, clock=time.perf_counter)
    assert min(seconds["long"]) >= 0.05 > max(seconds["short"]) >= 0.01


def test_the_page_has_every_row_and_number(tmp_path):
    rows = [
        Row("Selecting", "one", [0.5, 0.25, 1.0], "peer 1.2", [2.0] * 3, Work(2e8), "note"),
        Row("Selecting", "two", [2.0], work=Work(bytes=1e9)),
        Row("Attacking", "three", [4.0, 6.0], "peer 3", [4.0, 3.0]),
    ]
    page.write(tmp_path, rows, RATES, {"processor": "of some kind"})
    text = (tmp_path / "README.md").read_text()
    one = "| one (note) | 500 (250 to 1e+03) ms | 4.00 (2.00 to 8.00)x | peer 1.2 | 50 ms | 10 % |"
    assert one in text.splitlines()
    assert "| two | 2 s |  |  | 1 s | 50 % |" in text.splitlines()
    assert "| three | 5 (4 to 6) s | 0.75 (0.50 to 1.00)x | peer 3 |  |  |" in text.splitlines()
    assert "- processor: of some kind" in text
    assert "- matrix product or 3x3 convolution, bfloat16: 8 (1 to 8) GFLOP/s on one core" in text
    assert text.index("## Selecting") < text.index("## Attacking") < text.index("## Published")
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "bench.json").read_text())
    assert [Row.from_json(json.dumps(row)) for row in found["rows"]] == rows


def test_a_name_that_is_no_benchmark_is_told():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "selecters"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode
    assert "there is no benchmark 'selecters': choose among selectors" in done.stderr


def test_help_is_no_benchmark():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "make bench" in done.stdout
    assert "processes" in done.stdout


def test_what_is_published_is_what_the_page_says():
    """The Markdown is that of the numbers beside it, and every part was measured."""
    found = json.loads((PUBLISHED / "bench.json").read_text())
    rows = [Row.from_json(json.dumps(row)) for row in found["rows"]]
    assert {row.part for row in rows} == {
        *("GradMatch", "CRAIG", "PGD-10", "Training", "Before", "Processes")
    }
    again = page.text(rows, found["ceilings"], found["about"])
    assert again == (PUBLISHED / "README.md").read_text()


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=6))
def test_accuracies_of_several_processes_are_compared_as_scipy_compares_pairs(pairs):
    alone, together = (
        pd.DataFrame({"acc": column, "racc": column}) for column in zip(*pairs, strict=True)
    )
    assume((together - alone).acc.std() > 1e-3)
    about = argparse.Namespace(run="r", profile="p", processes=2, seeds=len(pairs))
    row = same_accuracy.compared(about, alone, together)[0]
    interval = stats.ttest_rel(together.acc, alone.acc).confidence_interval(0.95)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(interval))
