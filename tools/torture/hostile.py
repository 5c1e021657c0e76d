"""Archives and images that mean harm: read within limits, or refused in a sentence that names them.

Nothing is written beside the cache, nothing takes much memory or time.
"""

import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from acslib import data
from acslib.data import archives
from tools.torture.bench import ROOT, Bench, told
from tools.torture.children import Ended, broken, refused, too_large, within_memory
from tools.torture.damage import image_folder
from tools.torture.outcomes import Ending, Outcome

SECONDS_AT_MOST = 60


def hostile(bench: Bench) -> Iterator[Outcome]:
    for kind, made, read, named in (
        ("archives", archive_files(), archives.read_archive, "x."),
        ("pickles", pickles(), lambda path: archives.read_pickle(path.read_bytes(), path), "x."),
        ("images", images(), with_others, "hostile"),
    ):
        for name, write in bench.some(list(made.items())):
            home = bench.folder()
            path = home / name.partition(": ")[0]
            write(path)
            before = listing(home)
            child = bench.start(
                within_memory(told(lambda read=read, path=path: size(read(path)))), home
            )
            ended = child.wait(SECONDS_AT_MOST)
            yield Outcome(kind, name, *judged(ended, named, before, listing(home)))


def judged(ended: Ended, named: str, before: set[str], after: set[str]) -> tuple[Ending, str]:
    bad = broken(ended) or too_large(ended)
    if bad:
        return bad
    if after - before:
        return "failure", f"made {sorted(after - before)[0]}"
    return ("well", "") if ended.code == 0 else refused(ended, named)


def listing(home: Path) -> set[str]:
    """What there is, and what there must not be: what hostile files would make."""
    evil = [place / "evil" for place in (ROOT, Path("/tmp"), home.parent, home.parents[1])]
    there = [*home.rglob("*"), *filter(os.path.lexists, evil)]
    return {str(path) for path in there if "cache" not in path.parts}


def size(found: object) -> str:
    """What is printed of what was read."""
    return f"{type(found).__name__}, {len(found) if isinstance(found, dict | str | list) else 1}"


# ---- archives

Write = Callable[[Path], object]


def archive_files() -> dict[str, Write]:
    """By file name, and after a colon what is wrong with it."""
    link = zipfile.ZipInfo("x")
    link.external_attr = 0o120777 << 16
    huge = bytes(1 << 20)
    return {
        "x.zip: above its folder": zipped(("../../evil", b"1")),
        "x.zip: above its folder, later": zipped(("a/../../evil", b"1")),
        "x.zip: from the root": zipped(("/evil", b"1")),
        "x.zip: on a drive": zipped(("C:\\evil", b"1")),
        "x.zip: with backslashes": zipped(("..\\..\\evil", b"1")),
        "x.zip: twice": zipped(("a", b"1"), ("a", b"2")),
        "x.zip: a link": zipped((link, b"/etc/passwd")),
        "x.zip: a bomb": lambda path: zip_bomb(path, 1200),
        "x.zip: says that it is small": lambda path: zip_that_lies(path, huge),
        "x.zip: with a password": zip_with_a_flag,
        "x.zip: overlapping": zip_overlapping,
        "x.zip: a tar": lambda path: tarred(("a", b"1"))(path),
        "x.tar: above its folder": tarred(("../evil", b"1")),
        "x.tgz: a symbolic link": tarred(("a", tarfile.SYMTYPE)),
        "x.tgz: a hard link": tarred(("a", tarfile.LNKTYPE)),
        "x.tgz: a device": tarred(("a", tarfile.CHRTYPE)),
        "x.tgz: a pipe": tarred(("a", tarfile.FIFOTYPE)),
        "x.tgz: a name with a zero byte": tarred(("a\0../../evil", b"1")),
        "x.tgz: a bomb": lambda path: path.write_bytes(bomb(gzip.compress)),
        "x.tar.xz: a bomb": lambda path: path.write_bytes(bomb(lzma.compress)),
        "x.tgz: many empty files": tarred(*[(f"a{k}", b"") for k in range(20_000)]),
        "x.tgz: says that it is huge": lambda path: tar_that_lies(path),
        "x.tgz: a header without end": lambda path: path.write_bytes(
            gzip.compress(b"x" * 512 * 100)
        ),
        "x.tar.xz: asks for memory": lambda path: path.write_bytes(xz_that_asks()),
        "x.tgz: nothing": lambda path: path.write_bytes(b""),
    }


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> Write:
    def write(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a name is there twice
            with zipfile.ZipFile(path, "w") as file:
                for name, content in members:
                    file.writestr(name, content)

    return write


def tarred(*members: tuple[str, bytes]) -> Write:
    """Members with their content, or with a type of tarfile's and a link to /etc/passwd."""

    def write(path: Path) -> None:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as tar:
            for name, content in members:
                member = tarfile.TarInfo(name)
                if content in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
                    member.type, member.linkname = content, "/etc/passwd"
                    tar.addfile(member)
                else:
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))

    return write


def zip_bomb(path: Path, megabytes: int) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("zeros", "w", force_zip64=True) as member,
    ):
        for _ in range(megabytes):
            member.write(bytes(1 << 20))


def zip_that_lies(path: Path, content: bytes) -> None:
    """Its directory says that a member has one byte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", content)
    size = struct.pack("<L", len(content))
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<L", 1)))


def zip_with_a_flag(path: Path) -> None:
    """Marked as encrypted."""
    zipped(("a", b"1"))(path)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)


def zip_overlapping(path: Path) -> None:
    """Two members in one place."""
    zipped(("a", b"1" * 100), ("b", b"1" * 100))(path)
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\1\2") + 42
    content[second : second + 4] = bytes(4)
    path.write_bytes(content)


def bomb(pack: Callable[[bytes], bytes]) -> bytes:
    """A tar of 1.2 GB of zeros, packed."""
    member = tarfile.TarInfo("zeros")
    member.size = 100 << 20
    block = member.tobuf() + bytes(member.size)
    return b"".join([pack(block)] * 12)


def tar_that_lies(path: Path) -> None:
    """A member of 8 exabytes."""
    member = tarfile.TarInfo("a")
    member.size = 1 << 62
    path.write_bytes(gzip.compress(member.tobuf() + bytes(1024)))


def xz_that_asks() -> bytes:
    """A dictionary of 1.5 GB for a few bytes."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1536 << 20}]
    small = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
    honest, block = lzma.compress(b"", filters=small), lzma.compress(b"a" * 10240, filters=small)
    header = bytearray(block[12 : 12 + 4 * (block[12] + 1)])
    header[header.index(0x21) + 2] = 37 if filters else 0  # the dictionary's size, as xz has it
    header[-4:] = struct.pack("<L", zlib.crc32(bytes(header[:-4])))
    return honest[:12] + bytes(header) + block[12 + len(header) :]


class Malice:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch evil",)


def pickles() -> dict[str, Write]:
    """By file name, and after a colon what is wrong with it."""
    bad = {
        "a command": pickle.dumps({"data": Malice()}),
        "another module": b"cbuiltins\neval\n(S'1'\ntR.",
        "an array of a terabyte": pickle.dumps(np.zeros(3, np.uint8)).replace(
            b"K\x03\x85", b"\x8a\x05\0\0\0\0\1\x85"
        ),
        "nested": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "a long memory": b"\x80\x04N" + b"r\xff\xff\xff\x7f.",
        "nothing": b"",
    }
    return {f"x.pickle: {what}": writing(content) for what, content in bad.items()}


def writing(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


# ---- images


def images() -> dict[str, Write]:
    """By file name, and after a colon what is wrong with it."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    whole = {kind: encoded(noise, kind) for kind in ("png", "jpeg", "gif", "tiff", "bmp", "webp")}
    cut = {
        f"hostile.{kind}: cut": writing(content[: len(content) * 2 // 3])
        for kind, content in whole.items()
    }
    return cut | {
        "hostile.png: 10 gigapixels": writing(png(100_000, 100_000, b"")),
        "hostile.png: no pixels": writing(png(0, 8, b"")),
        "hostile.png: a bomb of text": writing(png(8, 8, zlib.compress(bytes(1 << 28)))),
        "hostile.gif: 65535 by 65535": writing(b"GIF89a\xff\xff\xff\xff" + whole["gif"][10:]),
        "hostile.bmp: upside down and huge": writing(
            whole["bmp"][:18] + struct.pack("<ll", 8, -(1 << 31)) + whole["bmp"][26:]
        ),
        "hostile.tiff: tags in a circle": writing(b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0"),
        "hostile.jpeg: a program": writing(b"MZ" + bytes(1000)),
        "hostile.png: a picture of SVG": writing(
            b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>"
        ),
        "hostile.png: PostScript": writing(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"
        ),
        "hostile.png: a folder": lambda path: path.mkdir(),
        "hostile.png: a pipe": lambda path: os.mkfifo(path),
        "hostile.png: a link to itself": lambda path: path.symlink_to(path),
        "hostile.png: a link to a device": lambda path: path.symlink_to("/dev/zero"),
    }


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def png(width: int, height: int, text: bytes) -> bytes:
    """One white row, whatever the header says, and a text that is packed."""
    chunks = [
        (b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0)),
        *([(b"zTXt", b"a\0\0" + text)] if text else []),
        (b"IDAT", zlib.compress(b"\0" + b"\xff" * 8)),
        (b"IEND", b""),
    ]
    packed = [
        struct.pack(">L", len(content))
        + kind
        + content
        + struct.pack(">L", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def with_others(path: Path) -> str:
    """Read a folder of images, of which that one is hostile."""
    folder = image_folder(path.parent / "cache" / "images", 0)
    path.rename(folder / "a" / path.name)
    os.environ["ACS_CACHE"] = str(path.parent / "cache" / "decoded")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that something is left out
        found = data.from_folder(folder, image_size=8)
    return found.source
