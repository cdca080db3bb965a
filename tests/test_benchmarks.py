"""Readers of the published sets on miniature trees, one's own folders and tables, and what goes wrong."""
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reidbench.data import benchmarks
from reidbench.data.benchmarks import PUBLISHED, available, from_csv, from_folder, from_frame, load
from reidbench.data.street import VERSION


def draw(path, size=(4, 8), colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour % 256, 90, 120)).save(path)


def market_tree(folder, people=4, name="{pid:04d}_c{cam}s1_{frame:06d}_01.jpg"):
    for pid in range(1, people + 1):
        for cam in (1, 2):
            for frame in (1, 2):
                part = "bounding_box_train" if pid <= people // 2 else "query" if frame == 1 else "bounding_box_test"
                draw(folder / part / name.format(pid=pid, cam=cam, frame=frame), colour=pid)
    return folder


def quiet(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load(*args, **options)


def pids(benchmark):
    return [sorted(set(t["pid"].tolist())) for _, t in benchmark.tables()]


# -- Market's layout ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("folder", PUBLISHED["market1501"].folders)
def test_market_by_each_of_its_folder_names_and_by_itself(tmp_path, folder):
    market_tree(tmp_path / folder)
    b = quiet("market1501", root=tmp_path)
    assert pids(b) == [[1, 2], [3, 4], [3, 4]] and b.name == "market1501"
    assert b.fingerprint() == quiet("Market-1501", root=tmp_path / folder).fingerprint() == quiet("market1501", root=str(tmp_path)).fingerprint()


def test_any_folder_in_its_layout_by_name_says_nothing_of_counts(tmp_path):
    market_tree(tmp_path / "market1501-half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        b = load("market1501-half", root=tmp_path)
    assert b.name == "market1501-half" and b.notes == () and load("market1501-half", root=tmp_path / "market1501-half").fingerprint() == b.fingerprint()


def test_counts_that_differ_are_said_with_both_figures(tmp_path):
    market_tree(tmp_path / "market1501")
    with pytest.warns(UserWarning, match="train: found 8 images of 2 identities, published 12,936 images of 751 identities"):
        b = load("market1501", root=tmp_path)
    assert "not the whole published set" in b.notes[0]


def test_counts_that_agree_say_so(tmp_path, monkeypatch):
    market_tree(tmp_path / "market1501")
    draw(tmp_path / "market1501/bounding_box_test/-1_c1s1_000009_01.jpg")
    draw(tmp_path / "market1501/bounding_box_test/0000_c1s1_000009_01.jpg")
    published = PUBLISHED["market1501"]
    monkeypatch.setitem(published.counts, "train", [(8, 2)])
    monkeypatch.setitem(published.counts, "query", [(4, 2)])
    monkeypatch.setitem(published.counts, "gallery", [(99, 2), (6, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        b = load("market1501", root=tmp_path)
    assert b.notes == ("counts as published",) and b.gallery["pid"].tolist().count(-1) == 1 and b.gallery["pid"].tolist().count(0) == 1


def test_names_of_market_and_duke_and_cuhk03_np(tmp_path):
    for i, name in enumerate(("0002_c1s1_000451_03.jpg", "-1_c6s4_000901_00.jpg", "0001_c2_f0046182.jpg", "0003_c1_21.png", "0005_c3s2_000001_01.jpg.jpg")):
        draw(tmp_path / str(i) / name)
        (row,) = benchmarks.parse_names([tmp_path / str(i) / name], benchmarks.MARKET_NAME, tmp_path / str(i), "t").itertuples()
        assert (row.pid, row.camid) == ((2, 1), (-1, 6), (1, 2), (3, 1), (5, 3))[i]
        assert row.frame == (451, 901, 46182, 21, 1)[i]


def test_multi_query_keeps_the_query_people(tmp_path):
    market_tree(tmp_path / "m")
    for pid in (1, 3, 4):
        draw(tmp_path / f"m/gt_bbox/{pid:04d}_c1s1_000007_00.jpg")
    assert load("m", root=tmp_path).multi_query["pid"].tolist() == [3, 4]


def test_names_that_do_not_fit_are_counted_and_said(tmp_path):
    market_tree(tmp_path / "m")
    draw(tmp_path / "m/query/snapshot.jpg")
    (tmp_path / "m/query/Thumbs.db").write_bytes(b"x")
    with pytest.warns(UserWarning, match="1 of 5 pictures .* skipped.*snapshot.jpg"):
        assert len(load("m", root=tmp_path).query) == 4
    for p in (tmp_path / "m/query").iterdir():
        p.unlink()
    draw(tmp_path / "m/query/snapshot.jpg")
    with pytest.raises(ValueError, match="none of the 1 pictures .*snapshot.jpg"):
        load("m", root=tmp_path)


def test_an_empty_part_and_a_missing_part(tmp_path):
    market_tree(tmp_path / "m")
    for p in (tmp_path / "m/query").iterdir():
        p.unlink()
    with pytest.raises(ValueError, match="query holds no pictures"):
        load("m", root=tmp_path)
    (tmp_path / "m/query").rmdir()
    with pytest.raises(FileNotFoundError, match="lacks query/.*Expected"):
        load("m", root=tmp_path)


def test_a_set_by_its_owners_folder_name_is_that_folder_and_is_counted(tmp_path):
    for folder, people in (("Market-1501-v15.09.15", 4), ("market1501", 6)):
        market_tree(tmp_path / folder, people)
    with pytest.warns(UserWarning, match="market1501 is not the whole published set"):
        b = load("Market-1501-v15.09.15", root=tmp_path)
    assert b.name == "market1501" and len(b.train) == 8 and b.fingerprint() == quiet("Market-1501-v15.09.15",
                                                                                     root=tmp_path / "Market-1501-v15.09.15").fingerprint()
    assert len(quiet("market1501", root=tmp_path).train) == 12 and len(quiet(str(tmp_path / "Market-1501-v15.09.15"), root="elsewhere").train) == 8
    assert len(quiet("Market-1501", root=tmp_path).train) == 8  # the plain name in another writing: whichever of its folders comes first
    for name in ("market", "MSMT17_V1", str(tmp_path / "x/market1501")):  # another of its folders is not the one that was asked for
        with pytest.raises(FileNotFoundError, match=f"no folder {name}"):
            load(name, root=tmp_path)


def test_a_folder_by_its_own_path_and_from_inside(tmp_path, monkeypatch):
    market_tree(tmp_path / "sets/mine")
    market_tree(tmp_path / "sets/market1501")
    (tmp_path / "repository/data").mkdir(parents=True)
    there = load("mine", root=tmp_path / "sets")
    monkeypatch.chdir(tmp_path / "repository")
    for name in ("../sets/mine", tmp_path / "sets/mine", "../sets/mine/."):
        b = load(name)
        assert b.name == "mine" and b.fingerprint() == there.fingerprint()
    assert quiet("../sets/market1501").name == "market1501"
    monkeypatch.chdir(tmp_path / "sets")
    assert load("mine").fingerprint() == load("mine", root="..").fingerprint() == there.fingerprint()
    with pytest.raises(FileNotFoundError, match="Market-1501 is not in"):
        load("market1501")  # a published set by its bare name lies under the root
    monkeypatch.chdir(tmp_path / "sets/mine")
    assert load("mine", root=".").fingerprint() == load(".").fingerprint() == there.fingerprint()
    monkeypatch.chdir(tmp_path / "sets/market1501")
    (tmp_path / "sets/market1501/bounding_box_train").rename(tmp_path / "sets/market1501/elsewhere")
    with pytest.raises(FileNotFoundError, match="lacks bounding_box_train/"):
        load("market1501", root=".")  # found by its name, not by what is in it


# -- a set that is not there ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["viper", "VIPeR.v1.0", "caviar", "cuhk03-np", "msmt17", "street"])
def test_somebodys_own_set_may_be_called_like_a_published_one(tmp_path, name):
    market_tree(tmp_path / "mine" / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is counted against the published set
        assert len(load(str(tmp_path / "mine" / name)).train)


def test_a_published_set_by_a_path_that_starts_where_one_stands(tmp_path, monkeypatch):
    market_tree(tmp_path / "market1501")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="published"):
        there = load("market1501", root=tmp_path).fingerprint()
    monkeypatch.chdir(tmp_path / "market1501")
    for start, name in ((tmp_path, "./market1501"), (tmp_path / "market1501", ".")):
        monkeypatch.chdir(start)
        with pytest.warns(UserWarning, match="published"):
            assert load(name).fingerprint() == there


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n != "street"])
def test_a_missing_set_names_folder_layout_and_owners(tmp_path, name):
    with pytest.raises(FileNotFoundError) as error:
        load(name, root=tmp_path)
    text, published = str(error.value), PUBLISHED[name]
    assert str(tmp_path.resolve()) in text and published.layout in text and published.url in text
    assert ("withdrawn" in text) == (name == "dukemtmc-reid")


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="market1501, dukemtmc-reid.*from_folder"):
        load("nobody", root=tmp_path)


def test_an_unknown_option_lists_those_it_takes(tmp_path):
    market_tree(tmp_path / "m")
    with pytest.raises(ValueError, match="no option 'protocol'.*none"):
        load("m", root=tmp_path, protocol="new")
    draw(tmp_path / "pku-reid/001_01_1.png")
    with pytest.raises(ValueError, match="no option 'split'.*seed, query_camera"):
        load("pku-reid", root=tmp_path, split=1)


def test_available_has_every_set_and_says_what_is_there(tmp_path):
    market_tree(tmp_path / "Market-1501-v15.09.15")
    table = available(root=tmp_path).set_index("name")
    assert set(table.index) == {"market1501", "dukemtmc-reid", "msmt17", "cuhk03", "viper", "caviar4reid", "pku-reid", "street"}
    assert table["found"]["market1501"].endswith("v15.09.15") and (table["found"] == "").sum() == 7
    assert "withdrawn" in table["terms"]["dukemtmc-reid"] and "found" not in available().columns
    assert table["train"]["msmt17"] == "32,621"


def test_a_market_tree_is_no_other_set(tmp_path):
    market_tree(tmp_path / "m")
    for name in ("msmt17", "viper", "cuhk03"):
        with pytest.raises(FileNotFoundError):
            load(name, root=tmp_path / "m")


# -- DukeMTMC, MSMT17 -----------------------------------------------------------------------------------------------
def test_duke(tmp_path):
    market_tree(tmp_path / "DukeMTMC-reID", name="{pid:04d}_c{cam}_f{frame:07d}.jpg")
    b = quiet("dukemtmc-reid", root=tmp_path)
    assert pids(b) == [[1, 2], [3, 4], [3, 4]] and b.train["frame"].tolist() == [1, 2] * 4 and "sequence" not in b.train


@pytest.mark.parametrize("parts", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
@pytest.mark.parametrize("place", ["MSMT17_V1", "msmt17/MSMT17_V2", "msmt17"])
def test_msmt17(tmp_path, parts, place):
    folder, lists = tmp_path / place, {}
    for part, (name, people) in {"train": ("train", (0, 1)), "val": ("train", (0,)), "query": ("test", (0, 2)), "gallery": ("test", (0, 2))}.items():
        for pid in people:
            cam = {"train": 1, "val": 4, "query": 3, "gallery": 15}[part]
            file = f"{pid:04d}/{pid:04d}_007_{cam:02d}_0303morning_0015_0.jpg"
            draw(folder / parts[name == "test"] / file)
            lists.setdefault(part, []).append(f"{file} {pid}")
    for part, lines in lists.items():
        (folder / f"list_{part}.txt").write_text("\n".join(lines) + "\n\n")
    b = quiet("msmt17", root=tmp_path)
    assert [t["pid"].tolist() for _, t in b.tables()] == [[1, 2, 1], [3, 5], [3, 5]]  # nobody of the test part is somebody of the training part
    assert b.gallery["camid"].tolist() == [15, 15] and b.train["session"].iloc[0] == "0303morning"
    assert len(quiet("msmt17", root=tmp_path, val=False).train) == 2
    (folder / "list_query.txt").write_text("0000/0000_007_03_0303morning_0015_0.jpg 0\nnonsense\n")
    with pytest.raises(ValueError, match="list_query.txt, line 2: 'nonsense'"):
        quiet("msmt17", root=tmp_path)
    (folder / "list_query.txt").write_text("0000/0000_999_03_0303morning_0015_0.jpg 0\n")
    with pytest.raises(FileNotFoundError, match="1 of the 1 pictures that list_query.txt names"):
        quiet("msmt17", root=tmp_path)
    (folder / "list_query.txt").unlink()
    with pytest.raises(FileNotFoundError, match="list_query.txt is not there"):
        quiet("msmt17", root=tmp_path)


# -- CUHK03 ---------------------------------------------------------------------------------------------------------
def cuhk03_mat(path, pairs=(3, 2), shots=10, empty=((1, 2, 9),)):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = {}
    with h5py.File(path, "w") as file:
        count = iter(range(10**6))
        cell = lambda data: file.create_dataset(f"#refs#/{next(count)}", data=data).ref
        refs = lambda table: np.array(table, dtype=h5py.ref_dtype)
        for boxes in ("detected", "labeled"):
            tables = []
            for pair, people in enumerate(pairs, 1):
                rows = []
                for person in range(1, people + 1):
                    row = []
                    for k in range(shots):
                        image = rng.integers(0, 256, (9, 5, 3), dtype=np.uint8)  # height 9, width 5
                        if (pair, person, k) in empty:
                            row.append(cell(np.zeros(2, np.uint64)))
                        else:
                            row.append(cell(image.T))  # MATLAB's column order
                            pixels[boxes, f"{pair}_{person:03d}_{1 if k < 5 else 2}_{k + 1:02d}"] = image
                    rows.append(row)
                tables.append(cell(refs(rows).T))
            file.create_dataset(boxes, data=refs([tables]))
        tests = [cell(np.array([[1.0, 2.0], [1 + s % 3, 1.0]])) for s in range(20)]  # people (1, 1..3) and (2, 1)
        file.create_dataset("testsets", data=refs([tests]))
    return pixels


@pytest.mark.parametrize("place", ["cuhk03/cuhk-03.mat", "cuhk03/cuhk03_release/cuhk-03.mat", "cuhk03_release/cuhk-03.mat"])
def test_cuhk03_classic_from_the_mat_file(tmp_path, place):
    pixels = cuhk03_mat(tmp_path / place)
    for boxes in ("detected", "labeled"):
        for split in (0, 1, 19):
            b = quiet("cuhk03", root=tmp_path, protocol="classic", boxes=boxes, split=split)
            test = {1001 + split % 3, 2001}
            assert set(b.query["pid"]) == set(b.gallery["pid"]) == test and set(b.train["pid"]) == {1001, 1002, 1003, 2001, 2002} - test
            assert set(b.query["camid"]) == {1} and set(b.gallery["camid"]) == {2}
            assert len(b.gallery) == (9 if split % 3 == 1 else 10)  # one cell of person 1002 is empty
        other = quiet("cuhk03", root=tmp_path, protocol="classic", boxes=boxes, query_camera=2)
        assert set(other.query["camid"]) == {2}
        row = b.query.iloc[0]
        assert (np.asarray(Image.open(row["path"])) == pixels[boxes, row["path"].rsplit("/")[-1][:-4]]).all()


def test_cuhk03_new_from_the_mat_file_and_the_authors_config(tmp_path):
    from scipy.io import savemat
    cuhk03_mat(tmp_path / "cuhk03/cuhk-03.mat")
    names = [f"{pair}_{person:03d}_{view}_{k:02d}.png" for pair, person in ((1, 1), (2, 1)) for view, ks in ((1, (1, 2)), (2, (6, 7))) for k in ks]
    filelist = np.array([[n] for n in names], dtype=object)
    config = {"filelist": filelist, "train_idx": [[1], [2], [3], [4]], "query_idx": [[5], [7]], "gallery_idx": [[6], [8]], "labels": [[1]] * 4 + [[2]] * 4}
    savemat(tmp_path / "cuhk03/cuhk03_new_protocol_config_detected.mat", config)
    with pytest.warns(UserWarning, match="7,365 images of 767 identities"):
        b = load("cuhk03", root=tmp_path)
    assert pids(b) == [[1001], [2001], [2001]] and b.query["camid"].tolist() == [1, 2] and len(b.train) == 4
    with pytest.raises(FileNotFoundError, match="cuhk03_new_protocol_config_labeled.mat is not there"):
        quiet("cuhk03", root=tmp_path, boxes="labeled")


def test_cuhk03_from_torchreids_folders_without_the_mat_file(tmp_path):
    folder = tmp_path / "cuhk03"
    for person in (1, 2):
        for view, ks in ((1, (1, 2)), (2, (6, 7))):
            for k in ks:
                draw(folder / f"images_labeled/1_{person:03d}_{view}_{k:02d}.png")
    row = lambda name, pid: [f"/somewhere/else/images_labeled/{name}.png", pid, 0]
    split = {"train": [row(f"1_001_{v}", 0) for v in ("1_01", "1_02", "2_06", "2_07")], "query": [row("1_002_1_01", 0), row("1_002_2_06", 0)],
             "gallery": [row("1_002_1_02", 0), row("1_002_2_07", 0)]}
    (folder / "splits_new_labeled.json").write_text(json.dumps([split]))
    (folder / "splits_classic_labeled.json").write_text(json.dumps([split] * 20))
    b = quiet("cuhk03", root=tmp_path, boxes="labeled")
    assert pids(b) == [[1001], [1002], [1002]] and len(b.query) == 2
    b = quiet("cuhk03", root=tmp_path, boxes="labeled", protocol="classic", split=7)
    assert pids(b) == [[1001], [1002], [1002]] and set(b.gallery["camid"]) == {2}
    with pytest.raises(FileNotFoundError, match="neither cuhk-03.mat nor images_detected"):
        quiet("cuhk03", root=tmp_path)
    (folder / "images_labeled/1_002_1_01.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 pictures of the protocol are not in .*1_002_1_01"):
        quiet("cuhk03", root=tmp_path, boxes="labeled")


def test_cuhk03_np_folders(tmp_path):
    for boxes in ("detected", "labeled"):
        market_tree(tmp_path / "cuhk03-np" / boxes, name="{pid:04d}_c{cam}_{frame}.png")
    assert pids(quiet("cuhk03", root=tmp_path, boxes="labeled")) == [[1, 2], [3, 4], [3, 4]]


def test_cuhk03_unpacking_leaves_nothing_half_done(tmp_path, monkeypatch):
    cuhk03_mat(tmp_path / "cuhk03/cuhk-03.mat")
    calls = []

    def save(image, path, *args, **options):
        calls.append(path)
        if len(calls) > 3:
            raise OSError("No space left on device")
        return original(image, path, *args, **options)
    original = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OSError, match="No space"):
        quiet("cuhk03", root=tmp_path, protocol="classic")
    assert not (tmp_path / "cuhk03/images_detected").exists()
    monkeypatch.undo()
    assert len(quiet("cuhk03", root=tmp_path, protocol="classic").train) == 29


@pytest.mark.parametrize("options", [dict(protocol="old"), dict(boxes="drawn"), dict(protocol="classic", split=20), dict(protocol="classic", split=-1),
                                     dict(protocol="classic", query_camera=3)])
def test_cuhk03_wrong_options(tmp_path, options):
    draw(tmp_path / "cuhk03/images_detected/1_001_1_01.png")
    with pytest.raises(ValueError, match="give"):
        load("cuhk03", root=tmp_path, **options)


# -- VIPeR, CAVIAR4REID, PKU-Reid -----------------------------------------------------------------------------------
@pytest.mark.parametrize("place", ["VIPeR", "viper", "viper/VIPeR"])
def test_viper_has_ten_halves_in_two_directions(tmp_path, place):
    for pid in range(20):
        draw(tmp_path / place / f"cam_a/{pid:03d}_0.bmp")
        if pid != 13:
            draw(tmp_path / place / f"cam_b/{pid:03d}_90.bmp")
    splits = [quiet("viper", root=tmp_path, split=k) for k in range(20)]
    for k, b in enumerate(splits):
        assert set(b.query["camid"]) == {1 + k % 2} and set(b.gallery["camid"]) == {2 - k % 2} and len(b.classes()) == 9
        assert sorted(b.query["pid"]) == sorted(b.gallery["pid"]) and not set(b.query["pid"]) & set(b.train["pid"]) and b.train["pid"].min() >= 1
        assert 14 not in set(b.query["pid"]) | set(b.train["pid"])  # seen by one camera only; its name says 013
        assert set(b.train["pid"]) == set(splits[k - k % 2].train["pid"])
    assert len({b.fingerprint() for b in splits}) == 20
    assert quiet("viper", root=tmp_path, split=4).fingerprint() == splits[4].fingerprint() != quiet("viper", root=tmp_path, split=4, seed=1).fingerprint()
    for bad in (20, -1, 0.5):
        with pytest.raises(ValueError, match="from 0 to 19"):
            quiet("viper", root=tmp_path, split=bad)


def test_caviar_drops_who_one_camera_saw_and_the_small_camera_asks(tmp_path):
    for pid in range(1, 11):
        for k in (1, 2, 10):
            draw(tmp_path / f"CAVIAR4REID/{pid:04d}{k:03d}.jpg", size=(20, 50))
        for k in (11, 20) if pid > 2 else ():
            draw(tmp_path / f"CAVIAR4REID/{pid:04d}{k:03d}.jpg", size=(8, 20))
    with pytest.warns(UserWarning, match="published 500 images of 25"):
        b = load("caviar4reid", root=tmp_path)
    assert len(b.classes()) == 4 and len(set(b.query["pid"])) == 4 and set(b.query["camid"]) == {2} and {1, 2}.isdisjoint({*b.classes(), *b.query["pid"]})
    assert "2 of 10 people seen by one camera dropped" in b.notes[-1] and len(b.query) == 8 and len(b.gallery) == 12
    assert set(quiet("caviar4reid", root=tmp_path, query_camera=1).query["camid"]) == {1}
    assert quiet("caviar4reid", root=tmp_path, seed=1).classes() != b.classes()
    with pytest.raises(ValueError, match="give 1 or 2"):
        quiet("caviar4reid", root=tmp_path, query_camera=3)


@pytest.mark.parametrize("place", ["pku-reid", "PKU-Reid-Dataset/PKUv1a_128x48"])
def test_pku(tmp_path, place):
    for pid in range(1, 7):
        for cam in (1, 2):
            for turn in range(1, 9):
                draw(tmp_path / place / f"{pid:03d}_{cam:02d}_{turn}.png")
    b = quiet("pku-reid", root=tmp_path)
    assert b.summary()["images"].tolist() == [48, 24, 24] and set(b.query["camid"]) == {1} and set(b.gallery["camid"]) == {2} and set(b.gallery["orientation"]) == set(range(1, 9))
    assert set(b.query["pid"]) == set(b.gallery["pid"]) and not set(b.query["pid"]) & set(b.classes())


# -- street ---------------------------------------------------------------------------------------------------------
def street_tree(folder, version=VERSION):
    market_tree(folder)
    rows = [(p.relative_to(folder).as_posix(), 1, 1, "?", 0.5, 1.2, 0.7, i / 100) for i, p in enumerate(sorted(folder.rglob("*.jpg"))[::-1])]
    pd.DataFrame(rows, columns=["path", "pid", "camid", "split", "scale", "gamma", "blur", "occluded"]).to_csv(folder / "truth.csv", index=False)
    (folder / "street.json").write_text(json.dumps({"version": version, "pictures": len(rows), "arguments": {"identities": 4, "seed": 3}}))


def test_street_is_read_with_its_truth(tmp_path):
    street_tree(tmp_path / "street")
    b = load("street", root=tmp_path)
    truth = pd.read_csv(tmp_path / "street/truth.csv").set_index("path")
    for _, t in b.tables():
        assert {"scale", "gamma", "blur", "occluded"} <= set(t.columns) and "split" not in t.columns
        for row in t.itertuples():
            assert row.occluded == truth["occluded"][row.path.split("street/")[1]]
    assert pids(b) == [[1, 2], [3, 4], [3, 4]] and load("street", root=tmp_path / "street").fingerprint() == b.fingerprint()
    draw(tmp_path / "street/query/0003_c1s1_000099_01.jpg")
    with pytest.raises(ValueError, match="says nothing about query/0003_c1s1_000099_01.jpg"):
        load("street", root=tmp_path)


def test_street_says_what_it_is_and_what_is_wrong_with_it(tmp_path):
    folder = tmp_path / "street"
    street_tree(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load("street", root=tmp_path).notes == (f"rendered: 4 people, seed 3, version {VERSION}; scale, gamma, blur and occluded are known for every picture",)
    (folder / "query/0003_c1s1_000001_01.jpg").unlink()
    with pytest.warns(UserWarning, match="1 of the 16 pictures that truth.csv names are missing, query/0003_c1s1_000001_01.jpg for one"):
        b = load("street", root=tmp_path)
    assert "1 of the 16 pictures" in b.notes[0] and "4 people, seed 3" in b.notes[1] and len(b.query) == 3
    truth = pd.read_csv(folder / "truth.csv")
    truth[truth["path"] != "query/0003_c1s1_000001_01.jpg"].to_csv(folder / "truth.csv", index=False)
    with pytest.warns(UserWarning, match="truth.csv names 15 pictures, street.json says 16"):
        load("street", root=tmp_path)
    street_tree(tmp_path / "old/street", version=VERSION - 1)
    with pytest.warns(UserWarning, match=f"drawn by version {VERSION - 1} of the renderer, this is version {VERSION}"):
        load("street", root=tmp_path / "old")
    for broken in ("{", "[]", '{"arguments": 3}'):
        (folder / "street.json").write_text(broken)
        with pytest.warns(UserWarning, match="street.json.* is missing or not whole"):
            assert load("street", root=tmp_path).notes[1].startswith("rendered; ")


def test_street_lists_its_options(tmp_path):
    with pytest.raises(ValueError, match="street has no option 'foo': it takes identities, seed, images, size, train"):
        load("street", root=tmp_path, foo=1)
    assert not any(tmp_path.iterdir())


def test_street_is_built_where_it_is_missing(tmp_path, monkeypatch):
    import sys
    import types
    asked = []
    module = types.ModuleType("reidbench.data.street")

    def build(root, identities=128, seed=0):
        asked.append({"identities": identities, "seed": seed})
        street_tree(root / "street")
        return root / "street"
    module.build, module.VERSION = build, VERSION
    monkeypatch.setitem(sys.modules, "reidbench.data.street", module)
    assert len(load("street", root=tmp_path / "new", identities=4, seed=3).classes()) == 2 and asked == [{"identities": 4, "seed": 3}]


def test_street_as_it_is_really_built(tmp_path):
    b = load("street", root=tmp_path, identities=4, images=2, seed=1, progress=False, workers=1)
    assert len(b.classes()) == 2 and b.check()["count"].sum() == 0 and b.train["scale"].between(0, 1).all()
    assert load("street", root=tmp_path).fingerprint() == b.fingerprint()
    with pytest.raises(FileExistsError, match="identities: 4"):
        load("street", root=tmp_path, identities=6)


# -- one's own ------------------------------------------------------------------------------------------------------
def frame(people=6, cams=(1, 2), shots=2):
    return pd.DataFrame([(f"{p}_{c}_{s}.jpg", p, c) for p in range(1, people + 1) for c in cams for s in range(shots)], columns=["path", "pid", "camid"])


def test_from_frame_splits_people_by_seed():
    before = frame()
    table = before.copy()
    b = from_frame(table, train=0.5, seed=3)
    pd.testing.assert_frame_equal(table, before)
    assert len(b.classes()) == 3 and len(b.query) == 6 and len(b.gallery) == 6 and not set(b.query["pid"]) & set(b.classes())
    assert b.classes() == from_frame(table, seed=3).classes() and any(b.classes() != from_frame(table, seed=s).classes() for s in range(4, 9))
    assert from_frame(table, train=0).train.empty and from_frame(table, train=1).query.empty
    assert not b.check().set_index("what")["count"]["queries without a match"]


def test_from_frame_takes_given_splits_and_divides_test():
    table = frame(people=3).assign(split=["train"] * 4 + ["query", "gallery", "gallery", "gallery"] + ["test"] * 4)
    b = from_frame(table)
    assert len(b.train) == 4 and len(b.query) == 1 + 2 and len(b.gallery) == 3 + 2 and b.multi_query is None and "split" not in b.train
    assert from_frame(table.assign(split="multi_query")).multi_query is not None
    table["split"] = ["train"] * 4 + ["test"] * 8
    words, kinds = from_frame(table), from_frame(table.astype({"split": "category"}))
    assert all(getattr(kinds, s).equals(getattr(words, s)) for s in ("train", "query", "gallery"))
    with pytest.raises(ValueError, match="row 1 .*has split 'val'"):
        from_frame(table.assign(split=["train", "val"] + ["test"] * 10))


def test_from_frame_without_cameras_and_with_one_picture_per_camera():
    b = from_frame(frame().drop(columns="camid"), train=0)
    assert set(b.query["camid"]) == {-1} and len(b.query) == 6 and len(b.gallery) == 18 and not b.check()["count"].iloc[2]
    b = from_frame(frame(shots=1), train=0)
    assert set(b.query["camid"]) == {1} and set(b.gallery["camid"]) == {2}
    one = from_frame(pd.DataFrame({"path": ["a"], "pid": [1], "camid": [1]}), train=0)
    assert len(one.query) == 1 and one.check().set_index("what")["count"]["queries without a match"] == 1


def test_from_frame_bad_input():
    with pytest.raises(ValueError, match="lacks the column.*pid"):
        from_frame(pd.DataFrame({"path": ["a"]}))
    with pytest.raises(ValueError, match="row 0 .*pid"):
        from_frame(pd.DataFrame({"path": ["a"], "pid": ["Anna"]}))
    with pytest.raises(ValueError, match="no rows"):
        from_frame(frame().iloc[:0])
    with pytest.raises(ValueError, match="share from 0 to 1"):
        from_frame(frame(), train=2)
    with pytest.raises(ValueError, match="not a pandas DataFrame"):
        from_frame([1, 2])


def test_from_csv(tmp_path):
    frame().to_csv(tmp_path / "people.csv", index=False)
    b = from_csv(tmp_path / "people.csv")
    assert b.name == "people" and b.train["path"].iloc[0].startswith(str(tmp_path))
    assert from_csv(tmp_path / "people.csv", root="/x").train["path"].iloc[0].startswith("/x")
    with pytest.raises(FileNotFoundError, match="no CSV file at"):
        from_csv(tmp_path / "gone.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="no readable CSV"):
        from_csv(tmp_path / "empty.csv")


def test_from_folder_layouts(tmp_path):
    market_tree(tmp_path / "m")
    market = from_folder(tmp_path / "m")
    assert market.fingerprint() == load("m", root=tmp_path).fingerprint()
    for i, p in enumerate(sorted((tmp_path / "m").rglob("*.jpg"))):
        draw(tmp_path / "flat" / p.name, colour=i)
        draw(tmp_path / "own" / ("train" if "train" in str(p) else "test") / f"person{p.name[3]}" / p.name[5:], colour=i)
    flat = from_folder(tmp_path / "flat", train=0)
    assert len(flat.query) == 8 and len(flat.gallery) == 8
    own = from_folder(tmp_path / "own")
    assert pids(own) == [[1, 2], [3, 4], [3, 4]] and set(own.train["identity"]) == {"person1", "person2"} and set(own.query["camid"]) == {1, 2} and len(own.query) == 4


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid", "Test"), ("train", "validation", "gallery")])
def test_from_folder_of_splits_with_a_folder_per_identity(tmp_path, names):
    for k, split in enumerate(names):
        for who in ("Anna", "Ben"):
            for cam in (1, 2):
                for shot in (1, 2):
                    draw(tmp_path / split / f"{who}{k}" / f"cam{cam}_{shot}.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        b = from_folder(tmp_path)
    assert set(b.train["identity"]) == {"Anna0", "Ben0", "Anna1", "Ben1"} and set(b.gallery["identity"]) == {"Anna2", "Ben2"}
    assert b.notes == (f"the 8 pictures of {names[1]}/ are part of train",)


def test_from_folder_leaves_out_loose_pictures_beside_splits_and_says_so(tmp_path):
    market_tree(tmp_path / "m")
    before = from_folder(tmp_path / "m")
    draw(tmp_path / "m/overview.png")
    draw(tmp_path / "m/0009_c1s1_000001_01.jpg")
    with pytest.warns(UserWarning, match="2 of 18 pictures left out.*the first is 0009_c1s1_000001_01.jpg"):
        b = from_folder(tmp_path / "m")
    assert b.fingerprint() == before.fingerprint() and b.notes[0].startswith("2 of 18 pictures left out") and before.notes == ()


def test_from_folder_passes_over_hidden_folders(tmp_path):
    market_tree(tmp_path)
    plain_read = from_folder(tmp_path).fingerprint()
    for hidden in (".thumbs", ".git"):
        (tmp_path / hidden).mkdir()
        Image.new("RGB", (4, 8)).save(tmp_path / hidden / "x.png")
    assert from_folder(tmp_path).fingerprint() == plain_read


def test_from_folder_refuses_folders_beside_splits_that_are_none(tmp_path):
    for top in ("test", "Anna", "Ben"):
        for cam in (1, 2):
            draw(tmp_path / top / f"cam{cam}.jpg")
    with pytest.raises(ValueError, match=r"divided into test/, and Anna/, Ben/ beside them \(2 in all\) is not known as a split.*pattern"):
        from_folder(tmp_path)
    assert set(from_folder(tmp_path, r"(?P<pid>[^/]+)/", train=0).query["identity"]) == {"Anna", "Ben", "test"}  # by the pattern that the error gives


def test_junk_among_words_stays_junk(tmp_path):
    for word in ("-1", "anna", "bert"):
        for n in range(2):
            draw(tmp_path / "f" / word / f"shot_c{n + 1}.png")
    for b in (from_folder(tmp_path / "f", train=0), from_folder(tmp_path / "f", r"(?P<pid>[^/]+)/shot_c(?P<camid>\d)", train=0)):
        people = pd.concat([b.query, b.gallery])
        assert set(zip(people["identity"], people["pid"])) == {("-1", -1), ("anna", 1), ("bert", 2)} and set(b.query["pid"]) == {1, 2}


def test_one_number_in_two_writings_is_said(tmp_path):
    for folder in ("001", "1", "2"):
        draw(tmp_path / "f" / folder / "a.png")
    with pytest.raises(ValueError, match="f: '001' and '1' are the same number .1 such in all"):
        from_folder(tmp_path / "f")


def test_a_root_may_be_in_ones_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    draw(tmp_path / "x" / "a.png")
    frame = pd.DataFrame({"path": ["a.png"], "pid": [1], "camid": [1], "split": ["query"]})
    frame.to_csv(tmp_path / "people.csv", index=False)
    for b in (from_frame(frame, root="~/x"), from_csv("~/people.csv", root="~/x"), from_csv("~/people.csv", root=Path("~/x"))):
        assert b.query["path"].tolist() == [str(tmp_path / "x" / "a.png")]


def test_from_folder_numbers_identities_and_finds_cameras(tmp_path):
    for who in ("007", "12"):
        for name in ("a_cam3.jpg", "b_c4_1.jpg", "c.jpg"):
            draw(tmp_path / "f" / who / name)
    b = from_folder(tmp_path / "f", train=0)
    everyone = pd.concat([b.query, b.gallery])
    assert set(everyone["pid"]) == {7, 12} and sorted(everyone["camid"]) == [-1, -1, 3, 3, 4, 4]


def test_from_folder_with_a_pattern(tmp_path):
    for who in ("x", "y"):
        for cam in "ab":
            draw(tmp_path / "f" / f"{cam}-{who}-train.jpg") if who == "x" else draw(tmp_path / "f" / f"{cam}-{who}-{'query' if cam == 'a' else 'gallery'}.jpg")
    draw(tmp_path / "f/other.jpg")
    with pytest.warns(UserWarning, match="1 of 5 pictures"), pytest.raises(ValueError, match="row 0 .*camid 'a'"):
        from_folder(tmp_path / "f", r"(?P<camid>\w)-(?P<pid>\w)-(?P<split>\w+)")
    with pytest.warns(UserWarning, match="1 of 5 pictures"):
        b = from_folder(tmp_path / "f", re.compile(r"(?P<side>\w)-(?P<pid>\w)-(?P<split>\w+)"))
    assert pids(b) == [[1], [2], [2]] and b.query["side"].tolist() == ["a"]
    with pytest.raises(ValueError, match="no group"):
        from_folder(tmp_path / "f", r"\w+")
    with pytest.raises(ValueError, match="none of the 5 pictures"):
        from_folder(tmp_path / "f", r"(?P<pid>\d{9})")


def test_from_folder_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder at"):
        from_folder(tmp_path / "gone")
    with pytest.raises(ValueError, match="holds no pictures"):
        from_folder(tmp_path)
    draw(tmp_path / "loose.jpg")
    with pytest.raises(ValueError, match="loose.jpg .*give a pattern"):
        from_folder(tmp_path)
