"Models from outside: each kind of source beside the torch network it was made of, and what is refused."
import subprocess
import sys
import warnings

import pytest
import torch
import torchvision
from torch import nn

from reidbench.nets.backbones import frozen
from reidbench.nets.blocks import IMAGENET_MEAN, IMAGENET_STD
from reidbench.nets.external import External, from_onnx, load
from reidbench.nets.identity import IdentityNet
from reidbench.nets.weights import save_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SIZE = (48, 24)
IMAGES = torch.rand(5, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def network(seed=0):
    "Convolution, batch norm that has seen something, ReLU, mean: 6 numbers."
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 6, 5, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        net.train()(torch.randn(8, 3, *SIZE))
        net[1].weight.uniform_(0.5, 1.5)
        net[1].bias.uniform_(-0.3, 0.3)
    return net.eval().requires_grad_(False)


NET = network()


def written(path, net=NET, batch="batch", opset=17, size=SIZE, last=False, kind=TensorProto.FLOAT, outputs=("features",), inputs=1, props=None, flat=True):
    "The network as an ONNX file."
    names = {"w": net[0].weight, "b": net[0].bias, "scale": net[1].weight, "shift": net[1].bias, "mean": net[1].running_mean, "var": net[1].running_var}
    begin = "turned" if last else "images"
    nodes = [helper.make_node("Transpose", ["images"], ["turned"], perm=[0, 3, 1, 2])] if last else []
    nodes += [helper.make_node("Conv", [begin, "w", "b"], ["c"], kernel_shape=[5, 5], strides=[2, 2]),
              helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], epsilon=net[1].eps),
              helper.make_node("Relu", ["n"], ["r"]), helper.make_node("GlobalAveragePool", ["r"], ["p"])]
    nodes += [helper.make_node("Flatten" if flat else "Identity", ["p"], [outputs[0]])]
    nodes += [helper.make_node("Neg", [outputs[0]], [o]) for o in outputs[1:]]
    shape = [batch, *size, 3] if last else [batch, 3, *size]
    more = [helper.make_tensor_value_info(f"more{k}", kind, shape) for k in range(inputs - 1)]
    out = ["batch", 6] if flat else ["batch", 6, 1, 1]
    graph = helper.make_graph(nodes, "small", [helper.make_tensor_value_info("images", kind, shape), *more],
                              [helper.make_tensor_value_info(o, kind, out) for o in outputs],
                              [numpy_helper.from_array(v.numpy(), k) for k, v in names.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, props or {})
    onnx.save(model, str(path))
    return path


def normal(images, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    mean, std = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (mean, std))
    return (images - mean) / std


def wanted(images=IMAGES, mean=IMAGENET_MEAN, std=IMAGENET_STD, net=NET):
    return net(normal(images, mean, std))


def close(a, b):
    return a.shape == b.shape and (a - b).abs().max() <= 1e-5 * b.abs().max()


# -- ONNX --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("changes", [{}, dict(opset=9), dict(opset=12), dict(opset=20), dict(batch=1), dict(batch=4), dict(batch=8), dict(flat=False),
                                     dict(size=("h", "w"))],
                         ids=["as usual", "old operators", "12", "newer operators", "one at a time", "four at a time", "eight at a time", "map of one pixel",
                              "any size"])
def test_an_onnx_file_is_the_network_it_was_made_of(tmp_path, changes):
    model = load(written(tmp_path / "net.onnx", **changes), **(dict(size=SIZE) if "size" in changes else {}))
    assert isinstance(model, nn.Module) and not model.training and model.size == SIZE and model.width == 6
    for n in (1, 3, 5):
        found = model(IMAGES[:n])
        assert found.dtype == torch.float32 and close(found, wanted(IMAGES[:n]))


def test_its_numbers_are_onnxruntimes(tmp_path):
    import onnxruntime

    path = written(tmp_path / "net.onnx")
    model = load(str(path))
    theirs = onnxruntime.InferenceSession(str(path)).run(None, {"images": model.prepare(IMAGES).numpy()})[0]
    assert close(model(IMAGES), torch.from_numpy(theirs))


def test_a_converter_that_errs_is_noticed(tmp_path, monkeypatch):
    from reidbench.nets import external

    right = external.from_onnx

    class Wrong(nn.Module):
        def __init__(self, path):
            super().__init__()
            self.net = right(path)

        def forward(self, x):
            return self.net(x) * (1 + 3e-5)

    monkeypatch.setattr(external, "from_onnx", Wrong)
    with pytest.raises(ValueError, match=r"net.onnx: .*'features' differs from onnxruntime's by 3.*e-05"):
        load(written(tmp_path / "net.onnx"))


def test_nothing_is_written_beside_the_file(tmp_path):
    before = written(tmp_path / "net.onnx").read_bytes()
    load(tmp_path / "net.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"] and (tmp_path / "net.onnx").read_bytes() == before


def test_gradients_reach_the_images_and_are_right(tmp_path):
    for model in (load(written(tmp_path / "net.onnx")), load(written(tmp_path / "one.onnx", batch=2))):
        ours, plain = (IMAGES.clone().requires_grad_() for _ in range(2))
        model(ours).square().sum().backward()
        wanted(plain).square().sum().backward()
        assert (ours.grad - plain.grad).abs().max() < 1e-4 * plain.grad.abs().max() and all(p.grad is None for p in model.parameters())


def test_gradients_pass_the_resizing(tmp_path):
    "A picture of another size, beside the slope along a direction."
    model, size = load(written(tmp_path / "net.onnx")), (70, 41)
    dice = torch.Generator().manual_seed(1)
    x, d = torch.rand(1, 3, *size, generator=dice, dtype=torch.float64) * 0.8 + 0.1, torch.randn(1, 3, *size, generator=dice, dtype=torch.float64)
    model.double()
    value = lambda x: (model(x.float()).double() * torch.arange(6)).sum()
    x.requires_grad_()
    (g,) = torch.autograd.grad(value(x), x)
    with torch.no_grad():
        assert (g * d).sum().item() == pytest.approx(((value(x + 3e-3 * d) - value(x - 3e-3 * d)) / 6e-3).item(), rel=0.05)
    assert close(load(NET, size=SIZE)(x.detach().float()), wanted(nn.functional.interpolate(x.detach().float(), SIZE, mode="bilinear", antialias=True)))


def test_the_frozen_form_is_the_same(tmp_path):
    model = load(written(tmp_path / "net.onnx"))
    assert (frozen(model)(IMAGES) - model(IMAGES)).abs().max() < 1e-5


@pytest.mark.parametrize("props,prepared", [
    ({"mean": "[0.5, 0.4, 0.3]", "std": "[0.2, 0.3, 0.4]"}, lambda x: wanted(x, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))),
    ({"Image.NominalPixelRange": "NominalRange_0_255"}, lambda x: NET(x * 255)),
    ({"Image.BitmapPixelFormat": "Bgr8"}, lambda x: NET(normal(x).flip(1))),
    ({"Image.BitmapPixelFormat": "Rgb8"}, wanted)], ids=["mean and std", "0 to 255", "blue first", "red first"])
def test_what_the_file_says_counts(tmp_path, props, prepared):
    model = load(written(tmp_path / "net.onnx", props=props))
    assert close(model(IMAGES), prepared(IMAGES))
    assert ("by the file" in model.said[1]) == ("mean" in props or "Image.NominalPixelRange" in props)


def test_what_is_given_counts_more(tmp_path):
    model = load(written(tmp_path / "net.onnx", props={"mean": "[0.5, 0.4, 0.3]", "Image.BitmapPixelFormat": "Bgr8"}), mean=(0, 0, 0), std=(1, 1, 1), bgr=False)
    assert close(model(IMAGES), NET(IMAGES)) and "as given" in repr(model)
    assert "ImageNet's, the file says nothing" in repr(load(written(tmp_path / "net.onnx")))


def test_channels_last(tmp_path):
    assert close(load(written(tmp_path / "net.onnx", last=True))(IMAGES), wanted())


def test_one_of_several_outputs(tmp_path):
    path = written(tmp_path / "net.onnx", outputs=("features", "logits"))
    assert close(load(path, output="features")(IMAGES), wanted()) and close(load(path, output="logits")(IMAGES), -wanted())
    one = written(tmp_path / "one.onnx", outputs=("features", "logits"), batch=2)
    assert close(load(one, output="logits")(IMAGES), -wanted())


@pytest.mark.parametrize("batch", ["batch", 2])
def test_outputs_beside_the_embeddings_do_not_matter(tmp_path, batch):
    "A label and a scalar."
    path = written(tmp_path / "net.onnx", batch=batch)
    model = onnx.load(str(path))
    model.graph.node.extend([helper.make_node("ArgMax", ["features"], ["label"], axis=1, keepdims=0),
                             helper.make_node("ReduceMean", ["features"], ["whole"], axes=[0, 1], keepdims=0)])
    model.graph.output.extend([helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
                               helper.make_tensor_value_info("whole", TensorProto.FLOAT, [])])
    onnx.save(model, str(path))
    for output in ("features", "0", 0):
        assert close(load(path, output=output)(IMAGES), wanted())
    for output, held in (("label", r"int64 \[2\]"), ("whole", r"float32 \[\]")):
        with pytest.raises(ValueError, match=f"its output '{output}' is {held}, and no embeddings"):
            load(path, output=output)


@pytest.mark.parametrize("changes,options,says", [
    ({}, dict(output="nope"), "has one output, and none is 'nope'; .*output= one of 'features'"),
    (dict(inputs=2), {}, r"has 2 inputs \(images, more0\)"), (dict(outputs=("features", "logits")), {}, "output= one of 'features', 'logits'"),
                                                  (dict(outputs=("features", "logits")), dict(output="x"), "output= one of"),
    ({}, dict(size=(64, 32)), "takes 48 x 24 pixels and no other"), ({}, dict(size=64), r"\(height, width\)"), ({}, dict(size=(0, 4)), r"\(height, width\)"),
                                                  ({}, dict(mean=(124, 117, 104)), "divide by 255"),
    ({}, dict(std=(0, 1, 1)), "above 0"), ({}, dict(weights="x.pth"), "has its weights in it"), ({}, dict(depth=3), "depth not known"),
                                                  (dict(props={"mean": "grey"}), {}, "no lists of numbers")])
def test_onnx_files_that_do_not_fit_are_named(tmp_path, changes, options, says):
    with pytest.raises(ValueError, match=says):
        load(written(tmp_path / "net.onnx", **changes), **options)


def test_odd_onnx_files_are_named(tmp_path):
    (tmp_path / "text.onnx").write_text("this is no model")
    with pytest.raises(ValueError, match="text.onnx: is no ONNX file"):
        load(tmp_path / "text.onnx")
    graph = helper.make_graph([helper.make_node("Flatten", ["images"], ["out"])], "g",
                              [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 3, 8, 8])],
                              [helper.make_tensor_value_info("out", TensorProto.UINT8, ["n", 192])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "bytes.onnx"))
    with pytest.raises(ValueError, match="bytes.onnx: takes .*export it so"):
        load(tmp_path / "bytes.onnx")
    graph = helper.make_graph([helper.make_node("Giraffe", ["images"], ["out"], domain="zoo")], "g",
                              [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8])],
                              [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 192])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("zoo", 1)], ir_version=8), str(tmp_path / "zoo.onnx"))
    with pytest.raises(ValueError, match="zoo.onnx: cannot be made a torch module.*Giraffe"):
        load(tmp_path / "zoo.onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnx2torch", "onnxruntime"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, missing):
    path = written(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"{missing} is missing.*pip install 'reidbench\[onnx\]'"):
        load(path)


# -- TorchScript, functions, pickles -----------------------------------------------------------------------------------

@pytest.fixture
def script(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(NET).save(str(tmp_path / "net.pt"))
    return tmp_path / "net.pt"


def test_torchscript_only_if_trusted(script):
    with pytest.raises(ValueError, match="net.pt: a TorchScript file runs code.*trust=True"):
        load(script)
    model = load(script, size=SIZE, trust=True)
    x = IMAGES.clone().requires_grad_()
    found = model(x)
    found.sum().backward()
    assert close(found.detach(), wanted()) and x.grad.abs().sum() > 0


class Bomb:
    "Unpickled, it leaves a file behind."

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("trust", [False, True])
def test_a_pickle_is_never_run(tmp_path, trust):
    "Whatever is trusted: weights are read as tensors alone."
    torch.save({"state_dict": Bomb(tmp_path / "went_off")}, tmp_path / "bomb.pth")
    calls = [lambda: load(tmp_path / "bomb.pth", trust=trust), lambda: load("resnet18", weights=tmp_path / "bomb.pth", trust=trust)]
    for call in calls + ([lambda: load(f"{__file__}:network", weights=tmp_path / "bomb.pth", trust=True)] if trust else []):
        with pytest.raises(ValueError, match="bomb.pth: cannot be read as weights alone"):
            call()
    assert not (tmp_path / "went_off").exists()


def test_tensors_without_a_network_say_how(tmp_path):
    torch.save(NET.state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"holds tensors, and not the network.*load\('resnet50', weights='net.pth'\)"):
        load(tmp_path / "net.pth")
    from safetensors.torch import save_file

    save_file(NET.state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"without a reidbench configuration.*load\('resnet50', weights='net.safetensors'\)"):
        load(tmp_path / "net.safetensors")


MINE = """
from pathlib import Path
import torch
from torch import nn
Path(__file__).with_name("was_run").touch()

def build(channels=6):
    return nn.Sequential(nn.Conv2d(3, channels, 5, stride=2), nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def colours():
    return lambda images: images.mean((2, 3))

def pair():
    class Pair(nn.Module):
        def forward(self, x):
            return {"logits": x.mean((2, 3)) * 0, "features": x.mean((2, 3))}
    return Pair()

def number():
    return 7

def cut():
    return lambda images: images.detach().mean((2, 3))

ready = build()
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine_for_a_test.py").write_text(MINE)
    torch.save({"state_dict": {f"module.{k}": v for k, v in NET.state_dict().items()}}, tmp_path / "net.pth")
    return tmp_path


def test_functions_only_if_trusted(mine):
    with pytest.raises(ValueError, match="runs code.*trust=True"):
        load(f"{mine}/mine_for_a_test.py:build")
    assert not (mine / "was_run").exists()
    model = load(f"{mine}/mine_for_a_test.py:build", weights=mine / "net.pth", size=SIZE, trust=True, channels=6)
    assert close(model(IMAGES), wanted())
    assert load(f"{mine}/mine_for_a_test.py:ready", size=SIZE, trust=True).width == 6


def test_functions_by_module_name_from_where_one_stands(mine, monkeypatch):
    monkeypatch.chdir(mine)
    path = list(sys.path)
    assert load("mine_for_a_test:colours", size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), trust=True)(IMAGES).equal(IMAGES.mean((2, 3)))
    assert sys.path == path
    sys.modules.pop("mine_for_a_test")
    assert load("torchvision.models:resnet18", size=(64, 32), trust=True, num_classes=5).width == 5


@pytest.mark.parametrize("name,options,says", [
    ("biuld", {}, "did you mean 'build'"), ("number", {}, "gives int"), ("pair", {}, "returns 2 things.*'logits', 'features'"),
                                               ("pair", dict(output="feature"), "no 'feature'"),
    ("build", dict(channels=4, weights="net.pth"), "another shape")])
def test_functions_that_do_not_fit_are_named(mine, name, options, says):
    options = {k: mine / v if k == "weights" else v for k, v in options.items()}
    with pytest.raises(ValueError, match=says):
        load(f"{mine}/mine_for_a_test.py:{name}", size=SIZE, trust=True, **options)


def test_one_of_several_things_returned(mine):
    model = load(f"{mine}/mine_for_a_test.py:pair", size=SIZE, output="features", mean=(0, 0, 0), std=(1, 1, 1), trust=True)
    assert model(IMAGES).equal(IMAGES.mean((2, 3)))


def test_outputs_without_a_name_by_their_number():
    both = lambda x: (x.mean((2, 3)), x.mean())
    for output in (0, "0"):  # a command line gives text
        assert load(both, size=SIZE, output=output, mean=(0, 0, 0), std=(1, 1, 1))(IMAGES).equal(IMAGES.mean((2, 3)))
    with pytest.raises(ValueError, match="returns no '2'; there are 0, 1"):
        load(both, size=SIZE, output="2")
    with pytest.raises(ValueError, match="leave out output='logits'"):
        load(lambda x: x.mean((2, 3)), size=SIZE, output="logits")


class Method(nn.Module):
    "A user's network, of which a method gives the embeddings; `forward` gives more."

    def __init__(self):
        super().__init__()
        self.net = network().requires_grad_()

    def forward(self, x):
        x = self.net(x) if x.sum() > -1e9 else x  # torch.fx cannot follow
        return x * 2, x

    def vectors(self, x):
        return self(x)[1]


class Embedding(Method):
    def embed(self, x):
        return self.vectors(x)

    def twice(self, x):
        return 2 * self.embed(x)


@pytest.mark.parametrize("kind,name,times", [(Method, "vectors", 1), (Embedding, "embed", 1), (Embedding, "twice", 2)])
def test_a_method_brings_its_module(kind, name, times):
    mine = kind().train()
    before = {k: v.clone() for k, v in mine.state_dict().items()}
    model = load(getattr(mine, name), size=SIZE)
    assert mine.training and all(v.equal(before[k]) for k, v in mine.state_dict().items()) and all(p.requires_grad for p in mine.parameters())
    assert not any(m.training for m in model.modules()) and sum(1 for _ in model.parameters()) == 4 and not any(p.requires_grad for p in model.parameters())
    for module in (model, frozen(model)):
        assert close(module(IMAGES), times * wanted()) and close(module(IMAGES[:1]), times * wanted(IMAGES[:1]))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen(model).modules())  # its parts are folded, it is not replaced


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_as_it_is():
    script = torch.jit.script(network().requires_grad_()).train()
    model = load(script, size=SIZE)
    assert close(model(IMAGES), wanted()) and close(frozen(model)(IMAGES), wanted()) and not any(p.requires_grad for p in model.parameters())
    assert script.training and all(p.requires_grad and p.is_leaf for p in script.parameters())


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_networks_in_another_precision(precision):
    model = load(network().to(precision), size=SIZE)
    found = model(IMAGES)
    assert found.dtype == torch.float32 and (found - wanted()).norm() < 0.02 * wanted().norm()


def test_missing_gradients_are_said(mine):
    assert "no gradient reaches the images" in repr(load(f"{mine}/mine_for_a_test.py:cut", size=SIZE, trust=True))
    assert "no gradient" not in repr(load(f"{mine}/mine_for_a_test.py:colours", size=SIZE, trust=True))


@pytest.mark.parametrize("source,error,says", [
    ("no/such.onnx", FileNotFoundError, "no model at"), ("no_such_module:build", ValueError, "no module 'no_such_module'"),
                                               ("no/such.py:build", FileNotFoundError, "no file at"), ("resnet5O", ValueError, "did you mean 'resnet50'"),
    (".", FileNotFoundError, "without model.safetensors")])
def test_sources_that_are_not_there_are_named(tmp_path, monkeypatch, source, error, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        load(source, trust=True)


# -- by name, ours, as they are ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name,width", [("resnet18", 512), ("densenet121", 1024), ("mobilenet_v3_small", 1024), ("squeezenet1_1", 512),
                                        ("shufflenet_v2_x0_5", 1024)])
def test_a_torchvision_network_gives_what_its_last_layer_would_see(tmp_path, name, width):
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None, num_classes=7).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    seen, layer = [], [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    layer.register_forward_hook(lambda m, i, o: seen.append(i[0]))
    model = load(name, size=(64, 64), weights=tmp_path / "net.pth")
    assert model.width == width
    if isinstance(layer, nn.Linear):
        images = torch.rand(2, 3, 64, 64)
        wanted(images, net=net)
        assert torch.allclose(model(images), seen[0], rtol=1e-4, atol=1e-5)
    assert "weights drawn at random" in repr(load(name, size=(64, 64))) and "net.pth" in repr(model)


def test_a_transformer_sees_its_own_size():
    model = load("vit_b_32")
    assert model.size == (224, 224) and model(torch.rand(1, 3, 64, 32)).shape == (1, 768)


class Turning(nn.Module):
    "As googlenet and inception_v3: turns its pixels itself where its weights are torchvision's."

    def __init__(self):
        super().__init__()
        self.transform_input, self.net, self.fc = False, network(), nn.Linear(6, 2)

    def forward(self, x):
        return self.fc(self.net(2 * x + 1 if self.transform_input else x))


@pytest.mark.parametrize("name,weights,mean,turned", [
    ("googlenet", "imagenet", IMAGENET_MEAN, True), ("inception_v3", "inception_v3_google-0cc3c7bd.pth", IMAGENET_MEAN, True),
    ("googlenet", "mine.pth", IMAGENET_MEAN, False), ("efficientnet_v2_l", "imagenet", (0.5, 0.5, 0.5), True)])
def test_pixels_for_published_weights_are_prepared_as_torchvision_does(tmp_path, monkeypatch, name, weights, mean, turned):
    from reidbench.nets import external

    monkeypatch.setattr(torchvision.models, "get_model", lambda *a, **k: Turning())
    monkeypatch.setattr(external, "imagenet_weights", lambda name: Turning().state_dict())
    if weights != "imagenet":
        torch.save(Turning().state_dict(), tmp_path / weights)
        weights = tmp_path / weights
    model, std = load(name, size=SIZE, weights=weights), IMAGENET_STD if mean == IMAGENET_MEAN else mean
    x = normal(IMAGES, mean, std)
    assert close(model(IMAGES), NET(2 * x + 1 if turned else x)) and ("by torchvision" in repr(model)) == turned


@pytest.mark.parametrize("name", ["vit_h_14", "regnet_y_128gf"])
def test_a_network_without_the_usual_weights_says_how(name):
    with pytest.raises(ValueError, match=f"no IMAGENET1K_V1 weights for {name}, only IMAGENET1K_SWAG.*https://.*pass weights="):
        load(name, weights="imagenet")


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match="net.pth: not the weights of this network.*unknown"):
        load("resnet18", weights=tmp_path / "net.pth")


def test_a_training_of_ours(tmp_path):
    torch.manual_seed(0)
    net = IdentityNet("resnet18", 3, neck="fc512").eval()
    save_model(tmp_path / "model.safetensors", net, size=[64, 32], data="somewhere", method="baseline")
    x = torch.rand(3, 3, 64, 32)
    for source in (tmp_path, str(tmp_path), tmp_path / "model.safetensors"):
        model = load(source)
        assert model.size == (64, 32) and torch.allclose(model(x), net.embed(x), atol=1e-6) and torch.allclose(model.embed(x), net.embed(x), atol=1e-6)
    assert load(tmp_path, size=(96, 48)).size == (96, 48)
    with pytest.raises(ValueError, match="our models know their mean: leave it out"):
        load(tmp_path, mean=(0, 0, 0))


def test_a_training_of_a_method(tmp_path):
    from reidbench.methods import msfl

    torch.manual_seed(0)
    net = msfl.PyramidNet("resnet18", 3, width=16, middle=4, embedding=8).eval()
    save_model(tmp_path / "model.safetensors", net, size=[64, 32], method="msfl")
    with pytest.raises(ValueError, match=r"no IdentityNet.*build=reidbench.methods.msfl.load"):
        load(tmp_path)
    x = torch.rand(2, 3, 64, 32)
    assert torch.allclose(load(tmp_path, build=msfl.load)(x), net.embed(x), atol=1e-6)


@pytest.mark.parametrize("about", [{"method": "gaag-adjuster"}, {"method": "somebody.elses"}, {"method": "no_such"}, {}])
def test_a_method_without_a_module_is_not_advised(tmp_path, about):
    net = nn.Linear(2, 2)
    net.config = {"kind": "resolution"}
    save_model(tmp_path / "model.safetensors", net, **about)
    with pytest.raises(ValueError, match=rf"no IdentityNet.*it was trained by '?{about.get('method', 'a method without a name')}") as found:
        load(tmp_path)
    assert "reidbench.methods" not in str(found.value)


@pytest.mark.parametrize("images,says", [(torch.full((1, 3, 8, 8), 200.0), "divide by 255"), (torch.zeros(3, 8, 8), r"\[N, 3, H, W\]"),
                                         (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "floats"), (torch.full((1, 3, 8, 8), float("nan")), "NaN")])
def test_images_are_checked_at_the_door(images, says):
    with pytest.raises(ValueError, match=says):
        load(NET, size=SIZE)(images)


@pytest.mark.parametrize("net,says", [(nn.Conv2d(3, 4, 3), "pool the map"), (nn.Linear(7, 3), "does not run on two pictures of 48 x 24"),
                                      (lambda x: x.mean(), "must return embeddings"), (lambda x: None, "returned NoneType"),
                                      (lambda x: x.mean((2, 3)) / 0, "not finite")])
def test_networks_that_do_not_fit_are_named(net, says):
    with pytest.raises(ValueError, match=says):
        load(net, size=SIZE)


def test_what_was_brought_is_not_changed(tmp_path):
    "The caller's network, images and the network's statistics are as before."
    mine = network().train().requires_grad_()
    load(mine, size=SIZE)(IMAGES)
    assert mine.training and all(p.requires_grad and p.grad is None for p in mine.parameters()) and all(v.equal(NET.state_dict()[k]) for k, v in mine.state_dict().items())
    path = written(tmp_path / "net.onnx")
    model, before = load(path), IMAGES.clone()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model(IMAGES.requires_grad_()).sum().backward()
    IMAGES.requires_grad_(False).grad = None
    assert IMAGES.equal(before) and all(v.equal(state[k]) for k, v in model.state_dict().items())


def test_the_package_imports_without_the_extra():
    code = "import sys; sys.modules.update(onnx=None, onnx2torch=None, onnxruntime=None); import reidbench.nets.external as e, torch; print(e.load(torch.nn.Flatten(), size=(4, 2)).width)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.strip() == "24", ran.stderr[-800:]
