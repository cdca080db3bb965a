"Adversarially occluded samples: the choice of places, the maps, and three phases that can be stopped anywhere."
import json
import pickle
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.ndimage import uniform_filter
from scipy.stats import chisquare

from reidbench.core.base import keyed
from reidbench.core.record import Record
from reidbench.data.augment import Augment, Flip
from reidbench.data.batches import Pixels
from reidbench.data.people import Benchmark
from reidbench.explain.occlusion import mask_corners, sensitivity
from reidbench.methods import aos
from reidbench.methods.aos import AOSSettings, choose, mine, train
from reidbench.methods.aos import mining, training
from reidbench.methods.aos.mining import STRATEGIES, Mined, box_blur, chances, place_of, running
from reidbench.methods.aos.training import FlipOcclude, Retraining, first_phase, retrieve_occluded
from reidbench.methods.baseline import Run, Trainer, identification, small
from reidbench.methods.baseline import train as train_baseline
from reidbench.nets.blocks import IMAGENET_MEAN
from reidbench.nets.identity import IdentityNet, load_identity, retrieve
from reidbench.train.loop import Interrupted

TINY = small(AOSSettings(), epochs=2, k=8, size=(64, 32), last_stride=1, stride=18, warmup=1, device="cpu")
FIRST = first_phase(TINY)


def weights(run):
    return run.model.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def four(colours):
    "Four people to learn from: 24 pictures."
    return Benchmark("four", colours.train[colours.train.pid < 4], colours.query, colours.gallery)


@pytest.fixture(scope="module")
def net(four):
    "A net that knows the four people: enough epochs to be sure of most of them."
    return train_baseline(four, replace(FIRST, epochs=12, dropout=0.0), quiet=True).model


@pytest.fixture(scope="module")
def mined(four, net):
    return mine(net, four.train, TINY.size, stride=18, quiet=True)


# ---------------------------------------------------------------- choosing

P, P_I = 0.9, torch.tensor([[0.3, 0.8, 0.95], [0.6, 0.99, 0.9]])


def test_strategies_by_hand():
    drop = P - P_I
    expected = {"sampling": [[0.6, 0.1, 0], [0.3, 0, 0]], "hard-1": [[1, 0, 0], [0, 0, 0]], "no-adversary": [[0, 0, 0], [0, 1, 0]], "random": [[1 / 6] * 3] * 2}
    assert set(expected) == set(STRATEGIES)
    for strategy, wanted in expected.items():
        torch.testing.assert_close(chances(drop[None], strategy)[0], torch.tensor(wanted, dtype=torch.float32), rtol=1e-5, atol=1e-6)
    assert choose(drop, "hard-1") == (0, 0) and choose(drop, "no-adversary") == (1, 1)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_sampling_follows_equation_5(kind):
    generator = np.random.default_rng(3) if kind == "numpy" else torch.Generator().manual_seed(3)
    influence = (P - P_I).clamp_min(0)
    counts = np.zeros(6)
    for _ in range(6000):
        row, col = choose(P - P_I, "sampling", generator)
        counts[row * 3 + col] += 1
    wanted = (influence / influence.sum()).flatten().double().numpy()
    assert counts[wanted == 0].sum() == 0  # never a place without influence
    assert chisquare(counts[wanted > 0], 6000 * wanted[wanted > 0] / wanted.sum()).pvalue > 1e-3
    assert chisquare(counts[wanted > 0]).pvalue < 1e-6  # and the test can tell


def test_no_influence_is_uniform():
    for maps in (torch.zeros(1, 2, 3), -torch.rand(1, 2, 3)):
        assert torch.equal(chances(maps, "sampling"), torch.full((1, 2, 3), 1 / 6))
    generator, counts = np.random.default_rng(0), np.zeros(6)
    for _ in range(3000):
        row, col = choose(torch.zeros(2, 3), "sampling", generator)
        counts[row * 3 + col] += 1
    assert chisquare(counts).pvalue > 1e-3


def test_equal_places_share():
    tied = torch.tensor([[[0.5, 0.1], [0.5, 0.1]]])
    assert chances(tied, "hard-1").flatten().tolist() == [0.5, 0, 0.5, 0] and chances(tied, "no-adversary").flatten().tolist() == [0, 0.5, 0, 0.5]


def test_the_tiniest_influence_counts_and_ends_are_safe():
    maps = torch.tensor([[[0.0, 2**-24, 0.0]], [[0.0, 0.0, 3e-5]]])
    sums = running(chances(maps, "sampling"))
    for u in (0.0, 0.5, 1 - 2**-24, 1.0):  # 1 can come from rounding a double
        assert place_of(sums, torch.tensor([u, u])).tolist() == [1, 2]


@pytest.mark.parametrize("shape", [(5, 7), (2, 3), (1, 4), (3, 1), (1, 1)])
def test_blur_is_the_box_with_a_mirrored_border(shape):
    maps = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(box_blur(maps), torch.stack([torch.from_numpy(uniform_filter(m.numpy(), 3, mode="mirror")) for m in maps]))


@pytest.mark.parametrize("call, says", [
    (lambda: choose(torch.rand(2, 3), "hardest"), "no strategy 'hardest'; there are sampling"),
    (lambda: choose(torch.rand(1, 2, 3)), r"one map \[rows, cols\]"),
    (lambda: choose(torch.tensor([[0.1, float("nan")]])), "NaN"),
    (lambda: chances(torch.zeros(1, 0, 3), "sampling"), r"shaped \[N, rows, cols\]"),
    (lambda: AOSSettings(strategy="best"), "no strategy 'best'"),
    (lambda: AOSSettings(probability=-0.1), "0 to 1; got -0.1"),
    (lambda: AOSSettings(area=0.0), "above 0 and below 1"),
    (lambda: AOSSettings(area=0.8), "larger than the image"),
    (lambda: AOSSettings(stride=0), "stride"),
    (lambda: FlipOcclude(), "mine them first"),
])
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# ---------------------------------------------------------------- mining

def test_maps_are_the_sensitivity_of_pictures_and_their_mirror_images(four, net, mined):
    images, labels = Pixels(four.train, TINY.size).images(range(len(four.train))), torch.tensor(four.train.pid.to_numpy())
    assert mined.drop.dtype == torch.float16 and mined.drop.shape == (2, 24, 3, 2) and mined.side == 14 and mined.fill == IMAGENET_MEAN
    for k, pictures in enumerate((images, images.flip(-1))):
        found = sensitivity(net, pictures, labels=labels, stride=18)
        exact = found.p[:, None, None] - found.p_occluded
        assert (mined.p[k] - found.p).abs().max() < 1e-5 and (mined.drop[k] - exact).abs().max() < 1e-5 + 2**-11 * exact.abs().max()
        torch.testing.assert_close(mined.maps(measured=False)[k], 1 - found.p_occluded, rtol=1e-3, atol=1e-4)
    assert (mined.drop[0] - mined.drop[1].flip(-1)).abs().max() > 1e-3  # a mirror image's map is not the mirrored map


def test_bf16_maps_are_nearly_the_same(four, net, mined):
    fast = mine(net, four.train, TINY.size, stride=18, quiet=True, precision="bf16")
    both = torch.stack([m.maps().clamp_min(0).flatten() for m in (mined, fast)])
    assert both[0].max() > 0.05 and torch.corrcoef(both)[0, 1] > 0.98 and fast.digest() != mined.digest()


def test_maps_can_be_drawn(mined):
    for k in (0, 1):
        found = mined.of([3, 1], k)
        torch.testing.assert_close(found.influence, mined.maps()[k, [3, 1]].clamp_min(0), rtol=1e-4, atol=1e-6)
        assert torch.equal(found.corners, mined.corners()) and found.fill == mined.fill


def test_blurred_maps(mined):
    for measured in (True, False):
        plain, blurred = mined.maps(measured), mined.maps(measured, blurred=True)
        torch.testing.assert_close(blurred[1], box_blur(plain[1]))


def _press(monkeypatch, after):
    "Ctrl-C while the piece of this number is asked about."
    asked, ask = [], mining.sensitivity

    def counted(*args, **options):
        asked.append(1)
        if len(asked) == after:
            signal.raise_signal(signal.SIGINT)
        return ask(*args, **options)

    monkeypatch.setattr(mining, "sensitivity", counted)
    return asked


def test_mining_that_was_stopped_goes_on_bit_for_bit(four, net, tmp_path, monkeypatch):
    options = dict(size=TINY.size, stride=18, batch=8, quiet=True)
    whole = mine(net, four.train, **options)
    asked = _press(monkeypatch, after=4)
    with pytest.raises(Interrupted, match="after 4 of 6 pieces; kept at .*maps.safetensors. Run the same again"):
        mine(net, four.train, folder=tmp_path, **options)
    rest = mine(net, four.train, folder=tmp_path, **options)
    assert len(asked) == 6 and torch.equal(rest.p, whole.p) and torch.equal(rest.drop, whole.drop) and rest.digest() == whole.digest()
    read = mine(net, four.train, folder=tmp_path, **options)
    assert len(asked) == 6 and read.digest() == whole.digest() and read.seconds == rest.seconds > 0
    size = (tmp_path / "maps.safetensors").stat().st_size
    assert size < 2 * whole.drop.numel() + 4 * whole.p.numel() + 1500  # two bytes a place


@pytest.mark.parametrize("batch", [2, 8])
@pytest.mark.parametrize("former", [False, True])
def test_mining_goes_on_in_pieces_of_another_length(four, tmp_path, monkeypatch, batch, former):
    net, options = IdentityNet("resnet10", 4, "plain").eval(), dict(size=(32, 16), stride=12, quiet=True, folder=tmp_path)
    whole = mine(net, four.train, **{**options, "folder": None})
    asked = _press(monkeypatch, after=5)
    with pytest.raises(Interrupted, match="after 5 of 12 pieces"):
        mine(net, four.train, batch=4, **options)
    if former:
        _flags_of_pieces(tmp_path / "maps.safetensors", 4)
    rest = mine(net, four.train, batch=batch, **options)
    assert len(asked) == 5 + 28 // batch + (batch == 8)  # twenty pictures were done: the rest of a piece is a piece
    torch.testing.assert_close(rest.p, whole.p)
    torch.testing.assert_close(rest.drop, whole.drop, atol=1e-4, rtol=1e-3)
    _flags_of_pieces(tmp_path / "maps.safetensors", 4)
    assert mine(net, four.train, **options).digest() == rest.digest() and len(asked) == 5 + 28 // batch + (batch == 8)  # whole, whatever the pieces were


def _flags_of_pieces(file, batch):
    "Write the file as it was written once: a flag a piece."
    with safe_open(file, "pt") as f:
        about, found = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    save_file({**found, "done": found["done"].view(-1, batch).amin(1)}, file, about)


def test_stopped_without_a_folder_says_so(four, net, monkeypatch):
    _press(monkeypatch, after=1)
    with pytest.raises(Interrupted, match="nothing was kept"):
        mine(net, four.train, TINY.size, stride=18, quiet=True)


def test_a_folder_of_maps_belongs_to_one_model_and_set(four, net, tmp_path):
    options = dict(stride=18, folder=tmp_path, quiet=True)
    mine(net, four.train, TINY.size, **options)
    other = IdentityNet("resnet18", 4, "plain")
    with pytest.raises(ValueError, match=r"something else \(model differs\)"):
        mine(other, four.train, TINY.size, **options)
    with pytest.raises(ValueError, match="pictures differs"):
        mine(net, four.train[::-1], TINY.size, **options)
    with pytest.raises(ValueError, match="side"):
        mine(net, four.train, TINY.size, area=0.2, **options)
    (tmp_path / "maps.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="is damaged"):
        mine(net, four.train, TINY.size, **options)


def test_mining_refuses(four, net):
    with pytest.raises(ValueError, match="1 identities"):
        mine(net, four.train[four.train.pid == 3], TINY.size, quiet=True)
    with pytest.raises(ValueError, match="knows 4 people, the table has 3"):
        mine(net, four.train[four.train.pid < 3], TINY.size, quiet=True)
    with pytest.raises(ValueError, match="junk"):
        mine(net, four.train.assign(pid=four.train.pid - 1), TINY.size, quiet=True)
    broken = load_like(net)
    torch.nn.init.constant_(broken.classifier.bias, float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        mine(broken, four.train, TINY.size, quiet=True)


def load_like(net):
    other = IdentityNet("resnet18", 4, "plain", last_stride=1)
    other.load_state_dict(net.state_dict())
    return other


# ---------------------------------------------------------------- covering

def test_a_covered_picture_by_hand(four, mined):
    "Which map, which place, which pixels: redone for every picture from the same dice."
    images, rows = Pixels(four.train, TINY.size).images(range(24)), np.arange(24)[::-1].copy()
    for strategy in ("sampling", "hard-1", "no-adversary"):
        shown = Augment([FlipOcclude(mined, strategy)], seed=5)
        u, out = shown.dice(2, range(24)), shown(images[rows.copy()], 2, range(24), rows)
        seen = set()
        for k, row in enumerate(rows):
            mirrored, covered = bool(u[k, 0] < 0.5), bool(u[k, 1] < 0.5)
            wanted = images[row].flip(-1) if mirrored else images[row].clone()
            if covered:
                chance = chances(mined.maps()[int(mirrored), row][None], strategy).double().flatten().cumsum(0)
                cell = int((chance / chance[-1] <= float(u[k, 2])).sum())
                top, left = mask_corners(64, 32, 14, 18).flatten(0, 1)[cell].tolist()
                wanted = wanted.clone()
                wanted[:, top:top + 14, left:left + 14] = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
            seen.add((mirrored, covered))
            assert torch.equal(out[k], wanted), (strategy, k)
        assert len(seen) == 4


def test_the_flip_decides_the_map():
    "A map that names the left column for the picture and the right one for its mirror image."
    drop = torch.zeros(2, 1, 6, 2)
    drop[0, 0, 1, 0] = drop[1, 0, 3, 1] = 0.5
    mined = Mined(torch.ones(2, 1), drop.half(), (64, 32), 14, 10, IMAGENET_MEAN)
    image = torch.ones(1, 3, 64, 32)
    for flip, (top, left) in ((0.0, (10, 0)), (1.0, (30, 10))):
        hidden = (FlipOcclude(mined, "hard-1", flip=flip, probability=1.0)(image, torch.full((1, 4), 0.5), [0]) != 1).any(1)[0].nonzero()
        assert hidden.min(0).values.tolist() == [top, left] and hidden.max(0).values.tolist() == [top + 13, left + 13]


def test_random_squares_lie_anywhere_inside():
    cover = FlipOcclude(strategy="random", side=14, flip=0.0, probability=1.0)
    u = torch.rand(4000, 4, generator=torch.Generator().manual_seed(0))
    corners = cover.corners(u, np.zeros(4000), u[:, 0] < 0, (64, 32))
    assert corners.min() == 0 and corners.max(0).values.tolist() == [50, 18]
    assert chisquare(np.bincount(corners[:, 1], minlength=19)).pvalue > 1e-3
    assert cover.corners(torch.ones(1, 4), [0], None, (64, 32)).tolist() == [[50, 18]]


def test_probability_of_covering(mined):
    images = torch.zeros(2000, 3, 64, 32)
    u = torch.rand(2000, 4, generator=torch.Generator().manual_seed(1))
    for probability in (0.0, 0.2, 1.0):
        covered = FlipOcclude(mined, probability=probability)(images, u, np.arange(2000) % 24).flatten(1).any(1).float().mean()
        assert abs(covered - probability) < 4 * (probability * (1 - probability) / 2000) ** 0.5 + 1e-9


def test_dice_do_not_depend_on_the_batch(four, mined):
    images, rows = Pixels(four.train, TINY.size).images(range(12)), np.arange(12)
    shown = Augment([FlipOcclude(mined)], seed=1)
    parts = torch.cat([shown(images[a:a + 5], 3, rows[a:a + 5], rows[a:a + 5]) for a in range(0, 12, 5)])
    assert torch.equal(shown(images, 3, rows, rows), parts)


# ---------------------------------------------------------------- three phases

def test_defaults_are_the_papers():
    s = AOSSettings()
    assert (s.strategy, s.area, s.stride, s.probability, s.epochs, s.k, s.lr, s.lr * s.head_lr, s.milestones,
            s.dropout) == ("sampling", 0.1, 10, 0.5, 60, 32, 0.01, 0.02, (25, 50), 0.6)
    assert first_phase(s) == identification() and s.measured and not s.blurred
    cut = small(s)
    assert type(cut) is AOSSettings and (cut.backbone, cut.size, cut.erase, cut.pad, cut.strategy) == ("resnet18", (128, 64), 0.0, 0, "sampling")
    assert first_phase(cut) == small(identification())


def test_only_the_flip_is_replaced(four, mined):
    names = lambda trainer: [type(t).__name__ for t in trainer.transforms()]
    both = dict(flip=0.5, pad=3, erase=0.2)
    before, after = names(Trainer(four, replace(FIRST, **both))), names(Retraining(four, replace(TINY, **both), mined=mined))
    assert before == ["Flip", "PadCrop", "Erase"] and after == ["FlipOcclude", "PadCrop", "Erase"]


@pytest.fixture(scope="module")
def whole(four, tmp_path_factory):
    folder = tmp_path_factory.mktemp("aos")
    return folder, train(four, TINY, folder, quiet=True)


def test_what_a_run_leaves(whole, four):
    folder, run = whole
    assert {p.name for p in folder.iterdir()} == {"baseline", "mining", "checkpoint", "training.json", "record.json", "model.safetensors", "events.jsonl",
                                                  "preview.jpg"}
    kept = Record.load(folder / "record.json")
    assert kept.metrics == run.record.metrics and kept.name == "aos" and kept.settings["strategy"] == "sampling" and kept.surroundings["mining"]["images/s"] > 0
    assert same(load_identity(folder / "model.safetensors").state_dict(), weights(run)) and not run.model.training
    assert same(load_identity(folder / "baseline" / "model.safetensors").state_dict(), weights(train_baseline(four, FIRST, quiet=True)))
    assert not same(load_identity(folder / "baseline" / "model.safetensors").state_dict(), weights(run))


@pytest.mark.parametrize("phase", ["baseline", "mining", "aos"])
def test_each_phase_goes_on_bit_for_bit(four, whole, tmp_path, monkeypatch, phase):
    with monkeypatch.context() as stop:
        if phase == "mining":
            _press(stop, after=2)
        else:
            step = Trainer.losses

            def pressed(self, loop, batch):
                if self.name == phase and (loop.epoch, loop.at) == (1, 0):
                    signal.raise_signal(signal.SIGINT)
                return step(self, loop, batch)
            stop.setattr(Trainer, "losses", pressed)
        with pytest.raises(Interrupted):
            train(four, TINY, tmp_path, quiet=True)
    torch.manual_seed(99)
    resumed = train(four, TINY, tmp_path, quiet=True)
    assert same(weights(resumed), weights(whole[1])) and resumed.record.curves == whole[1].record.curves and resumed.record.metrics == whole[1].record.metrics


def test_finished_phases_are_not_run_again(four, whole, monkeypatch):
    folder, run = whole
    for owner, name in ((Trainer, "fit"), (mining, "sensitivity")):
        monkeypatch.setattr(owner, name, lambda *a, **k: pytest.fail("ran again"))
    again = train(four, TINY, folder, quiet=True)
    assert same(weights(again), weights(run)) and again.record == Record.load(folder / "record.json")


def test_a_longer_training_uses_the_same_maps(four, whole, tmp_path):
    folder, _ = whole
    longer = train(four, replace(TINY, epochs=3), start=folder / "baseline", folder=tmp_path, quiet=True)
    assert len(longer.record.curves["loss"]) == 3 and longer.record.surroundings["mining"]["maps"] == Record.load(folder / "record.json").surroundings["mining"]["maps"]


def test_another_training_in_the_folder_is_refused(four, whole):
    with pytest.raises(ValueError, match="probability: 0.5 before, 0.2 now"):
        train(four, replace(TINY, probability=0.2), whole[0], quiet=True)


def test_other_maps_are_another_training(four, whole, tmp_path):
    folder, _ = whole
    model = load_identity(folder / "baseline" / "model.safetensors")
    train(four, replace(TINY, epochs=1), tmp_path, quiet=True, start=model)
    with torch.no_grad():
        model.classifier.weight.mul_(1.5)
    (tmp_path / "mining" / "maps.safetensors").unlink()
    with pytest.raises(ValueError, match="maps differs"):
        train(four, replace(TINY, epochs=1), tmp_path, quiet=True, start=model)


def test_random_asks_no_model(four, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "mine", lambda *a, **k: pytest.fail("mined"))
    run = train(four, replace(TINY, strategy="random", epochs=1), tmp_path, quiet=True)
    assert not (tmp_path / "baseline").exists() and run.record.settings["strategy"] == "random"


def test_every_form_of_start_gives_the_same(four, whole, monkeypatch):
    folder, run = whole
    place = folder / "baseline"
    first = train_baseline(four, FIRST, quiet=True)
    maps = Record.load(folder / "record.json").surroundings["mining"]["maps"]
    for start in (place, str(place / "model.safetensors"), first, first.model.train()):
        again = train(four, replace(TINY, epochs=1), quiet=True, start=start)
        assert again.record.surroundings["mining"]["maps"] == maps
    assert first.model.training  # left as it was given


def test_a_start_with_a_part_called_model_is_taken_whole():
    whole = torch.nn.Sequential()
    whole.model = torch.nn.Linear(2, 2)
    assert training._begin(None, whole, "cpu") is whole and training._begin(None, Run(whole, None), "cpu") is whole


def test_start_of_other_people_is_refused(four, whole, tmp_path):
    place = whole[0] / "baseline"
    fewer = Benchmark("fewer", four.train[four.train.pid < 3], four.query, four.gallery)
    with pytest.raises(ValueError, match="trained with other data than fewer"):
        train(fewer, TINY, quiet=True, start=place)
    with pytest.raises(ValueError, match="other size"):
        train(four, replace(TINY, size=(96, 48)), quiet=True, start=place)
    with pytest.raises(ValueError, match="knows 3 people"):
        train(four, TINY, quiet=True, start=IdentityNet("resnet18", 3, "plain"))
    with pytest.raises(ValueError, match="start is the folder"):
        train(four, TINY, quiet=True, start=3)
    with pytest.raises(FileNotFoundError):
        train(four, TINY, quiet=True, start=tmp_path / "nowhere")


@pytest.mark.parametrize("change", [dict(strategy="hard-1"), dict(strategy="no-adversary"), dict(measured=False, blurred=True), dict(area=0.2),
                                    dict(probability=1.0)])
def test_settings_reach_the_training(four, whole, change):
    other = train(four, replace(TINY, **change), quiet=True, start=whole[0] / "baseline")
    assert not same(weights(other), weights(whole[1])) and np.isfinite(other.record.curves["loss"]).all()


def test_strategies_share_maps(four, whole, monkeypatch):
    folder, run = whole
    monkeypatch.setattr(mining, "sensitivity", lambda *a, **k: pytest.fail("mined again"))
    other = train(four, replace(TINY, strategy="hard-1"), quiet=True, start=folder / "baseline", maps=folder / "mining")
    assert other.record.surroundings["mining"]["maps"] == run.record.surroundings["mining"]["maps"]


def test_one_identity_is_refused(four):
    one = Benchmark("one", four.train[four.train.pid == 0], four.query, four.gallery)
    with pytest.raises(ValueError, match="1 identities"):
        train(one, TINY, quiet=True)


def test_promised_names():
    assert {"AOSSettings", "mine", "choose", "train"} <= set(aos.__all__) and aos.train is training.train and aos.mine is mining.mine


PAIR = """
import pickle, sys
from pathlib import Path
import torch
from dataclasses import replace
from reidbench.methods.aos import train
from reidbench.train.loop import processes

folder = Path(sys.argv[1])
four, settings = pickle.loads((folder / "handed.pickle").read_bytes())
run = train(four, replace(settings, processes=2), folder / "run", quiet=True)
rank = torch.distributed.get_rank()
(folder / f"{rank}.txt").write_text(run.record.surroundings["mining"]["maps"])
"""


def test_two_processes_share_the_mining(four, tmp_path, processes):
    (tmp_path / "handed.pickle").write_bytes(pickle.dumps((four, replace(TINY, epochs=2, precision="no"))))
    (tmp_path / "pair.py").write_text(PAIR)
    processes(2, tmp_path / "pair.py", tmp_path)
    maps = {(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)}
    alone = mine(load_identity(tmp_path / "run" / "baseline" / "model.safetensors"), four.train, TINY.size, stride=18, quiet=True, precision="fp32")
    assert maps == {alone.digest()} and [p.name for p in (tmp_path / "run" / "mining").iterdir()] == ["maps.safetensors"]
    assert json.loads((tmp_path / "run" / "training.json").read_text())["maps"] == alone.digest()


# ---------------------------------------------------------------- covered queries

def test_nothing_covered_is_the_plain_search(four, net):
    plain, covered = retrieve(net, four, TINY.size), retrieve_occluded(net, four, TINY.size, area=0.0)
    assert np.allclose(plain.ap, covered.ap, atol=1e-6)


def test_covers_are_the_queries_own(four, net):
    "The same for any batch, model and call; others for another seed."
    pixels = Pixels(four.query, TINY.size)
    shown = lambda seed, rows: training._Covered(pixels, 0.2, seed, 0.0).images(rows)
    assert torch.equal(shown(0, range(8))[3:5], shown(0, [3, 4])) and not torch.equal(shown(0, range(8)), shown(1, range(8)))
    share = (shown(0, range(8)) == 0).all(1).float().mean((1, 2))
    assert ((share - 0.2).abs() < 0.02).all()
    ranking = [retrieve_occluded(net, four, TINY.size, 0.3, batch=b).ap for b in (3, 64)]
    assert np.allclose(*ranking)
    assert retrieve_occluded(net, four, TINY.size, 0.3, fill="noise").ap.shape == ranking[0].shape
