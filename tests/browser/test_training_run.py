"The training run with a real mouse and real keys: as a twin, and in JupyterLab with a process behind it that outlives the page."
import re
import sys
import textwrap
import time

import pytest
from playwright.sync_api import expect

from reidbench.train.watch import Diary


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    "Two finished stages, told by hand."
    from reidbench.widgets import TrainingRun

    place = tmp_path_factory.mktemp("runs")
    for stage, epochs in (("first", 4), ("second", 6)):
        diary = Diary(place / "two" / stage)
        diary.add("begin", title=f"{stage} <i>stage</i>", epochs=epochs, steps=10, epoch=0, step=0, curves={})
        for epoch in range(1, epochs + 1):
            diary.add("epoch", epoch=epoch, curves={"loss": 4 / epoch, **({"mAP": epoch / 10} if epoch % 2 == 0 else {})})
        diary.add("finished", epoch=epochs, step=0)
    (place / "two" / "run.json").write_text("{}")
    return TrainingRun(place, ["true"]).save(place / "run.html")


@pytest.mark.parametrize("dark, width", [(False, 1440), (True, 900)])
def test_twin(tab, twin, dark, width):
    tab = tab(dark=dark, width=width)
    page = tab.page
    page.goto(twin.as_uri())
    said, charts = page.locator(".rb-body > .rb-number"), page.locator(".rb-curves")
    assert charts.count() == 2 and said.inner_text() == "epoch 6: loss 0.667, mAP 0.600"
    charts.first.hover(position={"x": 45, "y": 80})
    assert said.inner_text() == "epoch 1: loss 4.000, mAP –"
    charts.first.focus()
    for key, told in (("ArrowRight", "epoch 2: loss 2.000, mAP 0.200"), ("End", "epoch 6: loss 0.667, mAP 0.600"), ("Home", "epoch 1: loss 4.000, mAP –")):
        page.keyboard.press(key)
        assert said.inner_text() == told
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="1 first <i>stage</i>").click()  # escaped
    assert said.inner_text() == "epoch 4: loss 1.000, mAP 0.400"
    assert page.get_by_role("button", name="start").count() == 0 and page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.picture(f"run_twin_{'dark' if dark else 'light'}_{width}")
    assert not tab.strangers() and not tab.errors


STAND_IN = textwrap.dedent("""
    import json, sys, time
    from pathlib import Path
    from reidbench.train.loop import ctrl_c
    from reidbench.train.watch import Diary
    folder, diary = Path(sys.argv[1]), Diary(sys.argv[1], every=0.2)
    start = json.loads((folder / "at.json").read_text()) if (folder / "at.json").exists() else 0
    diary.add("begin", title="stand-in", epochs=4000, steps=10, epoch=start, step=0, curves={"loss": [1.0] * start})
    with ctrl_c() as pressed:
        for epoch in range(start, 4000):
            for step in range(10):
                time.sleep(0.03)
                diary.often("step", lambda: {"epoch": epoch, "step": step, "steps": 10, "values": {"loss": 0.5}, "rate": 33.0, "left": 1.0})
            diary.add("epoch", epoch=epoch + 1, curves={"loss": 1 / (epoch + 1)})
            if pressed():
                (folder / "at.json").write_text(json.dumps(epoch + 1))
                diary.add("saved", epoch=epoch + 1, step=0)
                diary.add("stopped", epoch=epoch + 1, step=0, why="interrupted")
                sys.exit(130)
""")


def test_in_lab(notebook, tmp_path):
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    book = notebook("run.ipynb", [f"from reidbench.widgets import TrainingRun\nrun = TrainingRun({str(tmp_path / 'runs')!r}, [{sys.executable!r}, {str(script)!r}, '{{folder}}'])\nrun"])
    page, widget = book.page, book.widget("Training run")
    button = lambda name: widget.get_by_role("button", name=name, exact=True)  # noqa: E731
    status = widget.get_by_role("status")  # a locator finds its element anew each time: JupyterLab lays out a page's widgets again when the kernel answers
    says = lambda text: expect(status).to_contain_text(text, timeout=120_000)  # noqa: E731

    def moves():
        seen = status.inner_text()
        expect(status).not_to_have_text(seen, timeout=120_000)

    def reached(epoch):
        end = time.monotonic() + 120
        while (at := re.search(r"stand-in, epoch (\d+)/4000", status.inner_text())) is None or int(at[1]) < epoch:
            assert time.monotonic() < end, status.inner_text()
            page.wait_for_timeout(100)
        return int(at[1])

    says("No run yet")
    assert button("stop").is_disabled() and button("resume").is_disabled()
    button("start").focus()
    page.keyboard.press("Enter")
    reached(3)
    assert button("start").is_disabled() and button("stop").is_enabled()
    moves()
    book.tab.picture("run_lab")
    book.save()
    book.open()  # the page is loaded again: the run has gone on meanwhile
    says("stand-in, epoch")
    moves()  # what the page shows first is what was saved with it: no kernel hears a click on that
    moves()
    button("stop").click()
    says("stand-in: stopped at epoch")
    stopped = int(re.search(r"epoch (\d+),", status.inner_text())[1])
    button("resume").click()
    assert reached(stopped + 1) < stopped + 100  # not from the beginning, and not another run
    with page.expect_download() as found:
        button("JSONL").click()
    assert found.value.path().read_text().count('"begin"') == 2
    button("stop").click()
    says("stopped at epoch")
    assert not book.tab.strangers() and not book.tab.errors
