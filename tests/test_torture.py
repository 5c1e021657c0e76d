"""A small sample of `make torture`; and that it finds what it looks for."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SABOTAGED = """
import contextlib, sys
from tools.torture import __main__
__main__.SAMPLE = 0.15
from acslib import writing
from acslib.paper import checkpoints
@contextlib.contextmanager
def in_place(path):
    yield path
writing.replacing = in_place
checkpoints.digest = lambda tensors, note: "of anything"
sys.exit(__main__.main(["--sample", "--part", "damage", "--part", "kills"]))
"""


def test_a_sample_of_every_part_ends_well():
    done = torture("-m", "tools.torture", "--sample")
    assert done.returncode == 0, done.stdout + done.stderr
    *table, empty, totals = done.stdout.splitlines()
    assert empty == ""
    assert re.match(r"torture: \d+ attempts, 0 failures, 0 tracebacks, 0 hangs; seed 0", totals)
    parts = {line.split()[0] for line in table if line.endswith("0  0  0".replace(" ", " "))}
    assert parts


def torture(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
