"""Attacks in [0, 1] pixel space, each called as `attack(model, images, labels)`.

`call` calls any attack so, those of other libraries too. The perceptual ones are in `perceptual`,
those of Table C1 in `unseen` and `autoattack`.
"""

from acslib.attacks.calling import call
from acslib.attacks.pgd import FGSM, NFGSM, PGD

__all__ = ["FGSM", "NFGSM", "PGD", "call"]
