"Losses against the libraries that have the same, and their gradients against finite differences in double precision."
import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer

from reidbench.losses.identity import IdentityLoss
from reidbench.losses.triplet import BatchHard, Cosine, Euclidean, TripletLoss


class Exact(Euclidean):
    "The distance without its step to float32, for gradcheck."

    def __call__(self, a, b):
        return (a[:, None] - b[None]).square().sum(-1).clamp_min(1e-12).sqrt()


def case(seed, people=5, size=24, width=7, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(size, width, generator=g, dtype=dtype), torch.randint(people, (size,), generator=g)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0])
def test_triplet_equals_pytorch_metric_learning(seed, margin):
    features, labels = case(seed)
    distance = LpDistance(normalize_embeddings=False)
    miner = BatchHardMiner(distance=distance)
    theirs = TripletMarginLoss(margin=margin, distance=distance, reducer=MeanReducer())(features, labels, miner(features, labels))
    assert torch.allclose(TripletLoss(margin)(features, labels), theirs, atol=1e-5)


@pytest.mark.parametrize("margin", [0.3, None])
def test_triplet_gradient(margin):
    features, labels = case(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: TripletLoss(margin, distance=Exact())(x, labels), (features.requires_grad_(),))


def test_cosine_gradient():
    features, _ = case(4, dtype=torch.float64)
    normal = torch.nn.functional.normalize
    assert torch.allclose(Cosine()(features, features), (1 - normal(features) @ normal(features).T).float(), atol=1e-6)


def test_identical_pictures_give_finite_gradients():
    features = torch.ones(6, 4, requires_grad=True)
    TripletLoss(0.3)(features, torch.tensor([0, 0, 1, 1, 2, 2])).backward()
    assert torch.isfinite(features.grad).all()


def test_miner_leaves_itself_out():
    labels = torch.tensor([0, 0, 1])
    d = torch.tensor([[9.0, 1, 2], [1, 9, 3], [2, 3, 9]])  # the diagonal is the largest: taking it would show
    positive, negative = BatchHard()(d, labels, labels)
    assert positive.tolist() == [1, 1] and negative.tolist() == [2, 3]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_identity_gradient(smoothing):
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 9, generator=g, dtype=torch.float64, requires_grad=True), torch.randint(9, (6,), generator=g)
    IdentityLoss(smoothing)(logits, labels).backward()
    p = logits.detach().softmax(1)
    q = torch.full_like(p, smoothing / 9).scatter_add_(1, labels[:, None], torch.full((6, 1), 1 - smoothing, dtype=torch.float64))
    assert torch.allclose(logits.grad, (p - q) / 6, atol=1e-6)  # the derivative of the cross-entropy


@pytest.mark.parametrize("wrong", [lambda: TripletLoss(-1.0), lambda: IdentityLoss(1.0), lambda: IdentityLoss(-0.1)])
def test_errors(wrong):
    with pytest.raises(ValueError):
        wrong()
