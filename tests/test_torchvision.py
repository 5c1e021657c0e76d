"""torchvision imports beside the torch that is installed here, whichever build it is (each in a
fresh process).
"""

import subprocess
import sys

import pytest

USES = {
    "models": "torchvision.models.resnet18(num_classes=2)(torch.rand(2, 3, 32, 32))",
    "transforms": "from torchvision.transforms import v2; v2.RandomCrop(4)(torch.rand(3, 8, 8))",
    "datasets": "from torchvision.datasets import CIFAR10, SVHN, ImageFolder",
    "lpips": "import lpips; lpips.LPIPS(net='alex', pnet_rand=True, verbose=False)",
}


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("use", USES)
def test_works_after_our_import(use):
    done = run(f"import torch; from acslib._torchvision import torchvision; {USES[use]}")
    assert done.returncode == 0, done.stderr


def test_operators_are_declared_only_where_the_extension_does_not_load():
    done = run(
        "import acslib._torchvision as t;"
        " print((t._library is None) == t.torchvision.extension._has_ops())"
    )
    assert done.stdout.strip() == "True", done.stderr


def test_reloading_is_harmless():  # as notebooks with autoreload do
    code = "import importlib, acslib._torchvision as t; importlib.reload(t)"
    done = run(code)
    assert done.returncode == 0, done.stderr
