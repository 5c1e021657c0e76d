"""Adversarial coreset selection for efficient robust training (Dolatabadi, Erfani and Leckie).

Where to find the paper: `objectives` eqs. (2)-(4), (18), (22); `attacks` eqs. (3), (17), (21);
`gradients` section 3.4; `selectors` eq. (12), Algorithms 2 and 3; `schedule` and `training`
Algorithm 1; `perceptual` and `threats` Tables 2, C1 and D4; `theory` Theorem 1. `params` holds
Tables C2 and C3, `runs` makes one run from its name, `tables` and `figures` what the paper prints.
"""

__version__ = "0.2.0.dev0"
