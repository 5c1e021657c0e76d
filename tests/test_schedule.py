import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acslib.paper import config
from acslib.schedule import SCHEDULES, coreset_size, plan

KAPPA = {"resnet18-fat-cifar10": 0.75, "resnet34-linf-imagenet100": 0.9}
WARM_START_EPOCHS = {  # as printed in Tables C2 and C3
    "resnet18-trades-cifar10": 30,
    "resnet18-linf-cifar10": 36,
    "resnet18-l2-svhn": 22,
    "resnet50-fastlpa-cifar10": 29,
    "resnet50-fastlpa-imagenet12": 27,
    "resnet18-fat-cifar10": 22,
    "wrn28_10-trades-cifar10": 30,
    "wrn28_10-linf-cifar10": 36,
    "wrn28_10-l2-svhn": 22,
    "resnet34-linf-imagenet100": 25,
    "resnet50-trades-imagenet100": 27,
}


@given(percent=st.integers(1, 100), n=st.integers(1, 130_000))
def test_a_coreset_has_the_share_as_it_is_written_rounded_up(percent, n):
    assert coreset_size(percent / 100, n) == math.ceil(Fraction(percent, 100) * n)


@given(
    epochs=st.integers(1, 300),
    fraction=st.floats(0.01, 1),
    kappa=st.floats(0, 1),
    period=st.integers(1, 60),
)
def test_cost_identity(epochs, fraction, kappa, period):
    """(T_warm + (E - kappa_epochs) k) / E = k for every kappa, up to the rounding of T_warm to
    whole epochs.
    """
    assert abs(plan(epochs, fraction, kappa, period).cost - fraction) <= 0.5 / epochs + 1e-9


@given(
    epochs=st.integers(1, 300),
    fraction=st.floats(0.01, 1),
    kappa=st.floats(0, 1),
    period=st.integers(1, 60),
)
def test_no_epoch_trains_on_an_unselected_subset(epochs, fraction, kappa, period):
    coreset = [epoch for epoch in plan(epochs, fraction, kappa, period) if epoch.phase == "coreset"]
    assert not coreset or coreset[0].select
    assert all(
        epoch.select == (epoch is coreset[0] or epoch.index % period == 0) for epoch in coreset
    )


@given(
    epochs=st.integers(1, 100),
    fraction=st.floats(0.01, 1),
    kappa=st.floats(0, 1),
    period=st.integers(1, 30),
    kind=st.sampled_from(SCHEDULES),
)
def test_every_epoch_has_its_place(epochs, fraction, kappa, period, kind):
    made = plan(epochs, fraction, kappa, period, kind)
    assert [epoch.index for epoch in made] == list(range(epochs))
    phases = [epoch.phase for epoch in made]
    assert "full" not in phases[phases.count("full") :]


@pytest.mark.parametrize("name", WARM_START_EPOCHS)
def test_warm_start_epochs_are_the_printed_ones(name):
    made = config.resolve(f"{name}.gradmatch", "full").plan
    assert [epoch.phase for epoch in made].count("full") == WARM_START_EPOCHS[name]


def test_modelled_time_ratios():
    """Literal reading 0.31, no skipping 0.65, three phases 0.5 (printed for TRADES: 0.52)."""
    cost = {kind: plan(100, 0.5, 0.6, 20, kind).cost for kind in SCHEDULES}
    assert cost["three_phase"] == pytest.approx(0.5)
    assert cost["no_skip"] == pytest.approx(0.65)
    assert cost["literal"] == pytest.approx((30 + 3 * 0.5) / 100)


def test_selections_of_the_paper():
    made = plan(120, 0.5, 0.6, 20)
    assert [epoch.index for epoch in made if epoch.select] == [72, 80, 100]
    assert made[36].phase == "skip"
    assert made[71].phase == "skip"
    assert made[72].phase == "coreset"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"coreset_fraction": 0}, "coreset_fraction is 0"),
        ({"coreset_fraction": 1.5}, "coreset_fraction is 1.5"),
        ({"period": 0}, "period is 0"),
        ({"warm_start": 1.2}, "warm_start is 1.2"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 10**9}, "epochs is 1000000000: take at most 1000000"),
        ({"kind": "two_phase"}, "choose one of three_phase"),
        ({"warm_start": float("nan")}, "warm_start is nan"),
    ],
)
def test_out_of_range(changed, message):
    good = {"epochs": 10, "coreset_fraction": 0.5, "warm_start": 0.6, "period": 2}
    with pytest.raises(ValueError, match=message):
        plan(**good | changed)
