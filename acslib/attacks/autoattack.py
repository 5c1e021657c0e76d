"""AutoAttack under l2 and linf (Croce and Hein, 2020), by the package pyautoattack."""

import contextlib
import sys
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

import pyautoattack
import torch
from torch import Tensor, nn

from acslib.passes import frozen
from acslib.protocols import check_images, check_labels

NORMS = {"linf": "Linf", "l2": "L2"}
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
ATTACKS = (*STANDARD, "apgd-dlr", "fab")
FEWEST_CLASSES = {
    "apgd-dlr": 3,
    "apgd-t": 4,
}  # the losses divide by a difference of the third or fourth largest logit


@dataclass(frozen=True)
class AutoAttack:
    """Standard AutoAttack (Croce and Hein, 2020) by the package pyautoattack: the worst of four
    attacks.

    APGD-CE (100 steps), targeted APGD-DLR and FAB (100 steps, the 9 likeliest wrong classes, or as
    many as there are) and Square (5,000 queries), each on what the ones before left standing.
    Images nobody fools come back clean. `attacks` chooses among apgd-ce, apgd-dlr, apgd-t, fab,
    fab-t and square, in that order of running. Table C1's "20 iterations" has no counterpart in
    AutoAttack. Needs float32 images; raises ValueError if the model has too few classes for an
    attack. Randomness comes from `seed`, or from `generator` if there is one.
    """

    norm: Literal["linf", "l2"]
    epsilon: float
    attacks: tuple[str, ...] = STANDARD
    _: KW_ONLY
    batch_size: int = 250
    seed: int = 0
    mode: Literal["eval", "train"] | None = None
    generator: torch.Generator | None = field(default=None, compare=False)

    def __post_init__(self):
        if self.norm not in NORMS:
            raise ValueError(f"norm is {self.norm!r}: choose linf or l2")
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon is {self.epsilon}: it must be at least 0")
        if not self.attacks or not set(self.attacks) <= set(ATTACKS):
            raise ValueError(f"attacks are {self.attacks}: choose from {', '.join(ATTACKS)}")

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        images = images.detach()
        check_images(images)
        check_labels(model, labels)
        if self.epsilon == 0 or len(images) == 0:
            return images.clone()
        with frozen(model, self.mode), _untouched_globals(images.device):
            with torch.no_grad():
                classes = model(images[:1]).shape[1]
            suite = self._suite(model, classes, images.device)
            adversarial, _ = suite.run_standard_evaluation(
                images.contiguous(), labels, batch_size=self.batch_size
            )
        return adversarial.detach()

    def _suite(self, model, classes, device):
        for attack in self.attacks:
            if classes < FEWEST_CLASSES.get(attack, 2):
                raise ValueError(
                    f"{attack} needs {FEWEST_CLASSES.get(attack, 2)} classes, the model has {classes}:"
                    " leave it out of `attacks`"
                )
        seed = self.seed
        if self.generator is not None:
            seed = int(
                torch.randint(2**31, (), device=self.generator.device, generator=self.generator)
            )
        suite = pyautoattack.AutoAttack(
            model, norm=NORMS[self.norm], eps=self.epsilon, seed=seed, device=device
        )
        suite.attacks_to_run = list(self.attacks)
        suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(9, classes - 1)
        return suite


@contextlib.contextmanager
def _untouched_globals(device: torch.device):
    """pyautoattack seeds torch's global generators and removes the tracer (of a debugger, or of
    coverage).
    """
    tracer = sys.gettrace()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            sys.settrace(tracer)
