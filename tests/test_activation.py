"Activation maps and Grad-CAM against other hands, and what they leave as it was."
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from reidbench.data.batches import Pixels
from reidbench.explain.activation import activation_map, before_after, find_layer, grad_cam, laid_over, mean_map, overlay
from reidbench.nets.backbones import build, frozen
from reidbench.nets.blocks import Normalize
from reidbench.nets.identity import IdentityNet


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = IdentityNet("resnet18", num_classes=6, dropout=0.5)
    nn.init.normal_(net.classifier.weight)
    return net.eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 64, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("layer", ["layer2", "layer4", "backbone.stages.layer3"])
def test_map_is_the_channel_sum(net, images, layer, power):
    name = layer.rsplit(".", 1)[-1]
    with torch.no_grad():
        features = net.backbone.outputs(images, [name])[name]
    plain = torch.zeros(len(images), *features.shape[-2:])
    for c in range(features.shape[1]):
        plain += features[:, c].abs() ** power
    found = activation_map(net, images, layer, power)
    torch.testing.assert_close(found, torch.stack([m / m.max() for m in plain]), rtol=1e-4, atol=1e-6)
    assert found.min() >= 0 and found.amax((1, 2)).eq(1).all()


def test_any_module_with_a_named_layer(images):
    torch.manual_seed(0)
    backbone, wrapped = build("resnet18").eval(), nn.Sequential(Normalize(), resnet18(num_classes=4)).eval()
    for model in (backbone, wrapped, resnet18(num_classes=4), build("densenet121"), build("resnet18_ibn_a")):
        maps = activation_map(model, images)
        assert maps.ndim == 3 and len(maps) == 3 and torch.isfinite(maps).all() and maps.max() == 1
    torch.testing.assert_close(activation_map(frozen(backbone), images), activation_map(backbone, images), rtol=1e-3, atol=1e-4)


def test_batches_change_nothing(net, images):
    torch.testing.assert_close(activation_map(net, images, batch=2), activation_map(net, images), rtol=1e-4, atol=1e-6)


def test_mean_over_a_table_is_the_mean_of_its_maps(net, colours):
    table = colours.gallery.head(7)
    pixels = Pixels(table, (64, 32))
    each = torch.cat([activation_map(net, pixels.images([i])) for i in range(7)])
    for options in ({"batch": 3}, {"pixels": pixels}):
        torch.testing.assert_close(mean_map(net, table, (64, 32), **options), each.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_grad_cam_of_a_class_is_captums(images, layer):
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    model = nn.Sequential(Normalize(), resnet18(num_classes=5)).eval()
    labels = torch.tensor([0, 3, 4])
    theirs = attr.LayerGradCam(model, getattr(model[1], layer)).attribute(images, labels, relu_attributions=True)[:, 0].detach()
    top = theirs.amax((1, 2), keepdim=True)
    assert (top > 0).sum() >= 2  # there is something to compare
    torch.testing.assert_close(grad_cam(model, images, labels, layer=layer), theirs / torch.where(top > 0, top, 1), rtol=1e-4, atol=1e-5)


def test_grad_cam_of_a_likeness_is_captums(net, images):
    attr = pytest.importorskip("captum.attr")
    wanted = net.embed(images.roll(1, 0)).detach()
    score = lambda x: F.cosine_similarity(net.embed(x), wanted)
    theirs = attr.LayerGradCam(score, net.backbone.stages["layer3"]).attribute(images, relu_attributions=True)[:, 0].detach()
    top = theirs.amax((1, 2), keepdim=True)
    expected = theirs / torch.where(top > 0, top, 1)
    assert expected.max() == 1
    for reference in (wanted, images.roll(1, 0)):
        torch.testing.assert_close(grad_cam(net, images, reference=reference, layer="layer3"), expected, rtol=1e-3, atol=1e-4)


def test_reference_forms(net, images):
    "The first picture is the reference: its likeness to itself has no slope, and its map is empty, so the others are compared."
    one = grad_cam(net, images[1:], reference=images[0])
    for same in (images[:1], net.embed(images[:1]), net.embed(images[:1])[0], images[:1].expand(2, -1, -1, -1)):
        torch.testing.assert_close(grad_cam(net, images[1:], reference=same), one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_cam(net.logits, images, labels=2), grad_cam(net, images, labels=[2, 2, 2]))


@pytest.mark.parametrize("training", [True, False])
def test_model_is_left_as_it_was(images, training):
    torch.manual_seed(0)
    net = IdentityNet("resnet18", num_classes=6, neck="bnneck", dropout=0.5).train(training)
    net.backbone.stages["stem"].eval()  # a mode of its own
    for i, p in enumerate(net.parameters()):
        p.requires_grad_(i % 2 == 0)
    modes, state = [m.training for m in net.modules()], {k: v.clone() for k, v in net.state_dict().items()}
    needs, hooks = [p.requires_grad for p in net.parameters()], sum(len(m._forward_hooks) for m in net.modules())
    given = images.clone()
    with torch.no_grad():
        activation_map(net, given), grad_cam(net, given, labels=1), grad_cam(net, given, reference=given[0])
    with pytest.raises(ValueError):
        grad_cam(net, given, labels=6)
    assert torch.equal(given, images) and not given.requires_grad
    assert modes == [m.training for m in net.modules()] and needs == [p.requires_grad for p in net.parameters()]
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) and all(p.grad is None for p in net.parameters())
    assert hooks == sum(len(m._forward_hooks) for m in net.modules())


def test_grad_cam_of_a_frozen_net(net, images):
    torch.testing.assert_close(grad_cam(frozen(net), images, labels=1), grad_cam(net, images, labels=1), rtol=1e-2, atol=1e-3)


def test_relu_in_place_does_not_reach_the_map(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = model[0](images).detach()
    plain = before.abs().sum(1)
    torch.testing.assert_close(activation_map(model, images, "0"), plain / plain.amax((1, 2), keepdim=True))
    assert torch.isfinite(grad_cam(model, images, labels=0, layer="0")).all()


def test_nothing_there_is_no_division_by_zero(images):
    silent = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.zeros_(silent[0].weight), nn.init.zeros_(silent[0].bias)
    assert torch.equal(activation_map(silent, images, "0"), torch.zeros(3, 62, 30))
    assert torch.equal(grad_cam(silent, images, labels=0, layer="0"), torch.zeros(3, 62, 30))


def test_colours_span_the_scale_and_pictures_stay_inside(images):
    ends = laid_over(torch.zeros(2, 3, 2, 2), torch.tensor([0.0, 1.0]).view(2, 1, 1), strength=1.0)[:, :, 0, 0] * 255
    assert (ends[0] / 0.4).round().tolist() == [68, 1, 84] and ends[1].round().tolist() == [253, 231, 37]  # viridis
    over = laid_over(images, torch.rand(3, 4, 2))
    assert over.shape == images.shape and 0 <= over.min() and over.max() <= 1
    gone = laid_over(images, torch.rand(3, 4, 2), strength=0.0)
    torch.testing.assert_close(gone, images.mean(1, keepdim=True).expand(-1, 3, -1, -1))  # what is left is the grey picture


def test_pictures_are_drawn(net, images):
    one, two = overlay(images, activation_map(net, images)).image, before_after(images, {"a": net, "b": net}).image
    assert two.height > one.height and two.width > one.width  # a row more, and the names
    with pytest.raises(ValueError, match="3 pictures, but 2 maps"):
        overlay(images, torch.rand(2, 4, 2))


@pytest.mark.parametrize("call, says", [
    (lambda n, x: activation_map(n, x, "layer9"), "no layer 'layer9'.*layer4"),
    (lambda n, x: activation_map(n, x, "conv1"), "several layers end in 'conv1'"),
    (lambda n, x: activation_map(n, x, "pool"), "no map"),
    (lambda n, x: activation_map(n, x, "layer4.0.relu"), "ran 2 times"),
    (lambda n, x: activation_map(n, x, power=3), "power must be 1"),
    (lambda n, x: activation_map(n, x * 255), "divide by 255"),
    (lambda n, x: activation_map(lambda y: y, x), "needs? a torch module"),
    (lambda n, x: grad_cam(n, x), "give labels"),
    (lambda n, x: grad_cam(n, x, labels=0, reference=x[0]), "not both"),
    (lambda n, x: grad_cam(n, x, labels=[0, 1]), "one for each picture"),
    (lambda n, x: grad_cam(n, x, labels=-1), "class number"),
    (lambda n, x: mean_map(n, pd.DataFrame({"path": []})), "empty"),
])
def test_bad_input(net, images, call, says):
    with pytest.raises(ValueError, match=says):
        call(net, images)


def test_layer_by_its_end_or_its_name(net):
    assert find_layer(net, "layer4") is find_layer(net, "backbone.stages.layer4") is find_layer(net.embed, "stages.layer4") is net.backbone.stages["layer4"]


def test_a_likeness_to_itself_has_no_slope(net, images):
    assert not grad_cam(net, images, reference=images).any()
    assert grad_cam(net, images, reference=images.flip(0))[[0, -1]].amax((1, 2)).gt(0).any()
