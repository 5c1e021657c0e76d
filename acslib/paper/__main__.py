"""`python -m acslib.paper` is the command `acs`.

It says in a sentence where the experiments cannot run: without a checkout, or without the packages
that they import.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit code."""
    if not (CHECKOUT / "params").is_dir():  # an installed wheel has the method alone
        return _refuse(
            "the experiments need a checkout of the project, with its params/ and notebooks/: clone"
            " it and run them there; import acslib has the method"
        )
    try:
        from acslib.paper import cli
    except ModuleNotFoundError as error:
        if str(error.name).startswith("acslib"):
            raise
        return _refuse(
            f"{error.name} is not installed: run make setup, or pip install"
            ' "adversarial-coresets[paper]"'
        )
    return cli.main(argv)


def _refuse(sentence: str) -> int:
    print(f"acs: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
