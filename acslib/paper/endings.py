"""How a command ends: its exit code, and what went wrong in one line."""

import os
import sys
from collections.abc import Callable

from acslib.paper import plugins
from acslib.writing import reason

# ValueError: what is wrong with parameters, data, records and losses, in a sentence
PROBLEMS = (ValueError, OSError, ImportError, MemoryError)
INTERRUPTED, BROKEN_PIPE = 130, 141  # as shells count: 128 and the signal's number


class Stopped(KeyboardInterrupt):
    """Interrupted; the message says what is kept."""


def exit_code(command: Callable[[], int]) -> int:
    """A command's exit code, what went wrong having been said in a line."""
    try:
        code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read what was printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt as stopped:
        return refuse(f"stopped: {stopped if stopped.args else 'nothing is lost'}", INTERRUPTED)
    except PROBLEMS as error:
        return refuse(plugins.blamed(error) or sentence(error), 2)
    except (Exception, SystemExit) as error:
        if isinstance(error, RuntimeError) and "memory" in str(error).lower():
            return refuse(sentence(error), 2)
        if blamed := plugins.blamed(error):
            return refuse(blamed, 2)
        raise


def refuse(what: str, code: int) -> int:
    """Say on stderr, in a line, what was wrong; gives the exit code."""
    print(f"acs: {' '.join(what.split())}", file=sys.stderr)
    return code


def sentence(error: Exception) -> str:
    """An error as one sentence, with the file that it is about."""
    if isinstance(error, MemoryError | RuntimeError):
        return f"out of memory ({error}): lower batch_size or train_limit, or use a larger machine"
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    place = plugins.place_of(error.__cause__)
    return where + reason(error) + (f" ({place})" if place else "")
