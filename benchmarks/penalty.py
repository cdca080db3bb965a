"""What MSFL's gradient penalty costs: one training step plain, with the exact penalty, with the gated one; interleaved pairs, medians of ratios.

    python benchmarks/penalty.py [--pairs 5] [--only resnet18,resnet50] [--people 8] [--quick]

A pyramid at 256 x 128 in float32, cross-entropy and triplet loss on people x 2 pictures (a colour each, and noise), the penalty at stages 1 and 2, Adam. All weights are drawn: speed does not
depend on them. The size of the gated penalty's step is looked for once at a training's start; the time for that stands in a line of its own.
"""
import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
import pandas as pd
import torch
from timing import line, pairs, seconds

from reidbench.data.batches import Batch
from reidbench.data.people import Benchmark
from reidbench.methods.msfl import MSFLSettings
from reidbench.methods.msfl.regulariser import agreement, gradient_penalty, tapped
from reidbench.methods.msfl.training import MSFLTrainer
from reidbench.train.loop import Loop

WAYS = {"plain": {}, "exact": dict(penalty=1e-2), "gated": dict(penalty=1e-2, mode="gated")}


def drawn(args):
    "A batch of drawn pictures, and a set of as many people without files."
    labels = torch.arange(args.people).repeat_interleave(2)
    dice = torch.Generator().manual_seed(0)
    colours = torch.rand(args.people, 3, 1, 1, generator=dice)[labels]
    images = 0.7 * colours + 0.3 * torch.rand(len(labels), 3, *args.size, generator=dice)
    people = pd.DataFrame({"path": [f"{k}.png" for k in range(len(labels))], "pid": labels.numpy(), "camid": 0})
    return Batch(images, labels, range(len(labels)), [], 0, 0), Benchmark("noise", people, people[:0], people[:0])


def steps(name, args):
    "A step of each way, and its trainer and loop; all begin with the same weights."
    batch, noise = drawn(args)
    made = {}
    for way, changes in WAYS.items():
        settings = MSFLSettings(backbone=name, weights=None, size=args.size, lr=1e-9, device="cpu", **args.small, **changes)  # lr: the weights shall not move
        trainer = MSFLTrainer(noise, settings, quiet=True)
        torch.manual_seed(0)
        net = trainer.network().train()
        loop = Loop({"model": net, **trainer.companions(net)}, {"model": trainer.optimizer(net)}, trainer.step, settings, quiet=True)
        if way == "gated":
            loop.plain["reach"].step.fill_(1e-3)  # as if it had been looked for
        made[way] = trainer, loop, lambda trainer=trainer, loop=loop: trainer.step(loop, batch)
    return made, batch


def gradient(trainer, loop, batch, way):
    "The penalty's gradient with respect to the parameters."
    parameters = [p for p in loop.plain["model"].parameters() if p.requires_grad]
    if way == "exact":
        with tapped(loop.plain["model"], batch.images, trainer.settings.stages) as (_, seen):
            penalty = gradient_penalty(sum(trainer.losses(loop, batch).values()), seen)
    else:
        penalty = trainer.gated(loop, batch)[1]
    found = torch.autograd.grad(penalty, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters)]


def side_by_side(name, args):
    made, batch = steps(name, args)
    plain, exact, gated = (made[way][2] for way in WAYS)
    print(f"{name}, {args.size[0]} x {args.size[1]}, {len(batch)} pictures, {torch.get_num_threads()} threads, {args.pairs} interleaved pairs: first, second, median ratio of the second to the first")
    line("plain step, step with the exact penalty", *pairs(plain, exact, args.pairs, warm=True))
    line("plain step, step with the gated penalty", *pairs(plain, gated, args.pairs, warm=True), "" if args.quick else "about 2x")
    line("step with the gated penalty, step with the exact one", *pairs(gated, exact, args.pairs))
    cosine = agreement(*(gradient(*made[way][:2], batch, way) for way in ("exact", "gated")))
    print(f"cosine of the gated penalty's gradient to the exact one's, step 1e-3, weights drawn: {cosine:.4f} (a training takes a step size with more than 0.99, or refuses)")
    reach = made["gated"][1].plain["reach"].step.fill_(float("nan"))
    try:
        took = seconds(gated)
        print(f"first step of a training with the gated penalty, the step size looked for: {took:.3f} s (found: {float(reach):g})")
    except ValueError as refused:
        print(f"looking for the step size: {refused}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="resnet18,resnet50")
    parser.add_argument("--people", type=int, default=8, help="two pictures each")
    parser.add_argument("--quick", action="store_true", help="small pictures and a narrow pyramid, to see that it runs")
    args = parser.parse_args()
    args.size, args.small = ((64, 32), dict(width=32, middle=8, embedding=32, last_stride=1)) if args.quick else ((256, 128), {})
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for name in args.only.split(","):
        side_by_side(name, args)


if __name__ == "__main__":
    main()
