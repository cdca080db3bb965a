"""Occlusion maps beside captum and plain loops: interleaved pairs, medians of ratios, peak memory.

    python benchmarks/occlusion.py [--pairs 5] [--only captum,plain,folded,compiled,bf16,memory] [--last-stride 1] [--quick]

One map of a ResNet-50 at 256 x 128: 160 positions of a 57 x 57 mask, stride 10, float32 on both sides unless it says bf16. captum comes from the package
registry into outputs/peers. It also visits a 21st row and a 9th column that hang over the border (189 positions), so its time is given for 160; the first line says what its whole
call takes. All weights are drawn: speed does not depend on them.
"""
import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TORCHINDUCTOR_FREEZING", "1")  # the compiler's best for inference: weights laid out once
import torch
import torchvision
from timing import alone, line, pairs, peak_memory, peer, seconds
from torch import nn

from reidbench.explain.occlusion import mask_corners, mask_side, occlude, sensitivity
from reidbench.nets.backbones import frozen
from reidbench.nets.blocks import IMAGENET_MEAN, Normalize

SIZE, STRIDE, BATCH = (256, 128), 10, 16


def network(name="resnet50", last_stride=2, settled=True):
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, num_classes=751)
    if last_stride == 1:
        first = net.layer4[0]
        (first.conv2 if hasattr(first, "conv3") else first.conv1).stride = first.downsample[0].stride = (1, 1)
    net = nn.Sequential(Normalize(), net).eval()
    if not settled:
        return net
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = None  # the statistics of the one batch below: without any the numbers would grow from layer to layer
    with torch.no_grad():
        net.train()(torch.rand(8, 3, 128, 64, generator=torch.Generator().manual_seed(1)))
    return net.eval()


def picture(size=SIZE):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))


# -- the peers ------------------------------------------------------------------------------------------------------
def by_captum(occlusion, net, image, per_eval):
    "A call of captum, and the list in which it notes the pictures of each batch."
    side, seen = mask_side(*image.shape[2:]), []

    def forward(images):
        seen.append(len(images))
        return net(images).softmax(1)
    run, baseline = occlusion(forward), torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1).expand_as(image)

    def call():
        with torch.no_grad():
            run.attribute(image, (3, side, side), strides=(3, STRIDE, STRIDE), baselines=baseline, target=3, perturbations_per_eval=per_eval)
    return call, seen


def plain_loop(net, image, batch=BATCH, channels_last=False):
    "Cover, stack, ask: probabilities of class 3 at all positions."
    side = mask_side(*image.shape[2:])
    corners = mask_corners(*image.shape[2:], side, STRIDE).flatten(0, 1)

    def call():
        out = []
        with torch.inference_mode():
            for at in corners.split(batch):
                images = occlude(image, at, side, IMAGENET_MEAN)
                out.append(net(images.contiguous(memory_format=torch.channels_last) if channels_last else images).softmax(1)[:, 3])
        return torch.cat(out)
    return call


# -- side by side ---------------------------------------------------------------------------------------------------
def side_by_side(args, parts):
    net, image = network(args.net, args.last_stride), picture(args.size)
    ours, half = (lambda p=p: sensitivity(net, image, [3], stride=STRIDE, precision=p) for p in ("fp32", "bf16"))
    found = ours()
    positions, goals = found.p_occluded.numel(), args.last_stride == 2 and not args.quick
    print(f"{args.net}, last stride {args.last_stride}, {args.size[0]} x {args.size[1]}: {positions} positions of a {found.side} x {found.side} mask, {torch.get_num_threads()} threads, "
          f"{args.pairs} interleaved pairs: ours, theirs, median ratio")
    loops = {"plain": lambda: plain_loop(net, image), "folded": lambda: plain_loop(frozen(net), image, channels_last=True),
             "compiled": lambda: plain_loop(torch.compile(frozen(net)), image, channels_last=True)}
    names = {"plain": "plain loop, batches of 16", "folded": "plain loop on the folded net (channels last)", "compiled": "the same, compiled"}
    wanted = {"folded": "at least 1.5x", "compiled": "at least 1.25x"}
    for part in ("plain", "folded", "compiled"):
        if part in parts:
            theirs = loops[part]()
            difference = (theirs() - found.p_occluded.flatten()).abs().max() / found.p_occluded.max()
            assert difference < 1e-4, (part, float(difference))
            line(names[part], *pairs(ours, theirs, args.pairs, warm=True), wanted.get(part, "") if goals else "")
    if {"captum", "bf16"} & set(parts):
        with_captum(args, parts, net, image, ours, half, positions, goals)


def with_captum(args, parts, net, image, ours, half, positions, goals):
    captum = peer("captum", "0.9.0")
    if captum is None:
        return
    trials = {k: by_captum(captum.attr.Occlusion, net, image, k) for k in ((8, 16) if args.quick else (1, 4, 8, 16, 32, 64))}
    took = {k: seconds(call) for k, (call, _) in trials.items()}
    best = min(took, key=took.get)
    call, visited = trials[best][0], sum(trials[best][1]) - 1  # the first picture is the plain one
    share = positions / visited
    print("captum, seconds by perturbations_per_eval: " + ", ".join(f"{k}: {v:.2f}" for k, v in took.items()), flush=True)
    for part, mine, goal in (("captum", ours, "at least 2.6x"), ("bf16", half, "at least 5x")):
        if part in parts:
            a, b, ratio = pairs(mine, call, args.pairs, warm=True)
            line(f"captum, perturbations_per_eval {best}, its whole call of {visited} positions" + (", ours in bf16" if part == "bf16" else ""), a, b, ratio)
            line(f"captum, its time for {positions} positions" + (", ours in bf16" if part == "bf16" else ""), a, b * share, ratio * share,
                 goal if goals else "")
    if "bf16" in parts:
        full, rough = ours().p_occluded.flatten(), half().p_occluded.flatten()
        print(f"bf16 against float32, weights drawn: correlation of the maps {torch.corrcoef(torch.stack([full, rough]))[0, 1]:.4f} (of a trained net: nbs/explain/10_occlusion.ipynb)")


# -- memory: in a process of its own ----------------------------------------------------------------------------------
def job(args):
    "One map at stride 4, then the peak memory of the process."
    net, image = network(args.net, args.last_stride, settled=False), picture(args.size)  # settling takes memory of its own
    before = peak_memory()
    took = seconds(lambda: sensitivity(net, image, [3], stride=4))
    print(json.dumps({"seconds": took, "gigabytes": peak_memory(), "before": before}))


def memory(args):
    r, wrong = alone(__file__, "--job", "--last-stride", args.last_stride, *(["--quick"] if args.quick else []))
    if wrong:
        return print(f"memory: failed: {wrong}", flush=True)
    print(f"peak memory of the whole process, one map at stride 4: {r['gigabytes']:.2f} GB (library and network alone {r['before']:.2f} GB), {r['seconds']:.1f} s   at most 1.5 GB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="captum,plain,folded,compiled,bf16,memory")
    parser.add_argument("--last-stride", type=int, default=2, choices=(1, 2))
    parser.add_argument("--quick", action="store_true", help="a small network, to see that it runs")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.net, args.size = ("resnet18", (128, 64)) if args.quick else ("resnet50", SIZE)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if args.job:
        return job(args)
    side_by_side(args, args.only.split(","))
    if "memory" in args.only.split(","):
        memory(args)


if __name__ == "__main__":
    main()
