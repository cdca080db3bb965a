"Maps of features: what comes back, what it says of itself, what it refuses."
import base64
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.manifold import trustworthiness

from reidbench.explain import embedding
from reidbench.explain.embedding import far_apart, project
from reidbench.metrics.ranking import Embeddings


def clusters(count=60, groups=3, seed=0):
    "Three far clusters in ten dimensions, and which one each point is of."
    dice = np.random.default_rng(seed)
    which = np.arange(count) % groups
    return dice.normal(size=(groups, 10))[which] * 20 + dice.normal(size=(count, 10)), which


@pytest.fixture(scope="module")
def laid():
    features, which = clusters()
    return project(features, people=pd.DataFrame(dict(pid=which, camid=which % 2, gamma=np.linspace(1, 3, len(which)))))


def test_clusters_stay_together(laid):
    _, which = clusters()
    centres = np.stack([laid.coordinates[which == g].mean(0) for g in range(3)])
    nearest = ((laid.coordinates[:, None] - centres) ** 2).sum(2).argmin(1)
    assert laid.coordinates.shape == (60, 2) and (nearest == which).all()


def test_trustworthiness_is_scikit_learns(laid):
    features, _ = clusters()
    assert laid.neighbours == 15 and laid.measured == 60
    assert laid.trustworthiness == pytest.approx(trustworthiness(features, laid.coordinates, n_neighbors=15))
    assert f"{laid.trustworthiness:.3f}" in repr(laid) and f"{laid.trustworthiness:.3f}" in laid.figure("pid").layout.title.text


def test_a_sample_is_measured_when_there_are_many(monkeypatch):
    features, _ = clusters()
    monkeypatch.setattr(embedding, "MEASURED", 20)
    found = project(features)
    assert found.measured == 20 and "on 20 of them" in repr(found) and len(found) == 60


def test_seed_and_tensor(laid):
    features, _ = clusters()
    tensor = torch.from_numpy(features).float()
    before = tensor.clone()
    a, b = project(tensor, seed=3, metric="cosine"), project(tensor, seed=3, metric="cosine")
    assert np.array_equal(a.coordinates, b.coordinates) and torch.equal(tensor, before)


@pytest.mark.parametrize("width, count", [(1, 12), (2, 12), (5, 4), (5, 5)])
def test_few_points_and_one_feature(width, count):
    found = project(np.random.default_rng(0).normal(size=(count, width)))
    assert np.isfinite(found.coordinates).all() and 0 <= found.trustworthiness <= 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 5, 13, 60])
def test_umap(count):
    features, which = clusters(count)
    a, b = (project(features, "umap", seed=1) for _ in range(2))
    assert np.array_equal(a.coordinates, b.coordinates) and np.isfinite(a.coordinates).all() and a.method == "umap"
    if count == 60:
        assert a.trustworthiness > 0.8


def test_umap_leaves_the_number_of_threads(python):
    "Its library sets those of the whole process; torch would round otherwise from then on."
    code = "import numpy, torch; from reidbench.explain.embedding import project; project(numpy.random.default_rng(0).random((40, 8)), 'umap'); print(torch.get_num_threads())"
    ended = python(code, env={"OMP_NUM_THREADS": "1"})
    assert ended.stdout.split() == ["1"], ended


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("width, count", [(1, 12), (2, 12), (30, 12), (5, 4), (5, 200)])
def test_pca_keeps_most_of_the_spread(width, count, metric):
    "Distances are those of the two strongest singular directions."
    features = np.random.default_rng(0).normal(size=(count, width)) + 1
    found = project(features, "pca", metric=metric).coordinates
    known = features / np.linalg.norm(features, axis=1, keepdims=True) if metric == "cosine" else features
    left, strong, _ = np.linalg.svd(known - known.mean(0), full_matrices=False)
    expected = left[:, :2] * strong[:2]
    apart = lambda points: ((points[:, None] - points) ** 2).sum(2)
    assert found.shape == (count, 2) and np.allclose(apart(found), apart(expected))


def test_embeddings_bring_their_people():
    features, which = clusters(12)
    found = project(Embeddings(features.astype(np.float32), which, which + 1, [f"somewhere/{i}.png" for i in range(12)]))
    hover = "".join("".join(t.text) for t in found.figure("camid").data)
    assert found.people["camid"].tolist() == (which + 1).tolist() and "7.png" in hover and "somewhere" not in hover and "camera 2" in hover


def test_names_and_scales(laid):
    by_pid, by_gamma, plain = laid.figure("pid"), laid.figure("gamma"), laid.figure()
    assert [t.name for t in by_pid.data] == ["0", "1", "2"] and sum(len(t.x) for t in by_pid.data) == 60
    assert by_gamma.data[0].marker.showscale and np.allclose(by_gamma.data[0].marker.color, laid.people["gamma"])
    assert len(plain.data) == 1 and len(plain.data[0].text) == 60
    assert [t.name for t in laid.figure(["dark" if g > 2 else "light" for g in laid.people["gamma"]]).data] == ["dark", "light"]
    unknown = laid.people["gamma"].where(laid.people["pid"] > 0)
    traces = laid.figure(unknown).data
    assert traces[0].name == "not known" and len(traces[0].x) == 20 and len(traces[1].x) == 40


def test_words_with_gaps_are_names_and_the_gaps_are_not_known(laid):
    people = laid.people.assign(note=["bag", np.nan, "hat"] * 20, seen=pd.array([1, None, 2] * 20, dtype="Int64"), age=[30.5, None, 7] * 20, empty=np.nan)
    noted = replace(laid, people=people)
    for colour, names in (("note", ["not known", "bag", "hat"]), (["bag", np.nan, "hat"] * 20, ["not known", "bag", "hat"]), ("seen", ["not known", "1", "2"]),
                          ("empty", ["not known"])):
        traces = noted.figure(colour).data
        assert [t.name for t in traces] == names and traces[0].text[0].endswith("not known") and traces[0].marker.color == embedding.QUIET
    rest, scaled = noted.figure("age").data
    assert rest.name == "not known" and len(rest.x) == 20 and scaled.marker.showscale and len(scaled.x) == 40
    many = noted.figure([None, *range(59)]).data
    assert [len(t.x) for t in many] == [1, 59] and not many[1].showlegend


def test_bfloat16_is_taken():
    tensor = torch.from_numpy(clusters(12)[0]).bfloat16()
    found = project(tensor, "pca")
    assert np.array_equal(found.coordinates, project(tensor.float(), "pca").coordinates) and len(found.figure(tensor[:, 0]).data) == 1


def test_many_names_have_no_legend(laid):
    chart = laid.figure(list(range(60)))
    assert len(chart.data) == 1 and not chart.data[0].showlegend
    looks = set(zip(chart.data[0].marker.color, chart.data[0].marker.symbol))
    assert len(looks) == 56  # seven colours times eight forms


def test_thumbnails(laid, tmp_path):
    images = torch.rand(60, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    chart = laid.figure("pid", thumbnails=5, images=images)
    rows = far_apart(laid.coordinates, 5)
    assert len(chart.layout.images) == 5 and len(set(rows)) == 5
    for i, drawn in zip(rows, chart.layout.images):
        picture = Image.open(io.BytesIO(base64.b64decode(drawn.source.split(",")[1])))
        mean = np.asarray(picture, float).mean((0, 1)) / 255
        assert picture.size == (28, 56) and drawn.y == pytest.approx(laid.coordinates[i, 1])
        assert np.allclose(mean, images[i].mean((1, 2)), atol=0.03)
    assert len(laid.figure(thumbnails=200, images=images).layout.images) == 60


def test_far_apart_takes_the_farthest():
    points = np.array([[0, 0], [0.1, 0], [5, 0], [0, 9], [0.2, 0.1]])
    assert far_apart(points, 3) == [1, 3, 2] or far_apart(points, 3)[1:] == [3, 2]
    assert far_apart(points, 0) == [] and sorted(far_apart(points, 9)) == [0, 1, 2, 3, 4]
    assert sorted(far_apart(np.zeros((3, 2)), 3)) == [0, 1, 2]


@pytest.mark.parametrize("features, options, words", [
    (np.full((6, 3), np.nan), {}, "6 of 6 features hold NaN"),
    (np.where(np.arange(18).reshape(6, 3) == 4, np.inf, 1.0), {}, "1 of 6 features hold NaN or infinite numbers .row 1"),
    (np.zeros((1, 3)), {}, "1 point: a map needs at least 4"),
    (np.zeros((0, 3)), {}, "0 points"),
    (np.ones((9, 3)), {}, "all 9 features are the same"),
    (np.random.rand(9, 3), {"perplexity": 9}, "below the number of points, 9; got 9"),
    (np.random.rand(9, 3), {"method": "umap", "neighbours": 30}, "neighbours is about the neighbours"),
    (np.random.rand(9, 3), {"method": "umap", "neighbours": 1}, "at least 2"),
    (np.random.rand(9, 3), {"perplexity": 0}, "at least 1"),
    (np.random.rand(9, 3), {"method": "isomap"}, "there are tsne, umap, pca"),
    (np.random.rand(9), {}, r"must be numbers \[N, D\]"),
    (np.array([["a"] * 3] * 9), {}, "must be numbers"),
    (np.random.rand(9, 3), {"people": pd.DataFrame(dict(pid=[1, 2]))}, "2 rows for 9 features"),
    (np.zeros((20_001, 1)), {}, "at most 20000"),
])
def test_what_cannot_be_laid_out_is_said(features, options, words):
    with pytest.raises(ValueError, match=words):
        project(features, **options)


def test_colours_that_are_not_there(laid):
    for wrong, words in (("weather", "no column 'weather'.*pid, camid, gamma"), ([1, 2], "one value for each of the 60")):
        with pytest.raises(ValueError, match=words):
            laid.figure(wrong)
    with pytest.raises(ValueError, match="thumbnails need pictures"):
        laid.figure("pid", thumbnails=3)
    with pytest.raises(ValueError, match="no person table was given"):
        project(clusters(8)[0]).figure("pid")
