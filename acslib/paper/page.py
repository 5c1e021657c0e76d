"""Everything of a profile on one page, ours beside the paper's, in its order: HTML and PDF.

    python -m acslib.paper.page --profile demo --seeds "0 1 2"

writes results/<profile>/paper.html and paper.pdf from what there is, and names what is missing.
`make paper` makes everything first. With --publish, copies what there is to
results/published/<profile>/, which git keeps, with a page that GitHub shows.
"""

import argparse
import base64
import html
import io
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from acslib.paper import columns, config, files, records, rows, style, tables

# the paper's order
ORDER = (
    *("fig1", "fig2", "theorem1", "table1", "table2", "table3", "table4", "fig3", "table5"),
    *("fig4", "table6", "fig5", "tableD4", "time"),
)
KINDS = {"fig": "Figure", "table": "Table", "theorem": "Theorem"}
WIDTH, HEIGHT = 842, 595  # of a PDF page, A4 landscape, in points
MARGIN = 0.05  # a fraction of the width
TITLE = "Adversarial Coreset Selection for Efficient Robust Training"
CSS = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem;
  padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.15rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
nav a { margin-right: 1em; white-space: nowrap; }
.wide { overflow-x: auto; }
img { max-width: 100%; margin-top: .5rem; }
table { border-collapse: collapse; font-size: .78rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { border-bottom: 1px solid #222; }
th, td { padding: .15rem .55rem; text-align: right; }
.word { text-align: left; }
.paper { color: #767676; }
.group td { border-top: 1px solid #ddd; }
.missing { color: #a33; }
.note { font-size: .85rem; margin: .3rem 0; }
"""


@dataclass(frozen=True)
class Entry:
    """A table or figure of the paper: what there is of it, and in `missing` what is not."""

    name: str
    caption: str = ""
    table: pd.DataFrame | None = None
    picture: Path | None = None
    notes: Sequence[str] = field(default=())
    missing: str = ""

    @property
    def heading(self) -> str:
        for kind, word in KINDS.items():
            if self.name.startswith(kind):
                return f"{word} {self.name.removeprefix(kind)}"
        return self.name


def item_names() -> list[str]:
    """Every table and figure: the paper's in its order, then one's own."""
    return [*ORDER, *(name for name in config.tables() if name not in ORDER)]


def entry(name: str, profile: str, seeds: Sequence[int], results: Path, pictures: Path) -> Entry:
    """What there is of a table or figure."""
    picture = pictures / profile / f"{name}.png"
    there = picture if picture.is_file() else None
    command = f"make {name} PROFILE={profile}"
    if not name.startswith("table"):
        return Entry(
            name,
            short(caption(name)),
            None,
            there,
            missing="" if there else f"not made yet: {command}",
        )
    try:
        gathered, missing = table_rows(name, profile, seeds, results)
    except files.RecordError as error:
        return Entry(name, short(caption(name)), missing=str(error))
    said = f"{missing} of its runs are not trained yet: {command}" if missing else ""
    if gathered.empty:
        return Entry(name, short(caption(name)), missing=said)
    shown = tables.shown(gathered)
    notes = tables.notes(name, gathered)
    return Entry(name, short(tables.title(name, gathered)), shown, there, notes, said)


def table_rows(
    name: str, profile: str, seeds: Sequence[int], results: Path
) -> tuple[pd.DataFrame, int]:
    """A table that is made, or the rows whose runs are trained; and how many runs are not."""
    if (results / profile / f"{name}.csv").exists():
        return tables.read_table(name, profile, results), 0
    return (
        rows.gather(name, profile, seeds, results, partial=True),
        len(rows.missing(name, profile, seeds, results)),
    )


def caption(name: str) -> str:
    """The title that `params/` gives a table or figure."""
    return config.read_yaml(name)["title"] if config.files_of(name) else ""


def short(caption: str) -> str:
    """Without the "Table 1: " that the heading says."""
    text = caption.partition(": ")[2]
    return text[:1].upper() + text[1:]


def introduction(profile: str) -> str:
    """What all tables and figures have in common."""
    commit = records.provenance("cpu")["commit"]
    said = [
        f"Tables and figures in the paper's order. Profile {profile}:"
        f" {config.profile(profile).about}.",
        "What the paper prints, grey or named so, is for its own data, networks and hardware:"
        " compare what a coreset changes there with what it changes here, rather than one number"
        " with the other.",
        "Differences to full training stand in brackets.",
        f"Gathered at commit {commit}." if commit else "",
    ]
    return " ".join(filter(None, said))


# ---- HTML


def html_page(items: Sequence[Entry], profile: str) -> str:
    """One file that needs no other, readable on a narrow screen too."""
    contents = " ".join(
        f'<a href="#{html.escape(item.name)}">{html.escape(item.heading)}</a>' for item in items
    )
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{TITLE}</title><style>{CSS}</style></head>",
            f"<body><h1>{TITLE}</h1>",
            f"<p>{html.escape(introduction(profile))}</p>",
            f"<nav>{contents}</nav>",
            *map(section, items),
            "</body></html>\n",
        ]
    )


def section(item: Entry) -> str:
    """A heading, and what there is of the item."""
    heading, caption = html.escape(item.heading), html.escape(item.caption)
    parts = [f'<h2 id="{html.escape(item.name)}">{heading}</h2>']
    if caption:
        parts.append(f"<p>{caption}</p>")
    if item.table is not None:
        parts.append(f'<div class="wide">{html_table(item.table)}</div>')
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in item.notes]
    if item.picture:
        content = base64.b64encode(item.picture.read_bytes()).decode()
        parts.append(f'<img alt="{heading}. {caption}" src="data:image/png;base64,{content}">')
    if item.missing:
        parts.append(f'<p class="missing">{heading}: {html.escape(item.missing)}</p>')
    return "\n".join(parts)


def html_table(table: pd.DataFrame) -> str:
    """A table as people read it, the paper's numbers in grey."""

    def cells(tag: str, values, quoted: bool = False) -> str:
        return "".join(
            f'<{tag} class="{css_class(name, quoted)}">{html.escape(value)}</{tag}>'
            for name, value in zip(table, values, strict=True)
        )

    body = [
        f'<tr class="{"group" * starts}">{cells("td", row, is_papers(row))}</tr>'
        for row, starts in grouped(table)
    ]
    return (
        f"<table><thead><tr>{cells('th', table)}</tr></thead>\n<tbody>"
        + "\n".join(body)
        + "</tbody></table>"
    )


def css_class(column: str, quoted: bool) -> str:
    """Words to the left; grey for what the paper prints, be it a column or a row."""
    return " ".join(
        ["word"] * (column in columns.WHO) + ["paper"] * (quoted or column.startswith("paper"))
    )


def is_papers(row: Sequence[str]) -> bool:
    """Whether a row is the paper's own."""
    return columns.IN_THE_PAPER in row


def grouped(table: pd.DataFrame) -> Iterator[tuple[Sequence[str], bool]]:
    """Each row, and whether it starts another model, objective, data set or period."""
    keys = [name for name in table if name in ("Model", "Objective", "Data", "T printed")]
    before = None
    for row, key in zip(table.values.tolist(), table[keys].values.tolist(), strict=True):
        yield row, before is not None and key != before
        before = key


# ---- PDF


def pdf_pages(items: Sequence[Entry], profile: str) -> bytes:
    """Landscape A4: what this is and what is missing; a page a table, a page a picture."""
    buffer = io.BytesIO()
    with PdfPages(buffer, metadata={"Title": TITLE, "CreationDate": None}) as pdf:
        gone = [f"{item.heading}: {item.missing}" for item in items if item.missing]
        first, _ = text_page(TITLE, [introduction(profile), "", *gone])
        for figure in itertools.chain([first], *map(pages, items)):
            pdf.savefig(figure)
    return buffer.getvalue()


def pages(item: Entry) -> Iterator[Figure]:
    """The table, and the picture below it if there is room, else on a page of its own."""
    figure, below = text_page(item.heading, [item.caption, *item.notes])
    if item.table is not None:
        below = draw_table(figure, item.table, below)
        if item.picture and below < 0.5:
            yield figure
            figure, below = text_page(item.heading, [])
    if item.picture:
        axis = figure.add_axes((0.05, 0.03, 0.9, below - 0.06))
        axis.imshow(plt.imread(item.picture), interpolation="none")
        axis.axis("off")
    if item.table is not None or item.picture:
        yield figure


def text_page(heading: str, paragraphs: Sequence[str]) -> tuple[Figure, float]:
    """A page with a heading and text, and where the text ends, as a share of the height."""
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
    figure.set_layout_engine("none")
    plain: dict[str, Any] = {"parse_math": False}
    figure.text(MARGIN, 0.93, heading, fontsize=15, weight="bold", **plain)
    body = [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, 165) or [""]]
    look: dict[str, Any] = {"fontsize": 8.5, "va": "top", "linespacing": 1.4}
    figure.text(MARGIN, 0.905, "\n".join(body), **look, **plain)
    return figure, 0.905 - len(body) * 8.5 * 1.5 / HEIGHT


def draw_table(figure: Figure, table: pd.DataFrame, top: float) -> float:
    """Monospaced columns below `top`, as large as fits, the paper's numbers in grey.

    Gives the height at which the table ends.
    """
    widths = [max(map(len, [name, *table[name]])) + 2 for name in table]
    room = (1 - 2 * MARGIN) * WIDTH / 0.602 / sum(widths)  # a letter is 0.602 of its size wide
    size = min(9, room, (top - 0.08) * HEIGHT / 1.45 / (len(table) + 1))
    step, letter = 1.45 * size / HEIGHT, 0.602 * size / WIDTH
    ends = [MARGIN + letter * sum(widths[: i + 1]) for i in range(len(widths))]
    body = [(list(table), False), *grouped(table)]
    for place, (row, starts) in enumerate(body):
        height = top - (place + 1) * step
        if place == 1 or starts:
            colour = "#222222" if place == 1 else "#cccccc"
            figure.add_artist(
                Line2D((MARGIN, ends[-1]), (height + step * 0.8,) * 2, color=colour, linewidth=0.6)
            )
        for name, value, width, end in zip(table, row, widths, ends, strict=True):
            word = name in columns.WHO
            grey = name.startswith("paper") or is_papers(row)
            figure.text(
                end - width * letter if word else end - 2 * letter,
                height,
                value,
                fontsize=size,
                family="monospace",
                ha="left" if word else "right",
                color="#767676" if grey else "black",
                parse_math=False,
            )
    return height


# ---- Markdown


def publish(
    profile: str, seeds: Sequence[int], results: Path | None = None, pictures: Path | None = None
) -> Path:
    """Copy tables and figures, with a README.md, to results/published/<profile>/; its path."""
    results, pictures = results or files.RESULTS, pictures or style.FOLDER
    items, folder = (
        [entry(name, profile, seeds, results, pictures) for name in item_names()],
        results / "published" / profile,
    )
    for made in items:
        for home, kind in ((results, "csv"), (pictures, "png")):
            file = home / profile / f"{made.name}.{kind}"
            if file.exists():
                files.write_atomically(folder / file.name, file.read_bytes())
    beside = results / profile  # what belongs to an item, and is no table or picture
    for file in [*beside.glob("study/seed*.jsonl.xz"), *beside.glob("life-choices.csv")]:
        files.write_atomically(folder / file.relative_to(beside), file.read_bytes())
    made_by = (
        f"`make paper PROFILE={profile}` makes these (SEEDS as many as each says),"
        " `make publish` this page."
    )
    parts = [f"# Profile `{profile}`", markdown_text(introduction(profile)), made_by]
    for made in items:
        parts += [f"## {markdown_text(made.heading)}", markdown_text(made.caption)]
        parts += [markdown_table(made.table)] if made.table is not None else []
        parts += map(markdown_text, made.notes)
        parts += [f"![{markdown_text(made.heading)}]({made.name}.png)"] if made.picture else []
        parts += [f"*{markdown_text(made.missing)}*"] if made.missing else []
    files.write_atomically(folder / "README.md", "\n\n".join(filter(None, [*parts, ""])).encode())
    return folder


def markdown_text(text: str) -> str:
    """Text in which nothing is a command of Markdown, a tag or mathematics, on one line."""
    return re.sub(r"([\\`*_\[\]<>&|$~#])", r"\\\1", " ".join(text.split()))


def markdown_table(table: pd.DataFrame) -> str:
    """A table whose cells show as they are; words to the left."""
    rules = [":--" if name in columns.WHO else "--:" for name in table]
    rows = [[markdown_text(cell) for cell in row] for row in (list(table), *table.values.tolist())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (rows[0], rules, *rows[1:]))


def write_page(
    profile: str, seeds: Sequence[int], results: Path | None = None, pictures: Path | None = None
):
    """Write results/<profile>/paper.html and paper.pdf; gives both paths."""
    results, pictures = results or files.RESULTS, pictures or style.FOLDER
    items = [entry(name, profile, seeds, results, pictures) for name in item_names()]
    made = {"html": html_page(items, profile).encode(), "pdf": pdf_pages(items, profile)}
    for kind, content in made.items():
        files.write_atomically(results / profile / f"paper.{kind}", content)
    return tuple(results / profile / f"paper.{kind}" for kind in made)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="acslib.paper.page", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", default="0", help='like "0 1 2"')
    parser.add_argument("--publish", action="store_true", help="copy to results/published instead")
    arguments = parser.parse_args(argv)
    try:
        seeds = config.seeds(arguments.seeds)
        made = (
            (publish(arguments.profile, seeds),)
            if arguments.publish
            else write_page(arguments.profile, seeds)
        )
        print("\n".join(map(str, made)))
    except (config.ParamsError, files.RecordError) as error:
        print(f"acs: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
