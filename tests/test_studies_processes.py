"Studies in processes of their own: killed and gone on with, shared by two, by torchrun's two, spread over a cluster. A file of its own: a worker of pytest takes a whole file."
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from test_studies import QUICK, differ, sets, study, unbroken, what_counts  # noqa: F401 (QUICK: the scripts' own)

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_studies import *
study({sets!r}, {folder!r}, {more}).run({engine!r})
"""


def script(tmp_path, sets, folder, engine="local", more=""):
    file = tmp_path / "run.py"
    file.write_text(SCRIPT.format(tests=os.path.dirname(__file__), sets=str(sets), folder=str(folder), more=more, engine=engine))
    return [sys.executable, str(file)]


def environment(root):
    return {**os.environ, "PYTHONPATH": str(root)}


def test_killed_anywhere_ends_the_same(unbroken, sets, tmp_path, root):
    "SIGKILL at the first checkpoint, at the first record, in the second seed; then to the end."
    folder = tmp_path / "study"
    wanted = [lambda: list(folder.glob("trainings/*/checkpoint/*")), lambda: list(folder.glob("records/*/*.json")),
              lambda: len(list(folder.glob("records/*/*.json"))) == 2 and list(folder.glob("trainings/*seed1/checkpoint/*"))]
    for seen in wanted:
        process = subprocess.Popen(script(tmp_path, sets, folder), env=environment(root), stderr=subprocess.DEVNULL)
        end = time.time() + 120
        while not seen() and process.poll() is None:
            assert time.time() < end
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    subprocess.run(script(tmp_path, sets, folder), env=environment(root), check=True, stderr=subprocess.DEVNULL)
    assert not differ(folder, unbroken)


def test_two_runs_share_the_work(unbroken, sets, tmp_path, root):
    folder = tmp_path / "study"
    both = [subprocess.Popen(script(tmp_path, sets, folder), env=environment(root), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [p.communicate(timeout=240)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    begun = [line.split("running ")[1] for text in said for line in text.splitlines() if "; running " in line]
    assert len(begun) == len(set(begun)) == 4
    assert not differ(folder, unbroken)


def test_two_processes_train_one_cell(sets, tmp_path, processes):
    "torchrun with gloo: both train, one searches and writes."
    folder = tmp_path / "study"
    _, file = script(tmp_path, sets, folder, more="seeds=1, changes={**QUICK, 'processes': 2}")
    with open(file, "a") as more:
        more.write("import sys, torch\nfrom reidbench.train.loop import _patient\nsys.stdout.write(f\"{_patient()._get_backend(torch.device('cpu')).options._timeout.total_seconds()}\\n\")\n")
    done = processes(2, file)
    assert done.stderr.count("; running ") == 2  # the first process alone reports
    # while the first searches, the others wait as long as it takes, not gloo's half an hour or NCCL's ten minutes
    assert done.stdout.split() == [f"{7 * 24 * 3600}.0"] * 2
    assert [r["failure"] for r in what_counts(folder).values()] == [None, None]


LEARNS = """
import torch
from reidbench.attacks.generative import DMR
from reidbench.data import benchmarks
from reidbench.nets.identity import IdentityNet
from reidbench.train.loop import agreed, processes

torch.manual_seed(0)
net = IdentityNet("resnet18", 8, neck="plain", last_stride=1).eval()
learn = lambda: DMR(epochs=1, p=4, k=2, width=4, blocks=1, critic_width=4).fit(net, benchmarks.load("tiny", root={sets!r}), (64, 32), {folder!r}, quiet=True, device="cpu", alone={alone})
if not {alone} or processes("cpu", 2).is_main_process:
    learn()
agreed()
"""


def test_the_first_process_learns_a_generator_alone(sets, tmp_path, processes):
    "While the others wait; the same one as without them."
    from reidbench.nets.weights import read_model

    for world, name in ((1, "lone"), (2, "first")):
        (tmp_path / f"{name}.py").write_text(LEARNS.format(sets=str(sets), folder=str(tmp_path / name), alone=world > 1))
        processes(world, tmp_path / f"{name}.py")
    one, first = (read_model(tmp_path / name / "generator.safetensors")[2] for name in ("lone", "first"))
    assert one.keys() == first.keys() and all(torch.equal(one[k], first[k]) for k in one)


def test_a_cluster_of_two_nodes_and_a_killed_worker(unbroken, sets, tmp_path, monkeypatch):
    "Every job on a worker; one worker is killed at its first checkpoint; the records are those of the quiet run."
    pytest.importorskip("ray")
    import psutil
    import ray
    from ray.cluster_utils import Cluster

    folder, killed = tmp_path / "study", []
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's own 15 would wait for whatever else this machine does
    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=150_000_000, include_dashboard=False)

    def kill():
        while not list(folder.glob("trainings/*/checkpoint/*")):
            time.sleep(0.005)
        workers = [p for p in psutil.process_iter(["cmdline"]) if "ray::_on_a_worker" in " ".join(p.info["cmdline"] or [])]
        killed.append(workers[0].pid)
        workers[0].kill()

    watcher = threading.Thread(target=kill, daemon=True)
    watcher.start()
    try:
        study(sets, folder).run("ray", quiet=True, address=cluster.address)
    finally:
        cluster.shutdown()
    assert killed and not differ(folder, unbroken)
