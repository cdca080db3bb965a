"The pyramid's rows, the penalty against finite differences, training with it, bad input."
import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reidbench.methods import msfl
from reidbench.methods.msfl import MSFLSettings, PyramidNet, gradient_penalty
from reidbench.methods.msfl.regulariser import gated_penalty, tapped, worst_direction
from reidbench.methods.msfl.training import MSFLTrainer
from reidbench.nets.backbones import Backbone, frozen
from reidbench.nets.weights import save_model
from reidbench.studies.tables import FIELDS
from reidbench.train.checkpoints import load_checkpoint

QUICK = dict(epochs=1, p=4, k=2, size=(64, 32), precision="no", device="cpu", width=32, middle=8, embedding=32)


class Small(nn.Module):
    "Two convolutions with batch norm, smooth all the way, so that finite differences mean something."

    def __init__(self):
        super().__init__()
        self.front = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Tanh())
        self.back = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 12, 3))

    def forward(self, x, change=0):
        self.middle = self.front(x) + change
        return self.back(self.middle)


def problem(training, seed=0):
    torch.manual_seed(seed)
    net = Small().double().train(training)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 0.0  # running statistics stay: only what the loss sees counts
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    return net, torch.randn(3, 1, 4, 3, dtype=torch.float64), torch.tensor([0, 1, 2])


def penalty(net, x, y, q, squared):
    return gradient_penalty(F.cross_entropy(net(x), y), net.middle, q, squared)


@pytest.mark.parametrize("training", [True, False], ids=["batch statistics", "running statistics"])
@pytest.mark.parametrize("q", [1, 2, math.inf])
@pytest.mark.parametrize("squared", [False, True])
def test_the_value_equals_finite_differences(training, q, squared):
    "The summed loss's gradient, number by number."
    net, x, y = problem(training)
    found, h = penalty(net, x, y, q, squared), 1e-6
    with torch.no_grad():
        net(x)
        slopes = torch.zeros_like(net.middle)
        for k in range(slopes.numel()):
            change = torch.zeros_like(slopes).flatten()
            change[k] = h
            up, down = (F.cross_entropy(net(x, s * change.view_as(slopes)), y, reduction="sum") for s in (1, -1))
            slopes.view(-1)[k] = (up - down) / (2 * h)
    norms = torch.linalg.vector_norm(slopes.flatten(1), q, dim=1)
    assert torch.allclose(found, (norms**2 if squared else norms).mean(), rtol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["batch statistics", "running statistics"])
@pytest.mark.parametrize("q", [1, 2, math.inf])
@pytest.mark.parametrize("squared", [False, True])
def test_its_parameter_gradient_equals_finite_differences(training, q, squared):
    net, x, y = problem(training)
    parameters = list(net.parameters())
    found = torch.autograd.grad(penalty(net, x, y, q, squared), parameters, allow_unused=True)
    dice, h = torch.Generator().manual_seed(1), 1e-6
    for p, g in zip(parameters, found):
        for k in torch.randperm(p.numel(), generator=dice)[:4].tolist():
            flat = p.data.view(-1)
            old = flat[k].item()
            flat[k] = old + h
            up = penalty(net, x, y, q, squared).item()
            flat[k] = old - h
            down = penalty(net, x, y, q, squared).item()
            flat[k] = old
            assert (0.0 if g is None else g.reshape(-1)[k].item()) == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-6)


def test_batches_of_any_size_weigh_the_same():
    "With running statistics samples do not see each other: twice the same batch has the same penalty."
    net, x, y = problem(False)
    assert torch.allclose(penalty(net, x, y, 2, False), penalty(net, x.repeat(2, 1, 1, 1), y.repeat(2), 2, False))


def test_a_loss_scale_is_divided_out():
    net, x, y = problem(False)
    assert torch.allclose(penalty(net, x, y, 2, False), gradient_penalty(F.cross_entropy(net(x), y), net.middle, scale=1024.0))


def test_several_features_are_summed():
    net, x, y = problem(False)
    x.requires_grad_()
    loss = F.cross_entropy(net(x), y)
    assert torch.allclose(gradient_penalty(loss, [x, net.middle]), gradient_penalty(loss, x) + gradient_penalty(loss, net.middle))


def test_a_vanishing_gradient_is_no_trouble():
    x = torch.randn(2, 3, requires_grad=True)
    found = gradient_penalty((x * 0).sum(), x)
    assert found == 0


@pytest.mark.parametrize("call,says", [
    (lambda loss, f: gradient_penalty(loss, f, q=3), "1, 2 or inf"), (lambda loss, f: gradient_penalty(loss, [f, torch.rand(2, 2)]),
                                                                      "features 1 of 2 are not part"),
    (lambda loss, f: gradient_penalty(loss, torch.rand(2, 2, requires_grad=True)), "not part of the loss's graph"),
                                       (lambda loss, f: gradient_penalty(f, f), "scalar loss"),
    (lambda loss, f: gradient_penalty(loss, []), "at least one"), (lambda loss, f: gradient_penalty(loss * math.inf, f), "not finite")])
def test_bad_penalties_are_named(call, says):
    f = torch.rand(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match=says):
        call((f**2).mean(), f)


@pytest.mark.parametrize("wrong,says", [(dict(penalty=-1.0), "lambda"), (dict(penalty=math.nan), "lambda"), (dict(q=3), "1, 2 or inf"),
                                        (dict(mode="fast"), "mode one of"), (dict(mode="gated", squared=True), "not its square")])
def test_bad_settings_are_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        MSFLSettings(**wrong)


def test_the_worst_direction_has_length_one_and_reaches_the_dual_norm():
    g = torch.randn(4, 3, 5, dtype=torch.float64)
    for q, p in ((1, math.inf), (2, 2), (math.inf, 1)):
        r = worst_direction(g, q).flatten(1)
        assert torch.allclose(torch.linalg.vector_norm(r, p, dim=1), torch.ones(4, dtype=torch.float64))
        assert torch.allclose((r * g.flatten(1)).sum(1), torch.linalg.vector_norm(g.flatten(1), q, dim=1))
    assert not worst_direction(torch.zeros(2, 3)).any()


# -- the network -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("row", list(FIELDS["msfl"]["pyramid"]))
@pytest.mark.parametrize("last_stride", [1, 2])
def test_every_row_of_tables_1_and_2_is_a_network(row, last_stride, tmp_path):
    torch.manual_seed(0)
    choice = FIELDS["msfl"]["pyramid"][row]
    net = PyramidNet("resnet18", 5, **choice, width=32, middle=8, embedding=16, last_stride=last_stride).eval()
    x = torch.rand(2, 3, 128, 64)
    assert net.embed(x).shape == (2, 16) and net.logits(x).shape == (2, 5) and net.train()(x).logits.shape == (2, 5)
    net.eval()
    save_model(tmp_path / "net.safetensors", net)
    again = msfl.load(tmp_path / "net.safetensors")
    assert torch.equal(again(x), net(x))
    assert (frozen(net)(x) - net(x)).abs().max() <= 1e-5 * net(x).abs().max()
    raw = not choice["lateral"] and not choice["top_down"]
    assert net.reduce[0].in_features == (sum(net.backbone.widths[s] for s in net.levels) if raw else 32 * len(net.levels))
    assert sum(len(b) for b in net.refine.values()) == (6 if choice["fusion"] else 0)


def test_the_plain_rows_do_not_look_at_shallow_stages():
    net = PyramidNet("resnet18", 5, levels=(4,), lateral=False, top_down=False, fusion=False, embedding=16).eval()
    assert len(net.lateral) == len(net.down) == 0
    x = torch.rand(1, 3, 128, 64)
    assert torch.allclose(net.embed(x), net.reduce(net.backbone(x).mean((2, 3))), atol=1e-6)


def test_without_lateral_the_shallow_maps_do_not_enter():
    net = PyramidNet("resnet18", 5, lateral=False, width=32, middle=8, embedding=16).eval()
    x = torch.rand(1, 3, 128, 64)
    seen = net.backbone.outputs(x, ("layer1", "layer4"))
    seen["layer1"].retain_grad()
    maps = net.pyramid(x)
    assert list(net.lateral) == ["layer4"] and maps["layer1"].shape[-2:] == seen["layer1"].shape[-2:]


@pytest.mark.parametrize("wrong,says", [(dict(levels=()), "levels"), (dict(levels=(3, 2)), "levels"), (dict(levels=(0, 1)), "levels"),
                                        (dict(blocks=(1, 2)), "blocks"), (dict(kernel=2), "kernel")])
def test_bad_pyramids_are_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        PyramidNet(**{"backbone": "resnet18", "num_classes": 3, **wrong})


def test_a_backbone_without_the_stages_is_named():
    with pytest.raises(ValueError, match="stages layer1, layer2, layer3, layer4; flat has front"):
        PyramidNet(Backbone("flat", {"front": nn.Conv2d(3, 8, 3)}, {"front": 8}), 3)


# -- training ----------------------------------------------------------------------------------------------------------

def settings(**changes):
    return msfl.small(MSFLSettings(), **{**QUICK, **changes})


@pytest.mark.parametrize("changes", [{}, dict(penalty=1e-2), dict(penalty=1e-2, stages=("input",), q=1), dict(penalty=1e-2, regulariser="adversarial"),
                                     dict(penalty=1e-2, mode="gated"), dict(penalty=1e-2, squared=True, precision="bf16")],
                         ids=["pyramid", "auto", "input l1", "adversarial", "gated", "squared under bf16"])
def test_every_way_of_training_runs_and_is_recorded(colours, changes):
    run = msfl.train(colours, settings(**changes), quiet=True)
    assert all(math.isfinite(v) for c in run.record.curves.values() for v in c)
    assert ("penalty" in run.record.curves) == bool(changes.get("penalty")) and run.record.metrics["mAP"] > 0


def test_the_loss_that_is_descended_is_equation_7(colours, monkeypatch):
    "Loss plus lambda times the penalty of the tapped stages."
    trainer, seen = MSFLTrainer(colours, settings(penalty=0.5), quiet=True), []
    step = MSFLTrainer.step

    def spy(self, loop, batch):
        update = loop.update
        loop.update = lambda name, loss: (seen.append(loss.item()), update(name, loss))
        shown = step(self, loop, batch)
        loop.update = update
        assert seen[-1] == pytest.approx((shown["loss"] + 0.5 * shown["penalty"]).item(), rel=1e-6)
        return shown

    monkeypatch.setattr(MSFLTrainer, "step", spy)
    trainer.fit()
    assert seen


def test_running_statistics_are_those_of_the_clean_pass(colours):
    "Adversarial training and the gated penalty pass twice, and count once."
    counts = {}
    for name, changes in {"exact": dict(mode="exact"), "gated": dict(mode="gated"), "adversarial": dict(regulariser="adversarial")}.items():
        model = msfl.train(colours, settings(penalty=1e-2, **changes), quiet=True).model
        counts[name] = {int(m.num_batches_tracked) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert counts["exact"] == counts["gated"] == counts["adversarial"] and len(counts["exact"]) == 1


def test_where_no_step_size_agrees_gated_stops_and_auto_goes_on_exactly(colours, monkeypatch):
    monkeypatch.setattr("reidbench.methods.msfl.training.agreement", lambda exact, other: 0.9)
    with pytest.raises(ValueError, match="use mode='auto' or 'exact'"):
        msfl.train(colours, settings(penalty=1e-2, mode="gated"), quiet=True)
    found = {mode: msfl.train(colours, settings(penalty=1e-2, mode=mode), quiet=True).record for mode in ("auto", "exact")}
    assert found["auto"].curves == found["exact"].curves


def test_the_step_size_is_looked_for_once_and_gone_on_with(colours, monkeypatch, tmp_path):
    looked, reach = [], MSFLTrainer._reach
    monkeypatch.setattr(MSFLTrainer, "_reach", lambda self, *args: looked.append(reach(self, *args)) or looked[-1])
    stop = MSFLTrainer(colours, settings(penalty=1e-2, mode="gated", epochs=2), tmp_path, quiet=True)
    step = stop.step

    def cut(loop, batch):
        if loop.epoch == 1:
            raise KeyboardInterrupt
        return step(loop, batch)

    stop.step = cut
    with pytest.raises(KeyboardInterrupt):
        stop.fit()
    nets, _, _ = load_checkpoint(tmp_path / "checkpoint")
    assert nets["reach"]["step"].item() == pytest.approx(looked[0])
    msfl.train(colours, settings(penalty=1e-2, mode="gated", epochs=2), tmp_path, quiet=True)
    assert len(looked) == 1


def test_a_stage_that_is_not_there_is_named(colours):
    with pytest.raises(ValueError, match="no stage 'layer9'"):
        msfl.train(colours, settings(penalty=1e-2, stages=("layer9",)), quiet=True)


def test_resumed_is_unbroken(colours, tmp_path):
    stepped = dict(penalty=1e-2, schedule="steps")
    whole = msfl.train(colours, settings(**stepped, epochs=2), quiet=True)
    msfl.train(colours, settings(**stepped, epochs=1), tmp_path, quiet=True)
    resumed = msfl.train(colours, settings(**stepped, epochs=2), tmp_path, quiet=True)
    assert whole.record.curves == resumed.record.curves


def test_defaults_are_the_papers():
    s = MSFLSettings()
    assert (s.p, s.k, s.size, s.resize_crop, s.lr, s.milestones, s.epochs, s.smoothing, s.last_stride, s.embedding, s.levels, s.blocks, s.stages,
            s.q) == (16, 4, (256, 128), 1.125, 3.5e-4, (40, 70), 120, 0.0, 2, 512, (1, 2, 3, 4), (3, 2, 1, 0), ("layer1", "layer2"), 2.0)
    assert {f.name for f in fields(s)} >= set(FIELDS["msfl"]) - {"pyramid"}


def test_the_frozen_pyramid_keeps_its_methods():
    from reidbench.nets.backbones import frozen

    for levels in ((4,), (1, 2, 3, 4)):
        net = PyramidNet("resnet10", 3, levels, width=16, middle=8, embedding=16).eval()
        images = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
        fast = frozen(net)
        with torch.no_grad():
            assert torch.allclose(fast.embed(images), net.embed(images), atol=1e-4) and torch.allclose(fast.logits(images), net.logits(images), atol=1e-4)
