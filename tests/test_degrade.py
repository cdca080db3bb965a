"Degradations against plain loops, on odd input, and the MLR recipe."
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from reidbench.data import degrade as dg
from reidbench.data.people import Benchmark

CALLS = {"downsample": (dg.downsample, 2.5), "gamma": (dg.gamma, 1.7), "blur": (dg.blur, 1.3), "motion_blur": (dg.motion_blur, 4.5),
         "noise": (dg.noise, .1), "jpeg": (dg.jpeg, 40), "occlude": (dg.occlude, .3)}
SEEDED = ("noise", "occlude")
each = pytest.mark.parametrize("kind", CALLS)


def batch(n=3, h=24, w=12, seed=0, dtype=torch.float32):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def call(kind, images, strength=None):
    function, usual = CALLS[kind]
    more = {"generator": torch.Generator().manual_seed(7)} if kind in SEEDED else {}
    return function(images, usual if strength is None else strength, **more)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 24, 12), (0, 24, 12), (2, 1, 1), (1, 2, 37)])
def test_shape_type_range_and_the_callers_batch(kind, shape, dtype):
    images = batch(*shape).to(dtype)
    before = images.clone()
    out = call(kind, images)
    assert out.shape == images.shape and out.dtype == dtype and torch.equal(images, before)
    assert out.data_ptr() != images.data_ptr() or images.numel() == 0
    assert bool(((out >= 0) & (out <= 1)).all())


@each
def test_one_number_per_image_is_the_same_as_one_by_one(kind):
    images, usual = batch(), CALLS[kind][1]
    strengths = [usual, usual * .6 if kind != "downsample" else 1.2, usual]
    if kind in SEEDED:  # what is drawn for an image does not hang on the others' strengths
        assert torch.equal(call(kind, images, strengths)[2], call(kind, images)[2])
        assert not torch.equal(call(kind, images, strengths)[1], call(kind, images)[1])
        return
    together = call(kind, images, torch.tensor(strengths))
    for i, s in enumerate(strengths):
        assert torch.allclose(together[i:i + 1], call(kind, images[i:i + 1], s), atol=1e-6)


@pytest.mark.parametrize("kind, nothing", [("downsample", 1), ("gamma", 1), ("blur", 0), ("motion_blur", 1), ("noise", 0), ("occlude", 0)])
def test_no_strength_changes_nothing(kind, nothing):
    images = batch()
    assert torch.allclose(call(kind, images, nothing), images, atol=1e-6)


@pytest.mark.parametrize("kind, wrong", [("downsample", .5), ("downsample", math.nan), ("downsample", [2, 2]), ("gamma", 0), ("gamma", -1), ("blur", -.1),
                                         ("blur", [1, 2, -1]), ("motion_blur", .5), ("motion_blur", math.inf), ("noise", -.1), ("jpeg", 0), ("jpeg", 101),
                                         ("jpeg", [10, 20]), ("occlude", -.1), ("occlude", 1.1), ("occlude", [[.1]])])
def test_wrong_strengths(kind, wrong):
    with pytest.raises(ValueError, match="factor|gamma|sigma|length|quality|share"):
        call(kind, batch(), wrong)


@each
@pytest.mark.parametrize("wrong", [torch.rand(3, 24, 12), torch.rand(2, 1, 24, 12), torch.rand(2, 3, 24, 12) * 255, (torch.rand(2, 3, 4, 4) * 255).byte()])
def test_wrong_images(kind, wrong):
    with pytest.raises(ValueError, match="images"):
        call(kind, wrong)


@pytest.mark.parametrize("call, name", [(lambda x: dg.blur(x, math.inf), "sigma"), (lambda x: dg.gamma(x * 0, 1, gain=math.inf), "gain"),
                                        (lambda x: dg.gamma(x, [1, math.inf, 1]), "gamma"),
                                        (lambda x: dg.noise(x, math.inf), "sigma"), (lambda x: dg.downsample(x, math.inf), "factor"),
                                        (lambda x: dg.motion_blur(x, 3, angle=-math.inf), "angle")])
def test_strengths_are_finite(call, name):
    with pytest.raises(ValueError, match=f"{name}: must be .*finite, got -?inf"):
        call(batch())


def test_wrong_options():
    with pytest.raises(ValueError, match="interpolation"):
        dg.downsample(batch(), 2, up="cubist")
    with pytest.raises(ValueError, match="gain"):
        dg.gamma(batch(), 2, gain=-1)
    for fill in ("mud", (.1, .2), 2.):
        with pytest.raises(ValueError, match="fill"):
            dg.occlude(batch(), .1, fill=fill)
    with pytest.raises(ValueError, match="no degradation"):
        dg.degrade(batch(), "rain", 1)
    for severity in (6, -1, "awful"):
        with pytest.raises(ValueError, match="severity"):
            dg.degrade(batch(), "blur", severity)


def mirrored(i, n):
    while n > 1 and not 0 <= i < n:
        i = -i if i < 0 else 2 * (n - 1) - i
    return i if n > 1 else 0


@pytest.mark.parametrize("h, w, sigma", [(9, 7, .8), (4, 3, 2.5), (1, 6, 1.1), (5, 4, 8.3)])  # the last reaches round the mirrored picture more than once
def test_blur_against_a_plain_loop(h, w, sigma):
    images, reach = batch(1, h, w, dtype=torch.float64), math.ceil(3 * sigma)
    weights = {k: math.exp(-k * k / (2 * sigma ** 2)) for k in range(-reach, reach + 1)}
    total, slow = sum(weights.values()) ** 2, np.zeros((3, h, w))
    for c in range(3):
        for y in range(h):
            for x in range(w):
                slow[c, y, x] = sum(a * b * float(images[0, c, mirrored(y + i, h), mirrored(x + j, w)]) for i, a in weights.items()
                                    for j, b in weights.items()) / total
    assert np.allclose(dg.blur(images, sigma)[0].numpy(), slow, atol=1e-10)


def test_the_widest_blur_is_the_mean_of_the_mirrored_picture():
    "However wide: it asks for no more memory than eight pictures' width."
    images = batch(2, 16, 8, dtype=torch.float64)
    shares = [torch.tensor([1.] + [2.] * (n - 2) + [1.], dtype=torch.float64) / (2 * (n - 1)) for n in (16, 8)]  # the mirror shows the edges half as often
    mean = torch.einsum("nchw,h,w->nc", images, *shares)[..., None, None]
    assert all(torch.allclose(dg.blur(images, sigma), mean.expand_as(images), atol=1e-4) for sigma in (1e3, 1e12))


@pytest.mark.parametrize("length, angle", [(3, 0), (4, 90), (5, 30), (2.5, 135), (6, -75)])
def test_motion_blur_against_a_plain_loop(length, angle):
    h, w, images, count = 7, 6, batch(1, 7, 6, dtype=torch.float64), math.ceil(length)
    slow = np.zeros((3, h, w))
    for c in range(3):
        for y in range(h):
            for x in range(w):
                for m in range(count):
                    along = (length - 1) * (m / (count - 1) - .5)
                    fx, fy = x + along * math.cos(math.radians(angle)), y - along * math.sin(math.radians(angle))
                    for cy in (math.floor(fy), math.floor(fy) + 1):
                        for cx in (math.floor(fx), math.floor(fx) + 1):
                            share = (1 - abs(fy - cy)) * (1 - abs(fx - cx)) / count
                            slow[c, y, x] += share * float(images[0, c, min(max(cy, 0), h - 1), min(max(cx, 0), w - 1)])
    assert np.allclose(dg.motion_blur(images, length, angle)[0].numpy(), slow, atol=1e-6)


@pytest.mark.parametrize("function", [lambda x: dg.downsample(x, 2), lambda x: dg.blur(x, 1.), lambda x: dg.motion_blur(x, 3, 20),
                                      lambda x: dg.gamma(x, .6, .9),
                                      lambda x: dg.gamma(x, 2.), lambda x: dg.noise(x, .01, torch.Generator().manual_seed(0)),
                                      lambda x: dg.occlude(x, .3, torch.Generator().manual_seed(0))])
def test_gradients(function):
    images = (.2 + .6 * batch(2, 6, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(function, images)


def test_gamma_has_a_finite_gradient_at_black_and_jpeg_has_none():
    black = torch.zeros(1, 3, 2, 2, requires_grad=True)
    dg.gamma(black, .5).sum().backward()
    assert torch.isfinite(black.grad).all()
    assert not dg.jpeg(batch(1).requires_grad_(), 50).requires_grad


@pytest.mark.parametrize("share", [.02, .1, .37, .8, 1.])
def test_occluders_cover_the_share_asked_for(share):
    out = dg.occlude(torch.zeros(40, 3, 64, 32), share, torch.Generator().manual_seed(3), fill=(1., .5, .25))
    covered = (out[:, 0] == 1).float().mean((1, 2))
    assert (covered - share).abs().max() < .02 and set(out[:, 1].unique().tolist()) <= {0., .5}


@each
def test_every_severity_does_something_and_more_than_the_last(kind):
    from reidbench.data.street import shoot
    image = torch.from_numpy(shoot(3, 5, 1, 0)[0]).permute(2, 0, 1)[None]
    loss = [float(((dg.degrade(image, kind, s, torch.Generator().manual_seed(1)) - image) ** 2).mean()) for s in range(6)]
    assert loss[0] == 0 and all(a < b for a, b in zip(loss, loss[1:]))
    assert torch.equal(dg.degrade(image, kind, "moderate", torch.Generator().manual_seed(1)), dg.degrade(image, kind, 3, torch.Generator().manual_seed(1)))


@pytest.fixture
def people(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for pid in (-1, 0, 1, 2, 3):
        for camid in (1, 2, 3):
            for k in range(2):
                path = tmp_path / f"{pid}_c{camid}_{k}.png"
                Image.fromarray(rng.integers(0, 256, (48 + pid, 24, 3), dtype=np.uint8)).save(path)
                rows.append({"path": str(path), "pid": pid, "camid": camid, "k": k})
    table = pd.DataFrame(rows)
    test = table[table.pid < 3]
    return Benchmark("tiny", table[table.pid == 3], test[(test.pid > 0) & (test.k == 0)], test[(test.pid <= 0) | (test.k == 1)])


def test_mlr(people, tmp_path):
    before = people.query.copy()
    low = dg.mlr(people, 2, seed=1, root=tmp_path / "cache")
    assert people.query.equals(before) and low.name == "MLR-tiny" and low.multi_query is None
    assert sorted(low.query.pid) == [1, 1, 2, 2] and set(low.query.camid) == {2} and set(low.gallery.camid) == {1, 3}
    assert set(low.gallery.pid) == {-1, 0, 1, 2} and len(low.gallery) == 16 and len(low.train) == len(people.train)
    assert (low.gallery.scale == 1).all() and ((low.train.scale < 1) == (low.train.camid == 2)).all()
    for table in (low.query, low.train):
        for row in table[table.camid == 2].itertuples():
            full = 48 + row.pid
            assert Image.open(row.path).size == (max(1, math.floor(24 * row.scale + .5)), math.floor(full * row.scale + .5))
            assert round(1 / row.scale) in (2, 3, 4)


def test_mlr_pixels_are_those_of_downsample(people, tmp_path):
    row = dg.mlr(people, 2, root=tmp_path).query.iloc[0]
    source = next(p for p in people.query.path if row.path.split("/")[-1].startswith(p.split("/")[-1][:-4]))
    image = torch.from_numpy(np.array(Image.open(source))).permute(2, 0, 1)[None].float() / 255
    stored = torch.from_numpy(np.array(Image.open(row.path))).permute(2, 0, 1)[None].float() / 255
    assert torch.allclose(dg.resize(image, tuple(stored.shape[2:])), stored, atol=1.6 / 255)


def test_mlr_hangs_on_seed_and_name_only(people, tmp_path):
    names = lambda b: sorted(p.split("/")[-1] for p in b.query.path)
    first = dg.mlr(people, 2, seed=0, root=tmp_path / "a")
    turned = Benchmark("tiny", people.train[::-1], people.query[::-1], people.gallery[::-1])
    assert names(dg.mlr(turned, 2, seed=0, root=tmp_path / "b")) == names(first)
    assert any(names(dg.mlr(people, 2, seed=s, root=tmp_path / "a")) != names(first) for s in (1, 2, 3))
    assert {dg.mlr_factor(0, f"{i}.png") for i in range(50)} == {2, 3, 4} and dg.mlr_factor(0, "a/x.png") == dg.mlr_factor(0, "b/c/x.png")


def test_mlr_keeps_what_is_known_of_the_resolution(people, tmp_path):
    scaled = Benchmark("tiny", people.train.assign(scale=.8), people.query.assign(scale=.8), people.gallery.assign(scale=.8))
    low = dg.mlr(scaled, 2, root=tmp_path)
    assert (low.gallery.scale == .8).all() and all(any(abs(s - .8 / f) < 1e-9 for f in (2, 3, 4)) for s in low.query.scale)


def test_mlr_cache_is_verified(people, tmp_path, monkeypatch):
    monkeypatch.setenv("REIDBENCH_CACHE", str(tmp_path / "moved"))
    low = dg.mlr(people, 2)
    file = low.query.path[0]
    assert file.startswith(str(tmp_path / "moved"))
    stamp = (tmp_path / "moved").stat().st_mtime_ns
    assert dg.mlr(people, 2).query.equals(low.query) and (tmp_path / "moved").stat().st_mtime_ns == stamp
    Image.new("RGB", (4, 4)).save(file)
    with pytest.raises(ValueError, match="checksum"):
        dg.mlr(people, 2)
    manifest = next((tmp_path / "moved").rglob("manifest.json"))
    manifest.write_text(json.dumps({}))
    with pytest.raises(ValueError, match="missing"):
        dg.mlr(people, 2)
    manifest.write_text("{")
    with pytest.raises(ValueError, match="manifest"):
        dg.mlr(people, 2)
    assert not list((tmp_path / "moved").rglob(".mlr-*"))


def test_mlr_wrong_arguments(people, tmp_path):
    with pytest.raises(ValueError, match="camera 9 .* has \\[1, 2, 3\\]"):
        dg.mlr(people, 9, root=tmp_path)
    with pytest.raises(ValueError, match="factors"):
        dg.mlr(people, 2, root=tmp_path, factors=(.5, 2))
    alone = Benchmark("one", people.train, people.query[people.query.camid == 2], people.gallery[people.gallery.camid == 2])
    with pytest.raises(ValueError, match="two or more"):
        dg.mlr(alone, 2, root=tmp_path)


def test_a_failed_mlr_leaves_nothing(people, tmp_path, monkeypatch):
    calls = []
    def fails(path, factor):
        calls.append(path)
        if len(calls) > 2:
            raise OSError("disk full")
        return b"x"
    monkeypatch.setattr(dg, "_shrunk", fails)
    with pytest.raises(OSError, match="disk full"):
        dg.mlr(people, 2, root=tmp_path / "cache")
    assert list((tmp_path / "cache" / "mlr").iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each
def test_on_cuda(kind):
    images = batch()
    assert call(kind, images.cuda()).is_cuda
    assert torch.allclose(call(kind, images.cuda()).cpu(), call(kind, images), atol=1e-4)
