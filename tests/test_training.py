"Training as it happens to people: stopped, out of disk, on odd data, in several processes."
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from reidbench.core.record import Record
from reidbench.data.people import Benchmark
from reidbench.methods.baseline import BaselineSettings, Trainer, identification, same_training, small, train
from reidbench.nets.backbones import Backbone
from reidbench.nets.identity import IdentityNet, load_identity
from reidbench.train.checkpoints import describe, find_checkpoint, save_checkpoint
from reidbench.train.loop import NonFiniteLoss
from reidbench.train.watch import DIARY, Diary, Watch, alive, launch, log_tail, told

TINY = small(epochs=3, p=4, k=2, size=(64, 32), warmup=1, device="cpu")


def weights(run):
    return run.model.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("settings", [TINY, replace(TINY, precision="no", optimizer="adamw", dropout=0.3, neck="plain"),
                                      small(identification(), epochs=3, p=0, k=8, size=(64, 32), triplet=0.0, dropout=0.5, last_stride=1, device="cpu")],
                         ids=["bf16 adam", "fp32 adamw dropout", "shuffled"])
def test_resumed_is_unbroken_bit_for_bit(colours, tmp_path, settings):
    whole = train(colours, settings, quiet=True)
    _stopped(colours, settings, tmp_path, at=(1, 1))
    torch.manual_seed(123)  # other dice were thrown meanwhile
    resumed = train(colours, settings, tmp_path, quiet=True)
    assert same(weights(whole), weights(resumed)) and whole.record.curves == resumed.record.curves and whole.record.metrics == resumed.record.metrics


def test_what_was_begun_without_a_scaler_goes_on_with_one(colours, tmp_path, monkeypatch):
    "fp16 is scaled on CUDA alone: begun on the CPU, a checkpoint holds no scale."
    plain = replace(TINY, precision="no")
    _stopped(colours, plain, tmp_path, at=(1, 1))
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device, enabled=True))
    assert len(train(colours, plain, tmp_path, quiet=True).record.curves["loss"]) == 3


def _stopped(benchmark, settings, folder, at):
    "Train until (epoch, step), where Ctrl-C is pressed."
    from reidbench.methods.baseline import Trainer
    from reidbench.train.loop import Interrupted

    class Stopping(Trainer):
        def losses(self, loop, batch):
            if (loop.epoch, loop.at) == at:
                signal.raise_signal(signal.SIGINT)
            return super().losses(loop, batch)

    with pytest.raises(Interrupted, match="Run the same again"):
        Stopping(benchmark, settings, folder, quiet=True).fit()


def test_another_number_of_epochs_goes_on_only_where_that_is_the_same_training(colours, tmp_path):
    stepped = replace(TINY, schedule="steps", milestones=(2,))
    whole = train(colours, stepped, quiet=True)
    train(colours, replace(stepped, epochs=1), tmp_path / "steps", quiet=True)
    longer = train(colours, stepped, tmp_path / "steps", quiet=True)
    assert same(weights(whole), weights(longer)) and whole.record.curves == longer.record.curves
    with pytest.raises(ValueError, match="beyond the 2 epochs asked for"):
        train(colours, replace(stepped, epochs=2), tmp_path / "steps", quiet=True)
    train(colours, replace(TINY, epochs=1), tmp_path / "cosine", quiet=True)
    with pytest.raises(ValueError, match="epochs: 1 before, 3 now"):  # its rates follow from its end
        train(colours, TINY, tmp_path / "cosine", quiet=True)


@pytest.mark.parametrize("broken", [False, True])
def test_killed_twice_between_the_renames_a_checkpoint_stands(tmp_path, monkeypatch, broken):
    folder = tmp_path / "checkpoint"
    save = lambda epoch: save_checkpoint(folder, {}, {}, {"epoch": epoch, "step": 0})
    replaced, removed, stood = os.replace, shutil.rmtree, []

    def watched(do, kill):
        def step(source, *more, **options):
            do(source, *more, **options)
            stood.append(find_checkpoint(folder) is not None)
            if kill and Path(source) == folder:
                raise KeyboardInterrupt
        return step

    save(1)
    for kill in (True, True, False):
        monkeypatch.setattr(os, "replace", watched(replaced, kill))
        monkeypatch.setattr(shutil, "rmtree", watched(removed, False))
        try:
            save(2)
        except KeyboardInterrupt:
            (folder.mkdir() if broken else None)  # a folder that is not whole
            assert describe(find_checkpoint(folder)) == "epoch 1, step 0"
    assert len(stood) > 4 and all(stood) and describe(folder) == "epoch 2, step 0" and [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_a_torn_line_of_a_diary_is_passed_over(tmp_path):
    begin = dict(title="x", epochs=2, steps=3, epoch=0, step=0, curves={})
    Diary(tmp_path).add("begin", **begin)
    look = Watch(tmp_path)
    with open(tmp_path / DIARY, "ab") as file:
        file.write(b'{"event": "step", "time": 1.0, "st')  # killed here
    assert look.look()[-1].title == "x"
    Diary(tmp_path).add("begin", **{**begin, "title": "y"})
    with open(tmp_path / DIARY, "ab") as file:
        file.write(b"\0\0\xff\n[1]\n{}\n")
    Diary(tmp_path).add("epoch", epoch=1, curves={"loss": 0.5})
    for watch in (look, Watch(tmp_path)):
        last = watch.look()[-1]
        assert (last.title, last.epoch, last.state, last.curves) == ("y", 1, "running", {"loss": [0.5]})
    assert b"\n\n" not in (tmp_path / DIARY).read_bytes()


def test_a_command_that_cannot_be_started_is_told(tmp_path):
    folder = launch(["no-such-program", "{folder}"], tmp_path / "run")
    while alive(folder):
        time.sleep(0.02)
    assert told(folder)["status"] == 127 and "no-such-program cannot be started" in log_tail(folder)[-1]
    last = Watch(folder).look()[-1]
    assert last.state == "failed" and "run: failed" in last.words() and "no-such-program cannot be started (No such file" in last.words()


def test_an_entry_that_is_no_longer_told_is_a_difference(tmp_path):
    trainer = lambda later=(), **more: SimpleNamespace(folder=tmp_path, settings=TINY, later=later, about=lambda: {"settings": {}, "name": "x", **more})
    same_training(trainer(start="a"))
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").write_text("{}")
    for now in (trainer(), trainer(("start",)), trainer(start="b")):
        with pytest.raises(ValueError, match="another training .start differs"):
            same_training(now)
    same_training(trainer(start="a"))
    with pytest.raises(ValueError, match="maps differs"):
        same_training(trainer(start="a", maps="m"))
    same_training(trainer(("maps",), start="a", maps="m"))  # added since: as good as told


def test_a_model_that_could_not_be_loaded_again_is_refused_before_it_learns(colours, tmp_path):
    class Own(Trainer):
        def network(self):
            return IdentityNet(Backbone("own", {"only": torch.nn.Conv2d(3, 8, 3)}, {"only": 8}), self.classes)

    with pytest.raises(ValueError, match="could not be loaded again from its file.*train without a folder"):
        Own(colours, replace(TINY, epochs=1), tmp_path, quiet=True).fit()
    assert Own(colours, replace(TINY, epochs=1), quiet=True).fit().record.metrics


def test_a_search_that_fails_loses_no_model(colours, tmp_path):
    strange = Benchmark("strange", colours.train, colours.query, colours.gallery.assign(pid=colours.gallery.pid + 1000))
    with pytest.warns(UserWarning, match="the search at the end failed: .*no query has a valid match"), pytest.warns(UserWarning, match="epoch 1: the search failed: .*no query has a valid match"):
        run = train(strange, replace(TINY, evaluate_every=1), tmp_path, quiet=True)
    assert run.record.metrics == {} and "no query has a valid match" in Record.load(tmp_path / "record.json").failure
    assert same(weights(run), load_identity(tmp_path / "model.safetensors").state_dict())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_device_that_is_not_there_is_no_silent_cpu(colours, device):
    with pytest.raises(ValueError, match=f"device '{device}' is not there"):
        train(colours, replace(TINY, device=device), quiet=True)


def test_same_seed_same_model_other_seed_another(colours):
    a, b, c = (train(colours, replace(TINY, seed=s), quiet=True) for s in (0, 0, 1))
    assert same(weights(a), weights(b)) and not same(weights(a), weights(c))


def test_full_disk_keeps_the_former_checkpoint(colours, tmp_path, python):
    "A limit on the size of files stands in for the full disk: the write fails in the middle, as there."
    pytest.importorskip("resource")
    train(colours, replace(TINY, epochs=1, schedule="steps"), tmp_path, quiet=True)
    before = {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()}
    code = f"""
import resource, signal, pickle, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from dataclasses import replace
from reidbench.methods.baseline import small, train
benchmark, settings = pickle.load(open(sys.argv[1], "rb"))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
train(benchmark, settings, sys.argv[2], quiet=True)
"""
    import pickle

    handed = tmp_path / "handed.pickle"
    handed.write_bytes(pickle.dumps((colours, replace(TINY, epochs=2, schedule="steps"))))
    found = python(code, handed, tmp_path)
    assert found.returncode != 0 and "CheckpointError" in found.stderr and "epoch 1, step 0) stands" in found.stderr, found.stderr[-2000:]
    assert {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()} == before
    assert train(colours, replace(TINY, epochs=2, schedule="steps"), tmp_path, quiet=True).record.curves["loss"][1:]


def test_ctrl_c_of_a_process(colours, tmp_path):
    "A real process, a real signal: it keeps a checkpoint, says so, and goes on when started again."
    import pickle

    handed = tmp_path / "handed.pickle"
    handed.write_bytes(pickle.dumps((colours, replace(TINY, epochs=400))))
    code = "import pickle, sys\nfrom reidbench.methods.baseline import train\ntrain(*pickle.load(open(sys.argv[1], 'rb')), sys.argv[2])"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", code, handed, tmp_path], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    state = tmp_path / "checkpoint" / "state.json"
    for _ in range(600):
        if state.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and "Run the same again to go on" in said
    kept = json.loads(state.read_text())["about"]
    assert 1 <= kept["epoch"] < 400


def test_non_finite_loss_names_the_files(colours):
    from reidbench.methods.baseline import Trainer

    class Broken(Trainer):
        def losses(self, loop, batch):
            found = super().losses(loop, batch)
            return {**found, "identity": found["identity"] * float("nan")} if (loop.epoch, loop.at) == (0, 1) else found

    with pytest.raises(NonFiniteLoss, match=r"epoch 0, step 1.*\.png"):
        Broken(colours, TINY, quiet=True).fit()


def test_person_with_one_picture(colours):
    train_table = colours.train.groupby("pid").head(1)
    thin = Benchmark("thin", pd.concat([train_table[train_table.pid < 4], colours.train[colours.train.pid >= 4]]), colours.query, colours.gallery)
    assert np.isfinite(train(thin, TINY, quiet=True).record.curves["loss"]).all()


def test_too_few_people(colours):
    with pytest.raises(ValueError, match="take a smaller P"):
        train(colours, replace(TINY, p=16), quiet=True)


def test_empty_training_split(colours):
    with pytest.raises(ValueError, match="training split is empty"):
        train(Benchmark("none", colours.train[:0], colours.query, colours.gallery), TINY, quiet=True)


def test_broken_picture_is_named(colours, tmp_path):
    table = colours.train.copy()
    cut = tmp_path / "cut.png"
    cut.write_bytes(Path(table.path[0]).read_bytes()[:60])
    table.loc[3, "path"] = str(cut)
    with pytest.raises(ValueError, match="cut.png"):
        train(Benchmark("cut", table, colours.query, colours.gallery), TINY, quiet=True)


@pytest.mark.parametrize("mode,size", [("L", (16, 32)), ("RGBA", (16, 32)), ("CMYK", (16, 32)), ("I;16", (16, 32)), ("RGB", (1, 1))])
def test_odd_pictures_are_read(colours, tmp_path, mode, size):
    file = tmp_path / ("odd.tif" if mode == "CMYK" else "odd.png")
    (Image.fromarray(np.full(size[::-1], 30000, np.uint16)) if mode == "I;16" else Image.new(mode, size)).save(file)
    table = colours.train.copy()
    table.loc[0, "path"] = str(file)
    assert np.isfinite(train(Benchmark("odd", table, colours.query, colours.gallery), replace(TINY, epochs=1), quiet=True).record.curves["loss"]).all()


PAIR = """
import json, pickle, sys
from pathlib import Path
import torch
from reidbench.methods.baseline import Trainer, small

class Double(Trainer):  # training amplifies rounding; in double precision nothing is left of it
    def network(self):
        return super().network().double()

folder, world = Path(sys.argv[1]), int(sys.argv[2])
device = sys.argv[3]
if world > 1 and device == "cuda" and torch.cuda.device_count() < world:
    torch.distributed.init_process_group("gloo")  # two processes on one GPU: NCCL wants one each
settings = small(epochs=3, p=4, k=2, size=(64, 32), warmup=1, device=None if device == "cuda" else device, precision="no", processes=world)
model, record = Double(pickle.loads((folder / "handed.pickle").read_bytes()), settings, quiet=True).fit()
rank = torch.distributed.get_rank() if world > 1 else 0
(folder / f"{world}-{rank}.json").write_text(json.dumps(record.curves))
"""


def test_two_processes_train_as_one(colours, tmp_path, processes):
    "gloo on the CPU, batch statistics of the whole batch, the triplet mined over it: the same losses."
    _pair_equals_one(colours, tmp_path, processes, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_two_processes_share_their_batch_statistics(colours, tmp_path, processes):
    "On CUDA by torch's own synchronised batch norm: the same losses again."
    _pair_equals_one(colours, tmp_path, processes, "cuda")


def _pair_equals_one(colours, tmp_path, processes, device):
    import pickle

    (tmp_path / "handed.pickle").write_bytes(pickle.dumps(colours))
    (tmp_path / "pair.py").write_text(PAIR)
    for world in (1, 2):
        processes(world, tmp_path / "pair.py", tmp_path, world, device)
    one, *two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert two[0] == two[1] and one["loss"][-1] < 0.9 * one["loss"][0]
    for name in ("loss", "identity", "triplet"):
        assert np.allclose(two[0][name], one[name], rtol=0, atol=1e-4), (name, two[0][name], one[name])


FIRST = """
import json, sys, time
from pathlib import Path
import torch
from reidbench.core.record import Record
from reidbench.methods.baseline import Run
from reidbench.train.loop import agreed, by_the_first

folder, said, calls = Path(sys.argv[1]), [], []

def learn(accelerator):
    calls.append((accelerator.num_processes, accelerator.process_index))
    accelerator.wait_for_everyone()
    time.sleep(1)
    return Run(torch.nn.Linear(1, 1), Record("x"))

def fails(accelerator):
    raise FloatingPointError("not finite")

found = by_the_first(lambda: None, learn, "cpu", 2)
kept = by_the_first(lambda: Run(found.model, Record("kept")), fails, "cpu", 2)
try:
    by_the_first(lambda: None, fails, "cpu", 2)
except Exception as error:
    said.append(f"{type(error).__name__}: {error}")
rank = torch.distributed.get_rank()
said.append(agreed(f"from {rank}"))  # still in step
(folder / f"{rank}.json").write_text(json.dumps([calls, found.model.weight.item(), kept.record.name, said]))
"""


def test_what_the_first_process_learns_or_fails_with_all_know(tmp_path, processes):
    (tmp_path / "first.py").write_text(FIRST)
    processes(2, tmp_path / "first.py", tmp_path)
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one[0] == [[1, 0]] and two[0] == [] and one[1] == two[1] and one[2] == two[2] == "kept"
    assert one[3] == ["FloatingPointError: not finite", "from 0"] and two[3] == ["RuntimeError: the first process failed: FloatingPointError: not finite",
                                                                                 "from 0"]


STAGE = """
import os, sys
from pathlib import Path
from test_training import stage_of
from reidbench.methods.baseline import stage_folder

folder, rank = Path(sys.argv[1]), os.environ["RANK"]
(folder / f"{rank}-here").write_text("")
stage = stage_of(folder)
with stage_folder(stage, None, folder, "stage"):
    (folder / f"{rank}-found").write_text(str((stage.folder / "done").is_file()))
"""


def stage_of(folder):
    "What a stage is to its folder."
    from types import SimpleNamespace

    return SimpleNamespace(settings=TINY, about=lambda: {"settings": {"epochs": 3}}, folder=folder)


def test_processes_enter_a_shared_stage_behind_the_first(tmp_path, root):
    "While another run is at work in it, none of them looks: they would see a stage that is not done, and wait for a training that never comes."
    from reidbench.methods.baseline import stage_folder

    (tmp_path / "enter.py").write_text(STAGE)
    stage, there = stage_of(tmp_path), lambda what: len(list(tmp_path.glob(f"*-{what}")))
    with stage_folder(stage, None, tmp_path, "stage"):
        both = subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "enter.py"),
                                 str(tmp_path)],
                                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.path.dirname(__file__)])}, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 120
        while there("here") < 2 and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(2)
        assert there("here") == 2 and there("found") == 0
        (stage.folder / "done").write_text("")
    said = both.communicate(timeout=120)[1]
    assert both.returncode == 0, said[-3000:]
    assert [(tmp_path / f"{rank}-found").read_text() for rank in (0, 1)] == ["True", "True"]


def test_launcher_that_starts_one_is_noticed(colours):
    with pytest.raises(ValueError, match="2 processes were asked for, but 1 run"):
        train(colours, replace(TINY, processes=2), quiet=True)


def test_strong_settings_are_the_papers():
    s = BaselineSettings()
    assert (s.backbone, s.p, s.k, s.epochs, s.lr, s.margin, s.smoothing, s.erase, s.last_stride,
            s.size) == ("resnet50", 16, 4, 120, 3.5e-4, 0.3, 0.1, 0.5, 1, (256, 128))


def test_curves_reach_tensorboard_and_go_on_after_a_stop(colours, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = replace(TINY, trackers=("tensorboard",))
    _stopped(colours, settings, tmp_path, at=(1, 1))
    run = train(colours, settings, tmp_path, quiet=True)
    found = {}
    for file in sorted((tmp_path / "curves").rglob("events.out*")):
        events = EventAccumulator(str(file))
        events.Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, {}).update({e.step: e.value for e in events.Scalars(name)})
    assert {n: [v for _, v in sorted(steps.items())] for n, steps in found.items()} == {n: pytest.approx(v, rel=1e-5) for n, v in run.record.curves.items()}


def test_a_tracker_that_is_not_there_is_named(colours, tmp_path):
    with pytest.raises(ValueError, match="'tensorbord' is not installed"):
        train(colours, replace(TINY, trackers=("tensorbord",)), tmp_path, quiet=True)
    with pytest.raises(ValueError, match="give the training a folder"):
        train(colours, replace(TINY, trackers=("tensorboard",)), quiet=True)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library's own way of keeping memory")
def test_freed_memory_is_kept():
    "Pages that were fetched once are not fetched again: a block of 64 MiB has 16,384 small ones."
    script = """
import resource, sys, torch
from reidbench.core.base import keep_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def again():
    torch.ones(2**24)
    since = faults()
    torch.ones(2**24)
    return faults() - since
before = again()
assert keep_memory()
print(before, [again() for _ in range(10)][-1])  # aligned blocks take a few rounds to find their places
"""
    before, after = map(int, subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True,
                                            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"}).stdout.split())
    assert 10 * after < before  # on huge pages both are smaller
