"""What determines a run's record, in short: its parameters, and the files of one's own parts."""

import hashlib
import json
from collections.abc import Callable, Collection
from typing import Any

from acslib.paper import plugins, threads
from acslib.paper.config import Run
from acslib.paper.methods import METHODS
from acslib.paper.settings import REGISTRIES, is_neutral, owner, unused
from acslib.paper.threads import Workers


def fingerprint(run: Run, workers: Workers | None = None) -> str:
    """A short digest of all that determines the record: every parameter, but not the run's name or
    profile; threads and processes where there are several (those that are asked for by default).
    """
    return _fingerprint(run, identity(run), threads.asked() if workers is None else workers)


def fingerprint_before(run: Run, workers: Workers) -> str:
    """What version 0.1.0 called by this name: a parameter that the objective does not look at
    counts with its own value.
    """
    return _fingerprint(run, run.setting.model_dump(mode="json"), workers)


def _fingerprint(run: Run, values: dict[str, Any], workers: Workers) -> str:
    several = [] if workers == Workers() else [list(workers)]
    return short_sha256([run.method, _counted(values, lambda key: True), *several]) + made_with(run)


def training_fingerprint(run: Run) -> str:
    """The same of what training looks at: a mistake in the evaluation costs no training."""
    counted = parameters(run, lambda key: owner(key) != "evaluation")
    return short_sha256([run.method, counted]) + made_with(run)


def parameters(run: Run, counts: Callable[[str], bool]) -> dict[str, Any]:
    """Those that count, unless their value is what it was before there was the parameter."""
    return _counted(identity(run), counts)


def identity(run: Run) -> dict[str, Any]:
    """All parameters, those that the run's objective does not look at with one value for all."""
    return run.setting.model_dump(mode="json") | unused(run.setting)


def _counted(values: dict[str, Any], counts: Callable[[str], bool]) -> dict[str, Any]:
    return {
        key: value for key, value in values.items() if counts(key) and not is_neutral(key, value)
    }


def short_sha256(content: Any) -> str:
    """Sixteen digits for anything that JSON can hold."""
    return sha256(json.dumps(content, sort_keys=True))[:16]


def sha256(text: str) -> str:
    """SHA-256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


# ---- parts of one's own


def own_parts(run: Run) -> dict[str, plugins.Registrant]:
    """What registered the method, model, data set and objective of a run that are not built in."""
    setting = run.setting
    names = {"method": run.method} | {part: getattr(setting, part) for part in REGISTRIES}
    known: dict[str, plugins.Registry] = {"method": METHODS, **REGISTRIES}
    return {
        part: known[part].sources[name]
        for part, name in names.items()
        if name in known[part].sources
    }


def provenance_of_own(run: Run) -> dict[str, Any]:
    """For a record: the files that registered parts of the run, with digests of their contents."""
    found = {source.name: source.content for source in own_parts(run).values()}
    return {"plugins": found} if found else {}


def made_with(run: Run, parts: Collection[str] = ("method", *REGISTRIES)) -> str:
    """The end of a fingerprint: empty without parts of one's own, else a digest of their files."""
    own = own_parts(run)
    contents = tuple(own[part].content for part in parts if part in own)
    return f"-{plugins.combined(contents)}" if contents else ""


def is_outdated(found: str, now: str) -> bool:
    """Whether a fingerprint differs from that of now in the contents of plugin files alone."""
    return found != now and "-" in found and found.split("-")[0] == now.split("-")[0]
