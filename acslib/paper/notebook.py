"""What notebooks share: parameters checked, runs trained with bars, tables and pictures shown."""

import ast
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from tqdm.auto import tqdm

from acslib.paper import (
    columns,
    config,
    explain,
    files,
    inventory,
    items,
    log,
    paramfiles,
    params,
    printed,
    records,
    rows,
    style,
    tables,
)
from acslib.paper.config import Run
from acslib.paper.values import number

HOME = files.CHECKOUT / "notebooks"


class Refused(params.ParamsError):
    """A notebook's parameter is unknown, missing or wrong: shown as one sentence, no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"parameters: {self}"]


class Interrupted(KeyboardInterrupt):
    """Training was interrupted: shown as one sentence, no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


# ---- the first cell


def begin(names: dict[str, Any], *known: str) -> None:
    """Check a notebook's parameters, and give every figure its look.

    `names` is the notebook's `globals()` in the cell after the parameters, `known` what they are
    called. papermill only warns about a parameter that the notebook does not have, and in a kernel
    that has run the notebook before, a renamed one would leave the old value in force: so what the
    cell of parameters, and papermill's below it, assign must be `known`, each time. Numbers that
    papermill hands on as text, like 1e-3, become numbers. Raises Refused.
    """
    try:
        given = assigned(names.get("In", []))
        if given:
            params.refuse_unknown("notebook parameter", given, known)
        for name in known:
            if name not in names or (given and name not in given):
                raise params.ParamsError(
                    f"the cell of parameters does not set {name!r}: add it there"
                )
            if is_plain_number(given.get(name)):
                names[name] = as_number(name, names[name])
        if "profile" in known:
            paramfiles.profile(names["profile"])
        if "item" in known:
            paramfiles.item(names["item"])
        if "seeds" in known:
            config.seeds(names["seeds"])
    except params.ParamsError as error:
        raise Refused(str(error)) from None
    style.use()


def assigned(history: Sequence[str]) -> dict[str, Any]:
    """What the cells of parameters, papermill's too, assigned: names, the notebook's values.

    `history` is IPython's `In`, whose last entry is the cell that is running. Empty where no cell
    that only assigns plain values stands right before it: outside IPython, or where a cell is run
    again by itself.
    """
    found: dict[str, Any] = {}
    for source in reversed(history[:-1]):
        found |= plain_assignments(source)
        if not source.startswith("# Parameters"):  # as papermill's own cell does
            break
    return found


def plain_assignments(source: str) -> dict[str, Any]:
    """Names and values of a cell that assigns plain values and does nothing else; else empty."""
    try:
        statements = ast.parse(source).body
        found = {}
        for statement in statements:
            if not isinstance(statement, ast.Assign):
                return {}
            for target in statement.targets:
                found[ast.unparse(target)] = ast.literal_eval(statement.value)
        return found
    except (SyntaxError, ValueError):
        return {}


def is_plain_number(value: Any) -> bool:
    """Whether a parameter's own value is one of Python's numbers, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_number(name: str, value: Any) -> Any:
    """A parameter that is to be a number, which papermill may have handed on as text."""
    try:
        found = number(value)
    except ValueError as error:
        raise params.ParamsError(f"{name} is {params.shown(value)}, it {error}") from None
    if not is_plain_number(found):
        raise params.ParamsError(f"{name} is {params.shown(value)}: give a number")
    return int(found) if isinstance(value, str) and found == int(found) else found


# ---- training


def train_run(run: Run, seed: int, leave: bool = True) -> dict[str, Any]:
    """The record of a run, trained if it is not finished, with bars of epochs and of evaluation.

    An interrupted run goes on from its last epoch. `leave`: whether the bars and a line an epoch
    stay.
    """
    done = records.finished_record(run, seed)
    if done is not None:
        if leave:
            print(f"{run.name}, seed {seed}, is trained already: its record is only read")
            print(f"data: {done['data']}")  # as training says
        return done
    with tqdm(leave=leave) as epochs, tqdm(leave=leave) as attacks:
        return _train(run, seed, epochs, attacks, leave)


def _train(run: Run, seed: int, epochs: tqdm, attacks: tqdm, leave: bool) -> dict[str, Any]:
    """Train and evaluate a run, and move the two bars, from their beginning."""
    from acslib.paper import measures, runs  # they load torch: notebooks that draw do without

    epochs.reset(len(run.plan))
    epochs.set_description(f"{run.name}, seed {seed}: epochs")
    attacks.reset(len(measures.parts(run)))
    attacks.set_description("evaluation")

    def progress(row: dict[str, Any]) -> None:
        epochs.update(row["epoch"] + 1 - epochs.n)
        if leave:
            epochs.write(log.epoch_line(row))

    def announce(line: str) -> None:
        if leave:
            epochs.write(line)

    def evaluating(part: str) -> None:
        epochs.update(len(run.plan) - epochs.n)  # the checkpoint may have been the last epoch's
        attacks.set_description(f"evaluation: {part}")
        attacks.update(measures.parts(run).index(part) - attacks.n)

    try:
        record = runs.execute(run, seed, told=runs.Told(progress, announce, evaluating))
    except KeyboardInterrupt:
        raise Interrupted(stopped(run, seed, epochs.n)) from None
    attacks.set_description("evaluation")
    attacks.update(attacks.total - attacks.n)
    return record


def stopped(run: Run, seed: int, epochs: int) -> str:
    """What is kept of an interrupted run, and how to go on."""
    return (
        f"stopped: {run.name}, seed {seed}, keeps {epochs} of {len(run.plan)} epochs and what was"
        " finished before it. Run this cell again to go on."
    )


def undefended(run: Run) -> Run:
    """The same network trained on all images as they are, for as long: what an attack does to it is
    what a defence is measured against. Its own evaluation is the shortest that there is.
    """
    setting, (_, _, varied) = run.setting, config.parse(run.name)
    changes: dict[str, Any] = {"objective": "vanilla", "evaluation_steps": 1}
    changes |= {"evaluation_restarts": 1, "autoattack_n": 0}
    if setting.norm == "lpips":  # which is for fast_lpa alone
        changes |= {"norm": "l2", "step": 0.0, "evaluation_step": 0.0}
    if setting.only_correct:
        changes["only_correct"] = False
    if setting.trades_start != "uniform":
        changes["trades_start"] = "uniform"
    return config.resolve(config.run_name(run.setting_name, "full", varied | changes), run.profile)


def train_missing(item: str, profile: str, seeds: list[int]) -> None:
    """Train the runs that a table or figure still needs, with bars of runs and of epochs.

    All runs have the same bars: each bar is an output, and JupyterLab hides what comes after fifty.
    """
    missing = rows.missing(item, profile, seeds)
    total = len(items.table_runs(item, profile)) * len(seeds)
    print(f"{total - len(missing)} of {total} runs are trained, their records are only read")
    if not missing:
        return
    every = tqdm(missing, desc="runs")
    with tqdm(leave=False) as epochs, tqdm(leave=False) as attacks:
        for run, seed in every:
            if records.finished_record(run, seed) is None:  # it may be by now
                _train(run, seed, epochs, attacks, leave=False)


# ---- what is shown

GREY = "opacity: 0.65; font-style: italic"  # readable on light and on dark, and not by colour alone
RULES = [
    {"selector": "th, td", "props": "border-bottom: 1px solid rgba(128, 128, 128, 0.35)"},
    {"selector": "thead th", "props": "border-bottom: 2px solid rgba(128, 128, 128, 0.9)"},
    {"selector": "", "props": "border-collapse: collapse"},
]


def ruled(frame: pd.DataFrame) -> Styler:
    """A table with rules between its rows. What is the paper's is grey and slanted: columns whose
    names begin with "paper", and rows that say so.
    """
    papers = [name for name in frame if str(name).startswith("paper")]
    styler = frame.style.format(escape="html").format_index(escape="html", axis=1)
    styler = styler.set_table_styles(RULES).set_properties(subset=papers, **_properties(GREY))
    return styler.apply(_grey_where_printed, axis=1)


def _properties(style: str) -> dict[str, str]:
    return dict(one.split(": ") for one in style.split("; "))


def _grey_where_printed(row: pd.Series) -> list[str]:
    printed = row.astype(str).eq(columns.IN_THE_PAPER).any()
    return [GREY if printed else ""] * len(row)


def show(figure: Figure) -> None:
    """Display a picture now, with what it shows in words (see `style.use`), and only once."""
    display(figure)
    plt.close(figure)


def show_parameters(run: Run) -> Styler:
    """The dozen parameters that matter, and the names of others that the profile or run changes."""
    first, others = explain.at_a_glance(run)
    if others:
        print(textwrap.fill("Changed as well: " + ", ".join(one.name for one in others) + ".", 100))
    print("acs explain NAME says what a parameter is, and who changes it.")
    frame = pd.DataFrame(first).drop(columns="meaning")
    frame.columns = ["parameter", "here", "paper", "changed by"]
    frame["meaning"] = [one.meaning for one in first]
    left = [{"selector": "", "props": "text-align: left"}]
    words = dict.fromkeys(["parameter", "changed by", "meaning"], left)
    return ruled(frame).hide(axis="index").set_table_styles(words, overwrite=False)


def show_progress(profile: str) -> Markdown:
    """Every table and figure with its notebooks, and how much of it is there already (seed 0)."""
    lines = ["| what | its notebooks | runs trained | table | picture |", "|:--|:--|--:|:--|:--|"]
    for one in inventory.progress(profile):
        links = [
            f"[{what}]({folder}/{one.item}.ipynb)"
            for what, folder in (("make it", "experiments"), ("draw it", "figures"))
            if (HOME / folder / f"{one.item}.ipynb").is_file()
        ]
        there = ["there" if is_there else "not yet" for is_there in (one.gathered, one.drawn)]
        runs = f"{one.finished} of {one.of}"
        cells = (one.title.replace("|", "/"), ", ".join(links), runs, *there)
        lines.append(f"| {' | '.join(cells)} |")
    return Markdown("\n".join(lines))


def changes(item: str, profile: str) -> str:
    """What a profile changes about an item's settings, a line each."""
    settings = dict.fromkeys(row.setting_name for row in rows.planned(item, profile))
    lines = [paramfiles.profile(profile).about]
    for name in settings:
        layer = config.profile_layer(profile, name)
        lines.append(f"{name}: " + ", ".join(f"{key}={value}" for key, value in layer.items()))
    return "\n".join(lines)


def show_table(table: pd.DataFrame) -> Styler:
    """A table for people, below its title and what to know of its printed numbers."""
    name = table.table.iloc[0]
    print(tables.title(name, table), *tables.notes(name, table), sep="\n")
    return ruled(tables.beside_paper(table)).hide(axis="index")


def show_figure(figure: Figure, name: str, profile: str) -> None:
    """Write a picture to figures/<profile>, and show it."""
    path = style.save_figure(figure, name, profile)
    show(figure)
    print(f"{path} (and .png)")


def show_against_adaptive(
    table: pd.DataFrame, measure: str = "racc_pct", n: str = "racc_images"
) -> pd.DataFrame:
    """`rows.against_adaptive`, with how many of its differences are more than chance."""
    against = rows.against_adaptive(table, measure, n)
    clear = int((against.difference.abs() > 2 * against.chance).sum())
    print(f"{clear} of {len(against)} differences are more than two standard errors from 0")
    return against.round(2)


def finish_table(item: str, profile: str, table: pd.DataFrame) -> None:
    """Write a table's CSV and LaTeX, and check what must hold of it; of the paper's tables, that
    its own numbers stand beside ours.
    """
    path = tables.write_table(item, table)
    print(f"{path} (and .tex)")
    assert len(table) == len(rows.planned(item, profile))
    theirs = printed.paper_table(item)
    if not theirs.empty:
        assert table.paper_acc_pct.notna().equals(table.method.isin(theirs.method))
    if "racc_pct" in table:
        same_images = table.racc_images == table.test_images
        assert (table.racc_pct <= table.acc_pct)[same_images].all()
