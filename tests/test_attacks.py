"Attacks: the box, what stays untouched, batches, bad input, and torchattacks' step beside ours."
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reidbench.attacks.base import Attack, attacked, distances, guides_of, nearest_wrong, on_paper, pieces_of, worst_of
from reidbench.attacks.feature import FGSM, FNA, IFGSM, LTA, MIFGSM, ODFA, SMA, bai
from reidbench.metrics.ranking import Embeddings

ALL = (FGSM, IFGSM, MIFGSM, SMA, ODFA, FNA, LTA)


class Net(nn.Module):
    "Convolution, batch norm, dropout: everything that an attack might disturb."

    def __init__(self, dtype=torch.float32, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.Tanh(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(6 * 7 * 3, 8))
        self.body[1].running_mean += 0.2
        self.to(dtype)

    def forward(self, images):
        return self.body(images)


def pictures(n=5, dtype=torch.float32, seed=1, size=(16, 8)):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)


WHO = torch.tensor([0, 0, 1, 1, 2])


@settings(max_examples=25, deadline=None)
@given(which=st.sampled_from(ALL), eps=st.integers(1, 40), part=st.floats(0.05, 1.0), iterations=st.integers(1, 4), low=st.floats(0, 0.6),
       seed=st.integers(0, 99), rounded=st.booleans())
def test_the_box_and_the_range_hold(which, eps, part, iterations, low, seed, rounded):
    images = (pictures(seed=seed) * (1 - low) + low).clamp(0, 1)
    images[0, :, :4] = 0.0
    images[1, :, :4] = 1.0
    out = which(eps=eps / 255, step=part * eps / 255, iterations=iterations, seed=seed,
                rounded=rounded)(Net(), images, pids=WHO, guides=pictures(seed=seed + 1))
    assert out.shape == images.shape and out.dtype == images.dtype
    assert (out - images).abs().max() <= eps / 255 + 1e-6 or (rounded and (out - images).abs().max() <= max(eps, 0.5) / 255 + 1e-5)
    assert out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("which", ALL)
def test_nothing_is_left_behind(which, fold):
    net, images, guides = Net().train(), pictures(), pictures(seed=2)
    net.body[0].weight.grad = torch.ones_like(net.body[0].weight)
    net.body[5].bias.requires_grad_(False)
    state, modes = {k: v.clone() for k, v in net.state_dict().items()}, [m.training for m in net.modules()]
    given_images, given_guides = images.clone(), guides.clone()
    which(iterations=2, fold=fold)(net, images, pids=WHO, guides=guides)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items()) and modes == [m.training for m in net.modules()]
    assert torch.equal(net.body[0].weight.grad, torch.ones_like(net.body[0].weight)) and net.body[1].weight.grad is None
    assert net.body[0].weight.requires_grad and not net.body[5].bias.requires_grad
    assert torch.equal(images, given_images) and torch.equal(guides, given_guides)


@pytest.mark.parametrize("which", ALL)
def test_the_batch_size_changes_nothing(which):
    net, images, guides = Net(torch.float64), pictures(dtype=torch.float64), pictures(seed=3, dtype=torch.float64)
    whole, parts = (which(iterations=4, batch=b)(net, images, pids=WHO, guides=guides) for b in (32, 2))
    assert (whole - parts).abs().max() < 1e-6
    if which is not FNA:  # its aim is in the company
        alone = torch.cat([which(iterations=4)(net, images[i:i + 1], pids=WHO[i:i + 1], guides=guides[i:i + 1]) for i in range(5)])
        assert (whole - alone).abs().max() < 1e-6


@pytest.mark.parametrize("which", ALL)
def test_the_frozen_copy_attacks_as_the_model_does(which):
    net, images, guides = Net(torch.float64), pictures(dtype=torch.float64), pictures(seed=3, dtype=torch.float64)
    a, b = (which(iterations=4, fold=f)(net, images, pids=WHO, guides=guides) for f in (True, False))
    assert (a - b).abs().max() < 1e-6


@pytest.mark.parametrize("which", [a for a in ALL if a is not FGSM])
def test_it_moves_the_features_more_than_noise(which):
    net, images = Net(), pictures(32)
    guides, who = (images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1), torch.arange(32) % 4
    unit = lambda x: nn.functional.normalize(net.eval()(x))
    noise = (images + 5 / 255 * (torch.rand(images.shape, generator=torch.Generator().manual_seed(1)) - 0.5).sign()).clamp(0, 1)
    moved = lambda x: (unit(x) - unit(images)).norm(dim=1).mean()
    assert moved(which()(net, images, pids=who, guides=guides)) > 3 * moved(noise)


def test_a_step_is_torchattacks_step():
    net, images, guides = Net().eval(), pictures(), pictures(seed=4)
    reference = nn.functional.normalize(net(guides)).detach()

    class Logits(nn.Module):
        "(distance to the guide, 0): cross-entropy with label 1 grows with the distance."

        def forward(self, x):
            d = (nn.functional.normalize(net(x)) - reference).square().sum(1)
            return torch.stack([d, torch.zeros_like(d)], 1)

    peer = torchattacks.PGD(Logits().eval(), eps=5 / 255, alpha=1 / 255, steps=1, random_start=False)
    ours = IFGSM(iterations=1, momentum=0.0)(net, images, guides=guides)
    assert torch.allclose(ours, peer(images, torch.ones(5, dtype=torch.long)), atol=1e-6)


@pytest.mark.parametrize("knobs, words", [
    (dict(eps=0), "above 0"), (dict(eps=-0.1), "above 0"), (dict(step=0), "above 0"), (dict(step=0.5), "at most eps"), (dict(iterations=0), "iterations"),
                                          (dict(eps=5), "eps"), (dict(precision="int8"), "precision"), (dict(draws=0), "draws"),
])
def test_knobs_that_make_no_attack(knobs, words):
    with pytest.raises(ValueError, match=words):
        SMA(**knobs)


def test_bad_input_is_named():
    net, images = Net(), pictures()
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        SMA()(net, images * 255)
    with pytest.raises(ValueError, match="needs guides"):
        IFGSM()(net, images)
    with pytest.raises(ValueError, match="needs pids"):
        FNA()(net, images)
    with pytest.raises(ValueError, match="pids has shape"):
        FNA()(net, images, pids=[1, 2])
    with pytest.raises(ValueError, match="guides has shape"):
        IFGSM()(net, images, guides=images[:2])
    with pytest.raises(ValueError, match="guides.*\\[0, 1\\]"):
        IFGSM()(net, images, guides=images * 3)
    with pytest.raises(ValueError, match="at least two identities"):
        FNA()(net, images, pids=[1] * 5)
    with pytest.raises(ValueError, match="not differentiable"):
        SMA()(lambda x: net(x.detach()), images)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"torch.inference_mode\(\) allows none"):
        SMA()(net, images)
    with pytest.raises(ValueError, match=r"embeddings \[N, D\]"):
        SMA()(lambda x: x, images)
    assert SMA()(net, images[:0]).shape == (0, 3, 16, 8)


def test_fgsm_is_one_step_and_bai_six():
    assert (FGSM(eps=3 / 255, step=1 / 255, iterations=15).step, FGSM(iterations=9).iterations) == (3 / 255, 1)
    assert [bai(n)["iterations"] for n in (1, 2, 5, 16)] == [1, 2, 6, 20]


def test_a_saved_picture_stays_in_the_box():
    images = pictures()
    for eps in (0.2 / 255, 0.7 / 255, 5 / 255):
        out = on_paper((images + eps * torch.sign(torch.rand_like(images) - 0.5)).clamp(0, 1), images, eps)
        assert torch.allclose(out * 255, (out * 255).round(), atol=1e-4) and (out - images).abs().max() <= max(eps, 0.5 / 255) + 1e-5


def test_expectation_asks_several_times():
    net, images, asked = Net(), pictures(), []

    def shaky(x):
        asked.append(len(x))
        return net.eval()(x + 0.01 * torch.randn(x.shape))

    SMA(iterations=3, draws=4)(shaky, images)
    assert len(asked) == 1 + 3 * 4


def test_distances_by_hand():
    rng = np.random.default_rng(0)
    query = Embeddings(rng.normal(size=(4, 5)), [1, 2, 3, 1], [0, 0, 1, 1])
    gallery = Embeddings(rng.normal(size=(9, 5)), [1, 1, 2, 2, 3, 0, -1, 4, 1], [1, 0, 1, 0, 1, 2, 0, 1, 2])
    own, wrong = distances(query, gallery)
    unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)
    for i in range(4):
        d = np.linalg.norm(unit(query.values[i]) - unit(gallery.values), axis=1)
        same = (gallery.pid == query.pid[i]) & (gallery.camid != query.camid[i])
        other = (gallery.pid != query.pid[i]) & (gallery.pid != -1)
        assert np.isclose(own[i], d[same].mean() if same.any() else np.nan, atol=1e-5, equal_nan=True) and np.isclose(wrong[i], d[other].min(), atol=1e-5)
    assert np.isnan(own[2])


def test_guides_come_from_other_cameras():
    import pandas as pd
    people = pd.DataFrame({"path": ["a", "b"], "pid": [1, 2], "camid": [0, 0]})
    others = pd.DataFrame({"path": list("cdefg"), "pid": [1, 1, 1, 2, 3], "camid": [0, 1, 2, 0, 1]})
    rows = guides_of(people, others, 4)
    assert set(rows[0]) == {1, 2} and set(rows[1]) == {3} and rows.shape == (2, 4)
    with pytest.raises(ValueError, match="person 3 .*no second picture"):
        guides_of(pd.DataFrame({"path": ["z"], "pid": [3], "camid": [1]}), others.iloc[:4])
    assert guides_of(people, people, 2, alone=True).tolist() == [[0, 0], [1, 1]]


def test_the_nearest_wrong_stops_an_attack():
    gallery = Embeddings(np.eye(3), [1, 2, -1], [1, 1, 1])
    stop = nearest_wrong(gallery, np.array([1, 1]), np.array([0, 0]))
    assert stop(torch.eye(3)[:2], torch.tensor([0, 1])).tolist() == [False, True]
    calls = []

    def until(features, rows):
        calls.append(rows.tolist())
        return torch.ones(len(rows), dtype=torch.bool)

    SMA(batch=2)(Net(), pictures(), stop=until)
    assert calls == [[0, 1], [2, 3], [4]]


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    from reidbench.data import benchmarks
    return benchmarks.load("street", root=tmp_path_factory.mktemp("street"), identities=8, images=2, progress=False)


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d((4, 2)), nn.Flatten())

    def forward(self, images):
        return self.body(images)


def test_a_search_under_attack(town):
    net = Flat()
    found = attacked(town, net, SMA(iterations=5), size=(32, 16))
    assert len(found.table) == len(town.query) and found.images == len(town.query) and found.seconds > 0
    assert found.after.mAP < found.before.mAP and "Rank-1" in found._repr_html_() and "white box" in repr(found)
    assert np.allclose(found.table["AP before"], found.before.ap, equal_nan=True)
    again = attacked(town, net, SMA(iterations=5), size=(32, 16), known=found)
    assert np.array_equal(again.after.ap, found.after.ap, equal_nan=True) and np.array_equal(again.before.ap, found.before.ap, equal_nan=True)
    side = attacked(town, net, IFGSM(iterations=3), side="gallery", size=(32, 16))
    looked_for = town.gallery["pid"].isin(set(town.query["pid"])).sum()
    assert side.images == looked_for and side.after.mAP < side.before.mAP
    untouched = ~town.gallery["pid"].isin(set(town.query["pid"])).to_numpy()
    assert np.array_equal(side.embeddings["attacked"].values[untouched], side.embeddings["gallery"].values[untouched])


def test_a_query_that_nobody_can_answer_is_left_alone(town):
    lonely = town.query["pid"].iloc[0]
    gallery = town.gallery[town.gallery["pid"] != lonely].reset_index(drop=True)
    found = attacked(replace(town, gallery=gallery), Flat(), IFGSM(iterations=2), size=(32, 16))  # it has no picture to guide the attack
    left = (town.query["pid"] == lonely).to_numpy()
    assert found.images == (~left).sum() and np.array_equal(found.embeddings["attacked"].values[left], found.embeddings["query"].values[left])
    assert np.isnan(found.after.ap[left]).all() and np.isfinite(found.after.ap[~left]).all()


@pytest.mark.parametrize("side", ["query", "gallery"])
def test_nobody_who_could_be_found_is_said(colours, side):
    with pytest.raises(ValueError, match="colours: no query has a valid match"):
        attacked(replace(colours, query=colours.query.assign(pid=99)), Flat(), SMA(iterations=1), side=side, size=(32, 16))


def test_person_0_of_an_own_set_is_attacked_too(colours):
    zero = replace(colours, query=colours.query.assign(pid=colours.query["pid"] - 8), gallery=colours.gallery.assign(pid=colours.gallery["pid"] - 8))
    attack = lambda embed, images, **more: images
    assert attacked(zero, Flat(), attack, side="gallery", size=(32, 16)).images == len(zero.gallery)
    unasked = replace(zero, query=zero.query[zero.query["pid"] > 0])  # then she is a distractor
    assert attacked(unasked, Flat(), attack, side="gallery", size=(32, 16)).images == (zero.gallery["pid"] > 0).sum()


def test_attackers_who_know_and_who_do_not(town):
    net, seen = Flat(), []

    def defence(images):
        seen.append(images.requires_grad)
        return nn.functional.avg_pool2d(images, 3, 1, 1)

    oblivious = attacked(town, net, SMA(iterations=3), size=(32, 16), defence=defence)
    assert not any(seen) and "does not know" in repr(oblivious)
    adaptive = attacked(town, net, SMA(iterations=3), size=(32, 16), defence=defence, adaptive=True)
    assert any(seen) and "knows the defence" in repr(adaptive)
    assert adaptive.scores()["after"]["own"] > oblivious.scores()["after"]["own"]
    both = worst_of(oblivious, adaptive)
    assert both["mAP"] <= min(oblivious.after.mAP, adaptive.after.mAP) + 1e-6 and both["mAP"] == pytest.approx(np.nanmean(np.minimum(oblivious.after.ap, adaptive.after.ap)))
    assert worst_of(oblivious)["Rank-1"] == pytest.approx(np.nanmean(oblivious.after.rank1))
    with pytest.raises(ValueError, match="the same queries"):
        worst_of()
    black = attacked(town, net, SMA(iterations=3), size=(32, 16), source=lambda x: nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))
    assert "another model" in repr(black)


def test_an_early_stop_asks_less(town):
    asked, net = [], Flat().eval()

    def counting(images):
        asked.append(len(images))
        return net(images)

    runs = {}
    for stops in (False, True):
        asked.clear()
        found = attacked(town, counting, SMA(iterations=15, batch=1), size=(32, 16), early_stop=stops)
        runs[stops] = sum(asked), found.after.cmc[0]
    assert runs[True][0] < runs[False][0] and runs[True][1] <= runs[False][1] + 1.01 / len(town.query)


@pytest.mark.parametrize("options, words", [(dict(side="both"), "side"), (dict(adaptive=True), "defence"),
                                            (dict(early_stop=True, side="gallery"), "early_stop")])
def test_searches_that_cannot_be(town, options, words):
    with pytest.raises(ValueError, match=words):
        attacked(town, Flat(), SMA(iterations=1), size=(32, 16), **options)


def test_the_base_begins_a_step_beside_the_picture():
    net, images = Net(), pictures()
    out = Attack()(net, images)
    unit = lambda x: nn.functional.normalize(net.eval()(x))
    assert (unit(out) - unit(images)).norm(dim=1).min() > 1e-3 and (out - images).abs().max() <= 5 / 255 + 1e-6
    assert torch.equal(out, ODFA()(net, images))  # but for a constant the same loss, from the same place


@pytest.mark.parametrize("fold", [True, False])
def test_a_picture_without_a_slope_stays_and_the_others_go_on(fold):
    net, black = Net().eval(), torch.zeros(1, 3, 16, 8)
    with pytest.warns(UserWarning, match="LTA: every gradient was zero"):
        assert torch.equal(LTA(fold=fold)(net, black), black)  # grey on black is black
    images, guides = pictures(), pictures(seed=2)
    guides[0] = images[0]
    attack = IFGSM(batch=1, fold=fold)
    out = attack(net, images, guides=guides)
    assert attack.felt and (out - images)[0].abs().max() < 1e-6 and (out - images)[1:].abs().amax((1, 2, 3)).min() > 4 / 255


def test_a_model_that_rounds_is_warned_of_once():
    images, attack = pictures(), IFGSM(batch=2)
    with pytest.warns(UserWarning, match="nothing of robustness") as heard:
        out = attack(lambda x: Net().eval()((x * 255).round() / 255), images, guides=pictures(seed=2))
    assert torch.equal(out, images) and len(heard) == 1 and not attack.felt


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("which", ALL)
def test_half_pictures_stay_in_the_box(which, dtype):
    net, images = Net(dtype), pictures(dtype=dtype)
    out = which()(net, images, pids=WHO, guides=pictures(seed=2, dtype=dtype))
    assert out.dtype == dtype and (out.float() - images.float()).abs().max() <= 5 / 255 + 1e-6 and out.min() >= 0 and out.max() <= 1
    assert (out.float() - images.float()).abs().amax((1, 2, 3)).min() > 3 / 255


def test_structural_similarity_is_torchmetrics():
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as theirs

    from reidbench.attacks.generative import ms_ssim
    g = torch.Generator().manual_seed(0)
    a = nn.functional.interpolate(torch.rand(2, 3, 24, 24, generator=g), (256, 256), mode="bicubic").clamp(0, 1)
    b = (a + 0.05 * torch.randn(a.shape, generator=g)).clamp(0, 1)
    assert torch.allclose(ms_ssim(a, b), theirs(b, a, data_range=1.0, reduction="none"), atol=2e-3)
    with pytest.raises(ValueError, match="smaller window"):
        ms_ssim(a[..., :8, :8], b[..., :8, :8])


def test_a_generator_learns_goes_on_and_is_read_again(town, tmp_path):
    from reidbench.attacks.generative import DMR, misranking
    from reidbench.nets.identity import IdentityNet

    torch.manual_seed(0)
    net = IdentityNet("resnet18", 8, last_stride=1)
    knobs = dict(width=4, critic_width=4, blocks=1, p=2, k=2)
    whole = DMR(epochs=1, **knobs).fit(net, town, (64, 32), tmp_path / "a", quiet=True)
    images = pictures(3, size=(64, 32))
    out = whole(None, images)
    assert (out - images).abs().max() <= 16 / 255 + 1e-6 and out.min() >= 0 and out.max() <= 1 and not torch.equal(out, images)
    assert torch.allclose(out, DMR(epochs=1, **knobs).fit(net, town, (64, 32), tmp_path / "a", quiet=True)(None, images), atol=1e-5)
    assert torch.allclose(out, DMR().load(tmp_path / "a" / "generator.safetensors")(net, images, pids=[1, 2, 3]), atol=1e-5)
    assert all(p.grad is None for p in net.parameters()) and {"class", "rank", "unlike", "critic", "generator"} <= set(whole.curves)
    for call, words in ((lambda: DMR()(None, images), "not learnt"), (lambda: DMR(eps=0), "eps"), (lambda: whole(None, images[..., :30]), "divisible by 4"),
                        (lambda: DMR().fit(net, town, (62, 32)), "divisible by 4"),
                        (lambda: misranking(torch.rand(2, 3), torch.rand(2, 3), torch.tensor([1, 1])), "one person")):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("change", ["options", "model", "pictures"])
def test_a_generator_of_another_learning_is_not_taken_over(town, tmp_path, change):
    "Nor its checkpoint; how it is used makes no other learning."
    from dataclasses import replace

    from reidbench.attacks.generative import DMR
    from reidbench.nets.identity import IdentityNet

    torch.manual_seed(0)
    net, another = (IdentityNet("resnet10", 8, last_stride=1) for _ in range(2))
    knobs = dict(width=4, critic_width=4, blocks=1, p=2, k=2, epochs=1)
    learn = lambda folder, model=net, benchmark=town, **more: DMR(**{**knobs, **more}).fit(model, benchmark, (64, 32), tmp_path / folder,
                                                                                           quiet=True).generator.state_dict()
    same = lambda a, b: all(torch.equal(a[k], b[k]) for k in a)
    first = learn("a")
    before = (tmp_path / "a" / "generator.safetensors").stat().st_mtime_ns
    assert same(first, learn("a", rounded=True, batch=3)) and (tmp_path / "a" / "generator.safetensors").stat().st_mtime_ns == before
    other = {"options": dict(lr=1e-3), "model": dict(model=another), "pictures": dict(benchmark=replace(town, train=town.train[4:]))}[change]
    assert same(learn("a", **other), fresh := learn("b", **other)) and not same(fresh, first)
    (tmp_path / "a" / "generator.safetensors").write_bytes(b"damaged")
    assert same(learn("a", **other), fresh)


@pytest.mark.parametrize("pids, joined", [([0, 1, 0, 1, 2], [2, 3]), ([0, 0, 1, 1, 2, 3], [4, 2]), ([0, 1, 2, 2, 2, 2, 2], [7]),
                                          ([0, 1, 2, 3, 4, 5], [2, 2, 2]), ([1, 1, 1], [3]), ([], [0])])
def test_a_piece_of_one_person_is_joined_to_its_neighbour_where_an_attack_looks_for_strangers(pids, joined):
    pids, rows = np.array([9, *pids]), np.arange(1, len(pids) + 1)
    found, plain = (pieces_of(rows, 2, pids, attack) for attack in (FNA(), SMA()))
    assert [len(piece) for piece in found] == joined and np.array_equal(np.concatenate(found), rows)
    assert [p.tolist() for p in plain] == [p.tolist() for p in np.split(rows, range(2, len(rows), 2))]  # attacks of each picture by itself


def test_the_last_piece_of_a_search_may_show_one_person(colours):
    result = attacked(colours, Net().eval(), FNA(iterations=1), size=(16, 8), together=len(colours.query) - 1)
    assert result.images == len(result.table) == len(colours.query)
