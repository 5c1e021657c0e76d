"""The one atomic writer: killed, interrupted, side by side, on a full disk."""

import os
import random
import signal
import stat
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acslib import writing
from acslib.writing import clear_stale, replacing, scratch_folder, write_atomically

DAY = 24 * 3600


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=2000))
def test_bytes_and_functions_write_the_same_file(content, tmp_path):
    for name, what in (("a", content), ("b", lambda file: file.write(content))):
        write_atomically(tmp_path / "made" / "on the way" / name, what)
        assert (tmp_path / "made" / "on the way" / name).read_bytes() == content
    assert names(tmp_path / "made" / "on the way") == ["a", "b"]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"")
        with replacing(tmp_path / "b") as temporary:
            temporary.unlink()
            temporary.touch(0o600)  # as writers do that make a temporary file of their own
    finally:
        os.umask(before)
    for name in "ab":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_stood_there_stays_when_a_write_is_interrupted(error, tmp_path):
    def half(file):
        file.write(b"half of it")
        raise error

    write_atomically(tmp_path / "a", b"before")
    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        write_atomically(tmp_path / "a", half)
    assert (tmp_path / "a").read_bytes() == b"before"
    assert names(tmp_path) == ["a"]


def test_a_folder_that_is_a_file_is_an_error_of_the_system(tmp_path):
    (tmp_path / "a").write_bytes(b"a file")
    with pytest.raises(OSError, match="a"):
        write_atomically(tmp_path / "a" / "b", b"")


def test_a_killed_writer_leaves_the_old_file_or_the_new_one_and_its_litter_is_cleared(tmp_path):
    contents = [bytes([k]) * 300_000 for k in range(2)]
    path, litter = tmp_path / "a", 0
    write_atomically(path, contents[0])
    chance = random.Random(0)
    for _ in range(20):
        writer = os.fork()
        if writer == 0:
            while True:
                for content in contents:
                    write_atomically(path, content)
        time.sleep(chance.uniform(0.001, 0.02))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        assert path.read_bytes() in contents
        litter += len(names(tmp_path)) - 1
        clear_stale(tmp_path)
        assert names(tmp_path) == ["a"]
    assert litter  # or nothing was tested


def test_writers_side_by_side_with_one_process_number_do_not_disturb_each_other(
    tmp_path, monkeypatch
):
    """As two machines have on a shared folder."""
    monkeypatch.setattr(writing.os, "getpid", lambda: 17)
    contents = [bytes([k]) * 50_000 for k in range(4)]
    torn = []

    def write(content):
        for _ in range(25):
            write_atomically(tmp_path / "a", content)
            torn.append((tmp_path / "a").read_bytes() not in contents)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (len(torn), any(torn)) == (100, False)
    assert names(tmp_path) == ["a"]


def test_only_what_dead_processes_have_left_is_cleared(tmp_path, monkeypatch):
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    here, elsewhere = writing.machine(), "0123456789ab"
    kept = [
        f".acs-{here}-{os.getpid()}-0000.part",  # this process may still be writing
        f".acs-{here}-1-0000.part",  # it runs, and may be somebody else's
        f".acs-{elsewhere}-{gone}-0000.part",  # nobody knows here whether it runs there
        "record.json",
        f".acs-{here}-{gone}-0000.txt",
    ]
    cleared = [
        f".acs-{here}-{gone}-0000.part",
        f".acs-{here}-{10**30}-0000.part",
        f".acs-{elsewhere}-{os.getpid()}-old0.part",
    ]
    for name in kept + cleared:
        (tmp_path / name).write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(writing.os, "getpid", lambda: gone)
        with scratch_folder(tmp_path) as scratch:
            (scratch / "half").write_bytes(b"half")
            patch.setattr(writing.shutil, "rmtree", lambda *_, **__: None)  # killed before that
    assert len(names(tmp_path)) == len(kept) + len(cleared) + 1
    os.utime(tmp_path / cleared[-1], (time.time() - 2 * DAY,) * 2)
    clear_stale(tmp_path)
    assert names(tmp_path) == sorted(kept)
    clear_stale(tmp_path / "missing")


def test_a_link_in_place_of_a_temporary_file_takes_nothing_else_with_it(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / f".acs-{writing.machine()}-{10**30}-00.part").symlink_to(outside)
    clear_stale(inside)
    assert names(inside) == []
    assert names(outside) == ["mine"]
