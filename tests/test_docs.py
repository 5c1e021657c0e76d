"""What the documents name must exist: files they link to, and the targets of the `make` commands they give."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/published/**/*.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_commands_have_targets(document):
    commands = re.findall(r"`make ((?:-\S+ )*[^`]+)`|^make (.+)$", document.read_text(), re.M)
    for command in ("".join(pair).split("#")[0] for pair in commands):
        for target in re.findall(r"(?:^|\s)([a-z][\w-]+)(?=\s|$)", command.split("PROFILE")[0]):
            known = subprocess.run(["grep", "-qE", rf"(^|[ :]){target}( |:|$)", ROOT / "Makefile"], check=False)
            assert known.returncode == 0, f"make {target}"
