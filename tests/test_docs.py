"""What the documents say must be so: links lead somewhere, commands have targets, names are
defined where a document says, tables are those of the CSVs, and Python blocks run.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import acslib

ROOT = Path(__file__).parents[1]
PATTERNS = ("*.md", "docs/*.md", "results/*.md", "figures/*.md", "results/published/**/*.md")
DOCUMENTS = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
BLOCKS = [
    pytest.param(block, id=f"{document.relative_to(ROOT)}-{number}")
    for document in DOCUMENTS
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", document.read_text(), re.M | re.S)
    )
]
every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def links(document: Path) -> list[tuple[str, str, str]]:
    """(text, file, heading) of every link to a file of ours."""
    pattern = r"\[([^]]*)\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)"
    return re.findall(pattern, document.read_text())


@every_document
def test_links_lead_somewhere(document):
    for _, target, heading in links(document):
        path = document.parent / target if target else document
        assert path.exists(), target
        titles = re.findall(r"^#+ (.*)", path.read_text(), re.M) if heading else []
        slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert not heading or heading in slugs, f"{target}#{heading}"


@every_document
def test_what_is_named_in_a_file_is_defined_there(document):
    """In a link like [`Trades.gradients`](../acslib/objectives.py)."""
    for text, target, _ in links(document):
        if target.endswith(".py") and (name := re.fullmatch(r"`([\w.]+)`", text)):
            source = (document.parent / target).read_text()
            for part in name[1].split("."):
                defined = rf"^ *(def|class) {part}\b|^{part}\b.* = "
                module = Path(target).stem == part
                assert module or re.search(defined, source, re.M), f"{part} in {target}"


@pytest.mark.parametrize("document", ["README.md", "docs/claims.md", "docs/study.md"])
def test_tables_are_those_of_the_published_csvs(document):
    """`tools/claims.py`, which `make publish` calls, has nothing to change."""
    spec = importlib.util.spec_from_file_location("claims", ROOT / "tools" / "claims.py")
    claims = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(claims)
    text = (ROOT / document).read_text()
    blocks = "".join(found[0] for found in claims.BLOCK.finditer(text))
    assert claims.filled(text) == text
    row = re.search(r"^\|.*\d\.\d.*\n", blocks, re.M)[0]
    assert claims.filled(text.replace(row, row.replace(".", "9", 1))) == text, (
        "a number that was typed stays"
    )


@every_document
def test_make_commands_have_targets(document):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):.*## ", makefile, re.M))
    targets |= {path.stem for path in (ROOT / "params").glob("*.yaml")} - {"settings", "attacks"}
    commands = r"(?:`|^)make ((?:-\S+ )*)([\w-]+)"
    for options, target in re.findall(commands, document.read_text(), re.M):
        assert target in targets, f"make {options}{target}"


def test_there_are_blocks_to_run():
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block, tmp_path):
    """As they stand, in a fresh Python in an empty folder, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1200


def test_ones_own_parts_are_ten_lines():
    """A whole example: a selector, a data set and a network, trained. `test_python_blocks_run`."""
    section = (ROOT / "README.md").read_text().split("## Your own parts")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 100
    assert ";" not in block
    for part in ("(gradients, budget):", "data.from_", "models.adapt(", "fit("):
        assert part in block


def test_what_is_cited_is_what_is_installed():
    """One version and one paper, wherever they are given."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == acslib.__version__
    assert f"\n## {acslib.__version__} (" in (ROOT / "CHANGELOG.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "acslib.__version__"}
    bibtex = (ROOT / "README.md").read_text()
    for paper in (citation["preferred-citation"], *citation["references"]):
        assert f"{paper['title'].split(': ')[-1]}}}" in bibtex
        assert f"{{{paper['year']}}}" in bibtex


def test_colab_s_cell_is_the_same_wherever_it_stands():
    """And what it installs and imports from is there."""
    found = re.search(r"```text\n(REPOSITORY.*?)```", (ROOT / "docs/teaching.md").read_text(), re.S)
    index = json.loads((ROOT / "notebooks/index.ipynb").read_text())
    said = "".join("".join(cell["source"]) for cell in index["cells"])
    assert found[1] in said
    assert "/content/acs" in found[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = re.search(r'"acs\[(\w+)\]"', found[1])[1]
    assert extra in project["optional-dependencies"]
    for folder in re.findall(r"cd acs/([\w/]+)", (ROOT / "docs/teaching.md").read_text()):
        assert (ROOT / folder).is_dir()


def test_binder_finds_what_its_files_name():
    """repo2docker runs postBuild as a program in the checkout, after environment.yml."""
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    for place in re.findall(r"\btools/[\w./]+", text):
        assert (ROOT / place).is_file(), place
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.search(r"\[(\w+)\]", text)[1] in project["optional-dependencies"]
    wanted = yaml.safe_load((ROOT / "binder/environment.yml").read_text())["dependencies"]
    least = project["requires-python"].removeprefix(">=")
    assert f"python={least}" in wanted
    torch = next(one for one in project["dependencies"] if one.startswith("torch"))
    assert f"pytorch-cpu{torch.removeprefix('torch').split(',')[0]}" in wanted
