"The workbench as people open it: the notebook in JupyterLab, and the same notebook as an app; the main path with real mouse and keys."
import contextlib
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, Tab, end, free_port

NOTEBOOK = ROOT / "nbs" / "workbench.ipynb"
SAYS = "([w, text]) => w.textContent.includes(text)"
STANDS = "(w) => /query \\d+, worst first: AP|first right at rank/.test(w.textContent)"


def source():
    import nbformat

    return [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]


def main_path(page):
    "Pick a wrong match, move its score, watch its rank; then the map, the histogram, an attack."
    part = lambda title: page.locator(f'.rb-widget[aria-label^="{title}"]').first
    ranked, slider = part("Ranked list"), part("Quality score")
    ranked.wait_for()
    page.wait_for_function(STANDS, arg=ranked.element_handle())
    wrong = ranked.locator(".rb-hit.rb-wrong").first
    wrong.click()
    note = ranked.locator(".rb-caption").last
    page.wait_for_function("(n) => n.textContent.includes('picked: gallery picture')", arg=note.element_handle())
    before = note.inner_text()
    assert ranked.locator(".rb-picked").count() == 1
    picture = slider.get_by_alt_text("original")
    page.wait_for_function("(w) => /score \\d+, \\d/.test(w.textContent)", arg=slider.element_handle())
    slider.get_by_role("slider").focus()
    page.keyboard.press("Home")  # the worst camera
    page.wait_for_function("([n, was]) => n.textContent !== was && n.textContent.includes('rank')", arg=[note.element_handle(), before])
    distance = lambda text: float(re.search(r"distance ([\d.]+)", text)[1])
    assert distance(note.inner_text()) != distance(before) and picture.count()
    ranked.get_by_role("button", name="next").click()  # another query: the picked one is let go
    page.wait_for_function("(w) => !w.textContent.includes('picked: gallery')", arg=ranked.element_handle())
    degradation, histogram = part("Degradation map"), part("Quality histogram")
    degradation.scroll_into_view_if_needed()
    page.wait_for_function("(w) => /\\d+ of \\d+ points shown/.test(w.textContent) && w.textContent.includes('trustworthiness')", arg=degradation.element_handle())
    box = degradation.locator("canvas").first.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.6, steps=5)
    page.mouse.up()
    page.wait_for_function("(w) => /[1-9]\\d* selected/.test(w.textContent)", arg=histogram.element_handle())  # linked
    attack = part("Attack distances")
    attack.scroll_into_view_if_needed()
    attack.get_by_role("button", name="go on").click()
    page.wait_for_function("(w) => /FGSM.*Rank-1 [\\d.]+ → [\\d.]+ %/.test(w.textContent)", arg=attack.element_handle())


def test_in_lab(notebook):
    book = notebook("workbench.ipynb", source())
    main_path(book.page)
    book.tab.picture("workbench_lab_attack")
    book.page.evaluate("document.querySelector('.rb-widget').scrollIntoView()")
    book.tab.picture("workbench_lab")
    book.save()
    book.open()  # loaded again: as it was left
    ranked = book.page.locator('.rb-widget[aria-label^="Ranked list"]').first
    ranked.wait_for()
    book.page.wait_for_function(STANDS, arg=ranked.element_handle())
    assert not book.tab.strangers() and not book.tab.errors


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    "The notebook as Voila serves it: its address."
    home, port = tmp_path_factory.mktemp("voila"), free_port()
    page = home / "workbench.ipynb"
    shutil.copy(NOTEBOOK, page)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "REIDBENCH_WIDGETS": "live", "JUPYTER_PLATFORM_DIRS": "1", "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "IPYTHONDIR": str(home / "ipython")}
    with open(home / "voila.log", "w") as log:
        process = subprocess.Popen([sys.executable, "-m", "voila", f"--port={port}", "--no-browser", "--Voila.ip=127.0.0.1", str(page)], env=environment, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/", process, home / "voila.log"
    finally:
        end(process)


@pytest.mark.parametrize("dark, width", [(False, 1440), (True, 900)])
def test_as_an_app(chromium, app, dark, width):
    address, process, _ = app
    answers_soon(address, process)
    tab = Tab(chromium, dark=dark, width=width, height=2400)
    tab.page.goto(address)
    main_path(tab.page)
    tab.picture(f"workbench_app_{'dark' if dark else 'light'}_{width}")
    strangers = [u for u in tab.strangers() if "fontawesome" not in u]  # Voila's own template asks for a font that nothing here needs: it stays away, and all works
    assert not strangers and not tab.errors and tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.context.close()


def answers_soon(address, process):
    "Voila renders the whole notebook for whoever asks: the port is enough."
    import socket
    import time

    host, port = address.split("//")[1].rstrip("/").split(":")
    late = time.monotonic() + 90
    while time.monotonic() < late:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.2)
    raise TimeoutError(f"{address} did not open within 90 s")
