"""Malformed parameters, names of runs, commands and files: each is refused in one plain sentence.

All of them are wrong by construction, so whatever is accepted is a failure. Only the files of the
last kind, with a few letters changed anywhere, may be right: they are read or refused.
"""

import io
import signal
import string
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from acslib.paper import cli, config, methods, paramfiles, params, runs
from acslib.paper.settings import Setting
from tools.torture.bench import ITEM, PROFILE, SETTING, Bench
from tools.torture.children import BROKEN, Ended, refused, too_large, within_memory
from tools.torture.outcomes import Ending, Outcome

SECONDS_AT_MOST = 20
LETTERS = string.ascii_letters + string.digits + " .,+@-_/\\'\"[]{}%$#*:;!?&|<>=~^`()"
ODD = "\0\n\t\x1b\x7f½１٣é–‮\u2028🙂\udcff"
NO_NUMBERS = (
    *(
        "030",
        "1_0",
        "0x10",
        "1:30",
        "8/255/3",
        "1e",
        "1.2.3",
        "--1",
        "+-1",
        "1,5",
        "1 2",
        "½",
        "１",
    ),
    *("nan", ".nan", "inf", "-inf", ".inf", "1e400", "1/0", "0/0", "8/", "/255", "8/-255", "1e1e1"),
    *("abc", "true", "false", "yes", "''", '"', "[1", "{1", "]", "{a: 1}", "[[1]]"),
    *(
        "*a",
        "!!python/object/apply:os.system [id]",
        "-1",
        "-1e-3",
        "1e39",
        "9" * 400,
        "%",
        "@",
        "`",
    ),
)
NO_FLAGS = ("yes", "no", "on", "off", "1", "0", "tru", "'true'", "[true]", "null", "t", "-", "{}")
NO_LISTS = ("3", "a", "[a", "[[1]]", "[-1]", "[0.5]", "[nan]", "{a: 1}", "true", "[1,[2]]", "['']")
NO_WORDS = ("1", "true", "[a]", "{a: b}", "''", "1.5", "[", "nobody", "!!str")
NO_SEEDS = (
    *("", " ", "-1", "1.5", "007", "0 0", "1 2 1", "4294967296", "9" * 40, "a", "0x1", "１", "1e3"),
    *("0,1", "0;1", "[0]", "nan", "+1", "1_0", "\0", "0\0", "½", "٣"),
)


def fuzz(bench: Bench) -> Iterator[Outcome]:
    chance, made = bench.chance, Malformed(bench.chance)
    with nothing_is_trained():
        for kind, number, arguments in (
            ("parameters in a run's name", 400, lambda: ["run", made.varied_run()]),
            ("names of runs", 200, lambda: ["run", made.run()]),
            ("commands", 150, made.command),
        ):
            for _ in range(bench.times(number)):
                words = arguments()
                yield Outcome(kind, repr(words), *refused(in_process(words)))
        for _ in range(bench.times(250)):
            name, words, text = chance.choice((made.profile, made.settings, made.item))()
            yield Outcome("files", repr(text), *with_file(bench, name, words, text, refused))
        for _ in range(bench.times(250)):
            name, words, text = made.scratched()
            yield Outcome(
                "files, scratched", repr(text), *with_file(bench, name, words, text, read)
            )
    for case, text in bombs().items():
        yield Outcome("files that swell", case, *swollen(bench, text))


# ---- commands in this process


def in_process(words: Sequence[str]) -> Ended:
    """A command as the command line gives it, without a process of its own."""
    out, err = sys.stdout, sys.stderr
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    begun = time.monotonic()
    sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    sys.stderr = said
    try:
        with in_time():
            code: int | None = cli.main(list(words))
    except TimeoutError:
        code = None
    except BaseException:
        traceback.print_exc()
        code = BROKEN
    finally:
        sys.stdout, sys.stderr = out, err
    said.flush()
    text = said.buffer.getvalue().decode()  # type: ignore[attr-defined]
    return Ended(code, "", text, time.monotonic() - begun)


@contextmanager
def in_time() -> Iterator[None]:
    """TimeoutError for what takes too long."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS_AT_MOST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def nothing_is_trained() -> Iterator[None]:
    """A run that is accepted ends well, without being trained."""

    def accepted(*_: object, **__: object) -> dict[str, Any]:
        return {"metrics": {}, "seconds": {"total": 0.0}}

    before, runs.execute = runs.execute, accepted  # type: ignore[assignment]
    try:
        yield
    finally:
        runs.execute = before


def read(ended: Ended) -> tuple[Ending, str]:
    """Read, or refused in a plain sentence."""
    return ("well", "") if ended.code == 0 else refused(ended)


def with_file(
    bench: Bench, name: str, words: Sequence[str], text: bytes, judged: Callable
) -> tuple[Ending, str]:
    """What a command says while a file of parameters is there."""
    path = bench.params / name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(text)
    try:
        return judged(in_process(words))
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)


# ---- what is malformed


class Malformed:
    """Draws what is wrong, of each kind."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.plain = config.resolve(f"{SETTING}.gradmatch", PROFILE).setting.model_dump()
        self.known = [f"{name}.{method}" for name in self.setting_names for method in self.methods]

    @property
    def setting_names(self) -> list[str]:
        return list(paramfiles.checked_settings().settings)

    @property
    def methods(self) -> list[str]:
        return list(methods.METHODS)

    def edited(self, word: str, known: Sequence[str]) -> str:
        """A word with other letters, or more, or fewer, that is none of `known` and no option."""
        while True:
            letters = list(word)
            for _ in range(self.chance.randint(1, 3)):
                place = self.chance.randint(0, len(letters))
                letter = self.chance.choice(LETTERS if self.chance.random() < 0.7 else ODD)
                cut = self.chance.choice((0, 0, 1, 1, len(letters)))
                letters[place : place + cut] = self.chance.choice(([letter], [], [letter] * 9))
            found = "".join(letters)
            if found not in known and not found.startswith("-"):
                return found

    # ---- in a command

    def value(self, name: str) -> str:
        """What a parameter cannot be."""
        now = self.plain[name]
        if isinstance(now, bool):
            return self.chance.choice(NO_FLAGS)
        if isinstance(now, tuple):
            return self.chance.choice(NO_LISTS)
        if isinstance(now, str):
            return self.chance.choice(NO_WORDS)
        return self.chance.choice(NO_NUMBERS)

    def varied(self) -> str:
        """A change in a run's name."""
        fields = list(Setting.model_fields)
        name = self.chance.choice([key for key in fields if self.plain[key] is not None])
        return self.chance.choice(
            [f"+{name}@{self.value(name)}"] * 6
            + [f"+{self.edited(name, fields)}@1"]
            + [f"+{name}@1+{name}@1", f"+{name}", f"+{name}@", "+", "+@", f"+@{name}"]
        )

    def varied_run(self) -> str:
        right = self.chance.choice(["", "+steps@3", "+lr@0.1"])
        return self.chance.choice(self.known) + right + self.varied()

    def run(self) -> str:
        """The name of no run."""
        setting, method = self.chance.choice(self.setting_names), self.chance.choice(self.methods)
        return self.chance.choice(
            [
                self.edited(f"{setting}.{method}", self.known),
                self.edited(f"{setting}.{method}", self.known),
                f"{self.edited(setting, self.setting_names)}.{method}",
                f"{setting}.{self.edited(method, self.methods)}",
                setting,
                f"{setting}.{method}.{method}",
                f"{setting}.{method}" + "x" * self.chance.choice((300, 100_000)),
                f"../{setting}.{method}",
                f"{setting}/{method}",
                self.noise(),
            ]
        )

    def noise(self) -> str:
        length = self.chance.choice((0, 1, 3, 30, 3000))
        return "".join(self.chance.choices(LETTERS + ODD, k=length)).lstrip("-")

    def command(self) -> list[str]:
        """A command that cannot be."""
        run, item = self.chance.choice(self.known), "table1"
        profile = self.edited(PROFILE, paramfiles.profiles())
        wrong_item = self.edited(item, [*paramfiles.item_names(), "theorem1"])
        one = self.chance.choice(
            [
                ["run", run, f"--seeds={self.chance.choice(NO_SEEDS)}"],
                ["run", run, f"--profile={profile}"],
                ["list", item, f"--profile={profile}"],
                ["list", item, "--cost", f"--seeds={self.chance.choice(NO_SEEDS)}"],
                ["list", wrong_item],
                ["show", wrong_item],
                ["show", item, f"--profile={profile}"],
                ["compare", run, self.run()],
                ["compare", run],
                ["explain", self.edited("steps", list(Setting.model_fields))],
                ["runs", f"--profile={profile}"],
                ["rules", f"--profile={profile}"],
                ["rules", f"--seeds={self.chance.choice(NO_SEEDS)}"],
                ["page", f"--profile={profile}"],
                ["export", self.run()],
                ["export", run, "--seed", self.chance.choice(NO_SEEDS)],
                ["run", run, f"--{self.edited('profile', ['profile', ''])}"],
                [self.edited("run", ["run"]), run],
                ["run", run, run],
                [],
            ]
        )
        return [*one, *self.chance.choice(([], [], ["--nobody"]))]

    # ---- in files: name, command, text

    def profile(self) -> tuple[str, list[str], bytes]:
        """A profile that cannot be."""
        words = ["run", f"{SETTING}.gradmatch", "--profile", "mine"]
        section = self.chance.choice(
            ["common:", "by_dataset: {cifar10:", "by_norm: {linf:", f"settings: {{{SETTING}:"]
        )
        end = "}" * section.count("{")
        item = self.edited("table1", paramfiles.item_names())
        lines = [
            f"{section} {{{self.parameter()}}}{end}",
            f"{section} {self.chance.choice(('3', 'word', '[1]', 'true'))}{end}",
            f"{self.edited('common', PROFILE_SECTIONS)!r}: {{steps: 1}}",
            f"extends: {self.chance.choice(('nobody', 'mine', '[demo]', '3', '{a: b}', 'Smoke'))}",
            "common: {model: resnet34}",
            f"items: {{table1: {{settings: [{self.edited(SETTING, self.setting_names)!r}]}}}}",
            f"items: {{{item!r}: {{vary: {{steps: 1}}}}}}",
            "common: {steps: 1}\ncommon: {steps: 2}",
        ]
        return "profiles/mine.yaml", words, self.file("about: mine", "extends: smoke", lines)

    def settings(self) -> tuple[str, list[str], bytes]:
        """Settings that cannot be."""
        words = ["run", "mine.full", "--profile", PROFILE]
        lines = [
            f"settings: {{mine: {{extends: {SETTING}, {self.parameter()}}}}}",
            f"settings: {{mine: {{extends: {self.edited(SETTING, self.setting_names)!r}}}}}",
            f"settings: {{mine: {{extends: {SETTING}}}, mine: {{extends: {SETTING}}}}}",
            f"settings: {{{self.chance.choice(('a b', '../x', '<b>', 'a/b'))!r}: {{steps: 1}}}}",
            "settings: {mine: {extends: yours}, yours: {extends: mine}}",
            f"settings: {self.chance.choice(('3', '[mine]', 'mine', '{mine: 3}', '{mine: [1]}'))}",
            f"defaults: {{{self.parameter()}}}",
            f"{self.edited('settings', ('settings', 'defaults'))!r}: {{}}",
        ]
        return "settings.yaml", words, self.file("", "", lines)

    def item(self) -> tuple[str, list[str], bytes]:
        """A table that cannot be."""
        right = f"settings: [{SETTING}], methods: [full]"
        lines = [
            "runs: 3",
            "runs: []",
            f"runs: [{{settings: {SETTING}, methods: [full]}}]",
            f"runs: [{{settings: [{SETTING}], methods: full}}]",
            f"runs: [{{settings: [{SETTING}]}}]",
            f"runs: [{{settings: [{self.edited(SETTING, self.setting_names)!r}], methods: []}}]",
            f"runs: [{{settings: [{SETTING}], methods: [{self.edited('full', self.methods)!r}]}}]",
            f"runs: [{{settings: [{SETTING}], methods: [full, full]}}]",
            f"runs: [{{{right}, vary: {{{self.parameter()}}}}}]",
            f"runs: [{{{right}, vary: [{{steps: 1}}, {{steps: 1}}]}}]",
            f"runs: [{{{right}, columns: [1]}}]",
            f"runs: [{{{right}, {self.edited('vary', GROUP)!r}: 1}}]",
            f"runs: [{{{right}}}]\ntitle: mine",
        ]
        return "mine.yaml", ["list", "mine"], self.file('title: "mine"', "", lines)

    def parameter(self) -> str:
        """A parameter with what it cannot be, in YAML."""
        fields = list(Setting.model_fields)
        name = self.chance.choice([key for key in fields if self.plain[key] is not None])
        unknown = f"{self.edited(name, fields)!r}: 1"
        twice = f"{name}: {self.plain[name]}, {name}: {self.plain[name]}"
        return self.chance.choice([f"{name}: {self.value(name)}"] * 4 + [unknown, twice])

    def file(self, about: str, extends: str, lines: Sequence[str]) -> bytes:
        """Text with one wrong line, or that is no YAML, or not only."""
        line = self.chance.choice(lines)
        base = [about] * bool(about) + [extends] * (bool(extends) and "extends" not in line)
        text = "\n".join([*base, line]) + "\n"
        if self.chance.random() < 0.75:
            return text.encode("utf-8", "surrogateescape")
        no_yaml = (
            *(
                b"\xff\xfe\0",
                b"a: \0b\n",
                b"\ta: 1\n",
                b"a: [1\n",
                b"a: {b\n",
                b"a: 'b\n",
                b"- a\n",
            ),
            *(
                b"3\n",
                b"",
                b"word\n",
                b"a: b: c\n",
                b"a: *b\n",
                b"&a\n",
                b"--- a\n--- b\n",
                b"? [1]\n",
            ),
            *(b"a: !!python/name:os.system\n", b"[" * 5000, b"{a: " * 2000, b"? {a: 1}\n: 2\n"),
        )
        return self.chance.choice(no_yaml)

    def scratched(self) -> tuple[str, list[str], bytes]:
        """A file that was right, with letters changed anywhere."""
        source, name, words = self.chance.choice(
            [
                ("profiles/smoke", "profiles/mine.yaml", ["list", ITEM, "--profile", "mine"]),
                ("profiles/demo", "profiles/mine.yaml", ["list", ITEM, "--profile", "mine"]),
                ("table6", "mine.yaml", ["list", "mine"]),
                ("settings", "settings.yaml", ["list", ITEM]),
            ]
        )
        content = bytearray((paramfiles.FOLDER / f"{source}.yaml").read_bytes())
        for _ in range(self.chance.randint(1, 4)):
            place = self.chance.randrange(len(content))
            content[place : place + self.chance.choice((0, 1, 1, 9))] = self.chance.choice(
                (b"", bytes([self.chance.randrange(256)]), b"\n", b" ", b":", b"{", b"]", b"&a ")
            )
        return name, words, bytes(content)


PROFILE_SECTIONS = [*params.Profile.model_fields]
GROUP = ("settings", "methods", "vary", "columns")


# ---- files that swell, which only a process of its own may read


def bombs() -> dict[str, str]:
    """Small files whose values are huge, once aliases are followed."""
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]
    return {
        "aliases of aliases": "\n".join(laughs) + "\n",
        "aliases of aliases as a value": "common:\n  steps: 1\n"
        + "\n".join(laughs)
        + "\nabout: *a11\n",
        "aliases of aliases as a list": "\n".join(laughs) + "\ncommon: {lr_drops: *a11}\n",
        "a list of itself": "common: {lr_drops: &a [*a]}\n",
        "a mapping of itself": "common: &a {steps: *a}\n",
        "merged with itself": "common: &a {<<: *a}\n",
        "deep": "common: " + "[" * 900 + "]" * 900 + "\n",
        "a long number": f"common: {{steps: {'9' * 200_000}}}\n",
        "a long name": f"common: {{{'a' * 200_000}: 1}}\n",
    }


def swollen(bench: Bench, text: str) -> tuple[Ending, str]:
    path: Path = bench.params / "profiles" / "mine.yaml"
    path.write_text(text)
    try:
        words = ["run", f"{SETTING}.full", "--profile", "mine"]
        child = bench.start(within_memory(lambda: cli.main(words)), bench.folder())
        ended = child.wait(SECONDS_AT_MOST)
        return too_large(ended) or refused(ended)
    finally:
        path.unlink()
