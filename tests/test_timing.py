"""Speed-ups by arithmetic: against the plan's own, and on costs that can be followed by hand."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acslib.paper import items, timing
from acslib.schedule import plan

COST = {"attack": 0.9, "update": 0.1, 1: 0.0, 10: 1.0}
sizes = st.floats(0.05, 1)


@given(st.integers(2, 120), sizes, st.floats(0, 0.9), st.integers(1, 30))
def test_if_selections_are_free_a_run_achieves_its_ceiling(epochs, k, kappa, period):
    made = plan(epochs, k, kappa, period)
    assert timing.by_plan(made, COST, 1) == pytest.approx(made.ceiling)
    assert timing.by_plan(made, COST, 10) <= made.ceiling * (1 + 1e-9)


def test_a_selection_that_costs_an_epoch_counts_as_one():
    """100 epochs at k = 0.5 are as long as 50 full ones, two selections as long as two more."""
    made = plan(100, 0.5, 0.6, 20)
    assert made.selections == 2
    assert timing.by_plan(made, COST, 10) == pytest.approx(100 / 52)


def test_every_printed_schedule_on_small_images_is_there_once():
    found = pd.DataFrame(timing.schedules())
    assert found.table.value_counts().to_dict() == {"table1": 6, "table4": 1, "table6": 3}
    assert found[["craig_x", "gradmatch_x", "ceiling_x"]].notna().all().all()
    assert not found.duplicated(["table", "schedule"]).any()


def test_seconds_are_those_of_so_many_steps():
    """Ten steps cost more than one: forward and back ten times, and the gradients' pass. Of three
    rounds the median, as other work on the machine lengthens one.
    """
    cost = timing.seconds_an_image("resnet18-linf-cifar10", 2, 3, (1, 10))
    assert set(cost) == {"attack", "update", 1, 10}
    assert cost[10] > cost[1] > 0
    assert cost["attack"] > cost["update"] > 0


def test_the_figure_has_a_line_a_schedule():
    known = pd.DataFrame(timing.schedules()).assign(papers=True, speedup_x=1.9)
    figure = timing.figure_time(known)
    assert len(figure.axes[0].get_yticklabels()) == len(known)
    plt.close(figure)


def test_a_profile_says_how_many_images():
    assert items.by_itself("time", "smoke")["images"] >= 2
