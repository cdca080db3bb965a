"Defences and training against attacks."
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from reidbench.attacks.feature import FNA, SMA
from reidbench.data import benchmarks
from reidbench.data.augment import HOMOGENEOUS, auto_augment, channel_fusion, local_grey, local_homogeneous, pick, sketch
from reidbench.data.batches import Pixels
from reidbench.methods.baseline import Run
from reidbench.methods.jad import CircuitousScaling, JADSettings, Proactive, ResizePad, code, normal, small, train
from reidbench.methods.jad.training import JADTrainer, Replaced, _normal_model, adversarial_pictures, mates
from reidbench.nets.identity import IdentityNet
from reidbench.nets.weights import weights_hash


def pictures(n=6, size=(64, 32), seed=0):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(seed))


def test_channel_fusion_has_sixty_ways_and_the_code_fewer():
    x, u = pictures(1).expand(60, -1, -1, -1), (torch.arange(60)[:, None] + 0.5) / 60
    assert len({w.numpy().tobytes() for w in channel_fusion(x, u)}) == 60
    assert len({w.numpy().tobytes() for w in channel_fusion(x, u, extra=("grey", "grey"))}) == 33  # 60 orders, the grey channel twice the same
    with pytest.raises(ValueError, match="extra"):
        channel_fusion(x, u, extra=("grey", "infrared"))


def test_a_sketch_is_white_where_nothing_happens_and_black_where_all_is_black():
    assert torch.allclose(sketch(torch.full((1, 3, 32, 32), 0.6)), torch.ones(1, 3, 32, 32), atol=1e-3)
    assert sketch(torch.zeros(1, 3, 32, 32)).max() == 0
    with pytest.raises(ValueError, match="smaller kernel"):
        sketch(torch.zeros(1, 3, 13, 13))


@pytest.mark.parametrize("change, count", [(channel_fusion, 1), (local_grey, 400), (local_homogeneous, 402), (auto_augment, 1)])
def test_dice_decide_alone(change, count):
    x, u = pictures(), torch.rand(6, count, generator=torch.Generator().manual_seed(1))
    state, given = torch.random.get_rng_state(), x.clone()
    out = change(x, u)
    assert torch.equal(out[2:4], change(x[2:4], u[2:4])) and torch.equal(state, torch.random.get_rng_state()) and torch.equal(x, given)
    assert 0 <= out.min() and out.max() <= 1 and out.shape == x.shape
    assert torch.equal(change(x, generator=torch.Generator().manual_seed(3)), change(x, generator=torch.Generator().manual_seed(3)))
    with pytest.raises(ValueError, match="u has shape"):
        change(x, u[:, :0])


def test_pick_follows_its_chances():
    u = torch.rand(30000, generator=torch.Generator().manual_seed(0))
    names = pick(u, {"a": 0.1, "b": 0.25})
    assert abs(names.count("a") / 3e4 - 0.1) < 0.01 and abs(names.count("b") / 3e4 - 0.25) < 0.01 and abs(names.count(None) / 3e4 - 0.65) < 0.01
    with pytest.raises(ValueError, match="together at most 1"):
        pick(u, {"a": 0.8, "b": 0.3})
    assert abs(sum(HOMOGENEOUS.values()) - 1) < 1e-9


def test_proactive_leaves_most_pictures_alone():
    x, u = pictures(400, (16, 16)), torch.rand(400, Proactive.draws, generator=torch.Generator().manual_seed(0))
    changed = (Proactive()(x, u) != x).flatten(1).any(1).float().mean()
    assert 0.18 < changed < 0.32
    with pytest.raises(ValueError, match="no homogeneous picture"):
        Proactive({"infrared": 1.0})(x, u)


@pytest.mark.parametrize("sizes", [((110, 50), (220, 100), (110, 50)), ((90, 40), (200, 90), (90, 40))])
def test_scaling_is_pillows(sizes):
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 32, 16, generator=g), (256, 128), mode="bicubic").clamp(0, 1)
    image = Image.fromarray((x[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    for h, w in (*sizes, (256, 128)):
        image = image.resize((w, h), Image.BICUBIC)
    assert np.abs(np.asarray(image) / 255 - CircuitousScaling(sizes)(x)[0].permute(1, 2, 0).numpy()).max() < 4 / 255


def test_scaling_lets_gradients_through_and_refuses_nonsense():
    x = pictures(1, (32, 16)).double().requires_grad_()
    assert torch.autograd.gradcheck(CircuitousScaling(), (x * 0.8 + 0.1,), atol=1e-4)
    for bad in (dict(sizes=()), dict(sizes=((0, 5),)), dict(jitter=1.0), dict(jitter=-0.1)):
        with pytest.raises(ValueError, match="sizes are"):
            CircuitousScaling(**bad)
    with pytest.raises(ValueError, match="smallest factor"):
        ResizePad(low=0)
    assert CircuitousScaling(jitter=0.05).name == "CS +-5%"


def test_a_small_picture_is_put_somewhere_on_black():
    one, again = ResizePad(low=0.5, seed=1), ResizePad(low=0.5, seed=1)
    x = torch.ones(2, 3, 40, 20)
    a, b = one(x), one(x)
    assert torch.equal(a, again(x)) and not torch.equal(a, b) and torch.equal(a[0], a[1])


def test_settings():
    assert JADSettings().chances == {"grey": 0.05, "fusion": 0.05, "auto": 0.05, "local": 0.10}
    assert code().chances == {"grey": 0.05, "grey fusion": 0.01, "sketch fusion": 0.01, "auto": 0.05, "local": 0.10}
    assert normal().epochs == 60 and JADSettings(adversarial="GOAT").k == 4
    for bad, words in ((dict(adversarial="FGSM"), "adversarial"), (dict(adversary="FGSM"), "adversary"), (dict(grey=0.9, augment=0.9), "at most 1"),
                       (dict(step=0.5), "at most eps"), (dict(scheme="x"), "scheme")):
        with pytest.raises(ValueError, match=words):
            JADSettings(**bad)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return benchmarks.load("street", root=tmp_path_factory.mktemp("street"), identities=8, images=2, progress=False)


TINY = dict(size=(64, 32), last_stride=1, precision="no", dropout=0.0, epochs=1, k=8)


def test_goat_attacks_what_it_learns_from(town, monkeypatch):
    seen = {}
    trainer = JADTrainer(town, small(JADSettings(adversarial="GOAT", k=8, grey=0, channel_fusion=0, augment=0, local_homogeneous=0),
                                     **{k: v for k, v in TINY.items() if k != "k"}), quiet=True)
    real = JADTrainer.attacked

    def spy(self, loop, batch):
        out = real(self, loop, batch)
        seen["change"] = (out - batch.images).abs().max().item()
        seen["training"] = loop.plain["model"].training
        return out

    monkeypatch.setattr(JADTrainer, "attacked", spy)
    trainer.fit()
    assert 1 / 255 < seen["change"] <= 5 / 255 + 1e-6 and seen["training"]


def test_at_goes_on_where_it_was(town, tmp_path, monkeypatch):
    s = small(JADSettings(adversarial="AT", iterations=2, normal_epochs=1), **TINY)
    whole = train(town, s, tmp_path / "whole", quiet=True)
    import reidbench.methods.jad.training as module

    def stop(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "adversarial_pictures", stop)
    with pytest.raises(KeyboardInterrupt):
        train(town, s, tmp_path / "parts", quiet=True)
    monkeypatch.undo()
    first = (tmp_path / "parts" / "normal" / "record.json").stat().st_mtime_ns
    parts = train(town, s, tmp_path / "parts", quiet=True)
    assert (tmp_path / "parts" / "normal" / "record.json").stat().st_mtime_ns == first
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), parts.model.state_dict().values()))
    assert whole.record.weights == parts.record.weights


def test_at_refuses_a_start_that_saw_other_pictures(town, tmp_path):
    s = small(normal(), **TINY)
    other = replace(town, train=town.train.iloc[: len(town.train) // 2].reset_index(drop=True))
    train(other, s, tmp_path / "other", quiet=True)
    with pytest.raises(ValueError, match="other pictures"):
        train(town, small(JADSettings(adversarial="AT", iterations=1), **TINY), tmp_path / "at", quiet=True, start=tmp_path / "other")


def test_at_of_another_start_is_another_training(town, tmp_path, monkeypatch):
    import reidbench.methods.jad.training as module

    monkeypatch.setattr(module, "adversarial_pictures", lambda model, people, size, *_: torch.zeros(len(people), 3, *size, dtype=torch.uint8))
    few = replace(town, train=town.train.iloc[::4].reset_index(drop=True), query=town.query[:0])
    s = small(JADSettings(adversarial="AT"), **{**TINY, "size": (32, 16), "backbone": "resnet10"})
    a, b = (JADTrainer(few, s).network() for _ in "ab")
    one, note = train(few, s, tmp_path, quiet=True, start=a), tmp_path / "training.json"
    with pytest.raises(ValueError, match="another training .start differs"):
        train(few, s, tmp_path, quiet=True, start=b)
    assert json.loads(note.read_text())["start"] == weights_hash(a)
    note.write_text(json.dumps({k: v for k, v in json.loads(note.read_text()).items() if k != "start"}))  # as it was written before
    assert train(few, s, tmp_path, quiet=True, start=a).record.created == one.record.created  # not trained twice
    (tmp_path / "record.json").unlink()  # its checkpoint is there: it goes on
    assert train(few, s, tmp_path, quiet=True, start=a).record.weights == one.record.weights
    assert json.loads(note.read_text())["start"] == weights_hash(a)


def test_stored_adversarial_pictures_are_of_one_table(town, tmp_path):
    model, attack, file = IdentityNet("resnet10", 8).eval(), SMA(iterations=1), tmp_path / "kept.safetensors"
    rows = lambda table: adversarial_pictures(model, table.reset_index(drop=True), (32, 16), attack, file, quiet=True)
    one, other = town.train[:6], town.train[-6:]
    first, second = rows(one), rows(other)
    assert (second / 255 - Pixels(other, (32, 16)).images(range(6))).abs().max() < 6 / 255  # its own
    assert not torch.equal(first, second) and torch.equal(rows(one), first)
    save_file({"pictures": torch.zeros_like(first)}, file, _told(file))
    assert not rows(one).any()  # read, not made
    save_file({"pictures": torch.zeros_like(first)}, file, {k: v for k, v in _told(file).items() if k != "people"})  # stored before the table was told
    assert torch.equal(rows(one), first)


def _told(file):
    with safe_open(file, "pt") as kept:
        return kept.metadata()


def test_fna_attacks_a_last_piece_of_one_person(town):
    people = town.train.sort_values("pid", kind="stable")[:40].reset_index(drop=True)
    people = people.loc[[*range(len(people)), *[0] * 216, len(people) - 1]].reset_index(drop=True)  # 256 and one
    assert len(adversarial_pictures(IdentityNet("resnet10", 8).eval(), people, (16, 8), FNA(iterations=1, batch=64), quiet=True)) == 257


def test_a_start_with_a_part_called_model_is_taken_whole():
    whole = torch.nn.Sequential()
    whole.model = torch.nn.Linear(2, 2)
    assert _normal_model(None, whole, "cpu") is whole and _normal_model(None, Run(whole.train(), None), "cpu") is whole and not whole.training


def test_replaced_pictures_are_those_of_their_rows():
    stored = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4)
    out = Replaced(stored, 1.0)(torch.zeros(3, 3, 4, 4), torch.zeros(3, 1), [4, 0, 2])
    assert (out[:, 0, 0, 0] * 255).round().tolist() == [4, 0, 2]
    assert mates(pictures(2), torch.tensor([0, 1]), 2).shape == (2, 2, 3, 64, 32)
