"""`acs`: the experiments by name, from a command line; what Make calls, too.

It ends with 0; with 2 after one line on stderr that says what was wrong and the way out; with 130
when it was interrupted. What a command needs is imported by it, so that all but `run` and `export`
answer without loading torch.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from acslib.paper import config, files, items, paramfiles, params, records
from acslib.paper.endings import Stopped, exit_code, refuse
from acslib.paper.printing import duration, print_lines, print_table, printed_value


def to_seeds(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> list[int] | None:
    return None if text is None else config.seeds(text)


def to_path(context: click.Context, parameter: click.Parameter, text: str | None) -> Path | None:
    if text == "":
        raise click.BadParameter("it is empty: name a place to write to")
    return None if text is None else Path(text)


def to_seed(context: click.Context, parameter: click.Parameter, text: str) -> int:
    return config.one_seed(text)


profile_option = click.option(
    "--profile", default="demo", show_default=True, help="As in params/profiles, or one's own."
)
seeds_option = click.option(
    "--seeds",
    "--seed",
    "seeds",
    default="0",
    show_default=True,
    callback=to_seeds,
    help='One or several, like "0 1 2".',
)
of_items_option = click.option(
    "--seeds",
    "--seed",
    "seeds",
    callback=to_seeds,
    help='One or several, like "0 1 2"; default: what the profile says, mostly 0.',
)
seed_option = click.option("--seed", default="0", show_default=True, callback=to_seed)
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.group(
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def acs() -> None:
    """The experiments of "Adversarial Coreset Selection for Efficient Robust Training", by name.

    \b
    A run is a setting, a method and what is changed:
    resnet18-linf-cifar10.gradmatch+period@10

    ACS_PLUGINS names files with methods, models, data sets and objectives of your own, ACS_PARAMS
    folders with settings, items and profiles, ACS_RESULTS where results are kept.

    All but run, export and page answer within a second. export loads torch, and page draws a PDF:
    both take two to three. Files of ACS_PLUGINS are run first, and most of them load torch.

    \b
    Examples:
      acs list table1 --cost                     what Table 1 trains, and how long that takes here
      acs run resnet18-linf-cifar10.gradmatch    train and evaluate one run
      acs runs                                   what there is
      acs compare resnet18-linf-cifar10.full resnet18-linf-cifar10.gradmatch
      acs explain coreset_fraction               what a parameter means
    """


# ---- train


@acs.command("run")
@click.argument("name", metavar="RUN")
@profile_option
@seeds_option
@click.option(
    "--warm-only",
    is_flag=True,
    help="Only the first epochs that other runs begin with, too, for them to find.",
)
def run_command(name: str, profile: str, seeds: list[int], warm_only: bool) -> None:
    """Train and evaluate one run, or go on with it.

    \b
    Examples:
      acs run resnet18-linf-cifar10.gradmatch --profile demo --seed 0
      acs run resnet18-linf-cifar10.gradmatch+coreset_fraction@0.3 --seeds "0 1 2"
    """
    runs = [(config.resolve(name, profile), seed) for seed in seeds]
    from acslib.paper import explain
    from acslib.paper.log import epoch_line
    from acslib.paper.runs import Told, execute, warm_up

    told = Told(progress=lambda row: say(epoch_line(row)), announce=say)
    for run, seed in runs:
        if warm_only:
            warm_up(run, seed, told=told)
            continue
        plan = run.plan
        say(
            f"{run.name}, profile {run.profile}, seed {seed}: {len(plan)} epochs, speed-up at most"
            f" {plan.ceiling:.2f}x"
        )
        if replaced := explain.replaced(run):
            say(f"profile {profile} replaces what {run.setting_name} says: {'; '.join(replaced)}")
        try:
            record = execute(run, seed, told=told)
        except KeyboardInterrupt:
            raise Stopped(what_is_kept(run, seed)) from None
        shown = ", ".join(
            f"{name} {100 * value:.2f} %"
            for name, value in record["metrics"].items()
            if isinstance(value, float)
        )
        say(f"{run.name}: {shown}, {record['seconds']['total']:.1f} s")


# Make's word for it
_train = click.Command("train", params=run_command.params, callback=run_command.callback)
_train.hidden, _train.help = True, "The same as run."
acs.add_command(_train)


def say(line: str) -> None:
    """Print a line at once; of several processes, the first one's."""
    # of several processes, as torchrun numbers them; RANK alone, which other programs set, is none
    if "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


def what_is_kept(run: config.Run, seed: int) -> str:
    folder = records.run_folder(run, seed)
    if (folder / "record.json").exists():
        return f"the run is finished, {folder} has its record"
    if (folder / records.CHECKPOINT).exists():
        return f"{folder} keeps the epochs that are done, the same command goes on after them"
    return "no epoch was done, the same command begins anew"


# ---- what there would be, and what there is


@acs.command("list")
@click.argument("item")
@profile_option
@of_items_option
@click.option("--cost", is_flag=True, help="How long each takes here, as far as that is known.")
@json_option
def list_command(
    item: str, profile: str, seeds: list[int] | None, cost: bool, as_json: bool
) -> None:
    """The runs that a table or figure needs.

    The cost is that of finished runs of the same kind on this machine, scaled to the number of
    epochs; it is unknown where there are none.

    \b
    Examples:
      acs list table1
      acs list fig4 --profile mini --seeds "0 1 2" --cost
    """
    names = items.table_runs(item, profile)
    if not cost:
        print(json.dumps(names)) if as_json else print_lines(names)
        return
    from acslib.paper import costs

    runs = [config.resolve(name, profile) for name in names]
    found = costs.costs_of(runs, items.wanted_seeds(item, profile, seeds))
    if as_json:
        print(json.dumps([one._asdict() for one in found]))
        return
    rows = [[one.run, str(one.seed), one.state, duration(one.seconds)] for one in found]
    print_table(["run", "seed", "state", "time"], rows)
    print(costs.summary(found))


@acs.command("runs")
@click.option("--profile", default=None, help="Only of this profile; default: of all.")
@json_option
def runs_command(profile: str | None, as_json: bool) -> None:
    """What there is: every run with its state, epochs and seconds.

    A run is finished, running, interrupted, outdated (made with other parameters, or another
    content of a file of your own), or refused, with the reason.

    \b
    Examples:
      acs runs
      acs runs --profile mini --json
    """
    from acslib.paper import inventory

    if profile is not None:
        paramfiles.profile(profile)
    found = inventory.found(profile)
    if as_json:
        print(json.dumps([one._asdict() for one in found]))
        return
    if not found:
        print(f"no runs in {files.RESULTS}: acs run RUN trains one")
        return
    rows = [
        [
            one.profile,
            one.run,
            str(one.seed),
            one.state,
            f"{one.epochs}/{one.of or '?'}",
            duration(one.seconds),
        ]
        for one in found
    ]
    print_table(["profile", "run", "seed", "state", "epochs", "time"], rows)
    print_lines(one.reason for one in found if one.reason)


@acs.command("show")
@click.argument("item")
@profile_option
def show_command(item: str, profile: str) -> None:
    """A table, or where a figure is.

    \b
    Example:
      acs show table1 --profile demo
    """
    known = [*paramfiles.item_names(), *params.BY_THEMSELVES]
    if item not in known:
        raise params.ParamsError(
            f"there is no table or figure {params.shown(item)}{params.nearest(item, known)}"
        )
    paramfiles.profile(profile)
    picture = files.figures_folder(files.results_as_named()) / profile / f"{item}.pdf"
    if item.startswith("fig") or item in (*params.BY_THEMSELVES, "life"):
        if not picture.exists():
            raise files.RecordError(
                f"there is no {picture}: make {item} PROFILE={profile} makes it"
            )
    else:
        from acslib.paper import study, tables

        is_study = item == study.ITEM
        print(f"{study.verdicts_text(profile) if is_study else tables.table_text(item, profile)}\n")
        notebook = Path("build", profile, f"{item}.ipynb")
        print(
            f"{files.results_as_named()}/{profile}/{item}.csv{'' if is_study else ' (and .tex)'}"
            + (f"; {notebook} shows it with its pictures" if notebook.exists() else "")
        )
    if picture.exists():
        print(f"{picture} (and .png)")


@acs.command("compare")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@profile_option
@seed_option
@json_option
def compare_command(first: str, second: str, profile: str, seed: int, as_json: bool) -> None:
    """How two finished runs differ: their parameters and their results.

    A and B are runs' names, or folders with a record, for two profiles or seeds.

    \b
    Examples:
      acs compare resnet18-linf-cifar10.craig resnet18-linf-cifar10.gradmatch --seed 0
      acs compare results/demo/runs/NAME/seed0 results/demo/runs/NAME/seed1
    """
    from acslib.paper import inventory

    pair = [inventory.record_named(name, profile, seed) for name in (first, second)]
    differing, results = inventory.parameters_that_differ(*pair), inventory.results_of(*pair)
    if as_json:
        print(json.dumps({"parameters": differing, "results": results}))
        return
    print_table(
        ["parameter", "A", "B"], [[name, *map(printed_value, two)] for name, two in differing]
    )
    print()
    rows = [
        [name, *map(printed_value, two), f"{two[1] - two[0]:+.4g}" if None not in two else ""]
        for name, two in results
    ]
    print_table(["result", "A", "B", "B - A"], rows)


@acs.command("explain")
@click.argument("parameter", required=False)
@json_option
def explain_command(parameter: str | None, as_json: bool) -> None:
    """What a parameter means, its limits, the paper's value, and who changes it.

    Without a parameter: all of them, a line each.

    \b
    Examples:
      acs explain
      acs explain coreset_fraction
    """
    from acslib.paper import explain

    if parameter is None:
        meanings = explain.meanings()
        print(json.dumps(meanings)) if as_json else print_table([], map(list, meanings.items()))
        return
    found = explain.facts(parameter)
    print(json.dumps(found)) if as_json else print_lines(explain.in_lines(found))


# ---- for Make, the page, other programs


@acs.command("rules")
@profile_option
@of_items_option
@click.option(
    "--output", callback=to_path, help="A file to write them to; by default they are printed."
)
def rules_command(profile: str, seeds: list[int] | None, output: Path | None) -> None:
    """The rules by which Make makes a profile's tables and figures.

    \b
    Example:
      acs rules --profile demo --seeds "0 1 2"
    """
    from acslib.paper import rules

    if output:
        rules.write_rules(output, profile, seeds)
    else:
        print(rules.all_rules(profile, seeds), end="")


@acs.command("page")
@profile_option
@of_items_option
@click.option("--publish", is_flag=True, help="Into results/published.")
def page_command(profile: str, seeds: list[int] | None, publish: bool) -> None:
    """All tables and figures on one page, in Markdown and as a PDF.

    \b
    Example:
      acs page --profile demo
    """
    from acslib.paper import page

    if publish:
        print(page.publish(profile, seeds))
    else:
        print_lines(map(str, page.write_page(profile, seeds)))


@acs.command("export")
@click.argument("name", metavar="RUN")
@profile_option
@seed_option
@click.option(
    "--to",
    "folder",
    callback=to_path,
    default=None,
    help="The folder to write; default: exported/RUN.",
)
def export_command(name: str, profile: str, seed: int, folder: Path | None) -> None:
    """Write a trained network for other programs.

    The folder gets weights.pt, a state dict that torch.load reads; model.json, all that is needed
    to build the network; and load.py, which does so. Names in the state dict are torchvision's
    where the network is one of torchvision's. examples/robustbench_eval.py takes the folder to
    AutoAttack and RobustBench.

    \b
    Example:
      acs export resnet18-linf-cifar10.gradmatch --to mine
    """
    run = config.resolve(name, profile)
    records.weights_file(run, seed)  # before torch is loaded
    from acslib.data.files import user_folder
    from acslib.paper import export

    to = Path("exported", run.name) if folder is None else user_folder(folder, "--to")
    print_lines(map(str, export.write_network(run, seed, to)))


# ---- the process


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit code."""
    return exit_code(lambda: invoke(sys.argv[1:] if argv is None else list(argv)))


def check_given_once(arguments: Sequence[str]) -> None:
    """Raise UsageError for an option that is there twice, as click would take the last one."""
    words = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    names = ["--seeds" if word == "--seed" else word for word in words]
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(f"{name} is given twice: give it once")


def invoke(arguments: list[str]) -> int:
    """click's own main would end the process, and print more than a line."""
    try:
        with acs.make_context("acs", arguments) as context:
            check_given_once(arguments)
            acs.invoke(context)
        return 0
    except click.exceptions.Exit as done:  # after --help
        return done.exit_code
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        path = where.command_path if where else "acs"
        message = " ".join(error.format_message().split()).rstrip(".")
        return refuse(f"{message}; {path} --help says more", 2)
