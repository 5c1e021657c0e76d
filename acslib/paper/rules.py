"""The rules by which Make trains runs and makes tables and figures, whole and with prerequisites.

    python -m acslib.paper rules --profile demo --seeds "0 1 2" --output results/.make/demo.mk

There are four kinds of rules. First epochs that several runs have in common are trained by one of
them. A run's record is made by training. A table's CSV is made by its notebook in
`notebooks/experiments/` from these records. A figure is made by its notebook in
`notebooks/figures/` from that CSV. A notebook's prerequisites are the modules of `acslib` that it
imports, directly or through others, and the printed tables where these read them. What only draws
is no prerequisite of a CSV, see `DRAWS`: whoever changes how figures look trains and gathers
nothing. Whoever changes the method gathers again and trains
nothing: records are kept by their parameters. Needs neither torch nor pandas, as Make waits for it.
"""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import acslib
from acslib.paper import (
    config,
    files,
    fingerprints,
    items,
    paramfiles,
    params,
    plugins,
    records,
    warm,
)

ROOT = files.CHECKOUT  # another one in tests
STAMP = "$(STAMP)"  # of the set-up, which everything needs and nothing is made again for
UNFIT = set(" \t\n'\"`\\$#%:;=&|<>(){}*?!~")  # what Make or the shell would read as something else
# modules that only draw, and words of what is drawn: no number of a CSV is theirs
DRAWS = re.compile(r"(style|seen|\w*pictures)\.py")
PRINTED = Path("acslib", "paper", "printed.py")  # reads the paper's own tables
# imports are found by these, as parsing the whole library takes longer than all the rest
FROM = re.compile(r"^[ \t]*from[ \t]+(acslib[\w.]*)[ \t]+import[ \t]*(\([^)]*\)|[^\n]*)", re.M)
IMPORT = re.compile(r"^[ \t]*import[ \t]+[^\n]*\bacslib\b", re.M)
DOTTED = re.compile(r"\bacslib(?:\.\w+)*")


def all_rules(profile: str, asked: Sequence[int] | None = None) -> str:
    """Everything that Make has to know of a profile, for the seeds that are asked for, or for as
    many as the profile has of each table or figure. Raises ParamsError.
    """
    needed = {item: runs_of(item, profile) for item in paramfiles.item_names()}
    alone = params.BY_THEMSELVES
    seeds = {item: items.wanted_seeds(item, profile, asked) for item in (*needed, *alone)}
    every: dict[int, dict[str, config.Run]] = {}
    for item, of_item in needed.items():
        for seed in seeds[item]:
            every.setdefault(seed, {}).update({run.name: run for run in of_item})
    of_all = {
        record_path(run, seed): None
        for item in paramfiles.of_all()
        for run in needed[item]
        for seed in seeds[item]
    }
    networks = {
        lpips_network(run): None
        for of_item in needed.values()
        for run in of_item
        if run.setting.norm == "lpips"
    }
    parts = [
        f"all: {in_make(map(Path, [*paramfiles.of_all(), 'theorem1']))}",
        f"records: {in_make(of_all)}",
        *map(lpips_rule, networks),
        *(run_rules(list(of_seed.values()), seed) for seed, of_seed in every.items()),
        *(item_rules(item, profile, seeds[item], needed.get(item, [])) for item in seeds),
        # a source that has gone is no error: what was made with it is old
        f"{in_make(source_files())}:",
    ]
    return "\n\n".join(parts) + "\n"


def write_rules(path: Path, profile: str, asked: Sequence[int] | None) -> None:
    """All of the rules or none: two makes in one folder may write them at the same time."""
    files.write_file(path, all_rules(profile, asked).encode())


# ---- runs


def runs_of(item: str, profile: str) -> list[config.Run]:
    """The runs that a table or figure is gathered from."""
    return [config.resolve(name, profile) for name in items.table_runs(item, profile)]


def record_path(run: config.Run, seed: int) -> Path:
    """Where a run's record is, as Make names it."""
    return records.run_folder(run, seed, files.results_as_named()) / "record.json"


def run_rules(several: Sequence[config.Run], seed: int) -> str:
    """How runs are trained, and before that, once, the first epochs that they have in common: so
    that no run waits for another one while there is work.

    Who trains the most of them keeps the fewer on its way. All are needed wherever one is, as full
    training begins with them and every table has it.
    """
    starts = {run.name: first_epochs(run, several, seed) for run in several}
    furthest = {found[-1]: run for run in reversed(several) if (found := starts[run.name])}
    on_the_way = {
        shorter: found[-1]
        for found in sorted(starts.values(), key=len)  # so that the last word is the longest's
        for shorter in found[:-1]
    }
    shared = [
        passed_rule(path, on_the_way[path]) if path in on_the_way else warm_rule(path, run, seed)
        for path, run in furthest.items()
    ]
    trained = [record_rule(run, seed, starts[run.name][-1:]) for run in several]
    return "\n\n".join([*shared, *trained])


def first_epochs(run: config.Run, several: Sequence[config.Run], seed: int) -> list[Path]:
    """What stands for the first epochs that a run has in common with others, shortest first."""
    others = [other for other in several if other.setting_name == run.setting_name]
    return [
        warm.marker(run, seed, epochs, files.results_as_named())
        for epochs in warm.shared(run, others)
    ]


def warm_rule(path: Path, run: config.Run, seed: int) -> str:
    """How the first epochs are trained by one of the runs that begin with them."""
    return rule(
        path,
        [],
        f"{training_command(run, seed)} --warm-only",
        "@mkdir -p $(@D) && touch $@",
        order_only=[*networks_of(run), STAMP],
    )


def passed_rule(path: Path, longer: Path) -> str:
    """First epochs that are kept by who trains more of them."""
    return rule(path, [], "@mkdir -p $(@D) && touch $@", order_only=[longer])


def record_rule(run: config.Run, seed: int, start: Sequence[Path]) -> str:
    """How a run is trained, after its first epochs and its network unless it is finished. One that
    other parameters made is asked for again, each time, so that the user is told, until the right
    one is there.
    """
    path = record_path(run, seed)
    needed = [*start, *networks_of(run)]
    before = [f"$(if $(wildcard {in_make([path])}),,{in_make([first])})" for first in needed]
    stale: list[str] = []
    if path.exists() and not is_fresh(run, seed):
        stale = [unless(f"$(shell grep -s {fingerprints.fingerprint(run)} {quoted(str(path))})")]
    return rule(path, stale, training_command(run, seed), order_only=[*before, STAMP])


def training_command(run: config.Run, seed: int) -> str:
    """The command that trains a run."""
    return f"$(TRAIN) {quoted(run.name)} --seeds {seed} --profile {run.profile}"


def networks_of(run: config.Run) -> list[Path]:
    """The networks that must be there before a run."""
    return [lpips_network(run)] if run.setting.norm == "lpips" else []


def is_fresh(run: config.Run, seed: int) -> bool:
    """Whether a run's record may be used: of these parameters, and one's own files as they are."""
    try:
        return records.finished_record(run, seed, files.results_as_named()) is not None
    except files.RecordError:
        return False


def lpips_network(run: config.Run) -> Path:
    """Stands for the network that LPIPS looks through, which is in the cache."""
    return files.results_as_named() / ".make" / f"lpips-{run.setting.dataset}"


def lpips_rule(stands_for_it: Path) -> str:
    dataset = stands_for_it.name.removeprefix("lpips-")
    return rule(stands_for_it, [], f"$(call LPIPS,{dataset})", "@touch $@")


# ---- tables and figures


def item_rules(item: str, profile: str, seeds: Sequence[int], needed: Sequence[config.Run]) -> str:
    """A table's or figure's own name, its CSV and its picture; of what it has a notebook for.

    An item of one's own has none: `any.ipynb` gathers and draws it, being told its name.
    """
    csv = files.results_as_named() / profile / f"{item}.csv"
    picture = files.figures_folder(files.results_as_named()) / profile / f"{item}.pdf"
    experiment = first_file(f"notebooks/experiments/{item}.ipynb", f"notebooks/{item}.ipynb")
    drawing = first_file(f"notebooks/figures/{item}.ipynb")
    if not (experiment or drawing):
        experiment = first_file("notebooks/experiments/any.ipynb")
        drawing = first_file("notebooks/figures/any.ipynb")
    made = {}
    # labels, colours, the methods of items
    own = [in_checkout(path) for path in plugins.registered_files()]
    if experiment:
        made[csv] = table_rule(csv, experiment, profile, seeds, needed)
    if drawing:
        made[picture] = notebook_rule(picture, drawing, [*made, *own], profile, seeds)
    show = f"@$(PY) -m acslib.paper show {item} --profile {profile}"
    return "\n\n".join([*made.values(), rule(Path(item), made, show, order_only=[])])


def table_rule(
    csv: Path, notebook: Path, profile: str, seeds: Sequence[int], needed: Sequence[config.Run]
) -> str:
    """A table's CSV, made again too when other seeds are asked for than last time, or other files
    of one's own. An empty file has those in its name.
    """
    marks = files.results_as_named() / ".make" / f"{profile}-{csv.stem}.seeds-"
    # three, the usual number, can be read
    several = "-".join(map(str, seeds[:3])) + (
        f"-{fingerprints.short_sha256(list(seeds))}" if seeds[3:] else ""
    )
    mark = Path(f"{marks}{several}{own_files(csv.stem, profile, needed)}")
    trained = [record_path(run, seed) for run in needed for seed in seeds]
    with_what: list[Path | str] = [*map(in_checkout, parameter_files(csv.stem, profile)), *trained]
    with_what.append(unless(f"$(wildcard {mark})"))
    made = notebook_rule(csv, notebook, with_what, profile, seeds)
    return made + f"\n\t@rm -f {in_make([marks])}*; touch {in_make([mark])}"


def own_files(item: str, profile: str, needed: Sequence[config.Run]) -> str:
    """A digest of the files of one's own that a table is made with; "" without any.

    They may change without being newer than the table: whoever leaves out ACS_PLUGINS, or names
    another folder in ACS_PARAMS, asks for other rows.
    """
    every = parameter_files(item, profile)
    own = [path for path in every if not path.is_relative_to(paramfiles.FOLDER)]
    if not own:
        return ""
    contents = [files.file_digest(path.read_bytes()) for path in own]
    return f"-own-{plugins.combined((*contents, *(run.name for run in needed)))}"


def notebook_rule(
    target: Path,
    notebook: Path,
    with_what: Iterable[Path | str],
    profile: str,
    seeds: Sequence[int],
) -> str:
    """A notebook that papermill runs, with those of our parameters that it has."""
    copy = Path("build", profile, notebook.relative_to("notebooks")).with_stem(target.stem)
    ours = {"profile": profile, "seeds": " ".join(map(str, seeds)), "item": target.stem}
    parameters = code(notebook, "parameters")
    given = [f" -r {name} {quoted(ours[name])}" for name in ours if f"{name} = " in parameters]
    used = modules(code(notebook))
    if target.suffix == ".csv":
        used = [path for path in used if not DRAWS.fullmatch(path.name)]
    printed = printed_tables() if PRINTED in used else []
    return rule(
        target,
        [notebook, *used, *printed, *with_what],
        f"@mkdir -p {copy.parent}",
        f"$(NOTEBOOK) $< {copy}{''.join(given)}",
    )


def first_file(*paths: str) -> Path | None:
    """The first of these files of the checkout that is there."""
    return next((Path(path) for path in paths if (ROOT / path).is_file()), None)


# ---- prerequisites


def parameter_files(item: str, profile: str) -> list[Path]:
    """The YAML files, and the files of ACS_PLUGINS, that a table or figure is made with."""
    layers = [f"profiles/{name}" for name in paramfiles.extended(profile)]
    names = ["settings", "attacks", item, *layers]
    found = [path for name in names for path in paramfiles.files_of(name)]
    return [*found, *plugins.registered_files()]


def code(notebook: Path, tag: str | None = None) -> str:
    """The code of a notebook, or of its cells with a tag, without IPython's own commands."""
    lines = []
    for cell in json.loads((ROOT / notebook).read_text())["cells"]:
        if cell["cell_type"] == "code" and (not tag or tag in cell["metadata"].get("tags", [])):
            lines += "".join(cell["source"]).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("%", "!")))


def modules(source: str) -> list[Path]:
    """The files of `acslib` that a source imports, directly or through one another."""
    found: set[Path] = set()
    waiting = list(imported(source))
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported_by(ROOT / path)
    return sorted(found)


@cache
def imported_by(path: Path) -> frozenset[Path]:
    """What the source in a file imports."""
    return imported(path.read_text())


def imported(source: str) -> frozenset[Path]:
    """The files of `acslib` that a source itself imports, and of the packages that they are in."""
    names: set[str] = set()
    for package, several in FROM.findall(source):
        names |= {f"{package}.{name}" for name in re.findall(r"\w+", several)}
    if IMPORT.search(source):
        names |= set(DOTTED.findall(source))
    return frozenset(path for name in names for path in files_of_module(name))


def files_of_module(name: str) -> list[Path]:
    """The files that Python runs for a dotted name, which may end in what a module defines."""
    parts = name.split(".")
    if len(parts) > 1 and parts[1] in acslib.LAZY:  # acslib.fit is acslib.training.fit
        parts.insert(1, acslib.LAZY[parts[1]])
    places = [Path(*parts[:count]) for count in range(1, len(parts) + 1)]
    found = [file for place in places for file in (place / "__init__.py", place.with_suffix(".py"))]
    return [path for path in found if (ROOT / path).is_file()]


def printed_tables() -> list[Path]:
    """The paper's own tables."""
    there = (ROOT / "results" / "paper").glob("*.csv")
    return [in_checkout(path) for path in sorted(there)]


def source_files() -> list[Path]:
    """Every file that a notebook or its modules may be a prerequisite of."""
    modules = (ROOT / "acslib").rglob("*.py")
    found = [*modules, *(ROOT / "notebooks").rglob("*.ipynb")]
    here = [path for path in sorted(found) if ".ipynb_checkpoints" not in path.parts]
    return [in_checkout(path) for path in [*here, *printed_tables(), *plugins.registered_files()]]


def in_checkout(path: Path) -> Path:
    """A path as Make names it, which runs in the checkout."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


# ---- Make's language


def rule(
    target: Path,
    prerequisites: Iterable[Path | str],
    *recipe: str,
    order_only: Iterable[Path | str] = (STAMP,),
) -> str:
    """A rule; of what stands in `order_only` only the existence matters, not the age."""
    first = f"{in_make([target])}: {in_make(prerequisites)}".rstrip()
    behind = in_make(order_only)
    return "\n\t".join([f"{first} | {behind}" if behind else first, *recipe])


def unless(condition: str) -> str:
    """A prerequisite that has the target made again as long as a condition is empty."""
    return f"$(if {condition},,always)"


def in_make(names: Iterable[Path | str]) -> str:
    """Names side by side; what is no Path is Make's own language. Raises ParamsError for a file
    that Make or the shell would misread.
    """
    names = list(names)
    for name in names:
        if isinstance(name, Path) and (unfit := UNFIT.intersection(str(name))):
            raise params.ParamsError(
                f"Make cannot name {str(name)!r}: take a folder or value without"
                f" {' '.join(sorted(unfit))!r}"
            )
    return " ".join(map(str, names))


def quoted(word: str) -> str:
    """A word of a recipe, for Make and then the shell."""
    return shlex.quote(word).replace("$", "$$")
