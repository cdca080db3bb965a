"""Evaluation against an independent slow reference: ties, junk, missing matches, every protocol, bad input."""
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidbench.metrics import ranking as R
from reidbench.metrics.ranking import Embeddings, average, compare, evaluate, evaluate_distances, join, pool_queries, side_by_side, single_shot


def slow(distance, qp, gp, qc=None, gc=None):
    "One list after the other, by a stable sort: (first rank, AP, INP) of each query, None where it has no valid match."
    scores = []
    for i in range(len(qp)):
        ranked = sorted(range(len(gp)), key=lambda j: (distance[i][j], j))
        valid = [j for j in ranked if gp[j] != -1 and not (qc is not None and gp[j] == qp[i] and gc[j] == qc[i])]
        hits = [k for k, j in enumerate(valid, 1) if gp[j] == qp[i]]
        scores.append((hits[0], sum(n / k for n, k in enumerate(hits, 1)) / len(hits), len(hits) / hits[-1]) if hits else None)
    return scores


def agree(ranking, scores):
    assert [s is None for s in scores] == np.isnan(ranking.ap).tolist()
    some = [s for s in scores if s is not None]
    assert np.allclose(ranking.ap[~np.isnan(ranking.ap)], [s[1] for s in some], atol=1e-12, rtol=0)
    assert np.allclose(ranking.inp[~np.isnan(ranking.inp)], [s[2] for s in some], atol=1e-12, rtol=0)
    assert abs(ranking.mAP - np.mean([s[1] for s in some])) < 1e-12 and abs(ranking.mINP - np.mean([s[2] for s in some])) < 1e-12
    assert np.allclose(ranking.cmc, [np.mean([s[0] <= k for s in some]) for k in range(1, len(ranking.cmc) + 1)], atol=1e-12, rtol=0)
    assert ranking.missing == len(scores) - len(some) and ranking.rank1[~np.isnan(ranking.rank1)].tolist() == [float(s[0] == 1) for s in some]


def case(seed):
    "A random search: ties, junk, strangers, one camera, one positive, none."
    rng = np.random.default_rng(seed)
    q, g, people, cams = int(rng.integers(1, 30)), int(rng.integers(1, 150)), int(rng.integers(1, 20)), int(rng.integers(1, 5))
    low = int(rng.choice([-1, 0, 1]))
    qp, gp = rng.integers(1, people + 1, q), rng.integers(low, people + 1, g)
    qc, gc = rng.integers(1, cams + 1, q), rng.integers(1, cams + 1, g)
    levels = int(rng.choice([2, 5, 50, 10**9]))
    distance = rng.integers(0, levels, (q, g)) / levels - rng.choice([0, 0.5])
    return distance.astype(rng.choice([np.float32, np.float64])), qp, gp, qc, gc


# -- exactness ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("protocol", ["market", "cuhk03-new"])
def test_two_hundred_random_cases_equal_the_slow_reference(protocol):
    tried = 0
    for seed in range(200):
        distance, qp, gp, qc, gc = case(seed)
        scores = slow(distance, qp, gp, qc, gc)
        if all(s is None for s in scores):
            with pytest.raises(ValueError, match="no query has a valid match"):
                evaluate_distances(distance, qp, gp, qc, gc, protocol)
            continue
        tried += 1
        agree(evaluate_distances(distance, qp, gp, qc, gc, protocol), scores)
        cameraless = slow(distance, qp, gp)
        if not all(s is None for s in cameraless):
            agree(evaluate_distances(distance, qp, gp), cameraless)
    assert tried > 120


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [7, 3000, 10**9])
def test_long_lists_good_and_bad_models(dtype, levels):
    "Wide enough for both ways of ranking: few candidates left, and whole rows."
    rng = np.random.default_rng(levels)
    qp, gp, qc, gc = rng.integers(1, 60, 40), rng.integers(-1, 60, 3000), rng.integers(1, 4, 40), rng.integers(1, 4, 3000)
    distance = rng.integers(0, levels, (40, 3000)).astype(dtype)
    distance[:20] -= (gp[None] == qp[:20, None]) * dtype(levels)  # the first half ranks its people early
    distance[5] = 0
    agree(evaluate_distances(distance, qp, gp, qc, gc), slow(distance, qp, gp, qc, gc))


def test_threads_and_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    Q, G = rng.standard_normal((90, 16), np.float32), rng.standard_normal((700, 16), np.float32)
    ids = [rng.integers(1, 20, 90), rng.integers(-1, 20, 700), rng.integers(1, 4, 90), rng.integers(1, 4, 700)]
    query, gallery = Embeddings(Q, ids[0], ids[2]), Embeddings(G, ids[1], ids[3])
    base = evaluate(query, gallery)
    for chunk in (1, 7, 64, 1000):
        other = evaluate(query, gallery, chunk=chunk)
        assert np.allclose(other.ap, base.ap, atol=1e-3, equal_nan=True) and abs(other.mAP - base.mAP) < 1e-5  # near-ties may swap
    distance = rng.random((300, 40000), dtype=np.float32)
    qp, gp = rng.integers(1, 90, 300), rng.integers(1, 90, 40000)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 3):
            torch.set_num_threads(n)
            results.append(evaluate_distances(distance, qp, gp))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(results[0].ap, results[1].ap) and np.array_equal(results[0].cmc, results[1].cmc)


def clear_of_ties(distance):
    "True where no two distances of a row are closer than float32 rounding could swap."
    gaps = np.diff(np.sort(distance, axis=1), axis=1)
    return (gaps > 1e-5).all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_from_embeddings_equals_the_slow_reference(metric):
    tried = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        q, g = int(rng.integers(1, 12)), int(rng.integers(2, 40))
        Q, G = rng.standard_normal((q, 5)).astype(np.float32), rng.standard_normal((g, 5)).astype(np.float32)
        qp, gp, qc, gc = rng.integers(1, 5, q), rng.integers(-1, 5, g), rng.integers(1, 3, q), rng.integers(1, 3, g)
        a, b = Q.astype(np.float64), G.astype(np.float64)
        if metric == "cosine":
            a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
        distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)) if metric == "euclidean" else 1 - a @ b.T
        scores = slow(distance, qp, gp, qc, gc)
        if all(s is None for s in scores) or not clear_of_ties(distance):
            continue
        tried += 1
        agree(evaluate(Embeddings(Q, qp, qc), Embeddings(G, gp, gc), metric=metric), scores)
        agree(evaluate(Embeddings(torch.from_numpy(Q).double(), qp, qc), Embeddings(G.astype(np.float64), gp, gc), metric=metric, chunk=1), scores)
    assert tried > 30


def test_every_product_route_gives_the_same_scores(monkeypatch):
    rng = np.random.default_rng(0)
    Q, G = rng.standard_normal((50, 64), np.float32), rng.standard_normal((400, 64), np.float32)
    ids = rng.integers(1, 9, 50), rng.integers(1, 9, 400)
    monkeypatch.setattr(R, "fastest_product", lambda width: name)
    found = []
    for name in R.PRODUCTS:
        d = R.Distances(Embeddings(Q, ids[0]), Embeddings(G, ids[1]))
        d.product = R.PRODUCTS[name]
        found.append(d.block(0, 50))
        assert np.allclose(found[-1], np.sqrt(((Q[:, None].astype(np.float64) - G[None]) ** 2).sum(-1)), atol=1e-4)


def test_a_route_that_rounds_coarser_than_float32_is_refused(monkeypatch):
    coarse = lambda q, g, out: np.copyto(out, (torch.from_numpy(q).bfloat16().float() @ torch.from_numpy(g).bfloat16().float().T).numpy())
    monkeypatch.setattr(R, "PRODUCTS", {"coarse": coarse, "numpy": R._by_numpy})
    monkeypatch.setattr(R, "_seconds", lambda product, *args: 0.0 if product is coarse else 1.0)
    R.fastest_product.cache_clear()
    try:
        assert R.fastest_product(128) == "numpy"
        monkeypatch.setattr(R, "PRODUCTS", {"numpy": R._by_numpy, "torch": R._by_torch})
        monkeypatch.setattr(R, "_seconds", lambda product, *args: 0.0 if product is R._by_torch else 1.0)
        R.fastest_product.cache_clear()
        assert R.fastest_product(128) == "torch"  # the fastest of the exact ones
    finally:
        R.fastest_product.cache_clear()


def test_memory_mapped_embeddings_in_several_blocks(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    G, Q = rng.standard_normal((500, 32), np.float32), rng.standard_normal((40, 32), np.float32)
    ids = rng.integers(1, 9, 40), rng.integers(1, 9, 500)
    np.save(tmp_path / "g.npy", G)
    mapped = np.load(tmp_path / "g.npy", mmap_mode="r")
    base = evaluate(Embeddings(Q, ids[0]), Embeddings(G, ids[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = evaluate(Embeddings(Q, ids[0]), Embeddings(mapped, ids[1]))
        d = R.Distances(Embeddings(Q, ids[0]), Embeddings(mapped, ids[1]))
        d.product = R.PRODUCTS["torch"]
        d.block(0, 5)
    assert np.array_equal(got.ap, base.ap) and isinstance(Embeddings(mapped, ids[1]).values, np.memmap)
    whole = d.block(0, 40)
    d.gallery_step = 64
    assert np.allclose(d.block(0, 40), whole, atol=1e-5)


def test_half_precision_and_bfloat16_embeddings():
    rng = np.random.default_rng(0)
    G, Q = rng.standard_normal((60, 8), np.float32), rng.standard_normal((10, 8), np.float32)
    ids = rng.integers(1, 5, 10), rng.integers(1, 5, 60)
    for cast in (lambda x: torch.from_numpy(x).half(), lambda x: torch.from_numpy(x).bfloat16(), lambda x: x.astype(np.float16)):
        rounded = [np.asarray(torch.as_tensor(cast(x)).float()) for x in (Q, G)]
        agree(evaluate(Embeddings(cast(Q), ids[0]), Embeddings(cast(G), ids[1])),
              slow(((rounded[0][:, None].astype(np.float64) - rounded[1][None]) ** 2).sum(-1), *ids))


def test_nothing_of_the_callers_is_changed():
    distance, qp, gp, qc, gc = case(7)
    copies = [x.copy() for x in (distance, qp, gp, qc, gc)]
    evaluate_distances(distance, qp, gp, qc, gc)
    Q, G = np.random.default_rng(0).standard_normal((4, 3), np.float32), np.random.default_rng(1).standard_normal((9, 3), np.float32)
    saved = Q.copy(), G.copy()
    for metric in ("euclidean", "cosine"):
        evaluate(Embeddings(Q, [1, 1, 2, 2]), Embeddings(G, [1, 2] * 4 + [1]), metric=metric)
    assert all(np.array_equal(a, b) for a, b in zip(copies, (distance, qp, gp, qc, gc))) and np.array_equal(saved[0], Q) and np.array_equal(saved[1], G)


def test_the_same_map_as_torchmetrics():
    from torchmetrics.functional.retrieval import retrieval_average_precision
    rng = np.random.default_rng(0)
    distance, qp, gp = rng.random((20, 100)), rng.integers(1, 8, 20), rng.integers(1, 8, 100)
    expected = [float(retrieval_average_precision(torch.from_numpy(1 - d), torch.from_numpy(gp == p))) for d, p in zip(distance, qp)]
    assert np.allclose(evaluate_distances(distance, qp, gp).ap, expected, atol=1e-6)


# -- properties -----------------------------------------------------------------------------------------------------
searches = st.integers(0, 10**6).map(case).filter(lambda c: any(s is not None for s in slow(*c)))


@given(searches, st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_a_permutation_of_the_gallery_changes_nothing_where_nothing_ties(c, seed):
    distance, qp, gp, qc, gc = c
    distance = np.argsort(np.argsort(distance + np.random.default_rng(seed).random(distance.shape), axis=1), axis=1).astype(distance.dtype)
    order = np.random.default_rng(seed).permutation(len(gp))
    a, b = evaluate_distances(distance, qp, gp, qc, gc), evaluate_distances(distance[:, order], qp, gp[order], qc, gc[order])
    assert np.array_equal(a.ap, b.ap, equal_nan=True) and np.array_equal(a.cmc, b.cmc)


@given(searches)
@settings(max_examples=60, deadline=None)
def test_a_farther_negative_never_changes_and_a_closer_one_never_raises_ap(c):
    distance, qp, gp, qc, gc = c
    base = evaluate_distances(distance, qp, gp, qc, gc)
    for value, same in ((distance.max() + 1, True), (distance.min() - 1, False), (np.median(distance), False)):
        more = np.column_stack([distance, np.full(len(qp), value, distance.dtype)])
        got = evaluate_distances(more, qp, np.r_[gp, 10**6], qc, np.r_[gc, 1])
        some = ~np.isnan(base.ap)
        assert (got.ap[some] == base.ap[some]).all() if same else (got.ap[some] <= base.ap[some] + 1e-15).all()


@given(searches)
@settings(max_examples=40, deadline=None)
def test_junk_and_same_camera_pictures_never_matter(c):
    distance, qp, gp, qc, gc = c
    base = evaluate_distances(distance, qp, gp, qc, gc)
    more = np.column_stack([np.full(len(qp), distance.min() - 1, distance.dtype), distance])
    got = evaluate_distances(more, qp, np.r_[-1, gp], qc, np.r_[1, gc])
    assert np.array_equal(base.ap, got.ap, equal_nan=True)


def test_duplicates_rank_in_gallery_order():
    "Equal distances: the picture that comes first in the gallery ranks first."
    assert evaluate_distances(np.zeros((1, 4), np.float32), [1], [2, 2, 1, 2]).ap.tolist() == [1 / 3]
    assert evaluate_distances(np.zeros((1, 4), np.float32), [1], [1, 2, 2, 2]).ap.tolist() == [1.0]
    assert evaluate_distances(np.zeros((1, 4)), [1], [2, 1, 2, 1]).ap.tolist() == [(1 / 2 + 2 / 4) / 2]
    assert evaluate_distances(np.array([[0.0, -0.0]], np.float32), [1], [2, 1]).ap.tolist() == [0.5]


# -- what the field knows -------------------------------------------------------------------------------------------
def test_an_unknown_camera_equals_no_other_and_missing_cameras_are_said():
    distance = np.array([[0.1, 0.2]])
    assert evaluate_distances(distance, [1], [1, 2], [-1], [-1, -1]).mAP == 1
    with pytest.raises(ValueError, match="no query has a valid match"):
        evaluate_distances(distance, [1], [1, 2], [3], [3, 3])
    assert any("no cameras" in n for n in evaluate_distances(distance, [1], [1, 2]).notes)
    assert any("no cameras" in n for n in evaluate(Embeddings([[0.0]], [1], [1]), Embeddings([[0.0]], [1])).notes)
    assert not evaluate_distances(distance, [1], [1, 2], [1], [2, 2]).notes


def test_pid_0_is_a_person_where_it_is_asked_for_and_junk_never_asks():
    distance = np.array([[0.1, 0.2], [0.3, 0.1]])
    assert evaluate_distances(distance, [0, 1], [0, 1]).mAP == 1
    r = evaluate_distances(distance, [-1, 1], [-1, 1])
    assert r.missing == 1 and r.ap[1] == 1


def test_cmc_reaches_every_rank_even_past_the_gallery():
    r = evaluate_distances(np.array([[0.1, 0.2, 0.3]]), [1], [2, 2, 1], ranks=(1, 3, 20))
    assert len(r.cmc) == 20 and r.cmc[:3].tolist() == [0, 0, 1] and r.cmc[-1] == 1 and r.scores()["Rank-20"] == 1


def test_ranked_list_worst_and_table():
    distance, qp, gp, qc, gc = next(c for c in map(case, range(100)) if len(c[1]) > 9 and any(slow(*c)))
    r = evaluate_distances(distance, qp, gp, qc, gc)
    for i in range(len(qp)):
        valid = [j for j in sorted(range(len(gp)), key=lambda j: (distance[i][j], j)) if gp[j] != -1 and not (gp[j] == qp[i] and gc[j] == qc[i])]
        got = r.ranked(i, top=7)
        assert got["gallery"].tolist() == valid[:7] and got["right"].tolist() == [gp[j] == qp[i] for j in valid[:7]] and got["distance"].tolist() == distance[i, valid[:7]].tolist()
    worst = r.worst(5)
    assert worst["AP"].is_monotonic_increasing and worst["AP"].iloc[0] == np.nanmin(r.ap) and not worst["AP"].isna().any()
    assert r.table().loc[0, "mAP"] == round(100 * r.mAP, 2) and "Rank-1" in r._repr_html_() and ("without a valid match" in r._repr_html_()) == bool(r.missing)


@pytest.mark.parametrize("query", [-1, 2, 99])
def test_the_list_of_a_query_that_is_not_there(query):
    r = evaluate_distances(np.array([[0.1, 0.2], [0.3, 0.1]]), [1, 2], [1, 2])
    assert len(r.ranked(np.int64(1))) == 2
    with pytest.raises(ValueError, match=f"query {query} is not there: give a row from 0 to 1, there are 2 queries"):
        r.ranked(query)


def test_queries_without_a_match_are_said_in_the_table():
    r = evaluate_distances(np.array([[0.1, 0.2], [0.3, 0.1]]), [1, 5], [1, 2])
    assert r.missing == 1 and "1 without a valid match left out" in r._repr_html_() and "1 queries" in r._repr_html_()


# -- single shot ----------------------------------------------------------------------------------------------------
def test_single_shot_with_one_picture_each_is_the_plain_ranking():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        people = int(rng.integers(2, 20))
        gp, qp = rng.permutation(np.arange(1, people + 1)), rng.integers(1, people + 1, 15)
        distance = (rng.integers(0, 6, (15, people)) / 6).astype(rng.choice([np.float32, np.float64]))
        r = evaluate_distances(distance, qp, gp, np.ones(15, int), np.full(people, 2), "single-gallery-shot", draws=3)
        agree(r, slow(distance, qp, gp))
        assert all(s < 1e-12 for s in r.spread.values())


def test_single_shot_draws_are_a_fair_sample():
    "Against the exact chance of each rank: for each right picture, other people are nearer independently (Poisson binomial)."
    rng = np.random.default_rng(0)
    gp, gc, qp, qc = np.repeat(np.arange(1, 7), 5), np.tile([1, 1, 2, 2, 3], 6), np.arange(1, 7).repeat(3), np.tile([1, 2, 3], 6)
    distance = rng.random((18, 30)) - 0.2 * (gp[None] == qp[:, None])
    chance = np.zeros((18, 6))
    for i in range(18):
        mine = [j for j in range(30) if gp[j] == qp[i] and gc[j] != qc[i]]
        for j in mine:
            law = np.array([1.0])
            for p in set(gp) - {qp[i]}:
                nearer = (distance[i, gp == p] < distance[i, j]).mean()
                law = np.convolve(law, [1 - nearer, nearer])
            chance[i] += law / len(mine)
    r = evaluate_distances(distance, qp, gp, qc, gc, "single-gallery-shot", draws=4000, seed=1)
    assert np.allclose(r.cmc[:6], np.cumsum(chance.mean(0)), atol=0.01)
    assert np.allclose(r.ap, (chance / np.arange(1, 7)).sum(1), atol=0.03)


@pytest.mark.parametrize("asked", [False, True], ids=["strangers", "a person"])
def test_strangers_are_each_one_of_their_own_in_single_shot(asked):
    "Four pictures of pid 0 lie nearer than the match: four wrong people, or, where somebody asks for 0, one."
    distance = np.array([[5, 1, 2, 3, 4, 0], [9, 1, 1, 1, 1, 9]], dtype=float)[:2 if asked else 1]
    r = evaluate_distances(distance, np.array([7, 0][:len(distance)]), np.array([7, 0, 0, 0, 0, -1]), np.ones(len(distance), int), np.full(6, 2), "single-gallery-shot", draws=9)
    assert (1 / r.ap[0]).round(6) == (2 if asked else 5)


def test_single_shot_is_seeded_and_blind_to_chunks():
    rng = np.random.default_rng(0)
    query = Embeddings(rng.standard_normal((30, 8)), np.repeat(np.arange(10), 3), np.tile([1, 2, 3], 10))
    gallery = Embeddings(rng.standard_normal((80, 8)), np.tile(np.arange(-1, 7), 10), np.repeat([1, 2], 40))
    a = single_shot(query, gallery, draws=20, seed=4)
    assert np.array_equal(a.cmc, single_shot(query, gallery, draws=20, seed=4, chunk=7).cmc) and not np.array_equal(a.cmc, single_shot(query, gallery, draws=20, seed=5).cmc)
    # people 7, 8, 9 are not there
    assert a.missing == 9 and set(a.spread) == {"mAP", "mINP", "Rank-1", "Rank-5", "Rank-10", "Rank-20"} and a.spread["Rank-1"] > 0
    assert np.isclose(a.mAP, np.nanmean(a.ap)) and np.isclose(a.cmc[0], np.nanmean(a.rank1))
    with pytest.raises(ValueError, match="draws is 0"):
        single_shot(query, gallery, draws=0)
    with pytest.raises(ValueError, match="no option draws"):
        evaluate(query, gallery, draws=3)


# -- pooling, splits, several sets ----------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["mean", "max"])
def test_pooling(how):
    rng = np.random.default_rng(0)
    values, pid, camid = rng.standard_normal((40, 3)).astype(np.float32), rng.integers(1, 5, 40), rng.integers(1, 4, 40)
    pooled = pool_queries(Embeddings(values, pid, camid), how)
    pairs = sorted({(int(p), int(c)) for p, c in zip(pid, camid)})
    assert list(zip(pooled.pid.tolist(), pooled.camid.tolist())) == pairs
    for row, (p, c) in zip(pooled.values, pairs):
        part = values[(pid == p) & (camid == c)]
        assert np.allclose(row, part.mean(0) if how == "mean" else part.max(0), atol=1e-6)
    assert pool_queries(Embeddings(values, pid)).camid is None and len(pool_queries(Embeddings(values, pid))) == 4
    with pytest.raises(ValueError, match="how is 'median'"):
        pool_queries(Embeddings(values, pid), "median")


def test_average_side_by_side_and_join():
    rng = np.random.default_rng(0)
    rankings = [evaluate_distances(rng.random((9, 20 + k)), rng.integers(1, 4, 9), rng.integers(1, 4, 20 + k)) for k in range(4)]
    mean = average(rankings)
    assert np.isclose(mean.mAP, np.mean([r.mAP for r in rankings])) and np.isclose(mean.cmc[0], np.mean([r.cmc[0] for r in rankings]))
    assert np.isclose(mean.spread["Rank-1"], np.std([r.cmc[0] for r in rankings], ddof=1)) and "&plusmn;" in mean._repr_html_()
    with pytest.raises(ValueError, match="does not hold its search"):
        mean.ranked(0)
    with pytest.raises(ValueError, match="no rankings"):
        average([])
    table = side_by_side({("market", "duke"): rankings[0], ("duke", "market"): rankings[1]})
    assert table.index.names == ["trained on", "tested on"] and table.loc[("duke", "market"), "mAP"] == round(100 * rankings[1].mAP, 2)
    both = join(Embeddings(np.zeros((2, 3)), [1, 2], [1, 1]), Embeddings(np.ones((1, 3)), [0], [2]))
    assert both.pid.tolist() == [1, 2, 0] and both.camid.tolist() == [1, 1, 2] and both.values[2].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="widths 3, 2"):
        join(Embeddings(np.zeros((2, 3)), [1, 2]), Embeddings(np.zeros((2, 2)), [1, 2]))


# -- FAISS ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_faiss_is_exact_with_a_flat_index_over_everything_and_a_lower_bound_below(metric):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    values = rng.standard_normal((460, 16)).astype(np.float32)
    query = Embeddings(values[:60], rng.integers(-1, 9, 60), rng.integers(1, 4, 60))
    gallery = Embeddings(values[60:], rng.integers(-1, 7, 400), rng.integers(1, 4, 400))
    exact, whole, short = evaluate(query, gallery, metric=metric), *(evaluate(query, gallery, metric=metric, search="faiss", top=top) for top in (400, 30))
    assert np.allclose(exact.ap, whole.ap, equal_nan=True, atol=1e-6) and np.isclose(exact.mINP, whole.mINP) and np.allclose(exact.cmc, whole.cmc)
    assert np.array_equal(np.isnan(exact.ap), np.isnan(short.ap)) and (short.ap[~np.isnan(short.ap)] <= exact.ap[~np.isnan(exact.ap)] + 1e-9).all() and short.mINP <= exact.mINP
    assert short.cmc[0] == exact.cmc[0] and "lower bounds" in short.notes[-1]
    coarse = evaluate(query, gallery, metric=metric, search="faiss", index="IVF8,Flat", probes=8, top=400)
    assert np.allclose(coarse.ap, exact.ap, equal_nan=True, atol=1e-6)
    with pytest.raises(ValueError, match="larger top"):
        evaluate(query, gallery, search="faiss", top=5)
    with pytest.raises(ValueError, match="needs search='exact'"):
        evaluate(query, gallery, "single-gallery-shot", search="faiss")


def test_without_faiss_the_extra_is_named(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "faiss", None)
    e = Embeddings(np.ones((2, 2)), [1, 1])
    with pytest.raises(ImportError, match=r"reidbench\[faiss\]"):
        evaluate(e, e, search="faiss")
    with pytest.raises(ValueError, match="search is 'fast'"):
        evaluate(e, e, search="fast")


# -- comparing ------------------------------------------------------------------------------------------------------
def ranking_of(ap):
    ap = np.asarray(ap, float)
    return R.Ranking(np.ones(20), float(np.nanmean(ap)), float(np.nanmean(ap)), ap, ap, (ap > 0.9).astype(float), query_pid=np.arange(len(ap)) // 2)


def test_bootstrap_interval_has_the_normal_width_and_finds_a_real_difference():
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 1, 600)
    b = np.clip(a - rng.normal(0.02, 0.1, 600), 0, 1)
    row = compare(ranking_of(a), ranking_of(b)).table.set_index("measure").loc["mAP"]
    error = 100 * np.std(a - b) / np.sqrt(600)
    assert abs(row["difference"] - 100 * (a - b).mean()) < 1e-9 and abs((row["high"] - row["low"]) / (2 * 1.96 * error) - 1) < 0.05 and row["p"] < 0.01
    swapped = compare(ranking_of(b), ranking_of(a)).table.set_index("measure").loc["mAP"]
    assert np.isclose(swapped["difference"], -row["difference"]) and np.isclose(swapped["low"], -row["high"], atol=0.1)


def test_bootstrap_by_identity_is_wider_where_pictures_of_one_person_agree():
    rng = np.random.default_rng(0)
    d = rng.normal(0, 0.1, 300).repeat(2)
    a, b = ranking_of(0.5 + d), ranking_of(np.full(600, 0.5))
    width = lambda by: np.subtract(*compare(a, b, by=by).table.loc[0, ["high", "low"]])
    assert width("identity") / width("query") == pytest.approx(np.sqrt(2), rel=0.1)


def test_p_is_uniform_where_there_is_no_difference():
    ps = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        d = rng.normal(0, 0.1, 80)
        ps.append(compare(ranking_of(0.5 + d), ranking_of(np.full(80, 0.5)), draws=400, seed=seed).table["p"][0])
    assert 0.01 <= np.mean(np.array(ps) < 0.05) <= 0.11 and 0.4 < np.mean(ps) < 0.6


def test_compare_bad_input_and_missing_queries():
    a, b = ranking_of([0.5, np.nan, 0.7]), ranking_of([0.4, 0.2, np.nan])
    assert compare(a, b).queries == 1
    with pytest.raises(ValueError, match="a has 3 queries, b 2"):
        compare(a, ranking_of([0.1, 0.2]))
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(ranking_of([np.nan, 1.0]), ranking_of([1.0, np.nan]))
    with pytest.raises(ValueError, match="by is 'camera'"):
        compare(a, b, by="camera")
    with pytest.raises(ValueError, match="different people"):
        compare(a, R.Ranking(b.cmc, b.mAP, b.mINP, b.ap, b.inp, b.rank1, query_pid=np.array([9, 9, 9])))


# -- bad input ------------------------------------------------------------------------------------------------------
def test_bad_embeddings_name_the_rows():
    good = Embeddings(np.ones((3, 2)), [1, 1, 2])
    for value in (np.nan, np.inf, -np.inf):
        values = np.ones((5, 2), np.float32)
        values[[1, 3], 1] = value
        with pytest.raises(ValueError, match=r"gallery: NaN.*row\(s\) 1, 3 \(2 of 5\)"):
            evaluate(good, Embeddings(values, [1] * 5))
        with pytest.raises(ValueError, match=r"query: NaN.*row\(s\) 1, 3"):
            evaluate(Embeddings(values, [1] * 5), good)
        with pytest.raises(ValueError, match="NaN or infinite values in row 1"):
            evaluate_distances(values, [1] * 5, [1, 1])
    with pytest.raises(ValueError, match="query embeddings have 3 numbers, gallery embeddings 2"):
        evaluate(Embeddings(np.ones((1, 3)), [1]), good)
    with pytest.raises(ValueError, match="the gallery is empty"):
        evaluate(good, Embeddings(np.ones((0, 2)), []))
    with pytest.raises(ValueError, match="the query is empty"):
        evaluate(Embeddings(np.ones((0, 2)), []), good)
    with pytest.raises(ValueError, match="gallery is a ndarray"):
        evaluate(good, np.ones((3, 2)))


@pytest.mark.parametrize("pid,said", [([1, 2.5, 3], "row 1 .*2.5"), ([1, 2, np.nan], "row 2 .*nan"), (["a", "b", "c"], "row 0 .*'a'"),
                                      ([1, 2], r"expected \[3\]"), ([[1], [2], [3]], r"expected \[3\]")])
def test_identities_that_are_no_whole_numbers(pid, said):
    with pytest.raises(ValueError, match="pid.*" + said):
        Embeddings(np.ones((3, 2)), pid)
    with pytest.raises(ValueError, match="gallery_pid.*" + said):
        evaluate_distances(np.ones((1, 3)), [1], pid)


def test_ids_of_any_kind():
    import pandas as pd
    for pid in ([1, 2, 3], np.array([1.0, 2.0, 3.0]), torch.tensor([1, 2, 3]), pd.Series([1, 2, 3], index=[4, 5, 6]), np.array([1, 2, 3], np.uint8),
                np.array([1, 2, 3], object)):
        assert Embeddings(np.ones((3, 2)), pid).pid.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"values has shape \[3\]"):
        Embeddings([1.0, 2.0, 3.0], [1, 2, 3])


def test_bad_options():
    d = np.ones((1, 2))
    with pytest.raises(ValueError, match="protocol 'duke' is not known: give one of market"):
        evaluate_distances(d, [1], [1, 2], protocol="duke")
    with pytest.raises(ValueError, match="metric 'hamming'"):
        evaluate(Embeddings(d, [1]), Embeddings(d, [1]), metric="hamming")
    with pytest.raises(ValueError, match="ranks is"):
        evaluate_distances(d, [1], [1, 2], ranks=(0, 1))
    for empty in (np.ones((0, 2)), np.ones((2, 0)), np.ones(3)):
        with pytest.raises(ValueError, match="at least one query and one gallery"):
            evaluate_distances(empty, [1], [1])


def test_charts():
    distance, qp, gp, qc, gc = next(c for c in map(case, range(100)) if any(slow(*c)))
    r = evaluate_distances(distance, qp, gp, qc, gc)
    curve, bars = R.cmc_curve({"a": r, "b": r}, top=5), R.ap_histogram(r, bins=10)
    assert np.allclose(curve.data[0].y, 100 * r.cmc[:5]) and [t.name for t in curve.data] == ["a", "b"]
    assert sum(bars.data[0].y) == len(qp) - r.missing
