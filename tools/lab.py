"""Opens JupyterLab on notebooks/index.ipynb; `make lab` calls it.

Kernels run in the folder of their notebook, so folders that the environment names are handed on as
absolute paths.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ONE = ("ACS_RESULTS", "ACS_DATA", "ACS_CACHE")
SEVERAL = ("ACS_PARAMS", "ACS_PLUGINS")  # separated by colons


def absolute(path: str) -> str:
    return path if path.startswith("~") or not path else str(Path(path).absolute())


def environment() -> dict[str, str]:
    """The environment with absolute folders, our settings of JupyterLab before others, and our
    commands, `acs` among them, before others in a terminal or behind a notebook's `!`.
    """
    found = dict(os.environ)
    commands = str(Path(sys.executable).parent)
    found["PATH"] = os.pathsep.join(filter(None, [commands, found.get("PATH")]))
    for name in ONE:
        if name in found:
            found[name] = absolute(found[name])
    for name in SEVERAL:
        if name in found:
            found[name] = ":".join(map(absolute, found[name].split(":")))
    others = found.get("JUPYTER_CONFIG_PATH")
    found["JUPYTER_CONFIG_PATH"] = ":".join(filter(None, [str(ROOT / "tools/jupyter"), others]))
    return found


if __name__ == "__main__":
    where = ["--ServerApp.root_dir", str(ROOT), "--LabApp.default_url"]
    where.append("/lab/tree/notebooks/index.ipynb")
    # named, it is no login shell, which would set PATH anew
    settings = {"shell_command": [os.environ.get("SHELL") or "sh"]}
    where.append(f"--ServerApp.terminado_settings={settings}")
    command = [sys.executable, "-m", "jupyterlab", *where, *sys.argv[1:]]
    os.execve(sys.executable, command, environment())
