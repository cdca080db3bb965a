"The workbench as people open it: the notebook in JupyterLab, and the same notebook as an app; the main path with real mouse and keys."
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time

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
    page.wait_for_function("(w) => /\\d+ of \\d+ points shown/.test(w.textContent) && w.textContent.includes('trustworthiness')",
                           arg=degradation.element_handle())
    linked = lambda: page.evaluate("(w) => /[1-9]\\d* selected/.test(w.textContent)", histogram.element_handle())
    for _ in range(4):  # what is still computed above may push the map aside between the look and the drag
        box = degradation.locator("canvas").first.bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.6, steps=5)
        page.mouse.up()
        end = time.monotonic() + 15
        while not linked() and time.monotonic() < end:
            page.wait_for_timeout(100)
        if linked():
            break
    assert linked(), (box, degradation.inner_text(), histogram.inner_text())
    attack = part("Attack distances")
    attack.scroll_into_view_if_needed()
    attack.get_by_role("button", name="go on").click()
    page.wait_for_function("(w) => /FGSM.*Rank-1 [\\d.]+ → [\\d.]+ %/.test(w.textContent)", arg=attack.element_handle())


def test_in_lab(notebook):
    book = notebook("workbench.ipynb", source())
    page = book.page
    main_path(page)
    book.tab.picture("workbench_lab_attack")
    page.evaluate("document.querySelector('.rb-widget').scrollIntoView()")
    book.tab.picture("workbench_lab")
    ground = "([w, dark]) => { const l = (c) => c.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3, ink = l(getComputedStyle(w).color); return dark ? ink > 170 : ink < 90; }"
    widget = page.locator(".rb-widget").first
    assert page.evaluate(ground, [widget.element_handle(), False])
    chart = page.locator('.rb-widget[aria-label="Quality score"] canvas').first
    # all frames are there: nothing else will draw it
    page.wait_for_function("(w) => /own score \\d+, \\d+ ms/.test(w.textContent)", arg=widget.element_handle())
    drawn = chart.evaluate("(c) => c.toDataURL()")
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    page.wait_for_function(ground, arg=[widget.element_handle(), True])
    page.wait_for_function("([c, was]) => c.toDataURL() !== was", arg=[chart.element_handle(), drawn])  # its ink follows
    for width in (1440, 900):
        page.set_viewport_size({"width": width, "height": 2400})
        page.wait_for_function("(w) => { const b = w.getBoundingClientRect(); return b.right <= innerWidth && b.width > 250; }", arg=widget.element_handle())
        book.tab.picture(f"workbench_lab_dark_{width}")
    page.set_viewport_size({"width": 1440, "height": 1000})
    book.save()
    book.open()  # loaded again: as it was left
    ranked = page.locator('.rb-widget[aria-label^="Ranked list"]').first
    ranked.wait_for()
    page.wait_for_function(STANDS, arg=ranked.element_handle())
    assert not book.tab.strangers() and not book.tab.errors


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    "The notebook as Voila serves it: its address."
    home, port = tmp_path_factory.mktemp("voila"), free_port()
    page = home / "workbench.ipynb"
    shutil.copy(NOTEBOOK, page)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "REIDBENCH_WIDGETS": "live", "JUPYTER_PLATFORM_DIRS": "1",
                   "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "IPYTHONDIR": str(home / "ipython")}
    with open(home / "voila.log", "w") as log:
        process = subprocess.Popen([sys.executable, "-m", "voila", f"--port={port}", "--no-browser", "--Voila.ip=127.0.0.1", str(page)], env=environment,
                                   stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/", process, home / "voila.log"
    finally:
        end(process)


@pytest.fixture
def opened(chromium, app):
    "The app in a tab of its own: opened(dark, width) -> Tab; looked through at the end."
    address, process, _ = app
    answers_soon(address, process)
    tabs = []

    def new(dark, width):
        tabs.append(Tab(chromium, dark=dark, width=width, height=2400))
        tabs[-1].page.goto(address)
        return tabs[-1]

    yield new
    for tab in tabs:
        # Voila's own template asks for a font that nothing here needs: it stays away, and all works
        strangers = [u for u in tab.strangers() if "fontawesome" not in u]
        tab.context.close()
        assert not strangers and not tab.errors


def test_as_an_app(opened):
    tab = opened(dark=True, width=900)
    main_path(tab.page)
    tab.picture("workbench_app_dark_900")
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def crop_pixels(crop):
    "The bytes of an <img>, once it is there."
    return crop.evaluate("""async (i) => { await i.decode(); const c = document.createElement('canvas'); c.width = i.naturalWidth; c.height = i.naturalHeight; const x = c.getContext('2d');
      x.drawImage(i, 0, 0); return [...x.getImageData(0, 0, c.width, c.height).data].join(); }""")


class Own:
    "The workbench's page as whoever brings pictures and a model of her own uses it."

    def __init__(self, page):
        self.page = page
        self.ranked = self.part("Ranked list")
        self.ranked.wait_for()
        page.wait_for_function(STANDS, arg=self.ranked.element_handle())

    def part(self, title):
        return self.page.locator(f'.rb-widget[aria-label^="{title}"]').first

    def told(self, words):
        "Wait until the line on top says these words; all that it says."
        self.page.wait_for_function("(text) => document.querySelector('.widget-html [role=status]')?.textContent.includes(text)", arg=words)
        return self.page.locator(".widget-html [role=status]").inner_text()

    def upload(self, *files):
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="ask with pictures").click()
        chooser.value.set_files(list(files))

    def type(self, field, text):
        box = self.page.get_by_placeholder(field)
        box.click()
        box.fill("")
        self.page.keyboard.type(str(text))
        self.page.keyboard.press("Enter")

    def list(self, query):
        "Once the list of this query stands: its distances, and the crops with their pictures there."
        self.page.wait_for_function("([w, q]) => w.querySelector('.rb-list .rb-caption')?.textContent === q && w.querySelector('.rb-hit img[src]') && w.querySelector('.rb-list > .rb-figure img[src]')",
                                    arg=[self.part("Ranked list").element_handle(), f"query {query}"])
        self.ranked = self.part("Ranked list")
        return [float(d) for d in self.ranked.locator(".rb-list").first.locator(".rb-hit .rb-pad + .rb-caption").all_inner_texts()]

    def asks(self):
        return crop_pixels(self.ranked.locator(".rb-list img").first)


def test_own_pictures_and_models(opened, tmp_path):
    "Uploads, a folder, a model's file, and what is none of these."
    import torch
    from PIL import Image

    from reidbench.nets.identity import IdentityNet
    from reidbench.nets.weights import save_model
    from reidbench.widgets.workbench import demo_people

    known = demo_people().gallery.path[5]
    shutil.copy(known, tmp_path / "known.jpg")
    noise = torch.Generator().manual_seed(0)
    for name in ("noise.png", "folder/one.png", "folder/two.png", "folder/three.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray((torch.rand(8, 4, 3, generator=noise) * 255).byte().numpy()).resize((70, 150)).save(tmp_path / name)
    shutil.copy(tmp_path / "folder/one.png", tmp_path / "folder/again.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "noise.png").read_bytes()[:70])
    (tmp_path / "half.safetensors").write_bytes(b"half")
    (tmp_path / "nothing").mkdir()
    torch.manual_seed(1)
    save_model(tmp_path / "mine.safetensors", IdentityNet("resnet10", 3), size=[128, 64], data="nothing yet", method="baseline")

    tab = opened(dark=False, width=1440)
    page, own = tab.page, Own(tab.page)
    first = own.asks()
    own.upload(tmp_path / "known.jpg", tmp_path / "half.png", tmp_path / "noise.png")
    assert "`half.png` is not an image I can read" in own.told("asked with 2 pictures")
    distances, asked = own.list(81), own.asks()  # of the 81 queries of the town, counted from 0, it is the next
    assert "82 of 83" in own.ranked.inner_text() and "nobody told" in own.ranked.get_by_role("status").inner_text()
    assert asked != first and distances[0] < 0.01 < distances[1]  # it is in the gallery
    own.ranked.get_by_role("button", name="next").click()
    others = own.list(82)
    assert own.asks() not in (asked, first) and min(others) > 0.5 and "83 of 83" in own.ranked.inner_text()

    for folder, said in ((tmp_path / "nowhere", "no folder at"), (tmp_path / "nothing", "holds no pictures")):
        own.type("a folder of pictures", folder)
        assert own.told(said).startswith("✗")
    assert own.list(82) == others  # what was there is there
    own.type("a folder of pictures", tmp_path / "folder")
    page.get_by_text("4 queries, 4 gallery pictures").wait_for()
    seen = [own.list(0)]
    assert len(seen[0]) == 3 and seen[0][0] == 0 and seen[0][1] > 0.1  # its copy; the picture itself is not found
    assert own.part("Attack distances").count() == 0 and "4 of 4 points shown" in own.part("Degradation map").inner_text()

    for model, said in (("no_such_model", "no model 'no_such_model'"), (tmp_path / "half.safetensors", "half.safetensors")):
        own.type("a model", model)
        assert own.told(said).startswith("✗")
    own.type("a model", tmp_path / "mine.safetensors")
    assert "128 x 64 pixels" in own.told("mine answers")
    assert "street-resnet10, mine" in page.locator(".widget-html").first.inner_text()
    seen.append(own.list(0))
    assert seen[1][0] == 0 and seen[1] != seen[0]
    status = own.part("Activation map").get_by_role("status")
    page.get_by_role("tab", name="Activation").click()
    page.wait_for_function("(s) => /layer|mean activation, \\d+ ms/.test(s.textContent)", arg=status.element_handle())

    own.ranked.locator(".rb-hit").nth(2).click()  # the one that is least alike, through another model and another camera
    note, slider = own.ranked.locator(".rb-caption").last, own.part("Quality score")
    page.wait_for_function("(n) => n.textContent.includes('rank 3 of 3')", arg=note.element_handle())
    before, made = note.inner_text(), slider.get_by_alt_text("re-rendered")
    page.wait_for_function("(w) => /score \\d+, \\d/.test(w.textContent)", arg=slider.element_handle())
    picture = crop_pixels(made)
    slider.get_by_role("slider").focus()
    page.keyboard.press("Home")
    page.wait_for_function("([n, was]) => n.textContent !== was && n.textContent.includes('rank')", arg=[note.element_handle(), before])
    page.wait_for_function("(w) => w.textContent.includes('score 0, ')", arg=slider.element_handle())
    assert crop_pixels(made) != picture and note.inner_text().split("distance ")[1] != before.split("distance ")[1]
    own.ranked.get_by_label("model", exact=True).select_option("street-resnet10")
    page.wait_for_function("(w) => w.textContent.includes('street-resnet10: nobody')", arg=own.ranked.element_handle())
    page.wait_for_function("([w, d]) => w.querySelectorAll('.rb-hit')[2]?.textContent.includes(d)", arg=[own.ranked.element_handle(), f"{seen[0][2]:.3f}"])
    assert own.list(0) == seen[0]  # the first model, and nothing left of what was tried with the second
    tab.picture("workbench_own_light_1440")


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
