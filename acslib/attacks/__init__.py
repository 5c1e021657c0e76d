"""Attacks in [0, 1] pixel space, each called as `attack(model, images, labels)`."""

from acslib.attacks.pgd import FGSM, PGD

__all__ = ["FGSM", "PGD"]
