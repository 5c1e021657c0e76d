"""Damaged files: each is refused in a sentence that names it, or what it holds is made anew."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from acslib import data
from acslib.attacks import alexnet, alexnet_trained
from acslib.paper import checkpoints, config, records, rows, runs, tables
from tools.torture.bench import ITEM, PROFILE, RUNS, Bench, Work, acs, run_folder, told, train
from tools.torture.children import broken, refused
from tools.torture.kills import half_way
from tools.torture.outcomes import Ending, Outcome

NAME = RUNS["gradmatch"]
SHARES = {"flipped bit": 14, "truncated": 7, "zeros": 3, "empty": 1, "another's": 1, "a folder": 1}


class Subject(NamedTuple):
    """A kind of file, and what reads it.

    home: a folder that holds it, and all that is read with it. path: where it is in there. other:
    the same of another run. read: prints what was read, or trains on; given the folder. made:
    whether a run is finished by reading, which must then be as it is undisturbed.
    """

    kind: str
    home: Path
    path: Path
    other: Path
    read: Callable[[Path], Work]
    made: bool = False


def damage(bench: Bench) -> Iterator[Outcome]:
    for subject in subjects(bench):
        expected = undamaged(bench, subject)
        cases = [case for case, number in SHARES.items() for _ in range(number)]
        for number, case in enumerate(bench.some(cases)):
            home = bench.folder(subject.home)
            ruin(case, home / subject.path, subject.other, bench.chance)
            ended = bench.ended(subject.read(home), home)
            verdict = judged(bench, subject, ended, home, expected)
            yield Outcome(subject.kind, f"{case}, {number}", *verdict)
            shutil.rmtree(home)


def undamaged(bench: Bench, subject: Subject) -> str:
    """What is printed where nothing is damaged."""
    home = bench.folder(subject.home)
    ended = bench.ended(subject.read(home), home)
    assert ended.code == 0, f"{subject.kind}: {ended.err}"
    return ended.out.replace(str(home), "")


def judged(bench: Bench, subject: Subject, ended, home: Path, expected: str) -> tuple[Ending, str]:
    if bad := broken(ended):
        return bad
    if ended.code:
        return refused(ended, subject.path.name)
    if subject.made:
        return bench.as_undisturbed(home, [NAME])
    same = ended.out.replace(str(home), "") == expected
    return ("well", "") if same else ("failure", "was read, and is something else")


def ruin(case: str, path: Path, other: Path, chance: Random) -> None:
    """Damage a file."""
    content = path.read_bytes()
    if case == "flipped bit":
        changed = bytearray(content)
        changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
    elif case == "truncated":
        ends = [place + 1 for place, byte in enumerate(content[:-1]) if byte == ord("\n")]
        anywhere = chance.randrange(1, len(content))
        at_a_line = path.suffix in (".csv", ".json") and chance.random() < 0.5
        path.write_bytes(content[: chance.choice(ends) if at_a_line else anywhere])
    elif case == "zeros":  # as after a power failure
        start = chance.randrange(len(content))
        path.write_bytes(
            content[:start] + bytes(min(4096, len(content) - start)) + content[start + 4096 :]
        )
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "another's":
        path.write_bytes(other.read_bytes())
    else:
        path.unlink()
        path.mkdir()


# ---- what is damaged


def subjects(bench: Bench) -> Iterator[Subject]:
    yield from of_a_run(bench)
    yield of_a_table(bench)
    yield of_the_cache(bench)
    yield of_lpips(bench)


def of_a_run(bench: Bench) -> Iterator[Subject]:
    whole, run = bench.whole, config.resolve(NAME, PROFILE)
    mine = run_folder(whole, NAME).relative_to(whole)
    theirs = run_folder(bench.undisturbed([NAME], seed=1), NAME, 1)
    stopped_too = run_folder(half_way(bench, seed=1), NAME, 1)

    def again(home: Path) -> Work:
        return train(NAME)

    def network(home: Path) -> Work:
        return told(lambda: state_digest(runs.load_trained(run, 0, "cpu", home)[0]))

    def coresets(home: Path) -> Work:
        return told(lambda: checkpoints.load_coresets(run, 0, home))

    stopped, checkpoint = half_way(bench), mine / records.CHECKPOINT
    other = stopped_too / checkpoint.name
    yield Subject("checkpoints", stopped, checkpoint, other, again, True)
    warm = warm_start(bench)
    kept = next(warm.rglob("epoch*.safetensors")).relative_to(warm)
    yield Subject("warm starts", warm, kept, other, again, True)
    record, weights = "record.json", "weights.safetensors"
    yield Subject("records", whole, mine / record, theirs / record, again, True)
    yield Subject("weights", whole, mine / weights, theirs / weights, network)
    coreset = max((whole / mine).glob("coreset-*")).name
    yield Subject("coresets", whole, mine / coreset, theirs / coreset, coresets)


def warm_start(bench: Bench) -> Path:
    """Results with nothing but the first epochs that other runs begin with, too."""
    results = bench.folder()
    assert bench.ended(train(NAME, 0, "--warm-only"), results).code == 0
    shutil.rmtree(run_folder(results, NAME))
    return results


def state_digest(network: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def of_a_table(bench: Bench) -> Subject:
    """A table's CSV; the other one has fewer rows."""
    results, path = bench.folder(bench.whole), Path(PROFILE, f"{ITEM}.csv")

    def gather() -> Path:
        return tables.write_table(ITEM, rows.gather(ITEM, PROFILE, [0], results))

    def show(home: Path) -> Work:
        return acs("show", ITEM, "--profile", PROFILE)

    assert bench.ended(told(gather), results).code == 0
    other = bench.scratch / path.name
    other.write_bytes(b"".join((results / path).read_bytes().splitlines(keepends=True)[:3]))
    return Subject("tables", results, path, other, show)


def of_the_cache(bench: Bench) -> Subject:
    """Decoded images; the other ones are of another folder."""
    homes = [bench.folder() for _ in range(2)]
    folders = [image_folder(bench.scratch / f"images-{number}", number) for number in range(2)]

    def read(home: Path, folder: Path = folders[0]) -> Work:
        def images() -> str:
            os.environ["ACS_CACHE"] = str(home / "cache")
            found = data.from_folder(folder)
            pixels = torch.cat([found.train.images, found.test.images])
            return hashlib.sha256(pixels.numpy()).hexdigest() + found.source

        return told(images)

    for home, folder in zip(homes, folders, strict=True):
        assert bench.ended(read(home, folder), home).code == 0
    cached = [next((home / "cache").glob("*.safetensors")) for home in homes]
    return Subject("cached images", homes[0], cached[0].relative_to(homes[0]), cached[1], read)


def image_folder(path: Path, seed: int) -> Path:
    """Eight images of two classes."""
    draws = np.random.default_rng(seed)
    for name in product(("a", "b"), "1234"):
        image = path.joinpath(*name).with_suffix(".png")
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (8, 8, 3), np.uint8)).save(image)
    return path


def of_lpips(bench: Bench) -> Subject:
    """The AlexNet that LPIPS looks through; the other one is of another data set."""
    home, path = bench.folder(), Path("alexnet-digits.safetensors")

    def save(file: Path, seed: int) -> None:
        torch.manual_seed(seed)
        alexnet_trained.save_alexnet(alexnet.AlexNet("digits", classes=10), file)

    def read(home: Path) -> Work:
        return told(lambda: state_digest(alexnet_trained.load_alexnet(home / path)))

    other = bench.scratch / "alexnet-cifar10.safetensors"
    save(home / path, 0)
    save(other, 1)
    return Subject("LPIPS' networks", home, path, other, read)
