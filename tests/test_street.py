"The rendered town: same bytes whoever draws, true truth, hard enough, and nothing lost on disk."
import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from reidbench.data import degrade, street

NAME = re.compile(r"(\d{4})_c(\d)s(\d)_(\d{6})_(\d\d)\.jpg")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return street.build(tmp_path_factory.mktemp("data"), identities=48, progress=False)


@pytest.fixture(scope="module")
def truth(town):
    return pd.read_csv(town / "truth.csv")


@pytest.fixture(scope="module")
def pixels(town, truth):
    return np.stack([np.asarray(Image.open(town / p)) for p in truth.path])


def quiet(camid, **changes):
    "The town's cameras, one of them changed."
    return tuple(replace(c, **changes) if c.camid == camid else c for c in street.CAMERAS)


def test_layout_is_markets(town, truth, pixels):
    on_disk = sorted(p.relative_to(town).as_posix() for p in town.glob("*/*.jpg"))
    assert on_disk == sorted(truth.path) and pixels.shape[1:] == (128, 64, 3)
    for row in truth.itertuples():
        pid, camid, *_ = NAME.fullmatch(row.path.split("/")[1]).groups()
        assert (int(pid), int(camid)) == (row.pid, row.camid) and row.path.startswith(row.split + "/")
    people = {s: set(truth[truth.split == s].pid) for s in ("bounding_box_train", "query", "bounding_box_test")}
    assert len(people["bounding_box_train"]) == 24 and len(people["query"]) == 24
    assert people["query"] == people["bounding_box_test"] and not people["query"] & people["bounding_box_train"]


def test_one_query_per_person_and_camera_and_each_has_an_answer(truth):
    query, gallery = (truth[truth.split == s] for s in ("query", "bounding_box_test"))
    assert not query.duplicated(["pid", "camid"]).any()
    assert set(zip(query.pid, query.camid)) == set(zip(gallery.pid, gallery.camid))
    for row in query.itertuples():
        assert ((gallery.pid == row.pid) & (gallery.camid != row.camid)).any()


def test_default_size():
    rows = street.plan()
    assert 2000 < len(rows) < 2700 and len({r[0] for r in rows if r[4] == "bounding_box_train"}) == 64 and len({r[0] for r in rows}) == 128
    assert len({(r[0], r[1], r[3]) for r in rows}) == len(rows)  # no two pictures of one name


def test_read_by_the_benchmark_reader_with_its_truth(town):
    from reidbench.data.benchmarks import load
    loaded = load("street", root=town.parent)
    for split in ("train", "query", "gallery"):
        table = getattr(loaded, split)
        assert {"scale", "gamma", "blur", "occluded"} <= set(table.columns) and table[["scale", "gamma", "blur", "occluded"]].notna().all().all()


def test_same_bytes_with_any_number_of_processes_and_in_a_larger_town(town, truth, tmp_path):
    sums = {n: json.loads((street.build(tmp_path / str(n), identities=24, images=2, workers=n, progress=False) / "street.json").read_text())["checksum"]
            for n in (1, 3)}
    assert len(set(sums.values())) == 1
    for path in (tmp_path / "1" / "street").glob("*/*.jpg"):
        assert path.read_bytes() == (town / path.parent.name / path.name).read_bytes()
    assert (tmp_path / "1" / "street" / "truth.csv").read_bytes() == (tmp_path / "3" / "street" / "truth.csv").read_bytes()


def test_another_seed_is_another_town():
    assert street.photo(0, 1, 1, 0)[0] == street.photo(0, 1, 1, 0)[0] != street.photo(1, 1, 1, 0)[0]
    assert len({str(street.person(0, pid)) for pid in range(200)} | {str(street.person(1, pid)) for pid in range(200)}) == 400


def test_every_picture_of_a_person_differs(truth, pixels):
    assert len({p.tobytes() for p in pixels}) == len(pixels)


@pytest.mark.parametrize("camid", [4, 5])
def test_gamma_is_what_was_done(camid):
    dark, _, truth = street.shoot(0, 3, camid, 1, cameras=quiet(camid, noise=0., scale=(1, 1)))
    plain, _, _ = street.shoot(0, 3, camid, 1, cameras=quiet(camid, noise=0., gamma=(1, 1), scale=(1, 1)))
    again = degrade.gamma(torch.from_numpy(plain).permute(2, 0, 1)[None], truth["gamma"])[0].permute(1, 2, 0).numpy()
    assert truth["gamma"] != 1 and np.allclose(dark, again, atol=1e-5)


def test_blur_is_what_was_done():
    soft, _, truth = street.shoot(0, 3, 3, 1, cameras=quiet(3, noise=0., blur=(.9, 1.4)))
    sharp, _, _ = street.shoot(0, 3, 3, 1, cameras=quiet(3, noise=0., blur=(0, 0)))
    again = degrade.blur(torch.from_numpy(sharp).permute(2, 0, 1)[None], truth["blur"])[0].permute(1, 2, 0).numpy()
    assert .9 < truth["blur"] < 1.4 and np.allclose(soft[5:-5, 5:-5], again[5:-5, 5:-5], atol=1e-4)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_scale_is_what_was_done(index):
    low, _, truth = street.shoot(0, 3, 6, index, cameras=quiet(6, noise=0.))
    full, _, _ = street.shoot(0, 3, 6, index, cameras=quiet(6, noise=0., scale=(1, 1)))
    full = torch.from_numpy(full).permute(2, 0, 1)[None]
    error = {s: float((degrade.downsample(full, 1 / s)[0].permute(1, 2, 0) - torch.from_numpy(low)).abs().mean())
             for s in (truth["scale"], truth["scale"] * 1.5, truth["scale"] / 1.5)}
    assert error[truth["scale"]] < .004 and min(error, key=error.get) == truth["scale"]


def test_occluded_is_the_hidden_share_of_the_person(monkeypatch):
    cameras = tuple(replace(c, occlusion=1.) for c in street.CAMERAS)
    half = np.zeros((128, 64, 1), np.float32)
    half[64:] = 1
    covers = {"all": np.ones_like(half), "none": np.zeros_like(half), "half": half}
    figure = {}
    drawn = street.figure_layer
    monkeypatch.setattr(street, "figure_layer", lambda *a: figure.setdefault("layer", drawn(*a)))
    for name, cover in covers.items():
        figure.clear()
        monkeypatch.setattr(street, "occluder_layer", lambda *a, cover=cover: (cover * 0, cover))
        _, _, truth = street.shoot(0, 3, 1, 0, cameras=cameras)
        person = figure["layer"][1][..., 0]
        expected = sum(person[y, x] * cover[y, x, 0] for y in range(128) for x in range(64)) / person.sum()
        assert abs(truth["occluded"] - expected) < 1e-4 and (name != "half" or .3 < expected < .8)
    assert truth["occluder"] != "none"


def test_the_truth_is_in_range(truth):
    assert ((truth.occluded > 0) <= (truth.occluder != "none")).all() and truth.occluded.between(0, 1).all() and (truth.occluded > .1).mean() > .03
    for camera in street.CAMERAS:
        rows = truth[truth.camid == camera.camid]
        assert len(set(rows.view)) > 1
        assert rows.scale.between(camera.scale[0] - .01, camera.scale[1] + .01).all() and rows.blur.between(*camera.blur).all()
    assert truth[truth.camid == 6].scale.nunique() > 8 and (truth[truth.camid != 6].scale > truth[truth.camid == 6].scale.max()).all()


def auc(positive, score):
    "Chance that a positive scores above a negative."
    order = np.argsort(np.argsort(score, kind="stable"), kind="stable") + 1
    n = positive.sum()
    return (order[positive].sum() - n * (n + 1) / 2) / (n * (~positive).sum())


def test_resolution_alone_marks_the_low_resolution_camera(truth, pixels):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_predict
    images = pixels.astype(np.float32) / 255
    grey = images.mean(3)
    edges = np.abs(4 * grey[:, 1:-1, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1] - grey[:, 1:-1, :-2] - grey[:, 1:-1, 2:]).mean((1, 2))
    assert auc(truth.camid.to_numpy() == 6, -edges) > .99
    found = {}
    for camid in range(1, 7):
        is_it = truth.camid.to_numpy() == camid
        forest = RandomForestClassifier(60, class_weight="balanced", random_state=0)
        found[camid] = auc(is_it, cross_val_predict(forest, images.mean((1, 2)), is_it, cv=3, method="predict_proba")[:, 1])
    assert found[6] < .75 and all(found[c] > .85 for c in range(1, 6)), found


@pytest.mark.parametrize("mode", ["RGB", "HSV"])
@pytest.mark.parametrize("crop", [0, 12])
def test_a_colour_histogram_does_not_solve_it(truth, pixels, mode, crop):
    def histogram(image):
        image = np.asarray(Image.fromarray(image).convert(mode)).astype(int)[:, crop:64 - crop] // 32
        index = (image[..., 0] * 8 + image[..., 1]) * 8 + image[..., 2]
        return np.sqrt(np.concatenate([np.bincount(s.ravel(), minlength=512) / s.size for s in np.array_split(index, 6)]))
    q, g = (np.flatnonzero(truth.split == s) for s in ("query", "bounding_box_test"))
    likeness = np.stack([histogram(pixels[i]) for i in q]) @ np.stack([histogram(pixels[i]) for i in g]).T
    pid, camid = truth.pid.to_numpy(), truth.camid.to_numpy()
    likeness[(pid[q][:, None] == pid[g]) & (camid[q][:, None] == camid[g])] = -1
    rank1 = (pid[g][likeness.argmax(1)] == pid[q]).mean()
    assert .03 < rank1 < .6  # better than chance, far from solved


def test_kept_when_whole_else_a_clear_error(tmp_path):
    ask = dict(identities=4, images=2, progress=False)
    folder = street.build(tmp_path, **ask)
    some = sorted(folder.glob("query/*.jpg"))[0]
    stamp, data = some.stat().st_mtime_ns, some.read_bytes()
    assert street.build(tmp_path, **ask) == folder and some.stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match="seed: 0.*overwrite=True.*--overwrite"):
        street.build(tmp_path, **ask, seed=1)
    some.write_bytes(data + b" ")
    with pytest.raises(FileExistsError, match="checksum"):
        street.build(tmp_path, **ask)
    some.unlink()
    with pytest.raises(FileExistsError, match="1 of its .* missing"):
        street.build(tmp_path, **ask)
    assert street.build(tmp_path, **ask, overwrite=True) == folder and some.read_bytes() == data
    assert json.loads((street.build(tmp_path, **ask, seed=1, overwrite=True) / "street.json").read_text())["arguments"]["seed"] == 1
    assert os.listdir(tmp_path) == ["street"]


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path):
    (tmp_path / "street").mkdir()
    (tmp_path / "street" / "holiday.jpg").write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError):
            street.build(tmp_path, identities=4, overwrite=overwrite, progress=False)
    assert (tmp_path / "street" / "holiday.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_a_failed_build_leaves_nothing_and_keeps_the_former(tmp_path, monkeypatch, error):
    folder = street.build(tmp_path, identities=4, images=2, progress=False)
    before = (folder / "street.json").read_text()
    calls = []
    def fails(*args):
        calls.append(args)
        if len(calls) > 5:
            raise error
        return drawn(*args)
    drawn = street.photo
    monkeypatch.setattr(street, "photo", fails)
    with pytest.raises(type(error)):
        street.build(tmp_path, identities=4, images=2, seed=5, overwrite=True, progress=False)
    assert os.listdir(tmp_path) == ["street"] and (folder / "street.json").read_text() == before


def test_a_helper_process_that_fails_says_why(tmp_path, monkeypatch):
    rows = [[(1, 77, 0, 50, "query")], [(2, 77, 0, 50, "query")]]  # a camera that is not there
    (tmp_path / "street").mkdir()
    with pytest.raises(RuntimeError, match="StopIteration"):
        street._shares(rows, tmp_path / "street", 0, (128, 64), street.CAMERAS, 2, lambda: None)


def test_from_a_plain_script_in_another_folder(tmp_path):
    script = tmp_path / "plain.py"
    script.write_text("from reidbench.data.street import build\nprint(build('here', identities=16, images=2, workers=2, progress=False))\n")
    root = str(Path(street.__file__).parents[2])
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(list(csv.DictReader(open(tmp_path / "here" / "street" / "truth.csv")))) == len(street.plan(16, images=2))


def test_other_sizes_cameras_and_shares(tmp_path):
    cameras = (street.Camera(1, ("shops",), ((0, 10, 1),)), street.Camera(4, ("park", "shops"), ((180, 10, 1),), scale=(.3, .4)))
    folder = street.build(tmp_path, identities=6, images=2, size=(96, 40), train=2, cameras=cameras, progress=False)
    table = pd.read_csv(folder / "truth.csv")
    assert Image.open(folder / table.path[0]).size == (40, 96) and set(table.camid) == {1, 4}
    assert table[table.split == "bounding_box_train"].pid.nunique() == 2 and table[table.split == "query"].pid.nunique() == 4
    assert street.build(tmp_path, identities=6, images=2, size=(96, 40), train=2, cameras=cameras, progress=False) == folder


@pytest.mark.parametrize("wrong, says", [({"identities": 1}, "identities"), ({"images": 1}, "images"), ({"seed": -1}, "seed"), ({"size": (8, 4)}, "size"),
                                         ({"size": (128,)}, "size"),
                                         ({"train": 4}, "train"), ({"train": 0}, "train"), ({"cameras": street.CAMERAS[:1]}, "cameras"),
                                         ({"cameras": street.CAMERAS[:1] * 2}, "cameras"), ({"cameras": quiet(1, scenes=("moon",))}, "moon")])
def test_wrong_arguments(tmp_path, wrong, says):
    with pytest.raises(ValueError, match=says):
        street.build(tmp_path, **{"identities": 4, **wrong})
    assert not list(tmp_path.iterdir())


def test_larger_pictures_show_the_same_moment():
    small, large = (street.shoot(0, 9, 1, 0, size=s)[0] for s in ((128, 64), (256, 128)))
    assert np.abs(large.reshape(128, 2, 64, 2, 3).mean((1, 3)) - small).mean() < .03
