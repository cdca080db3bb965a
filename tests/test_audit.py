"Audits of any model: conditions touch the queries alone, defences both sides, bad input."
import numpy as np
import pytest
import torch

from reidbench.data.batches import Pixels
from reidbench.data.degrade import SEVERITIES, degrade
from reidbench.metrics.ranking import evaluate
from reidbench.nets.identity import extract, retrieve
from reidbench.studies.audit import audit, degraded, search

SIZE = (32, 16)


def colour(images):
    "A model that needs no training: mean colours of four stripes."
    return torch.nn.functional.adaptive_avg_pool2d(images, (4, 1)).flatten(1)


def test_without_a_condition_it_is_the_plain_search(colours):
    assert search(colour, colours, SIZE).ap.tolist() == retrieve(colour, colours, SIZE).ap.tolist()
    assert search(colour, colours, SIZE, queries="multi").ap.tolist() == retrieve(colour, colours, SIZE, queries="multi").ap.tolist()


def test_a_condition_touches_the_queries_alone(colours):
    seen = []

    def spy(images):
        seen.append(images)
        return colour(images)

    search(spy, colours, SIZE, condition=("gamma", 5))
    query, gallery = (Pixels(t, SIZE).images(range(len(t))) for t in (colours.query, colours.gallery))
    assert torch.allclose(seen[0], degrade(query, "gamma", 5)) and torch.equal(torch.cat(seen[1:]), gallery)


def test_a_defence_stands_before_both_sides(colours):
    halved = lambda images: images / 2
    by_hand = evaluate(*(extract(lambda i: colour(halved(i)), t, SIZE) for t in (colours.query, colours.gallery)))
    assert search(colour, colours, SIZE, defence=halved).ap.tolist() == by_hand.ap.tolist()


@pytest.mark.parametrize("kind", SEVERITIES)
def test_neither_batch_nor_order_of_calls_matters(kind):
    images = torch.rand(5, 3, *SIZE)
    whole = degraded(lambda i: i, kind, 3, seed=4)(images)
    parts = degraded(lambda i: i, kind, 3, seed=4)
    assert torch.equal(torch.cat([parts(images[:2]), parts(images[2:])]), whole)


def test_seeds_draw_other_noise():
    images = torch.rand(1, 3, *SIZE)
    assert not torch.equal(degraded(lambda i: i, "noise", 3, seed=0)(images), degraded(lambda i: i, "noise", 3, seed=1)(images))


def test_the_audit_holds_every_condition(colours):
    found = audit(colour, colours, SIZE, kinds=("gamma", "occlude"), severities=(1, 5), progress=False)
    assert list(found.rankings) == [("", 0), ("gamma", 1), ("gamma", 5), ("occlude", 1), ("occlude", 5)]
    table = found.table
    assert table["mAP lost"].iloc[0] == 0 and np.allclose(table["mAP"] + table["mAP lost"], table["mAP"].iloc[0])
    assert [len(line.x) for line in found.figure().data] == [3, 3]


def test_a_severity_may_be_named(colours):
    named, numbered = (audit(colour, colours, SIZE, kinds=("gamma",), severities=s, progress=False) for s in (("mild", "severe"), (2, 5)))
    assert list(named.rankings) == list(numbered.rankings) == [("", 0), ("gamma", 2), ("gamma", 5)] and named.table.equals(numbered.table)
    assert list(named.figure().data[0].x) == [0, 2, 5]


def test_severities_may_come_from_numpy(colours):
    found = audit(colour, colours, SIZE, kinds=("gamma",), severities=np.array([1.0, 2.0]), progress=False)
    assert found.table["severity"].tolist() == ["", "slight", "mild"] and list(found.rankings) == [("", 0), ("gamma", 1), ("gamma", 2)]


@pytest.mark.parametrize("call,says", [(lambda b: audit(colour, b, SIZE, kinds=("fog",)), "no degradation 'fog'"),
                                       (lambda b: audit(lambda images: pytest.fail("it was embedded"), b, SIZE, severities=("milde",)),
                                        "severity 'milde': give 1 to 5, or one of slight"),
                                       (lambda b: audit(colour, b, SIZE, severities=(1.5,)), "severity 1.5: give 1 to 5"),
                                       (lambda b: search(colour, b, SIZE, queries="many"), "'single' or 'multi'"),
                                       (lambda b: search(colour, b, SIZE, condition=("blur", 9)), "severity 9"),
                                       (lambda b: search(colour, b, SIZE, protocol="marked"), "protocol")])
def test_bad_input_is_named(colours, call, says):
    with pytest.raises(ValueError, match=says):
        call(colours)
