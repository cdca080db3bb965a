"The widgets with real keys and a real mouse: in JupyterLab, and as twins from a file without a network."
import re
import statistics

import pytest

# From the key press to the picture on the screen: the listener hears keydown before the widget does, and waits until the new picture is decoded.
LATENCY = """async ([root, img]) => { window.taken = []; root.addEventListener('keydown', () => { const start = performance.now(), old = img.src;
  const look = async () => { if (img.src === old) return requestAnimationFrame(look); await img.decode(); window.taken.push(performance.now() - start); }; look(); }, true); }"""


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
    page.wait_for_function("(s) => /21\\/21|^No generator loaded/.test(s.textContent)", arg=status.element_handle(), timeout=30000)
    before = pixels(page, made)
    slider.focus()
    page.keyboard.press("ArrowLeft")  # JupyterLab would select another cell with it
    page.wait_for_function("(s) => / score 95,/.test(s.textContent)", arg=status.element_handle())
    assert slider.input_value() == "95" and pixels(page, made) != before
    page.keyboard.press("Shift+ArrowLeft")  # between the frames: from the kernel
    page.wait_for_function("(w) => /^score 94,/.test(w.querySelector('figcaption:nth-child(2).rb-caption, figcaption').textContent) || /score 94, \\d/.test(w.textContent)", arg=widget.element_handle())
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
