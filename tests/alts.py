"""What is missing in the words that stand for a picture; for tests of notebooks, lessons, figures.

`watched` makes a notebook keep the words of every picture that it shows, in whatever way.
"""

import html
import json
import re
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from acslib.paper import seen

SHORTEST = 40  # characters that say more than titles and axes
SIZES = re.compile(
    r"\d+ x \d+( points)?|\d+ (images|panels|times)\b"
)  # say nothing of what is seen

HOOK = """
_alts = []


def _note(message):
    content = message["content"]
    if "image/png" in content.get("data", {}):
        _alts.append([content["data"], content["metadata"]])
    return message


get_ipython().display_pub.register_hook(_note)
"""


def faults(alt: str | None) -> list[str]:
    """What is wrong with an alternative text: nothing where it says what is seen."""
    if not alt:
        return ["it has no alternative text"]
    sentences = [one for one in re.split(r"(?<=[.!?])(?<!Adv\.) ", alt) if len(one) > 9]
    found = {
        "it says too little": len(alt) < SHORTEST,
        "it has no numbers but sizes": not re.search(r"\d", SIZES.sub("", alt)),
        "something is left out": seen.UNSAID in alt,
        "a sentence comes twice": len(set(sentences)) < len(sentences),
        "it has mathematics or code": re.search(r"\\|\$|<\w+ |Figure\(", alt) is not None,
    }
    return [fault for fault, there in found.items() if there]


def of_outputs(notebook: NotebookNode) -> list[str | None]:
    """The alternative text of every picture among a notebook's outputs."""
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    shown = [one for one in outputs if "image/png" in one.get("data", {})]
    return [of_bundle(one.data, one.metadata) for one in shown]


def of_bundle(data: dict, metadata: dict) -> str | None:
    """The text beside a picture, if that of the HTML, which JupyterLab shows, is the same."""
    text = metadata.get("image/png", {}).get("alt")
    found = re.search(r'<img alt="([^"]*)"', data.get("text/html", ""))
    return text if text and found and html.unescape(found[1]) == text else None


def watched(notebook: NotebookNode, keep: Path) -> None:
    """Make a notebook note what stands for the pictures that it shows, and write it to `keep`."""
    write = f"import json\nopen({str(keep)!r}, 'w').write(json.dumps(_alts));"
    notebook.cells.insert(0, new_code_cell(HOOK))
    notebook.cells.append(new_code_cell(write))


def all_faults(texts: list[str | None]) -> list[str]:
    """Every fault of several texts, with the text that has it."""
    return [f"{fault}: {text!r}" for text in texts for fault in faults(text)]


def kept(folder: Path) -> dict[str, list[str | None]]:
    """What the `watched` notebooks under a folder have written, by their folder and name."""
    return {
        f"{path.parent.name}/{path.name.removesuffix('.alts.json')}": [
            of_bundle(*bundle) for bundle in json.loads(path.read_text())
        ]
        for path in sorted(folder.rglob("*.alts.json"))
    }
