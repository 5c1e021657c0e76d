import dataclasses
import random
import time

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from acslib import data, measuring, models, selectors
from acslib.attacks import PGD
from acslib.batching import shuffled_batches
from acslib.data import augment
from acslib.divergence import Diverged
from acslib.gradients import LastLayerGradients
from acslib.objectives import AdversarialTraining, Trades, Vanilla
from acslib.schedule import full, plan
from acslib.selectors import Coreset
from acslib.training import State, Training, adversarial_gradients, everything, fit, greedy_solver


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
    tried = [(4, 1), (4, 2), (4, 4)]  # on a few samples before training
    assert asked == [*tried, (200, 60), (200, 60)]
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

    def selector(gradients, budget):
        return selectors.random(len(gradients), budget, torch.Generator())

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
    rows = list(shuffled_batches(coreset, 200, settings, "coreset", torch.device("cpu")))
    assert sorted(torch.cat([batch for batch, _, _ in rows]).tolist()) == list(range(0, 200, 2))
    assert sorted(torch.cat([clean for _, _, clean in rows]).tolist()) == list(range(1, 200, 2))
    assert all(
        len(clean) == 0
        for _, _, clean in shuffled_batches(
            everything(200), 200, settings, "full", torch.device("cpu")
        )
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
    def selector(gradients, budget):
        return selectors.random(len(gradients), budget, torch.Generator())

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


def test_seconds_are_the_processes_own(few):
    """Waiting is not work: a selector that sleeps is charged nothing, one that computes is."""

    def asleep(gradients, budget):
        time.sleep(0.3)
        return selectors.random(len(gradients), budget, torch.Generator())

    made = plan(1, 0.5, 0, 1)
    row = fit(state_of(small_model()), few, how(plan=made, selector=asleep)).history[0]
    assert row["seconds_select"] < 0.25
    assert row["seconds_wall"] > 0.3


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
    """In evaluation mode, whatever mode the model is in; the same as one pass over everything."""
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
    settings = how(plan=plan(1, 0.5, 0, 1), selector=selectors.gradmatch)
    gradients = adversarial_gradients(model, few, settings)
    with pytest.raises(
        Diverged, match=r"gradients to select by are no longer finite: lower lr \(now 0.1\)"
    ):
        greedy_solver(state_of(model), gradients, 100, settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack_mode": "Train"}, "attack_mode is 'Train': choose train or eval"),
        ({"precision": "bf16"}, "precision is 'bf16': choose float32 or tf32 or bfloat16"),
        ({"batch_size": 0}, "batch_size is 0: give a whole number of at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan: give a finite one above 0"),
    ],
)
def test_a_training_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        how(**options)


def test_a_selector_without_weights_is_refused(few):
    def selector(gradients, budget):
        return Coreset(torch.arange(budget), torch.zeros(budget))

    with pytest.raises(ValueError, match="no sample a positive weight"):
        fit(state_of(small_model()), few, how(plan=plan(1, 0.5, 0, 1), selector=selector))


def test_the_optimisers_own_rates_and_schedulers_stand(few):
    """Two groups with a rate each, and a scheduler stepped after every epoch."""
    model = small_model()
    head = list(model.head.parameters())
    rest = [p for name, p in model.named_parameters() if not name.startswith("head")]
    optimiser = torch.optim.SGD([{"params": rest, "lr": 0.001}, {"params": head, "lr": 0.01}])
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.5)
    rows = fit(
        State(model, optimiser), few, how(plan=full(3)), lambda state: schedule.step()
    ).history
    assert [row["rate"] for row in rows] == pytest.approx([0.001, 0.0005, 0.00025])
    assert optimiser.param_groups[1]["lr"] == pytest.approx(0.01 / 8)


def test_drops_without_a_rate_scale_each_groups_own(few):
    model = small_model()
    parts = [{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(model.parameters())]
    optimiser = torch.optim.SGD(parts)
    rows = fit(State(model, optimiser), few, how(plan=full(4), lr_drops=(1, 3))).history
    assert [row["rate"] for row in rows] == pytest.approx([0.01, 0.001, 0.001, 0.0001])
    assert optimiser.param_groups[2]["lr"] == pytest.approx(0.03 / 100)


class Dropped(torch.nn.Module):
    """A model of one's own that draws in every pass, from torch's global generator."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Dropout(0.5)
        )
        self.head = torch.nn.Linear(16, 10)

    def features(self, images):
        return self.body(images)

    def forward(self, images):
        return self.head(self.features(images))


def test_a_resumed_run_repeats_every_draw(few):
    """Dropout, an attack without a generator, numpy's and Python's: all are seeded by epoch."""
    draws = []

    class Noisy(AdversarialTraining):
        def perturb(self, model, images, labels):
            draws.append((random.random(), np.random.rand()))  # noqa: NPY002
            return super().perturb(model, images, labels)

    def settings(epochs):
        return how(Noisy(PGD("linf", 0.1, 0.05, 2)), plan=full(epochs))

    whole = fit(state_of(Dropped()), few, settings(3))
    of_whole = draws[:]
    draws.clear()
    torch.manual_seed(7)
    stopped = fit(state_of(Dropped()), few, settings(1))
    torch.rand(5), random.random(), np.random.rand(3)  # noqa: NPY002
    resumed = fit(stopped, few, settings(3))
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert of_whole[1:] == draws[1:5] + draws[6:], "but for the trial before each start"


def test_a_resumed_run_repeats_the_draws_of_an_attack_with_a_generator(few):
    """It is the attack's own, or the training's."""
    for shared in (None, torch.Generator()):

        def settings(epochs, shared=shared):
            own = shared or torch.Generator()
            attack = PGD("linf", 0.1, 0.05, 2, generator=own)
            training = how(AdversarialTraining(attack), plan=full(epochs))
            return dataclasses.replace(training, generator=shared or torch.Generator())

        whole = fit(state_of(Dropped()), few, settings(3))
        resumed = fit(fit(state_of(Dropped()), few, settings(1)), few, settings(3))
        for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(one, other)


def test_gradients_of_weights_that_the_optimiser_has_not_are_the_batchs_alone(few):
    """A callback sees them, as adversarial weight perturbation does."""
    model, times = small_model(), []

    def twice(model, compute_gradients):
        before = [p.grad.clone() for p in model.parameters()]
        compute_gradients()
        times.append(1)
        for one, value in zip(model.parameters(), before, strict=True):
            torch.testing.assert_close(one.grad, value)

    state = State(model, torch.optim.SGD(model.head.parameters(), lr=0.1))
    fit(state, few, how(Vanilla(), plan=full(1), before_step=twice))
    assert len(times) == 4


def test_the_global_generators_go_on_as_if_nothing_had_been_trained(few):
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    state = state_of(Dropped())
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    fit(state, few, how(AdversarialTraining(PGD("linf", 0.1, 0.05, 1))))
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]
    assert np.random.rand() == expected[2]  # noqa: NPY002


@pytest.mark.parametrize("clean_last", [False, True])
def test_robust_accuracy_is_that_of_the_adversarial_images(few, clean_last):
    """Whatever the order of the passes in the loss."""

    class Both(AdversarialTraining):
        def loss(self, model, images, labels, adversarial=None):
            def of(x):
                return cross_entropy(model(x), labels, reduction="none")

            return of(adversarial) + of(images) if clean_last else of(images) + of(adversarial)

    attack = PGD("linf", 0.3, 0.1, 3, random_start=False)
    data = dataclasses.replace(few, padding=0)
    settings = how(Both(attack), plan=full(1), batch_size=200)
    trained = small_model()
    state = State(trained, torch.optim.SGD(trained.parameters(), 1e-9))
    row = fit(state, data, settings).history[0]
    model, images, labels = small_model(), data.train.float_images(), data.train.labels
    adversarial = attack(model.eval(), images, labels)
    model.train()
    expected = (model(adversarial).argmax(1) == labels).float().mean().item()
    clean = (model(images).argmax(1) == labels).float().mean().item()
    assert row["train_robust_accuracy"] == pytest.approx(expected)
    assert expected != clean


def test_no_robust_accuracy_is_logged_where_nobody_knows_it(few):
    class Joined(AdversarialTraining):
        def loss(self, model, images, labels, adversarial=None):
            logits = model(torch.cat([images, adversarial]))[len(images) :]
            return cross_entropy(logits, labels, reduction="none")

    row = fit(state_of(small_model()), few, how(Joined(PGD("linf", 0.1, 0.1, 1)))).history[0]
    assert "train_robust_accuracy" not in row
    assert row["loss"] > 0


def test_weights_perturbed_before_the_step(few):
    """Adversarial weight perturbation (Wu et al., 2020): a step by gradients taken elsewhere."""
    moved = []

    def perturb_weights(model, compute_gradients):
        weights = [p for p in model.parameters() if p.ndim > 1]
        before = [p.detach().clone() for p in weights]
        with torch.no_grad():
            for p in weights:
                p.add_(p.grad * 0.01 * p.norm() / p.grad.norm().clamp_min(1e-12))
        moved.append(float(compute_gradients()))
        with torch.no_grad():
            for p, original in zip(weights, before, strict=True):
                p.copy_(original)

    settings = how(Vanilla(), plan=full(1), batch_size=200, before_step=perturb_weights)
    ours = fit(state_of(small_model()), few, settings).model
    plain = fit(state_of(small_model()), few, dataclasses.replace(settings, before_step=None)).model
    first = small_model()
    assert len(moved) == 1
    step = [(a - b).norm() for a, b in zip(ours.parameters(), first.parameters(), strict=True)]
    other = [(a - b).norm() for a, b in zip(ours.parameters(), plain.parameters(), strict=True)]
    assert 0 < sum(other) < 0.5 * sum(step), "a little of the step changes, not its size"


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


def test_the_logged_error_of_chance_is_that_of_sampling_theory(monkeypatch):
    """E |sum - (n/m) sum of m drawn|^2 = n^2 (1 - m/n) / m times the variance of a sample."""
    monkeypatch.setattr(measuring, "RANDOM_DRAWS", 400)
    n, m = 60, 12
    generator = torch.Generator().manual_seed(0)
    errors = torch.randn(n, 40, dtype=torch.float64, generator=generator)
    features = torch.rand(n, 30, dtype=torch.float64, generator=generator)
    gradients = LastLayerGradients(errors, features)
    rows = torch.cat([(errors[:, :, None] * features[:, None, :]).flatten(1), errors], 1)
    variance = rows.var(dim=0).sum()
    expected = float((n**2 * (1 - m / n) / m * variance).sqrt())
    found, relative = measuring.random_error(gradients, m, 0)
    assert found == pytest.approx(expected, rel=0.02)
    assert relative == pytest.approx(found / float(rows.sum(0).norm()))
