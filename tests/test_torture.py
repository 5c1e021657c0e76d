"""A small sample of `make torture`; and that it sees what it looks for."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.torture.__main__ import PARTS
from tools.torture.children import Child, Ended, broken, refused
from tools.torture.outcomes import Outcome, table, totals

ROOT = Path(__file__).parents[1]
SABOTAGED = """
import sys
from acslib.paper import checkpoints
from tools.torture import __main__

checkpoints.tensors_sha256 = lambda tensors, note: "of anything"
__main__.SAMPLE = 0.1
sys.exit(__main__.main(["--sample", "--part", "damage"]))
"""


def torture(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600
    )


def test_a_sample_of_every_part_ends_well():
    done = torture("-m", "tools.torture", "--sample")
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, empty, said = done.stdout.splitlines()
    assert empty == ""
    assert re.match(
        r"torture: \d+ attempts, 0 failures, 0 tracebacks, 0 hangs; seed 0, \d+ s", said
    )
    assert {line.split()[0] for line in lines if line.endswith("  0")} == set(PARTS)


def test_files_that_nobody_checks_are_found():
    """Without checksums, what is damaged is read and used."""
    done = torture("-c", SABOTAGED)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search("checkpoints: (flipped bit|truncated|zeros), .*: failure", done.stdout)
    assert not done.stdout.splitlines()[-1].count(" 0 failures")


# ---- what is told from what


@pytest.mark.parametrize(
    ("code", "said", "ending"),
    [
        (2, "acs: steps is 'x', it is not a number\n", "well"),
        (0, "", "failure"),
        (1, "acs: steps is 'x'\n", "failure"),
        (2, "acs: one line\nand another\n", "failure"),
        (2, "steps is 'x'\n", "failure"),
        (2, f"acs: steps is {'9' * 3000}\n", "failure"),
        (2, "acs: <class 'int'> is no number of steps\n", "failure"),
        (2, "acs: epochs is 'x'\n", "failure"),
        (1, "Traceback (most recent call last):\n  x\nValueError: steps\n", "traceback"),
        (None, "", "hang"),
    ],
)
def test_a_refusal_is_one_plain_line_that_names_what_is_wrong(code, said, ending):
    assert refused(Ended(code, "", said, 1.0), "steps")[0] == ending


def waiting() -> int:
    time.sleep(60)
    return 0


def raising() -> int:
    raise RuntimeError("it broke")


def printing() -> int:
    print("this")
    print("that", file=sys.stderr)
    return 3


def test_a_child_gives_its_code_and_what_it_prints(tmp_path):
    ended = Child(printing, tmp_path).wait()
    assert (ended.code, ended.out, ended.err) == (3, "this\n", "that\n")
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_raises_or_waits_is_told_from_one_that_ends(tmp_path):
    assert broken(Child(raising, tmp_path).wait()) == ("traceback", "RuntimeError: it broke")
    assert broken(Child(waiting, tmp_path).wait(at_most=0.3))[0] == "hang"
    killed = Child(waiting, tmp_path)
    killed.kill()
    assert killed.wait().killed
    assert broken(Child(lambda: 0, tmp_path).wait()) is None


def test_the_table_counts_each_kind_and_the_totals_all():
    outcomes = [
        Outcome("kills", "1"),
        Outcome("kills", "2", "failure", "lost"),
        Outcome("names", "x", "hang"),
        Outcome("names", "y", "traceback"),
    ]
    rows = [line.split() for line in table({"a": outcomes[:2], "b": outcomes[2:]}).splitlines()]
    assert rows[1:] == [["a", "kills", "2", "1", "0", "0"], ["b", "names", "2", "0", "1", "1"]]
    assert totals(outcomes) == "torture: 4 attempts, 1 failures, 1 tracebacks, 1 hangs"
