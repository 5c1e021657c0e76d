"""What a GPU is told before it computes. A CPU is told nothing."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def computing(
    device: str | torch.device,
    precision: str = "float32",
    *,
    search: bool = False,
    deterministic: bool = False,
) -> Iterator[None]:
    """Within it a GPU computes in `precision`, and in no other.

    float32 is float32: torch's own default rounds the inputs of convolutions to TF32, which has 10
    bits where float32 has 23. Only precision "tf32" permits that, and in matrix products, too.
    search: cuDNN tries its algorithms for each size of a batch and keeps the fastest; it pays where
    sizes repeat, as in training. deterministic: only algorithms that give the same bits twice, and
    no search, whose choice depends on the moment; torch raises RuntimeError where it has none.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    conv, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = conv.allow_tf32, matmul.allow_tf32, conv.benchmark
    strict = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    conv.allow_tf32 = matmul.allow_tf32 = precision == "tf32"
    conv.benchmark = search and not deterministic
    if deterministic:
        # cuBLAS looks at it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        conv.allow_tf32, matmul.allow_tf32, conv.benchmark = before
        torch.use_deterministic_algorithms(strict, warn_only=lenient)


def recorded(device: str | torch.device, precision: str, deterministic: bool) -> dict[str, Any]:
    """What training told a GPU, for a record; nothing on a CPU."""
    if torch.device(device).type != "cuda":
        return {}
    return {
        "tf32": precision == "tf32",
        "cudnn_benchmark": not deterministic,
        "deterministic": deterministic,
    }
