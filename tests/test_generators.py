"Generators, critics, adversarial losses: shapes, statistics by hand, gradients, bad input."
import math

import pytest
import torch
from torch import nn

from reidbench.losses.adversarial import FORMS, AdversarialLoss, slope_penalty
from reidbench.nets.critics import Critic
from reidbench.nets.generators import (ASPP, FULL, NARROW, AdaINGenerator, AdaINResBlock, ContentEncoder, ConvBlock, DegradationEncoder, GraphConv, NormLinear, ResBlock,
                                       StackedGCN, adain, begin, padded, renormalised, trio, widths)


def images(n=2, height=64, width=32, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("size", [(256, 128), (128, 64), (64, 32), (32, 16), (20, 44)])
@pytest.mark.parametrize("setting", ["narrow", {"dim": 24, "channels": 16, "hidden": 20, "encoder_width": 8, "content_width": 4, "blocks": 2}])
def test_shapes(size, setting):
    torch.manual_seed(0)
    content, cue, make = trio(setting)
    w = widths(setting)
    with torch.no_grad():
        c, d = content(images(2, *size)), cue(images(2, *size))
        out = make(c, d)
        kept = make.images(c, d)
    assert c.shape == (2, w["channels"], size[0] // 4, size[1] // 4) and d.shape == (2, w["dim"])
    assert out.shape == (2, 3, *size) and torch.isfinite(out).all()
    assert torch.equal(kept, out.clamp(0, 1))


def test_parameter_counts():
    "Layer by layer, from the papers' widths; the narrow trio fits the size that ships."
    conv = lambda a, b, k: a * b * k * k + b
    encoder = conv(3, 64, 3) + conv(64, 64, 3) + conv(64, 128, 3) + conv(128, 256, 3) + 2 * conv(256, 256, 3) + conv(256, 128, 1)
    assert count(DegradationEncoder()) == encoder
    aspp = conv(64, 32, 1) + 3 * (conv(64, 32, 1) + conv(32, 32, 3)) + conv(128, 128, 1)
    assert count(ContentEncoder()) == conv(3, 16, 3) + conv(16, 32, 3) + conv(32, 32, 3) + conv(32, 64, 3) + 8 * conv(64, 64, 3) + aspp
    mlps = 8 * (conv(128, 512, 1) + conv(512, 512, 1) + conv(512, 256, 1))
    up = conv(128, 64, 5) + 2 * 64 + conv(64, 32, 5) + 2 * 32
    assert count(AdaINGenerator()) == 8 * conv(128, 128, 3) + mlps + up + 2 * conv(32, 32, 3) + conv(32, 3, 1)
    one = conv(3, 32, 1) + 3 * conv(32, 32, 3) + conv(32, 64, 3) + 8 * conv(64, 64, 3) + conv(64, 1, 1)
    assert count(Critic()) == 3 * one and count(Critic(1)) == one
    assert 4 * sum(count(m) for m in trio("narrow")) < 6e6 < 4 * sum(count(m) for m in trio("full"))
    assert widths("full") == FULL and widths("narrow") == NARROW and widths({"dim": 5})["dim"] == 5


def test_adain_statistics():
    torch.manual_seed(0)
    x, scale, shift = torch.randn(3, 4, 9, 5, dtype=torch.float64) * 5 - 2, torch.rand(3, 4, dtype=torch.float64) + 0.1, torch.randn(3, 4, dtype=torch.float64)
    out = adain(x, scale, shift)
    for n in range(3):
        for c in range(4):
            values, before = out[n, c].flatten(), x[n, c].flatten()
            variance = ((before - before.mean()) ** 2).mean()
            assert abs(values.mean() - shift[n, c]) < 1e-12
            assert abs(((values - values.mean()) ** 2).mean().sqrt() - scale[n, c] * (variance / (variance + 1e-5)).sqrt()) < 1e-12
    assert torch.isfinite(adain(torch.ones(1, 2, 3, 3), torch.ones(1, 2), torch.zeros(1, 2))).all()  # a flat channel has no deviation


def test_gradients_of_the_parts_against_finite_differences():
    torch.manual_seed(0)
    x, scale, shift = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 2, 3, 4), (2, 2), (2, 2)))
    assert torch.autograd.gradcheck(adain, (x, scale, shift))
    adjacency = torch.rand(2, 3, 3, dtype=torch.float64)
    edges = renormalised((adjacency + adjacency.transpose(1, 2)) / 2)
    conv = GraphConv(4, 2, 2).double()
    assert torch.autograd.gradcheck(lambda v: conv(v, edges), (torch.randn(3, 4, dtype=torch.float64, requires_grad=True),))
    line = NormLinear(4, 2).double()
    assert torch.autograd.gradcheck(line, (torch.randn(3, 4, dtype=torch.float64, requires_grad=True),))


def test_gradients_reach_every_weight():
    torch.manual_seed(0)
    content, cue, make = trio("narrow")
    critic = Critic(2, width=8, blocks=1)
    AdversarialLoss().critic(critic(images()), critic(make(content(images()), cue(images(seed=1))))).backward()
    for net in (content, cue, make, critic):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        weights = [p for name, p in net.named_parameters() if name.endswith("weight")]
        assert all(p.grad.abs().sum() > 0 for p in weights)


def test_layer_norm_is_over_channels_and_space():
    torch.manual_seed(0)
    block = ConvBlock(3, 6, norm="layer", activation="none")
    out = block(torch.randn(4, 3, 5, 7))
    assert torch.allclose(out.flatten(1).mean(1), torch.zeros(4), atol=1e-6) and torch.allclose(out.flatten(1).std(1, correction=0), torch.ones(4), atol=1e-3)
    assert out.mean((2, 3)).abs().max() > 1e-3  # an instance norm would have made these zero


@pytest.mark.parametrize("norm", ["none", "instance", "batch", "layer"])
@pytest.mark.parametrize("pad", ["reflect", "zero", "replicate"])
def test_blocks_keep_the_shape(norm, pad):
    x = torch.randn(2, 4, 6, 5)
    assert ResBlock(4, norm, "relu", pad)(x).shape == x.shape and ASPP(4, 7, norm=norm, pad=pad)(x).shape == (2, 7, 6, 5)
    assert AdaINResBlock(4, pad=pad)(x, torch.ones(2, 8), torch.zeros(2, 8)).shape == x.shape


def test_a_border_by_hand():
    row = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3).expand(1, 1, 3, 3)
    assert padded(row, 2, "reflect")[0, 0, 2].tolist() == [3, 2, 1, 2, 3, 2, 1]
    assert padded(row, 1, "zero")[0, 0, 1].tolist() == [0, 1, 2, 3, 0] and padded(row, 0, "reflect") is row
    assert padded(row, 3, "reflect")[0, 0, 3].tolist() == [1, 1, 1, 1, 2, 3, 3, 3, 3]  # too small to be mirrored by three


def test_score_line():
    torch.manual_seed(0)
    line, f = NormLinear(16), torch.randn(5, 16)
    w = line.rows()[0]
    assert abs(w.norm() - 1) < 1e-6
    with torch.no_grad():
        line.weight.mul_(7.0)
    assert torch.allclose(line(f)[:, 0], f @ w, atol=1e-5)  # its length does not count


def test_graph_by_hand():
    adjacency = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert torch.allclose(renormalised(adjacency), torch.full((2, 2), 0.5))
    net, x = StackedGCN(5, 4, 2, blocks=2, kinds=1).eval(), torch.randn(4, 5)
    a = torch.rand(1, 4, 4)
    a = (a + a.transpose(1, 2)) / 2
    order = torch.tensor([3, 1, 0, 2])
    assert torch.allclose(net(x[order], a[:, order][:, :, order]), net(x, a)[order], atol=1e-5)
    assert not torch.allclose(net(x, a), net(x, a * 0), atol=1e-4)  # neighbours count


@pytest.mark.parametrize("form", FORMS)
def test_losses_by_hand(form):
    generator = torch.Generator().manual_seed(3)
    real, made = ([torch.randn(2, 1, *s, generator=generator) for s in ((4, 2), (2, 1))] for _ in range(2))
    D = lambda v: 1 / (1 + math.exp(-v))
    critic = {"least-squares": (lambda v: (v - 1) ** 2, lambda v: v**2)}.get(form, (lambda v: -math.log(D(v)), lambda v: -math.log(1 - D(v))))
    pull = {"log": lambda v: math.log(1 - D(v)), "non-saturating": lambda v: -math.log(D(v)), "least-squares": lambda v: (v - 1) ** 2}[form]
    mean = lambda maps, f: sum(sum(f(v) for v in m.flatten().tolist()) / m.numel() for m in maps) / len(maps)
    loss = AdversarialLoss(form)
    assert abs(loss.critic(real, made).item() - mean(real, critic[0]) - mean(made, critic[1])) < 1e-5
    assert abs(loss.generator(made).item() - mean(made, pull)) < 1e-5
    assert abs(loss.generator(made[0]).item() - mean(made[:1], pull)) < 1e-5  # one map, not in a list


@pytest.mark.parametrize("form", FORMS)
def test_a_made_picture_is_pulled_towards_real(form):
    verdict = torch.zeros(3, 1, 2, 2, requires_grad=True)
    AdversarialLoss(form).generator(verdict).backward()
    assert (verdict.grad < 0).all()


def test_slope_penalty_against_finite_differences():
    torch.manual_seed(0)
    critic, x, h = Critic(2, width=2, blocks=1).double(), images(2, 8, 8).double(), 1e-5
    for m in critic.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, std=0.3)
    penalty = lambda: slope_penalty(critic(real), real)
    real = x.clone().requires_grad_()
    slopes = torch.zeros(2, *x.shape, dtype=torch.float64)
    with torch.no_grad():
        for i in range(x.numel()):
            step = torch.zeros_like(x)
            step.view(-1)[i] = h
            for k, (up, down) in enumerate(zip(critic(x + step), critic(x - step))):
                slopes[k].view(-1)[i] = (up - down).sum() / (2 * h)
    assert abs(penalty() - slopes.square().sum((2, 3, 4)).mean()) < 1e-6 * penalty()
    weight = critic.critics[0].layers[1].conv.weight
    found = torch.autograd.grad(penalty(), weight)[0]
    for i in (0, 5, 17, 30):
        old, values = weight.data.view(-1)[i].item(), []
        for sign in (1, -1):
            weight.data.view(-1)[i] = old + sign * 1e-6
            values.append(penalty().item())
        weight.data.view(-1)[i] = old
        assert abs((values[0] - values[1]) / 2e-6 - found.reshape(-1)[i]) < 1e-4 * found.abs().max()


@pytest.mark.parametrize("wrong", [
    lambda: adain(torch.rand(2, 3, 4, 4), torch.rand(2, 4), torch.rand(2, 3)),
    lambda: ConvBlock(3, 3, norm="group"),
    lambda: ConvBlock(3, 3, activation="gelu"),
    lambda: ConvBlock(3, 3, pad="mirror"),
    lambda: begin(nn.Linear(2, 2), "xavier"),
    lambda: ContentEncoder()(images(1, 18, 32)),
    lambda: ContentEncoder()(images(1, 8, 8)),
    lambda: DegradationEncoder()(images(1, 64, 8)),
    lambda: DegradationEncoder()(torch.rand(3, 64, 32)),
    lambda: widths("wide"),
    lambda: widths({"depth": 3}),
    lambda: renormalised(torch.rand(2, 3)),
    lambda: renormalised(-torch.rand(3, 3)),
    lambda: renormalised(torch.full((3, 3), float("nan"))),
    lambda: GraphConv(3, 2, 2)(torch.rand(4, 3), torch.rand(1, 4, 4)),
    lambda: Critic(0),
    lambda: Critic(3)(images(1, 64, 8)),
    lambda: Critic()(torch.rand(2, 1, 64, 32)),
    lambda: AdversarialLoss("hinge"),
    lambda: AdversarialLoss().critic([torch.rand(1)], [torch.rand(1), torch.rand(1)]),
    lambda: AdversarialLoss().generator([]),
    lambda: AdversarialLoss().generator([torch.rand(0)]),
    lambda: slope_penalty(torch.rand(2, 1), images()),
])
def test_bad_input(wrong):
    with pytest.raises(ValueError, match="."):
        wrong()
