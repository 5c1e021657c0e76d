"""Files of one's own, whose methods, models, data sets and objectives are known by name.

    ACS_PLUGINS=mine.py make table1

Several files are separated by a colon. They are run once, when a name is first looked up that may
be theirs; what they say is in `acslib.paper.register`. Which content of a file registered a name is
part of what a record is, see `acslib.paper.records`. Needs no torch; the files import it themselves
if they want it.
"""

import contextlib
import functools
import linecache
import os
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from acslib.paper import files
from acslib.paper.files import file_digest

VARIABLE = "ACS_PLUGINS"
PACKAGE = Path(__file__).parents[1]
CELL = "a notebook cell"
Registered = TypeVar("Registered")


class PluginError(files.Refusal):
    """A file of ACS_PLUGINS, or what it registers, cannot be used."""


@dataclass(frozen=True)
class Registrant:
    """What registered a name. `content` is a digest of the whole file or notebook cell."""

    place: str
    line: int
    content: str
    is_file: bool

    def __str__(self) -> str:
        return f"{self.place}, line {self.line}" if self.is_file else CELL

    @property
    def name(self) -> str:
        """For records, which travel: without the folders."""
        return Path(self.place).name if self.is_file else CELL

    def is_again(self, other: "Registrant") -> bool:
        """Whether this is the same line run again, or a cell that was edited and run again. A file
        is run once.
        """
        if self.is_file and other.is_file:
            return False
        if (self.is_file, other.is_file) == (False, False) and self.place != other.place:
            return True
        return (self.place, self.line) == (other.place, other.line)


class Registry(Mapping[str, Registered], Generic[Registered]):
    """Names and what they stand for: the built-in ones first, then the registered ones, in order.

    A name that is not built in has the files of ACS_PLUGINS run first; so has whoever asks for all.
    """

    everyone: ClassVar[list["Registry"]] = []

    def __init__(self, what: str, built_in: Mapping[str, Registered]):
        self.what = what
        self.built_in = dict(built_in)
        self.own: dict[str, Registered] = {}
        self.sources: dict[str, Registrant] = {}
        Registry.everyone.append(self)

    def __getitem__(self, name: str) -> Registered:
        if name in self.built_in:
            return self.built_in[name]
        load_files()
        return self.own[name]

    def __iter__(self) -> Iterator[str]:
        load_files()
        return iter([*self.built_in, *self.own])

    def __len__(self) -> int:
        load_files()
        return len(self.built_in) + len(self.own)

    def add(self, name: str, value: Registered, source: Registrant) -> None:
        """Raises PluginError for a name that is taken."""
        if name in self.built_in:
            raise PluginError(
                f"{source} registers the {self.what} {name!r}, which is built in: take another name"
            )
        before = self.sources.get(name)
        if before is not None and not source.is_again(before):
            raise PluginError(
                f"{source} registers the {self.what} {name!r}, which {before} has registered: take"
                " another name"
            )
        self.own[name], self.sources[name] = value, source


# ---- files


def paths() -> list[Path]:
    """The files of ACS_PLUGINS. Raises PluginError for one that is not there or there twice."""
    found: list[Path] = []
    for path in files.named_paths(VARIABLE):
        if not path.is_file():
            raise PluginError(f"{VARIABLE} names the file {path}, which is not there: correct it")
        if path in found:
            raise PluginError(f"{VARIABLE} names {path} twice: leave one out")
        found.append(path)
    return found


_run: dict[str, bytes] = {}  # each file's content, as it was run
_loaded = False


def load_files() -> None:
    """Run the files of ACS_PLUGINS, unless that was done. All of them register, or none.

    The variable is made absolute: notebooks and programs started from here run in other folders.
    """
    global _loaded
    if _loaded:
        return
    _loaded = True  # before: a file may look up names itself
    try:
        with _all_or_nothing():
            files = paths()
            for path in files:
                _execute(path)
    except BaseException:
        _loaded = False
        raise
    if files:
        os.environ[VARIABLE] = ":".join(map(str, files))


@contextlib.contextmanager
def _all_or_nothing() -> Iterator[None]:
    before = [(one, dict(one.own), dict(one.sources)) for one in Registry.everyone]
    try:
        yield
    except BaseException:
        for one, own, sources in before:
            one.own, one.sources = own, sources
        _run.clear()
        raise


def _execute(path: Path) -> None:
    """Run a file as a module. Raises PluginError, which says where it stopped."""
    content = path.read_bytes()
    module = types.ModuleType(f"acs_plugin_{path.stem}_{file_digest(content)[:8]}")
    module.__file__ = str(path)
    _run[str(path)] = content
    sys.modules[module.__name__] = module
    try:
        exec(compile(content, str(path), "exec"), vars(module))
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{path}{_line_of(error, path)} stopped with {type(error).__name__}{_said(error)}:"
            f" mend it, or take it out of {VARIABLE}"
        ) from error


def _line_of(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno},"
    lines = [line for file, line in _frames(error) if file == str(path)]
    return f", line {lines[-1]}," if lines else ""


def _frames(error: BaseException) -> list[tuple[str, int]]:
    """The files and lines that an error came through, the place where it was raised last."""
    return [
        (frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]


def blamed(error: BaseException) -> str:
    """In a sentence, at which line of a file of ACS_PLUGINS an error was raised; "" elsewhere.

    An error that says in a sentence what is wrong counts only if that file raised it itself, or
    called for it what is not ours.
    """
    frames = [(file, line) for file, line in _frames(error) if file in _run or _is_ours(file)]
    if isinstance(error, ValueError | OSError | ImportError) and frames[-1:] != _own(frames)[-1:]:
        return ""
    place = place_of(error)
    return f"{place}, stopped with {type(error).__name__}{_said(error)}: mend it" if place else ""


def place_of(error: BaseException | None) -> str:
    """The last line of a file of ACS_PLUGINS that an error came through; "" if there is none."""
    own = _own(_frames(error)) if error else []
    return f"{own[-1][0]}, line {own[-1][1]}" if own else ""


def _own(frames: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(file, line) for file, line in frames if file in _run]


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(PACKAGE)


def _said(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return f" ({said})" if said else ""


def registered_files() -> list[Path]:
    """The files that the registered names depend on, for Make: those of ACS_PLUGINS, and others
    that they import and that register something.
    """
    load_files()
    registered = [
        Path(source.place)
        for one in Registry.everyone
        for source in one.sources.values()
        if source.is_file
    ]
    return list(dict.fromkeys([*paths(), *registered]))


def state() -> tuple:
    """All that is registered: what a checked YAML file's meaning depends on."""
    load_files()
    return tuple(
        (one.what, name, source)
        for one in Registry.everyone
        for name, source in one.sources.items()
    )


# ---- who registers


def source_of(frame: types.FrameType) -> Registrant:
    """The file or notebook cell whose code runs in a frame. Raises PluginError if it has no text:
    a record could not say what it was made with.
    """
    place = frame.f_code.co_filename
    is_file = place in _run or Path(place).is_file()
    content = _run.get(place) if place in _run else _text_of(place, is_file)
    if not content:
        raise PluginError(
            "what is registered must stand in a file or in a notebook cell, whose content says"
            " what a record was made with: write it to one"
        )
    place = str(Path(place).absolute()) if is_file else place
    return Registrant(place, frame.f_lineno, file_digest(content), is_file)


def _text_of(place: str, is_file: bool) -> bytes:
    return Path(place).read_bytes() if is_file else "".join(linecache.getlines(place)).encode()


@functools.cache
def combined(contents: tuple[str, ...]) -> str:
    """A short digest of several contents, of each once, in any order."""
    return file_digest("\n".join(sorted(set(contents))).encode())[:8]
