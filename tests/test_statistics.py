"Batch norm over several processes: two of them compute what one computes on the whole batch, to the last digits, gradients of gradients included."
import pickle

import pytest
import torch
from torch import nn

from reidbench.train.statistics import SyncBatchNorm, moments, synchronised

LAYER = """
import sys
from pathlib import Path
import torch
from reidbench.train.statistics import SyncBatchNorm

folder, parts = Path(sys.argv[1]), [int(n) for n in sys.argv[2].split(",")]
if len(parts) > 1:
    torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank() if len(parts) > 1 else 0
torch.manual_seed(0)
x, mix = (torch.randn(8, 3, 4, 2, dtype=torch.float64) * torch.arange(1, 9).view(8, 1, 1, 1) for _ in range(2))  # no two shares are alike
layer = (torch.nn.BatchNorm2d if len(parts) == 1 else SyncBatchNorm)(3).double()
layer.weight.data.uniform_(0.5, 1.5)
layer.bias.data.uniform_(-0.5, 0.5)
mine = slice(sum(parts[:rank]), sum(parts[:rank + 1]))
for _ in range(2):
    x_mine = x[mine].clone().requires_grad_()
    out = layer(x_mine)
loss = (mix[mine] * out.tanh()).sum()
(g,) = torch.autograd.grad(loss, x_mine, create_graph=True)
penalty = g.flatten(1).norm(dim=1).sum()
first = torch.autograd.grad(loss, [x_mine, layer.weight, layer.bias], retain_graph=True)
second = torch.autograd.grad(penalty, [x_mine, layer.weight, layer.bias])
with torch.no_grad():
    after = layer.eval()(x[mine])
torch.save({"rows": [out.detach(), after, first[0], second[0], g.detach()], "sums": [*first[1:], *second[1:], loss.detach(), penalty.detach()], "state": list(layer.state_dict().values())}, folder / f"{len(parts)}-{rank}.pt")
if len(parts) > 1:
    torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("parts", ["4,4", "5,3"], ids=["halves", "uneven shares"])
def test_two_processes_are_one_layer(tmp_path, processes, parts):
    (tmp_path / "layer.py").write_text(LAYER)
    for world, shares in ((1, "8"), (2, parts)):
        processes(world, tmp_path / "layer.py", tmp_path, shares)
    one, a, b = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for whole, left, right in zip(one["rows"], a["rows"], b["rows"]):
        assert torch.allclose(torch.cat([left, right]), whole, rtol=1e-9, atol=1e-9)
    for whole, left, right in zip(one["sums"], a["sums"], b["sums"]):
        assert torch.allclose(left + right, whole, rtol=1e-9, atol=1e-9)
    for whole, left, right in zip(one["state"], a["state"], b["state"]):
        assert torch.equal(left, right) and torch.allclose(left.double(), whole.double(), rtol=1e-12, atol=1e-12)


STEP = """
import pickle, sys
from pathlib import Path
import torch
import torch.nn.functional as F
from reidbench.methods import msfl
from reidbench.methods.msfl.training import MSFLTrainer
from reidbench.train.loop import gathered

folder, world = Path(sys.argv[1]), int(sys.argv[2])
if world > 1:
    torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank() if world > 1 else 0

class Net(msfl.PyramidNet):
    def embed(self, images):  # without the rounding to float32
        return self.reduce(torch.cat([self.pool(m) for m in self.pyramid(images).values()], 1))

class Done(Exception):
    pass

class Spy(MSFLTrainer):
    def network(self):
        net = super().network().double()
        net.__class__ = Net
        torch.nn.init.normal_(net.classifier.weight)  # gradients that can be seen
        return net

    def losses(self, loop, batch):  # in double precision: on this share, and over the gathered batch as the triplet loss is
        logits, features = loop.nets["model"](batch.images)
        everyone, labels = gathered(features), gathered(batch.labels)
        same, apart = labels[:, None] == labels, (everyone[:, None] - everyone).square().sum(-1)
        return {"identity": F.cross_entropy(logits, batch.labels), "triplet": F.softplus(apart[same].mean() - apart[~same].mean())}

    def step(self, loop, batch):
        shown = super().step(loop, batch)
        net = loop.plain["model"]
        told = dict(zip(shown, loop.agreed([float(v) for v in shown.values()])))
        kept = {"shown": told, "gradients": {k: p.grad for k, p in net.named_parameters() if p.grad is not None}, "buffers": dict(net.named_buffers()), "reach": getattr(self, "reach", None)}
        torch.save(kept, folder / f"{self.called}-{world}-{rank}.pt")
        raise Done

ways = {"plain": {}, "exact": dict(penalty=0.3, mode="exact"), "squared": dict(penalty=0.3, squared=True, q=1, stages=("layer2", "layer3")), "adversarial": dict(penalty=0.3, regulariser="adversarial"), "gated": dict(penalty=0.3, mode="gated")}
for name, changes in ways.items():
    settings = msfl.small(msfl.MSFLSettings(), epochs=1, p=4, k=2, size=(64, 32), precision="no", device="cpu", width=16, middle=4, embedding=16, last_stride=1, processes=world, **changes)
    trainer = Spy(pickle.loads((folder / "handed.pickle").read_bytes()), settings, quiet=True)
    trainer.called = name
    try:
        trainer.fit()
    except Done:
        pass
"""


@pytest.fixture(scope="module")
def steps(colours, processes, tmp_path_factory):
    "The first step of each way of training, by one process and by two: name -> (one, first of two, second of two)."
    folder = tmp_path_factory.mktemp("steps")
    (folder / "handed.pickle").write_bytes(pickle.dumps(colours))
    (folder / "step.py").write_text(STEP)
    for world in (1, 2):
        processes(world, folder / "step.py", folder, world)
    return lambda name: [torch.load(folder / f"{name}-{n}.pt") for n in ("1-0", "2-0", "2-1")]


@pytest.mark.parametrize("name", ["plain", "exact", "squared", "adversarial"])
def test_two_processes_step_as_one(steps, name):
    "A loss on each share, one over the gathered batch, the penalty of Eq. 7: losses, running statistics and every parameter's gradient."
    one, a, b = steps(name)
    for key, value in one["shown"].items():
        assert a["shown"][key] == pytest.approx(value, rel=1e-9), key
    for key, value in one["buffers"].items():
        assert torch.allclose(a["buffers"][key].double(), value.double(), rtol=1e-9, atol=1e-12), key
    largest = max(float(g.abs().max()) for g in one["gradients"].values())
    assert one["gradients"].keys() == a["gradients"].keys() and largest > 1e-3
    for key, value in one["gradients"].items():
        assert torch.equal(a["gradients"][key], b["gradients"][key]) and (a["gradients"][key] - value).abs().max() < 1e-9 * largest, key


def test_the_cheap_penalty_in_two_processes(steps):
    "They agree on the step of the finite difference, and are as near to the exact gradient as the step was chosen to be."
    (one, a, b), exact = steps("gated"), steps("exact")[0]
    flat = lambda kept: torch.cat([kept["gradients"][k].flatten() for k in one["gradients"]])
    assert a["reach"] == b["reach"] == one["reach"] and torch.equal(flat(a), flat(b))
    assert min(torch.cosine_similarity(flat(one), flat(exact), dim=0), torch.cosine_similarity(flat(a), flat(exact), dim=0)) > 0.99


# -- alone -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [{}, dict(momentum=None), dict(affine=False), dict(track_running_stats=False), dict(eps=0.1, momentum=0.5)])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (2, 4, 3, 2), (2, 4, 2, 2, 2)])
def test_alone_it_is_batch_norm(options, shape):
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    plain, ours, dice = kind(4, **options).double(), SyncBatchNorm(4, **options).double(), torch.Generator().manual_seed(0)
    for training in (True, True, False):
        x = torch.randn(*shape, generator=dice, dtype=torch.float64) * 3 + 5
        a, b = (x.clone().requires_grad_() for _ in range(2))
        one, two = plain.train(training)(a), ours.train(training)(b)
        one.pow(3).sum().backward()
        two.pow(3).sum().backward()
        assert torch.allclose(one, two, atol=1e-10) and torch.allclose(a.grad, b.grad, atol=1e-8)
    assert plain.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.allclose(v.double(), w.double()) for v, w in zip(plain.state_dict().values(), ours.state_dict().values()))


def test_half_precision_is_computed_in_full():
    x, layer = torch.randn(64, 3, 8, 8) * 0.01 + 10, SyncBatchNorm(3)
    out = layer(x.bfloat16())
    assert out.dtype == torch.bfloat16 and torch.allclose(out.float(), nn.BatchNorm2d(3)(x.bfloat16().float()), rtol=0.01, atol=0.01)


def test_large_means_lose_nothing():
    "Variance from the differences, not from large squares."
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0)) + 1e4
    assert torch.allclose(moments(x)[1], x.double().var(0, unbiased=False).float(), rtol=1e-3)


@pytest.mark.parametrize("x,says", [(torch.rand(3), "takes"), (torch.rand(1, 3), "more than one")])
def test_bad_input_is_named(x, says):
    with pytest.raises(ValueError, match=says):
        SyncBatchNorm(3)(x)


def test_the_network_keeps_what_it_was():
    "Parameters, statistics, mode, and batch norms at any depth, the root included."
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ModuleDict({"a": nn.BatchNorm2d(4).eval(), "b": nn.ModuleList([nn.BatchNorm2d(4)])}))
    net[1]["a"].weight.requires_grad_(False)
    known = dict(net.named_parameters())
    made = synchronised(net)
    assert isinstance(made[1]["a"], SyncBatchNorm) and isinstance(made[1]["b"][0], SyncBatchNorm) and not made[1]["a"].training and made[1]["b"][0].training
    assert all(known[k] is p for k, p in made.named_parameters()) and not made[1]["a"].weight.requires_grad
    root = nn.BatchNorm1d(3)
    assert isinstance(synchronised(root), SyncBatchNorm) and synchronised(root).weight is root.weight
    again = synchronised(made)
    assert again[1]["a"] is made[1]["a"]
