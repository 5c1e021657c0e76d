"""JupyterLab as `make lab` opens it, in a browser: documents beside notebooks, and notebooks from a
fresh kernel to the end, sliders and buttons included.

It needs the site's environment and Debian's chromium:

    make .venv-site/.complete && .venv-site/bin/python -m pytest tests/test_lab.py
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import alts
import papermill
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
TOKEN = "of-the-test"
SITE_CHECKS = (ROOT / "tests" / "site_checks.js").read_text()
SECONDS = 240  # that a notebook may take


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout whose notebooks are copies: what Lab saves into them is nobody's change."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Makefile", "README.md", "acslib", "docs", "params", "tools"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    for path in folder.glob("notebooks/*.ipynb"):
        papermill.execute_notebook(path, path, {"profile": "smoke"}, prepare_only=True)
    return folder


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """The folder of JupyterLab's own settings."""
    return tmp_path_factory.mktemp("jupyter")


@pytest.fixture(scope="module")
def lab(browser, checkout, jupyter):
    """The address of a JupyterLab that `make lab` has started."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = jupyter
    server = {"open_browser": False, "allow_root": True, "port": port, "ip": "127.0.0.1"}
    settings = {"ServerApp": server, "IdentityProvider": {"token": TOKEN}}
    (own / "jupyter_server_config.json").write_text(json.dumps(settings))
    # cells that are scrolled away stay in the page
    set_up(own, "notebook-extension/tracker", windowingMode="none")
    given = {
        "PYTHONPATH": str(ROOT),
        "JUPYTER_CONFIG_DIR": str(own),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "ACS_RESULTS": "results",
        "ACS_CACHE": "cache",
        "ACS_OFFLINE": "1",
        "ACS_LESSONS": "small",
        "OMP_NUM_THREADS": "1",
    }
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    with open(own / "log", "w") as log:
        process = subprocess.Popen(
            ["make", "lab", f"PY={sys.executable}", "-o", ".venv/.complete"],
            cwd=checkout,
            env=kept | given,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/api", own / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def set_up(own: Path, part: str, **settings) -> Path:
    """Settings of one of JupyterLab's parts, as a user has them; gives the file."""
    file = own / "lab/user-settings/@jupyterlab" / f"{part}.jupyterlab-settings"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings))
    return file


def wait_for(address: str, log: Path) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except urllib.error.URLError:
            time.sleep(1)
    pytest.fail(f"JupyterLab does not answer: {log.read_text()[-2000:]}")


# what a command says in a new terminal
IN_A_TERMINAL = """async ([token, command]) => {
  const made = await fetch(`/api/terminals?token=${token}`, {method: "POST"});
  const {name} = await made.json();
  const socket = new WebSocket(`ws://${location.host}/terminals/websocket/${name}?token=${token}`);
  return await new Promise(done => {
    let said = "";
    socket.onmessage = event => {
      const [kind, text] = JSON.parse(event.data);
      said += kind === "stdout" ? text : "";
      if (said.includes("the end of it")) done(said);
    };
    const line = command + "; echo the end 'of it'\\r";
    socket.onopen = () => socket.send(JSON.stringify(["stdin", line]));
    setTimeout(() => done(said), 20000);
  });
}"""


def test_a_terminal_finds_the_command(browser, lab):
    """Also where the server's output goes to a file, for which Jupyter has login shells."""
    with browser.new_page() as page:
        page.goto(f"{lab}/lab?token={TOKEN}")
        said = page.evaluate(IN_A_TERMINAL, [TOKEN, "command -v acs"])
    assert str(Path(sys.executable).with_name("acs")) in said


@pytest.fixture
def page(browser, lab):
    """A page that notes what it complains of and what it fetches from elsewhere."""
    with browser.new_page(viewport={"width": 1300, "height": 900}) as page:
        page.heard = []
        page.on("console", lambda line: line.type == "error" and page.heard.append(line.text))
        page.on("request", lambda asked: local(asked.url) or page.heard.append(asked.url))
        page.set_default_timeout(60_000)
        yield page


def local(url: str) -> bool:
    return re.match(r"(https?|ws)://127\.0\.0\.1:|data:|blob:", url) is not None


def open_notebook(page, lab: str, path: str):
    """Opens a notebook by its path in the checkout, and waits for its kernel; gives its cells."""
    page.goto(f"{lab}/lab/tree/{path}?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    # a notebook that runs before it has its kernel is asked which one it wants
    page.wait_for_selector("#jp-main-statusbar :text('(ipykernel) | Idle')")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    return page.locator(".jp-Notebook .jp-Cell")


def run_all(page) -> None:
    """Run every cell in the kernel that has come with the notebook; fails where a cell stops.

    While Lab still connects to the kernel it forgets what it is asked: then it is asked again.
    """
    began, asked = time.monotonic(), 0
    prompts = ["[ ]"]
    while time.monotonic() - began < SECONDS:
        if not any("*" in prompt for prompt in prompts) and asked < 3:
            page.click(".lm-MenuBar-itemLabel:text-is('Run')")
            page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
            asked += 1
        time.sleep(3)
        errors = page.locator("[data-mime-type='application/vnd.jupyter.error']")
        assert not errors.count(), errors.first.inner_text()
        prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()
        if prompts and all(re.fullmatch(r"\[\d+\]:?", prompt.strip()) for prompt in prompts):
            return
    pytest.fail(f"not at the end after {SECONDS} s: {prompts}")


def test_the_index_comes_first_and_leads_to_documents(page, lab):
    """They open as pages, not as their text, and nothing asks anything."""
    page.goto(f"{lab}/?token={TOKEN}")
    page.wait_for_selector(".jp-Notebook h1:has-text('Where to begin')")
    assert not page.locator(".jp-Dialog, .Toastify__toast").count()
    page.click(".jp-Notebook a:has-text('s claims')")
    page.wait_for_selector(".jp-MarkdownViewer h1:has-text('claims')")
    page.click("#jp-main-dock-panel .lm-TabBar-tab:has-text('index.ipynb')")
    page.click(".jp-Notebook a:has-text('Lesson 1')")
    page.wait_for_selector(".jp-Notebook h1:has-text('Lesson 1')")
    assert not page.heard


@pytest.mark.parametrize(
    "path",
    [
        *("notebooks/index.ipynb", "notebooks/run.ipynb", "notebooks/own.ipynb"),
        "build/lessons/student/04_craig.ipynb",
    ],
)
def test_a_notebook_runs_from_a_fresh_kernel_to_the_end(page, lab, path):
    open_notebook(page, lab, path)
    run_all(page)
    assert not alts.all_faults(alts_of(page))
    assert not page.heard


def alts_of(page) -> list[str]:
    """What is read aloud in the place of each picture that a cell, or a slider below it, shows."""
    drawn = page.locator(".jp-OutputArea-output img:not(.widget-html img)")
    return drawn.evaluate_all("images => images.map(image => image.alt)")


@pytest.fixture
def dark(lab, jupyter):
    file = set_up(jupyter, "apputils-extension/themes", theme="JupyterLab Dark")
    yield
    file.unlink()


@pytest.mark.parametrize("path", ["notebooks/run.ipynb", "build/lessons/answers/04_craig.ipynb"])
def test_what_is_shown_can_be_read_in_the_dark(page, lab, dark, path):
    """Texts, tables and the paper's grey numbers, by their contrast; pictures have a ground of
    their own. The code's colours are JupyterLab's.
    """
    open_notebook(page, lab, path)
    run_all(page)
    assert page.evaluate("document.body.dataset.jpThemeName") == "JupyterLab Dark"
    faults = page.evaluate(SITE_CHECKS)
    ours = [one for one in faults if one.startswith("contrast") and 'class="ͼ' not in one]
    assert not ours, "\n".join(ours)
    assert page.evaluate(TRANSPARENT) == 0


TRANSPARENT = """() => {
    const images = [...document.querySelectorAll('.jp-OutputArea-output img')];
    const corner = (image) => {
        const canvas = document.createElement('canvas');
        const pencil = canvas.getContext('2d');
        pencil.drawImage(image, 0, 0);
        return pencil.getImageData(1, 1, 1, 1).data[3];
    };
    return images.filter(image => image.naturalWidth && corner(image) < 255).length;
}"""


def test_sliders_and_buttons_of_explore_redraw(page, lab, checkout):
    """What they draw is another picture than before; results go to the checkout's own folder."""
    open_notebook(page, lab, "notebooks/explore.ipynb")
    run_all(page)
    assert len(alts_of(page)) > 10
    assert not alts.all_faults(alts_of(page))
    drawn = ".widget-interact .jp-OutputArea img"
    box = page.locator(".jp-Notebook .jp-Cell:has(.widget-interact)")
    before = box.first.locator(drawn).get_attribute("src")
    box.first.locator(".noUi-handle").first.press("ArrowRight")
    page.wait_for_function(CHANGED, arg=[0, drawn, before])
    gallery = box.last
    before = gallery.locator(drawn).get_attribute("src")
    gallery.locator("button").last.click()
    page.wait_for_function(CHANGED, arg=[-1, drawn, before])
    assert gallery.locator("select").input_value().startswith("10:")
    assert (checkout / "results" / "smoke" / "runs").is_dir()
    assert not page.heard


CHANGED = """([which, drawn, before]) => {
    const boxes = [...document.querySelectorAll('.jp-Notebook .jp-Cell:has(.widget-interact)')];
    const image = boxes.at(which).querySelector(drawn);
    return image && image.src !== before;
}"""
