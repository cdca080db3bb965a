"Backbones, frozen form, identity nets."
import copy
import random
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision

from reidbench.methods.msfl.pyramid import PyramidNet
from reidbench.methods.msfl.pyramid import load as load_pyramid
from reidbench.nets import weights
from reidbench.nets.backbones import AVAILABLE, Backbone, build, frozen, imagenet_weights
from reidbench.nets.blocks import Normalize
from reidbench.nets.identity import IdentityNet, extract, load_identity, retrieve

IMAGES = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


def with_statistics(net):
    "Batch norms that have seen something: folding untouched ones would prove nothing."
    with torch.no_grad():
        net.train()(torch.rand(6, 3, 64, 48, generator=torch.Generator().manual_seed(1)))
        for m in net.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.weight.uniform_(0.5, 1.5)
                m.bias.uniform_(-0.3, 0.3)
    return net.eval()


@pytest.mark.parametrize("name", AVAILABLE)
def test_frozen_is_equal(name):
    torch.manual_seed(0)
    net = with_statistics(build(name))
    before = copy.deepcopy(net.state_dict())
    fast = frozen(net)
    with torch.no_grad():
        plain, folded = net(IMAGES), fast(IMAGES)
    assert ((plain - folded).norm() / plain.norm()).item() < 1e-5
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    stages = fast.outputs(IMAGES, list(fast.stages))
    assert {k: v.shape[1] for k, v in stages.items()} == net.widths


def test_the_small_one_has_no_imagenet_weights():
    assert sum(p.numel() for p in build("resnet10").parameters()) < 5e6
    with pytest.raises(ValueError, match="resnet10: train it from scratch"):
        build("resnet10", weights="imagenet")


def test_frozen_passes_gradients_to_pixels():
    torch.manual_seed(0)
    net = IdentityNet("resnet18", 4).eval()
    fast = frozen(net)
    ours, theirs = (IMAGES.clone().requires_grad_() for _ in range(2))
    fast.embed(ours).square().sum().backward()
    net.embed(theirs).square().sum().backward()
    assert ((ours.grad - theirs.grad).norm() / theirs.grad.norm()) < 1e-4
    assert all(p.grad is None for p in fast.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_frozen_precision(dtype):
    net = frozen(IdentityNet("resnet18", 4), dtype=dtype)
    assert net(IMAGES).dtype == torch.float32 and net(IMAGES).shape == (2, 512)
    assert next(net.parameters()).dtype == dtype


def test_frozen_of_any_module():
    plain = torch.nn.Sequential(Normalize(), torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    fast = frozen(with_statistics(plain))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fast.modules())
    assert torch.allclose(fast(IMAGES), plain(IMAGES), atol=1e-5)


def test_untraceable_code_is_left_right():
    class Forks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3))

        def forward(self, x):
            return self.inner(x) if x.sum() > 0 else x

    net = with_statistics(Forks())
    fast = frozen(net)
    assert torch.allclose(fast(IMAGES), net(IMAGES), atol=1e-5) and not any(isinstance(m, torch.nn.BatchNorm2d) for m in fast.modules())


def test_unreachable_imagenet_weights_say_how(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    for name in ("resnet50", "resnet50_ibn_a"):
        with pytest.raises(FileNotFoundError, match=r"could not be fetched.*https://.*weights='path/of/") as found:
            build(name, weights="imagenet")
        assert str(tmp_path) in str(found.value)


def test_cached_imagenet_weights_are_taken(tmp_path, monkeypatch):
    "The offline way: the published file laid into torch's cache."
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    donor = build("resnet18_ibn_a")
    state = {k.replace("stages.stem.0", "conv1").replace("stages.stem.1", "bn1").replace("stages.", ""): v for k, v in donor.state_dict().items()}
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "hub/checkpoints/resnet18_ibn_a-2f571257.pth")
    net = build("resnet18_ibn_a", weights="imagenet").eval()
    assert torch.equal(net(IMAGES), donor.eval()(IMAGES))


def test_weights_without_a_part_are_refused(tmp_path):
    state = torchvision.models.resnet18().state_dict()
    state.pop("layer3.0.conv1.weight")
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="1 missing.*layer3.0.conv1.weight"):
        build("resnet18", weights=tmp_path / "part.pth")


@pytest.mark.parametrize("held", [[torch.ones(2)], torch.ones(2), {"state_dict": [1]}, {3: torch.ones(2)}])
def test_files_without_named_tensors_are_refused(tmp_path, held):
    torch.save(held, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="odd.pth: holds a .* and not tensors by their names"):
        build("resnet18", weights=tmp_path / "odd.pth")


def test_a_cut_file_of_weights_is_named(tmp_path):
    from safetensors.torch import save_file
    save_file(torchvision.models.resnet18().state_dict(), tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:100_000])
    with pytest.raises(ValueError, match="cut.safetensors is no whole safetensors file"):
        build("resnet18", weights=tmp_path / "cut.safetensors")


@pytest.mark.parametrize("name", ["foo", "cuda:x", ""])
def test_a_device_that_nobody_knows_is_named(name):
    from reidbench.core.base import pick_device
    with pytest.raises(ValueError, match=f"device '{name}' is not known: give cuda"):
        pick_device(name)


def test_extract_is_the_same_whatever_the_batch(colours):
    torch.manual_seed(0)
    net = IdentityNet("resnet18", 8)
    one, many = (extract(net, colours.query, (64, 32), batch=b) for b in (1, 50))
    assert np.allclose(one.values, many.values, atol=1e-4) and (one.pid == colours.query.pid).all() and (one.camid == colours.query.camid).all()
    flipped = extract(net, colours.query, (64, 32), flip=True)
    assert not np.allclose(flipped.values, one.values)


def test_empty_splits_are_named(colours):
    from reidbench.data.people import Benchmark

    for split in ("query", "gallery"):
        with pytest.raises(ValueError, match=f"{split} split is empty"):
            retrieve(IdentityNet("resnet18", 2), Benchmark("x", colours.train,
                                                           **{"query": colours.query, "gallery": colours.gallery, split: colours.query[:0]}), (64, 32))


def test_nan_embeddings_are_an_error(colours):
    with pytest.raises(ValueError):
        retrieve(lambda images: images.mean((2, 3)) * float("nan"), colours, (64, 32))


def test_narrow_bfloat16_maps_are_computed_in_single_precision():
    torch.manual_seed(0)
    net, images = build("resnet18", last_stride=2).eval(), torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        right, half = net(images), frozen(net, dtype=torch.bfloat16)(images)
        with torch.autocast("cpu", torch.bfloat16):
            cast = net(images)
    for made in (half, cast):
        assert made.dtype == torch.bfloat16 and made.shape[-1] == 1 and (made.float() - right).norm() < 0.05 * right.norm()


def _mean_colour(images):
    return torch.cat([images[..., :16, :].mean((2, 3)), images[..., 16:, :].mean((2, 3))], 1)


def _asked(benchmark, **options):
    "The pooled queries that `retrieve` searches with, caught on their way."
    from reidbench.nets import identity

    caught, rank = [], identity.evaluate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "evaluate", lambda query, gallery, **o: caught.append((query, gallery)) or rank(query, gallery, **o))
        ranking = identity.retrieve(_mean_colour, benchmark, (32, 16), queries="multi", **options)
    return caught[0], ranking


def _split(colours, **more):
    "One query a person and camera; the second picture of each lies in the gallery."
    from reidbench.data.people import Benchmark

    test = pd.concat([colours.query, colours.gallery])
    first = ~test.duplicated(["pid", "camid"])
    return Benchmark("split", colours.train, test[first & (test.camid < 2)], pd.concat([test[~first], test[first & (test.camid == 2)]]), **more)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_multi_query_from_the_cameras_own_gallery_pictures(colours, pool):
    split = _split(colours)
    (query, gallery), ranking = _asked(split, pool=pool)
    assert len(query) == 8 and len(gallery) == len(split.gallery) == 16  # the gallery stays whole
    every = pd.concat([split.query, split.gallery])
    for value, pid, camid in zip(query.values, query.pid, query.camid):
        own = every[(every.pid == pid) & (every.camid == camid)]
        assert len(own) == 2
        embedded = extract(_mean_colour, own, (32, 16)).values
        assert np.allclose(value, getattr(embedded, pool)(0), atol=1e-6)
    assert 0 < ranking.mAP <= 1 and len(ranking.ap) == 8


def test_multi_query_of_the_set_itself(colours):
    split = _split(colours)
    more = pd.concat([split.gallery[split.gallery.camid == 0], split.gallery[split.gallery.camid == 2], colours.train.head(4)])
    split = _split(colours, multi_query=more)
    (query, _), _ = _asked(split)
    assert sorted(zip(query.pid, query.camid)) == sorted(zip(split.query.pid, split.query.camid))  # nobody asks who is no query
    for value, pid, camid in zip(query.values, query.pid, query.camid):
        own = more[(more.pid == pid) & (more.camid == camid)] if camid == 0 else split.query[(split.query.pid == pid) & (split.query.camid == camid)]
        assert np.allclose(value, extract(_mean_colour, own, (32, 16)).values.mean(0), atol=1e-6)


def test_multi_query_never_asks_with_the_answers(colours):
    "Where cameras are not known, a gallery picture of the same person may be what is to be found."
    split = _split(colours)
    blind = type(split)("blind", split.train, split.query.assign(camid=-1), split.gallery.assign(camid=-1))
    (query, _), _ = _asked(blind)
    for value, pid in zip(query.values, query.pid):
        assert np.allclose(value, extract(_mean_colour, split.query[split.query.pid == pid], (32, 16)).values.mean(0), atol=1e-6)


def test_multi_query_under_cosine_pools_directions(colours):
    split = _split(colours)
    (query, _), _ = _asked(split, metric="cosine")
    own = pd.concat([split.query, split.gallery])
    own = own[(own.pid == query.pid[0]) & (own.camid == query.camid[0])]
    values = extract(_mean_colour, own, (32, 16)).values
    assert np.allclose(query.values[0], (values / np.linalg.norm(values, axis=1, keepdims=True)).mean(0), atol=1e-6)


def test_multi_query_by_an_unknown_word(colours):
    with pytest.raises(ValueError, match="'single' or 'multi'"):
        retrieve(_mean_colour, _split(colours), (32, 16), queries="many")
    with pytest.raises(ValueError, match="'mean' or 'max'"):
        retrieve(_mean_colour, _split(colours), (32, 16), queries="multi", pool="median")


def test_an_installed_package_finds_what_ships(tmp_path, monkeypatch):
    place = tmp_path / "share" / "reidbench" / "weights"
    place.mkdir(parents=True)
    (place / "resolution.safetensors").write_bytes(b"")
    listed = lambda path: SimpleNamespace(match=path.match, locate=lambda: path)
    monkeypatch.setattr(weights.reidbench, "__file__", str(tmp_path / "site-packages" / "reidbench" / "__init__.py"))
    monkeypatch.setattr(weights.metadata, "files", lambda name: [listed(tmp_path / "other.py"), listed(place / "resolution.safetensors")])
    assert weights.shipped_folder() == place.resolve() and weights.shipped("resolution") == place.resolve() / "resolution.safetensors"
    with pytest.raises(FileNotFoundError, match="'illumination'.*there: resolution"):
        weights.shipped("illumination")
    monkeypatch.setattr(weights.metadata, "files", lambda name: None)
    with pytest.raises(FileNotFoundError, match="'illumination'.*data/weights"):
        weights.shipped("illumination")


class Twice(torch.nn.Module):
    "One convolution, and a batch norm for each of two kinds of pictures behind it."

    def __init__(self, second=True):
        super().__init__()
        self.conv, self.first = torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.BatchNorm2d(3)
        self.second = torch.nn.BatchNorm2d(3) if second else torch.nn.Identity()

    def forward(self, x):
        return self.first(self.conv(x)) + self.second(self.conv(x.flip(3)))


class Dice(torch.nn.Sequential):
    "A defence that throws dice in each call."

    def __init__(self, throw):
        super().__init__(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3))
        self.throw = throw

    def forward(self, x):
        return super().forward(x) * self.throw()


@pytest.mark.parametrize("second", [True, False])
def test_frozen_where_a_convolution_is_called_twice(second):
    torch.manual_seed(0)
    net = with_statistics(Twice(second))
    with torch.no_grad():
        plain, folded = net(IMAGES), frozen(net)(IMAGES)
    assert ((plain - folded).norm() / plain.norm()).item() < 1e-5


@pytest.mark.parametrize("throw", [lambda: torch.rand(1), random.random, lambda: np.random.rand(), lambda: 1 if random.random() < 0.5 else -1],
                         ids=["torch", "python", "numpy", "coin"])
def test_frozen_goes_on_throwing_dice(throw):
    net, before = with_statistics(Dice(throw)), random.getstate()
    fast = frozen(net)
    assert random.getstate() == before  # and throws none itself
    with torch.no_grad():
        assert len({float(fast(IMAGES).sum()) for _ in range(40)}) > 1


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_frozen_folds_every_batch_norm_of_a_resnet(name):
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in frozen(IdentityNet(name, 4, neck="plain")).modules())


def test_frozen_leaves_a_batch_norm_that_goes_on_adapting():
    class Adapting(torch.nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].train()
            return self

    net = Adapting(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3))
    assert isinstance(frozen(net)[1], torch.nn.BatchNorm2d)


@pytest.mark.parametrize("kind,change", [("forward_hook", lambda m, given, out: 2 * out), ("forward_pre_hook", lambda m, given: (given[0].flip(3),)),
                                         ("full_backward_hook", lambda m, given, out: (3 * given[0],))])
def test_frozen_keeps_hooks(kind, change):
    conv = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3))
    net = with_statistics(torch.nn.Sequential(conv, copy.deepcopy(conv)))
    getattr(net[0][0], f"register_{kind}")(change)
    fast, grads = frozen(net), []
    for module in (net, fast):
        x = IMAGES.clone().requires_grad_()
        module(x).sum().backward()
        grads.append(x.grad)
    assert torch.allclose(fast(IMAGES), net(IMAGES), atol=1e-5) and torch.allclose(*grads, atol=1e-5)
    assert isinstance(fast[0][1], torch.nn.BatchNorm2d) and not any(isinstance(m, torch.nn.BatchNorm2d) for m in fast[1].modules())  # the other is folded


def test_frozen_of_a_convolution_whose_weight_is_computed_before_each_call():
    net = with_statistics(torch.nn.Sequential(torch.nn.utils.spectral_norm(torch.nn.Conv2d(3, 4, 3)), torch.nn.BatchNorm2d(4)))
    found = net(IMAGES)  # leaves a weight that Python cannot copy
    assert torch.allclose(frozen(net)(IMAGES), found, atol=1e-5) and net[0].weight.requires_grad


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_frozen_of_torchscript():
    net = with_statistics(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)))
    script = torch.jit.script(net).train()
    for module in (script, torch.nn.Sequential(script, torch.nn.BatchNorm2d(4).eval())):
        fast = frozen(module)
        assert torch.allclose(fast(IMAGES), net(IMAGES), atol=1e-4) and not any(p.requires_grad for p in fast.parameters())
    assert script.training and all(p.requires_grad and p.is_leaf for p in script.parameters())


@pytest.mark.parametrize("given", [dict(last_stride=2), dict(mean=(0, 0, 0), std=(1, 1, 1)), dict(std=(0.5, 0.5, 0.5))])
@pytest.mark.parametrize("make, load", [(IdentityNet, load_identity), (PyramidNet, load_pyramid)])
def test_a_backbone_that_is_given_comes_back_from_the_file(tmp_path, given, make, load):
    net = with_statistics(make(build("resnet10", **given), 4))
    weights.save_model(tmp_path / "net.safetensors", net)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "net.safetensors").embed(IMAGES), net.embed(IMAGES))


def test_a_backbone_of_ones_own_is_not_written_into_a_file_that_nobody_could_read(tmp_path):
    own = Backbone("own", {"only": torch.nn.Conv2d(3, 8, 3)}, {"only": 8})
    with pytest.raises(ValueError, match="nothing says how this IdentityNet is made again"):
        weights.save_model(tmp_path / "net.safetensors", IdentityNet(own, 4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size,stride", [((64, 32), 2), ((48, 16), 1)])
def test_float16_on_the_processor_reaches_maps_one_pixel_wide(size, stride):
    from reidbench.core.base import autocast

    torch.manual_seed(0)
    net, images = IdentityNet("resnet10", 4, neck="plain", last_stride=stride).eval(), torch.rand(2, 3, *size)
    right = net.logits(images)
    with autocast(torch.device("cpu"), torch.float16):
        near = net.logits(images)
    near.float().square().sum().backward()
    assert (near - right).norm() < 0.05 * right.norm() and all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_half_precision_on_the_processor_is_right_in_dirty_memory():
    "A ResNet's last stage on 64 x 32 pictures steps to maps one pixel wide: with matrix tiles the library below reads there what others left."
    from reidbench.core.base import autocast

    torch.manual_seed(0)
    net, images = IdentityNet("resnet18", 4, neck="plain", last_stride=2).eval(), torch.rand(8, 3, 64, 32)
    gradients = lambda: torch.cat([g.flatten() for g in torch.autograd.grad(net.logits(images).float().square().sum(), list(net.parameters()))])
    with torch.no_grad():
        right = net.logits(images)
    slope = gradients()
    for _ in range(5):
        left = [torch.full((n,), 1e6) for n in (300, 3000, 30_000, 300_000) for _ in range(20)]
        del left
        with autocast(torch.device("cpu"), torch.bfloat16):
            with torch.no_grad():
                assert (net.logits(images) - right).norm() < 0.05 * right.norm()
            assert torch.cosine_similarity(gradients(), slope, dim=0) > 0.95
