"The sampler's promises on any set; the cache in memory and in a file."
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidbench.data.augment import Augment, Erase, Flip, PadCrop, ResizeCrop
from reidbench.data.batches import Batches, Pixels, PKSampler, ShuffleSampler
from reidbench.methods.jad import Proactive


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=3, max_size=25), st.integers(1, 6), st.integers(0, 2**31), st.data())
def test_batches_are_full_and_complete(sizes, k, seed, data):
    p = data.draw(st.integers(1, len(sizes)))
    pids = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 7, sizes))
    batches = PKSampler(pids, p, k, seed).epoch(3)
    assert batches.shape[1] == p * k and set(batches.flatten()) == set(range(len(pids)))
    for batch in batches:
        groups = pids[batch].reshape(p, k)
        assert (groups == groups[:, :1]).all() and len(set(groups[:, 0])) == p
        assert all(len(set(rows)) == min(k, (pids == g[0]).sum()) for rows, g in zip(batch.reshape(p, k), groups))


def test_sampler_wastes_little_on_a_lopsided_set():
    "Market's shape, 2 to 72 pictures a person: hardly more batches than pictures ask for."
    sizes = np.clip(np.random.default_rng(0).gamma(2.0, 8.5, 751).astype(int), 2, 72)
    pids = np.repeat(np.arange(751), sizes)
    assert len(PKSampler(pids, 16, 4, 0).epoch(0)) * 64 < 1.15 * len(pids)


@pytest.mark.parametrize("count,batch", [(1, 4), (4, 4), (9, 4)])
def test_shuffle_fills_the_last_batch(count, batch):
    rows = ShuffleSampler(count, batch, 0).epoch(0)
    assert rows.shape == (-(-count // batch), batch) and set(rows.flatten()) == set(range(count))


def test_cache_in_a_file_is_the_same(colours, tmp_path):
    memory, file = Pixels(colours.train, (32, 16)), Pixels(colours.train, (32, 16), limit=0, folder=tmp_path)
    assert file.mapped and not memory.mapped and np.array_equal(memory.array, file.array)


def test_no_rows_are_an_empty_batch(colours):
    pixels = Pixels(colours.train, (32, 16))
    for none in ([], np.array([], np.int64), np.zeros(len(pixels), bool)):
        assert pixels.images(none).shape == (0, 3, 32, 16) and pixels.images(none).dtype == torch.float32


@pytest.mark.parametrize("change", [Flip(), PadCrop(2), ResizeCrop(1.2), Erase()], ids=lambda c: type(c).__name__)
def test_an_empty_batch_stays_one(change):
    images = torch.rand(0, 3, 32, 16)
    assert change(images, torch.rand(0, change.draws)).shape == Augment([change])(images, 0, []).shape == images.shape


def test_empty_table():
    import pandas as pd

    with pytest.raises(ValueError, match="empty"):
        Pixels(pd.DataFrame({"path": [], "pid": [], "camid": []}))


def test_processes_share_a_batch(colours):
    pixels, sampler = Pixels(colours.train, (32, 16)), PKSampler(colours.train.pid, 4, 2, 0)
    augment = Augment([Flip(), PadCrop(2), ResizeCrop(1.2), Erase()], 0)
    whole = next(Batches(colours.train, pixels, sampler, augment).epoch(2))
    parts = [next(Batches(colours.train, pixels, sampler, augment, rank=r, world=4).epoch(2)) for r in range(4)]
    assert torch.equal(torch.cat([b.images for b in parts]), whole.images) and torch.equal(torch.cat([b.labels for b in parts]), whole.labels)
    with pytest.raises(ValueError, match="shared by 3 processes"):
        next(Batches(colours.train, pixels, sampler, rank=0, world=3).epoch(0))


@pytest.mark.parametrize("transform", [Flip(), PadCrop(2), ResizeCrop(1.2), Erase(), Proactive({"fusion": 1}), Proactive({"local": 1})], ids=lambda t: type(t).__name__)
def test_the_largest_number_that_can_be_thrown_is_below_one(transform, monkeypatch):
    "Float32 rounds the last float64 numbers below 1 up to 1: one in 2**25, and a crop then begins beyond the last place."
    augment = Augment([transform], 0)
    largest = types.SimpleNamespace(random=lambda n: np.full(n, 1 - 2**-53))
    monkeypatch.setattr("reidbench.data.augment.keyed", lambda *key: largest)
    images = torch.rand(3, 3, 32, 16)
    assert augment.dice(0, range(3)).max() < 1 and augment(images, 0, range(3)).shape == images.shape


def test_labels_are_dense(colours):
    pixels = Pixels(colours.train, (32, 16))
    batches = Batches(colours.train.assign(pid=colours.train.pid * 100 + 5), pixels, ShuffleSampler(len(pixels), 48))
    assert set(next(batches.epoch(0)).labels.tolist()) == set(range(8))
