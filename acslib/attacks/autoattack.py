"""AutoAttack under l2 and linf (Croce and Hein, 2020), by the package pyautoattack."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from acslib.attacks.common import Base, check_amounts, usable

NORMS = {"linf": "Linf", "l2": "L2"}
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
ATTACKS = (*STANDARD, "apgd-dlr", "fab")
# the losses divide by a difference of the third or fourth largest logit
FEWEST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}


@dataclass(frozen=True)
class AutoAttack(Base):
    """Standard AutoAttack (Croce and Hein, 2020), the worst of four attacks, by pyautoattack.

    APGD-CE (100 steps), targeted APGD-DLR and FAB (100 steps, the 9 likeliest wrong classes, or as
    many as there are) and Square (5,000 queries), each on what the ones before left standing.
    Images nobody fools come back clean. `attacks` chooses among apgd-ce, apgd-dlr, apgd-t, fab,
    fab-t and square, in that order of running. Table C1's "20 iterations" has no counterpart in
    AutoAttack. Needs float32 images, and the package pyautoattack, for which ImportError names the
    extra; raises ValueError if the model has too few classes for an attack. Randomness comes from
    `seed`, or from `generator` if there is one.
    """

    norm: Literal["linf", "l2"]
    epsilon: float
    attacks: tuple[str, ...] = STANDARD
    _: KW_ONLY
    batch_size: int = 250
    seed: int = 0

    types: ClassVar = (torch.float32,)

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm is {self.norm!r}: choose linf or l2")
        check_amounts(epsilon=self.epsilon)
        if not self.attacks or not set(self.attacks) <= set(ATTACKS):
            raise ValueError(f"attacks are {self.attacks}: choose from {', '.join(ATTACKS)}")
        _package()

    def _perturb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        if self.epsilon == 0 or len(images) == 0:
            return images.clone()
        classes = model(images[: self.batch_size]).shape[1]
        suite = self._suite(_Usable(model), classes, images.device)
        with _untouched_globals(images.device):
            adversarial, _ = suite.run_standard_evaluation(
                images.contiguous(), labels, batch_size=self.batch_size
            )
        found: Tensor = adversarial.detach()
        return found

    def _suite(self, model: nn.Module, classes: int, device: torch.device) -> Any:
        for attack in self.attacks:
            fewest = FEWEST_CLASSES.get(attack, 2)
            if classes < fewest:
                raise ValueError(
                    f"{attack} needs {fewest} classes, the model has {classes}: leave it out of"
                    " `attacks`"
                )
        seed = self.seed
        if self.generator is not None:
            seed = int(
                torch.randint(2**31, (), device=self.generator.device, generator=self.generator)
            )
        suite = _package().AutoAttack(
            model, norm=NORMS[self.norm], eps=self.epsilon, seed=seed, device=device
        )
        suite.attacks_to_run = list(self.attacks)
        suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(9, classes - 1)
        return suite


def _package() -> ModuleType:
    try:
        import pyautoattack
    except ImportError as error:
        raise ImportError(
            "AutoAttack needs the package pyautoattack:"
            " pip install adversarial-coresets[autoattack]"
        ) from error
    module: ModuleType = pyautoattack
    return module


class _Usable(nn.Module):
    """A model whose gradients with respect to images are usable numbers."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            images = images.view_as(images)
            images.register_hook(usable)  # type: ignore[no-untyped-call]
        logits: Tensor = self.model(images)
        return logits


@contextlib.contextmanager
def _untouched_globals(device: torch.device) -> Iterator[None]:
    """pyautoattack seeds torch's generators and removes a debugger's or coverage's tracer."""
    tracer = sys.gettrace()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            sys.settrace(tracer)
