"What the widgets promise before anybody looks at one."
import importlib
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import reidbench.widgets as widgets
from reidbench.widgets.base import module
from reidbench.widgets.score_slider import Renderer
from reidbench.widgets.workbench import answering, moved

SCRIPTS = sorted(p.stem for p in Path(widgets.__file__).parent.glob("*.js") if p.stem not in ("base", "twin"))


def test_names_come_late(python):
    found = python("import sys, reidbench.widgets; print('anywidget' in sys.modules, 'torch' in sys.modules); from reidbench.widgets import Session; print(Session.__name__)")
    assert found.stdout.split() == ["False", "False", "Session"], found.stderr


@pytest.mark.parametrize("name", ["ScoreSlider", "RankedList", "OcclusionView", "ActivationView", "DegradationMap", "QualityHistogram", "AttackTable",
                                  "PaperTable", "TrainingRun", "Workbench", "Session"])
def test_promised_names(name):
    assert getattr(widgets, name).__name__ == name and name in dir(widgets)


def test_a_wrong_name_is_told():
    with pytest.raises(AttributeError, match="it has Session"):
        widgets.Slider


@pytest.mark.parametrize("name", SCRIPTS)
def test_modules_are_small_and_alone(name):
    text = module(name)
    assert len(text.encode()) <= 10 * 1024
    assert "import " not in text and "http" not in text and "innerHTML" not in text and text.rstrip().endswith("export default{render};")


def test_every_script_has_a_widget():
    made = {getattr(widgets, n).js for n in widgets.__all__ if hasattr(getattr(widgets, n), "js")} - {None}
    assert made == set(SCRIPTS)


def test_scripts_are_shipped():
    "The files beside the modules belong to the package."
    from importlib.resources import files

    shipped = (Path(widgets.__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert '"reidbench.widgets" = ["*.js", "*.css"]' in shipped
    assert files("reidbench.widgets").joinpath("base.css").is_file() and importlib.import_module("reidbench.widgets.base").STATES


def test_a_run_that_could_not_be_read_is_told_again(tmp_path, monkeypatch):
    "What failed while looking is said, and where the run stands as soon as it can be read; a refused wish stays on the page."
    from reidbench.train.watch import Diary
    from reidbench.widgets import TrainingRun

    def fails():
        raise OSError("the disk is away")

    Diary(tmp_path / "run").add("begin", title="in a terminal", epochs=9, steps=10, epoch=3, step=0, curves={})
    run = TrainingRun(tmp_path)
    stands = run.state, run.status
    with monkeypatch.context() as broken:
        broken.setattr(run, "_picture", fails)
        run.look()
        assert run.state == "error" and "the disk is away" in run.status
    run.look()
    assert (run.state, run.status) == stands
    run.answer({"act": "resume", "id": 1})
    run.look()
    assert run.state == "error" and "was not started here" in run.status


def test_points_of_person_0_narrow_the_list_to_her(colours):
    import pandas as pd

    from reidbench.widgets.workbench import Linked

    query = colours.query.assign(pid=colours.query["pid"] - 8)
    people = pd.concat([query, colours.gallery.assign(pid=colours.gallery["pid"] - 8)], ignore_index=True)
    ranked, at = SimpleNamespace(query=5, sequence=[]), int(people.index[people["pid"] == 0][-1])
    Linked.narrow(SimpleNamespace(session=SimpleNamespace(selected=(at - 1, at)), people=people, asks=range(len(query)), benchmark=SimpleNamespace(query=query),
                                  ranked=ranked, _narrowed=False))
    assert ranked.sequence == [0, 1] and ranked.query == 0


def test_what_a_look_failed_with_is_said_before_the_next_look(tmp_path, monkeypatch):
    "The thread's failure may not overwrite what a later look found."
    import threading

    from reidbench.train.watch import Diary
    from reidbench.widgets import TrainingRun

    Diary(tmp_path / "run").add("begin", title="in a terminal", epochs=9, steps=10, epoch=3, step=0, curves={})
    run = TrainingRun(tmp_path)
    stands, failing, fail, read = (run.state, run.status), threading.Event(), run.fail, run._read

    def slowly(error):
        failing.set()
        time.sleep(0.3)
        fail(error)

    def fails():
        raise OSError("the disk is away")

    monkeypatch.setattr(run, "fail", slowly)
    monkeypatch.setattr(run, "_read", lambda: fails() if threading.current_thread().name == "other" else read())
    other = threading.Thread(target=run.look, name="other")
    other.start()
    assert failing.wait(10)
    run.look()
    other.join()
    assert (run.state, run.status) == stands


class Norm(nn.Module):
    "A net whose statistics change with each look in train mode."

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images, scores=None):
        return self.norm(images).clamp(0, 1)

    def embed(self, images):
        return self.norm(images).mean((2, 3))

    def score(self, images):
        return self.norm(images).mean((1, 2, 3))


@pytest.mark.parametrize("ask", [
    lambda net, x: answering(net.forward)(x), lambda net, x: moved(net.score)(x), lambda net, x: Renderer(net.forward)(x[0], "quality", [0, 50, 100])[0],
    lambda net, x: Renderer(net.forward, net.score).estimate(x, "quality"),
    lambda net, x: Renderer(lambda images, s: images, None, net.embed)(x[0], "quality", [0, 1])[1]],
    ids=["answering", "moved", "adjust", "score", "embed"])
def test_a_net_in_train_mode_is_asked_in_eval_mode_and_left_as_it_was(ask):
    net, images = Norm().train(), torch.rand(4, 3, 8, 4)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = ask(net, images)
    assert net.training and net.norm.training and all(v.equal(before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(ask(net.eval(), images)))
