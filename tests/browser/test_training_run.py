"The training run with a real mouse and real keys: as a twin, and in JupyterLab with a process behind it that outlives the page."
import sys
import textwrap

import pytest

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
    page, says = book.page, "([w, text]) => w.querySelector('[role=status]').textContent.includes(text)"
    widget = book.widget("Training run")
    start, stop, resume = (widget.get_by_role("button", name=n, exact=True) for n in ("start", "stop", "resume"))
    page.wait_for_function(says, arg=[widget.element_handle(), "No run yet"])
    assert stop.is_disabled() and resume.is_disabled()
    start.focus()
    page.keyboard.press("Enter")
    reached = "([w, least]) => +(w.querySelector('[role=status]').textContent.match(/stand-in, epoch (\\d+)\\/4000/)?.[1] ?? 0) >= least"
    page.wait_for_function(reached, arg=[widget.element_handle(), 3])
    assert start.is_disabled() and stop.is_enabled()
    seen = widget.get_by_role("status").inner_text()
    page.wait_for_function("([w, text]) => w.querySelector('[role=status]').textContent !== text", arg=[widget.element_handle(), seen], timeout=3000)  # it moves
    book.tab.picture("run_lab")
    book.save()
    book.open()  # the page is loaded again: the run has gone on meanwhile
    widget = book.widget("Training run")
    page.wait_for_function(says, arg=[widget.element_handle(), "stand-in, epoch"])
    widget.get_by_role("button", name="stop", exact=True).click()
    page.wait_for_function(says, arg=[widget.element_handle(), "stand-in: stopped at epoch"])
    stopped = int(widget.get_by_role("status").inner_text().split("epoch ")[1].split(",")[0])
    widget.get_by_role("button", name="resume", exact=True).click()
    page.wait_for_function(reached, arg=[widget.element_handle(), stopped + 1], timeout=20_000)  # not from the beginning
    with page.expect_download() as found:
        widget.get_by_role("button", name="JSONL").click()
    assert found.value.path().read_text().count('"begin"') == 2
    widget.get_by_role("button", name="stop", exact=True).click()
    page.wait_for_function(says, arg=[widget.element_handle(), "stopped at epoch"])
    assert not book.tab.strangers() and not book.tab.errors
