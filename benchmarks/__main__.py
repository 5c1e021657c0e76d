"""`make bench`: every benchmark, or those named: `python -m benchmarks selectors training`.

Each in a process of its own: what one leaves in the allocator changes the page faults, and so the
times, of the next.
"""

import subprocess
import sys

NAMES = ("selectors", "attacks", "training", "speedup")

for name in sys.argv[1:] or NAMES:
    if name not in NAMES:
        sys.exit(f"there is no benchmark {name!r}: choose among {', '.join(NAMES)}")
    print(f"== {name}", flush=True)
    if status := subprocess.run(
        [sys.executable, "-c", f"from benchmarks import {name}; {name}.main()"]
    ).returncode:
        sys.exit(status)
