"""`make bench`: every benchmark, or those named: `python -m benchmarks selectors training`.

`python -m benchmarks gpu` tries and measures a GPU; what follows goes to it, see `gpu --help`. Each
runs in a process of its own: what one leaves in the allocator changes the page faults, and so the
times, of the next.
"""

import subprocess
import sys

NAMES = ("selectors", "attacks", "training", "speedup")
ALONE = "gpu"  # only when it is named, and with options


def run(name: str, *options: str) -> None:
    print(f"== {name}", flush=True)
    code = f"from benchmarks import {name}; {name}.main()"
    if status := subprocess.run([sys.executable, "-c", code, *options]).returncode:
        sys.exit(status)


def main(arguments: list[str]) -> None:
    if arguments[:1] == [ALONE]:
        run(*arguments)
        return
    for name in arguments or NAMES:
        if name not in NAMES:
            known = ", ".join((*NAMES, ALONE))
            sys.exit(f"there is no benchmark {name!r}: choose among {known}, the last one alone")
    for name in arguments or NAMES:
        run(name)


if __name__ == "__main__":
    main(sys.argv[1:])
