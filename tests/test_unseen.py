"""Each unseen attack inside its own threat model, harmless at bound 0, and stronger with a larger
bound.
"""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.fft import idctn
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from acslib.attacks.autoattack import AutoAttack
from acslib.attacks.unseen import (
    JPEG,
    LUMINANCE,
    ReColor,
    StAdv,
    blocks_to_pixels,
    luv_to_rgb,
    rgb_to_luv,
    roughness,
)

OWN_SPACE = [StAdv, ReColor, JPEG]


def digits(start, stop, channels=1):
    """Grey digits, or digits of 16 px in a colour of their own on a background of another."""
    content = load_digits()
    images = torch.tensor(content.images[start:stop] / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(content.target[start:stop])
    if channels == 1:
        return images, labels
    colours = torch.rand(2, len(images), 3, 1, 1, generator=torch.Generator().manual_seed(0))
    ink = interpolate(images, scale_factor=2, mode="bilinear")
    return ink * (0.6 + 0.4 * colours[0]) + (1 - ink) * 0.4 * colours[1], labels


@pytest.fixture(scope="module")
def weak(trained):
    """An undefended network, for grey and for coloured digits: the weak defence."""
    return {channels: trained(*digits(0, 1200, channels), epochs=8) for channels in (1, 3)}


def seeded():
    return torch.Generator().manual_seed(0)


def error(model, images, labels):
    with torch.no_grad():
        return (model(images).argmax(1) != labels).float().mean().item()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", OWN_SPACE)
def test_error_grows_with_the_bound(kind, channels, weak):
    model, (images, labels) = weak[channels], digits(1400, 1440, channels)
    # ReColor travels lr * iterations at most: a larger lr lets few iterations reach the largest
    # bound
    attack = (
        kind(iterations=20, generator=seeded())
        if kind is not ReColor
        else ReColor(iterations=20, lr=0.01)
    )
    bounds = [attack.bound * factor for factor in (0, 0.5, 2, 6)]
    errors = [
        error(model, replace(attack, bound=bound)(model, images, labels), labels)
        for bound in bounds
    ]
    assert errors == sorted(errors)
    assert errors[0] <= 0.15
    assert errors[-1] >= errors[0] + 0.15


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", OWN_SPACE)
def test_change_stays_within_the_bound_and_explains_the_image(kind, channels, weak):
    model, (images, labels) = weak[channels], digits(1400, 1412, channels)
    attack = kind(iterations=8, generator=seeded())
    change = attack.change(model, images, labels)
    assert 0.5 * attack.bound < change.abs().max() <= attack.bound or kind is ReColor
    assert change.abs().max() <= attack.bound
    adversarial = replace(attack, generator=seeded())(model, images, labels)
    assert torch.equal(adversarial, attack.render(images, change))
    assert torch.equal(adversarial, adversarial.clamp(0, 1))
    assert not torch.equal(adversarial, images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", OWN_SPACE)
def test_bound_zero_and_no_change_are_the_identity(kind, channels, weak):
    model, (images, labels) = weak[channels], digits(1400, 1410, channels)
    assert torch.equal(kind(bound=0.0, iterations=3)(model, images, labels), images)
    attack = kind()
    assert torch.allclose(attack.render(images, attack.start(images) * 0), images, atol=1e-5)


@pytest.mark.parametrize(
    "attack",
    [
        StAdv(iterations=2),
        ReColor(iterations=2),
        JPEG(iterations=2),
        AutoAttack("linf", 0.05, ("apgd-ce",)),
    ],
)
def test_model_inputs_and_globals_are_left_as_found(attack, weak):
    model, (images, labels) = weak[1], digits(1400, 1406)
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy, tracer = images.clone(), sys.gettrace()
    model.train()
    try:
        state = torch.get_rng_state()
        found = replace(attack, generator=seeded())(model, copy, labels)
        assert torch.equal(state, torch.get_rng_state())
        assert sys.gettrace() is tracer
        assert all(module.training for module in model.modules())
        assert [p.requires_grad for p in parameters] == [False] + [True] * (len(parameters) - 1)
        assert all(p.grad is None for p in parameters)
        assert all(
            torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items()
        )
    finally:
        model.eval().requires_grad_(True)
    assert torch.equal(copy, images)
    assert not found.requires_grad


def test_early_stop_saves_work_and_fools_as_many(weak):
    model, (images, labels) = weak[1], digits(1400, 1440)
    stopping, going = (
        StAdv(0.1, iterations=10, early_stop=stop)(model, images, labels) for stop in (True, False)
    )
    assert error(model, stopping, labels) == error(model, going, labels)
    with torch.no_grad():
        confident = (cross_entropy(model(x), labels) for x in (stopping, going))
    assert next(confident) < next(confident)


# --- StAdv


def test_a_constant_flow_moves_the_image():
    images = torch.rand(2, 3, 16, 16, generator=seeded())
    flow = torch.zeros(2, 2, 16, 16)
    flow[:, 0] = (
        2 * 3 / 16
    )  # three pixels in half sides: each pixel is fetched from three to the right
    moved = StAdv().render(images, flow)
    assert torch.allclose(moved[..., :13], images[..., 3:], atol=1e-5)
    assert torch.allclose(moved[..., 13:], images[..., -1:].expand(-1, -1, -1, 3), atol=1e-5)
    assert torch.allclose(StAdv(unit="side").render(images, flow / 2), moved)
    with pytest.raises(ValueError, match="half_side or side"):
        StAdv(unit="pixels")


def test_stadv_finds_the_flow_that_helps():
    """A model that prefers class 1 the brighter the left half is, and a bright right half that can
    flow there.
    """

    class Left(nn.Module):
        def forward(self, images):
            left = images[..., :4].mean((1, 2, 3))
            return torch.stack([torch.zeros_like(left), left - 0.1], dim=1)

    images = torch.zeros(1, 1, 8, 8)
    images[..., 4:] = 1
    flow = StAdv(0.2, early_stop=False).change(Left(), images, torch.tensor([0]))
    assert flow[0, 0, :, 3].min() == pytest.approx(
        0.2
    )  # all of the last dark column comes from the bright half


# --- ReColor


def test_luv_matches_known_colours():
    rgb = torch.tensor(
        [[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]]
    ).view(6, 3, 1, 1)
    known = [
        [100, 0, 0],
        [0, 0, 0],
        [53.24, 175.01, 37.76],
        [87.74, -83.07, 107.39],
        [32.30, -9.40, -130.34],
        [53.39, 0, 0],
    ]
    luv = rgb_to_luv(rgb).view(6, 3) * torch.tensor([100.0, 200, 200]) - torch.tensor(
        [0.0, 100, 100]
    )
    assert torch.allclose(luv, torch.tensor(known), atol=0.15)


def test_luv_goes_back_and_forth_over_the_whole_cube():
    rgb = torch.cartesian_prod(*[torch.linspace(0, 1, 17)] * 3).view(-1, 3, 1, 1)
    assert torch.allclose(luv_to_rgb(rgb_to_luv(rgb)), rgb, atol=2e-3)


def test_recolor_is_a_function_of_colour_and_bounded_in_luv(weak):
    palette = torch.tensor([[0.5, 0.4, 0.6], [0.45, 0.55, 0.5], [0.6, 0.6, 0.55]])
    where = torch.randint(3, (4, 16, 16), generator=seeded())
    images, labels = palette[where].permute(0, 3, 1, 2).contiguous(), torch.tensor([0, 1, 2, 3])
    attack = ReColor(lr=0.01, iterations=20, early_stop=False)
    adversarial = attack(weak[3], images, labels)
    moved = (rgb_to_luv(adversarial) - rgb_to_luv(images)).abs()
    assert 0.01 < moved.max() <= attack.bound + 1e-3
    for image, places in zip(adversarial.permute(0, 2, 3, 1), where, strict=True):
        assert all(image[places == colour].std(0, correction=0).max() < 1e-6 for colour in range(3))


def test_recolor_of_almost_black_stays_dark():
    images = torch.full((1, 3, 4, 4), 0.02)
    change = torch.zeros(1, 3, 16, 32, 32)
    change[:, 1:] = -0.06
    assert ReColor().render(images, change).max() < 0.25


# --- JPEG


def test_blocks_decode_as_in_the_standard():
    coefficients = torch.randn(2, 1, 16, 24, generator=seeded())
    pixels = blocks_to_pixels(coefficients, LUMINANCE)
    for row, column in np.ndindex(2, 3):
        block = np.s_[1, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        expected = idctn(coefficients[block].numpy() * np.array(LUMINANCE), norm="ortho")
        assert np.allclose(pixels[block].numpy(), expected, atol=1e-3)


def test_jpeg_coefficients_move_by_at_most_the_bound(weak):
    """Measured in the image itself where no pixel was clipped: the DCT of its luminance."""
    images, labels = digits(1400, 1410, 1)
    images = 0.4 + 0.2 * images
    attack = JPEG(iterations=10, generator=seeded())
    difference = 255 * (attack(weak[1], images, labels) - images)
    frequency = blocks_to_pixels(torch.eye(64).view(64, 1, 8, 8), LUMINANCE).view(64, 64)
    coefficients = torch.linalg.solve(frequency.T, difference.flatten(1).T)
    assert 0.9 * attack.bound < coefficients.abs().max() <= attack.bound + 1e-3


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 32, 32), (3, 20, 36)])
def test_jpeg_takes_any_size(shape):
    images = torch.rand(2, *shape, generator=seeded())
    attack = JPEG(generator=seeded())
    assert attack.render(images, attack.start(images)).shape == images.shape


def test_arguments_are_checked(weak):
    with pytest.raises(ValueError, match="at least 0"):
        JPEG(-0.1)
    with pytest.raises(ValueError, match="divide bytes by 255"):
        StAdv()(weak[1], torch.full((1, 1, 8, 8), 16.0), torch.tensor([0]))


# --- the penalty on roughness


def test_roughness_by_hand():
    flow = torch.zeros(2, 2, 3, 3)
    assert roughness(flow).tolist() == [0, 0]
    flow[0, :, 1, 1] = torch.tensor([0.3, 0.4])  # differs from its four neighbours by 0.5 each
    flow[1] = 7  # the same everywhere
    assert roughness(flow).tolist() == pytest.approx([2.0, 0.0])


@pytest.mark.parametrize("kind", [StAdv, ReColor])
def test_a_penalty_makes_the_change_smoother(kind, weak):
    images, labels = digits(1400, 1412, 3)
    options = {"iterations": 10, "early_stop": False, "lr": 0.01}
    rough, smooth = (
        kind(roughness=weight, **options).change(weak[3], images, labels) for weight in (0, 10.0)
    )
    assert roughness(smooth).mean() < 0.7 * roughness(rough).mean()
