"""What the solvers compile, compiled beforehand, so that no selection's clock counts it."""

import torch

from acslib.selectors.craig import craig
from acslib.selectors.gradmatch import gradmatch
from acslib.selectors.streamed_locations import LazyLocations


def compile_kernels() -> None:
    """Compile whatever the solvers run as machine code, or load it where it was compiled already.

    Compiling takes some seconds, once an installation; loading takes a tenth of a second.
    """
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(40, 30, generator=generator, dtype=torch.float64)
    for epsilon in (0.0, 0.5):  # all inner products at hand, and streamed
        craig(gradients, 20, epsilon=epsilon)
        gradmatch(gradients, 20, epsilon=epsilon)  # some samples leave again
    distances = torch.cdist(gradients, gradients).numpy()
    LazyLocations(lambda block: distances[block], len(distances)).run(20, 0.0)
