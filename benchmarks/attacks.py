"""Attacks beside torchattacks: fifteen steps on a batch of 32 pictures, interleaved pairs, medians of ratios.

    python benchmarks/attacks.py [--pairs 3] [--only fp32,bf16] [--quick]
    python benchmarks/attacks.py --drop outputs/run/model.safetensors --data data [--set street]

A ResNet-50 at 256 x 128 with a neck of batch norm. torchattacks' PGD gets the same aim as two logits, (distance to the guide, 0) with label 1, on the model as it
is; ours runs on the frozen form, batch norm folded. --drop compares what float32 and bfloat16 leave of a trained model's search. torchattacks comes from the package
registry into outputs/peers.
"""
import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
import torch
from timing import line, pairs, peer
from torch import nn

from reidbench.attacks.base import attacked
from reidbench.attacks.feature import IFGSM, SMA
from reidbench.data import benchmarks
from reidbench.nets.external import load
from reidbench.nets.identity import IdentityNet

STEPS = dict(eps=5 / 255, step=1 / 255, iterations=15)


class TwoLogits(nn.Module):
    "(squared distance of unit embeddings to the guides, 0)."

    def __init__(self, net, guides):
        super().__init__()
        self.net = net
        with torch.no_grad():
            self.aim = nn.functional.normalize(net(guides))

    def forward(self, images):
        d = (nn.functional.normalize(self.net(images)) - self.aim).square().sum(1)
        return torch.stack([d, torch.zeros_like(d)], 1)


def settled(name):
    "A network whose batch norms have the statistics of one batch: drawn weights alone would let numbers grow from layer to layer."
    torch.manual_seed(0)
    net = IdentityNet(name, 751, last_stride=2)
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.momentum = None
    with torch.no_grad():
        net.train()(torch.rand(8, 3, 128, 64))
    return net.eval()


def side_by_side(args):
    name, size, batch = ("resnet18", (128, 64), 4) if args.quick else ("resnet50", (256, 128), 32)
    net, dice = settled(name), torch.Generator().manual_seed(1)
    images, guides = (torch.rand(batch, 3, *size, generator=dice) for _ in range(2))
    torchattacks = peer("torchattacks", "3.5.1")
    if torchattacks is None:
        return
    theirs = torchattacks.PGD(TwoLogits(net, guides).eval(), eps=STEPS["eps"], alpha=STEPS["step"], steps=STEPS["iterations"], random_start=False)
    label = torch.ones(batch, dtype=torch.long)
    print(f"{name}, {size[0]} x {size[1]}, {batch} pictures, {STEPS['iterations']} steps, {torch.get_num_threads()} threads, {args.pairs} interleaved pairs: ours, theirs, median ratio")
    for precision, wanted in (("fp32", "at least 2x"), ("bf16", "at least 3.8x")):
        if precision in args.only.split(","):
            ours = IFGSM(**STEPS, batch=batch, precision=precision)
            a, b = ours(net, images, guides=guides), theirs(images, label)
            line(f"torchattacks' loop, ours in {precision}", *pairs(lambda: ours(net, images, guides=guides), lambda: theirs(images, label), args.pairs),
                 "" if args.quick else wanted)
            print(f"  pixels changed alike: {float(((a - images).sign() == (b - images).sign()).float().mean()):.1%}", flush=True)


def drop(args):
    net = load(args.drop)
    found = {p: attacked(benchmarks.load(args.set, args.data), net, SMA(**STEPS, precision=p), size=net.size) for p in ("fp32", "bf16")}
    clean = found["fp32"].before.scores()["Rank-1"]
    lost = {p: clean - f.after.scores()["Rank-1"] for p, f in found.items()}
    print(f"Rank-1 {clean:.1%}; SMA takes {lost['fp32']:.1%} in float32, {lost['bf16']:.1%} in bfloat16: {lost['bf16'] / lost['fp32']:.1%} of it   at least 98 %")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", default="fp32,bf16")
    parser.add_argument("--quick", action="store_true", help="a small network, to see that it runs")
    parser.add_argument("--drop", help="a trained model")
    parser.add_argument("--data", default="data")
    parser.add_argument("--set", default="street")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    drop(args) if args.drop else side_by_side(args)


if __name__ == "__main__":
    main()
