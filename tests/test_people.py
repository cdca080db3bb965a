"""The person table, the benchmark and reading one picture: bad input and sweeps."""
import dataclasses
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reidbench.data.people import MATTE, BadImage, Benchmark, check_people, nobody, open_image, readable, unanswerable


def table(rows):
    return pd.DataFrame(rows, columns=["path", "pid", "camid"])


@pytest.fixture
def pictures(tmp_path):
    def make(name, pid, camid, colour=90):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16), (colour, 100, 120)).save(path)
        return str(path), pid, camid
    return make


# -- the table ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", ["anna", 1.5, None, np.nan, np.inf, -2, "", "1.2"])
@pytest.mark.parametrize("column", ["pid", "camid"])
def test_a_number_that_is_none_names_row_and_column(column, value):
    people = table([("a.jpg", 1, 1), ("b.jpg", 2, 1), ("c.jpg", 3, 2)]).astype({column: object})
    people.loc[1, column] = value
    with pytest.raises(ValueError, match=rf"mine: row 1 .*{column}"):
        check_people(people, "mine")


def test_whole_numbers_of_any_kind_are_taken_and_the_callers_table_stays():
    people = pd.DataFrame({"path": ["a", "b"], "pid": ["0002", "7"], "camid": [1.0, 2.0], "scale": [1.0, 0.5]}, index=[5, 9])
    before = people.copy()
    clean = check_people(people)
    assert clean["pid"].tolist() == [2, 7] and clean["camid"].tolist() == [1, 2]
    assert clean["pid"].dtype == np.int64 and clean.index.tolist() == [0, 1] and clean["scale"].tolist() == [1.0, 0.5]
    pd.testing.assert_frame_equal(people, before)


def test_missing_column_missing_path_and_no_table():
    with pytest.raises(ValueError, match="lacks the column.*camid"):
        check_people(pd.DataFrame({"path": ["a"], "pid": [1]}))
    with pytest.raises(ValueError, match="row 1 has no path"):
        check_people(table([("a", 1, 1), (None, 1, 1)]))
    with pytest.raises(ValueError, match="not a pandas DataFrame"):
        check_people([("a", 1, 1)])


# -- the benchmark --------------------------------------------------------------------------------------------------
def test_summary_counts_people_junk_and_distractors(pictures):
    train = table([pictures("t1.png", 1, 1), pictures("t2.png", 1, 2)])
    query = table([pictures("q.png", 5, 1)])
    gallery = table([pictures("g1.png", 5, 2), pictures("g2.png", -1, 3), pictures("g3.png", 0, 3), pictures("g4.png", 0, 2)])
    s = Benchmark("b", train, query, gallery).summary().set_index("split")
    assert s.loc["gallery", ["images", "identities", "cameras", "junk", "distractors"]].tolist() == [4, 1, 2, 1, 2]
    assert s.loc["train", ["images", "identities", "cameras", "junk", "distractors"]].tolist() == [2, 1, 2, 0, 0]


def test_pid_0_is_a_person_where_somebody_asks_for_it(pictures):
    people = table([pictures("a.png", 0, 1), pictures("b.png", 0, 2), pictures("c.png", 1, 1)])
    b = Benchmark("own", people, people.iloc[:1], people.iloc[1:])
    assert b.summary()["identities"].tolist() == [2, 1, 2] and b.classes() == {0: 0, 1: 1}
    assert nobody(b.query) == {-1} and nobody(people.iloc[2:]) == {-1, 0}


def test_classes_leave_junk_out():
    people = table([("a", -1, 1), ("b", 30, 1), ("c", 4, 1)])
    assert Benchmark("b", people, people, people).classes() == {4: 0, 30: 1}


def test_fingerprint_follows_the_data_and_not_the_place(tmp_path, pictures):
    rows = [pictures("one/a.png", 1, 1), pictures("one/b.png", 2, 2)]
    moved = [(pictures(f"two/{os.path.basename(p)}", pid, camid)[0], pid, camid) for p, pid, camid in rows]
    make = lambda r: Benchmark("b", table(r), table(r[:1]), table(r))
    base = make(rows).fingerprint()
    assert len(base) == 64 and make(moved).fingerprint() == base and make(rows[::-1]).fingerprint() != base  # another query
    assert Benchmark("b", table(rows[::-1]), table(rows[:1]), table(rows)).fingerprint() == base
    for changed in ([(rows[0][0], 3, 1), rows[1]], [(rows[0][0], 1, 4), rows[1]], rows[:1]):
        assert Benchmark("b", table(changed), table(rows[:1]), table(rows)).fingerprint() != base
    with open(rows[1][0], "ab") as f:
        f.write(b"x")
    assert make(rows).fingerprint() != base
    os.remove(rows[1][0])
    with pytest.raises(FileNotFoundError, match="b.png is gone"):
        make(rows).fingerprint()


def test_the_benchmark_is_frozen_and_does_not_hold_the_callers_tables():
    people = table([("a", 1, 1)])
    b = Benchmark("b", people, people, people)
    people.loc[0, "pid"] = 99
    assert b.train["pid"].tolist() == [1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        b.name = "c"


def test_bad_rows_name_benchmark_and_split():
    people = table([("a", 1, 1)])
    with pytest.raises(ValueError, match="mine, gallery: row 0"):
        Benchmark("mine", people, people, people.assign(pid=0.5))


def test_check_counts_what_is_wrong_and_never_crashes(tmp_path, pictures):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    single, pair = pictures("s.png", 3, 1), [pictures("p1.png", 1, 1), pictures("p2.png", 1, 2)]
    query = table([pictures("q1.png", 7, 1), pictures("q2.png", 8, 1), pictures("q3.png", 1, 2)])
    gallery = table([pictures("g1.png", 7, 2), pictures("g2.png", 8, 1), (str(broken), 1, 1), (str(tmp_path / "gone.png"), 7, 3), pictures("g1.png", 7, 2)])
    b = Benchmark("b", table([single, *pair]), query, gallery)
    said = b.check(read=True).set_index("what")["means"]
    assert "copies" in said["training identities with one image"] and "skip" not in said["training identities with one image"]
    counts = b.check(read=True).set_index("what")["count"].to_dict()
    assert counts == {"empty splits": 0, "training identities with one image": 1, "queries without a match": 1, "identities in train and in query": 1,
                      "images twice in one split": 1, "missing files": 1, "unreadable files": 1}
    empty = table([])
    counts = Benchmark("nothing", empty, empty, empty).check(read=True).set_index("what")["count"]
    assert counts["empty splits"] == 3 and counts.drop("empty splits").sum() == 0
    assert Benchmark("nothing", empty, empty, empty).summary()["images"].tolist() == [0, 0, 0]


def test_unanswerable_is_the_field_rule_on_random_tables():
    rng = np.random.default_rng(0)
    for _ in range(50):
        q = table([("q", int(p), int(c)) for p, c in zip(rng.integers(-1, 6, 12), rng.integers(0, 3, 12))])
        g = table([("g", int(p), int(c)) for p, c in zip(rng.integers(-1, 6, 9), rng.integers(0, 3, 9))])
        slow = [not (p >= 0 and any(gp == p and gc != c for gp, gc in zip(g["pid"], g["camid"]))) for p, c in zip(q["pid"], q["camid"])]
        assert unanswerable(q, g).tolist() == slow


def test_it_shows_itself_and_escapes_what_it_shows():
    people = table([("a", 1, 1)])
    html = Benchmark("<b>", people, people, people, notes=("1 < 2",))._repr_html_()
    assert "&lt;b&gt;" in html and "1 &lt; 2" in html and "<b><b>" not in html


# -- reading one picture --------------------------------------------------------------------------------------------
def noise(*shape):
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (13, 5)])
@pytest.mark.parametrize("mode,suffix", [("RGB", "png"), ("L", "png"), ("1", "png"), ("P", "png"), ("LA", "png"), ("RGBA", "png"), ("CMYK", "jpg"),
                                         ("RGB", "bmp"),
                                         ("CMYK", "tif"), ("RGB", "webp"), ("I;16", "png"), ("F", "tif"), ("YCbCr", "jpg"), ("P", "gif"), ("LAB", "tif")])
def test_every_mode_becomes_uint8_rgb(tmp_path, size, mode, suffix):
    source = Image.fromarray(noise(size[1], size[0], 3))
    if mode == "I;16":
        image = Image.fromarray(noise(size[1], size[0]).astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray((noise(size[1], size[0]) / 255).astype(np.float32))
    elif mode == "LAB":
        image = Image.merge("LAB", source.split())
    else:
        image = source.convert(mode)
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    array = open_image(path)
    assert array.dtype == np.uint8 and array.shape == (size[1], size[0], 3) and array.flags.writeable
    if mode in ("L", "I;16", "F"):
        expected = np.asarray(source.convert("L")) if mode == "L" else noise(size[1], size[0])
        assert (array == expected[..., None]).all()
    if (mode, suffix) == ("RGB", "png"):
        assert (array == np.asarray(source)).all()


def test_transparency_is_laid_on_mid_grey(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., 0], rgba[0, :, 3], rgba[1, 0, 3] = 200, 255, 128
    Image.fromarray(rgba).save(tmp_path / "a.png")
    array = open_image(tmp_path / "a.png")
    assert (array[0] == (200, 0, 0)).all() and (array[1, 1] == MATTE).all()
    assert np.abs(array[1, 0].astype(int) - (np.array([200, 0, 0]) * 128 + MATTE * 127) / 255).max() <= 1
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    assert open_image(tmp_path / "p.png").tolist() == [[[MATTE] * 3, [40, 50, 60]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation):
    upright = np.zeros((6, 4, 3), np.uint8)
    upright[0, :, 0], upright[:, 0, 1] = 255, 255  # red top edge, green left edge
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
              6: np.rot90(upright, 1), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert (open_image(tmp_path / "a.png") == upright).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "tif", "webp"])
def test_truncated_at_every_length_is_one_error(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise(24, 12, 3)).save(whole)
    data, half = whole.read_bytes(), tmp_path / f"half.{suffix}"
    for length in [0, 1, 10, len(data) // 3, len(data) // 2]:
        half.write_bytes(data[:length])
        with pytest.raises(BadImage, match=f"half.{suffix} is no readable picture.*drop its row"):
            open_image(half)
        assert not readable(half)
    assert readable(whole)


def test_no_picture_at_all(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(BadImage, match="a.jpg is no readable picture"):
        open_image(tmp_path / "a.jpg")
    with pytest.raises(BadImage, match="no readable picture"):
        open_image(tmp_path)
    with pytest.raises(FileNotFoundError, match="no picture at .*gone.jpg"):
        open_image(tmp_path / "gone.jpg")
    Image.fromarray(np.full((2, 2), 300, np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(BadImage, match="expected 0 to 1"):
        open_image(tmp_path / "f.tif")


def test_what_is_drawn_of_a_file_is_what_is_read(tmp_path):
    from reidbench.core.show import to_image

    turned, glass = Image.Exif(), np.dstack([noise(6, 4, 3), np.full((6, 4), 70, np.uint8)])
    turned[0x0112] = 6
    Image.fromarray((noise(6, 4).astype(np.uint16) * 257)).save(tmp_path / "16.png")
    Image.fromarray(noise(6, 4, 3)).save(tmp_path / "turned.png", exif=turned)
    Image.fromarray(glass).save(tmp_path / "glass.png")
    for name in ("16", "turned", "glass"):
        assert (np.asarray(to_image(tmp_path / f"{name}.png")) == open_image(tmp_path / f"{name}.png")).all(), name
