"A real browser: the system's Chromium without a network, and a JupyterLab of its own, started once."
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
NO_CHROMIUM = "no Chromium found: install your system's (Debian: apt-get install chromium), or fetch one: .venv/bin/python -m playwright install chromium"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run",
           "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
PICTURES = Path(os.environ.get("REIDBENCH_SCREENSHOTS") or ROOT / "outputs" / "screenshots")  # CI keeps them; git does not


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        there = CHROMIUM or playwright.chromium.executable_path  # the system's, or one that Playwright fetched
        if not Path(there).is_file():
            (pytest.fail if os.environ.get("CI") else pytest.skip)(NO_CHROMIUM)
        browser = playwright.chromium.launch(executable_path=there, args=OPTIONS)
        yield browser
        browser.close()


class Tab:
    "A page that notes what it asked for, what it complained of, and takes pictures of itself."

    def __init__(self, browser, dark=False, width=1440, height=1000):
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", accept_downloads=True)
        self.context.set_default_timeout(120_000)  # a machine that runs other tests beside answers late
        self.page, self.asked, self.errors = self.context.new_page(), [], []
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))

    def strangers(self):
        "Addresses outside this machine that were asked for."
        return [u for u in self.asked if not u.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "file:", "data:", "blob:", "about:"))]

    def picture(self, name):
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png")


@pytest.fixture
def tab(chromium):
    tabs = []

    def new(**options):
        tabs.append(Tab(chromium, **options))
        return tabs[-1]

    yield new
    for each in tabs:
        each.context.close()


def free_port():
    with contextlib.closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(url, process, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            return urllib.request.urlopen(url, timeout=2)
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer within {seconds} s")


def end(process):
    "Ask a server to end; after 20 s it is ended."
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    if process.poll() is None:
        process.kill()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    "A running JupyterLab: (its address, the folder it shows)."
    home, port = tmp_path_factory.mktemp("lab"), free_port()
    folder = home / "notebooks"
    folder.mkdir()
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # else it asks, over the pictures
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
                   "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "IPYTHONDIR": str(home / "ipython"),
                   "REIDBENCH_WIDGETS": "live", "JUPYTER_PLATFORM_DIRS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1", "--IdentityProvider.token=",
               f"--ServerApp.root_dir={folder}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
               "--ServerApp.disable_check_xsrf=True", "--allow-root", "--MultiKernelManager.cull_idle_timeout=0"]
    with open(home / "lab.log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        answers(f"http://127.0.0.1:{port}/api/status", process)
        yield f"http://127.0.0.1:{port}", folder
    finally:
        end(process)


CELLS = "window.jupyterapp?.shell.currentWidget?.content?.model?.cells"
STATE = """() => { const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel;
  const cells = [...%s].filter((c) => c.type === 'code'); return { kernel: kernel?.status, counts: cells.map((c) => c.executionCount),
  errors: cells.flatMap((c) => c.outputs.toJSON().filter((o) => o.output_type === 'error').map((o) => o.ename + ': ' + o.evalue)) }; }""" % CELLS


class Notebook:
    "A notebook in JupyterLab. Its model is asked for errors: the page shows only what is in view."

    def __init__(self, tab, lab, name, cells):
        import nbformat

        (address, folder), self.tab, self.page, self.name = lab, tab, tab.page, name
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, folder / name)
        # a workspace of its own: Lab opens again what another test left
        self.address, self.file = f"{address}/lab/workspaces/{Path(name).stem}/tree/{name}", folder / name
        self.open()

    def open(self):
        self.page.goto(self.address)
        self.page.wait_for_function(f"{CELLS}?.length > 0")
        self.page.wait_for_function("window.jupyterapp.shell.currentWidget.sessionContext.isReady")
        # it has been asked for the widgets' states
        self.page.wait_for_function("window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'")
        return self

    def run(self, seconds=90):
        self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = self.page.evaluate(STATE)
            assert not state["errors"], state["errors"]
            if state["kernel"] == "idle" and all(state["counts"]):
                return self
            time.sleep(0.2)
        raise TimeoutError(f"{self.name} did not finish within {seconds} s: {state}")

    def widget(self, title):
        "The section of the widget with this title, scrolled to and at rest."
        found, cells = self.page.locator(f'.rb-widget[aria-label="{title}"]').first, self.page.evaluate(f"{CELLS}.length")
        for cell in [c for _ in range(20) for c in range(cells)]:  # JupyterLab draws a cell when it comes into view
            if found.count():
                break
            self.page.evaluate(f"window.jupyterapp.shell.currentWidget.content.scrollToItem({cell})")
            self.page.wait_for_timeout(150)
        if not found.count():
            self.tab.picture(f"{self.name}-not-found")
        found.wait_for(state="attached")
        found.scroll_into_view_if_needed()
        box = None
        while box != (box := found.bounding_box()):
            time.sleep(0.1)
        return found

    def save(self):
        self.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")


@pytest.fixture
def notebook(tab, lab):
    "Open a notebook of these cells and run it: notebook(name, cells) -> Notebook."
    return lambda name, cells, **options: Notebook(tab(**options), lab, name, cells).run()
