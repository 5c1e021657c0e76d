"""Makes .venv from the lock (requirements.txt), or says in one sentence what stands in the way.

`make_venv.py bench` makes .venv-bench instead, from pyproject.toml: the peers in the extra `bench`
pin old packages that the lock cannot hold. `make_venv.py site` makes .venv-site with the lock's
versions and the extra `site`. `make_venv.py torch-2.6.0` makes .venv-torch-2.6.0 with that version
of torch and the extra `test`. A second call waits for the first and takes what it made. Standard
library only, and old syntax, so that a Python that is too old can say that it is.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import time

OLDEST = (3, 11)
FREE_GIGABYTES = 4  # with a CPU build of torch the environment takes 1.6
LOG = os.path.join("build", "setup.log")
NO_INDEX = "no package index answers: check the network and pip's index (pip config list)"
HINTS = (  # what pip's log says, and what to do about it; the first that fits
    (
        "No space left on device",
        "the disk is full: free 4 GB, or 10 GB where pip takes a CUDA build of torch",
    ),
    ("Failed to establish a new connection", NO_INDEX),
    ("NewConnectionError", NO_INDEX),
    ("NameResolutionError", NO_INDEX),
    ("ConnectTimeoutError", NO_INDEX),
    ("(from versions: none)", NO_INDEX),
    ("ReadTimeoutError", "the package index is too slow: try again, or raise PIP_DEFAULT_TIMEOUT"),
    (
        "No matching distribution",
        "pip's index lacks one of these versions: take Python 3.11, or another index",
    ),
)


def stop(sentence):
    sys.exit("setup: " + sentence)


def check_python():
    if sys.version_info < OLDEST:
        found = "{}.{} ({})".format(sys.version_info[0], sys.version_info[1], sys.executable)
        stop(
            "Python {} is too old, 3.11 or newer is needed:"
            " run make PYTHON=/path/to/python3.11".format(found)
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        stop(
            "this Python has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"
            " and run make again"
        )


def check_disk():
    free = shutil.disk_usage(".").free / 1e9
    if free < FREE_GIGABYTES:
        stop(
            "{:.1f} GB are free here and {} are needed: free some space, run make again".format(
                free, FREE_GIGABYTES
            )
        )


def run(command):
    with open(LOG, "a") as log:
        if subprocess.call(command, stdout=log, stderr=subprocess.STDOUT):
            stop(explain())


def explain():
    with open(LOG) as log:
        text = log.read()
    for symptom, hint in HINTS:
        if symptom in text:
            return "{}; then run make again (log: {})".format(hint, LOG)
    return "pip could not install the packages: see the end of {} and run make again".format(LOG)


def main(extra=None):
    check_python()
    check_disk()
    folder = ".venv-" + extra if extra else ".venv"
    if not os.path.isdir("build"):
        os.mkdir("build")
    with open(os.path.join("build", folder + ".lock"), "w") as lock:
        asked = time.time()
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = os.path.join(folder, ".complete")
        if not os.path.exists(stamp) or os.path.getmtime(stamp) < asked:
            fill(folder, extra)
            open(stamp, "w").close()


def fill(folder, extra):
    start = time.time()
    version = "{}.{}".format(*sys.version_info[:2])
    print("setup: {} with Python {}, a minute or two (log: {})".format(folder, version, LOG))
    sys.stdout.flush()
    open(LOG, "w").close()
    run([sys.executable, "-m", "venv", folder])
    install = [os.path.join(folder, "bin", "python"), "-m", "pip", "install"]
    if extra and extra.startswith("torch-"):
        run(install + [extra.replace("-", "=="), "-e", ".[test]"])
    elif extra == "site":  # the lessons run in it: on the lock's versions
        run(install + ["-c", "requirements.txt", "-e", ".[site]"])
    elif extra:
        run(install + ["-e", ".[{}]".format(extra)])
    else:
        run(install + ["-r", "requirements.txt"])
        run(install + ["--no-deps", "--no-build-isolation", "-e", "."])
        compiling = "from acslib.selectors import compile_kernels; compile_kernels()"
        run([os.path.join(folder, "bin", "python"), "-c", compiling])
    print("setup: done in {:.0f} s".format(time.time() - start))


if __name__ == "__main__":
    main(*sys.argv[1:])
