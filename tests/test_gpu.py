"""What a GPU will be tried by, tried on a CPU; and what the pages say until there was one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from acslib.paper.operations import Looks

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_first_contact_goes_through_on_a_cpu(tmp_path):
    """All of it, in small: every part has rows, nothing fails, and both files are written."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gpu", "--device", "cpu", "--tiny", "--to", tmp_path],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACS_RESULTS": str(tmp_path / "results")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "cpu" / "report.json").read_text())
    parts = {row["part"] for row in report["rows"]}
    asked = "ceilings numbers attacks objectives selection runs throughput waits profile"
    assert parts == set(asked.split())
    assert not [row for row in report["rows"] if "failed" in row["numbers"]]
    rates = [
        row["numbers"].get("images_per_s") for row in report["rows"] if row["part"] == "throughput"
    ]
    assert sum(rate is not None and rate > 0 for rate in rates) >= 10
    page = (tmp_path / "cpu" / "README.md").read_text()
    assert all(f"## {part.capitalize()}" in page for part in parts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_it_says_so_and_publishes_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gpu"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode
    assert "there is no GPU here" in done.stderr


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("docs/scaling.md", "**Nothing on this page was run on a GPU"),
        ("results/published/README.md", "Nothing here was run on a GPU"),
    ],
)
def test_pages_say_never_run_until_a_card_has_a_folder(page, sentence):
    cards = list((ROOT / "results" / "published" / "gpu").glob("*/report.json"))
    assert (sentence in (ROOT / page).read_text()) == (not cards)


def test_looks_are_found_where_they_are():
    """Numbers, masks and counts are looks; arithmetic and an index by numbers are none."""
    values = torch.arange(4.0)
    with Looks() as none:
        values[torch.tensor([1, 2])].add(1).sum().isfinite()
        torch.where(values > 1, values, 0)
    assert not none.places
    with Looks() as looks:
        float(values.sum())
        values[values > 1]
        values.nonzero()
        bool(values.isfinite().all())
    assert sum(looks.places.values()) == 4
