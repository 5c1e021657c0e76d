import os
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from acslib import data, models
from acslib.attacks import PGD
from acslib.objectives import Vanilla
from acslib.schedule import full
from acslib.training import State, Training, fit

os.environ["ACS_THREADS"] = "1"  # whatever else is set where the tests run

SHARED = Path(os.environ.get("ACS_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(scope="session")
def archive():
    """archive(name): a file of real images or weights, from ACS_DATA or ../shared/data."""

    def find(name):
        if not (SHARED / name).is_file():
            pytest.skip(
                f"{name} is other people's work and may not be in the repository; what reads it is"
                " tested on files made here, too. To test it on the real one, set ACS_DATA to its"
                " folder"
            )
        return SHARED / name

    return find


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """An empty cache, no data folder, no network."""
    monkeypatch.setenv("ACS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ACS_OFFLINE", "1")
    monkeypatch.delenv("ACS_DATA", raising=False)
    monkeypatch.delenv("ACS_MIRROR", raising=False)


@pytest.fixture
def use_plugins(monkeypatch):
    """use_plugins(path, ...): as if ACS_PLUGINS named these files; forgotten after the test."""
    from acslib.paper import plugins

    def run_again():
        for one in plugins.Registry.everyone:
            for name in [name for name, source in one.sources.items() if source.is_file]:
                del one.own[name], one.sources[name]
        plugins._run.clear()
        plugins._loaded = False
        plugins.load_files()

    def use(*paths):
        monkeypatch.setenv("ACS_PLUGINS", ":".join(map(str, paths)))
        run_again()

    yield use
    monkeypatch.delenv("ACS_PLUGINS", raising=False)
    run_again()


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")


@pytest.fixture(scope="session")
def undefended(digits):
    """A narrow network trained on clean digits for a few epochs: about 97 % clean accuracy."""
    torch.manual_seed(0)
    model = models.build(
        "resnet18", channels=1, width=8, statistics=models.CHANNEL_STATISTICS["digits"]
    )
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    how = Training(
        Vanilla(),
        full(6),
        torch.Generator(),
        learning_rate=0.1,
        lr_drops=(4,),
        batch_size=64,
        monitor=0,
    )
    fit(State(model, optimiser), digits, how)
    return model.eval()


@pytest.fixture(scope="session")
def trained():
    """trained(images, labels, epochs): a small residual network, trained without a defence in two
    seconds.
    """

    def train(images, labels, epochs):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = models.build("resnet18", channels=images.shape[1], width=8, depths=(1, 1))
            optimiser = torch.optim.Adam(model.parameters(), 3e-3)
            for _ in range(epochs):
                for rows in torch.randperm(len(images)).split(64):
                    optimiser.zero_grad()
                    cross_entropy(model(images[rows]), labels[rows]).backward()
                    optimiser.step()
        model.zero_grad()
        return model.eval()

    return train


@pytest.fixture
def tiny():
    """An untrained two-stage network on 8x8 grey images, in float64."""
    torch.manual_seed(1)
    return models.build("resnet18", channels=1, width=4, depths=(1, 1)).double()


@pytest.fixture
def batch(digits):
    return digits.test.float_images(slice(0, 64)), digits.test.labels[:64]


@pytest.fixture
def pgd():
    return PGD("linf", 0.15, 0.03, 10)


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in .venv-site")
    if not (chromium := shutil.which("chromium")):
        pytest.skip("there is no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        with driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser:
            yield browser
