"""What the documents name must exist: files they link to, and the targets of the `make` commands
they give.
"""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/published/**/*.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", ["README.md", "docs/claims.md"])
def test_tables_are_those_of_the_published_csvs(document):
    """`tools/claims.py`, which `make publish` calls, has nothing to change."""
    spec = importlib.util.spec_from_file_location("claims", ROOT / "tools" / "claims.py")
    claims = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(claims)
    text = (ROOT / document).read_text()
    assert claims.BLOCK.search(text)
    assert claims.filled(text) == text
    row = re.search(r"^\|.*\d\.\d.*\n", claims.BLOCK.search(text)[0], re.M)[0]
    assert claims.filled(text.replace(row, row.replace(".", "9", 1))) == text, (
        "a number that was typed stays"
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_commands_have_targets(document):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):.*## ", makefile, re.M))
    for options, target in re.findall(
        r"(?:`|^)make ((?:-\S+ )*)([\w-]+)", document.read_text(), re.M
    ):
        assert target in targets, f"make {options}{target}"
