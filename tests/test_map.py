"The map and the histogram on the kernel's side: what is counted, selected, followed and kept."
import base64
import json
import re
import threading

import numpy as np
import pandas as pd
import pytest
import torch

import reidbench.widgets as widgets
from reidbench.explain.embedding import project
from reidbench.metrics.ranking import Embeddings
from reidbench.widgets import DegradationMap, QualityHistogram, Session
from reidbench.widgets.degradation_map import ROOM, coded, placed, twin_points
from reidbench.widgets.quality_histogram import FINE, counted, fine, grouped, limits


def cloud(count, width=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width))


def held(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])


def crops(count):
    return [np.full((20, 10, 3), k % 256, np.uint8) for k in range(count)]


@pytest.mark.parametrize("name", ["DegradationMap", "QualityHistogram"])
def test_promised_names(name):
    assert getattr(widgets, name).__name__ == name and name in dir(widgets)


@pytest.mark.parametrize("values, meaning", [
    (pd.Series([2, None, 1], dtype="Int64"), ["1", "2", "not known"]), ([True, False, True], ["False", "True"]), ([3, "3", 2], ["2", "3", "3"]), ([], []),
                                             ([None, None], ["not known"]), (pd.Series(["b", None, "a"], dtype="category"), ["a", "b", "not known"]),
])
def test_names_of_a_column(values, meaning):
    found, codes = coded("kind", pd.Series(values, dtype=getattr(values, "dtype", object)))
    assert found["names"] == meaning and len(codes) == len(values) and (not len(codes) or codes.max() < len(meaning))


def test_a_scale_is_fine_enough():
    values = np.random.default_rng(0).normal(size=500) * 1000
    found, codes = coded("score", values)
    assert np.abs(found["low"] + codes * found["step"] - values).max() <= found["step"] and coded("flat", [0.5, 0.5])[1].tolist() == [0, 0]


def test_places_keep_their_shape():
    points = cloud(200) * (9, 1) + 100
    found = placed(points).astype(float)
    apart = lambda p: np.sqrt(((p[:, None] - p) ** 2).sum(2))
    assert np.corrcoef(apart(points).ravel(), apart(found).ravel())[0, 1] > 0.9999
    assert found[:, 0].max() <= 65_535 and found[:, 1].max() <= 65_535 * 2 / 3 and np.ptp(found[:, 0]) > 50_000


@pytest.mark.parametrize("count, room", [(10, 10), (11, 10), (1000, 1), (50, 30)])
def test_points_of_a_twin(count, room):
    kept = twin_points([range(count), [0]], count, room)
    assert len(kept) == min(count, room) and (np.diff(kept) > 0).all()


def test_rows_that_are_left_out_keep_the_others_numbers():
    features = cloud(40, 5)
    features[[0, 7]] = np.nan
    features[9, 1] = np.inf
    chart = DegradationMap(features, pd.DataFrame(dict(pid=range(100, 140))), method="pca").wait()
    assert "3 of 40 features hold NaN or infinite numbers (row 0, row 7, row 9): left out" in chart.status and len(chart.chosen) == 37
    chart.chosen = bytes([1] * 2 + [0] * 34 + [1])
    assert chart.selected == (1, 2, 39) and chart.selection.pid.tolist() == [101, 102, 139]
    chart.session.selected = (7, 8, 39)
    assert chart.selected == (7, 8, 39) and sum(chart.chosen) == 2 and chart.session.selected == (7, 8, 39)  # what the map does not show stays selected


def test_no_selection_is_lost_between_maps_and_histogram():
    "Fifty choices here and there, by several widgets of one session: all agree each time, and nothing runs in circles."
    session, dice, heard = Session(), np.random.default_rng(0), []
    scores = dice.uniform(0, 100, 300)
    maps = [DegradationMap(positions=cloud(300, seed=k), session=session).wait() for k in range(2)]
    histogram = QualityHistogram(scores, session=session)
    session.observe(lambda change: heard.append(change.new), "selected")
    wanted = []
    for k in range(50):
        if k % 3 == 2:
            low = int(dice.integers(0, 19)) * 5
            if histogram.picked[2:] == [low, low + 5]:
                low = (low + 5) % 95
            histogram.picked = ["nothing", 0, low, low + 5]
            wanted.append(tuple(np.flatnonzero((scores >= low) & (scores < low + 5)).tolist()))
        else:
            mask = (dice.random(300) < 0.1 * (1 + k % 5)).astype(np.uint8)
            maps[k % 2].chosen = mask.tobytes()
            wanted.append(tuple(np.flatnonzero(mask).tolist()))
        assert session.selected == maps[0].selected == maps[1].selected == wanted[-1]
        assert maps[0].chosen == maps[1].chosen and sum(histogram.parts["nothing"][0]["counts"]) == len(wanted[-1])
    assert heard == wanted


def test_models_follow_the_session():
    session = Session(model_name="b")
    chart = DegradationMap({"a": cloud(12, 4), "b": cloud(12, 4, 1)}, method="pca", session=session)
    chart.wait()
    assert session.model_name == "a" and chart.method == "a: PCA"
    session.model_name = "b"
    session.model_name = "another"
    assert chart.wait().method == "b: PCA" and list(chart.layouts) == ["a: PCA", "b: PCA"] and session.model_name == "another"
    chart.method = "b: t-SNE"
    chart.wait()
    assert session.model_name == "b" and chart.layouts["b: t-SNE"].startswith("b, t-SNE of 12 points")


@pytest.mark.parametrize("made", [
    lambda f, p: DegradationMap(torch.from_numpy(f), p), lambda f, p: DegradationMap(Embeddings(f.astype(np.float32), p.pid, p.camid)),
                                  lambda f, p: DegradationMap(pd.DataFrame(f), p),
    lambda f, p: DegradationMap(positions=project(f, "pca"), people=p), lambda f, p: DegradationMap(positions=f[:, :2].tolist(), people=p),
], ids=["tensor", "Embeddings", "DataFrame", "Projection", "list"])
def test_what_it_takes(made):
    people = pd.DataFrame(dict(pid=np.arange(20) % 4, camid=np.arange(20) % 3), index=range(100, 120))
    chart = made(cloud(20, 6), people).wait()
    assert chart.state == "ready" and {c["name"] for c in chart.columns} == {"pid", "camid"} and chart.key >= 0 and not chart.demo


def test_pictures_come_once_and_broken_ones_are_named(tmp_path):
    (tmp_path / "lost.png").write_bytes(b"no picture")
    asked = []

    def picture(row):
        asked.append(row)
        return tmp_path / "lost.png" if row == 350 else crops(400)[row]

    chart = DegradationMap(positions=cloud(400), images=picture)
    chart.wait()
    assert len(chart.tiles) in (299, 300) and len(asked) == len(set(asked)) <= 301
    sent = []
    chart.send = lambda content, buffers=None: sent.append(content)
    away = [r for r in range(400) if r not in chart.tiles and r != 350][:3]
    chart.hovered = away[0]
    chart.hovered = away[0] - 1
    chart.hovered = away[0]
    chart.selected = (*away, 350)
    chart.wait()
    grown = [name for m in sent for name in m["items"]]
    assert sorted(grown) == sorted(set(grown)) and set(map(str, [*away, 350])) <= set(grown) | {str(r) for r in chart.pictures}
    assert chart.pictures["350"] == "unreadable" and chart.state == "bad file" and "lost.png" in chart.status
    kept = held(chart.static_html())
    assert set(away) <= set(kept["tiles"]) and kept["pictures"] == {"350": "unreadable"} and kept["lack"] == "not kept"


def test_twin_keeps_the_selection_and_says_what_it_shows():
    count = 60_000
    chart = DegradationMap(positions=cloud(count), people=pd.DataFrame(dict(pid=np.arange(count) % 900, camid=np.arange(count) % 6, kind=["x"] * count,
                                                                            score=np.linspace(0, 1, count)))).wait()
    chart.selected = tuple(range(500, 1500))
    html = chart.static_html()
    values = held(html)
    rows, mask = np.frombuffer(base64.b64decode(values["rows"]), np.uint32), np.frombuffer(base64.b64decode(values["chosen"]), np.uint8)
    assert len(html) < 1e6 and 10_000 < len(rows) < count and rows[mask > 0].tolist() == list(range(500, 1500)) and values["total"] == count
    assert len(base64.b64decode(values["points"])) == 4 * len(rows) and len(base64.b64decode(values["values"])) == 2 * 4 * len(rows) and ROOM * 3 // 4 >= 17 * len(rows)
    assert values["live"] is False and values["head"].endswith("row\n") and values["methods"] == ["as given"]


def test_selecting_while_it_lays_out():
    "A choice made during a long layout is kept, and the state stays loading until the map is there."
    chart, gate = DegradationMap(cloud(30, 4), method="pca").wait(), threading.Event()
    chart.work.put("hold", gate.wait)
    chart.method = "t-SNE"
    chart.chosen = bytes([1] + [0] * 29)
    assert chart.state == "loading" and chart.selected == (0,)
    gate.set()
    assert chart.wait().state == "ready" and "1 selected" in chart.status and list(chart.layouts) == ["PCA", "t-SNE"]


def test_a_mask_of_another_length_is_refused():
    chart = DegradationMap(positions=cloud(5)).wait()
    chart.chosen = b"\1"
    assert chart.state == "error" and "1 bytes for 5 points" in chart.status


def test_columns_that_are_no_names():
    "Boxes, paths and frames of a person table are not offered to colour or to split by."
    table = pd.DataFrame(dict(path=[f"{k}.png" for k in range(90)], pid=np.arange(90) % 45, box=[[k, 0, 5, 9] for k in range(90)], frame=range(90),
                              view=["back", "front", "side"] * 30, gamma=np.linspace(1, 2, 90)))
    chart, histogram = DegradationMap(positions=cloud(90), people=table, images=crops(90)).wait(), QualityHistogram(np.arange(90), table)
    assert [c["name"] for c in chart.columns] == ["pid", "view", "gamma"] and histogram.splits == ["nothing", "pid", "view"]
    assert "positions hold NaN" in DegradationMap(positions=[[0, 1], [np.nan, 2]]).status


@pytest.mark.parametrize("suffix", ["png", "html", "csv", "json", "tex"])
def test_files(tmp_path, suffix):
    chart = DegradationMap(positions=cloud(9), people=pd.DataFrame(dict(pid=range(9)))).wait()
    chart.selected = (2, 4)
    for widget in (chart, QualityHistogram(range(9))):
        assert widget.save(tmp_path / f"{widget.js}.{suffix}").stat().st_size > 100
    if suffix == "csv":
        assert pd.read_csv(tmp_path / "degradation_map.csv", comment="#").row.tolist() == [2, 4]
        table = pd.read_csv(tmp_path / "quality_histogram.csv", comment="#")
        assert table["count"].sum() == 9 and len(table) == 20


@pytest.mark.parametrize("low, high", [(0, 100), (0, 1), (-3.7, 12.9), (0.1, 0.7)])
def test_steps_agree_with_numpy(low, high):
    dice = np.random.default_rng(1)
    edges = low + (high - low) * np.arange(FINE + 1) / FINE
    scores = np.concatenate([dice.uniform(low, high, 2000), edges])
    steps = fine(scores, low, high)
    assert (fine(edges, low, high) == np.arange(FINE + 1)).all()
    (group,) = counted(["all"], None, steps, scores)
    for k in range(FINE + 1):  # the share below each step, by hand
        assert sum(group["counts"][:k]) == (scores < edges[k] - 1e-9 * (high - low)).sum()
    assert group["median"] == np.median(scores)


def test_limits_of_a_histogram():
    assert limits(np.array([])) == (0, 100) and limits(np.array([0.0, 1.0])) == (0, 1) and limits(np.array([100.0])) == (0, 100) and limits(np.array([-5.0, 300])) == (-5, 300)
    some = pd.Series(["b", None, "a"], dtype=pd.CategoricalDtype(["a", "b", "nobody"]))
    assert grouped(some)[0] == ["a", "b", "others, not known"] and grouped(some)[1].tolist() == [1, 2, 0] and grouped(some[[0, 2]])[0] == ["a", "b"]
    assert grouped([None, None])[0] == ["others, not known"] and grouped(range(8))[0] == [str(k) for k in range(8)]


def test_bars_pick_what_they_count():
    dice = np.random.default_rng(2)
    scores, camera = np.append(dice.integers(0, 101, 400).astype(float), np.nan), np.append(dice.integers(0, 3, 400), 1)
    histogram = QualityHistogram(scores, {"camid": camera}, split="camid", bins=10)
    for group in range(3):
        for bar in range(10):
            histogram.picked = ["camid", group, 10 * bar, 10 * bar + 10]
            rows = list(histogram.session.selected)
            assert len(rows) == histogram.bars(histogram.groups["camid"][group])[bar] == histogram.table().selected.sum()
            assert (camera[rows] == group).all() and (np.minimum(scores[rows] // 10, 9) == bar).all()
    histogram.split = "nothing"
    assert histogram.session.selected == tuple(rows)          # another split does not let go
    histogram.session.selected = (1, 2)
    assert histogram.picked == [] and histogram.session.selected == (1, 2)
    histogram.answer({"none": True, "id": 1})
    assert histogram.session.selected == () and histogram.parts == {} and "1 of 401 scores are NaN or infinite (row 400)" in histogram.status


def test_a_threshold_is_exact_on_its_steps():
    scores = np.random.default_rng(3).integers(0, 101, 500)
    histogram = QualityHistogram(scores)
    for threshold in range(0, 101, 7):
        histogram.threshold = threshold
        assert histogram.below(histogram.groups["nothing"][0]) == (scores < threshold).mean() and f"{(scores < threshold).mean():.0%} below {threshold}" in histogram.status
