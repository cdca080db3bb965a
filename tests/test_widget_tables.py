"The two tables: every query under attack, and every paper's figures beside ours."
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import reidbench.widgets as widgets
from reidbench.attacks.base import attacked
from reidbench.attacks.feature import FNA, IFGSM, LTA
from reidbench.attacks.generative import DMR
from reidbench.data.benchmarks import from_frame
from reidbench.studies.papers import Papers, Place
from reidbench.studies.runner import Study
from reidbench.widgets import AttackTable, PaperTable, Session
from reidbench.widgets.attack_table import at_eps
from reidbench.widgets.base import held
from reidbench.widgets.paper_table import FIELDS, Invented, packed
from reidbench.widgets.ranked_list import stripes

SIZE = (64, 32)
WEAK = dict(eps=8 / 255, step=2 / 255, iterations=3)


@pytest.mark.parametrize("name", ["AttackTable", "PaperTable"])
def test_promised_names(name):
    assert getattr(widgets, name).__name__ == name and name in dir(widgets)


# -- attacks -----------------------------------------------------------------------------------------------------------

class Pale(torch.nn.Module):
    "A model with a mode and weights of its own."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.drop = torch.nn.Linear(18, 6), torch.nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(self.layer(stripes(images)))


@pytest.mark.parametrize("attack", [IFGSM(**WEAK), FNA(**WEAK), LTA(**WEAK)], ids=lambda a: a.name)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_lines_are_what_attacked_says(colours, attack, metric):
    model = Pale().train()
    table = AttackTable(model, colours, {"it": attack}, size=SIZE, metric=metric).wait()
    assert table.state == "ready" and model.training and all(p.requires_grad for p in model.parameters())
    told = attacked(colours, model, attack, size=SIZE, together=512 if attack.needs == ("pids",) else 16)
    lines = np.array(table.lines(), dtype=float)
    assert lines[:, 0].tolist() == list(range(len(colours.query)))
    if metric == "euclidean":
        assert lines[:, 1].tolist() == told.before.rank1.tolist() and lines[:, 2].tolist() == told.after.rank1.tolist()
        assert np.allclose(lines[:, 3:], told.table[["own before", "own after", "wrong before", "wrong after"]], atol=1e-4)
    else:
        assert np.allclose(lines[:, 5:], told.table[["wrong before", "wrong after"]] ** 2 / 2, atol=1e-4)
    assert (lines[:, 4] > lines[:, 3]).any()


def test_small_batches_tell_the_same(colours):
    tables = [AttackTable(stripes, colours, {"LTA": LTA(**WEAK)}, size=SIZE, together=n).wait() for n in (3, 100)]
    assert len(tables[0].chunks) > len(tables[1].chunks) == 1
    assert np.allclose(*(np.array(t.lines(), dtype=float) for t in tables), atol=2e-3)


@pytest.mark.filterwarnings("ignore:.*every gradient was zero")
def test_a_model_that_rounds_does_not_pass_for_a_robust_one(colours):
    table = AttackTable(lambda images: stripes((images * 255).round() / 255), colours, {"it": IFGSM(**WEAK), "none": lambda embed, images, **more: images},
                        size=SIZE).wait()
    assert "every gradient was zero" in table.status
    table.attack = "none"
    assert "gradient" not in table.wait().status


def test_results_are_kept_per_attack_and_eps(colours):
    asked = []

    class Counted(LTA):
        def __call__(self, embed, images, **more):
            asked.append((round(255 * self.eps), len(images)))
            return super().__call__(embed, images, **more)

    table = AttackTable(stripes, colours, {"a": Counted(**WEAK), "b": Counted(**WEAK)}, size=SIZE, together=512).wait()
    for change in (dict(eps=2.0), dict(metric="cosine"), dict(eps=8.0), dict(attack="b"), dict(metric="euclidean"), dict(attack="a"), dict(eps=2.0)):
        for name, value in change.items():
            setattr(table, name, value)
        table.wait()
    assert asked == [(8, len(colours.query)), (2, len(colours.query)), (8, len(colours.query))]
    assert len(table.lines()) == len(colours.query) and "# eps: 2/255\n# steps: 3\n" in table.file(".csv").decode()


def test_a_newer_wish_ends_an_older_one(colours):
    def slow(images):
        time.sleep(0.05)
        return stripes(images)

    table = AttackTable(slow, colours, {"slow": LTA(**WEAK), "quick": lambda embed, images, **more: images}, size=SIZE, together=1)
    while not table.lines():
        time.sleep(0.02)
    table.attack = "quick"
    table.wait()
    assert table.state == "ready" and table.status.startswith("quick: Rank-1") and 0 < table.made["slow", 8.0].done < len(colours.query)
    table.attack = "slow"  # and is gone on with
    assert table.wait().made["slow", 8.0].done == len(colours.query) and not table.left


def test_session_is_followed_and_set(colours):
    session = Session()
    one, other = (AttackTable(stripes, colours, {"it": LTA(**WEAK)}, size=SIZE, session=session).wait() for _ in range(2))
    one.opened = 2
    assert session.query == 2 and other.opened == 2 and other.wait().pictures and one.wait().pictures
    session.query = 10_000  # a query that is not there
    assert one.opened == 2
    one.opened = -1
    assert session.query == 10_000 and other.opened == 2


def test_an_attack_whose_step_is_a_method_gets_its_eps():
    "DMR trains by steps; what it has learned stays."
    attack = DMR(eps=8 / 255)
    attack.generator = torch.nn.Identity()
    other = at_eps(attack, 4)
    assert other.eps == 4 / 255 and attack.eps == 8 / 255 and other.generator is attack.generator
    assert at_eps(IFGSM(eps=8 / 255, step=8 / 255), 4).step == 4 / 255


def test_queries_without_a_match_have_no_figure(colours):
    query = colours.query.copy()
    query.loc[0, "pid"], query.loc[len(query) - 1, "pid"] = 999, -1
    table = AttackTable(stripes, replace(colours, query=query), {"it": LTA(**WEAK)}, size=SIZE, together=1).wait()
    assert table.state == "ready" and table.lines()[0][1:5] == [None] * 4 and table.lines()[0][6] is None and table.lines()[1][3] is not None and not table.left
    table.opened = 0
    assert table.wait().trio(0) is None and not table.pictures and table.state == "ready"  # it was not attacked: there is nobody to hide from
    table.sort, table.falling = 3, True
    assert [v[0] for v in table.seen()[-2:]] == [0, len(query) - 1]  # last, whichever way it is sorted
    assert table.file(".tex").decode().count("999") == 1 and "NaN" not in table.static_html()


@pytest.fixture
def noisy(tmp_path):
    "Sixty queries of noise at 256 x 128, which JPEG hates, under names that a page must not believe."
    rng, rows = np.random.default_rng(0), []
    for i in range(62):
        path = tmp_path / (f"{i:04d}_<img src=x onerror=alert(1)>&_$.png" if i % 2 else f"{i:04d}_{{x}}.png")
        Image.fromarray(rng.integers(0, 256, (256, 128, 3), dtype=np.uint8)).save(path)
        rows.append({"path": str(path), "pid": i % 2, "camid": 1 if i < 60 else 2, "split": "query" if i < 60 else "gallery"})
    return from_frame(pd.DataFrame(rows), "noisy")


def test_twin_holds_forty_rows_and_no_markup(noisy, tmp_path):
    table = AttackTable(stripes, noisy, {"</script><b>": LTA(**WEAK)}).wait()
    table.sort, table.falling = 0, True
    text = table.static_html()
    assert len(text) < 1e6 and text.count("</script>") == 2 and "<img src=x" not in text.replace("\\u003c", "")
    values = held(table)
    assert {int(k.split("|")[2]) for k in values["pictures"]} == set(range(20, 60)) and all(len(trio) == 3 for trio in values["pictures"].values())
    assert str(tmp_path) not in text  # no folder of this machine
    assert r"\_\{x\}.png" in table.file(".tex").decode() and r"\&\_\$" in table.file(".tex").decode()


def test_wrong_arguments_are_named(colours):
    with pytest.raises(ValueError, match="give a dict of one or more names"):
        AttackTable(stripes, colours, {"it": "LTA"})
    with pytest.raises(ValueError, match="needs 'market' or 'cuhk03-new'"):
        AttackTable(stripes, colours, protocol="single-gallery-shot")


# -- papers ------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def pages(root):
    return Papers(root / "data" / "records", root=root / "nowhere")


@pytest.mark.parametrize("place", ["the paper's sets, paper budget", "street, small budget"])
def test_a_missing_cell_never_shows_a_number(pages, place):
    for name in pages.tables:
        for line in pages.page(name, place)["lines"]:
            sent = dict(zip(FIELDS, packed(line)))
            if line["state"] != "done":
                assert line["ours"] is None and line["difference"] is None and line["seeds"] == 0 and sent["ours"] is sent["difference"] is sent["sd"] is None and sent["why"]
            else:
                assert not line["same"] and line["different"]  # every record that ships is of the street at a small budget
            assert line["state"] != "needs a set" or re.search(r"^needs .+ at .+/nowhere/", line["why"])


def test_every_command_is_one_that_the_study_takes(pages, root):
    "Read by the command line's own parser, the words mean the place and the row that they came from."
    from typer.main import get_command

    from reidbench.cli import _there, app, options

    study = get_command(app).commands["study"]
    places = {"street, other settings": Place("street", budget="small", seeds=(0, 4), changes=(("epochs", 2), ("size", (128, 64)))),
              "a pair": Place("market1501", "dukemtmc-reid", seeds=(5,))}
    taken = Papers(pages.records, root=root / "nowhere", folder="elsewhere", places={**pages.all_places, **places},
                   names=["aos/table1", "jad/table2", "jad/table4", "msfl/table3"])
    count = 0
    for name, label, place in ((n, *p) for n in taken.tables for p in taken.all_places.items()):
        for row in {line["row"] for line in taken.page(name, label)["lines"]}:
            if words := taken.command(name, label, row):
                assert words[:2] == ["reidbench", "study"]
                given = study.make_context("study", words[2:])
                said, count = given.params, count + 1
                # no other table takes a second set
                assert (said["table"], said["on"], said["other"], said["budget"],
                        said["rows"]) == (name, place.on, place.other if name == "jad/table2" else None, place.budget, row)
                assert (said["root"], said["folder"]) == (root / "nowhere", Path("elsewhere")) and said["seeds"] == {3: "3", (0, 4): "0,4,", (5,): "5,"}[place.seeds]
                for option in ("on", "other"):
                    _there(option, said[option], said["root"])
                whole = dict(root=said["root"], on=said["on"], other=said["other"], budget=said["budget"], rows=said["rows"].split("|"), seeds=1, build=False)
                try:
                    plan = Study(name, **whole)
                except ValueError as error:
                    assert "give other=" in str(error) and place.other is None
                    continue
                assert plan.runs and all(run.row == row for run in plan.runs)
                changes = options(list(dict.fromkeys(type(job.settings) for job in plan.jobs)), given.args)
                assert changes == dict(place.changes) and Study(name, **whole, changes=changes).budget == place.made
    assert count > 40


def test_later_folders_win_and_reading_again_sees_new_files(pages, tmp_path, root):
    shipped = pages.page("aos/table3", "street, small budget")["lines"][0]
    file = root / shipped["runs"][0][2]
    record = json.loads(file.read_text())
    record["metrics"]["Rank-1"] = 0.01
    mine = Papers([root / "data" / "records", tmp_path], names=["aos/table3"])
    assert mine.page("aos/table3", "street, small budget")["lines"][0]["ours"] == shipped["ours"]
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / file.name).write_text(json.dumps(record))
    table = PaperTable(mine).wait()
    table.again()
    line = dict(zip(FIELDS, table.wait().page()["lines"][0]))
    assert line["ours"] < shipped["ours"] and str(tmp_path) in line["runs"][0][2] and line["runs"][0][1] == 1.0


def test_tolerance_judges_only_the_same_experiment():
    table = PaperTable(tolerance=5).wait()
    assert {v["verdict"][:1] for v in table.seen()} == {"≠", ""}
    table.place = table.places[0]
    assert [v["verdict"][:1] for v in table.wait().seen()][:4] == ["✓", "✓", "✓", "✗"]
    assert table.table()["same experiment"].tolist()[:4] == [True] * 4
    tex = table.file(".tex").decode()
    assert "% not the same experiment: as in the paper" in tex and r"\begin{tabular}" in tex


def test_markup_in_names_stays_text():
    class Nasty(Invented):
        tables = {"</script><b>x</b>": "<i>title</i>"}

        def command(self, table, place, row):
            return ["echo", "a b", "$(rm -rf /)"]

    text = PaperTable(Nasty()).wait().static_html()
    assert text.count("</script>") == 2 and "<b>x" not in text and "<i>title" not in text and "'$(rm -rf /)'" in text


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match="no table 'aos': there are demo/table1"):
        PaperTable(name="aos")
    with pytest.raises(ValueError, match="did you mean 'aos/table"):
        Papers(names=["aos/table"])
    assert PaperTable().wait().picture().width > 200


def test_a_row_is_run_from_the_widget(tmp_path, root):
    "One epoch on twelve rendered people: the cell gets its figure, the page is read again."
    from reidbench.data.street import build

    build(tmp_path, identities=12, workers=1, progress=False)
    quick = Place("street", budget="small", seeds=(0,), changes=(("epochs", 1), ("size", (64, 32)), ("p", 0), ("k", 8), ("precision", "no")))
    table = PaperTable(Papers(tmp_path / "studies" / "records", root=tmp_path, folder=tmp_path / "studies", places={"one epoch": quick},
                              names=["aos/table3"])).wait()
    row = next(iter(table.page()["commands"]))
    assert all(v["ours"] is None and v["why"] == "not run yet" for v in table.seen())
    heard = []
    table.observe(lambda change: heard.append(change.new), "status")
    table.run(row)
    table.finish(300)
    assert table.state == "ready" and "done in" in table.status, (table.status, table.details)
    made = [v for v in table.seen() if v["row"] == row]
    assert made and all(v["ours"] is not None and v["seeds"] == 1 for v in made) and any("running" in h for h in heard)
    assert made[0]["different"] and "epochs-1" in made[0]["different"] and made[0]["verdict"][:1] in ("≠", "")


def test_what_fails_to_start_is_said():
    class Gone(Invented):
        def command(self, table, place, row):
            return ["/no/such/program"]

    table = PaperTable(Gone()).wait()
    table.run("Baseline")
    assert table.state == "error" and "/no/such/program" in table.status and not table.running
    table.papers.command = lambda *where: [sys.executable, "-c", "print('fine')"]
    table.run("Baseline")
    assert table.finish(60).state == "ready" and "done in" in table.status
