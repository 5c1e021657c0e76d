"""Everything of a profile on one page, ours beside the paper's, in its order: Markdown and PDF.

`acs page` writes results/<profile>/paper.md and paper.pdf from what there is, and names what is
missing. `make paper` makes everything first; `make site` shows the page with all others. With
--publish, it copies what there is to results/published/<profile>/, which git keeps, with a page
that GitHub shows.
"""

import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from fpdf import FPDF, FontFace
from fpdf.enums import CellBordersLayout

from acslib.paper import columns, files, paramfiles, records, rows, tables
from acslib.paper.items import wanted_seeds

# the paper's order
ORDER = (
    *("fig1", "fig2", "theorem1", "table1", "table2", "table3", "table4", "fig3", "table5"),
    *("fig4", "table6", "fig5", "tableD4", "time"),
)
HEADINGS = {"fig": "Figure", "table": "Table", "theorem": "Theorem"}
BESIDE = {"time": "Time", "life": "The life of a coreset", "study": "The study"}  # not the paper's
TITLE = "Adversarial Coreset Selection for Efficient Robust Training"
TRADEOFF = "Robust accuracy, upwards, against speed-up, to the right"
# what the pictures show, for readers who do not see them
IN_WORDS = {
    "fig1": "(a) A box an epoch: all the data, then skipped epochs, then the coreset. Below it,"
    " each epoch's seconds. (b), (c) Images, their gradients as a coloured grid, and the chosen"
    " images framed as thickly as they weigh; in (c) the images are attacked first.",
    "fig2": "Left: gradients as points in their plane of largest variance, chosen ones as large as"
    " they weigh. Right: where the weighted sums of GradMatch, CRAIG and random subsets end, and a"
    " star where the sum of all gradients does.",
    "fig3": "Robust accuracy falls as the attack's norm grows: a curve for each training.",
    "fig4": "Relative robust error against speed-up: left a line for each method over coreset"
    " sizes, right a mark for each warm start, and a star for full training.",
    "fig5": "Four panels, CRAIG above GradMatch, clean error left and robust error right: lines of"
    " relative error against speed-up for plain, batch-wise, batch-wise with warm start, and"
    " adaptive random.",
    "theorem1": "What is left to the optimum falls with the iterations, a line for each method"
    " and its bound dashed; beside it which readings of the theorem hold, and the left side"
    " against the gradient error.",
    "table1": f"{TRADEOFF}: a panel for each network, objective and data set, a mark for each"
    " method, the paper's in grey.",
    "table2": "Mean accuracy under unseen attacks, upwards, against speed-up, to the right: a panel"
    " for each data set, a mark for each method, the paper's in grey.",
    "table3": f"{TRADEOFF}, with half the epochs: a mark for each method, the paper's in grey.",
    "table4": "Robust accuracy in training by epoch, a line for each method, and right of them a"
    " mark for each under PGD-50-10 on test images.",
    "table5": "Robust against clean accuracy, here and in the paper: an arrow for each method, from"
    " the coreset alone to half coreset and half clean images.",
    "table6": "Against T, the epochs between selections: left robust accuracy, right speed-up, a"
    " line for each method, the paper's in grey.",
    "life": "Relative gradient error against epochs since the selection, in three panels: as"
    " trained, without augmentation, at a tenth of the rate. A colour and marker for each method;"
    " solid for the images chosen from, dashed for other crops, dotted for all weights.",
    "study": "Differences to adaptive random with 95 % intervals: a row for each arm and size.",
    "time": "Speed-ups at the paper's sizes by arithmetic, beside the printed ones.",
    "tableD4": "Accuracy under each attack, from clean images to LPA: a panel for each data set, a"
    " mark for each method, the paper's in grey.",
}
FONT = "DejaVu"  # matplotlib brings it
MARGIN, PADDING = 14, 1.5  # of the PDF's pages and cells, in mm
GREY = 118  # of 255: what the paper prints
RULE, PLAIN = CellBordersLayout.TOP, CellBordersLayout.INHERIT  # above a row of another group


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
        for kind, word in HEADINGS.items():
            if self.name.startswith(kind):
                return f"{word} {self.name.removeprefix(kind)}"
        return BESIDE.get(self.name, self.name)

    @property
    def seen(self) -> str:
        """What the picture shows, in words."""
        return f"{self.heading}. {IN_WORDS.get(self.name, self.caption)}"


def items_in_order() -> list[str]:
    """Every table and figure: the paper's in its order, then one's own."""
    return [*ORDER, *(name for name in paramfiles.item_names() if name not in ORDER)]


def entry(
    name: str, profile: str, seeds: Sequence[int] | None, results: Path, pictures: Path
) -> Entry:
    """What there is of a table or figure."""
    picture = pictures / profile / f"{name}.png"
    there = picture if picture.is_file() else None
    command = f"make {name} PROFILE={profile}"
    if not name.startswith("table"):
        return Entry(
            name,
            without_number(caption(name)),
            None,
            there,
            missing="" if there else f"not made yet: {command}",
        )
    try:
        gathered, missing = table_rows(name, profile, seeds, results)
    except files.RecordError as error:
        return Entry(name, without_number(caption(name)), missing=str(error))
    said = f"{missing} of its runs are not trained yet: {command}" if missing else ""
    if gathered.empty:
        return Entry(name, without_number(caption(name)), missing=said)
    shown = tables.beside_paper(gathered)
    notes = tables.notes(name, gathered)
    return Entry(name, without_number(tables.title(name, gathered)), shown, there, notes, said)


def table_rows(
    name: str, profile: str, asked: Sequence[int] | None, results: Path
) -> tuple[pd.DataFrame, int]:
    """A table that is made, or the rows whose runs are trained; and how many runs are not."""
    if (results / profile / f"{name}.csv").exists():
        return tables.read_table(name, profile, results), 0
    seeds = wanted_seeds(name, profile, asked)
    return (
        rows.gather(name, profile, seeds, results, partial=True),
        len(rows.missing(name, profile, seeds, results)),
    )


def caption(name: str) -> str:
    """The title that `params/` gives a table or figure."""
    return paramfiles.read_yaml(name)["title"] if paramfiles.files_of(name) else ""


def without_number(caption: str) -> str:
    """Without the "Table 1: " that the heading says."""
    text = caption.partition(": ")[2]
    return text[:1].upper() + text[1:]


def introduction(profile: str) -> str:
    """What all tables and figures have in common."""
    commit = records.provenance("cpu")["commit"]
    said = [
        f"Tables and figures in the paper's order. Profile {profile}:"
        f" {paramfiles.profile(profile).about}.",
        "What the paper prints, grey or named so, is for its own data, networks and hardware:"
        " compare what a coreset changes there with what it changes here, rather than one number"
        " with the other.",
        "Differences to full training stand in brackets.",
        f"Written at commit {commit}." if commit else "",
    ]
    return " ".join(filter(None, said))


# ---- PDF


def pdf_pages(items: Sequence[Entry], said: str) -> bytes:
    """Landscape A4: `said` and what is missing, then a page or more for each item."""
    pdf = FPDF("landscape", "mm", "A4")
    pdf.set_title(TITLE)
    pdf.set_lang("en")
    pdf.set_margin(MARGIN)
    pdf.set_auto_page_break(True, MARGIN)
    fonts = fonts_folder()
    pdf.add_font(FONT, "", fonts / "DejaVuSans.ttf")
    pdf.add_font(FONT, "B", fonts / "DejaVuSans-Bold.ttf")
    gone = [f"{item.heading}: {item.missing}" for item in items if item.missing]
    begin_page(pdf, TITLE, [said, *gone])
    for item in items:
        if item.table is not None or item.picture:
            begin_page(pdf, item.heading, [item.caption, *item.notes])
        if item.table is not None:
            draw_table(pdf, item.table)
        if item.picture:
            draw_picture(pdf, item)
    return bytes(pdf.output())


def fonts_folder() -> Path:
    """Where matplotlib keeps its fonts. It is not imported, as that takes longer than the page."""
    found = importlib.util.find_spec("matplotlib")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"


def begin_page(pdf: FPDF, title: str, paragraphs: Sequence[str]) -> None:
    """A page with a heading, which the outline lists, and text."""
    pdf.add_page()
    pdf.set_font(FONT, "B", 14)
    pdf.start_section(title)
    pdf.multi_cell(0, 7, title, new_x="LMARGIN", new_y="NEXT")
    pdf.set_font(FONT, "", 8)
    for paragraph in paragraphs:
        pdf.ln(1.5)
        pdf.multi_cell(0, 4, paragraph, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(3)


@dataclass(frozen=True)
class PageCell:
    """A table's cell: `word` stands to the left, `paper` is what the paper prints."""

    text: str
    word: bool
    paper: bool


def heads(table: pd.DataFrame) -> list[PageCell]:
    """The first line."""
    return [cell(name, name, False) for name in table]


def body(table: pd.DataFrame) -> Iterator[tuple[list[PageCell], bool]]:
    """Each row, and whether it starts another model, objective, data set or period."""
    keys = [name for name in table if name in ("Model", "Objective", "Data", "T printed")]
    before = None
    for row, key in zip(table.values.tolist(), table[keys].values.tolist(), strict=True):
        quoted = columns.IN_THE_PAPER in row
        cells = [cell(name, text, quoted) for name, text in zip(table, row, strict=True)]
        yield cells, before is not None and key != before
        before = key


def cell(column: str, text: str, quoted: bool) -> PageCell:
    """`quoted`: the whole row is the paper's."""
    return PageCell(text, column in columns.WHO, quoted or column.startswith("paper"))


def draw_table(pdf: FPDF, table: pd.DataFrame) -> None:
    """As large as the width lets it be; the first line comes again on every page."""
    rows = [(heads(table), False), *body(table)]
    widths = [
        max(pdf.get_string_width(cells[i].text) for cells, _ in rows) + 2 * PADDING + 1
        for i in range(len(table.columns))
    ]
    scale = min(1, pdf.epw / sum(widths))
    pdf.set_font_size(8 * scale)
    with pdf.table(
        width=scale * sum(widths),
        col_widths=widths,
        align="LEFT",
        borders_layout="SINGLE_TOP_LINE",
        headings_style=FontFace(emphasis=None),
        line_height=1.7 * pdf.font_size,
        padding=(0, scale * PADDING),
        text_align=["LEFT" if head.word else "RIGHT" for head in rows[0][0]],
    ) as drawn:
        for cells, starts in rows:
            line = drawn.row()
            for one in cells:
                style = FontFace(color=GREY if one.paper else 0)
                line.cell(one.text, style=style, border=RULE if starts else PLAIN)
    pdf.ln(3)


def draw_picture(pdf: FPDF, item: Entry) -> None:
    """Below the table if half a page is left, else on a page of its own."""
    assert item.picture
    if pdf.eph + pdf.t_margin - pdf.y < pdf.eph / 2:
        begin_page(pdf, f"{item.heading}, as a picture", [])
    room = pdf.eph + pdf.t_margin - pdf.y
    pdf.image(item.picture, w=pdf.epw, h=room, keep_aspect_ratio=True, alt_text=item.seen)


# ---- Markdown


def markdown_page(
    title: str, opening: Sequence[str], items: Sequence[Entry], folder: Path
) -> bytes:
    """A page that lies in `folder`, where links to pictures begin; it opens with paragraphs."""
    parts = [f"# {title}", *opening]
    for item in items:
        parts += [f"## {markdown_text(item.heading)}", markdown_text(item.caption)]
        parts += [markdown_table(item.table)] if item.table is not None else []
        parts += map(markdown_text, item.notes)
        if item.picture:
            leads = Path(os.path.relpath(item.picture, folder)).as_posix()
            parts.append(f"![{markdown_text(item.seen)}]({quote(leads)})")
        parts += [f"*{markdown_text(item.missing)}*"] if item.missing else []
    return ("\n\n".join(filter(None, parts)) + "\n").encode()


def markdown_text(text: str) -> str:
    """Text in which nothing is a command of Markdown, a tag or mathematics, on one line."""
    return re.sub(r"([\\`*_\[\]<>&|$~#])", r"\\\1", " ".join(text.split()))


def markdown_table(table: pd.DataFrame) -> str:
    """A table whose cells show as they are; words to the left."""
    rules = [":--" if name in columns.WHO else "--:" for name in table]
    rows = [[markdown_text(cell) for cell in row] for row in (list(table), *table.values.tolist())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (rows[0], rules, *rows[1:]))


# ---- files


def write_page(
    profile: str,
    seeds: Sequence[int] | None,
    results: Path | None = None,
    pictures: Path | None = None,
) -> tuple[Path, ...]:
    """Write results/<profile>/paper.md and paper.pdf; gives both paths."""
    results, pictures = results or files.RESULTS, pictures or files.figures_folder(files.RESULTS)
    items = [entry(name, profile, seeds, results, pictures) for name in items_in_order()]
    said, folder = introduction(profile), results / profile
    opening = ["[All of it as a PDF](paper.pdf)", markdown_text(said)]
    title = f"Profile `{profile}`, as made here"
    made = {"md": markdown_page(title, opening, items, folder), "pdf": pdf_pages(items, said)}
    for kind, content in made.items():
        files.write_file(folder / f"paper.{kind}", content)
    return tuple(folder / f"paper.{kind}" for kind in made)


def publish(
    profile: str,
    seeds: Sequence[int] | None,
    results: Path | None = None,
    pictures: Path | None = None,
) -> Path:
    """Copy tables and figures to results/published/<profile>/, and write a README.md of all that
    is published there, now or earlier; gives its path.
    """
    results, pictures = results or files.RESULTS, pictures or files.figures_folder(files.RESULTS)
    folder = results / "published" / profile
    for name in items_in_order():
        for home, kind in ((results, "csv"), (pictures, "png")):
            file = home / profile / f"{name}.{kind}"
            if file.exists():
                files.write_file(folder / file.name, file.read_bytes())
    beside = results / profile  # what belongs to an item, and is no table or picture
    for file in [*beside.glob("study/seed*.jsonl.xz"), *beside.glob("life-choices.csv")]:
        files.write_file(folder / file.relative_to(beside), file.read_bytes())
    made_by = (
        f"`make paper PROFILE={profile}` makes these (SEEDS as many as each says),"
        " `make publish` this page. A table's CSV says at which commit its runs were trained."
    )
    items = []
    for name in items_in_order():
        home, drawn = results, pictures
        if any((folder / f"{name}.{kind}").exists() for kind in ("csv", "png")):
            home = drawn = folder.parent
        items.append(entry(name, profile, seeds, home, drawn))
    opening = [markdown_text(introduction(profile)), made_by]
    title = f"Profile `{profile}`"
    files.write_file(folder / "README.md", markdown_page(title, opening, items, folder))
    return folder
