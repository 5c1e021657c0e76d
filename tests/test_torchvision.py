"""torchvision imports beside the torch that is installed here, whichever build it is (each in a
fresh process).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USES = {
    "models": "torchvision.models.resnet18(num_classes=2)(torch.rand(2, 3, 32, 32))",
    "transforms": "from torchvision.transforms import v2; v2.RandomCrop(4)(torch.rand(3, 8, 8))",
    "datasets": "from torchvision.datasets import CIFAR10, SVHN, ImageFolder",
    "lpips": "import lpips; lpips.LPIPS(net='alex', pnet_rand=True, verbose=False)",
}


def run(code: str, **more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-c", code]
    environment = os.environ | more
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


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


# what torchvision's package does as it is imported: declare operators, attach a rule to one
IMPORTED = """
import torch
library = torch.library.Library("torchvision", "FRAGMENT")
for name in {declares!r}:
    library.define(f"{{name}}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: scores)
"""


@pytest.mark.parametrize("declares", [(), ("nms",), ("nms", "qnms")])
def test_operators_of_its_own_are_let_be_whatever_file_declares_them(declares, tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(IMPORTED.format(declares=declares))
    code = (
        "import acslib._torchvision as t, torch;"
        "print(t._library is None, torch.ops.torchvision.nms.default._schema.name)"
    )
    done = run(code, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.stdout.split() == [str(bool(declares)), "torchvision::nms"], done.stderr


def test_what_else_goes_wrong_is_told_as_it_is(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('no CUDA here')")
    done = run("import acslib._torchvision", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.stderr.splitlines()[-1] == "RuntimeError: no CUDA here"
    done = run("import sys; sys.modules['torchvision'] = None; import acslib._torchvision")
    assert "torchvision is not installed: pip install torchvision" in done.stderr.splitlines()[-1]


def test_reloading_is_harmless():  # as notebooks with autoreload do
    code = (
        "import importlib, acslib._torchvision as t, torch; importlib.reload(t);"
        "print(torch.ops.torchvision.nms.default._schema.name)"
    )
    done = run(code)
    assert done.stdout.strip() == "torchvision::nms", done.stderr
