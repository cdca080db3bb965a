"Studies as they happen: shared models, stages and attacked pictures, failed seeds, missing sets, records of other versions."
import json
import os
import re
import shlex
import shutil
import sys
import threading
import time
import types
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import Timeout
from PIL import Image
from safetensors.torch import save
from scipy.stats import t as student

from reidbench.core.record import LATER, Record, write_whole
from reidbench.metrics.ranking import Embeddings, compare, evaluate
from reidbench.studies import compare as comparing
from reidbench.studies import runner, tables
from reidbench.studies.compare import Results, paired
from reidbench.studies.runner import Budget, Study, record_name, source
from reidbench.studies.tables import Cell, DataSet, Figure, Run, Table, slug

TINY = DataSet("Tiny", "tiny")
QUICK = dict(epochs=2, p=0, triplet=0.0, k=8, size=(64, 32), warmup=0, precision="no", last_stride=1, device="cpu")


def rows(*choices, method="identification", data=TINY):
    "A table with one row a choice."
    cells = [Cell("own/table", name, "Tiny", m, Figure(note="ours"), "reidbench", (Run("own/table", name, method, tuple(choice.items()), data, data),))
             for name, choice in choices for m in ("Rank-1", "mAP")]
    return Table("own/table", "A table of our own", tuple(n for n, _ in choices), (("Tiny", "Rank-1"), ("Tiny", "mAP")), tuple(cells),
                 ((choices[1][0], choices[0][0]),) if len(choices) > 1 else ())


TWO = (("low", {"dropout": 0.1}), ("high", {"dropout": 0.5}))


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    "A folder with one tiny set in Market-1501's layout."
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    for pid in range(1, 13):
        top, bottom = rng.uniform(40, 220, (2, 3))
        for camid in range(1, 4):
            for k in range(2):
                split = "bounding_box_train" if pid <= 8 else "query" if camid == 1 and k == 0 else "bounding_box_test"
                picture = np.where(np.arange(64)[:, None, None] < 34, top, bottom) * (0.8 + 0.15 * camid) + rng.normal(0, 14, (64, 32, 3))
                path = root / "tiny" / split / f"{pid:04d}_c{camid}s1_{k:06d}_00.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)
    return root


def study(sets, folder, **more):
    return Study(more.pop("table", rows(*TWO)), root=sets, folder=folder, budget="small", **{"seeds": 2, "changes": QUICK, **more})


def what_counts(folder):
    "All records without times."
    found = {}
    for file in Path(folder).rglob("records/*/*.json"):
        record = json.loads(file.read_text())
        for free in ("seconds", "memory", "created", "surroundings"):
            record.pop(free)
        record["details"].pop("training_seconds", None)
        found[file.name] = record
    return found


@pytest.fixture(scope="session")
def unbroken(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    study(sets, folder).run(quiet=True)
    return folder


def differ(folder, other):
    "Where two folders of records differ: file, place, both values (short, so that a report shows them)."
    mine, theirs = what_counts(folder), what_counts(other)
    found = [f"files {sorted(set(mine) ^ set(theirs))}"] if set(mine) != set(theirs) else []

    def walk(a, b, place):
        if isinstance(a, dict) and isinstance(b, dict):
            for key in sorted(set(a) | set(b)):
                walk(a.get(key), b.get(key), f"{place}.{key}")
        elif a != b:
            found.append(f"{place}: {str(a)[:80]} | {str(b)[:80]}")
    for name in sorted(set(mine) & set(theirs)):
        walk(mine[name], theirs[name], name)
    return found


def test_every_cell_has_its_record(unbroken, sets):
    made = study(sets, unbroken)
    assert made.states()["state"].tolist() == ["done"] * 4 and len(what_counts(unbroken)) == 4
    for run in made.runs:
        for seed in (0, 1):
            r = made.record(run, seed)
            assert r.seed == seed and r.settings["dropout"] == dict(run.choice)["dropout"] and r.weights and r.surroundings["versions"]["torch"] and r.memory > 0 and r.seconds > 0
            assert r.details["source"] == source()
            assert len(r.data["fingerprint"]) == 64 and len(r.curves["loss"]) == 2 and len(r.details["per_query"]["ap"]) == 4
            assert np.mean(r.details["per_query"]["ap"]) == pytest.approx(r.metrics["mAP"], abs=1e-4)


@dataclass
class _Noise:
    "Stands for DMR: counts its learnings, under whose lock, how long, by which dice."
    eps: float
    epochs: int = 50
    seed: int = 0
    rounded: bool = False
    precision: str = "fp32"
    needs, takes, name, asks, learnt = (), (), "DMR", False, []

    def fit(self, model, benchmark, size, folder, quiet, device, alone):
        assert alone
        with pytest.raises(Timeout):
            runner.FileLock(Path(folder) / "generator.lock").acquire(blocking=False)
        if not (Path(folder) / "generator.safetensors").is_file():
            self.learnt.append((Path(folder).parent.name, self.epochs, self.seed, tuple(size), len(benchmark.train)))
            write_whole(Path(folder) / "generator.safetensors", "")
        return self

    def __call__(self, embed, images, pids=None, guides=None):
        return (images + self.eps * (self.seed - 1)).clamp(0, 1)


def test_a_generator_learns_once_against_its_source(sets, tmp_path, monkeypatch):
    "For all rows of a seed: on the source's model, for as many epochs at most, with the seed's dice; of several processes in the first."
    from reidbench.nets.identity import IdentityNet

    monkeypatch.setitem(sys.modules, "noise", types.ModuleType("noise"))
    sys.modules["noise"].Noise, _Noise.learnt = _Noise, []
    monkeypatch.setitem(tables.TOOLS, "DMR", "noise:Noise")
    monkeypatch.setitem(runner.SMALLER, "DMR", {})
    monkeypatch.setattr(runner, "model_of", lambda folder, method, device=None: IdentityNet("resnet18", 8, neck="plain", last_stride=1).eval())
    tool = tables.Tool("DMR", (("eps", 16 / 255),), source="resnet34")
    cells = tuple(replace(c, runs=(replace(c.run, attack=tool, rerank=rerank),), group=f"{rerank}") for c in rows(*TWO).cells[::2] for rerank in (False, True))
    made = study(sets, tmp_path, table=replace(rows(*TWO), cells=cells), seeds=(1,), changes={**QUICK, "epochs": 1}).run(quiet=True)
    assert set(made.states()["state"]) == {"done"}, made.states()["why"].tolist()
    makers = {job.seed: job for job in made.jobs if not job.searches}
    assert sorted(_Noise.learnt) == sorted((job.key, 1, seed, (64, 32), 48) for seed, job in makers.items())
    for run in made.runs:
        for seed, maker in makers.items():
            told = made.record(run, seed).details["attack"]
            assert told["seed"] == seed and told["source"] == Record.load(tmp_path / "trainings" / maker.key / "record.json").weights

    job, run = next(job for job in made.jobs if job.searches), made.runs[0]
    ready = lambda run=run, job=job: runner._aimed(run, job, IdentityNet("resnet18", 8), tmp_path / "trainings", sets)
    assert ready()[0].seed == job.seed and ready()[1] is None
    attack, source = ready(replace(run, attack=replace(tables.SMA, source="resnet34")))  # one that need not learn
    assert attack.seed == job.seed == 1 and source is not None and ready(replace(run, attack=tables.FGSM))[1] is None
    shutil.rmtree(tmp_path / "trainings")  # all is done: the source is not trained again either
    assert not list(made.run(quiet=True).folder.glob("trainings/*"))


def test_searches_share_attacked_pictures(sets, tmp_path, monkeypatch):
    from reidbench.attacks.feature import SMA

    run, (cell, *_) = rows(*TWO[:1]).cells[0].run, rows(*TWO[:1]).cells
    runs = {"bare": {}, "scaled": dict(defence=tables.CS), "re-ranked": dict(rerank=True),
            "known": dict(defence=tables.CS, attack=replace(tables.SMA, adaptive=True))}
    cells = tuple(replace(cell, row=name, runs=(replace(run, **{"row": name, "attack": tables.SMA, **change}),)) for name, change in runs.items())
    made, attack = [], SMA.attack
    monkeypatch.setattr(SMA, "attack", lambda self, *rest: made.append(1) or attack(self, *rest))
    done = study(sets, tmp_path, table=replace(rows(*TWO[:1]), rows=tuple(runs), cells=cells), seeds=1).run(quiet=True)
    assert done.states()["state"].tolist() == ["done"] * 4 and len(made) == 2  # one for the attacker who does not know, one for him who does
    place = tmp_path / "trainings" / done.jobs[0].key
    for search in done.runs:  # each by itself gives the same
        alone, kept = runner.found(search, done.jobs[0], place, Record.load(place / "record.json"), sets), done.record(search, 0)
        assert alone.details["per_query"] == kept.details["per_query"] and kept.details["attack"]["seconds"] > 0
        assert all(alone.details["attack"][k] == pytest.approx(kept.details["attack"][k]) for k in ("own", "wrong", "before"))


def test_memory_is_the_peak_since_it_was_reset():
    from reidbench.core.record import peak_memory, reset_peak_memory

    reset_peak_memory()
    np.ones(40_000_000).sum()  # 305 MiB, gone again
    before = peak_memory()
    reset_peak_memory("cpu")
    after = peak_memory()
    assert 0 < after <= before and (after < before - 200 or not os.access("/proc/self/clear_refs", os.W_OK))


def test_each_training_and_each_search_has_its_own_memory(sets, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(runner, "reset_peak_memory", lambda device: told.append(device.type))
    monkeypatch.setattr(runner, "peak_memory", lambda device: 10.0**6 * len(told))
    made = study(sets, tmp_path, table=rows(*TWO[:1]), seeds=1, changes={**QUICK, "epochs": 1}).run(quiet=True)
    assert told == ["cpu", "cpu"] and made.record(made.runs[0], 0).memory == 2 * 10**6


# -- two runs, one folder; trainings that were thrown away ------------------------------------------------------------

@pytest.fixture
def instant(monkeypatch):
    "The methods `first` and `follower`, which starts from it, trained and searched in no time; the list of trainings. Each training has weights of its own."
    trainings = []

    def method(name):
        module = types.ModuleType(name)
        module.Settings, module.small = _Settings, lambda settings, **own: replace(settings, **own)

        def train(benchmark, settings, folder, quiet, **more):
            assert all(runner.finished(place) for place in more.values())
            trainings.append((name, settings.kind))
            if settings.kind == "bad":
                raise RuntimeError("it diverged")
            write_whole(Path(folder) / "model.safetensors", save({}))
            Record(name, settings=runner.what(settings), data={"fingerprint": benchmark.fingerprint()},
                   weights=f"{name} {settings.kind} {len(trainings)}").save(Path(folder) / "record.json")

        module.train = train if name == "first" else lambda benchmark, settings, folder, quiet, start: train(benchmark, settings, folder, quiet, start=start)
        return module

    def found(run, job, folder, training, root, kept=None):
        return runner._record(run, job, training.settings, {}, metrics={"Rank-1": 0.5, "mAP": 0.25}, data={"fingerprint": run.test.load(root).fingerprint()},
                              weights=training.weights)

    for name in ("follower", "first"):
        monkeypatch.setitem(sys.modules, name, method(name))
        monkeypatch.setitem(tables.METHODS, name, f"{name}:Settings")
        monkeypatch.setitem(tables.FIELDS, name, {"kind": "kind"})
    monkeypatch.setitem(tables.STARTS_FROM, "follower", "first")
    monkeypatch.setattr(runner, "found", found)
    return trainings


AB = (("a", {"kind": "a"}), ("b", {"kind": "b"}))


def pair(sets, folder, **more):
    return study(sets, folder, **{"table": rows(*AB, method="follower"), "changes": {}, "seeds": 1, **more})


@pytest.mark.parametrize("brought", [True, False], ids=["trained there", "given up there"])
def test_followers_wait_for_a_start_that_another_run_holds(instant, sets, tmp_path, brought):
    made = pair(sets, tmp_path)
    start, holds = made.jobs[0], threading.Event()
    assert start.run.method == "first" and not start.searches

    def other():
        with runner.lock(tmp_path, start.key):
            holds.set()
            time.sleep(0.5)
            if brought:
                runner.trained(start, made.root, tmp_path / "trainings")

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    assert holds.wait(10)
    made.run(quiet=True)
    thread.join()
    assert made.states()["state"].tolist() == ["done", "done"], made.states()["why"].tolist()
    assert instant == [("first", "plain"), ("follower", "a"), ("follower", "b")]


def test_who_looks_is_not_taken_for_one_who_works(tmp_path, monkeypatch):
    with runner.lock(tmp_path, "job") as mine:
        assert runner.locked(tmp_path, "job") and not runner.locked(tmp_path, "another")
        monkeypatch.setattr(runner.time, "sleep", lambda seconds: mine.release())  # in the pause the other one is done with looking
        assert not runner.locked(tmp_path, "job")


def test_a_job_that_another_run_has_just_done_is_not_begun(instant, sets, tmp_path, monkeypatch, capsys):
    "Between the look whether it is done and its lock."
    made, lock = pair(sets, tmp_path, table=rows(("a", {}), method="first")), runner.lock

    def held(folder, key):
        if not instant:
            runner.work_off(made.jobs[0], made.root, made.folder)
        return lock(folder, key)

    monkeypatch.setattr(runner, "lock", held)
    made.run()
    assert len(instant) == 1 and "running" not in capsys.readouterr().err and made.states()["state"].tolist() == ["done"]


def test_done_cells_train_nothing(instant, sets, tmp_path):
    "Not the models that they start from either; where one cell is made again, its start is, and what was searched with a start that is now another."
    with_start = replace(rows(*AB, method="follower"), cells=rows(("first", {}), method="first").cells + rows(*AB, method="follower").cells)
    made = pair(sets, tmp_path, table=with_start).run(quiet=True)
    first, a, b = made.runs
    assert len(instant) == 3 and made.record(first, 0).weights == "first plain 1"
    shutil.rmtree(tmp_path / "trainings")
    pair(sets, tmp_path, table=with_start).run(quiet=True)
    pair(sets, tmp_path).run(quiet=True)  # here the start has no search of its own
    assert len(instant) == 3
    runner.record_file(tmp_path, made.budget, a, 0).unlink()
    pair(sets, tmp_path, table=with_start).run(quiet=True)
    assert instant[3:] == [("first", "plain"), ("follower", "a")]
    assert [made.record(run, 0).weights for run in (first, a, b)] == ["first plain 4", "follower a 5", "follower b 3"] and set(made.states()["state"]) == {"done"}


def test_a_cell_of_another_training_is_made_again(instant, sets, tmp_path):
    made = pair(sets, tmp_path, table=rows(*AB, method="first")).run(quiet=True)
    place = tmp_path / "trainings" / made.jobs[0].key
    replace(Record.load(place / "record.json"), weights="another").save(place / "record.json")
    assert made.states()["state"].tolist() == ["waiting", "done"]
    assert made.run(quiet=True).states()["state"].tolist() == ["done", "done"] and made.record(made.runs[0], 0).weights == "another" and len(instant) == 2
    shutil.rmtree(place)  # no training there: the record counts as it is
    assert made.states()["state"].tolist() == ["done", "done"]


def test_a_table_says_where_it_shows_several_models_of_one_training(instant, sets, tmp_path):
    run, (cell, *_) = rows(("a", {}), method="first").cells[0].run, rows(("a", {}), method="first").cells
    again = tuple(replace(cell, group=group, runs=(replace(run, rerank=rerank),)) for group, rerank in (("Tiny", False), ("re-ranked", True)))
    whole = replace(rows(("a", {}), method="first"), columns=(("Tiny", "Rank-1"), ("re-ranked", "Rank-1"), ("after", "Rank-1")),
                    cells=(*again, replace(rows(("b", {"kind": "b"}), method="follower").cells[0], group="after")))
    made = pair(sets, tmp_path, table=whole, seeds=2).run(quiet=True)
    notes = lambda: Results(whole, tmp_path / "records", budget=made.budget).frame()["notes"].tolist()
    assert notes() == ["", "", ""]
    file = runner.record_file(tmp_path, made.budget, made.runs[1], 1)
    replace(Record.load(file), weights="another").save(file)
    file = runner.record_file(tmp_path, made.budget, made.runs[2], 0)
    replace(Record.load(file), details={**Record.load(file).details, "start": "another"}).save(file)
    assert notes() == ["", "seed 1: not the same training as a, Tiny", "seed 0: did not start from a, Tiny"]


def test_the_home_folder_may_be_written_short(instant, sets, tmp_path, monkeypatch):
    from reidbench.cli import _study

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sets").symlink_to(sets)
    made = pair("~/sets", "~/study").run(quiet=True)
    assert (made.root, made.folder) == (sets.resolve(), tmp_path / "study") and set(made.states()["state"]) == {"done"}
    monkeypatch.setitem(tables.TABLES, "own/table", rows(*AB, method="follower"))
    plan, results = _study([], "own/table", Path("~/sets"), None, None, "1", "small", "local", None, Path("~/study"), False, True)
    assert plan.folder == made.folder and results.frame()["seeds"].eq(1).all() and len(instant) == 3


def test_a_source_comes_before_whoever_needs_it(instant, sets, tmp_path):
    "Also where that one is itself needed by one that was planned before; and a model that noise is made on may be the attacked one."
    noise = tables.Tool("SMA", source="resnet50")
    start = Run("t", "normal", "jad", (("training", "normal"),), TINY, TINY, attack=noise)
    runs = (Run("t", "AT", "jad", (("training", "AT"), ("adversary", "SMA")), TINY, TINY), start)
    jobs, _ = runner.plan(runs, (0, 1), Budget("small"))
    places = {job.key: k for k, job in enumerate(jobs)}
    assert len(jobs) == 6 and all(places[need] < places[job.key] for job in jobs for need in job.needs) and max(len(job.needs) for job in jobs) == 1
    (own,), _ = runner.plan((Run("t", "own", "identification", (("backbone", "resnet50"),), TINY, TINY, attack=noise),), (0,), Budget("paper"))
    assert own.sources == (("resnet50", own.key),) and own.needs == ()
    each = [Run("t", mine, "identification", (("backbone", mine),), TINY, TINY, attack=tables.Tool("SMA", source=other))
            for mine, other in (("resnet50", "densenet121"), ("densenet121", "resnet50"))]
    with pytest.raises(ValueError, match="waits for the other's model .*two tables"):
        runner.plan(each, (0,), Budget("paper"))


def test_changes_in_another_order_are_the_same_budget(instant, sets, tmp_path):
    "Records that lie in a folder of the former spelling stand, and are made again where they lie."
    one, other = Budget("small", (("p", 3), ("kind", "a-b"))), Budget("small", (("kind", "a-b"), ("p", 3)))
    assert one.label == other.label == "small-kind-a-b-p-3"
    for name in ("small-p-3-kind-a-b", "small-p-3", "small-p-3-kind-a", "small-p-3-kind-a-b-size-3", "paper-p-3-kind-a-b"):
        (tmp_path / name).mkdir()
    assert one.folders(tmp_path) == other.folders(tmp_path) == [tmp_path / "small-kind-a-b-p-3", tmp_path / "small-p-3-kind-a-b"]

    changes = {"size": (32, 16), "backbone": "resnet34"}
    made = pair(sets, tmp_path / "study", changes=changes).run(quiet=True)
    new = tmp_path / "study" / "records" / made.budget.label
    size = made.budget.label.removeprefix("small-backbone-resnet34-")  # with the digits that stand for its brackets
    old = new.rename(new.with_name(f"small-{size}-backbone-resnet34"))
    again = pair(sets, tmp_path / "study", changes=dict(reversed(changes.items())))
    assert set(again.states()["state"]) == {"done"} and len(instant) == 3
    assert Results(made.table, tmp_path / "study" / "records", budget=made.budget).frame()["seeds"].eq(1).all()
    write_whole(next(old.glob("*.json")), "{")
    again.run(quiet=True)
    assert set(again.states()["state"]) == {"done"} and not new.exists()


def test_of_two_records_of_a_cell_the_newer_counts(instant, sets, tmp_path):
    from reidbench.studies.papers import Papers, Place

    made = pair(sets, tmp_path, table=rows(("a", {}), method="first")).run(quiet=True)
    file = runner.record_file(tmp_path, made.budget, made.runs[0], 0)
    for name, created, ap in (("a-copy.json", "2020-01-01T00:00:00Z", 0.1), ("z-copy.json", "2020-01-02T00:00:00Z", 0.2)):
        replace(Record.load(file), created=created, metrics={"Rank-1": ap, "mAP": ap}).save(file.with_name(name))
    with pytest.warns(UserWarning) as told:
        assert Results(made.table, tmp_path / "records", budget=made.budget).frame()["ours"].tolist() == [50, 25]
    assert sorted(str(w.message) for w in told) == [f"left out: {file.with_name(name)}: {file} is a newer record of the same cell"
                                                    for name in ("a-copy.json", "z-copy.json")]
    papers = Papers(tmp_path / "records", places={"here": Place(budget="small")})
    found, files = papers.read(made.budget)
    assert found[made.runs[0].work][0].metrics["mAP"] == 0.25 and files[made.runs[0].work, 0] == file and len(papers.broken) == 2


def test_a_failure_elsewhere_hides_no_figures(instant, sets, tmp_path):
    from reidbench.studies.papers import Papers, Place

    made = pair(sets, tmp_path, table=rows(("a", {}), method="first")).run(quiet=True)
    file = runner.record_file(tmp_path, made.budget, made.runs[0], 0)
    bad = replace(Record.load(file), failure="RuntimeError: the disk has gone", metrics={}, created="2999-01-01T00:00:00Z")
    other = tmp_path / "other" / made.budget.label / file.name
    bad.save(other)
    found, files = Papers((tmp_path / "records", tmp_path / "other"), places={"here": Place(budget="small")}).read(made.budget)
    assert files[made.runs[0].work, 0] == file and found[made.runs[0].work][0].details["failed since"] == bad.failure
    bad.save(file.with_name("z-copy.json"))
    with pytest.warns(UserWarning, match=f"z-copy.json: {file} has figures, this later one failed"):
        told = Results(made.table, tmp_path / "records", budget=made.budget).frame()
    assert told["ours"].tolist() == [50, 25] and told["notes"].str.contains("tried again and failed").all()


@pytest.mark.parametrize("more", [dict(title="Mine"), dict(protocol="single-gallery-shot")], ids=["another title", "another protocol"])
def test_one_set_by_another_title_or_protocol_is_one_training(instant, sets, tmp_path, more):
    made = pair(sets, tmp_path, table=rows(("a", {}), method="first")).run(quiet=True)
    again = pair(sets, tmp_path, table=rows(("a", {}), method="first", data=replace(TINY, **more)))
    assert again.jobs[0].key == made.jobs[0].key
    assert again.states()["state"].tolist() == ["done" if "title" in more else "waiting"] and again.run(quiet=True).states()["state"].tolist() == ["done"]
    assert len(instant) == 1 and len(list((tmp_path / "records").rglob("*.json"))) == (1 if "title" in more else 2)


SLIPS = {"method": (dict(method="identificaton"), "no method 'identificaton': did you mean 'identification'"),
         "attack": (dict(attack=tables.Tool("FGMS")), "no attack or defence 'FGMS': did you mean 'FGSM'"),
         "protocol": (dict(test=replace(TINY, protocol="markt")), "no protocol 'markt': did you mean 'market'"),
         "degradation": (dict(degrade=("blurr", 3)), "no degradation 'blurr': did you mean 'blur'"),
         "severity": (dict(degrade=("blur", 7)), "no severity '7': there are: 0, 1, 2, 3, 4, 5, slight")}


@pytest.mark.parametrize("slip,said", SLIPS.values(), ids=SLIPS)
def test_a_slip_in_a_table_of_ones_own_is_told_at_once(sets, tmp_path, slip, said):
    own = rows(("a", {}))
    cells = tuple(replace(cell, runs=(replace(cell.run, **slip),)) for cell in own.cells)
    with pytest.raises(ValueError, match=re.escape(f"own/table (a, Tiny, Rank-1): {said}")):
        study(sets, tmp_path, table=replace(own, cells=cells))


@pytest.mark.parametrize("change,said", [(lambda c: (replace(c[0], metric="Rank-20"), *c[1:]), "no metric 'Rank-20': did you mean 'Rank-10'"),
                                         (lambda c: (*c, c[0]), "two cells stand in this place")], ids=["metric", "place"])
def test_a_place_that_can_never_be_filled_is_told_at_once(sets, tmp_path, change, said):
    own = rows(("a", {}))
    for ask in (lambda table: study(sets, tmp_path, table=table), lambda table: Results(table, {})):
        with pytest.raises(ValueError, match=said):
            ask(replace(own, cells=change(own.cells)))


def test_many_changes_make_no_folder_name_too_long(tmp_path):
    many = tuple((f"some_long_setting_{k}", k) for k in range(19))
    one, same, other = Budget("small", many), Budget("small", many[::-1]), Budget("small", (*many[1:], ("some_long_setting_0", 7)))
    assert len(one.label) <= 200 and one.label == same.label != other.label
    Record("a").save(tmp_path / one.label / record_name(rows(*TWO).cells[0].run, 0))


# -- progress ----------------------------------------------------------------------------------------------------------

def test_progress_counts_cells_and_what_others_make(instant, sets, tmp_path, capsys, monkeypatch):
    cells = tuple(replace(cell, runs=(replace(cell.run, rerank=rerank),), group=f"{cell.group} {rerank}")
                  for cell in rows(*AB, ("bad", {"kind": "bad"}), method="follower").cells for rerank in (False, True))
    several = replace(rows(*AB, method="follower"), cells=cells)
    pair(sets, tmp_path, table=several, rows=["a"]).run(quiet=True)
    capsys.readouterr()
    made = pair(sets, tmp_path, table=several)
    report = runner.Report(made)
    assert report.where() == "2 of 6 cells done" and [job.run.row for job in report.jobs] == ["b", "bad"]
    pair(sets, tmp_path, table=several, rows=["b"]).run(quiet=True)  # another run
    report.look()
    said = capsys.readouterr().err.splitlines()
    assert [re.sub(r"^\[[\d:]+\] ", "", line) for line in said] == [f"own/table:     b, Tiny, {how}, seed 0: Rank-1 50.0, mAP 25.0 ({n} of 6)"
                                                                    for n, how in ((3, "plain"), (4, "re-ranked"))]
    report.since, report.last = time.time(), time.time() + 3000  # one of two jobs took 50 minutes
    assert report.where() == f"4 of 6 cells done, expected end {runner._clock(report.since + 6000)}"
    report.last = report.since + 86400
    assert report.where() == f"4 of 6 cells done, expected end {time.strftime('%Y-%m-%d %H:%M', time.localtime(report.since + 2 * 86400))}"
    assert runner._clock(time.time()) in [time.strftime("%H:%M", time.localtime(time.time() - k)) for k in (0, 60)]
    report.running = {"one", "two"}  # the first of two that run at a time says nothing yet
    assert report.where() == "4 of 6 cells done"
    made.run()
    said = capsys.readouterr().err
    assert "4 of 6 cells done; running follower: bad, Tiny, seed 0" in said and "bad, Tiny, re-ranked, seed 0: FAILED, RuntimeError: it diverged (6 of 6)" in said


def test_records_are_reported_as_they_are_saved(instant, sets, tmp_path, capsys, monkeypatch):
    "Not when the job is over; and where all cells of a job are done, its training may still be to do."
    whole = replace(rows(*AB, method="first"), cells=tuple(replace(c, runs=(replace(c.run, rerank=rerank),), group=f"{rerank}")
                                                           for c in rows(("a", {}), method="first").cells[:1] for rerank in (False, True)))
    found, said = runner.found, []
    monkeypatch.setattr(runner, "found", lambda *rest: said.append(capsys.readouterr().err) or found(*rest))
    made = pair(sets, tmp_path, table=whole)
    made.run()
    assert len(said) == 2 and "0 of 2 cells done; running first: a" in said[0] and "(1 of 2)" in said[1]
    assert "(2 of 2)" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "trainings")
    followed = pair(sets, tmp_path, table=replace(whole, cells=whole.cells + rows(*AB[:1], method="follower").cells))
    report = runner.Report(followed)
    report.look()
    assert report.where() == "2 of 3 cells done" and len(report.jobs) == 2 and not report.over


# -- what cannot be run, what fails, what has changed -------------------------------------------------------------------

def test_a_missing_set_is_said_and_the_others_go_on(sets, tmp_path):
    nowhere = DataSet("Nowhere", "dukemtmc-reid")
    both = rows(*TWO[:1]).cells + rows(("there is none", {}), data=nowhere).cells
    made = study(sets, tmp_path, table=replace(rows(*TWO[:1]), cells=both), seeds=1).run(quiet=True)
    states = made.states().set_index("row")
    assert states.loc["low", "state"] == "done" and states.loc["there is none", "state"] == "cannot run" and "withdrawn" in states.loc["there is none", "why"]
    assert "withdrawn" in made._repr_html_()


@pytest.mark.parametrize("error,said", [(OSError("Unable to open file (file signature not found)"), "Nowhere cannot be read: OSError: Unable to open"),
                                        (ImportError("no h5py"), "Nowhere cannot be read: ImportError: no h5py"),
                                        (FileExistsError("built with other arguments\nsee there"),
                                         "Nowhere cannot be read: FileExistsError: built with other arguments"),
                                        (KeyError(), "Nowhere cannot be read: KeyError"),
                                        (ValueError(""), "Nowhere cannot be read: ValueError")], ids=lambda e: type(e).__name__)
def test_a_set_that_cannot_be_read_is_said_and_the_others_go_on(instant, sets, tmp_path, monkeypatch, error, said):
    load = DataSet.load
    monkeypatch.setattr(DataSet, "load", lambda self, root: (_ for _ in ()).throw(error) if self.title == "Nowhere" else load(self, root))
    both = rows(("a", {"kind": "a"}), method="first").cells + rows(("there is none", {}), method="first", data=DataSet("Nowhere", "nowhere")).cells
    made = pair(sets, tmp_path, table=replace(rows(("a", {"kind": "a"}), method="first"), cells=both)).run(quiet=True)
    states = made.states().set_index("row")
    assert states["state"].to_dict() == {"a": "done", "there is none": "cannot run"} and states.loc["there is none", "why"].startswith(said)
    assert made.look(DataSet("Nowhere", "nowhere")) is None


def test_a_failed_seed_is_kept_shown_and_tried_again(sets, tmp_path, monkeypatch):
    made = study(sets, tmp_path, table=rows(*TWO[:1]))
    found = runner.found
    monkeypatch.setattr(runner, "found", lambda run, job, *rest: (_ for _ in ()).throw(RuntimeError("the disk has gone")) if job.seed else found(run, job, *rest))
    made.run(quiet=True)
    assert made.states()["state"].tolist() == ["done", "failed"] and "disk has gone" in made._repr_html_()
    record = made.record(made.runs[0], 1)
    assert record.failure == "RuntimeError: the disk has gone" and "Traceback" in record.details["traceback"] and record.metrics == {}
    line = Results(made.table, tmp_path / "records", budget=made.budget).frame().iloc[0]
    assert line["seeds"] == 1 and "failed: seed 1 (RuntimeError" in line["notes"]
    monkeypatch.undo()
    assert made.run(quiet=True).states()["state"].tolist() == ["done", "done"]


def test_a_failure_never_takes_figures_away(instant, sets, tmp_path, capsys):
    "It is told all the same, until the cell comes out well."
    made = pair(sets, tmp_path, table=rows(("a", {"kind": "a"}), method="first")).run(quiet=True)
    file = runner.record_file(tmp_path, made.budget, made.runs[0], 0)
    good = replace(Record.load(file), settings={**Record.load(file).settings, "kind": "another"}, created="2020-01-01T00:00:00Z")  # stale: it is made again
    good.save(file)
    shutil.rmtree(tmp_path / "trainings")
    sys.modules["first"].train, train = lambda *rest, **more: (_ for _ in ()).throw(RuntimeError("the disk has gone")), sys.modules["first"].train
    made.run()
    assert "FAILED, RuntimeError: the disk has gone" in capsys.readouterr().err and Record.load(file) == good
    assert made.states()[["state", "why"]].values.tolist() == [["failed", "RuntimeError: the disk has gone"]]
    assert [f.parent.name for f in (tmp_path / "records").rglob("*.json") if f != file] == ["failures"]
    told = Results(made.table, tmp_path / "records", budget=made.budget).frame()
    assert told["ours"].tolist() == [50, 25]  # as they were
    assert told["notes"].str.contains("tried again and failed, the figures are of before: seed 0 (RuntimeError: the disk has gone)", regex=False).all()
    sys.modules["first"].train = train
    assert made.run(quiet=True).states()["state"].tolist() == ["done"] and list((tmp_path / "records").rglob("*.json")) == [file]
    assert not Results(made.table, tmp_path / "records", budget=made.budget).frame()["notes"].str.contains("tried again").any()


@pytest.mark.parametrize("file,content", [("record.json", '{"name": "t", "sett'), ("model.safetensors", "x" * 50),
                                          ("model.safetensors", save({"w": torch.zeros(9)})[:-1])], ids=["record", "model", "model cut short"])
def test_a_damaged_training_is_trained_again(instant, sets, tmp_path, file, content):
    made = pair(sets, tmp_path, table=rows(("a", {"kind": "a"}), method="first")).run(quiet=True)
    write_whole(tmp_path / "trainings" / made.jobs[0].key / file, content)
    assert made.states()["state"].tolist() == ["done"]  # the figures stand
    runner.record_file(tmp_path, made.budget, made.runs[0], 0).unlink()
    assert made.run(quiet=True).states()["state"].tolist() == ["done"], made.states()["why"].tolist()
    assert len(instant) == 2 and runner.finished(tmp_path / "trainings" / made.jobs[0].key)


@pytest.mark.parametrize("file", ["training.json", "record.json", "model.safetensors"])
def test_a_damaged_stage_is_not_taken_for_finished(tmp_path, file):
    from reidbench.methods.baseline import finished

    trainer = types.SimpleNamespace(folder=tmp_path, about=lambda: {"settings": {}})
    for name, content in (("training.json", '{"settings": {}}'), ("record.json", '{"name": "t"}'), ("model.safetensors", save({})), (file, "{")):
        write_whole(tmp_path / name, content)
    assert finished(trainer) is None


@dataclass
class _Settings:
    backbone: str = "resnet18"
    size: tuple = (64, 32)
    seed: int = 0
    device: str = "cpu"
    kind: str = "plain"


@pytest.fixture
def follower(monkeypatch):
    "A method that starts from another's model, and counts how often each is trained."
    from reidbench.methods import baseline

    trainings = []
    module = types.ModuleType("follower")
    module.Settings, module.small = _Settings, lambda settings, **own: replace(settings, **own)

    def train(benchmark, settings, folder, quiet, start):
        assert (Path(start) / "model.safetensors").is_file()
        trainings.append((settings.kind, settings.seed))
        if settings.kind == "bad":
            raise RuntimeError("it diverged")
        return baseline.train(benchmark, baseline.small(baseline.identification(), **{**QUICK, "epochs": 1, "seed": settings.seed}), folder, quiet)

    module.train = train
    first = types.ModuleType("first")
    first.Settings, first.small = _Settings, module.small

    def begin(benchmark, settings, folder, quiet):
        trainings.append(("first", settings.seed))
        if broken:
            raise RuntimeError("no first model")
        return baseline.train(benchmark, baseline.small(baseline.identification(), **{**QUICK, "epochs": 1, "seed": settings.seed}), folder, quiet)

    broken = []
    first.train = begin
    monkeypatch.setitem(sys.modules, "follower", module)
    monkeypatch.setitem(sys.modules, "first", first)
    for name, value in (("follower", "follower:Settings"), ("first", "first:Settings")):
        monkeypatch.setitem(tables.METHODS, name, value)
        monkeypatch.setitem(tables.FIELDS, name, {"kind": "kind"})
    monkeypatch.setitem(tables.STARTS_FROM, "follower", "first")
    return trainings, broken


def test_rows_share_the_model_they_start_from(follower, sets, tmp_path):
    trainings, _ = follower
    made = study(sets, tmp_path, table=rows(("a", {"kind": "a"}), ("b", {"kind": "b"}), ("bad", {"kind": "bad"}), method="follower"), changes={},
                 seeds=2).run(quiet=True)
    assert sorted(trainings) == sorted((k, s) for s in (0, 1) for k in ("first", "a", "b", "bad"))
    assert made.states().groupby("row")["state"].unique().map(list).to_dict() == {"a": ["done"], "b": ["done"], "bad": ["failed"]}
    starts = {job.seed: Record.load(made.folder / "trainings" / job.key / "record.json").weights for job in made.jobs if job.run.method == "first"}
    assert all(made.record(run, seed).details["start"] == starts[seed] for run in made.runs if run.row != "bad" for seed in (0, 1)) and starts[0] != starts[1]
    again = len(trainings)
    made.run(quiet=True)
    assert trainings[again:] == [("bad", 0), ("bad", 1)]  # what failed is tried again, nothing else


def test_rows_share_the_stages_before_their_last(sets, tmp_path):
    "DI-REID's rows: one identity network, one DDGAN and, where rows differ in the search alone, one DFEN; each row has a file of its own."
    changes = dict(epochs=1, identity_epochs=1, p=4, k=2, size=(64, 32), iterations=2, part=2, pairs=2, precision="no", device="cpu",
                   widths=dict(dim=8, encoder_width=4, channels=8, hidden=8, blocks=1, critic=2))
    made = study(sets, tmp_path, table=rows(("whole", {"ablation": "full"}), ("half", {"ablation": "invariant-only"}), method="di_reid"), changes=changes,
                 seeds=1).run(quiet=True)
    assert made.states()["state"].tolist() == ["done", "done"], made.states()["why"].tolist()
    assert sorted(f.name.split("-")[0] for f in (tmp_path / "trainings" / "stages").iterdir()) == ["ddgan", "dfen", "identity"] and len(list((tmp_path / "trainings").glob("di-reid-*"))) == 2


def test_a_start_that_fails_is_the_reason_of_its_followers(follower, sets, tmp_path):
    _, broken = follower
    broken.append(True)
    made = study(sets, tmp_path, table=rows(("a", {"kind": "a"}), method="follower"), changes={}, seeds=1).run(quiet=True)
    assert made.states()["state"].tolist() == ["failed"] and "no first model" in made.states()["why"][0]


def test_other_settings_are_another_cell(unbroken, sets):
    longer = study(sets, unbroken, changes={**QUICK, "epochs": 3})
    assert longer.budget.label != study(sets, unbroken).budget.label and set(longer.states()["state"]) == {"waiting"}
    assert set(study(sets, unbroken, changes={**QUICK, "device": None}).states()["state"]) == {"done"}  # where it runs does not count


def test_a_default_that_changed_since_is_run_again(sets, tmp_path):
    made = study(sets, tmp_path, table=rows(*TWO[:1]), seeds=1).run(quiet=True)
    file = next(Path(tmp_path).rglob("records/*/*.json"))
    record = json.loads(file.read_text())
    record["settings"]["flip"] = 0.25  # as if flip's default had been another when this was made
    write_whole(file, json.dumps(record))
    assert made.states()["state"].tolist() == ["waiting"]
    assert "other settings than today's" in Results(made.table, tmp_path / "records", budget=made.budget).frame()["notes"][0]
    record["settings"].pop("flip")  # a setting that did not exist then: the record stands
    record["details"]["reidbench"] = "0.0.1"
    write_whole(file, json.dumps(record))
    assert made.states()["state"].tolist() == ["done"]
    assert "made by reidbench 0.0.1" in Results(made.table, tmp_path / "records", budget=made.budget).frame()["notes"][0]


@dataclass
class _Grown(_Settings):
    "Settings to which one was added when trainings without it had been recorded."
    p: int = 3
    further: int = field(default=0, metadata=LATER)


@pytest.mark.parametrize("before", [0, 30])
@pytest.mark.parametrize("now", [0, 30])
def test_a_later_setting_makes_another_training_in_both_directions(tmp_path, before, now):
    from reidbench.methods.baseline import same_training

    trainer = lambda further: types.SimpleNamespace(folder=tmp_path, settings=_Grown(further=further),
                                                    about=lambda: {"settings": runner.plain(runner.settings_of(_Grown(further=further)))})
    (tmp_path / "checkpoint").mkdir()
    same_training(trainer(before))
    write_whole(tmp_path / "checkpoint" / "state.json", "{}")
    told = Record("x", runner.what(_Grown(further=before)))
    assert runner.agrees(told, _Grown(further=now)) == (before == now)
    if before == now:
        return same_training(trainer(now))
    with pytest.raises(ValueError, match=f"further: {before} before, {now} now"):
        same_training(trainer(now))
    assert json.loads((tmp_path / "training.json").read_text()) == trainer(before).about()


def test_settings_that_a_record_does_not_know_do_not_count():
    told = runner.what(_Grown())
    assert "further" not in told and runner.agrees(Record("x", {k: v for k, v in told.items() if k != "p"}),
                                                   _Grown(p=4)) and runner.agrees(Record("x", {**told, "gone since": 1}), _Grown())


def test_changed_pictures_are_another_cell(sets, tmp_path):
    shutil.copytree(sets / "tiny", tmp_path / "sets" / "tiny")
    study(tmp_path / "sets", tmp_path / "study", table=rows(*TWO[:1]), seeds=1).run(quiet=True)
    next((tmp_path / "sets" / "tiny" / "bounding_box_test").glob("*.jpg")).unlink()
    changed = study(tmp_path / "sets", tmp_path / "study", table=rows(*TWO[:1]), seeds=1)
    assert changed.states()["state"].tolist() == ["waiting"]
    assert "was trained on other pictures" in changed.run(quiet=True).states()["why"][0]


@pytest.mark.parametrize("budget", ["small", "paper"])
def test_a_seed_is_no_setting(sets, tmp_path, budget):
    with pytest.raises(ValueError, match="--seeds"):
        Study(rows(*TWO), root=sets, folder=tmp_path, budget=budget, changes={"seed": 5})


@pytest.mark.parametrize("wrong,said", [(dict(seeds=()), "at least one"), (dict(rows=["lov"]), "did you mean 'low'"),
                                        (dict(rows=[]), "rows: give at least one"), (dict(rows=[""]), "rows: give at least one"),
                                        (dict(budget="tiny"), "'small' or 'paper'"), (dict(changes={"epoch": 1}), "did you mean 'epochs'")])
def test_what_does_not_exist_is_named(sets, tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said):
        Study(rows(*TWO), **{"root": sets, "folder": tmp_path, "budget": "small", **wrong})
    with pytest.raises(ValueError, match="did you mean 'local'"):
        study(sets, tmp_path).run("locl")


def test_each_seed_once_and_nothing_is_a_table_too(instant, sets, tmp_path):
    made = pair(sets, tmp_path, seeds=(1, 0, 1))
    assert made.seeds == (1, 0) and len(made.states()) == 4
    nothing = pair(sets, tmp_path, table=replace(rows(*AB), cells=(), rows=()))
    assert list(nothing.states()) == list(made.states()) and len(nothing.states()) == 0 and nothing.run(quiet=True)._repr_html_()


def test_a_broken_record_is_named(sets, tmp_path):
    made = study(sets, tmp_path, table=rows(*TWO[:1]), seeds=1)
    file = tmp_path / "records" / made.budget.label / record_name(made.runs[0], 0)
    write_whole(file, '{"name": ')
    assert made.states()["state"].tolist() == ["waiting"] and "its JSON breaks off" in made.states()["why"][0]
    with pytest.warns(UserWarning, match="left out: .*its JSON breaks off"):
        assert Results(made.table, tmp_path / "records", budget=made.budget).frame()["seeds"].eq(0).all()
    assert made.run(quiet=True).states()["state"].tolist() == ["done"] and Record.load(file).metrics  # and made again


def test_a_worker_that_dies_for_good_costs_its_cells_alone(sets, tmp_path):
    died = {name: type(name, (Exception,), {}) for name in ("WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "ObjectLostError")}

    def get(ref):
        raise died["OutOfMemoryError"]("the node ran low")

    cells = [Cell("own/table", name, "Tiny", "mAP", Figure(note="ours"), "reidbench", (Run("own/table", name, "identification", (), TINY, TINY, **how),))
             for name, how in (("plain", {}), ("re-ranked", dict(rerank=True)))]
    both = Table("own/table", "Two searches of one model", ("plain", "re-ranked"), (("Tiny", "mAP"),), tuple(cells))
    made = study(sets, tmp_path, table=replace(both, rows=("plain",), cells=tuple(cells[:1])), seeds=1).run(quiet=True)
    made = study(sets, tmp_path, table=both, seeds=1)  # one of the two searches is finished when the worker dies
    (job,) = (j for j in made.jobs if j.searches)
    runner._brought(made, types.SimpleNamespace(exceptions=types.SimpleNamespace(**died), get=get), None, job)
    assert made.record(job.searches[1], 0).failure == "OutOfMemoryError: the node ran low" and made.record(job.searches[0], 0).failure is None
    assert dict(zip(made.states()["row"], made.states()["state"])) == {"plain": "done", "re-ranked": "failed"}


def test_a_worker_that_does_not_see_the_folder_says_so(sets, tmp_path):
    made = study(sets, tmp_path / "study", table=rows(*TWO[:1]), seeds=1)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="does not see the study's folder .*study: all machines of the cluster must share it"):
            runner._on_a_worker(made.jobs[0], made.root, made.folder, ".seen-1")
        made.folder.mkdir(exist_ok=True)  # a folder of that name, but another one


def test_what_a_version_lacks(monkeypatch):
    run = Run("own/table", "x", "identification", (), TINY, TINY, attack=tables.SMA, defence=tables.CS)
    assert runner.lacking(run) == runner.lacking(replace(run, method="aos")) == ""
    monkeypatch.setitem(tables.METHODS, "identification", "reidbench.nothing.first:Settings")
    assert "has no reidbench.nothing" in runner.lacking(run) and "has no reidbench.nothing" in runner.lacking(replace(run, method="aos"))  # AOS starts from it
    assert runner.lacking(replace(run, method="msfl")) == "" and runner.lacking(replace(run, method="msfl", attack=tables.DMR))  # DMR's noise is made on it
    monkeypatch.undo()
    monkeypatch.setitem(tables.TOOLS, "CS", "reidbench.nothing.cs:CS")
    assert "has no reidbench.nothing" in runner.lacking(run) and runner.lacking(replace(run, defence=None)) == ""


def test_trained_in_one_town_searched_in_another(tmp_path):
    "JAD Table II on the sample set: the second town lies beside the first, shows other people, and its cell comes to its end."
    few = (("identities", 8), ("images", 2), ("progress", False))
    here, there = replace(tables.STREET, options=few), replace(tables.SECOND_TOWN, options=tables.SECOND_TOWN.options + few)
    changes = dict(epochs=1, p=4, k=2, size=(64, 32), precision="no", device="cpu")
    made = Study("jad/table2", root=tmp_path, on=here, other=there, seeds=1, budget="small", rows=["Baseline"], changes=changes,
                 folder=tmp_path / "study").run(quiet=True)
    assert set(made.states()["state"]) == {"done"}, made.states()["why"].tolist()
    towns = {name: data.load(tmp_path) for name, data in (("here", here), ("there", there))}
    assert len({p.name for p in tmp_path.glob("street-*")}) == 2 and towns["here"].fingerprint() != towns["there"].fingerprint()
    for run in made.runs:
        assert run.train != run.test
        trained, searched = (towns["here" if data == here else "there"].fingerprint() for data in (run.train, run.test))
        data = made.record(run, 0).data
        assert (data["train_fingerprint"], data["fingerprint"]) == (trained, searched)


def test_a_change_is_for_whom_it_concerns(sets, tmp_path):
    "The settings of the model that a row starts from need not know it; somebody must."
    from reidbench.studies.tables import table

    made = Study(table("aos/table1"), root=sets, folder=tmp_path, seeds=1, budget="small", rows=["Sampling"], changes={"area": 0.2})
    assert {j.run.method: getattr(j.settings, "area", None) for j in made.jobs} == {"identification": None, "aos": 0.2}
    with pytest.raises(ValueError, match="settings of .*aos.* have no 'arae': did you mean 'area'"):
        Study(table("aos/table1"), root=sets, folder=tmp_path, seeds=1, changes={"arae": 0.2})
    labels = [Budget("small", (("degradation", "illumination"),)), Budget("small", (("last_stride", 1),)),
              *(Budget("small", (("q", v),)) for v in (0.5, -0.5, 5))]
    assert [b.label for b in labels[:2]] == ["small-degradation-illumination", "small-last-stride-1"] and len({b.label for b in labels}) == 5


def test_a_command_that_is_told_can_be_typed(tmp_path):
    "What the rest of a table is made with: each value as the command line reads it, and the set of the matrix."
    from reidbench.cli import options
    from reidbench.methods.baseline import BaselineSettings
    from reidbench.studies.papers import Papers, Place

    changes = (("size", (128, 64)), ("milestones", (40,)), ("trackers", ("tensorboard", "wandb")), ("margin", None), ("weights", "a file"),
               ("frozen_statistics", True), ("lr", 1e-3))
    told = lambda *rest: shlex.split(Results(*rest).so_far().partition("(reidbench ")[2].rpartition(")")[0])
    words = told("aos/table1", {}, "street", None, Budget("small", changes))
    assert words[:6] == ["study", "aos/table1", "--on", "street", "--budget", "small"] and options([BaselineSettings], words[6:]) == dict(changes)
    assert told(comparing.matrix("market1501"), {}) == ["study", "matrix", "--on", "market1501"]
    assert told("jad/table2", {}, "street", "market1501") == ["study", "jad/table2", "--on", "street", "--other", "market1501"]
    papers = Papers((), places={"there": Place("street", "market1501", "small", changes=changes)})
    assert papers.command("aos/table1", "there", "Sampling")[1:] == [*words[:6], "--rows", "Sampling", *words[6:]]
    assert "--other" in papers.command("jad/table2", "there", "JAD")


def test_options_of_a_command_line(sets):
    "Each to the methods that know it; two that mean different things by one name, and sets that are not there, are errors with the nearest name."
    from reidbench.cli import _study, _there, options
    from reidbench.methods.aos import AOSSettings
    from reidbench.methods.baseline import BaselineSettings
    from reidbench.methods.di_reid import DIREIDSettings
    from reidbench.methods.gaag import GAAGSettings

    assert options([BaselineSettings, AOSSettings], ["--area", "0.2", "--epochs=3"]) == {"area": 0.2, "epochs": 3}
    with pytest.raises(ValueError, match="did you mean --area"):
        options([BaselineSettings, AOSSettings], ["--arae", "0.2"])
    with pytest.raises(ValueError, match="--graded is another thing in GAAGSettings than in DIREIDSettings"):
        options([GAAGSettings, DIREIDSettings], ["--graded", "1"])
    with pytest.raises(ValueError, match="--on stret: no such set.*did you mean 'street'"):
        _there("on", "stret", sets)
    for there in (None, "tiny", "Market-1501", "street-dark"):
        _there("on", there, sets)
    with pytest.raises(ValueError, match="no table 'matrx': did you mean 'matrix'"):
        _study([], "matrx", sets, None, None, "3", "paper", "local", None, sets, True, True)


def test_a_set_is_taken_by_its_own_path(sets, tmp_path, monkeypatch):
    "As the readers take it; folders that are no sets are not offered."
    from reidbench.cli import _there

    (tmp_path / "records").mkdir()
    (tmp_path / "sets").symlink_to(sets)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for there in ("./sets/tiny", "sets/tiny", str(sets / "tiny"), "~/sets/tiny"):
        _there("on", there, tmp_path)
        assert len(DataSet("Mine", there).load(tmp_path).train) == 48
    for nowhere in ("./tiny", "records", "sets"):
        with pytest.raises(ValueError, match="no such set"):
            _there("on", nowhere, tmp_path)
    assert "records" not in str(pytest.raises(ValueError, _there, "on", "recods", tmp_path).value)


# -- compare -----------------------------------------------------------------------------------------------------------

def _drawn(seed, quality):
    rng = np.random.default_rng(seed)
    people = np.random.default_rng(9).standard_normal((40, 16))
    make = lambda ids: Embeddings((people[ids] * quality + rng.standard_normal((len(ids), 16))).astype(np.float32), ids)
    return evaluate(make(np.repeat(np.arange(40), 3)), make(np.repeat(np.arange(40), 4)))


def _as_record(ranking, seed):
    return Record("x", seed=seed, data={"fingerprint": "f"}, details={"per_query": {"pid": ranking.query_pid.tolist(), "ap": ranking.ap.tolist(),
                                                                                    "rank1": ranking.rank1.tolist()}})


@pytest.mark.parametrize("metric", ["mAP", "Rank-1"])
def test_one_seed_is_the_rankings_own_bootstrap(metric):
    "But for its ends: Student's here, percentiles there."
    a, b = _drawn(1, 1.2), _drawn(2, 1.0)
    other = compare(a, b, draws=20_000, by="identity").table.set_index("measure").loc[metric]
    mine = paired({0: _as_record(a, 0)}, {0: _as_record(b, 0)}, metric, draws=20_000)
    assert mine["gain"] == pytest.approx(other["difference"], abs=1e-9)
    wider = student.ppf(0.975, 39) / student.ppf(0.975, 10**6)
    assert mine["high"] - mine["low"] == pytest.approx(wider * (other["high"] - other["low"]), rel=0.03)
    assert (mine["high"] + mine["low"]) / 2 == pytest.approx((other["high"] + other["low"]) / 2, abs=0.5)


def test_the_interval_holds_what_it_promises():
    "No difference in truth: about one interval in twenty excludes zero, people drawn anew each time."
    rng, misses, rounds = np.random.default_rng(0), 0, 200
    for _ in range(rounds):
        base = rng.uniform(0.2, 0.8, (8, 60))
        records = [{s: Record("x", seed=s, data={"fingerprint": "f"}, details={"per_query": {"pid": np.arange(60).tolist(), "ap": (base[s] + noise[s]).tolist(), "rank1": base[s].tolist()}}) for s in range(8)}
                   for noise in (rng.normal(0, 0.1, (8, 60)), rng.normal(0, 0.1, (8, 60)))]
        found = paired(*records, "mAP", draws=400)
        misses += not found["low"] <= 0 <= found["high"]
    assert misses <= 0.10 * rounds


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("noise", [0.025, 0.06])
def test_few_trainings_are_not_taken_for_certain(seeds, noise):
    "No difference in truth, but each training is off by some points of its own: with two or three of them zero must still not be excluded more often than promised."
    rng, misses, rounds = np.random.default_rng(1), 0, 300
    for _ in range(rounds):
        records = [{s: Record("x", seed=s, data={"fingerprint": "f"}, details={"per_query": {"pid": np.arange(60).tolist(), "ap": (0.5 + rng.normal(0, noise) + rng.normal(0, 0.1, 60)).tolist(), "rank1": [1] * 60}})
                    for s in range(seeds)} for _ in range(2)]
        found = paired(*records, "mAP", draws=200)
        misses += not found["low"] <= 0 <= found["high"]
    assert misses <= 0.07 * rounds


@pytest.mark.parametrize("seeds, share", [(3, 0.5), (10, 0.5), (3, 0.6), (3, 1.0)])
def test_seeds_that_ask_partly_the_same_people(seeds, share):
    "No difference in truth, but each person has an effect of her own; every seed asks a random part of them, as VIPeR's halves do."
    rng, misses, rounds, many = np.random.default_rng(2), 0, 200, 120
    for _ in range(rounds):
        effect, records = rng.normal(0, 0.3, many), ({}, {})
        for s in range(seeds):
            asked = np.sort(rng.permutation(many)[:int(many * share)])
            for side, ap in zip(records, (0.5 + effect[asked] + rng.normal(0, 0.1, len(asked)), np.full(len(asked), 0.5))):
                side[s] = Record("x", seed=s, data={"fingerprint": f"f{s}"},
                                 details={"per_query": {"pid": asked.tolist(), "ap": ap.tolist(), "rank1": ap.tolist()}})
        found = paired(*records, "mAP", draws=200)
        misses += not found["low"] <= 0 <= found["high"]
    assert misses <= 0.09 * rounds


def test_no_difference_has_p_1():
    same = _as_record(_drawn(1, 1.0), 0)
    assert paired({0: same}, {0: same}, "mAP")["p"] == 1.0


@pytest.mark.parametrize("change", [lambda r: r.details["per_query"]["pid"].__setitem__(0, 999), lambda r: r.data.update(fingerprint="g")],
                         ids=["people", "pictures"])
def test_different_queries_are_refused(change):
    a, b = _as_record(_drawn(1, 1.0), 0), _as_record(_drawn(1, 1.0), 0)
    change(b)
    with pytest.raises(ValueError, match="different pictures"):
        paired({0: a}, {0: b}, "mAP")


def _told(run, seed, ap, **more):
    return Record(run.row, seed=seed, data={"fingerprint": "f"}, **{"details": {"work": run.work, "reidbench": runner.__version__,
                                                                                "per_query": {"pid": [1, 1, 2, 2, 3], "ap": ap, "rank1": ap}}, **more})


ODD = {"nothing of its queries": dict(details={}), "other pictures": dict(data={"fingerprint": "g"}), "no query with a match": dict(ap=[None] * 5),
       "half of its queries": dict(ap=[0.2] * 3)}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_record_spoils_no_other_comparison(odd):
    "With another seed beside it that pair is left out, alone it is the verdict; nothing is thrown."
    whole = rows(*TWO, ("third", {"dropout": 0.2}))
    whole, (low, high, third) = replace(whole, claims=(("high", "low"), ("third", "low"))), whole.runs()
    strange = lambda seed: replace(_told(high, seed, ODD[odd].get("ap", [0.2] * 5)), **{k: v for k, v in ODD[odd].items() if k != "ap"})
    fine = {run.work: {s: _told(run, s, [0.1 * k] * 5) for s in (0, 1)} for k, run in enumerate((low, high, third), 1)}
    for seeds, verdict in (({0: strange(0), 1: fine[high.work][1]}, "one seed"), ({0: strange(0)}, "cannot be compared")):
        results = Results(whole, {**fine, high.work: seeds}, budget="small")
        gains = results.gains().set_index(["row", "metric"])
        assert gains.loc[("high", "mAP"), "verdict"] == verdict and "seed 0" in gains.loc[("high", "mAP"), "left out"] and gains.loc[("third", "mAP"), "verdict"] == "gain" and not gains.loc[("third", "mAP"), "left out"]
        assert "seed 0" in results.claims().loc["high over low", ("Tiny", "mAP")] and "+20.0" in results.claims().loc["third over low", ("Tiny", "mAP")]
        assert results.figure() is not None and results.text() and results._repr_html_()


def test_a_terminal_shows_what_the_page_does():
    "A star at the figure, the reason below, once; a seed that failed and cells that failed altogether among them."
    whole = rows(*TWO)
    low, high = whole.runs()
    good = lambda run, seed: _told(run, seed, [0.1] * 5, metrics={"Rank-1": 0.5, "mAP": 0.25})
    results = Results(whole, {low.work: {0: good(low, 0), 1: _told(low, 1, [], failure="the disk has gone")},
                              high.work: {0: _told(high, 0, [], failure="it diverged")}}, budget="small")
    text = results.text().splitlines()
    assert next(line for line in text if line.startswith("low ")).split() == ["low", "50.0", "*", "25.0", "*"] and next(line for line in text if line.startswith("high")).split() == ["high", "-", "*", "-", "*"]
    assert [line for line in text if line.startswith("* ")] == ["* low, Tiny: failed: seed 1 (the disk has gone)", "* high, Tiny: failed: seed 0 (it diverged)"]
    assert all(line.removeprefix("* ") in results._repr_html_() for line in text if line.startswith("* "))
    doubtful = Results("jad/table7", {}, budget="paper").text()
    assert "†" in doubtful and "† JAD, No-attack, mAP: " in doubtful and "* " not in doubtful


@pytest.mark.parametrize("name", ["jad/table4", "jad/table8", "aos/table2", "msfl/table4"])
def test_a_set_is_not_in_the_place_of_itself(name):
    assert set(Results(name, {}, on="market1501").frame()["different"]) == {""}
    assert set(Results(name, {}, on="street").frame()["different"]) <= {f"Street in the place of {own}" for own in ("Market1501", "DukeMTMC-reID")}
    assert set(Results("jad/table2", {}, "market1501", "dukemtmc-reid").frame()["different"]) == {""}
    assert "Street → Street, second town in the place of Market1501 → DukeMTMC-reID" in set(Results("jad/table2", {}, on="street").frame()["different"])


def test_a_part_of_a_set_is_not_the_set_of_the_paper():
    told = "not the whole published set: train: found 3 images, published 12,936 images"
    cell = tables.table("aos/table1").cells_for()[0]
    record = lambda **data: Record("x", seed=0, metrics={"Rank-1": 0.5, "mAP": 0.25}, data={"fingerprint": "f", **data},
                                   details={"work": cell.run.work, "reidbench": runner.__version__})
    line = lambda **data: Results("aos/table1", {cell.run.work: {0: record(**data)}}).frame().iloc[0]
    for notes in ({}, {"notes": ["counts as published", "rendered: 128 people"]}):
        assert (line(**notes)["different"], line(**notes)["notes"]) == ("", "")
    for notes in ({"notes": ["camera 2 asks", told]}, {"train_notes": [told]}):
        assert (line(**notes)["different"], line(**notes)["notes"]) == (f"not all of {cell.group}", told)


def test_a_record_keeps_what_the_readers_said(sets, tmp_path):
    "Of both sets."
    noted = lambda note: replace(TINY.load(sets), notes=(note,))
    elsewhere = types.SimpleNamespace(train_set=types.SimpleNamespace(identity="another", load=lambda root: noted("half of it")))
    data = runner._sets(rows(*TWO).runs()[0], elsewhere, sets, noted("all of it"))
    assert (data["notes"], data["train_notes"]) == (["all of it"], ["half of it"])


def test_results_show_the_paper_ours_and_what_differs(unbroken, sets):
    made = study(sets, unbroken)
    results = Results(made.table, unbroken / "records", budget=made.budget)
    frame = results.frame()
    assert frame["seeds"].tolist() == [2] * 4 and frame["different"].str.contains("budget small").all()
    mean = np.mean([made.record(made.runs[0], s).metrics["mAP"] for s in (0, 1)])
    assert frame.set_index(["row", "metric"]).loc[("low", "mAP"), "ours"] == pytest.approx(100 * mean)
    gains = results.gains()
    assert len(gains) == 2 and set(gains["seeds"]) == {2} and gains["low"].le(gains["gain"]).all() and gains["gain"].le(gains["high"]).all()
    assert "Not the same experiment" in results._repr_html_() and results.text()
    assert f"here (budget {made.budget.label})" in results.figure().layout.title.text and "here (street, budget small)" in Results("aos/table1", {}, on="street", budget="small").figure().layout.title.text
    claims = results.claims()
    first = gains.iloc[0]
    assert claims.loc[f"{first['row']} over {first['over']}", (first["group"], first["metric"])] == f"{first['gain']:+.1f} ({first['low']:+.1f} to {first['high']:+.1f}), 2 seeds"
    assert results.so_far() == f"{made.table.name}: 2 of 2 rows run, 2 seeds"
    lacking = {work: {} if work == made.runs[0].work else seeds for work, seeds in results.all.items()}
    assert "1 of 2 rows run, 2 seeds; not yet: low" in Results(made.table, lacking, budget=made.budget).so_far()
    nothing = Results(made.table, {}, budget=Budget("small", (("last_stride", 2),)))
    assert nothing.claims() == nothing.so_far() == f"{made.table.name}: 0 of 2 rows run; not yet: low, high (reidbench study {made.table.name} --budget small --last-stride 2)"


def test_the_matrix_names_what_is_not_there(sets, tmp_path, monkeypatch):
    "A method, a method that another starts from, an attack and a defence that this version does not have: their cells say so, the others wait."
    for names, name in ((tables.METHODS, "gaag"), (tables.TOOLS, "ODFA"), (tables.TOOLS, "CS")):
        monkeypatch.setitem(names, name, f"reidbench.nothing.{slug(name)}:Nothing")
    made = Study(comparing.matrix(TINY), root=sets, folder=tmp_path, seeds=1, budget="small", changes=(("epochs", 2),))
    states = made.states()
    assert set(states["row"]) == set(comparing.ROWS) and len(states) == len(made.runs)
    behind = {r.row for r in made.runs if r.defence}
    assert behind == {"JAD"}
    for line in states.itertuples():
        gone = "gaag" if line.row == "GAAG" else "cs" if line.row in behind else "odfa" if "ODFA" in line.search else ""
        assert (line.state, bool(gone)) in (("cannot run", True), ("waiting", False)), line
        assert not gone or "has no reidbench.nothing" in line.why
    monkeypatch.setitem(tables.METHODS, "identification", "reidbench.nothing.identification:Nothing")
    assert set(Study("aos/table1", root=sets, on="tiny", folder=tmp_path, seeds=1).states()["state"]) == {"cannot run"}
