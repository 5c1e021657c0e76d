"""Attacks that perceptual training has not seen (Table C1): StAdv, ReColor and JPEG.

They find a change outside pixel space (a flow, a map of colours, DCT coefficients) that stays
within `bound` in its own unit. `attack.change(...)` returns it, `attack.render(images, change)` the
images it gives. They maximise the margin, untargeted, and keep each sample's best iterate.

The reference implementations of StAdv and ReColor also penalise roughness. `roughness` is the
weight of that penalty (theirs: 0.0025 / bound for StAdv, 0.0036 / bound for ReColor). It is 0 by
default: nothing but the bound then limits the change, and the attack is the stronger for it.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate

from acslib.attacks.common import Base, ascent, check_search, clipped, margin, usable
from acslib.passes import frozen


@dataclass(frozen=True)
class _Threat(Base):
    """Ascent of the margin, each element bounded; `lr` None is bound / sqrt(iterations)."""

    bound: float
    iterations: int
    lr: float | None
    _: KW_ONLY
    early_stop: bool = True

    def __post_init__(self) -> None:
        check_search(self.bound, self.iterations)

    def _perturb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        if self.bound == 0:
            return images.clone()
        return self.render(images, self._search(model, images, labels))

    def change(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The change of each image with the largest margin met, within `bound` by element."""
        with torch.inference_mode(False), torch.no_grad():
            images, labels = self._checked(model, images, labels)
            with frozen(model, self.mode):
                return self._search(model, images, labels)

    @abstractmethod
    def start(self, images: Tensor) -> Tensor:
        """The change (n, ...) to begin with."""

    @abstractmethod
    def render(self, images: Tensor, change: Tensor) -> Tensor:
        """The images that a change gives, in [0, 1]."""

    def _search(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        change = self.start(images)
        best, best_margin = change.clone(), change.new_full((len(images),), -torch.inf)
        active = torch.arange(len(images), device=images.device)
        moments = torch.zeros_like(change), change * 0
        for t in range(self.iterations + 1):
            margins, gradient = self._ascent(model, images[active], labels[active], change)
            better = margins > best_margin[active]
            best[active[better]], best_margin[active[better]] = change[better], margins[better]
            going = margins <= 0
            if t == self.iterations or (self.early_stop and not going.any()):
                break
            if self.early_stop and not going.all():
                active, change, gradient = active[going], change[going], gradient[going]
                moments = moments[0][going], moments[1][going]
            step = self._direction(gradient, moments, t + 1)
            change = step.mul_(self._rate).add_(change).clamp_(-self.bound, self.bound)
        return best

    def _ascent(
        self, model: nn.Module, images: Tensor, labels: Tensor, change: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Margins (n,), and the usable gradient of what is climbed: margins less the penalty."""
        margins, gradient = ascent(
            lambda change: margin(model(self.render(images, change)), labels), change
        )
        weight = self._penalty_weight
        if weight:
            gradient = gradient - weight * ascent(roughness, change)[1]
        return margins, usable(gradient)

    @property
    def _penalty_weight(self) -> float:
        return 0.0

    @property
    def _rate(self) -> float:
        return self.bound / math.sqrt(self.iterations) if self.lr is None else self.lr

    def _direction(self, gradient: Tensor, moments: tuple[Tensor, Tensor], t: int) -> Tensor:
        """Adam's, which updates `moments`; written out because samples leave the batch as they are
        fooled.
        """
        mean, square = moments[0].lerp_(gradient, 0.1), moments[1].lerp_(gradient.square(), 0.001)
        return mean / (1 - 0.9**t) / (square / (1 - 0.999**t)).sqrt_().add_(1e-8)


def roughness(change: Tensor) -> Tensor:
    """How much a change (n, d, ...) varies from place to place, (n,): the sum over neighbouring
    places of the l2 norm of the difference (Xiao et al., 2018, L_flow; Laidlaw and Feizi, 2019,
    L_smooth). Places are dimensions 2 and on; each pair of neighbours counts once.
    """
    total = change.new_zeros(len(change))
    for axis in range(2, change.ndim):
        total = total + torch.linalg.vector_norm(change.diff(dim=axis), dim=1).flatten(1).sum(1)
    return total


@dataclass(frozen=True)
class StAdv(_Threat):
    """Spatially transformed images (Xiao et al., 2018): every pixel moves by at most `bound` along
    x and along y.

    The change is the flow (n, 2, H, W), x first: where each pixel is fetched from, by bilinear
    interpolation, relative to its own place; the border is continued. Its unit is half the image's
    side, as in `grid_sample` and the reference implementation (0.02 is 0.32 px of 32 px), or, with
    `unit` "side", the side.
    """

    bound: float = 0.02
    iterations: int = 50
    lr: float | None = 0.01
    unit: Literal["half_side", "side"] = "half_side"
    roughness: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in ("half_side", "side"):
            raise ValueError(f"unit is {self.unit!r}: choose half_side or side")

    @property
    def _penalty_weight(self) -> float:
        return self.roughness

    def start(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), 2, *images.shape[2:])

    def render(self, images: Tensor, flow: Tensor) -> Tensor:
        """The images (n, c, H, W) warped by the flow."""
        identity = torch.eye(2, 3, dtype=images.dtype, device=images.device).expand(
            len(images), 2, 3
        )
        grid = affine_grid(identity, list(images.shape), align_corners=False)
        grid = grid + flow.permute(0, 2, 3, 1) * (2 if self.unit == "side" else 1)
        moved = grid_sample(images, grid, padding_mode="border", align_corners=False)
        return clipped(moved, 0, 1)


@dataclass(frozen=True)
class ReColor(_Threat):
    """Functional colour attack (Laidlaw and Feizi, 2019): one map of colours for all pixels.

    The change is (n, 3, 16, 32, 32): how far each vertex of a grid over CIELUV space (L, u, v) is
    moved, interpolated trilinearly between them; equal colours stay equal. Units are 100 for L and
    200 for u and v, whose grid spans [-100, 100]; colours beyond it move like the nearest inside.
    What leaves the RGB cube is clipped. On grey images (n, 1, H, W) only lightness moves, so that
    they stay grey.
    """

    bound: float = 0.06
    iterations: int = 100
    lr: float | None = 0.001
    roughness: float = 0.0

    @property
    def _penalty_weight(self) -> float:
        return self.roughness

    def start(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), 3, 16, 32, 32)

    def render(self, images: Tensor, change: Tensor) -> Tensor:
        """The images (n, 3 or 1, H, W) recoloured."""
        luv = rgb_to_luv(images.expand(-1, 3, -1, -1))
        place = luv.flip(1).permute(0, 2, 3, 1).unsqueeze(1) * 2 - 1
        moved = grid_sample(change, place, padding_mode="border", align_corners=True).squeeze(2)
        if images.shape[1] == 1:
            moved = moved * moved.new_tensor([1, 0, 0]).view(1, 3, 1, 1)
        # the difference of two conversions, so that no change of colour is exactly no change of the
        # image
        difference = luv_to_rgb(luv + moved) - luv_to_rgb(luv)
        return clipped(images + difference[:, : images.shape[1]], 0, 1)


# linear sRGB to CIE XYZ (IEC 61966-2-1), the (u', v') of its white, D65, and the least and largest
# u', v' it can show
XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
WHITE = (0.1978, 0.4683)
U_RANGE, V_RANGE = (0.125, 0.451), (0.157, 0.5626)


def rgb_to_luv(rgb: Tensor) -> Tensor:
    """sRGB in [0, 1], (n, 3, H, W), to (L / 100, (u + 100) / 200, (v + 100) / 200) of CIE 1976
    L*u*v*.
    """
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = torch.einsum("ij,njhw->inhw", rgb.new_tensor(XYZ), linear)
    lightness = torch.where(
        y > (6 / 29) ** 3, 116 * y.clamp_min(1e-6) ** (1 / 3) - 16, (29 / 3) ** 3 * y
    )
    total = (x + 15 * y + 3 * z).clamp_min(1e-10)
    u = 13 * lightness * (4 * x / total - WHITE[0])
    v = 13 * lightness * (9 * y / total - WHITE[1])
    return torch.stack([lightness / 100, (u + 100) / 200, (v + 100) / 200], dim=1)


def luv_to_rgb(luv: Tensor) -> Tensor:
    """The inverse of `rgb_to_luv`. What sRGB cannot show is brought to its range of (u', v'), then
    of RGB.
    """
    lightness, u, v = luv[:, 0] * 100, luv[:, 1] * 200 - 100, luv[:, 2] * 200 - 100
    scale = 13 * lightness.clamp_min(1e-2)  # black has no hue: keep the quotient finite
    # without these limits a move in u or v makes a bright blue of what is almost black
    u, v = clipped(u / scale + WHITE[0], *U_RANGE), clipped(v / scale + WHITE[1], *V_RANGE)
    y = torch.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness * (3 / 29) ** 3)
    xyz = torch.stack([y * 9 * u / (4 * v), y, y * (12 - 3 * u - 20 * v) / (4 * v)], dim=1)
    inverse = torch.linalg.inv(luv.new_tensor(XYZ))
    linear = clipped(torch.einsum("ij,njhw->nihw", inverse, xyz), 0, 1)
    return torch.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp_min(1e-4) ** (1 / 2.4) - 0.055
    )


@dataclass(frozen=True)
class JPEG(_Threat):
    """Change of the JPEG coefficients, linf (Kang et al., 2019): each moves by at most `bound`
    quantisation steps.

    The steps are those of the standard's tables (Annex K, quality 50); colour is stored at half
    resolution. The change is (n, 64 * blocks): luminance, then Cb and Cr, over the image padded to
    whole blocks; grey images have luminance only. The clean image itself is not rounded. Ascent by
    signs from a uniform start, with step bound / sqrt(iterations) unless `lr` says otherwise.
    """

    bound: float = 0.125
    iterations: int = 200
    lr: float | None = None

    def start(self, images: Tensor) -> Tensor:
        height, width = self._padded(images)
        count = height * width * 3 // 2 if images.shape[1] == 3 else height * width
        noise = torch.rand(
            len(images), count, device=images.device, dtype=images.dtype, generator=self.generator
        )
        return self.bound * (2 * noise - 1)

    def _direction(self, gradient: Tensor, moments: tuple[Tensor, Tensor], t: int) -> Tensor:
        return gradient.sign()

    def render(self, images: Tensor, change: Tensor) -> Tensor:
        """The images (n, 3 or 1, H, W) plus what the change of their coefficients decodes to, in
        [0, 1].
        """
        (n, channels, *size), (height, width) = images.shape, self._padded(images)
        luminance = blocks_to_pixels(
            change[:, : height * width].reshape(n, 1, height, width), LUMINANCE
        )
        if channels == 1:
            difference = luminance
        else:
            colour = change[:, height * width :].reshape(n, 2, height // 2, width // 2)
            colour = interpolate(blocks_to_pixels(colour, CHROMINANCE), scale_factor=2)
            ycc = torch.cat([luminance, colour], dim=1)
            difference = torch.einsum("ij,njhw->nihw", ycc.new_tensor(YCC_TO_RGB), ycc)
        return clipped(images + difference[:, :, : size[0], : size[1]] / 255, 0, 1)

    @staticmethod
    def _padded(images: Tensor) -> tuple[int, int]:
        """Height and width in whole blocks."""
        unit = 16 if images.shape[1] == 3 else 8
        height, width = (-(-side // unit) * unit for side in images.shape[2:])
        return height, width


Table = Sequence[Sequence[int]]
YCC_TO_RGB = ((1, 0, 1.402), (1, -0.344136, -0.714136), (1, 1.772, 0))
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def blocks_to_pixels(coefficients: Tensor, table: Table) -> Tensor:
    """Inverse of JPEG's quantised DCT without its offset: (n, c, H, W), 8x8 blocks in place, to
    grey levels.
    """
    n, channels, height, width = coefficients.shape
    frequency, place = torch.arange(8.0).view(8, 1), torch.arange(8.0)
    basis = torch.cos((2 * place + 1) * frequency * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    basis = basis.to(coefficients)
    blocks = coefficients.reshape(n, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    pixels = basis.T @ (blocks * coefficients.new_tensor(table)) @ basis
    return pixels.transpose(3, 4).reshape(n, channels, height, width)
