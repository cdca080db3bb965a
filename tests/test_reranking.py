"""k-reciprocal re-ranking against a plain dense version of the published algorithm, and bad input."""
import numpy as np
import pytest
import torch

from reidbench.metrics import reranking as R
from reidbench.metrics.ranking import Embeddings, evaluate, evaluate_distances
from reidbench.metrics.reranking import blocks, evaluate_reranked, k_reciprocal, neighbours


def dense(query, gallery, k1=20, k2=6, lambda_value=0.3):
    "Zhong et al. 2017 with full tables, in float64; equal distances by index, a picture first in its own list."
    x = np.concatenate([query, gallery]).astype(np.float64)
    n, q = len(x), len(query)
    d = ((x[:, None] - x[None]) ** 2).sum(-1)
    d[np.arange(n), np.arange(n)] = -1
    rank = np.argsort(d, axis=1, kind="stable")
    d = np.maximum(d, 0)
    d = d / d.max(1, keepdims=True)
    within = lambda k: np.array([np.isin(np.arange(n), rank[i, :k + 1]) for i in range(n)])
    near, half = within(k1), within(round(k1 / 2))
    near, half = near & near.T, half & half.T
    V = np.zeros((n, n))
    for i in range(n):
        members = near[i].copy()
        for c in np.flatnonzero(near[i]):
            if (half[c] & near[i]).sum() > 2 / 3 * half[c].sum():
                members |= half[c]
        V[i, members] = np.exp(-d[i, members])
        V[i] /= V[i].sum()
    V = np.stack([V[rank[i, :k2]].mean(0) for i in range(n)])
    jaccard = np.empty((q, n - q))
    for i in range(q):
        low = np.minimum(V[i], V[q:]).sum(1)
        jaccard[i] = 1 - low / (2 - low)
    return (1 - lambda_value) * jaccard + lambda_value * d[:q, q:]


def people(seed, q=30, g=170, width=8, spread=0.6):
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((15, width))
    pid = rng.integers(0, 15, q + g)
    x = (centre[pid] + spread * rng.standard_normal((q + g, width))).astype(np.float32)
    return x[:q], x[q:], pid[:q], pid[q:]


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_the_dense_algorithm(seed):
    rng = np.random.default_rng(seed)
    X, Y, *_ = people(seed, q=int(rng.integers(1, 40)), g=int(rng.integers(25, 200)), width=int(rng.integers(2, 20)), spread=rng.uniform(0.1, 1.5))
    for options in (dict(), dict(k1=int(rng.integers(1, 25)), k2=1), dict(k1=7, k2=8, lambda_value=0.5)):
        got = k_reciprocal(X, Y, **options)
        assert got.dtype == np.float32 and np.abs(got - dense(X, Y, **options)).max() < 1e-4
        together = list(blocks(X, Y, chunk=7, **options))
        assert [a for a, _ in together] == list(range(0, len(X), 7)) and np.abs(np.concatenate([b for _, b in together]) - got).max() < 1e-4


@pytest.mark.parametrize("chunk", [1, 13, 64, 500])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_neighbours_in_blocks_of_any_size(chunk, k):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 6)).astype(np.float32)
    true = ((x[:, None].astype(np.float64) - x[None]) ** 2).sum(-1)
    index, distance, far, kept = neighbours(x, k, chunk=chunk, keep=20)
    assert np.array_equal(index, np.argsort(true, axis=1, kind="stable")[:, :k])
    assert np.allclose(distance, np.sort(true, axis=1)[:, :k], atol=1e-5) and np.allclose(far, true.max(1), rtol=1e-5) and np.allclose(kept, true[:20, 20:], atol=1e-4)


def test_duplicates_come_after_the_picture_itself():
    x = np.random.default_rng(0).integers(0, 3, (90, 3)).astype(np.float32)  # 27 places for 90 pictures
    index, distance, *_ = neighbours(x, 4, chunk=17)
    assert (index[:, 0] == np.arange(90)).all() and (distance[:, 0] == 0).all() and all(len(set(row)) == 4 for row in index)
    got = k_reciprocal(x[:10], x[10:], k1=5, k2=2)
    assert np.isfinite(got).all() and (got >= -1e-6).all() and (got <= 1 + 1e-6).all()


def test_all_pictures_the_same():
    got = k_reciprocal(np.ones((3, 4)), np.ones((30, 4)))
    assert np.isfinite(got).all()


def test_cosine_is_the_euclidean_distance_of_unit_vectors():
    X, Y, *_ = people(3)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    assert np.abs(k_reciprocal(X, Y, metric="cosine") - dense(unit(X), unit(Y))).max() < 1e-4


def test_scores_without_the_table_and_any_kind_of_input():
    X, Y, xp, yp = people(5)
    cams = np.random.default_rng(0).integers(1, 4, len(X) + len(Y))
    query, gallery = Embeddings(torch.from_numpy(X), xp, cams[:len(X)]), Embeddings(Y.astype(np.float64), yp, cams[len(X):])
    table = k_reciprocal(query, gallery)
    a, b = evaluate_distances(table, xp, yp, cams[:len(X)], cams[len(X):]), evaluate_reranked(query, gallery, chunk=11)
    assert np.allclose(a.ap, b.ap, atol=1e-3, equal_nan=True) and abs(a.mAP - b.mAP) < 1e-4 and "k1=20, k2=6" in b.notes[-1]
    assert b.mAP > evaluate(query, gallery).mAP
    assert np.array_equal(k_reciprocal(X.tolist(), Y.tolist()), table)
    with pytest.raises(ValueError, match="not computed anew"):
        b.ranked(0)


def test_nothing_of_the_callers_is_changed():
    X, Y, *_ = people(1)
    copies = X.copy(), Y.copy()
    k_reciprocal(X, Y)
    assert np.array_equal(X, copies[0]) and np.array_equal(Y, copies[1])


def test_memory_stays_far_below_a_dense_table():
    "20,000 pictures: one dense float32 table would be 1.6 GB; what is kept stays within 8 KB a picture."
    x = np.random.default_rng(0).standard_normal((3000, 4)).astype(np.float32)
    index, distance, far, _ = neighbours(x, 21)
    V = R.weights(x, R.reciprocal_sets(index, 20), index, distance, far, 6)
    assert V.nnz < 300 * len(x)


def test_bad_input():
    X, Y, *_ = people(0)
    with pytest.raises(ValueError, match="k1 is 200 and k2 6, with 170 gallery pictures"):
        k_reciprocal(X, Y, k1=200)
    for options in (dict(k1=0), dict(k2=0), dict(k1=5, k2=7)):
        with pytest.raises(ValueError, match="give 1 <= k1"):
            k_reciprocal(X, Y, **options)
    with pytest.raises(ValueError, match="lambda_value is 1.5"):
        k_reciprocal(X, Y, lambda_value=1.5)
    with pytest.raises(ValueError, match="metric 'l1'"):
        k_reciprocal(X, Y, metric="l1")
    with pytest.raises(ValueError, match="search is 'quick'"):
        k_reciprocal(X, Y, search="quick")
    with pytest.raises(ValueError, match="query embeddings have 8 numbers, gallery embeddings 7"):
        k_reciprocal(X, Y[:, :7])
    with pytest.raises(ValueError, match="the gallery is empty"):
        k_reciprocal(X, Y[:0])
    broken = Y.copy()
    broken[4, 2] = np.nan
    with pytest.raises(ValueError, match=r"gallery: NaN.*row\(s\) 4 "):
        k_reciprocal(X, broken)


def test_faiss_neighbours():
    pytest.importorskip("faiss")
    X, Y, *_ = people(2)
    assert np.abs(k_reciprocal(X, Y, search="faiss") - dense(X, Y)).max() < 1e-4  # flat index, all in the sample
    same = np.random.default_rng(0).integers(0, 3, (90, 3)).astype(np.float32)
    index, distance, *_ = R._faiss_neighbours(same, 4)
    assert (index[:, 0] == np.arange(90)).all() and all(len(set(row)) == 4 for row in index) and (distance[:, 0] == 0).all()
