"""On how many threads and processes a run computes: its numbers depend on both."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from acslib.paper.files import RecordError
from acslib.paper.params import ParamsError, shown
from acslib.paper.printing import counted


class Workers(NamedTuple):
    """On how many threads and processes a run computes: its numbers depend on both."""

    threads: int = 1
    processes: int = 1


def asked() -> Workers:
    """As many threads as ACS_THREADS or else OMP_NUM_THREADS says, as many processes as torchrun
    has started or else ACS_PROCESSES says; one where nobody says anything.
    """
    return Workers(
        _number("ACS_THREADS") or _number("OMP_NUM_THREADS") or 1,
        _number("WORLD_SIZE") or _number("ACS_PROCESSES") or 1,
    )


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    first = text.split(",")[0].strip()  # OpenMP allows one number for each level of nesting
    if not re.fullmatch("[1-9][0-9]{0,4}", first, re.ASCII):
        raise ParamsError(f"{variable} is {shown(text)}: give a whole number from 1 to 99999")
    return int(first)


def workers_of(record: dict[str, Any]) -> Workers:
    """A record's; version 0.1.0 has the threads under `provenance`, and never several processes."""
    before = record["provenance"].get("threads", 1)
    return Workers(record.get("threads", before), record.get("processes", 1))


def check_workers(path: Path, made: Workers, way_out: str) -> None:
    """RecordError if a file was made on other threads or processes than are asked for."""
    if made != asked():
        raise RecordError(
            f"{path} was made on {_in_words(made)}, but {_in_words(asked())} are asked for, and"
            f" numbers depend on it: set ACS_THREADS to {made.threads} and ACS_PROCESSES to"
            f" {made.processes}, or {way_out}"
        )


def _in_words(workers: Workers) -> str:
    processes = counted(workers.processes, "process", "processes")
    return f"{counted(workers.threads, 'thread')} and {processes}"
