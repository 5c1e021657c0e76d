"""What is trained of a profile in one file, so that a class begins without training.

    python tools/class_pack.py --profile demo --seeds 0     # writes build/class-pack.zip

It holds the records, weights and coresets of every run that a table or figure needs, and their
CSVs, under the names that they have in a checkout. Unpacked over a clone of the same version
(`python -m zipfile -e class-pack.zip .`), `make table1` finds every run trained. The same results
give the same bytes.
"""

import argparse
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from acslib.paper import config, files, items, paramfiles, params, records

ROOT = Path(__file__).parents[1]
KEPT = ("record.json", "weights.safetensors", "coreset-*.safetensors")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # that a zip file can name


def contents(profile: str, asked: Sequence[int] | None) -> Iterator[Path]:
    """The files of a profile. Raises RecordError where a run that a table needs is not finished."""
    runs = {
        (name, seed): None
        for item in paramfiles.of_all()
        for name in items.table_runs(item, profile)
        for seed in items.wanted_seeds(item, profile, asked)
    }
    for name, seed in runs:
        run = config.resolve(name, profile)
        if records.finished_record(run, seed) is None:
            raise files.RecordError(
                f"{name}, seed {seed}, is not trained: make class-pack PROFILE={profile} trains"
                " what is missing"
            )
        folder = records.run_folder(run, seed)
        for pattern in KEPT:
            yield from sorted(folder.glob(pattern))
    yield from sorted((files.RESULTS / profile).glob("*.csv*"))  # and their checksums


def pack(path: Path, profile: str, seeds: Sequence[int] | None) -> int:
    """Write the file; gives how many files it holds."""
    found = list(contents(profile, seeds))
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for one in found:
            place = Path("results") / one.relative_to(files.RESULTS)
            about = zipfile.ZipInfo(place.as_posix(), EARLIEST)
            about.compress_type, about.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            file.writestr(about, one.read_bytes())
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", help='which, as "0 1 2"; default: what the profile says')
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "class-pack.zip")
    options = parser.parse_args()
    try:
        seeds = None if options.seeds is None else config.seeds(options.seeds)
        count = pack(options.output, options.profile, seeds)
    except (params.ParamsError, files.RecordError) as error:
        sys.exit(f"class-pack: {error}")
    size = options.output.stat().st_size / 1e6
    print(f"{options.output}: {count} files of {options.profile}, {size:.1f} MB")


if __name__ == "__main__":
    main()
