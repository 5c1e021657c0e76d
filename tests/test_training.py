import dataclasses

import pytest
import torch

from acslib import data, models, selectors
from acslib.attacks import PGD
from acslib.data import augment
from acslib.objectives import AdversarialTraining, Trades, Vanilla
from acslib.schedule import full, plan
from acslib.selectors import Coreset
from acslib.training import (
    Diverged,
    State,
    Training,
    adversarial_gradients,
    batches,
    everything,
    fit,
)


def small_model(seed=0):
    torch.manual_seed(seed)
    return models.build(
        "resnet18",
        channels=1,
        width=4,
        depths=(1, 1),
        statistics=models.CHANNEL_STATISTICS["digits"],
    )


def state_of(model, rate=0.1):
    return State(model, torch.optim.SGD(model.parameters(), rate, momentum=0.9))


def how(objective=None, **options):
    generator = torch.Generator()
    objective = objective or AdversarialTraining(PGD("linf", 0.1, 0.05, 2, generator=generator))
    defaults = {"plan": full(2), "generator": generator, "batch_size": 64, "monitor": 0}
    return Training(objective, **defaults | options)


@pytest.fixture(scope="module")
def few(digits):
    return dataclasses.replace(digits, train=digits.train[slice(0, 200)])


def test_full_training_is_a_plain_sgd_loop(few):
    """The oracle: the usual ten lines of PyTorch with the same draws."""
    generator = torch.Generator()
    trained = fit(
        state_of(small_model()),
        few,
        how(Vanilla(), generator=generator, lr_drops=(1,), plan=full(2)),
    ).model
    model = small_model().train()
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for epoch in range(2):
        generator.manual_seed(epoch)
        optimiser.param_groups[0]["lr"] = [0.1, 0.01][epoch]
        for batch in torch.randperm(200, generator=generator).tensor_split(4):  # ceil(200 / 64)
            x = few.train.images[batch].float() / 255
            loss = torch.nn.functional.cross_entropy(
                model(augment(x, generator, padding=1, flip=False)), few.train.labels[batch]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    for ours, theirs in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_phases_trained_are_those_of_the_plan(few):
    asked = []

    def selector(gradients, budget):
        asked.append((len(gradients), budget))
        return selectors.random(len(gradients), budget, torch.Generator().manual_seed(len(asked)))

    made = plan(10, 0.3, 0.6, 2)
    state = fit(state_of(small_model()), few, how(plan=made, selector=selector))
    assert [row["phase"] for row in state.history] == [epoch.phase for epoch in made]
    assert [row.get("samples", 0) for row in state.history] == [200] * 2 + [0] * 4 + [60] * 4
    assert asked == [(200, 60)] * 2
    trained = sum(row.get("samples", 0) for row in state.history)
    assert trained / (200 * 10) == pytest.approx(made.cost)
    selection = state.history[6]["selection"]
    assert 0 < selection["relative_error"]
    assert selection["size"] == 60
    assert state.history[6]["seconds_select"] > 0
    assert state.history[7]["selection"] is None
    assert all(
        row["seconds_attack"] > 0 and row["seconds_update"] > 0
        for row in state.history
        if "loss" in row
    )


def test_rate_follows_the_skipped_epochs(few):
    made = plan(10, 0.3, 0.6, 2)
    selector = lambda g, k: selectors.random(len(g), k, torch.Generator())
    rows = fit(
        state_of(small_model()), few, how(plan=made, selector=selector, lr_drops=(4, 8))
    ).history
    assert [row["rate"] for row in rows] == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 2)


def test_rate_rises_before_it_drops(few):
    """Fast-LPA's warm-up in the authors' code, here by epochs."""
    rows = fit(state_of(small_model()), few, how(plan=full(5), lr_warmup=4, lr_drops=(4,))).history
    assert [row["rate"] for row in rows] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.01])


def test_gradients_are_clipped_entry_by_entry(few):
    """One step from the same start moves no weight by more than rate times clip, and the small ones
    just as before.
    """
    start = torch.nn.utils.parameters_to_vector(small_model().parameters()).detach()

    def move(clip):
        settings = how(Vanilla(), plan=full(1), batch_size=200, gradient_clip=clip)
        trained = fit(state_of(small_model()), few, settings).model
        return torch.nn.utils.parameters_to_vector(trained.parameters()).detach() - start

    free, clipped = move(None), move(0.01)
    assert free.abs().max() > 0.1 * 0.01 * 1.5
    torch.testing.assert_close(clipped, free.clamp(-0.1 * 0.01, 0.1 * 0.01), rtol=1e-3, atol=1e-6)


def test_coreset_losses_are_weighted_with_mean_one(few):
    """Whatever the scale of gamma; one batch's gradient is that of mean(gamma_j * loss_j), eq.
    (23).
    """
    index = torch.tensor([3, 5, 8, 13])
    raw = torch.tensor([1.0, 2.0, 3.0, 6.0])

    def trained(scale):
        options = {
            "plan": plan(1, 0.02, 0.0, 1),
            "selector": lambda g, k: Coreset(index, raw * scale),
        }
        return fit(state_of(small_model()), few, how(Vanilla(), **options)).model

    model = small_model().train()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(4, generator=generator)
    x = augment(few.train.float_images(index[order]), generator, padding=1, flip=False)
    losses = torch.nn.functional.cross_entropy(
        model(x), few.train.labels[index[order]], reduction="none"
    )
    ((raw / raw.mean())[order] * losses).mean().backward()
    for once, expected in zip(trained(1.0).parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(once, expected - 0.1 * expected.grad, rtol=1e-5, atol=1e-6)
    for once, scaled in zip(trained(1.0).parameters(), trained(250.0).parameters(), strict=True):
        torch.testing.assert_close(once, scaled, rtol=1e-5, atol=1e-6)


def test_half_half_visits_every_other_image_clean():
    settings = how(half_half=True)
    settings.generator.manual_seed(0)
    coreset = Coreset(torch.arange(0, 200, 2), torch.ones(100))
    rows = list(batches(coreset, 200, settings, "coreset", torch.device("cpu")))
    assert sorted(torch.cat([batch for batch, _, _ in rows]).tolist()) == list(range(0, 200, 2))
    assert sorted(torch.cat([clean for _, _, clean in rows]).tolist()) == list(range(1, 200, 2))
    assert all(
        len(clean) == 0
        for _, _, clean in batches(everything(200), 200, settings, "full", torch.device("cpu"))
    )


def test_half_half_is_the_mean_of_both_losses(few):
    """One step of one batch: half the coreset's weighted adversarial loss, half the clean loss of
    the others.
    """
    data = dataclasses.replace(few, padding=0)  # no augmentation, so that order does not matter
    index, weights = torch.arange(0, 200, 4), torch.arange(1.0, 51.0)
    options = {
        "plan": plan(1, 0.25, 0.0, 1),
        "selector": lambda g, k: Coreset(index, weights),
        "half_half": True,
    }
    attack = PGD("linf", 0.1, 0.05, 2, random_start=False)
    trained = fit(
        state_of(small_model()), data, how(AdversarialTraining(attack), batch_size=200, **options)
    ).model
    model = small_model()
    images, labels = data.train.float_images(), data.train.labels
    adversarial = attack(model.eval(), images[index], labels[index])
    rest = torch.ones(200, dtype=torch.bool).index_fill_(0, index, False)
    model.train()
    loss = torch.nn.functional.cross_entropy(model(adversarial), labels[index], reduction="none")
    clean = torch.nn.functional.cross_entropy(model(images[rest]), labels[rest])
    ((weights / weights.mean() * loss).mean() / 2 + clean / 2).backward()
    for ours, expected in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, expected - 0.1 * expected.grad, rtol=1e-4, atol=1e-5)


def test_every_epoch_logs_what_it_did_and_what_it_cost(few):
    selector = lambda g, k: selectors.random(len(g), k, torch.Generator())
    rows = fit(
        state_of(small_model()), few, how(plan=plan(4, 0.5, 0.5, 1), selector=selector, monitor=32)
    ).history
    logged = {
        "epoch",
        "phase",
        "rate",
        "selection",
        "seconds_select",
        "seconds_attack",
        "seconds_update",
    }
    assert all(logged <= row.keys() for row in rows)
    of_training = {"loss", "train_robust_accuracy", "train_clean_accuracy", "train_clean_loss"}
    assert all(of_training <= row.keys() for row in rows if row["phase"] != "skip")


def test_monitored_losses_are_those_of_the_network_that_was_trained():
    dataset = data.load("digits", train_limit=200, validation_fraction=0.1)
    state = fit(state_of(small_model()), dataset, how(Vanilla(), plan=full(1), monitor=10_000))
    row, model = state.history[-1], state.model.eval()
    for name, part in (("train", dataset.train), ("validation", dataset.validation)):
        loss = torch.nn.functional.cross_entropy(model(part.float_images()), part.labels)
        assert row[f"{name}_clean_loss"] == pytest.approx(loss.item(), rel=1e-3)
    assert row["validation_robust_loss"] == row["validation_clean_loss"], (
        "nothing attacks vanilla training"
    )


def test_gradients_for_selection_are_those_of_the_unaugmented_images(few):
    """In evaluation mode, whatever the mode the model is in; the same as one pass over everything."""
    model = small_model().train()
    settings = how(Vanilla())
    got = adversarial_gradients(model, few, settings)
    assert model.training
    model.eval()
    expected = Vanilla().gradients(model, few.train.float_images(), few.train.labels)
    torch.testing.assert_close(got.dense(), expected.dense(), rtol=1e-3, atol=1e-5)


def test_trades_gradients_are_gathered_with_both_terms(few):
    generator = torch.Generator()
    objective = Trades(PGD("linf", 0.1, 0.05, 1, generator=generator))
    gathered = adversarial_gradients(small_model(), few, how(objective, generator=generator))
    assert gathered.errors2.shape == gathered.errors.shape == (200, 10)
    assert len(gathered.features2) == 200


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_adversarial_training_learns(few, mode):
    rows = fit(
        state_of(small_model()), few, how(plan=full(15), attack_mode=mode, batch_size=16)
    ).history
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


def test_bfloat16_learns_too(few):
    rows = fit(
        state_of(small_model()), few, how(plan=full(15), precision="bfloat16", batch_size=16)
    ).history
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]


def test_the_same_seed_gives_the_same_weights_bit_for_bit(few):
    first, second = (fit(state_of(small_model()), few, how()).model for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    other = fit(state_of(small_model()), few, how(seed=1)).model
    assert not all(
        torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    )


def test_a_diverging_loss_stops_with_the_way_out(few):
    with pytest.raises(Diverged, match=r"loss became .* in epoch \d+: lower lr"):
        fit(state_of(small_model()), few, how(Vanilla(), learning_rate=1e30, plan=full(3)))


def test_weights_that_overflow_in_the_last_step_are_no_result(few):
    """The loss before that step was a number."""

    class Steep(Vanilla):
        def loss(self, *given, **named):
            return 1e4 * super().loss(*given, **named)

    seen = []
    with pytest.raises(Diverged, match="weights are no longer finite after epoch 0: lower lr"):
        fit(
            state_of(small_model()),
            few,
            how(Steep(), learning_rate=1e38, plan=full(1), batch_size=200),
            seen.append,
        )
    assert not seen


def test_gradients_that_overflow_are_told_with_the_rate(few):
    model = small_model()
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    with pytest.raises(
        Diverged, match=r"gradients to select by are no longer finite: lower lr \(now 0.1\)"
    ):
        fit(state_of(model), few, how(plan=plan(1, 0.5, 0, 1), selector=selectors.gradmatch))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack_mode": "Train"}, "attack_mode is 'Train': choose train or eval"),
        ({"precision": "bf16"}, "precision is 'bf16': choose float32 or bfloat16"),
        ({"batch_size": 0}, "batch_size is 0: give at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan: give a finite one above 0"),
    ],
)
def test_a_training_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        how(**options)


def test_a_selector_without_weights_is_refused(few):
    selector = lambda g, k: Coreset(torch.arange(k), torch.zeros(k))
    with pytest.raises(ValueError, match="no sample a positive weight"):
        fit(state_of(small_model()), few, how(plan=plan(1, 0.5, 0, 1), selector=selector))


def test_a_researchers_own_selector_and_objective(few):
    """What the README shows: any callable, any object with the three methods."""

    def hardest(gradients, budget):
        top = gradients.squared_norms().topk(budget).indices.sort().values
        return Coreset(top, torch.ones(budget))

    class Smoothed(Vanilla):
        def loss(self, model, images, labels, adversarial=None):
            return torch.nn.functional.cross_entropy(
                model(images), labels, reduction="none", label_smoothing=0.1
            )

    state = fit(
        state_of(small_model()), few, how(Smoothed(), plan=plan(2, 0.25, 0.0, 1), selector=hardest)
    )
    assert state.history[0]["selection"]["size"] == 50
