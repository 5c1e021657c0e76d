"""Warm starts that several runs have in common: trained once, kept by what determines them.

The full epochs that a run begins with are the same for every method of a setting and seed, full
training included, to the last bit. Whoever trains them first keeps them for the others:

    results/<profile>/warm/<setting>+<digest>/seed<k>/epoch006.<digest>.safetensors

The first digest is of the parameters that training looks at, the second of what else changes a bit:
the images, the processor, threads and processes, torch. Who has them in common is known from the
tables and figures of the profile, and once all of these runs have a record the files go. Needs no
torch, as Make's rules ask here, too.
"""

import contextlib
import functools
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from acslib.paper import config, files, fingerprints, items, paramfiles, records
from acslib.paper.config import Run
from acslib.paper.settings import REGISTRIES, owner

SCHEDULED = ("epochs", "lr_drops")  # they matter to a first part only by the drops within it


# ---- what two runs have in common


@functools.cache
def length(run: Run) -> int:
    """How many full epochs a run begins with."""
    return next((epoch.index for epoch in run.plan if epoch.phase != "full"), len(run.plan))


def family(run: Run) -> str:
    """A name for all runs that begin in the same way, whatever they do later."""
    return _family(run) + fingerprints.made_with(run, REGISTRIES)


@functools.cache
def _family(run: Run) -> str:
    same = fingerprints.parameters(
        run, lambda key: owner(key) == "training" and key not in SCHEDULED
    )
    return f"{run.setting_name}+{fingerprints.short_sha256(same)}"


def name(run: Run, epochs: int) -> str:
    """The first epochs of a run of a family: how many, and the drops of the rate within them."""
    drops = sorted(drop for drop in run.setting.lr_drops if drop < epochs)
    return f"epoch{epochs:03d}" + "".join(f"-{drop}" for drop in drops)


def epochs_in_common(run: Run, other: Run) -> int:
    """How many full epochs two runs have in common from the first on."""
    if family(run) != family(other):
        return 0
    both = range(min(length(run), length(other)), 0, -1)
    return next((epochs for epochs in both if name(run, epochs) == name(other, epochs)), 0)


def shared(run: Run, others: Collection[Run]) -> list[int]:
    """After how many epochs a run is where another one passes, too; ascending."""
    found = {epochs_in_common(run, other) for other in others if other.name != run.name}
    return sorted(found - {0})


def peers(run: Run) -> list[Run]:
    """The runs of a setting that the tables and figures of a profile need."""
    names = {
        wanted: None
        for item in paramfiles.item_names()
        for wanted in items.table_runs(item, run.profile)
    }
    return [
        config.resolve(wanted, run.profile)
        for wanted in names
        if config.parse(wanted)[0] == run.setting_name
    ]


# ---- where it is kept


def root(profile: str, results: Path | None = None) -> Path:
    """Where first epochs that runs have in common are kept."""
    return (results or files.RESULTS) / profile / "warm"


def marker(run: Run, seed: int, epochs: int, results: Path | None = None) -> Path:
    """The empty file by which Make knows that these first epochs are trained."""
    return root(run.profile, results) / family(run) / f"seed{seed}" / name(run, epochs)


@dataclass(frozen=True)
class Sharing:
    """What a run of a seed has in common with others.

    others: those that may need it. computed: a digest of what changes bits beside the parameters.
    """

    run: Run
    seed: int
    others: tuple[Run, ...]
    computed: str
    results: Path | None = None

    @property
    def epochs(self) -> list[int]:
        """After how many epochs the run's state is one that an unfinished run can begin with."""
        return shared(self.run, [run for run in self.others if not self._finished(run)])

    def path(self, epochs: int) -> Path:
        at = marker(self.run, self.seed, epochs, self.results)
        return at.with_name(f"{at.name}.{self.computed}.safetensors")

    def what(self, epochs: int) -> str:
        """What determines the first epochs, in a line that a file of them has."""
        return f"{family(self.run)}-{name(self.run, epochs)}-{self.computed}"

    def furthest(self, beyond: int) -> int | None:
        """The most first epochs that are kept, if they are more than `beyond`."""
        epochs = range(length(self.run), beyond, -1)
        return next((count for count in epochs if self.path(count).exists()), None)

    @contextlib.contextmanager
    def alone(self, announce: Callable[[str], object]) -> Iterator[None]:
        """Within it no other run trains these epochs: the second waits, and then finds them.

        The lock of a process that was killed is nobody's.
        """
        path = self.path(1).parent / f"{self.computed}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            announce(f"warm start: another run trains it ({path} is locked), waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def clear(self) -> None:
        """Remove what no run needs any more: all have a record, or other parameters now."""
        waiting = [run for run in (self.run, *self.others) if not self._finished(run)]
        needed = {
            (family(run), name(run, epochs))
            for run in waiting
            for epochs in range(1, length(run) + 1)
        }
        everywhere = root(self.run.profile, self.results)
        for folder in everywhere.glob(f"{self.run.setting_name}+*/seed{self.seed}"):
            for file in folder.glob("epoch*"):
                if (folder.parent.name, file.name.split(".")[0]) not in needed:
                    file.unlink(missing_ok=True)
            if folder.parent.name not in {family(run) for run in waiting}:
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # other seeds, or other settings, are there
                    folder.parent.rmdir()
                    everywhere.rmdir()

    def _finished(self, run: Run) -> bool:
        """Whether it is trained. Where a plugin's file has changed since, it will be anew."""
        path = records.run_folder(run, self.seed, self.results) / "record.json"
        try:
            return path.exists() and records.state_of(records.read_record(path), run) != "outdated"
        except files.RecordError:  # it says so to whoever asks for this run
            return True


def sharing(
    run: Run, seed: int, computed: Collection[str | int], results: Path | None = None
) -> Sharing:
    """What a run has in common with the others of its profile's tables and figures.

    computed: what changes bits beside the parameters, in words and numbers.
    """
    return Sharing(run, seed, tuple(peers(run)), fingerprints.short_sha256(list(computed)), results)
