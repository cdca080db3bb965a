"Occlusion maps: against an independent loop, patch by patch against plain, pictures, and what is refused."
import math

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from reidbench.explain import occlusion
from reidbench.explain.occlusion import (Incremental, Plain, SensitivityMap, Tiled, Unfit, draw_hardest, fold, heat, identity_centres, mask_corners, mask_fill, mask_side, measuring, occlude,
                                         retrieval_sensitivity, sensitivity, spread, take_apart)
from reidbench.methods.msfl.pyramid import PyramidNet
from reidbench.metrics.ranking import Embeddings
from reidbench.nets.backbones import Backbone, build, frozen
from reidbench.nets.blocks import IMAGENET_MEAN, Normalize
from reidbench.nets.identity import GlobalPool, IdentityNet


def shaken(net, seed=0):
    "Random batch-norm statistics and weights: what folding and borders would get wrong shows."
    torch.manual_seed(seed)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm1d)):
                m.running_mean.normal_(0, 0.3)
                m.running_var.uniform_(0.4, 1.6)
                m.weight.uniform_(0.5, 1.5)
                m.bias.normal_(0, 0.3)
            if isinstance(m, nn.Linear):
                m.weight.normal_(0, 0.01)
    return net.eval()


def resnet(name="resnet18", last_stride=2, classes=5):
    net = torchvision.models.get_model(name, num_classes=classes)
    if last_stride == 1:
        first = net.layer4[0]
        (first.conv2 if hasattr(first, "conv3") else first.conv1).stride = first.downsample[0].stride = (1, 1)
    return net


def by_loop(score, images, side, steps, fill):
    "Scores at every position, one picture at a time, in plain Python."
    colour = torch.tensor(fill, dtype=images.dtype)
    out = []
    with torch.no_grad():
        for n in range(len(images)):
            table = []
            for top in range(0, images.shape[2] - side + 1, steps[0]):
                row = []
                for left in range(0, images.shape[3] - side + 1, steps[1]):
                    covered = images[n].clone()
                    for c in range(3):
                        covered[c, top:top + side, left:left + side] = colour[c]
                    row.append(float(score(covered[None], n)))
                table.append(row)
            out.append(table)
    return torch.tensor(out)


def outputs(runner, images, corners, side, fill):
    "{(image, position): outputs} of a runner."
    with torch.no_grad():
        return {(i, k): o for which, at, out in runner(images, corners, side, fill) for i, k, o in zip(which.tolist(), at.tolist(), out)}


# -- the mask ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("height,width,area,stride,side,rows,cols", [
    (256, 128, 0.1, 10, 57, 20, 8), (128, 64, 0.1, 10, 28, 11, 4), (384, 128, 0.1, 10, 70, 32, 6), (160, 64, 0.05, 7, 22, 20, 7),
                                                                     (224, 224, 0.2, 16, 100, 8, 8),
    (64, 32, 0.49, 3, 31, 12, 1), (32, 32, 0.99, 1, 31, 2, 2), (256, 128, 0.025, (20, 5), 28, 12, 21)])
def test_positions(height, width, area, stride, side, rows, cols):
    assert mask_side(height, width, area) == side == int(math.sqrt(area * height * width))
    corners = mask_corners(height, width, side, stride)
    assert corners.shape == (rows, cols, 2)
    assert corners[..., 0].max() + side <= height and corners[..., 1].max() + side <= width and corners.min() == 0
    down, right = stride if isinstance(stride, tuple) else (stride, stride)
    assert corners[-1, -1].tolist() == [(rows - 1) * down, (cols - 1) * right]


def test_occlude_leaves_the_rest():
    images = torch.rand(3, 3, 20, 10)
    kept, corners = images.clone(), torch.tensor([[0, 0], [5, 2], [14, 4]])
    covered = occlude(images, corners, 6, (0.1, 0.2, 0.3))
    assert torch.equal(images, kept)
    for image, was, (y, x) in zip(covered, images, corners.tolist()):
        assert torch.equal(image[:, y:y + 6, x:x + 6], torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1).expand(3, 6, 6))
        differs = (image != was).any(0)
        differs[y:y + 6, x:x + 6] = False
        assert not differs.any()


def test_fill():
    net = IdentityNet("resnet18", 2)
    assert mask_fill(None, net) == mask_fill(None, net.logits) == mask_fill(None, frozen(net)) == IMAGENET_MEAN
    assert mask_fill(None, nn.Sequential(Normalize((0.1, 0.2, 0.3)), nn.ReLU())) == (0.1, 0.2, 0.3)
    assert mask_fill(None, nn.ReLU()) == mask_fill(None, lambda x: x) == (0, 0, 0)
    assert mask_fill(0.25) == (0.25,) * 3 and mask_fill(np.array([0, 0.5, 1])) == (0, 0.5, 1)
    x = Normalize((0.1, 0.2, 0.3))(torch.tensor(mask_fill(None, nn.Sequential(Normalize((0.1, 0.2, 0.3))))).view(1, 3, 1, 1))
    assert x.abs().max() < 1e-6  # zeros after normalisation, as in the paper


# -- the map ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["plain", "auto"])
@pytest.mark.parametrize("stride,fill", [(9, None), ((13, 6), 0.3), (30, (0.2, 0.9, 0.4))])
def test_classifier_against_a_loop(method, stride, fill):
    net = shaken(IdentityNet("resnet18", 6, neck="fc512"))
    images, labels = torch.rand(2, 3, 80, 40), [4, 1]
    found = sensitivity(net, images, labels, area=0.12, stride=stride, fill=fill, method=method, batch=5)
    side, steps = int(math.sqrt(0.12 * 80 * 40)), stride if isinstance(stride, tuple) else (stride, stride)
    colour = IMAGENET_MEAN if fill is None else fill if isinstance(fill, tuple) else (fill,) * 3
    wanted = by_loop(lambda x, n: net.logits(x).exp()[0, labels[n]] / net.logits(x).exp().sum(), images, side, steps, colour)
    assert found.side == side and found.stride == stride and found.p_occluded.shape == wanted.shape
    assert torch.allclose(found.p_occluded, wanted, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(found.p, net.logits(images).softmax(1)[[0, 1], labels], rtol=1e-4)
    assert (found.p_occluded.flatten(1).std(1) > 1e-4).all()  # the masks do change something


@pytest.mark.parametrize("method", ["plain", "auto"])
def test_similarity_against_a_loop(method):
    net = shaken(IdentityNet("resnet18", 6))
    images, other = torch.rand(2, 3, 64, 32), torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        centres = net.embed(other)
    wanted = by_loop(lambda x, n: (net.embed(x)[0] * centres[n]).sum() / net.embed(x)[0].norm() / centres[n].norm(), images, 14, (12, 12), IMAGENET_MEAN)
    one = by_loop(lambda x, n: torch.cosine_similarity(net.embed(x)[0], centres[0], 0), images, 14, (12, 12), IMAGENET_MEAN)
    for reference, right in ((other, wanted), (centres, wanted), (centres.numpy(), wanted), (other[0], one), (other[:1], one), (centres[0], one),
                             (centres[:1], one)):
        found = sensitivity(net, images, reference=reference, stride=12, method=method)
        assert torch.allclose(found.p_occluded, right, atol=2e-5) and found.score == "similarity"


def test_a_function_with_a_known_map():
    "A model that looks at one pixel: only masks over it matter."
    def model(images):
        return torch.stack([5 * images[:, 0, 20, 7], torch.zeros(len(images))], 1)
    found = sensitivity(model, torch.ones(1, 3, 40, 20), [0], stride=3)
    for r, c in np.ndindex(found.p_occluded.shape[1:]):
        y, x = found.corners[r, c].tolist()
        hidden = y <= 20 < y + found.side and x <= 7 < x + found.side
        assert found.p_occluded[0, r, c] == pytest.approx(0.5 if hidden else 1 / (1 + math.exp(-5)), abs=1e-6)
        assert hidden == (found.distribution[0, r, c] > 0)
    r, c = found.hardest[0].tolist()
    assert found.occluded(torch.ones(1, 3, 40, 20))[0, 0, 20, 7] == 0 and found.influence[0, r, c] == found.influence.max()


def test_influence_and_distribution():
    p, p_i = torch.tensor([0.9, 0.2, 0.5]), torch.tensor([[[0.5, 0.95], [0.9, 0.7]], [[0.3, 0.3], [0.2, 0.9]], [[0.5, 0.5], [0.5 - 1e-6, 0.5]]])
    found = SensitivityMap(p, p_i, 3, 2, torch.zeros(2, 2, 2))
    assert torch.allclose(found.influence[0], torch.tensor([[0.4, 0.0], [0.0, 0.2]]), atol=1e-6)
    assert torch.allclose(found.distribution[0], torch.tensor([[2 / 3, 0.0], [0.0, 1 / 3]]), atol=1e-6)
    assert torch.equal(found.distribution[1], torch.full((2, 2), 0.25))   # nothing hurts
    assert found.distribution[2].tolist() == [[0, 0], [1, 0]]              # however small, it is all there is
    assert found.distribution.dtype == torch.float32 and torch.allclose(found.distribution.sum((1, 2)), torch.ones(3))
    assert found.hardest.tolist() == [[0, 0], [1, 0], [1, 0]]


# -- patch by patch ---------------------------------------------------------------------------------------------------
SHAPES = [((64, 32), 14, 7), ((96, 64), 20, 11), ((70, 45), 9, 13), ((64, 64), 50, 7), ((65, 33), 33, 8), ((128, 64), 28, 20)]


@pytest.mark.parametrize("name,last_stride", [("resnet18", 1), ("resnet18", 2), ("resnet34", 1), ("resnet50", 1), ("resnet50", 2), ("resnet101", 2)])
def test_incremental_is_plain(name, last_stride, monkeypatch):
    net = shaken(nn.Sequential(Normalize((0.3, 0.4, 0.6), (0.2, 0.3, 0.25)), resnet(name, last_stride)))
    torch.manual_seed(1)
    for shape, side, stride in {"resnet18": SHAPES, "resnet50": SHAPES[::3]}.get(name, SHAPES[3:4]):
        corners, images, fill = mask_corners(*shape, side, stride).flatten(0, 1), torch.rand(2, 3, *shape), (0.1, 0.8, 0.4)
        wanted = outputs(Plain(net, torch.device("cpu"), 64), images, corners, side, fill)
        for worth, room, batch in ((0.85, None, 40), (1.1, 1, 7), (0, None, 24)):  # as it comes; patches to the very end, an image at a time; no patches at all
            monkeypatch.setattr(occlusion, "WORTH", worth)
            found = outputs(Incremental(take_apart(net), "cpu", batch, room=room), images, corners, side, fill)
            assert found.keys() == wanted.keys() and len(found) == 2 * len(corners) + 2
            for key, value in wanted.items():
                assert (found[key] - value).norm() <= 1e-4 * value.norm(), (shape, side, worth, key)


@pytest.mark.parametrize("n,height,width", [(16, 18, 10), (2, 16, 16), (32, 4, 4), (9, 7, 9), (1, 33, 30), (3, 5, 40), (40, 2, 1), (1, 8, 4)])
@pytest.mark.parametrize("out", [128, 512])
def test_tiles_are_a_convolution(out, n, height, width):
    torch.manual_seed(0)
    conv = fold(nn.Conv2d(130, out, 3, padding=1))
    tiled = Tiled(conv)
    assert Tiled.fits(conv) and not any(Tiled.fits(fold(nn.Conv2d(*shape)))
                                        for shape in ((128, 128, 3, 2, 1), (128, 128, 1), (64, 128, 3, 1, 1), (128, 128, 3, 1, 0)))
    x = torch.randn(n, 130, height, width).relu()
    with torch.no_grad():
        for padded in (True, False) if min(height, width) > 2 else (True,):
            wanted, found = conv(x, padded), tiled(x, padded)
            assert found.shape == wanted.shape and (found - wanted).norm() < 3e-6 * wanted.norm()


def test_odd_corners():
    "Any corner, not only those of a grid: borders, one pixel, the whole width."
    net = shaken(resnet("resnet18"))
    images = torch.rand(1, 3, 61, 37)
    for side in (1, 2, 5, 36, 37):
        corners = torch.tensor([[y, x] for y in {0, 1, (61 - side) // 2, 61 - side} for x in {0, (37 - side) // 2, 37 - side}])
        wanted, found = (outputs(r, images, corners, side, (1.0, 0.0, 0.5)) for r in (Plain(net, torch.device("cpu"), 64), Incremental(take_apart(net), "cpu")))
        for key, value in wanted.items():
            assert (found[key] - value).norm() <= 1e-4 * value.norm(), (side, key)


@pytest.mark.parametrize("make", [
    lambda: resnet("resnet18"), lambda: nn.Sequential(Normalize(), resnet("resnet18")),
                                  lambda: nn.Sequential(nn.Identity(), Normalize(), resnet("resnet18"), nn.Dropout(0.5), nn.Linear(5, 4)),
    lambda: nn.Sequential(build("resnet18"), GlobalPool("max"), nn.Linear(512, 4)),
                                  lambda: nn.Sequential(nn.Sequential(Normalize(), resnet("resnet18")), nn.Linear(5, 3)),
    lambda: IdentityNet("resnet18", 4, neck="fc512", pool="max", dropout=0.3), lambda: IdentityNet("resnet18", 4, neck="plain", last_stride=2),
                                  lambda: frozen(IdentityNet("resnet18", 4)),
    lambda: frozen(resnet("resnet18")), lambda: torchvision.models.resnext50_32x4d(num_classes=3)])
def test_models_that_fit(make):
    net = shaken(make())
    images = torch.rand(1, 3, 64, 48)
    plain, fast = (sensitivity(net, images, [1], stride=11, method=m) for m in ("plain", "incremental"))
    assert torch.allclose(plain.p_occluded, fast.p_occluded, rtol=1e-4, atol=1e-6) and torch.allclose(plain.p, fast.p, rtol=1e-4)


class Doubled(torchvision.models.ResNet):
    "Looks like a ResNet, computes something else."

    def forward(self, x):
        return super().forward(x) + super().forward(x.flip(-1))


class Global(nn.Module):
    "Spreads every pixel over the map."

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        return x - x.mean((2, 3), keepdim=True)


class AskingTheBackbone(nn.Module):
    "A user's net whose head asks the backbone how wide it is."

    def __init__(self):
        super().__init__()
        self.backbone, self.last = build("resnet10"), nn.Linear(512, 4)

    def forward(self, x):
        return self.last(self.backbone(x).mean((2, 3)).view(-1, self.backbone.width))


def spreading():
    net = resnet("resnet18")
    net.layer2[0].bn1 = Global(128)
    return net


@pytest.mark.parametrize("make", [lambda: IdentityNet("resnet18_ibn_a", 4), lambda: IdentityNet("densenet121", 4),
                                  lambda: Doubled(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3),
                                  spreading, lambda: nn.Sequential(nn.Conv2d(3, 4, 3), GlobalPool()),
                                  lambda: nn.Sequential(nn.InstanceNorm2d(3), resnet("resnet18")),
                                  lambda: PyramidNet("resnet10", 4, width=16, middle=4, embedding=8), AskingTheBackbone])
def test_models_that_do_not_fit_run_plainly(make):
    net = shaken(make())
    images = torch.rand(1, 3, 64, 64)
    call = getattr(net, "logits", net)
    wanted = by_loop(lambda x, n: call(x).softmax(1)[0, 2], images, 20, (20, 20), mask_fill(None, net))
    assert torch.allclose(sensitivity(net, images, [2], stride=20).p_occluded, wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="patch by patch"):
        sensitivity(net, images, [2], stride=20, method="incremental")


def test_hooks_are_seen():
    "A hook that changes a map is part of the model: plain."
    net = shaken(resnet("resnet18"))
    net.layer3.register_forward_hook(lambda module, args, out: 0.5 * out)
    with torch.no_grad(), pytest.raises(Unfit, match="more than"):
        Incremental.of(net, torch.rand(1, 3, 64, 64), torch.device("cpu"))


def test_bf16_is_near():
    net = shaken(IdentityNet("resnet18", 6, last_stride=1))
    images = torch.rand(2, 3, 64, 32)
    full = sensitivity(net, images, reference=images, stride=10)
    for method in ("plain", "incremental"):
        half = sensitivity(net, images, reference=images, stride=10, precision="bf16", method=method)
        assert not torch.equal(half.p_occluded, full.p_occluded)
        assert np.corrcoef(half.influence.flatten(), full.influence.flatten())[0, 1] > 0.98
    with pytest.raises(ValueError, match="one pixel wide"):
        sensitivity(resnet("resnet18").eval(), torch.rand(1, 3, 64, 32), [1], precision="bf16", method="incremental")


def test_bf16_of_maps_one_pixel_wide_runs_plainly():
    net, images = shaken(resnet("resnet18")), torch.rand(1, 3, 64, 32)
    plain, found = (sensitivity(net, images, [1], stride=20, precision="bf16", method=m).p_occluded for m in ("plain", "auto"))
    assert torch.equal(found, plain)


def test_errors_of_the_model_itself_are_not_hidden():
    net = AskingTheBackbone()
    net.last = nn.Linear(7, 4)
    with pytest.raises(RuntimeError, match="512"):
        sensitivity(net, torch.rand(1, 3, 64, 64), [1], stride=20)


def test_double_precision_stays():
    net = shaken(resnet("resnet18")).double()
    images = torch.rand(1, 3, 64, 32, dtype=torch.float64)
    corners = mask_corners(64, 32, 14, 9).flatten(0, 1)
    wanted, found = (outputs(r, images, corners, 14, (0.2,) * 3) for r in (Plain(net, torch.device("cpu")), Incremental(take_apart(net), "cpu")))
    assert all(found[k].dtype == torch.float64 and (found[k] - v).norm() < 1e-10 * v.norm() for k, v in wanted.items())


def test_nothing_is_left_behind():
    net = IdentityNet("resnet18", 4)
    net.train()
    net.backbone.eval()
    net.backbone.stages["layer2"].train()
    net.classifier.weight.grad = torch.ones_like(net.classifier.weight)
    before, modes = {k: v.clone() for k, v in net.state_dict().items()}, [m.training for m in net.modules()]
    wants, images = [q.requires_grad for q in net.parameters()], torch.rand(2, 3, 64, 32)
    kept = images.clone()
    for options in (dict(), dict(method="plain"), dict(precision="bf16")):
        sensitivity(net, images, [0, 3], stride=25, **options)
    with pytest.raises(ValueError):
        sensitivity(net, images, [0, 9], stride=25)
    assert modes == [m.training for m in net.modules()] and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert wants == [q.requires_grad for q in net.parameters()] and torch.equal(images, kept) and torch.is_grad_enabled()
    assert torch.equal(net.classifier.weight.grad, torch.ones_like(net.classifier.weight)) and sum(q.grad is not None for q in net.parameters()) == 1
    assert isinstance(net.backbone, Backbone)


def test_surrounding_autocast_does_not_matter():
    net, images = shaken(resnet("resnet18")), torch.rand(1, 3, 64, 64)
    wanted = sensitivity(net, images, [1], stride=20)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sensitivity(net, images, [1], stride=20).p_occluded, wanted.p_occluded)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu():
    net, images = shaken(IdentityNet("resnet50", 6)), torch.rand(3, 3, 128, 64)
    wanted = sensitivity(net, images, [0, 1, 2], stride=9)
    there = sensitivity(net.cuda(), images, [0, 1, 2], stride=9)
    assert there.p_occluded.device.type == "cpu" and torch.allclose(there.p_occluded, wanted.p_occluded, rtol=1e-3, atol=1e-5)
    plain = sensitivity(net, images, [0, 1, 2], stride=9, method="plain")
    assert torch.allclose(there.p_occluded, plain.p_occluded, rtol=1e-4, atol=1e-6)


# -- pictures ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows,cols", [(5, 4), (1, 3), (4, 1), (1, 1)])
def test_spread_keeps_the_centres(rows, cols):
    corners = torch.stack(torch.meshgrid(torch.arange(rows) * 8, torch.arange(cols) * 6, indexing="ij"), -1)
    values = torch.rand(2, rows, cols)
    wide = spread(values, corners + 4, (60, 40))
    assert wide.shape == (2, 60, 40) and wide.min() >= values.min() and wide.max() <= values.max()
    for n, r, c in np.ndindex(2, rows, cols):
        y, x = (corners[r, c] + 4).tolist()
        assert wide[n, y, x] == pytest.approx(float(values[n, r, c]), abs=1e-6)
    assert (wide[:, 0] == wide[:, 4]).all() and (wide[:, :, -1] == wide[:, :, (cols - 1) * 6 + 4]).all()


def test_the_picture_is_brightest_where_it_hurts():
    p_i = torch.full((1, 10, 4), 0.9)
    p_i[0, 7, 2] = 0.1
    corners = mask_corners(120, 60, 21, 11)[:10, :4]
    found = SensitivityMap(torch.tensor([0.9]), p_i, 21, 11, corners + 10.0)
    picture = np.asarray(found.overlay(torch.full((1, 3, 120, 60), 0.5), mark=False, height=120, gap=0).image).astype(float)[:120, :60]
    lightness = picture @ [0.3, 0.59, 0.11]
    y, x = np.unravel_index(lightness.argmax(), lightness.shape)
    assert abs(y - found.centres[7, 2, 0]) <= 2 and abs(x - found.centres[7, 2, 1]) <= 2
    assert found.hardest.tolist() == [[7, 2]]
    steps = heat(np.linspace(0, 1, 64)) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(steps) > 0).all()  # readable without colour
    with pytest.raises(ValueError, match="2 images for 1 map"):
        found.overlay(torch.rand(2, 3, 120, 60))


# -- searching --------------------------------------------------------------------------------------------------------
def search():
    torch.manual_seed(3)
    net, images = shaken(IdentityNet("resnet18", 4)), torch.rand(3, 3, 64, 32)
    with torch.no_grad():
        near = net.embed((images.repeat_interleave(2, 0) + 0.15 * torch.randn(6, 3, 64, 32)).clamp(0, 1))
        far = net.embed(torch.rand(8, 3, 64, 32))
    return net, images, Embeddings(torch.cat([near, far]), [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, -1, -1], [2] * 14)


def test_retrieval_against_a_loop():
    net, images, gallery = search()
    found = retrieval_sensitivity(net, images, [1, 2, 3], [1, 1, 1], gallery, stride=15)
    values = torch.from_numpy(gallery.values)

    def ap(x, n):
        order = (net.embed(x) - values).norm(dim=1).argsort().tolist()
        right = [int(gallery.pid[j] == n + 1) for j in order if gallery.pid[j] != -1]
        return sum(sum(right[:k + 1]) / (k + 1) for k in range(len(right)) if right[k]) / sum(right)
    wanted = by_loop(ap, images, 14, (15, 15), IMAGENET_MEAN)
    assert torch.allclose(found.p_occluded, wanted, atol=1e-6) and found.score == "AP"
    with torch.no_grad():
        assert torch.allclose(found.p, torch.tensor([ap(images[n:n + 1], n) for n in range(3)]), atol=1e-6)
    assert wanted.std() > 0
    pictures = [torch.rand(3, 64, 32) for _ in range(14)]
    assert draw_hardest(found, net, images, [1, 2, 3], [1, 1, 1], gallery, pictures, which=2, top=4).image.width > 100
    assert torch.equal(retrieval_sensitivity(net, images, [1, 2, 3], None, gallery, stride=15, method="plain").p_occluded > -1, torch.ones(3, 4, 2) > 0)


def test_retrieval_refuses():
    net, images, gallery = search()
    one = Embeddings(gallery.values[:4], [1, 1, 1, -1], [2] * 4)
    for wrong, said in ((dict(gallery=one), "one identity"), (dict(gallery=gallery.values), "Embeddings"), (dict(pid=[1]), "pid"),
                        (dict(camid=[1, 2]), "camid"), (dict(images=images[:0], pid=[], camid=[]), "images: there are none"),
                        (dict(pid=[1, 2, 77]), "query 2 has no valid match"), (dict(area=2), "area"), (dict(model=lambda x: x), "embeddings")):
        with pytest.raises(ValueError, match=said):
            retrieval_sensitivity(**{**dict(model=net, images=images, pid=[1, 2, 3], camid=[1, 1, 1], gallery=gallery, stride=30), **wrong})


def test_identity_centres():
    values = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    pids, centres = identity_centres(Embeddings(values, [5, 2, 5, -1, 2, 9, 5]))
    assert pids.tolist() == [2, 5, 9]
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    for pid, centre in zip(pids, centres):
        mean = np.mean([unit[i] for i in range(7) if [5, 2, 5, -1, 2, 9, 5][i] == pid], axis=0)
        assert np.allclose(centre, mean / np.linalg.norm(mean), atol=1e-6)


# -- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("wrong,said", [
    (dict(area=0), "area"), (dict(area=1), "area"), (dict(area=-0.1), "area"), (dict(area=float("nan")), "area"), (dict(area=0.7), "larger than the image"),
                                        (dict(area=1e-5), "smaller than a pixel"),
    (dict(stride=0), "stride"), (dict(stride=-3), "stride"), (dict(stride=2.5), "stride"), (dict(stride=(3, 0)), "stride"), (dict(stride=(1, 2, 3)), "stride"),
    (dict(fill=1.5), "fill"), (dict(fill=(0.1, 0.2)), "fill"), (dict(fill=float("nan")), "fill"),
    (dict(labels=None), "either labels"), (dict(reference=torch.rand(8)), "either labels"), (dict(labels=[0, 1]), "labels"), (dict(labels=[0.5]), "labels"),
                                        (dict(labels=[7]), "labels"),
    (dict(labels=[-1]), "labels"), (dict(batch=0), "batch"), (dict(precision="int8"), "precision"), (dict(method="fast"), "method"),
                                        (dict(model=3), "callable"),
    (dict(images=torch.rand(3, 64, 32)), "images"), (dict(images=torch.rand(0, 3, 64, 32)), "none"), (dict(images=255 * torch.rand(1, 3, 64, 32)), "255"),
    (dict(model=lambda x: x.mean((1, 2, 3))), "logits"), (dict(model=lambda x: x), "logits"),
                                        (dict(model=lambda x: x.mean((2, 3))[:1].expand(9, -1)), "logits"), (dict(model=lambda x: [1]), "logits"),
    (dict(model=lambda x: x.mean((2, 3)) * math.nan), "NaN"), (dict(model=lambda x: x.mean((2, 3))[:, :1]), "one class"),
    (dict(labels=None, reference=torch.rand(5)), "reference has 5"), (dict(labels=None, reference=torch.rand(4, 3)), "4 references"),
    (dict(labels=None, reference=torch.full((3,), math.nan)), "NaN"), (dict(labels=None, reference=torch.rand(2, 3, 3, 64, 32)), "reference"),
])
def test_bad_input(wrong, said):
    with pytest.raises(ValueError, match=said):
        sensitivity(**{**dict(model=lambda x: x.mean((2, 3)), images=torch.rand(1, 3, 64, 32), labels=[1], stride=20), **wrong})


def test_nan_at_one_position_is_named():
    def model(images):
        out = images.mean((2, 3))
        return torch.where((images[:, :1, 0, 31] == 0), math.nan, out)
    images = torch.rand(2, 3, 64, 32)
    images[0, :, 0, 31] = images[1, :, 0, 31] = 1
    with pytest.raises(ValueError, match="image 0 with the mask at position 2,"):  # of 3 a row, the last reaches the corner
        sensitivity(model, images, [1, 1], stride=9)
    images[1, :, 0, 31] = 0
    with pytest.raises(ValueError, match="image 1 without a mask"):
        sensitivity(model, images, [1, 1], stride=10)
    with pytest.raises(ValueError, match="image 1 without a mask"):
        retrieval_sensitivity(model, images, [1, 2], None, Embeddings(torch.rand(4, 3), [1, 2, 1, 2]), stride=10)


def test_measuring_restores_after_an_error():
    net = nn.Linear(2, 2).train()
    with pytest.raises(RuntimeError):
        with measuring(net, torch.rand(1, 3, 4, 4)):
            assert not net.training and not torch.is_grad_enabled()
            raise RuntimeError
    assert net.training and torch.is_grad_enabled()
