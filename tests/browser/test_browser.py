"The widgets with real keys and a real mouse: in JupyterLab, and as twins from a file without a network."
import re
import statistics
from pathlib import Path

import pytest

PAGES = [p for p in sorted((Path(__file__).resolve().parents[2] / "nbs").rglob("*.ipynb")) if "data-twin=" in p.read_text()]

# From the key press to the picture on the screen: the listener hears keydown before the widget does, and waits until the new picture is decoded
# (refused where the next key has put in another meanwhile: that one is waited for then, and a picture that is broken for good shows as a missing figure).
LATENCY = """async ([root, img]) => { window.taken = []; root.addEventListener('keydown', () => { const start = performance.now(), old = img.src;
  const look = () => { if (img.src === old) return requestAnimationFrame(look); img.decode().then(() => window.taken.push(performance.now() - start), () => requestAnimationFrame(look)); };
  look(); }, true); }"""


def watch_latency(widget, picture):
    page = widget.page
    page.evaluate(LATENCY, [widget.element_handle(), widget.locator(picture).element_handle()])


def median_of(page, count):
    page.wait_for_function(f"window.taken.length >= {count}")
    return statistics.median(page.evaluate("window.taken"))


def pixels(page, picture):
    "The sum of an <img>'s pixels: a number that changes when the picture does."
    return picture.evaluate("""async (img) => { await img.decode(); const c = document.createElement('canvas'); c.width = img.naturalWidth; c.height = img.naturalHeight;
      const x = c.getContext('2d'); x.drawImage(img, 0, 0); return x.getImageData(0, 0, c.width, c.height).data.reduce((a, b) => a + b, 0); }""")


@pytest.fixture(scope="module")
def score_twin(tmp_path_factory):
    from reidbench.widgets import ScoreSlider

    return ScoreSlider().save(tmp_path_factory.mktemp("twins") / "score.html")


@pytest.mark.parametrize("dark, width", [(False, 1440), (True, 900)])
def test_score_twin(tab, score_twin, dark, width):
    tab = tab(dark=dark, width=width)
    page = tab.page
    page.goto(score_twin.as_uri())
    slider, made = page.get_by_role("slider"), page.get_by_alt_text("re-rendered")
    slider.focus()
    before = pixels(page, made)
    watch_latency(page.locator(".rb-widget"), '[alt="re-rendered"]')
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(20)
    assert slider.input_value() == "0" and pixels(page, made) != before
    took = median_of(page, 20)
    print(f"twin, key to picture: {took:.1f} ms, median of 20")
    assert took < 30
    page.keyboard.press("Escape")
    assert slider.input_value() == "100"
    page.keyboard.press("PageDown")
    assert slider.input_value() == "90"
    assert "static copy: pictures were computed on" in page.get_by_role("status").inner_text()
    assert page.get_by_role("button", name="HTML").count() == 0
    with page.expect_download() as found:
        page.get_by_role("button", name="CSV").click()
    assert found.value.path().read_text().startswith("# widget: Quality score")
    with page.expect_download() as found:
        page.get_by_role("button", name="PNG").click()
    assert found.value.path().read_bytes()[:4] == b"\x89PNG"
    tab.picture(f"score_twin_{'dark' if dark else 'light'}_{width}")
    assert not tab.strangers() and not tab.errors


def test_score_slider_in_lab(notebook):
    book = notebook("score.ipynb", ["from reidbench.widgets import ScoreSlider", "slider = ScoreSlider()\nslider"])
    widget, page = book.widget("Quality score"), book.page
    status, made, slider = widget.get_by_role("status"), widget.get_by_alt_text("re-rendered"), widget.get_by_role("slider")
    page.wait_for_function("(s) => /21\\/21|^No generator loaded/.test(s.textContent)", arg=status.element_handle())
    before = pixels(page, made)
    slider.focus()
    page.keyboard.press("ArrowLeft")  # JupyterLab would select another cell with it
    page.wait_for_function("(s) => / score 95,/.test(s.textContent)", arg=status.element_handle())
    assert slider.input_value() == "95" and pixels(page, made) != before
    page.keyboard.press("Shift+ArrowLeft")  # between the frames: from the kernel
    page.wait_for_function("(w) => /score 94, \\d/.test(w.textContent)", arg=widget.element_handle())
    with page.expect_download() as found:
        widget.get_by_role("button", name="CSV").click()
    assert re.search(r"^resolution,94", found.value.path().read_text(), re.M)
    with page.expect_download() as found:
        widget.get_by_role("button", name="HTML").click()
    assert "reidbench-twin" in found.value.path().read_text()
    book.tab.picture("score_lab")
    book.save()
    book.open()  # the page is loaded again: the widget is there, as it was left
    widget = book.widget("Quality score")
    assert widget.get_by_role("slider").input_value() == "94"
    page.wait_for_function("(w) => /score 94, \\d/.test(w.textContent)", arg=widget.element_handle())
    assert not book.tab.strangers() and not book.tab.errors


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    "Every other widget of this page's demo as a file."
    from reidbench.widgets import ActivationView, OcclusionView, RankedList

    folder, activation = tmp_path_factory.mktemp("twins"), ActivationView().wait()
    activation.method = activation.methods[1]
    occlusion = OcclusionView(fill="black").wait()
    occlusion.side = "second"
    return {"ranked": RankedList(maps=lambda images: images.mean(1)).save(folder / "ranked.html"), "occlusion": occlusion.save(folder / "occlusion.html"),
            "activation": activation.save(folder / "activation.html")}


@pytest.mark.parametrize("dark, width", [(False, 1440), (True, 900)])
@pytest.mark.parametrize("name", ["ranked", "occlusion", "activation"])
def test_twin_is_alive(tab, twins, name, dark, width):
    "Opened from a file without a network: it draws, it answers, it asks nobody for anything."
    assert twins[name].stat().st_size < 1e6
    tab = tab(dark=dark, width=width)
    page = tab.page
    page.goto(twins[name].as_uri())
    {"ranked": walk_the_list, "occlusion": hover_the_patches, "activation": change_the_layer}[name](page)
    assert "static copy" in page.get_by_role("status").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.picture(f"{name}_twin_{'dark' if dark else 'light'}_{width}")
    assert not tab.strangers() and not tab.errors


def walk_the_list(page):
    place, hits = page.locator(".rb-bar .rb-number"), page.locator(".rb-hit")
    assert place.inner_text() == "1 of 10" and hits.count() == 10 and hits.locator(".rb-mark").all_inner_texts().count("✓") == 1
    first = page.locator(".rb-list .rb-caption").first.inner_text()
    page.get_by_role("button", name="next").click()
    assert place.inner_text() == "2 of 10" and page.locator(".rb-list .rb-caption").first.inner_text() != first
    hits.first.focus()
    for key, at in (("ArrowRight", 1), ("ArrowRight", 2), ("Home", 0), ("End", 9)):
        page.keyboard.press(key)
        assert page.evaluate("[...document.querySelectorAll('.rb-hit')].indexOf(document.activeElement)") == at
    page.keyboard.press("Enter")
    assert page.locator(".rb-picked").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".rb-picked").count() == 0
    hits.first.focus()
    page.keyboard.press("m")  # no map was computed: there is none to show, and no button that promises one
    assert page.get_by_role("button", name="activation maps").count() == 0


def colours(page, canvas):
    return canvas.evaluate("(c) => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.reduce((a, b) => a + b, 0)")


def hover_the_patches(page):
    canvas, said = page.locator(".rb-body canvas"), page.locator(".rb-figure .rb-caption").first
    page.wait_for_function("document.querySelector('.rb-body canvas').height === 512")
    before = colours(page, canvas)
    canvas.hover(position={"x": 64, "y": 128})
    assert "row 8, column 4" in said.inner_text() and colours(page, canvas) != before
    took = page.evaluate("""async () => { const c = document.querySelector('.rb-body canvas'), r = c.getBoundingClientRect(), t = [];
      for (let i = 0; i < 20; i++) { const s = performance.now(); c.dispatchEvent(new MouseEvent('mousemove', { clientX: r.x + 20 + 4 * i, clientY: r.y + 20 + 10 * i })); t.push(performance.now() - s); await new Promise(requestAnimationFrame); }
      return t.sort((a, b) => a - b)[10]; }""")
    print(f"occlusion, hover to drawn: {took:.1f} ms, median of 20")
    assert took < 16
    canvas.focus()
    page.keyboard.press("Home")
    assert "row 1, column 1" in said.inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert "row 2, column 2" in said.inner_text()
    page.keyboard.press("Escape")
    assert "nothing covered" in said.inner_text()
    page.get_by_label("computed").select_option("first|16|8|black")
    page.wait_for_timeout(100)
    assert colours(page, canvas) != before


def change_the_layer(page):
    canvas = page.locator(".rb-body canvas").first
    page.wait_for_function("document.querySelector('.rb-body canvas').height === 512")
    seen = {colours(page, canvas)}
    page.get_by_label("layer").select_option("early")
    seen.add(colours(page, canvas))
    page.get_by_label("method").select_option("mean activation")
    seen.add(colours(page, canvas))
    page.get_by_label("opacity").focus()
    page.keyboard.press("End")
    seen.add(colours(page, canvas))
    assert len(seen) == 4


def test_the_others_in_lab(notebook):
    "Used with keys and mouse, linked by one session, asked for what only the kernel knows; then the kernel dies."
    cells = ["import time, torch\nfrom reidbench.widgets import ActivationView, OcclusionView, RankedList, ScoreSlider, Session",
             "session = Session()\nranked = RankedList(maps=lambda images: images.mean(1), session=session)\nranked",
             "def slow(images):\n    time.sleep(0.2)\n    return images.mean((2, 3))\nocclusion = OcclusionView(embed=slow, session=session)\nocclusion",
             "activation = ActivationView(session=session)\nactivation",
             "def broken(images, scores): raise RuntimeError('the weights <b>are</b> missing')\nslider = ScoreSlider(adjust=broken, session=session)\nslider"]
    book = notebook("others.ipynb", cells)
    page, ready = book.page, "([w, text]) => w.textContent.includes(text)"
    ranked = book.widget("Ranked list, worst first")
    page.wait_for_function(ready, arg=[ranked.element_handle(), "first right at rank"])
    ranked.locator(".rb-hit").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(ready, arg=[ranked.element_handle(), "picked: gallery picture"])
    page.keyboard.press("m")  # the kernel draws the maps
    ranked.get_by_alt_text("activation").nth(10).wait_for()
    ranked.get_by_label("order").select_option("best first")
    best = book.widget("Ranked list, best first")
    page.wait_for_function(ready, arg=[best.element_handle(), "best first: AP"])
    book.tab.picture("ranked_lab")
    occlusion = book.widget("Occlusion sensitivity")
    occlusion.get_by_label("fill").select_option("black")
    page.wait_for_function("(w) => /row \\d+\\/15/.test(w.textContent)", arg=occlusion.element_handle())
    occlusion.get_by_role("button", name="cancel").click()
    page.wait_for_function(ready, arg=[occlusion.element_handle(), "stopped after"])
    activation = book.widget("Activation map")
    canvas, method = activation.locator("canvas").first, activation.get_by_label("method")
    before = colours(page, canvas)
    method.select_option("Grad-CAM of likeness")
    page.wait_for_function(ready, arg=[activation.element_handle(), "late, Grad-CAM"])
    assert colours(page, canvas) != before
    with page.expect_download() as found:
        activation.get_by_role("button", name="NPY").click()
    assert found.value.path().read_bytes()[1:6] == b"NUMPY"
    slider = book.widget("Quality score")
    page.wait_for_function(ready, arg=[slider.element_handle(), "RuntimeError: the weights <b>are</b> missing"])
    assert slider.get_by_role("status").locator("b").count() == 0 and slider.get_by_role("button", name="copy details").is_visible()
    book.tab.picture("states_lab")
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({ code: 'import os; os._exit(1)' })")
    page.wait_for_function(ready, arg=[slider.element_handle(), "the kernel has gone"])
    assert not book.tab.strangers()


@pytest.mark.parametrize("notebook_path", PAGES, ids=lambda p: p.stem)
def test_published_pages_are_alive(tab, tmp_path, notebook_path):
    "The stored notebooks as pages: every twin wakes without a network."
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter().from_filename(notebook_path)
    path = tmp_path / "page.html"
    path.write_text(html)
    tab = tab()
    tab.page.goto(path.as_uri(), wait_until="domcontentloaded")
    tab.page.wait_for_function("document.querySelector('.reidbench-twin') && [...document.querySelectorAll('.reidbench-twin')].every((t) => t.querySelector('.rb-widget'))")
    assert not [e for e in tab.errors if "require" not in e and "MathJax" not in e]
