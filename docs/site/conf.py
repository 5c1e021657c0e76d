"""Sphinx's settings for the site. `tools/make_site.py` gathers what Sphinx reads, and calls it."""

import importlib
import re

from docutils import nodes
from sphinx.application import Sphinx

import acslib

project = "Adversarial coreset selection"
author = "The acs authors"
version = release = acslib.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["lessons/*.py", "notebooks/**"]  # what is downloaded, and not a page

# Markdown as GitHub reads it
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# notebooks: outputs are kept, a lesson that fails fails the site, and no widget asks for a kernel
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "image/png", 25)]  # a file, before HTML that holds it
nb_ipywidgets_js: dict = {}

# the API
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
add_module_names = False

suppress_warnings = ["ref.python"]  # two classes may have one name: annotations name them alone

html_theme = "furo"
html_title = "Adversarial coreset selection"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/icon.svg"
html_copy_source = False
html_use_index = False  # the search finds names, and a page of them is too wide for a phone
html_domain_indices = False
html_show_sphinx = False
html_show_copyright = False


# ---- outputs without a kernel


def without_widgets(app: Sphinx, document: nodes.document) -> None:
    """Leave out widgets, whose static twins stand above them, and their state."""
    for bundle in list(document.findall(nodes.container)):
        kinds = [
            child.get("mime_type") for child in bundle.children if isinstance(child, nodes.Element)
        ]
        if "application/vnd.jupyter.widget-view+json" in kinds:
            bundle.parent.remove(bundle)
    app.env.nb_metadata[app.env.docname].pop("js_files", None)


def with_alt_texts(app: Sphinx, document: nodes.document) -> None:
    """A picture that a cell has drawn is described by the text that stands for it in a terminal."""
    for bundle in document.findall(nodes.container):
        if bundle.get("nb_element") != "mime_bundle":
            continue
        twins = [child for child in bundle.children if child.get("mime_type") == "text/plain"]
        for image in bundle.findall(nodes.image):
            image["alt"] = " ".join(" ".join(twin.astext() for twin in twins).split())


# ---- tables


def with_papers_numbers(app: Sphinx, document: nodes.document) -> None:
    """Mark the cells that the paper prints: columns called "paper ...", rows "in the paper"."""
    for table in document.findall(nodes.tgroup):
        head, *rows = [list(row.children) for row in table.findall(nodes.row)]
        titled = [cell.astext().startswith("paper ") for cell in head]
        for row in (head, *rows):
            quoted = any(cell.astext().endswith("in the paper") for cell in row)
            for cell, column in zip(row, titled, strict=True):
                cell["classes"] += ["paper"] * (quoted or column)


# ---- docstrings

NAMED = re.compile(r"^([a-z_]\w*(?:, [a-z_]\w*)*): ", re.M)  # "weights: (k,), float64"


def as_plain_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings are plain text: backticks mean code, an indented block is one, and that is all."""
    paragraphs = re.split(r"\n\n+", "\n".join(lines).strip("\n"))
    parts = []
    before = False
    for text in paragraphs:
        block = text.startswith("  ")
        parts += ["::"] * (block and not before) + [text if block else in_rest(text)]
        before = block
    lines[:] = "\n\n".join([*parts, ""]).split("\n")


def in_rest(paragraph: str) -> str:
    """A paragraph in reStructuredText; one that says what names mean becomes a list."""
    if not NAMED.match(paragraph):
        return escaped(paragraph)
    items = [" ".join(item.split()) for item in NAMED.sub(r"\0\1\0", paragraph).split("\0")[1:]]
    named = zip(items[::2], items[1::2], strict=True)
    return "\n".join(f"- ``{names}``: {escaped(meaning)}" for names, meaning in named)


def escaped(text: str) -> str:
    """Text in which reStructuredText finds only the code in backticks and the dashes of lists."""
    parts = re.split(r"`+([^`]+)`+", text)
    parts[::2] = [re.sub(r"([\\*|_`])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [rf"\ ``{part.strip()}``\ " for part in parts[1::2]]
    parts[::2] = [part.replace("file://", r"file\://") for part in parts[::2]]
    return re.sub(r"^(\(?\w{1,3}[.)] )", r"\\\1", "".join(parts), flags=re.M)


def place_of_source(app: Sphinx, module: str, name: str) -> str | None:
    """An alias like `dict[str, Tensor]` says that it is Python's own: its source is where it is."""
    value = getattr(importlib.import_module(module), name, None)
    return module if getattr(value, "__module__", None) == "builtins" else None


def setup(app: Sphinx) -> None:
    app.connect("viewcode-follow-imported", place_of_source)
    app.connect("doctree-read", without_widgets)
    app.connect("doctree-read", with_alt_texts)
    app.connect("doctree-read", with_papers_numbers)
    app.connect("autodoc-process-docstring", as_plain_text)
