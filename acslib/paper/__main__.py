"""`python -m acslib.paper` is the command `acs`, where that is not installed."""

import sys

from acslib.paper.cli import main as main

if __name__ == "__main__":
    sys.exit(main())
