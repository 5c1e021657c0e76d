"""The site: what it is gathered from, and how it looks to a person with a browser.

The second half needs the site's own environment and Debian's chromium:

    make .venv-site/.complete && .venv-site/bin/python -m pytest tests/test_site.py
"""

import functools
import http.server
import importlib
import importlib.util
import os
import re
import sys
import threading
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import yaml

import acslib

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
make_site = importlib.import_module("make_site")
WORKFLOWS = ROOT / ".github" / "workflows"
WIDTHS = {"desktop": 1280, "phone": 390}


# ---- what Sphinx reads


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    make_site.gather(folder)
    return folder


def test_links_between_documents_lead_to_pages(source):
    """To a page, or to a file that comes along; and nothing is left out of the menu."""
    for page in source.rglob("*.md"):
        for link in make_site.LINK.finditer(page.read_text()):
            target = page.parent / link[2].removeprefix("path:")
            assert target.resolve().is_file(), f"{link[0]} in {page}"


def test_every_public_name_has_a_place_in_the_api(source):
    said = "\n".join(path.read_text() for path in (source / "api").iterdir())
    packages = [acslib.attacks, acslib.data, acslib.selectors]
    for package in packages:
        for name in package.__all__:
            full, data = f"{package.__name__}.{name}", f"{name}\n   :module: {package.__name__}"
            assert re.search(f":: ({full}|{data})$", said, re.M), name
    for name in set(acslib.__all__) - {"__version__"}:
        assert re.search(rf"(:: acslib\.\w+|automodule:: acslib)\.{name}$", said, re.M), name


def test_no_name_is_described_twice(source):
    said = "\n".join(path.read_text() for path in (source / "api").iterdir())
    names = re.findall(r"^\.\. auto\w+:: (\S+)(?!\n   :no-index:)$", said, re.M)
    names += [".".join(pair) for pair in re.findall(r"data:: (\w+)\n   :module: (\S+)", said)]
    assert sorted(set(names)) == sorted(names)


def test_the_course_is_the_students(source):
    """Stubs, no answers beside the folded ones; the archive holds what a student needs, and its
    notebooks lead to nothing outside it.
    """
    names = [path.name for path in (source / "lessons").glob("*.ipynb")]
    assert len(names) == len(make_site.lessons.sources())
    with zipfile.ZipFile(source / "lessons" / "lessons.zip") as archive:
        held = {
            Path(name).name: archive.read(name).decode("latin-1") for name in archive.namelist()
        }
    assert set(held) == {*names, *make_site.lessons.HELPERS, *make_site.lessons.pictures()}
    for name in names:
        targets = re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", held[name])
        assert set(targets) <= set(held), name
    assert ">>> answer" not in "".join((source / "lessons" / name).read_text() for name in names)


def test_a_document_that_is_not_there_breaks_nothing(monkeypatch, tmp_path):
    """Its entry in the menu goes; a document that nobody foresaw gets one."""
    some = tuple(name for name in make_site.DOCUMENTS if name != "docs/*.md")
    monkeypatch.setattr(make_site, "DOCUMENTS", (*some, "docs/reference.md"))
    monkeypatch.setitem(make_site.CHAPTERS, "How it works", ("docs/nowhere",))
    make_site.gather(tmp_path / "source")
    menu = (tmp_path / "source" / "index.md").read_text()
    assert "docs/nowhere" not in menu
    assert "\ndocs/reference\n" in menu


def test_the_page_that_make_paper_has_made_is_among_the_results(monkeypatch, tmp_path):
    """With its pictures, also where brackets describe them, and its PDF."""
    monkeypatch.setattr(make_site, "ROOT", tmp_path / "clone")
    monkeypatch.setattr(make_site, "PUBLISHED", tmp_path / "clone" / "results" / "published")
    for chapter in ("write_course", "write_api"):
        monkeypatch.setattr(make_site, chapter, lambda folder: None)
    held = {
        "README.md": b"# Here\n",
        "figures/demo/fig3.png": b"a picture",
        "results/demo/paper.md": b"[PDF](paper.pdf)\n\n![\\[%\\]](../../figures/demo/fig3.png)\n",
        "results/demo/paper.pdf": b"a PDF",
    }
    for name, content in held.items():
        make_site.write(tmp_path / "clone" / name, content)
    make_site.gather(tmp_path / "source")
    menu = (tmp_path / "source" / "index.md").read_text()
    assert ":caption: Results\n\nresults/demo/paper\n" in menu
    for name in list(held)[1:]:
        made = (tmp_path / "source" / name).read_bytes()
        assert made == held[name], name


CHAPTERS = [name for names in make_site.CHAPTERS.values() for name in names]


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_entry_of_the_menu_is_a_page(source, name):
    """`contents` leaves out what is not there: none of ours may be missing."""
    assert [path for path in source.glob(f"{name}.*") if path.suffix in (".md", ".rst")]
    assert f"\n{name}\n" in (source / "index.md").read_text()


@pytest.mark.parametrize("folder", make_site.profile_folders(), ids=lambda folder: folder.name)
def test_published_results_lead_to_their_pdf(source, folder):
    place = source / "results" / "published" / folder.name
    link = re.search(r"{download}`[^<`]+<([^>`]+)>`", (place / "README.md").read_text())
    assert (place / link[1]).read_bytes().startswith(b"%PDF-")


def test_the_workflows_call_what_there_is():
    """Targets of make and programs of this repository; the site's is the folder that is built."""
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    workflows = {path.name: yaml.safe_load(path.read_text()) for path in WORKFLOWS.glob("*.yml")}
    steps = {
        name: [step for job in workflow["jobs"].values() for step in job["steps"]]
        for name, workflow in workflows.items()
    }
    said = "\n".join(step.get("run", "") for some in steps.values() for step in some)
    called = re.findall(r"\bmake ([a-z][a-z-]*)", said)
    assert "site" in called
    assert set(called) <= set(targets)
    assert all((ROOT / name).is_file() for name in re.findall(r"(?<!\S)\.?\w+/[\w./-]+", said))
    uploads = [
        step for step in steps["site.yml"] if "upload-pages-artifact" in step.get("uses", "")
    ]
    assert [step["with"]["path"] for step in uploads] == ["build/site"]
    assert make_site.BUILD / "site" == ROOT / "build" / "site"


# ---- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site with its lessons executed at a small size, or the one that ACS_SITE names.

    Warnings are errors.
    """
    if built := os.environ.get("ACS_SITE"):
        return Path(built).resolve()
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("Sphinx is not in this environment: run this file with .venv-site/bin/python")
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_site, "BUILD", folder)
        patch.setenv("ACS_LESSONS", "small")
        make_site.gather(folder / "site-source")
        assert make_site.build(folder / "site-source", folder / "site") == 0
    return folder / "site"


class Page(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.places = set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.links.add(value)
            if name == "id" or (name == "name" and tag == "a"):
                self.places.add(value)


def test_every_link_and_picture_leads_somewhere(site):
    """In all pages, those of the sources too; nothing comes from a machine of others."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 60
    for path, page in pages.items():
        for link in page.links:
            target, place = urldefrag(link)
            if re.match(r"(https?:|data:|mailto:)", target):
                continue
            file = unquote(target.partition("?")[0])
            where = (path.parent / file).resolve() if file else path
            assert where.is_file(), f"{link} in {path}"
            # Sphinx's way back from a source leads to the page alone where a package shows the name
            if place and where.suffix == ".html" and "_modules" not in path.parts:
                assert unquote(place) in pages[where].places, f"{link} in {path}"


def test_the_menu_leads_to_every_chapter(site):
    links = Page(site / "index.html").links
    assert {f"{name}.html" for name in CHAPTERS} <= links


@pytest.mark.parametrize("folder", make_site.profile_folders(), ids=lambda folder: folder.name)
def test_a_profile_s_pdf_can_be_downloaded(site, folder):
    page = site / "results" / "published" / folder.name / "README.html"
    (link,) = [link for link in Page(page).links if link.endswith("paper.pdf")]
    assert (page.parent / link).resolve().read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize("lesson", make_site.lessons.sources(), ids=lambda path: path.stem)
def test_every_lesson_has_pictures_in_the_place_of_its_sliders(site, lesson):
    """Its static twins, each with its words, and no word of the widget below them."""
    text = (site / "lessons" / f"{lesson.stem}.html").read_text()
    shown = text.split('class="cell_output', 1)[1]
    assert len(re.findall(r"<img [^>]*alt=\"A picture|<img [^>]*src=\"\.\./_images", shown)) >= 1
    outputs = re.sub(r"<div class=\"cell_input.*?</div>\s*</div>\s*</div>", "", text, flags=re.S)
    assert "interactive(" not in outputs
    assert not re.search(r"widget-(state|view)", text)


def test_nothing_is_fetched_from_others(site):
    """Scripts, styles, pictures and fonts are files of the site."""
    for path in site.rglob("*.html"):
        found = re.findall(
            r"<(?:script|img|iframe|link)[^>]*(?:src|href)=\"https?:[^>]*>", path.read_text()
        )
        assert not [tag for tag in found if 'rel="canonical"' not in tag], path


# ---- in a browser

CHECKS = (Path(__file__).parent / "site_checks.js").read_text()


@pytest.fixture(scope="module")
def address(site):
    """The site as a server gives it, on this machine."""
    handler = functools.partial(QuietHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def pages_of(site) -> list[str]:
    """All pages but those of the sources, and one of these."""
    names = sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))
    sources = [name for name in names if name.startswith("_modules/")]
    return [name for name in names if name not in sources or name == sources[-1]]


def noted(page) -> list[str]:
    """A list to which everything comes that a page complains of or fetches from elsewhere."""
    heard: list[str] = []

    def message(line):
        if line.type in ("error", "warning"):
            heard.append(f"console: {line.text}")

    def request(asked):
        if not re.match(r"(http://127\.0\.0\.1:|file:|data:|blob:)", asked.url):
            heard.append(f"fetched from elsewhere: {asked.url}")

    def failed(asked):
        if asked.failure != "net::ERR_ABORTED":  # as when a link is followed before all is there
            heard.append(f"not loaded: {asked.url}, {asked.failure}")

    page.on("console", message)
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("request", request)
    page.on("requestfailed", failed)
    return heard


def settled(page, url: str) -> None:
    """Open a page, and wait until pictures and formulas are there."""
    page.goto(url, wait_until="load")
    page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    page.evaluate("window.MathJax?.startup?.promise")
    page.evaluate("Promise.all([...document.images].map(image => image.decode().catch(() => 0)))")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_looks_right(browser, address, site, width, theme):
    """No error, no request to others, nothing cut off, pictures, formulas, contrast."""
    phone = width == "phone"
    window = {"width": WIDTHS[width], "height": 800}
    context = browser.new_context(
        viewport=window, is_mobile=phone, has_touch=phone, color_scheme=theme
    )
    faults = {}
    with context:
        for name in pages_of(site):
            with context.new_page() as page:
                heard = noted(page)
                settled(page, f"{address}/{name}")
                if found := heard + page.evaluate(CHECKS):
                    faults[name] = found
    assert not faults, "\n".join(f"{name}: {fault}" for name in faults for fault in faults[name])


@pytest.mark.parametrize(
    ("system", "switch", "shade"),
    [
        *(("light", "auto", "0, 0, 0"), ("light", "dark", "255, 255, 255")),
        *(("dark", "auto", "255, 255, 255"), ("dark", "light", "0, 0, 0")),
    ],
)
def test_the_shadow_over_what_is_hidden_is_seen_in_either_theme(
    browser, address, system, switch, shade
):
    """Dark on light and light on dark, whether the system or the page's own switch decides."""
    with browser.new_page(color_scheme=system) as page:
        page.goto(f"{address}/index.html")
        page.evaluate("theme => { document.body.dataset.theme = theme }", switch)
        table = "getComputedStyle(document.querySelector('.table-wrapper')).backgroundImage"
        assert f"rgba({shade}, " in page.evaluate(table)


def test_the_checks_find_what_they_are_for(browser):
    """A page on which everything is wrong."""
    with browser.new_page(viewport={"width": 390, "height": 800}) as page:
        page.set_content(
            '<p style="color: #bbb">pale</p><p class="math">x^2</p><img src="nowhere.png">'
            '<div style="overflow: hidden; width: 90px; white-space: nowrap">this is cut off</div>'
            '<div style="overflow: auto; scrollbar-width: none; width: 90px; white-space: nowrap">'
            "nothing says that there is more</div>"
            '<div style="width: 500px">wide</div>'
        )
        said = "\n".join(page.evaluate(CHECKS))
    for fault in (
        *("contrast 1.", "not rendered", "no picture at", "is not described", "are cut off"),
        *("more can be scrolled to", "the page is 5"),
    ):
        assert fault in said, said


def test_search_finds_a_lesson_and_a_function(browser, address):
    for word, place in (("facility location", "lessons/04_craig"), ("gradmatch", "api/")):
        with browser.new_page() as page:
            page.goto(f"{address}/search.html?q={word}")
            page.wait_for_selector(f'#search-results a[href*="{place}"]', timeout=20_000)


def test_the_site_reads_from_the_disk(browser, site):
    """Without a server: the pages, their formulas, and the way from one to another."""
    with browser.new_page() as page:
        heard = noted(page)
        settled(page, (site / "index.html").as_uri())
        page.click('.sidebar-tree a[href*="lessons/index"]')
        page.click('article a[href*="04_craig"]')
        settled(page, page.url)
        assert page.locator("mjx-container").count() > 5
        assert not heard


def test_lessons_have_pictures_in_the_place_of_sliders(browser, address):
    """The twins of Lesson 4's slider, four of them in a picture, and no trace of a widget."""
    with browser.new_page() as page:
        settled(page, f"{address}/lessons/04_craig.html")
        assert page.locator(".cell_output img").count() >= 3
        text = page.inner_text("body")
        assert "interactive(" not in text
        assert not re.search(r"widget-(state|view)", page.content())


def test_the_paper_s_numbers_are_set_back(browser, address):
    """In tables, by their colour, which is not the only thing that tells them from ours."""
    with browser.new_page() as page:
        settled(page, f"{address}/results/published/mini/README.html")
        cell = page.locator("td.paper").first
        ours = page.locator("td:not(.paper)").first
        colour = "element => getComputedStyle(element).color"
        assert cell.evaluate(colour) != ours.evaluate(colour)
