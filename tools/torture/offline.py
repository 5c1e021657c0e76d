"""ACS_OFFLINE=1: no command and no data set looks anything up, connects or starts a program that
would.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from acslib import data
from acslib.attacks import lpips
from acslib.data import loading
from tools.torture.bench import ITEM, PROFILE, RUNS, Bench, Work, acs, told, train
from tools.torture.children import broken, refused
from tools.torture.outcomes import Ending, Outcome

EVENTS = ("socket.", "urllib.", "http.client.", "ftplib.")
NO_NETWORK = ("socket.gethostname", "socket.__new__")  # a name of this machine; opened, not used
PROGRAMS = ("npm", "pip", "curl", "wget")


def offline(bench: Bench) -> Iterator[Outcome]:
    yield Outcome("the watch itself", "on line", *seen(bench))
    for name, work in commands().items():
        yield Outcome("commands", name, *quiet(bench, work, bench.folder(bench.whole)))
    yield Outcome(
        "training", RUNS["gradmatch"], *quiet(bench, train(RUNS["gradmatch"]), bench.folder())
    )
    for name in loading.NAMES:
        for sample in (False, True):
            work = told(lambda name=name, sample=sample: data.load(name, sample=sample).source)
            yield Outcome(
                "data sets", f"{name}, sample {sample}", *quiet(bench, work, bench.folder())
            )
    for name in ("imagenet12", "imagenet100"):
        work = told(lambda name=name: lpips.alexnet_for(name, train=True).stem)
        yield Outcome("LPIPS' networks", name, *quiet(bench, work, bench.folder()))


def commands() -> dict[str, Work]:
    run, profile = RUNS["gradmatch"], ("--profile", PROFILE)
    several = (
        ["list", ITEM, *profile],
        ["list", ITEM, "--cost", *profile],
        ["runs"],
        ["compare", run, RUNS["full"], *profile],
        ["explain"],
        ["rules", *profile],
        ["run", run, *profile],
        ["export", run, *profile, "--to", "/dev/null/x"],
        ["show", ITEM, *profile],
    )
    return {" ".join(words): acs(*words) for words in several}


def quiet(bench: Bench, work: Work, results: Path) -> tuple[Ending, str]:
    """Whether a work goes well, or is refused, without the network."""
    path = bench.scratch / "events"
    ended = bench.ended(watched(work, path, "1"), results)
    events = path.read_text().splitlines()
    if bad := broken(ended):
        return bad
    if events:
        return "failure", events[0]
    return ("well", "") if ended.code == 0 else refused(ended)


def seen(bench: Bench) -> tuple[Ending, str]:
    """The same on line, with nobody there, must be noticed: or the watch is blind."""
    path = bench.scratch / "events"
    os.environ["ACS_MIRROR"] = "http://127.0.0.1:9/"
    try:
        bench.ended(watched(told(lambda: data.load("svhn")), path, "0"), bench.folder())
    finally:
        del os.environ["ACS_MIRROR"]
    return ("well", "") if path.read_text() else ("failure", "nothing was noticed on line")


def watched(work: Work, path: Path, offline: str) -> Work:
    """Work whose every use of the network is written down."""

    def watch() -> int:
        os.environ["ACS_OFFLINE"] = offline
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def notice(event: str, arguments: tuple) -> None:
            network = event.startswith(EVENTS) and event not in NO_NETWORK
            program = event == "subprocess.Popen" and Path(str(arguments[0])).name in PROGRAMS
            if network or program:
                os.write(file, f"{event} {arguments}\n".encode("utf-8", "replace"))

        sys.addaudithook(notice)
        return work()

    return watch
