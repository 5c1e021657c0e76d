"""The command line that Make calls.

python -m acslib.paper train RUN --profile demo --seeds "0 1 2"
python -m acslib.paper list TABLE --profile demo
python -m acslib.paper rules --profile demo --seeds "0 1 2"
python -m acslib.paper show TABLE --profile demo
python -m acslib.paper page --profile demo --seeds "0 1 2"
"""

import argparse
import os
import sys
from pathlib import Path

from acslib.paper import config, files, rules, tables
from acslib.paper.log import epoch_line
from acslib.paper.runs import execute

PROBLEMS = (
    ValueError,
    OSError,
)  # ValueError: what is wrong with parameters, data, records and losses, in a sentence


def train_command(arguments) -> None:
    for seed in arguments.seeds:
        run = config.resolve(arguments.name, arguments.profile)
        print(
            f"{run.name}, profile {run.profile}, seed {seed}: {len(run.plan)} epochs, speed-up at most"
            f" {run.plan.ceiling:.2f}x",
            flush=True,
        )
        record = execute(
            run,
            seed,
            progress=lambda row: print(epoch_line(row), flush=True),
            announce=lambda source: print(f"data: {source}", flush=True),
        )
        shown = ", ".join(
            f"{name} {100 * value:.2f} %"
            for name, value in record["metrics"].items()
            if isinstance(value, float)
        )
        print(f"{run.name}: {shown}, {record['seconds']['total']:.1f} s")


def list_command(arguments) -> None:
    for name in config.table_runs(arguments.name, arguments.profile):
        print(name)


def rules_command(arguments) -> None:
    """What Make includes: printed, or written to a file all at once."""
    if arguments.output:
        rules.write(arguments.output, arguments.profile, arguments.seeds)
    else:
        print(rules.rules(arguments.profile, arguments.seeds), end="")


def shown_results() -> Path:
    """The folder of results as Make and messages name it."""
    return Path(os.environ.get("ACS_RESULTS") or "results")


def show_command(arguments) -> None:
    """Where a table or figure is, and the table itself."""
    name, known = arguments.name, [*config.tables(), "theorem1"]
    if name not in known:
        raise config.ParamsError(
            f"there is no table or figure {name!r}{config.nearest(name, known)}"
        )
    if arguments.name.startswith("table"):
        print(f"{tables.text(arguments.name, arguments.profile)}\n")
        notebook = Path("build", arguments.profile, f"{name}.ipynb")
        print(
            f"{shown_results()}/{arguments.profile}/{name}.csv (and .tex)"
            + (f"; {notebook} shows it with its pictures" if notebook.exists() else "")
        )
    else:
        picture = shown_results().parent / "figures" / arguments.profile / f"{arguments.name}.pdf"
        if not picture.exists():
            raise files.RecordError(
                f"there is no {picture}: make {name} PROFILE={arguments.profile} makes it"
            )
        print(f"{picture} (and .png)")


def page_command(arguments) -> None:
    """Every table and figure on one page, for oneself or for `results/published`."""
    from acslib.paper import page  # draws

    if arguments.publish:
        print(page.publish(arguments.profile, arguments.seeds))
    else:
        print("\n".join(map(str, page.write(arguments.profile, arguments.seeds))))


COMMANDS = {
    "train": train_command,
    "list": list_command,
    "rules": rules_command,
    "show": show_command,
    "page": page_command,
}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="acslib.paper", description="Train runs and list what tables need."
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("name", nargs="?", help="a run, or a table for list")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", default="0", help='like "0 1 2"')
    parser.add_argument("--output", type=Path, help="a file to write rules to")
    parser.add_argument("--publish", action="store_true", help="page: into results/published")
    arguments = parser.parse_args(argv)
    if arguments.name is None and arguments.command not in ("rules", "page"):
        parser.error(f"{arguments.command} needs a name")
    try:
        arguments.seeds = config.seeds(arguments.seeds)
        COMMANDS[arguments.command](arguments)
    except PROBLEMS as error:
        print(f"acs: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
