"The two tables with real keys and a real mouse: as twins from a file, and in JupyterLab."
import numpy as np
import pytest

MANY = 5000
WAIT = "([w, text]) => w.textContent.includes(text)"


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    "Both demos, an attack table of five thousand queries, and the papers with the records that ship."
    from pathlib import Path

    from reidbench.studies.papers import Papers
    from reidbench.widgets import AttackTable, PaperTable

    folder, root = tmp_path_factory.mktemp("twins"), Path(__file__).resolve().parents[2]
    attack = AttackTable().wait()
    attack.attack = "LTA"
    attack.wait().metric = "cosine"
    attack.wait().metric = "euclidean"
    made = {"attack": attack.save(folder / "attack.html")}
    rng = np.random.default_rng(0)
    many = AttackTable().wait()
    many.people, many.chunks = [f"person {i // 6}, camera {i % 6}, {i:05d}.jpg" for i in range(MANY)], {
        f"0|8|euclidean|{a}": [[a + i, *map(int, rng.integers(0, 2, 2)), *map(float, rng.uniform(0, 1.4, 4).round(4))]
                               for i in range(500)] for a in range(0, MANY, 500)}
    made["many"] = many.save(folder / "many.html")
    demo = PaperTable().wait()
    demo.place = demo.places[0]
    made["demo"] = demo.wait().save(folder / "demo.html")
    papers = Papers(root / "data" / "records", root=root / "data")
    papers.root = Path("data")  # whatever this machine's folders are called
    made["paper"] = PaperTable(papers, name="aos/table1", place="street, small budget").save(folder / "paper.html")
    return made


@pytest.mark.parametrize("dark, width", [(False, 1440), (True, 900)])
@pytest.mark.parametrize("name", ["attack", "many", "demo", "paper"])
def test_twin_is_alive(tab, twins, name, dark, width):
    assert twins[name].stat().st_size < 1e6
    tab = tab(dark=dark, width=width)
    page = tab.page
    page.goto(twins[name].as_uri())
    {"attack": walk_the_attacks, "many": sort_many, "demo": judge, "paper": walk_the_papers}[name](page)
    assert "static copy" in page.get_by_role("status").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.querySelectorAll('.rb-body [tabindex], .rb-body select, .rb-body input, .rb-body button')].every((e) => e.dataset.lmSuppressShortcuts)")
    tab.picture(f"tables_{name}_{'dark' if dark else 'light'}_{width}")
    with page.expect_download() as found:
        page.get_by_role("button", name="PNG").click()
    assert found.value.path().read_bytes()[:4] == b"\x89PNG"
    with page.expect_download() as found:
        page.get_by_role("button", name="CSV").click()
    assert found.value.path().read_text().startswith("# widget: ")
    for gone in ("HTML", "TEX", "cancel", "go on", "start"):
        assert page.get_by_role("button", name=gone, exact=True).count() == 0  # what needs a kernel is not there
    assert not tab.strangers() and not tab.errors


def column(page, n):
    return [text.replace("−", "-") for text in page.locator(f"tbody tr td:nth-child({n})").all_inner_texts()]


def walk_the_attacks(page):
    rows = page.locator("tbody tr")
    assert rows.count() == 10 and page.locator(".rb-card").is_hidden()
    head = page.locator("th", has_text="Δ")
    head.click()
    change = list(map(float, column(page, 6)))
    assert change == sorted(change) and head.get_attribute("aria-sort") == "ascending"
    head.focus()
    page.keyboard.press("Enter")
    assert list(map(float, column(page, 6))) == change[::-1] and head.get_attribute("aria-sort") == "descending"
    rows.nth(0).focus()
    for key, at in (("ArrowDown", 1), ("ArrowDown", 2), ("End", 9), ("Home", 0), ("ArrowDown", 1)):
        page.keyboard.press(key)
        assert page.evaluate("[...document.querySelectorAll('tbody tr')].indexOf(document.activeElement)") == at, key
    page.keyboard.press("Enter")
    for name in ("clean", "adversarial", "change × 10"):
        assert page.get_by_alt_text(name, exact=True).evaluate("async (img) => { await img.decode(); return img.naturalHeight; }") == 128
    assert page.locator("tr[aria-selected=true]").count() == 1 and page.evaluate("document.activeElement.tagName") == "TR"
    opened = page.locator(".rb-card strong").inner_text()
    page.get_by_label("computed").select_option("FGSM, ε 8, euclidean")  # the same query under another attack: its pictures are inside too
    assert page.locator(".rb-card strong").inner_text() == opened and page.get_by_alt_text("adversarial").count() == 1
    page.get_by_label("computed").select_option("LTA, ε 8, cosine")
    rows.nth(3).click()
    assert page.locator(".rb-card strong").inner_text() != opened
    page.locator("tr[aria-selected=true]").focus()
    page.keyboard.press("Escape")
    assert page.locator(".rb-card").is_hidden() and page.locator("tr[aria-selected=true]").count() == 0
    before = column(page, 4)
    page.get_by_label("distance to").select_option("nearest wrong")
    assert column(page, 4) != before
    wrong = column(page, 2).count("✗")
    page.get_by_label("show").select_option("✗ before")
    assert set(column(page, 2)) == {"✗"} and rows.count() == wrong
    page.get_by_label("show").select_option("all queries")
    page.get_by_label("filter").fill("person 3,")
    assert rows.count() == 1 and "10 unfiltered" in page.locator(".rb-bar .rb-number").inner_text()
    page.get_by_label("filter").fill("nobody")
    assert rows.count() == 0
    page.get_by_label("filter").fill("")
    rows.nth(2).click()


def sort_many(page):
    assert page.locator("tbody tr").count() == 12 and f"1–12 of {MANY}" in page.locator(".rb-bar .rb-number").inner_text()
    took = page.evaluate("""async () => { const heads = [...document.querySelectorAll('th')].slice(0, 6), t = [];
      for (let i = 0; i < 30; i++) { const s = performance.now(); heads[i % 6].click(); document.body.offsetHeight; t.push(performance.now() - s); await new Promise(requestAnimationFrame); }
      return t.sort((a, b) => a - b); }""")
    print(f"sort {MANY} rows: {took[15]:.1f} ms median, {took[28]:.1f} ms p95 of 30")
    assert took[15] < 16
    page.locator("th", has_text="query").click()
    head = page.locator("th", has_text="d(adv)")
    head.click()
    if head.get_attribute("aria-sort") == "descending":
        head.click()
    seen = list(map(float, column(page, 5)))
    assert seen == sorted(seen)
    page.get_by_role("button", name="page on").click()
    more = list(map(float, column(page, 5)))
    assert more[0] >= seen[-1] and "13–24" in page.locator(".rb-bar .rb-number").inner_text()
    page.locator("tbody tr").first.focus()
    page.keyboard.press("End")
    assert f"–{MANY} of" in page.locator(".rb-bar .rb-number").inner_text() and page.evaluate("document.activeElement.tagName") == "TR"
    page.keyboard.press("PageUp")
    page.keyboard.press("Home")
    assert "1–12 of" in page.locator(".rb-bar .rb-number").inner_text()
    page.get_by_label("filter").fill("04321")
    assert page.locator("tbody tr").count() == 1
    page.locator("tbody tr").click()
    assert "no pictures of it in this copy" in page.locator(".rb-card").inner_text()
    page.get_by_label("filter").fill("")


def judge(page):
    def verdicts():
        return [v for v in page.locator("tbody tr[aria-selected] td:nth-child(5)").all_inner_texts()]

    assert verdicts() == ["✓ +0.4", "✗ −4.8", "✓ −0.2", "✗ +59.3", "", ""]
    assert page.locator("td.rb-right").count() == 2 and page.get_by_text("not run: needs Elsewhere at data/elsewhere").count() == 1
    page.get_by_label("within ±").fill("5")
    assert verdicts()[1] == "✓ −4.8"
    page.get_by_label("quoted rows").check()
    assert page.get_by_text("quoted by the paper from other work").count() == 1
    page.get_by_label("run on").select_option("street, small budget")
    assert [v[:1] for v in verdicts()][:4] == ["≠"] * 4 and page.locator("td.rb-right").count() == 0
    assert "Not the paper’s experiment: Street in the place of Elsewhere" in page.locator(".rb-said").inner_text()
    page.get_by_label("run on").select_option("its own set, paper budget")
    assert page.locator(".rb-warn").count() == 0
    page.locator("tbody tr[aria-selected]").nth(3).click()
    assert "cannot be right: a digit is lost" in page.locator(".rb-card").first.inner_text()


def walk_the_papers(page):
    lines = page.locator("tbody tr[aria-selected]")
    assert lines.count() == 20 and page.get_by_label("table", exact=True).locator("option").count() == 25
    lines.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    card = page.locator(".rb-card").first
    assert "seed 2:" in card.inner_text() and "identification-street" in card.inner_text() and card.locator("a").count() == 0
    page.keyboard.press("Escape")
    assert card.is_hidden()
    page.get_by_label("column").select_option("Street, occluded queries")
    assert lines.count() == 10
    took = page.evaluate("""async () => { const s = document.querySelector('select[aria-label=table]'), t = [];
      for (const o of s.options) { const at = performance.now(); s.value = o.value; s.dispatchEvent(new Event('change')); document.body.offsetHeight; t.push(performance.now() - at); await new Promise(requestAnimationFrame); }
      return t.sort((a, b) => a - b); }""")
    print(f"another table: {took[len(took) // 2]:.1f} ms median, {took[-1]:.1f} ms at most, of {len(took)}")
    assert took[len(took) // 4] < 50
    page.get_by_label("run on").select_option("the paper's sets, paper budget")
    page.get_by_label("table", exact=True).select_option("msfl/table1")
    assert set(page.locator("tbody tr[aria-selected] td:nth-child(4)").all_inner_texts()) == {"–"}  # no figure of ours without a run
    assert page.get_by_text("not run: needs Market-1501 at data/Market-1501-v15.09.15").count() == 12
    page.get_by_role("button", name="its command").first.click()
    assert page.locator("code").inner_text() == "reidbench study msfl/table1 --rows '(a) ResNet50'"
    assert page.get_by_role("button", name="copy", exact=True).count() == 1
    page.get_by_label("table", exact=True).select_option("aos/table1")
    page.get_by_label("run on").select_option("street, small budget")


def test_attacks_in_lab(notebook):
    "Rows as they come, cancelled and gone on with; one session with a ranked list; files."
    slow = "def slow(images):\n    time.sleep(0.03)\n    return stripes(images)\n"
    cells = ["import time\nfrom reidbench.widgets import AttackTable, RankedList, Session\nfrom reidbench.widgets.attack_table import demo_attacks, demo_benchmark\nfrom reidbench.widgets.ranked_list import stripes",
             slow + "session = Session()\ntable = AttackTable(slow, demo_benchmark()[0], demo_attacks(), size=(128, 64), together=1, session=session)\ntable",
             "ranked = RankedList(session=session, order='as given')\nranked"]
    book = notebook("attacks.ipynb", cells, width=1440)
    page, widget = book.page, book.widget("Attack distances")
    status, rows = widget.get_by_role("status"), widget.locator("tbody tr")
    page.wait_for_function(WAIT, arg=[status.element_handle(), "FGSM, eps 8/255: Rank-1"])
    widget.get_by_label("attack", exact=True).select_option("LTA")
    # some are there, some are not yet
    page.wait_for_function("([w]) => { const n = w.querySelectorAll('tbody tr').length; return n > 0 && n < 10; }", arg=[widget.element_handle()])
    widget.get_by_role("button", name="cancel").click()
    page.wait_for_function(WAIT, arg=[status.element_handle(), "stopped after"])
    assert 0 < rows.count() < 10
    widget.get_by_role("button", name="go on").click()
    page.wait_for_function("(s) => s.textContent.startsWith('LTA, eps 8/255: Rank-1')", arg=status.element_handle())
    assert rows.count() == 10 and widget.get_by_role("button", name="go on").count() == 0
    rows.nth(0).focus()
    page.keyboard.press("ArrowDown")  # JupyterLab would go to another cell
    page.keyboard.press("Enter")
    widget.get_by_alt_text("adversarial").wait_for()
    ranked = book.widget("Ranked list, as given")
    page.wait_for_function(WAIT, arg=[ranked.element_handle(), "query 1, as given"])  # the session carried it there
    ranked.get_by_role("button", name="next").click()
    page.wait_for_function("(w) => w.querySelector('.rb-card strong').textContent === 'query 2'", arg=widget.element_handle())
    widget.get_by_label("metric").select_option("cosine")
    page.wait_for_function("(w) => w.querySelectorAll('tbody tr').length === 10", arg=widget.element_handle())
    widget.locator("th", has_text="d(adv)").click()
    for kind, begins in (("CSV", "# widget: Attack distances"), ("TEX", "% widget: Attack distances"), ("HTML", "<!doctype html>")):
        with page.expect_download() as found:
            widget.get_by_role("button", name=kind).click()
        assert found.value.path().read_text().startswith(begins)
    book.widget("Attack distances")
    book.tab.picture("tables_attack_lab")
    book.save()
    book.open()
    widget = book.widget("Attack distances")  # the page was loaded again: it stands as it was left
    page.wait_for_function("(w) => w.querySelectorAll('tbody tr').length === 10 && w.querySelector('.rb-card img')", arg=widget.element_handle())
    assert widget.locator("th[aria-sort=ascending]").inner_text() == "d(adv)"
    assert not book.tab.strangers() and not book.tab.errors


def test_papers_in_lab(notebook, lab):
    "A record is opened, a row's command is shown, started, watched, cancelled; one that fails says why."
    sleeper = ("import sys, time\nfrom reidbench.studies.papers import Papers\nfrom reidbench.widgets import PaperTable\nfrom reidbench.widgets.paper_table import Invented\n"
               "class Sleeper(Invented):\n    def command(self, table, place, row):\n"
               "        return [sys.executable, '-c', f\"import time; print('epoch 1 of 9', flush=True); time.sleep(600 if {row!r} == 'Baseline' else 0); raise SystemExit('error: <b>no</b> set')\"]")
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    cells = [sleeper, f"papers = PaperTable(Papers(r'{root / 'data' / 'records'}', root=r'{root / 'data'}'), name='aos/table3')\npapers",
             "busy = PaperTable(Sleeper())\nbusy.title = 'Busy'\nbusy"]
    book = notebook("papers.ipynb", cells, dark=True, width=1440)
    page, widget = book.page, book.widget("Paper table")
    status = widget.get_by_role("status")
    page.wait_for_function(WAIT, arg=[status.element_handle(), "cells run"])
    lines = widget.locator("tbody tr[aria-selected]")
    lines.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    link = widget.locator(".rb-card a").first
    with page.expect_download() as found:
        link.click()
    assert '"metrics"' in found.value.path().read_text()
    widget.get_by_label("table", exact=True).select_option("aos/table1")
    page.wait_for_function(WAIT, arg=[widget.element_handle(), "aos/table1: 20 of 20 cells run"])
    widget.get_by_role("button", name="run this row").nth(1).click()
    assert "--rows 'No Adversary'" in widget.locator("code").inner_text()
    with page.expect_download() as found:
        widget.get_by_role("button", name="TEX").click()
    assert "not the same experiment: Street in the place of Market1501; budget small" in found.value.path().read_text()
    book.tab.picture("tables_paper_lab")
    busy = book.widget("Busy")
    status = busy.get_by_role("status")
    page.wait_for_function(WAIT, arg=[status.element_handle(), "cells run"])
    busy.get_by_role("button", name="run this row").first.click()
    busy.get_by_role("button", name="start").click()
    page.wait_for_function(WAIT, arg=[status.element_handle(), "epoch 1 of 9"])
    assert "epoch 1 of 9" in busy.locator("pre").inner_text()
    busy.get_by_label("run on").select_option("its own set, paper budget")  # everything else goes on answering
    page.wait_for_function("(w) => w.textContent.includes('✓ +0.4')", arg=busy.element_handle())
    busy.get_by_role("button", name="cancel").click()
    page.wait_for_function(WAIT, arg=[status.element_handle(), "cancelled after"])
    busy.get_by_role("button", name="run this row").nth(1).click()
    busy.get_by_role("button", name="start").click()
    page.wait_for_function(WAIT, arg=[status.element_handle(), "error: <b>no</b> set"])
    assert status.locator("b").count() == 0 and busy.get_by_role("button", name="copy details").is_visible()
    book.widget("Busy")
    book.tab.picture("tables_busy_lab")
    assert not book.tab.strangers() and not book.tab.errors
