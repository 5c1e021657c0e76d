"""What docs/scaling.md counts: operations against passes, schedules against their limits."""

import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scaling():
    from acslib.paper import build

    sys.path.insert(0, str(ROOT / "tools"))
    kept = build.lpips.distance_for
    try:
        import scaling

        yield scaling
    finally:
        sys.path.remove(str(ROOT / "tools"))
        build.lpips.distance_for = kept


def test_a_step_of_pgd_is_two_passes_and_an_update_three(scaling):
    """Forward, and backward to the images; weights and images each cost one more."""
    from acslib.paper import config

    setting = config.resolve("resnet18-linf-cifar10.full", "mini").setting
    one, once = scaling.work(setting), scaling.forward(setting)
    assert one.attack == pytest.approx(2 * setting.steps * once, rel=0.05)
    assert one.update == pytest.approx(3 * once, rel=0.05)
    assert one.select == pytest.approx((2 * setting.selection_steps + 1) * once, rel=0.05)


def test_the_page_says_what_is_counted(scaling):
    written = (ROOT / "docs" / "scaling.md").read_text()
    for name in ("resnet18-linf-cifar10", "resnet18-fat-cifar10", "resnet50-fastlpa-cifar10"):
        assert scaling.setting_row(name) in written


def test_the_page_says_what_bounds_the_card(scaling):
    assert scaling.bounds() in (ROOT / "docs" / "scaling.md").read_text()
    measured, never_idle, aim = scaling.rates()
    assert measured < never_idle < aim, "else the page, which says so, is to be written anew"
    report = json.loads(scaling.REPORT.read_text())["rows"]
    (timed,) = (row["numbers"] for row in report if "images_per_s" in row["numbers"])
    training_of_a_second = timed["images_per_s"] * timed["gflop_per_image"] * 1e9
    assert measured == training_of_a_second


@pytest.mark.parametrize("block", ["settings", "items"])
def test_hours_are_operations_over_the_rates(scaling, block):
    text = (ROOT / "docs" / "scaling.md").read_text()
    (table,) = re.findall(rf"<!-- numbers: {block} -->\n(.*?)<!-- end -->", text, re.S)
    for line in table.splitlines()[2:]:
        *_, operations, measured, never_idle, aim = line.strip("| ").split(" | ")
        for hours, rate in zip((measured, never_idle, aim), scaling.rates(), strict=True):
            exact = 1e15 * float(operations) / rate / 3600
            half_a_digit = 0.5 * 10.0 ** -len(hours.partition(".")[2])
            of_the_operations = exact * 0.5 / float(operations)
            assert abs(float(hours) - exact) <= half_a_digit + of_the_operations + 1e-9, line


def test_the_largest_training_fits(scaling):
    """In whole batches, with blocks computed anew; else in parts. The page says the same."""
    table = scaling.largest()
    assert table in (ROOT / "docs" / "scaling.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    fits = {(row[0], row[1]): row[-2:] for row in rows}
    assert fits["256", "kept"] == ["no", "no"]
    assert fits["256", "anew"] == ["yes", "yes"]
    assert fits["64", "kept"] == ["yes", "yes"]


def test_what_is_kept_is_what_it_says(scaling):
    """An update of TRADES is two passes, of which an attack in evaluation mode has less than one;
    what is computed anew leaves less, of which a block is a part.
    """
    from acslib.paper import config

    each = scaling.kept(config.resolve(scaling.LARGEST, "full").setting)
    assert 0 < each.attack < each.update / 2
    assert 0 < each.block < each.anew < each.update / 2
    assert each.anew + each.block < each.update / 2


several = st.lists(st.tuples(st.floats(0.1, 10), st.integers(0, 20)), min_size=1, max_size=12)


@given(several, st.integers(1, 4))
def test_a_schedule_is_between_its_limits(scaling, described, workers):
    """No shorter than the work, or the longest way, allows; no longer than Graham's bound."""
    jobs = []
    for position, (seconds, before) in enumerate(described):
        after = str(before) if before < position else None
        jobs.append(scaling.Job(str(position), seconds, after))
    ways = {}
    for job in jobs:
        ways[job.name] = job.seconds + (ways[job.after] if job.after else 0)
    found = scaling.makespan(jobs, workers)
    work, longest = sum(job.seconds for job in jobs), max(ways.values())
    assert found >= max(work / workers, longest) - 1e-9
    assert found <= work / workers + (1 - 1 / workers) * longest + 1e-9
