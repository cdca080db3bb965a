"""Evaluation and re-ranking beside the field's usual libraries: interleaved pairs, medians of ratios, peak memory.

    python benchmarks/ranking.py [--pairs 5] [--only distances,features,rerank,memory] [--quick]

fast-reid and torchreid come from the package registry into outputs/peers; fast-reid's Cython file is compiled there. Where that cannot be
done (no registry, no compiler), the published algorithm stands in, re-written here (a full sort, then a pass over every list), and is called so.
The embeddings are drawn: people in a 96-dimensional space with cameras that disturb them, turned into 2048 numbers.
"""
import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import warnings
import zipfile
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "2")
import numpy as np
import torch
from timing import PEERS, alone, line, pairs, peak_memory, pip, seconds

from reidbench.metrics import ranking, reranking
from reidbench.metrics.ranking import Distances, Embeddings, evaluate, evaluate_distances

line = partial(line, width=102)
# queries, gallery, strangers, people, cameras
SIZES = {"market": (3368, 13115, 2798, 751, 6), "msmt17": (11659, 82161, 0, 3060, 15), "quick": (300, 2500, 400, 120, 6)}


def embeddings(size, noise, width=2048, seed=0):
    "Drawn embeddings of a set's size; `noise` decides how good the model is."
    rng = np.random.default_rng(seed)
    queries, known, strangers, people, cameras = SIZES[size]
    basis = rng.standard_normal((96, width), np.float32) / 10
    centre, camera = rng.standard_normal((people + 1, 96), np.float32), 0.55 * rng.standard_normal((cameras + 1, 96), np.float32)

    def draw(pid, camid):
        out = np.empty((len(pid), width), np.float32)
        for a in range(0, len(pid), 8192):
            p, c = pid[a:a + 8192], camid[a:a + 8192]
            z = centre[p] + camera[c] + np.float32(noise) * rng.standard_normal((len(p), 96), np.float32)
            z[p == 0] = 1.3 * rng.standard_normal(((p == 0).sum(), 96), np.float32)
            np.matmul(z, basis, out=out[a:a + 8192])
        return out
    qp, gp = rng.integers(1, people + 1, queries), np.r_[rng.integers(1, people + 1, known), np.zeros(strangers, int)]
    qc, gc = rng.integers(1, cameras + 1, len(qp)), rng.integers(1, cameras + 1, len(gp))
    return Embeddings(draw(qp, qc), qp, qc), Embeddings(draw(gp, gc), gp, gc)


# -- the peers ------------------------------------------------------------------------------------------------------
def module(path, name):
    "A Python file or compiled extension as a module, without the package around it."
    spec = importlib.util.spec_from_file_location(name, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def fetch_peers():
    "fast-reid's wheel and torchreid's archive, unpacked; fast-reid's Cython file compiled. Returns what is missing."
    PEERS.mkdir(parents=True, exist_ok=True)
    missing, folder = [], PEERS / "fastreid" / "evaluation" / "rank_cylib"
    try:
        if not folder.is_dir():
            pip("download", "--no-deps", "-d", str(PEERS), "fastreid==1.4.0")
            zipfile.ZipFile(next(PEERS.glob("fastreid-*.whl"))).extractall(PEERS)
        if not list(folder.glob("rank_cy*.so")):
            pip("install", "--no-deps", "--target", str(PEERS / "build"), "cython", "setuptools")
            build = ("from setuptools import setup, Extension; from Cython.Build import cythonize; import numpy; "
                     "setup(name='rank_cy', ext_modules=cythonize([Extension('rank_cy', ['rank_cy.pyx'], include_dirs=[numpy.get_include()])], language_level=3), "
                     "script_args=['build_ext', '--inplace'])")
            subprocess.run([sys.executable, "-c", build], cwd=folder, env={**os.environ, "PYTHONPATH": str(PEERS / "build")}, check=True, capture_output=True)
    except (subprocess.CalledProcessError, OSError) as error:
        missing.append(f"fast-reid ({type(error).__name__})")
    try:
        if not list(PEERS.glob("torchreid-*/torchreid/reid/metrics/rank.py")):
            pip("download", "--no-deps", "-d", str(PEERS), "torchreid==0.2.5")
            with tarfile.open(next(PEERS.glob("torchreid-*.tar.gz"))) as archive:
                archive.extractall(PEERS, filter="data")
    except (subprocess.CalledProcessError, OSError) as error:
        missing.append(f"torchreid ({type(error).__name__})")
    return missing


def stand_in(distances, qp, gp, qc, gc, max_rank):
    "The published algorithm, re-written: sort every list whole, then walk it."
    order = np.argsort(distances, axis=1)
    cmc, aps = np.zeros(max_rank), []
    for i in range(len(qp)):
        same = gp[order[i]] == qp[i]
        hits = same[~(same & (gc[order[i]] == qc[i]))]
        if hits.any():
            found = np.cumsum(hits)
            cmc += found[:max_rank] > 0
            aps.append((found / np.arange(1, len(hits) + 1))[hits].mean())
    return cmc / len(aps), np.array(aps)


def peers():
    "name: evaluation of given distances, the fastest peer first."
    missing, found = fetch_peers(), {}
    library = list((PEERS / "fastreid" / "evaluation" / "rank_cylib").glob("rank_cy*.so"))
    if library:
        fast = module(library[0], "rank_cy")
        found["fast-reid 1.4.0 (Cython)"] = lambda d, *ids: fast.evaluate_cy(d, *ids, 50)
    else:
        found["stand-in for the published algorithm (NumPy)"] = lambda d, *ids: stand_in(d, *ids, 50)
    for path in PEERS.glob("torchreid-*/torchreid/reid/metrics/rank.py"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for its Cython file, which the registry does not ship
            plain = module(path, "torchreid_rank")
        found["torchreid 0.2.5 (as the registry ships it: Python)"] = lambda d, *ids: plain.eval_market1501(d, *ids, 50)
    if missing:
        print("not to be had:", ", ".join(missing), file=sys.stderr)
    return found


def torch_distances(a, b):
    "Euclidean distances the way the peers compute them."
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    d = x.pow(2).sum(1, keepdim=True) + y.pow(2).sum(1, keepdim=True).T
    return d.addmm_(x, y.T, beta=1, alpha=-2).clamp_(min=1e-12).sqrt_().numpy()


def peer_rerank(query, gallery):
    theirs, q, g = module(PEERS / "fastreid" / "evaluation" / "rerank.py", "fastreid_rerank"), query.values, gallery.values
    return theirs.re_ranking(torch_distances(q, g), torch_distances(q, q), torch_distances(g, g))


# -- side by side ---------------------------------------------------------------------------------------------------
def bench_distances(size, n):
    for noise, model in ((0.9, "good model"), (30.0, "bad model")):
        query, gallery = embeddings(size, noise)
        d = Distances(query, gallery).block(0, len(query))
        ids = query.pid, gallery.pid, query.camid, gallery.camid
        for name, theirs in peers().items():
            n_queries = 200 if "Python" in name else len(d)  # a query costs the same however many there are, and this peer takes minutes for all
            part, its = d[:n_queries], [x[:n_queries] if len(x) == len(d) else x for x in ids]
            ours, their_map = evaluate_distances(part, *its), float(np.mean(np.asarray(theirs(part, *its)[1])))
            assert abs(their_map - ours.mAP) < 1e-4, (name, their_map, ours.mAP)  # the Cython of the peers sums in float32
            goal = "at least 4.5x" if model == "bad model" else "at least 20x" if "torchreid" in name else "at least 8x"
            line(f"distances given, {model} (mAP {100 * ours.mAP:.1f}), {n_queries:,} queries: {name}",
                 *pairs(lambda: evaluate_distances(part, *its), lambda: theirs(part, *its), n), goal)


def bench_features(size, n):
    query, gallery = embeddings(size, 0.9)
    ids = query.pid, gallery.pid, query.camid, gallery.camid
    evaluate(query, gallery)  # times the products once
    name, theirs = next(iter(peers().items()))
    line(f"from features: {name}", *pairs(lambda: evaluate(query, gallery), lambda: theirs(torch_distances(query.values, gallery.values), *ids), n),
         "at least 3.5x")
    out, route = np.empty((len(query), len(gallery)), np.float32), ranking.fastest_product(query.values.shape[1])
    a, b, ratio = pairs(lambda: evaluate(query, gallery), lambda: ranking.PRODUCTS[route](query.values, gallery.values, out), n)
    print(f"{f'from features against the bare product of the chosen route ({route})':<102} {a:8.3f} s {b:8.3f} s {1 / ratio:7.2f}   at most 1.35")
    print("bare products: " + ", ".join(f"{k} {min(seconds(lambda: p(query.values, gallery.values, out)) for _ in range(n)):.3f} s"
                                        for k, p in ranking.PRODUCTS.items()))


def bench_rerank(size, n):
    query, gallery = embeddings(size, 0.9)
    if "fast-reid" in " ".join(fetch_peers()) and not (PEERS / "fastreid" / "evaluation" / "rerank.py").is_file():
        return print("re-ranking: fast-reid is not to be had, nothing to compare with")
    difference = np.abs(reranking.k_reciprocal(query, gallery) - peer_rerank(query, gallery))
    print(f"re-ranked distances: largest difference {difference.max():.2g}, share above 1e-4: {(difference > 1e-4).mean():.2g}")
    line("re-ranking from features: fast-reid 1.4.0", *pairs(lambda: reranking.k_reciprocal(query, gallery), lambda: peer_rerank(query, gallery), n),
         "at least 7.5x")


# -- memory: each in its own process --------------------------------------------------------------------------------
def job(name, size):
    "Run one thing, print its time and the peak memory of the process."
    query, gallery = embeddings(size, 0.9)
    ids = query.pid, gallery.pid, query.camid, gallery.camid
    calls = {"embeddings alone": lambda: None,
             "evaluate": lambda: evaluate(query, gallery),
             "evaluate, peer": lambda: next(iter(peers().values()))(torch_distances(query.values, gallery.values), *ids),
             "re-rank, scored in blocks": lambda: reranking.evaluate_reranked(query, gallery),
             "re-rank, whole table": lambda: reranking.k_reciprocal(query, gallery),
             "re-rank, peer": lambda: peer_rerank(query, gallery)}
    took = seconds(calls[name])
    print(json.dumps({"seconds": took, "gigabytes": peak_memory()}))


def bench_memory(sizes):
    goals = {("market", "re-rank, whole table"): "at most a sixth of the peer's", ("msmt17", "evaluate"): "at most 2.2 GB",
             ("msmt17", "re-rank, scored in blocks"): "at most 6 GB"}
    for size in sizes:
        for name in ["embeddings alone", "evaluate", "re-rank, scored in blocks",
                     "re-rank, whole table"] + (["evaluate, peer", "re-rank, peer"] if size != "msmt17" else []):
            r, wrong = alone(__file__, "--job", name, "--size", size)
            if wrong:
                print(f"{size}, {name}: failed: {wrong}", flush=True)
                continue
            print(f"peak memory of the whole process, {size}, {name:<28} {r['gigabytes']:6.2f} GB {r['seconds']:8.1f} s  {goals.get((size, name), '')}",
                  flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="distances,features,rerank,memory")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--size", default=None, help="market, msmt17 or quick")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    size, parts = args.size or ("quick" if args.quick else "market"), args.only.split(",")
    if args.job:
        return job(args.job, size)
    print(f"{SIZES[size][0]:,} queries x {sum(SIZES[size][1:3]):,} gallery, 2048 numbers each, {torch.get_num_threads()} threads, {args.pairs} interleaved pairs: ours, theirs, median ratio")
    if "distances" in parts:
        bench_distances(size, args.pairs)
    if "features" in parts:
        bench_features(size, args.pairs)
    if "rerank" in parts:
        bench_rerank(size, max(1, args.pairs // 2))
    if "memory" in parts:
        bench_memory([args.size] if args.size else ["quick"] if args.quick else ["market", "msmt17"])


if __name__ == "__main__":
    main()
