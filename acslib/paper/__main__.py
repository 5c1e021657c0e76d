"""The command line that Make calls.

python -m acslib.paper train RUN --profile demo --seeds "0 1 2"
python -m acslib.paper list TABLE --profile demo
python -m acslib.paper rules --profile demo --seeds "0 1 2"
python -m acslib.paper show TABLE --profile demo
python -m acslib.paper page --profile demo --seeds "0 1 2"

It ends with 0; with 2 after one line on stderr that says what was wrong and the way out; with 130
when it was interrupted. What a command needs is imported by it, so that `list` and `rules` answer
without loading torch.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from acslib.paper import config, files, params, records

# ValueError: what is wrong with parameters, data, records and losses, in a sentence
PROBLEMS = (ValueError, OSError, ImportError, MemoryError)
INTERRUPTED, BROKEN_PIPE = 130, 141  # as shells count: 128 and the signal's number


class Stopped(KeyboardInterrupt):
    """Interrupted; the message says what is kept."""


def train_command(arguments: argparse.Namespace) -> None:
    runs = [(config.resolve(arguments.name, arguments.profile), seed) for seed in arguments.seeds]
    from acslib.paper.log import epoch_line
    from acslib.paper.runs import execute

    for run, seed in runs:
        plan = run.plan
        say(
            f"{run.name}, profile {run.profile}, seed {seed}: {len(plan)} epochs, speed-up at most"
            f" {plan.ceiling:.2f}x"
        )
        try:
            record = execute(run, seed, progress=lambda row: say(epoch_line(row)), announce=say)
        except KeyboardInterrupt:
            raise Stopped(what_is_kept(run, seed)) from None
        shown = ", ".join(
            f"{name} {100 * value:.2f} %"
            for name, value in record["metrics"].items()
            if isinstance(value, float)
        )
        say(f"{run.name}: {shown}, {record['seconds']['total']:.1f} s")


def say(line: str) -> None:
    print(line, flush=True)


def what_is_kept(run: config.Run, seed: int) -> str:
    folder = records.run_folder(run, seed)
    if (folder / "record.json").exists():
        return f"the run is finished, {folder} has its record"
    if (folder / records.CHECKPOINT).exists():
        return f"{folder} keeps the epochs that are done, the same command goes on after them"
    return "no epoch was done, the same command begins anew"


def list_command(arguments: argparse.Namespace) -> None:
    for name in config.table_runs(arguments.name, arguments.profile):
        print(name)


def rules_command(arguments: argparse.Namespace) -> None:
    """What Make includes: printed, or written to a file all at once."""
    from acslib.paper import rules

    if arguments.output:
        rules.write(arguments.output, arguments.profile, arguments.seeds)
    else:
        print(rules.rules(arguments.profile, arguments.seeds), end="")


def show_command(arguments: argparse.Namespace) -> None:
    """Where a table or figure is, and the table itself."""
    name, profile = arguments.name, arguments.profile
    known = [*config.tables(), "theorem1"]
    if name not in known:
        raise config.ParamsError(
            f"there is no table or figure {name!r}{params.nearest(name, known)}"
        )
    config.profile(profile)
    if name.startswith("table"):
        from acslib.paper import tables

        print(f"{tables.text(name, profile)}\n")
        notebook = Path("build", profile, f"{name}.ipynb")
        print(
            f"{shown_results()}/{profile}/{name}.csv (and .tex)"
            + (f"; {notebook} shows it with its pictures" if notebook.exists() else "")
        )
    else:
        picture = shown_results().parent / "figures" / profile / f"{name}.pdf"
        if not picture.exists():
            raise files.RecordError(
                f"there is no {picture}: make {name} PROFILE={profile} makes it"
            )
        print(f"{picture} (and .png)")


def shown_results() -> Path:
    """The folder of results as Make and messages name it."""
    return Path(os.environ.get("ACS_RESULTS") or "results")


def page_command(arguments: argparse.Namespace) -> None:
    """Every table and figure on one page, for oneself or for `results/published`."""
    from acslib.paper import page

    if arguments.publish:
        print(page.publish(arguments.profile, arguments.seeds))
    else:
        print("\n".join(map(str, page.write(arguments.profile, arguments.seeds))))


class Parser(argparse.ArgumentParser):
    """argparse answers a mistake with its usage, of many lines; here it is one."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"acs: {message}; {self.prog} --help says more\n")


def parser() -> Parser:
    whole = Parser(
        prog="python -m acslib.paper", description="The paper's experiments, as Make calls them."
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="command")
    common = Parser(add_help=False)
    common.add_argument("--profile", default="demo", help="as in params/profiles; default demo")
    common.add_argument("--seeds", default="0", help='like "0 1 2"; default 0')

    def add(name: str, command: Callable[[argparse.Namespace], None], text: str) -> Parser:
        added = commands.add_parser(name, help=text, description=text, parents=[common])
        added.set_defaults(run_command=command)
        return added

    train = add("train", train_command, "Train and evaluate one run, or go on with it.")
    train.add_argument("name", metavar="RUN", help="like resnet18-linf-cifar10.gradmatch")
    listed = add("list", list_command, "The runs that a table or figure needs.")
    listed.add_argument("name", metavar="ITEM", help="like table1")
    rules = add("rules", rules_command, "The rules by which Make makes a profile's tables.")
    rules.add_argument("--output", type=Path, help="a file to write them to; default: print them")
    show = add("show", show_command, "A table, or where a figure is.")
    show.add_argument("name", metavar="ITEM", help="like table1")
    page = add("page", page_command, "All tables and figures on one page.")
    page.add_argument("--publish", action="store_true", help="into results/published")
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        arguments.seeds = config.seeds(arguments.seeds)
        arguments.run_command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read what was printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt as stopped:
        return refuse(f"stopped: {stopped if stopped.args else 'nothing is lost'}", INTERRUPTED)
    except PROBLEMS as error:
        return refuse(sentence(error), 2)
    except RuntimeError as error:
        if "memory" not in str(error).lower():
            raise
        return refuse(sentence(error), 2)
    return 0


def refuse(what: str, code: int) -> int:
    print(f"acs: {' '.join(what.split())}", file=sys.stderr)
    return code


def sentence(error: Exception) -> str:
    if isinstance(error, MemoryError | RuntimeError):
        return f"out of memory ({error}): lower batch_size or train_limit, or use a larger machine"
    return str(error) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
