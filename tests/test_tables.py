"The papers' tables: figures typed a second time from the papers, counts, misprints, keys, re-targeting, bad names."
import importlib.util
import json
import math
import re
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reidbench.data.benchmarks import available
from reidbench.metrics.ranking import PROTOCOLS
from reidbench.studies import tables as pages
from reidbench.studies.compare import matrix
from reidbench.studies.tables import CUHK03, DUKE, FIELDS, MARKET, METHODS, MISPRINTS, STREET_LOW, DataSet, Run, ask_from, make_settings, parse, table, tables, translate

PAPERS = {"aos": (4, (5, 6)), "msfl": (4, ()), "gaag": (2, ()), "di_reid": (3, ()), "jad": (8, (4, 5))}
MD, DM = "Market1501 → DukeMTMC-reID", "DukeMTMC-reID → Market1501"

# Read off the papers again, line by line, not copied from the page.
TYPED = [
    ("aos/table1", "Baseline", "CUHK03", "mAP", 37.00), ("aos/table1", "No Adversary", "DukeMTMC-reID", "Rank-1", 76.39),
    ("aos/table1", "Random", "Market1501", "Rank-1", 86.16),
    ("aos/table1", "Random", "CUHK03", "Rank-1", 44.56), ("aos/table1", "Hard-1", "CUHK03", "Rank-1", 45.71),
    ("aos/table1", "Hard-1", "DukeMTMC-reID", "mAP", 59.49),
    ("aos/table1", "Sampling", "Market1501", "mAP", 70.43), ("aos/table1", "Sampling", "DukeMTMC-reID", "Rank-1", 79.17),
    ("aos/table2", "P2S", "Multi query", "Rank-1", 85.78), ("aos/table2", "JLML", "Single query", "mAP", 65.5),
    ("aos/table2", "Ours", "Multi query", "mAP", 78.33),
    ("aos/table2", "Ours + ReRanking", "Single query", "mAP", 83.30), ("aos/table2", "S-LSTM", "Multi query", "Rank-1", 61.6),
    ("aos/table2", "DaF", "Single query", "mAP", 72.42),
    ("aos/table3", "PUL", "CUHK03", "Rank-1", 9.1), ("aos/table3", "Ours", "CUHK03", "Rank-1", 47.14),
    ("aos/table3", "Ours + ReRanking", "CUHK03", "mAP", 56.09),
    ("aos/table4", "ACRN", "DukeMTMC-reID", "Rank-1", 72.58), ("aos/table4", "Baseline", "DukeMTMC-reID", "mAP", 57.34),
    ("aos/table4", "Ours + ReRanking", "DukeMTMC-reID", "Rank-1", 84.11),
    ("msfl/table1", "(b) two deepest stages fused directly", "Market1501", "mAP", 78.6),
    ("msfl/table1", "(c) stages 1 to 4 fused directly", "Market1501", "Rank-1", 87.1),
    ("msfl/table1", "(f) (e) with MSFF", "Market1501", "mAP", 81.9),
    ("msfl/table2", "(b) ResNet50, last stride 1", "Market1501", "flops", 4.1), ("msfl/table2", "(a) ResNet50 baseline", "Market1501", "params", 24.56),
    ("msfl/table2", "(c) MSFL", "Market1501", "flops", 5.9),
    ("msfl/table3", "(b) l1, 1e-2", "Market1501", "mAP", 70.1), ("msfl/table3", "(d) l-inf, 1e-2", "Market1501", "Rank-1", 88.2),
    ("msfl/table3", "(f) l2, 1e-3", "Market1501", "Rank-1", 91.2),
    ("msfl/table3", "(j) stages lost", "Market1501", "Rank-1", 92.7), ("msfl/table3", "(l) stages lost", "Market1501", "mAP", 79.8),
    ("msfl/table4", "+MSGR", "DukeMTMC-reID", "mAP", 76.9), ("msfl/table4", "+MSFF", "CUHK03", "Rank-1", 65.1),
    ("msfl/table4", "+RE", "MSMT17", "Rank-1", 78.4),
    ("msfl/table4", "PDC", "MSMT17", "mAP", 29.7), ("msfl/table4", "Mancs", "CUHK03", "Rank-1", 65.5), ("msfl/table4", "OSNet+RE", "MSMT17", "mAP", 52.9),
    ("msfl/table4", "HAP2S", "DukeMTMC-reID", "Rank-1", 75.9), ("msfl/table4", "ResNet50", "MSMT17", "Rank-1", 6.7),
    ("msfl/table4", "Auto-ReID+RE", "Market1501", "mAP", 94.2),
    ("gaag/table1", "SING", "CAVIAR", "Rank-10", 89.0), ("gaag/table1", "Baseline", "MLR-VIPeR", "Rank-1", 33.5),
    ("gaag/table1", "Baseline + Rand-DS", "CAVIAR", "Rank-1", 21.4),
    ("gaag/table1", "Ours: Naive", "MLR-VIPeR", "Rank-5", 46.5), ("gaag/table1", "Ours: w/o Augment", "CAVIAR", "Rank-10", 95.4),
    ("gaag/table1", "Ours: w/o Attack", "MLR-CUHK03", "Rank-1", 86.1),
    ("gaag/table1", "Ours", "MLR-CUHK03", "Rank-10", 99.3), ("gaag/table1", "PRI", "CAVIAR", "Rank-5", 78.5),
    ("gaag/table2", "Baseline", "MSMT17", "mAP", 36.6), ("gaag/table2", "Ours-Blur", "MSMT17", "Rank-1", 71.9),
    ("gaag/table2", "Ours-Illumination", "MSMT17", "mAP", 46.6), ("gaag/table2", "GLAD", "MSMT17", "mAP", 34.0),
    ("di_reid/table1", "SDF", "MLR-VIPeR", "Rank-5", 38.1), ("di_reid/table1", "FFSR+RIFE", "CAVIAR", "Rank-1", 36.4),
    ("di_reid/table1", "ResNet50", "MLR-CUHK03", "Rank-1", 60.2),
    ("di_reid/table1", "ResNet50 (tricks)", "MLR-VIPeR", "Rank-10", 71.5), ("di_reid/table1", "Ours", "CAVIAR", "Rank-1", 51.2),
    ("di_reid/table1", "JUDEA", "CAVIAR", "Rank-5", 60.1),
    ("di_reid/table2", "IANet", "MSMT17", "Rank-1", 75.5), ("di_reid/table2", "ResNet50 (tricks)", "MSMT17", "mAP", 35.8),
    ("di_reid/table2", "Ours", "MSMT17", "mAP", 47.1), ("di_reid/table2", "GLAD", "MSMT17", "mAP", 85.9),
    ("di_reid/table3", "Ours w/o DIL", "CAVIAR", "Rank-1", 44.6), ("di_reid/table3", "Ours w/o multi-scale", "CAVIAR", "Rank-10", 95.2),
    ("di_reid/table3", "Ours (f_inv only)", "CAVIAR", "Rank-5", 80.8),
    ("jad/table1", "No-attack", "Market1501", "Rank-10", 97.1), ("jad/table1", "SMA", "Market1501", "mAP", 11.1),
    ("jad/table1", "LTA*", "Market1501", "Rank-5", 26.2), ("jad/table1", "LTA", "Market1501", "Rank-1", 13.3),
    ("jad/table2", "GOAT", MD, "Rank-1", 23.6), ("jad/table2", "JAD", MD, "mAP", 21.5), ("jad/table2", "JAD (w/o LHT)", DM, "Rank-1", 47.4),
    ("jad/table2", "Baseline", DM, "mAP", 19.6),
    ("jad/table3", "Baseline+RK", "Market1501", "mAP", 84.7), ("jad/table3", "JAD", "DukeMTMC-reID", "Rank-1", 77.2),
    ("jad/table3", "JAD+RK", "DukeMTMC-reID", "mAP", 77.0),
    ("jad/table4", "Market1501: JAD", "SMA", "Rank-1", 79.3), ("jad/table4", "Market1501: Baseline", "M-IFGSM", "mAP", 4.3),
    ("jad/table4", "DukeMTMC-reID: JAD+RK", "LTA", "Rank-1", 52.4),
    ("jad/table4", "DukeMTMC-reID: Baseline+RK", "SMA", "Rank-1", 18.8), ("jad/table4", "DukeMTMC-reID: JAD", "M-IFGSM", "mAP", 16.3),
    ("jad/table5", "CF", "LTA", "mAP", 18.5), ("jad/table5", "PD", "SMA", "Rank-1", 58.4), ("jad/table5", "JAD", "M-IFGSM", "Rank-1", 61.3),
    ("jad/table5", "PD", "No-attack", "mAP", 85.6),
    ("jad/table6", "P1", "LTA", "Rank-1", 25.5), ("jad/table6", "P1 P2 P1", "LTA", "mAP", 33.1), ("jad/table6", "P2", "No-attack", "mAP", 84.9),
    ("jad/table7", "AT", "SMA", "Rank-1", 48.3), ("jad/table7", "AT +CS", "No-attack", "mAP", 76.1), ("jad/table7", "JAD", "LTA", "mAP", 69.5),
    ("jad/table7", "AT +CS", "LTA", "Rank-1", 62.7),
    ("jad/table8", "w/o RK: GOAT+CS", "DMR", "mAP", 50.7), ("jad/table8", "with RK: SB", "DMR", "Rank-1", 6.2),
    ("jad/table8", "with RK: FR+JAD", "No-attack", "Rank-1", 96.3), ("jad/table8", "w/o RK: JAD", "DMR", "Rank-1", 81.1),
]


@pytest.mark.parametrize("name,row,group,metric,value", TYPED)
def test_figures_typed_a_second_time(name, row, group, metric, value):
    figure = table(name).cell(row, group, metric).figure
    assert figure.value == value == float(figure.printed)


def test_the_sample_covers_every_printed_table():
    assert len(TYPED) >= 60 and len({t[:4] for t in TYPED}) == len(TYPED)
    assert {t[0] for t in TYPED} == {name for name in tables() if "/table" in name}


def test_names():
    wanted = [f"{p}/table{i + 1}" for p, (n, _) in PAPERS.items() for i in range(n)] + [f"{p}/figure{i}" for p, (_, found) in PAPERS.items() for i in found]
    assert set(tables()) == set(wanted)
    assert all(title and len(title) < 100 and "\n" not in title for title in tables().values())
    assert all(table(name).name == name and table(name).paper == name.split("/")[0] for name in tables())


# rows of the paper (quoted and own), rows that the paper quotes, columns, places where it prints nothing
SHAPES = {
    "aos/table1": (5, 0, 6, 0), "aos/table2": (24, 21, 4, 25), "aos/table3": (11, 8, 2, 0), "aos/table4": (12, 9, 2, 1), "aos/figure5": (8, 0, 6, 48),
          "aos/figure6": (12, 0, 2, 24),
    "msfl/table1": (6, 0, 2, 0), "msfl/table2": (3, 0, 4, 0), "msfl/table3": (12, 0, 2, 0), "msfl/table4": (26, 21, 8, None), "gaag/table1": (15, 9, 9, 3),
          "gaag/table2": (9, 5, 4, 0),
    "di_reid/table1": (13, 10, 9, 6), "di_reid/table2": (8, 5, 4, 0), "di_reid/table3": (6, 0, 3, 0), "jad/table1": (4, 0, 4, 0), "jad/table2": (4, 0, 4, 0),
          "jad/table3": (4, 0, 4, 0),
    "jad/table4": (8, 0, 6, 0), "jad/table5": (4, 0, 8, 0), "jad/table6": (6, 0, 4, 4), "jad/table7": (4, 0, 8, 0), "jad/table8": (8, 0, 4, 0),
          "jad/figure4": (22, 0, 4, 88), "jad/figure5": (2, 0, 1, 2),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    rows, quoted, columns, blank = SHAPES[name]
    found = table(name).frame()
    assert found.shape == (rows, columns)
    assert len({c.row for c in table(name).cells if c.source == "quoted"}) == quoted
    if blank is not None:
        assert int(found.isna().sum().sum()) == blank
    assert found.columns.nlevels == 2 and found.index.is_unique and all(d == float for d in found.dtypes)


def test_msfl_table4_blanks():
    "Lines with figures for two sets have four, for three six, for four eight."
    counts = table("msfl/table4").frame().notna().sum(axis=1)
    assert counts[["PAN", "SVDNet", "DPFL", "DaRe", "DaRe+RE", "MLFN", "PCB+RPP", "Mancs"]].eq(6).all()
    assert counts[["PDC", "HAP2S", "PNGAN", "GLAD", "KPM", "DuATM", "Bilinear", "G2G", "DeepCRF", "SGGNN"]].eq(4).all()
    assert counts[["Auto-ReID+RE", "OSNet", "OSNet+RE", "ResNet50", "+CSIP", "+MSFF", "+MSGR", "+RE"]].eq(8).all()


# Every misprint that is known of: place, whether the figure itself is doubtful, and what is likely right.
KNOWN = [
    ("di_reid/table2", "GLAD", "MSMT17", "mAP", True, 34.0),
    ("msfl/table4", "ResNet50", "MSMT17", "Rank-1", True, None),
    ("msfl/table1", "(e) stages 1 to 4, with lateral", "Market1501", "mAP", True, None), ("msfl/table4", "+CSIP", "Market1501", "mAP", True, None),
    ("msfl/table1", "(b) two deepest stages fused directly", "Market1501", "Rank-1", False, None),
    ("msfl/table1", "(c) stages 1 to 4 fused directly", "Market1501", "mAP", False, None),
    ("msfl/table4", "+MSGR", "MSMT17", "Rank-1", False, None),
    ("jad/table2", "JAD (w/o LHT)", MD, "Rank-1", False, None), ("jad/table2", "JAD", MD, "Rank-1", False, None),
    ("jad/table2", "JAD (w/o LHT)", DM, "Rank-1", False, None), ("jad/table2", "JAD", DM, "Rank-1", False, None),
    *[("jad/table7", "JAD", group, metric, True, None) for group in ("No-attack", "M-IFGSM", "SMA", "LTA") for metric in ("Rank-1", "mAP")],
    ("jad/table1", "No-attack", "Market1501", "mAP", True, None), ("jad/table3", "Baseline", "Market1501", "mAP", True, None),
    ("jad/table8", "w/o RK: Baseline", "No-attack", "mAP", True, None),
    ("jad/table6", "P2 P1 P2", "LTA", "Rank-1", True, None), ("jad/table6", "P1 P2 P1", "LTA", "mAP", True, None),
    ("gaag/table2", "Ours-Illumination", "MSMT17", "Rank-1", False, None),
]


@pytest.mark.parametrize("name,row,group,metric,in_table,likely", KNOWN)
def test_every_known_misprint_is_marked(name, row, group, metric, in_table, likely):
    figure = table(name).cell(row, group, metric).figure
    assert bool(figure.misprint) == in_table and (in_table or figure.slip) and figure.likely == likely
    assert (figure.misprint or figure.slip) in table(name)._repr_html_().replace("&#x27;", "'").replace("&gt;", ">")


def test_the_ambiguous_label_is_said():
    "MSFL's +RE is re-ranking, OSNet's is random erasing."
    t = table("msfl/table4")
    assert all(run.rerank for run in t.runs() if run.row == "+RE") and not any(run.rerank for run in t.runs() if run.row != "+RE")
    assert any("random erasing" in note for note in t.notes)


def test_misprints_agree_with_the_figures_they_speak_of():
    value = lambda *place: table(place[0]).cell(*place[1:]).figure.value
    assert value("msfl/table1", "(e) stages 1 to 4, with lateral", "Market1501", "mAP") == 79.8 and value("msfl/table4", "+CSIP", "Market1501", "mAP") == 79.3
    assert value("jad/table1", "No-attack", "Market1501", "mAP") == 72.1 and value("jad/table3", "Baseline", "Market1501", "mAP") == value("jad/table8", "w/o RK: Baseline", "No-attack", "mAP") == 72.2
    assert all(value("jad/table6", "P2 P1 P2", g, m) is None for g in ("No-attack", "LTA") for m in ("Rank-1", "mAP"))
    for group in ("No-attack", "M-IFGSM", "SMA", "LTA"):
        assert value("jad/table7", "JAD", group, "Rank-1") != value("jad/table5", "JAD", group, "Rank-1")
    assert value("di_reid/table2", "GLAD", "MSMT17", "mAP") == 85.9 and value("gaag/table2", "GLAD", "MSMT17", "mAP") == 34.0
    assert table("di_reid/table2").frame(corrected=True).loc["GLAD", ("MSMT17", "mAP")] == 34.0
    assert math.isnan(table("msfl/table4").frame(corrected=True).loc["ResNet50", ("MSMT17", "Rank-1")])
    assert table("jad/table7").frame(corrected=True).equals(table("jad/table7").frame())  # doubtful ones stay


def test_every_misprint_marks_something():
    for m in MISPRINTS:
        hit = [c for c in table(m.table).cells if m.hits(c.row, c.group, c.metric)]
        assert hit and all((c.figure.slip if m.kind == "text" else c.figure.misprint) for c in hit if c.source != "reidbench"), m
        assert m.kind in ("wrong", "doubtful", "text") and m.why


def test_the_same_experiment_prints_the_same_figure():
    "Where one paper prints one experiment twice, the figures agree, or a misprint says why not."
    for paper in PAPERS:
        seen = {}
        for name in tables():
            if name.startswith(paper + "/"):
                for c in table(name).cells:
                    if c.runnable and c.figure.value is not None:
                        seen.setdefault((tuple(r.work for r in c.runs), c.metric), []).append(c)
        for cells in seen.values():
            if len({c.figure.value for c in cells}) > 1:
                assert any(c.figure.misprint for c in cells), [(c.table, c.row, c.group, c.metric, c.figure.value) for c in cells]
    shared = lambda name, row: {r.work for r in table(name).runs() if r.row == row}
    assert shared("aos/table3", "Ours") < shared("aos/table1", "Sampling") and shared("jad/table1", "No-attack") < shared("jad/table3", "Baseline")


def test_papers_quoting_each_other_agree():
    ours = {c.metric: c.figure.value for c in table("di_reid/table1").cells if c.row == "Ours" and c.group == "MLR-VIPeR"}
    assert ours == {c.metric: c.figure.value for c in table("gaag/table1").cells if c.row == "DI-REID" and c.group == "MLR-VIPeR"}
    for row in ("GoogLeNet", "PDC", "PCB"):
        assert table("di_reid/table2").frame().loc[row].equals(table("gaag/table2").frame().loc[row])
    for row, other in (("CAD-Net", "CAD"), ("RAIN", "RAIN"), ("SING", "SING"), ("CSR-GAN", "CSR-GAN"), ("CamStyle", "CamStyle"), ("FD-GAN", "FD-GAN")):
        assert table("di_reid/table1").frame().loc[row].tolist() == table("gaag/table1").frame().loc[other].tolist()


def test_sources_and_figures():
    for name in tables():
        for c in table(name).cells:
            assert c.runnable == (not c.why) and c.source in ("paper", "quoted", "reidbench")
            assert not (c.source == "quoted" and c.runnable) and (c.source != "reidbench" or (c.figure.value is None and c.runnable))
            assert (c.figure.value is None) == (c.figure.printed == "") == bool(c.figure.note)
            if c.figure.value is not None and c.figure.unit == "%":
                assert 0 < c.figure.value < 100 and (c.figure.value == 6.7 or c.source == "quoted" or c.metric != "Rank-10" or c.figure.value > 20)
    assert all(c.figure.value is None for name in tables() if "/figure" in name for c in table(name).cells)


def test_ranks_rise():
    "Rank-1 <= Rank-5 <= Rank-10 in every line."
    for name in tables():
        t = table(name)
        for row in t.rows:
            for group in {g for g, _ in t.columns}:
                found = [t.frame().loc[row, (group, f"Rank-{k}")] for k in (1, 5, 10) if (group, f"Rank-{k}") in t.columns and row in t.frame().index]
                found = [v for v in found if not math.isnan(v)]
                assert found == sorted(found), (name, row, group)


# -- runs --------------------------------------------------------------------------------------------------------------

EVERY = [(name, run) for name in tables() for run in table(name).runs()]


def test_sets_are_known():
    known = set(available()["name"])
    for name, run in EVERY:
        assert {run.train.name, run.test.name} <= known and set(table(name).needs) <= known, name
        assert run.test.protocol in PROTOCOLS and run.method in METHODS
    assert all(set(r.train.name for r in table(n).runs("street")) == {"street"} for n in tables())


def test_keys_are_unique():
    keys = [run.key for _, run in EVERY]
    assert len(set(keys)) == len(keys) and all(re.fullmatch(r"[a-z0-9-]{10,150}", k) for k in keys)
    for name in tables():
        away = table(name).runs("street")
        assert len({r.key for r in away}) == len(away) == len({(r.row, r.work) for r in away})
    cells = table("aos/table1").cells
    assert len({c.key for c in cells if c.row == "Sampling" and c.group == "CUHK03"}) == 1  # Rank-1 and mAP are one run


def test_keys_are_stable():
    "Written down once: a change of these loses every record that is there."
    assert table("aos/table1").cell("Sampling", "CUHK03", "mAP").key == "aos-table1-sampling-cuhk03-a68fd1aedfb5"
    assert table("jad/table4").cell("Market1501: JAD", "LTA", "mAP").key == "jad-table4-market1501-jad-market1501-2df1dbff40ee"
    code = "from reidbench.studies.tables import *; print(table('msfl/table4').cell('+MSGR', 'MSMT17', 'mAP').key)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env={**__import__("os").environ, "PYTHONHASHSEED": "7"}).stdout.strip()
    assert found == table("msfl/table4").cell("+MSGR", "MSMT17", "mAP").key


def test_keys_follow_what_matters():
    run = Run("aos/table1", "Sampling", "aos", (("strategy", "sampling"),), MARKET, MARKET)
    others = [replace(run, choice=(("strategy", "hard-1"),)), replace(run, train=DUKE), replace(run, test=DUKE), replace(run, rerank=True),
              replace(run, queries="multi"),
              replace(run, attack=pages.LTA), replace(run, attack=replace(pages.LTA, adaptive=True)), replace(run, defence=pages.CS),
              replace(run, test=replace(MARKET, protocol="single-gallery-shot"))]
    assert len({r.work for r in (run, *others)}) == 1 + len(others)
    assert replace(run, table="x", row="y").work == run.work and replace(run, test=replace(MARKET, title="Market")).work == run.work
    assert replace(run, rerank=True).training == run.training != replace(run, train=DUKE).training
    assert replace(run, choice=(("area", 0.1), ("strategy", "sampling"))).work == replace(run, choice=(("strategy", "sampling"), ("area", 0.1))).work


def test_words_are_known_and_fields_fit():
    for name, run in EVERY:
        assert json.dumps(run.words) and set(run.words) <= set(FIELDS[run.method]), (name, run.row)
        assert isinstance(run.settings, dict)


@pytest.mark.parametrize("method", METHODS)
def test_every_run_makes_its_settings(method):
    "As soon as a method is there, the names of its settings must fit the tables'."
    module = METHODS[method].split(":")[0]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not there yet")
    for name, run in EVERY:
        if run.method == method:
            settings = make_settings(run, seed=2)
            assert settings.seed == 2 and all(getattr(settings, k) == v
                                              for k, v in run.settings.items() if k in {f.name for f in fields(settings)}), (name, run.row)


@pytest.mark.parametrize("tool", sorted(pages.TOOLS))
def test_every_tool_can_be_made(tool):
    module = pages.TOOLS[tool].split(":")[0]
    if importlib.util.find_spec(module.rsplit(".", 1)[0]) is None or importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not there yet")
    used = {t for run in (*(run for _, run in EVERY), *matrix().runs()) for t in (run.attack, run.defence) if t and t.name == tool}
    assert used and all(t.make() is not None for t in used)


def test_what_makes_which_cell():
    cell = lambda *place: table(place[0]).cell(*place[1:]).run
    assert cell("aos/table1", "Baseline", "CUHK03", "mAP").settings == {"dropout": 0.5} and cell("aos/table1", "Baseline", "Market1501", "mAP").settings == {}
    assert cell("aos/table1", "No Adversary", "Market1501", "mAP").settings == {"strategy": "no-adversary"}
    start = cell("aos/table1", "Sampling", "DukeMTMC-reID", "mAP").starts_from
    assert start.training == cell("aos/table1", "Baseline", "DukeMTMC-reID",
                                  "mAP").training and cell("aos/table1", "Baseline", "Market1501", "mAP").starts_from is None
    assert [table("aos/figure5").cell(r, "CUHK03", "mAP").run.settings.get("area")
            for r in table("aos/figure5").rows] == [0.025, 0.05, 0.075, None, 0.125, 0.15, 0.175, 0.2]
    assert cell("aos/figure5", "area 0.1", "CUHK03", "mAP").work == cell("aos/table1", "Hard-1", "CUHK03", "mAP").work
    assert cell("aos/table2", "Ours", "Multi query", "mAP").queries == "multi" and cell("aos/table2", "Ours + ReRanking", "Single query", "mAP").rerank
    assert cell("aos/table3", "Ours", "CUHK03", "mAP").test == CUHK03 and dict(CUHK03.options) == {"protocol": "new", "boxes": "detected"} and CUHK03.protocol == "cuhk03-new"
    assert cell("msfl/table2", "(b) ResNet50, last stride 1", "Market1501", "flops").settings["last_stride"] == 1
    assert [table("msfl/table3").cell(r, "Market1501", "mAP").run.settings["q"] for r in table("msfl/table3").rows[1:4]] == [1, 2, math.inf]
    assert [table("msfl/table3").cell(r, "Market1501", "mAP").run.settings["penalty"] for r in table("msfl/table3").rows[3:6]] == [0.01, 0.1, 0.001]
    assert not any(table("msfl/table3").cell(f"({a}) stages lost", "Market1501", "mAP").runnable for a in "ghijkl")
    assert cell("gaag/table1", "Ours", "MLR-VIPeR", "Rank-1").test.mlr_camera == 1 and cell("gaag/table1", "Ours", "CAVIAR", "Rank-1").test.mlr_camera is None
    assert {run.test.protocol for run in table("di_reid/table1").runs()} == {"single-gallery-shot"} and {run.test.protocol for run in table("di_reid/table2").runs()} == {"market"}
    assert cell("di_reid/table2", "Ours", "MSMT17", "mAP").settings["degradation"] == "illumination"
    md = cell("jad/table2", "JAD", MD, "mAP")
    assert (md.train.name, md.test.name, md.defence.options) == ("market1501", "dukemtmc-reid", (("sizes", ((110, 50), (220, 100), (110, 50))),))
    lta = cell("jad/table1", "LTA", "Market1501", "mAP").attack
    assert dict(lta.options) == {"eps": 5 / 255, "step": 1 / 255, "iterations": 15} and dict(cell("jad/table1", "LTA*", "Market1501", "mAP").attack.options)["single_reference"] is True
    assert cell("jad/table8", "with RK: FR+JAD", "DMR", "mAP").settings["backbone"] == "resnet101_ibn_a" and cell("jad/table8", "w/o RK: JAD", "DMR", "mAP").attack.source == "resnet50"
    assert [c.run.defence.options[0][1] for c in table("jad/table6").cells if c.group == "LTA" and c.metric == "mAP" and c.row != "Baseline"][2] == ((110, 50), (220, 100))


def test_adversarial_training_has_a_model_for_each_attack():
    normal = table("jad/table7").cell("Baseline", "SMA", "mAP").run
    assert {table("jad/table7").cell("AT", a, "mAP").run.starts_from.training
            for a in ("M-IFGSM", "SMA", "LTA")} == {normal.training} and normal.starts_from is None
    t = table("jad/table7")
    for row in ("AT", "AT +CS"):
        assert [t.cell(row, a, "mAP").run.settings["adversary"] for a in ("M-IFGSM", "SMA", "LTA")] == ["M-IFGSM", "SMA", "LTA"]
        mean = t.cell(row, "No-attack", "mAP")
        assert [r.settings["adversary"] for r in mean.runs] == ["M-IFGSM", "SMA", "LTA"] and mean.key.startswith("mean-of-") and all(r.attack is None for r in mean.runs)
        assert {r.training for r in mean.runs} == {t.cell(row, a, "mAP").run.training for a in ("M-IFGSM", "SMA", "LTA")}


def test_the_adaptive_attacker_is_never_left_out():
    for name in tables():
        cells = table(name).cells
        for c in cells:
            if c.runnable and c.run.attack and c.run.defence and not c.run.attack.source and not c.run.attack.adaptive:
                twin = table(name).cell(c.row, f"{c.group}, adaptive", c.metric)
                assert twin.source == "reidbench" and replace(twin.run.attack, adaptive=False) == c.run.attack and twin.run.training == c.run.training and twin.run.defence == c.run.defence
    assert sum(c.run.attack.adaptive for c in table("jad/table4").cells if c.runnable) == 4 * 6


# -- on another set ----------------------------------------------------------------------------------------------------

def test_one_set_takes_the_place_of_all():
    cells = [c for c in table("aos/table1").cells_for("street") if c.source == "paper"]
    assert [(c.row, c.metric) for c in cells] == [(r, m) for r in table("aos/table1").rows for m in ("Rank-1", "mAP")]
    assert all(c.group == "Street" and c.of == "Market1501" and c.run.settings.get("dropout") is None for c in cells)
    assert cells[0].figure.value == 84.42


def test_a_set_of_the_paper_keeps_its_own_figures():
    cells = [c for c in table("aos/table1").cells_for("cuhk03") if c.source == "paper"]
    assert [c.figure.value for c in cells if c.metric == "mAP"] == [37.00, 36.48, 41.15, 41.70, 43.33]
    assert all(c.of == c.group == "CUHK03" and c.run.settings["dropout"] == 0.5 for c in cells)
    assert {r.work for r in table("aos/table1").runs("cuhk03")} < {r.work for r in table("aos/table1").runs()}
    rows = table("jad/table4").cells_for("dukemtmc-reid")
    assert [c.figure.value for c in rows if c.row == "JAD" and c.metric == "Rank-1"][:3] == [30.5, 56.7, 41.8]
    swapped = table("jad/table2").cells_for("dukemtmc-reid", other="market1501")
    assert next(c for c in swapped if c.row == "JAD" and c.group == DM and c.metric == "Rank-1").figure.value == 47.5


@pytest.mark.parametrize("spelled,name", [("CUHK03", "cuhk03"), ("Street", "street"), ("Market-1501", "market1501"), ("DukeMTMC-reID", "dukemtmc-reid"),
                                          ("VIPeR", "viper"), ("Street-Dark", "street-dark")])
def test_a_set_is_the_same_however_it_is_spelled(spelled, name):
    from reidbench.studies.compare import Results
    from reidbench.studies.runner import Study

    for t in ("aos/table1", "gaag/table1"):
        assert table(t).runs(spelled) == table(t).runs(name)
    assert matrix(spelled) == matrix(name) and table("jad/table2").runs("street", spelled) == table("jad/table2").runs("street", name)
    assert table("aos/table1").runs(DataSet("Mine", spelled)) == table("aos/table1").runs(DataSet("Mine", name))
    assert Results("aos/table1", {}, spelled).on == Study("aos/table1", on=spelled, build=False).on == name
    for own in (f"./{spelled}", f"sets/{spelled}", f"~/{spelled}", "Mine"):  # a folder is what its path says
        assert {r.test.name for r in table("aos/table1").runs(own)} == {own}


def test_domain_pairs():
    pairs = {(r.train, r.test) for r in table("jad/table2").runs("street")}
    assert pairs == {(pages.STREET, pages.SECOND_TOWN), (pages.SECOND_TOWN, pages.STREET)}
    assert {(r.train.name, r.test.name) for r in table("jad/table2").runs("street", other="market1501")} == {("street", "market1501"), ("market1501", "street")}
    with pytest.raises(ValueError, match="other="):
        table("jad/table2").runs("market1501")


def test_cross_resolution():
    assert {r.test for r in table("gaag/table1").runs("street")} == {STREET_LOW}
    (half,) = {r.test for r in table("gaag/table1").runs("market1501-half")}
    assert half == DataSet("MLR-market1501-half", "market1501-half", (), "single-gallery-shot", mlr_camera=1)
    own = DataSet("mine", "mine", (("split", 3),), "single-gallery-shot", low_camera=2)
    assert {r.test for r in table("gaag/table1").runs(own)} == {own}
    viper = {c.row: c.figure.value for c in table("gaag/table1").cells_for("viper") if c.metric == "Rank-1"}
    assert viper["Ours"] == 52.2 and viper["Baseline"] == 33.5


@pytest.mark.parametrize("name", list(SHAPES))
def test_sweeps_and_backbones_are_kept_elsewhere(name):
    home, away = table(name).cells_for(), table(name).cells_for("street")
    strip = lambda row: re.sub("^(Market1501|DukeMTMC-reID): ", "", row)
    assert {strip(c.row) for c in home} == {c.row for c in away}
    assert {(strip(r.row), r.method, r.choice, r.attack, r.defence, r.rerank) for c in home
            for r in c.runs} == {(r.row, r.method, r.choice, r.attack, r.defence, r.rerank) for c in away for r in c.runs}
    rows = {c.row for c in away}
    assert all(set(pair) <= rows for pair in table(name).claims_for("street")) and len(table(name).claims_for("street")) <= len(table(name).claims)


def test_ask_from(colours):
    asked = ask_from(colours, 2)
    assert set(asked.query["camid"]) == {2} and set(asked.gallery["camid"]) == {0, 1} and len(asked.query) + len(asked.gallery) == len(colours.query) + len(colours.gallery)
    assert asked.train is colours.train or asked.train.equals(colours.train)
    with pytest.raises(ValueError, match="camera 7"):
        ask_from(colours, 7)


def test_person_0_asks_from_another_camera_where_she_asked_before(colours):
    zero = replace(colours, query=colours.query.assign(pid=colours.query["pid"] - 8), gallery=colours.gallery.assign(pid=colours.gallery["pid"] - 8))
    assert set(ask_from(zero, 1).query["pid"]) == {0, 1, 2, 3}
    unasked = replace(zero, query=zero.query[zero.query["pid"] > 0])  # then she is a distractor
    assert set(ask_from(unasked, 1).query["pid"]) == {1, 2, 3} and (ask_from(unasked, 1).gallery["pid"] == 0).any()


# -- claims and pictures -----------------------------------------------------------------------------------------------

def test_gains():
    found = table("gaag/table1").gains().set_index(["row", "over", "group", "metric"])
    # both in the text
    assert found.loc[("Ours", "Baseline", "MLR-CUHK03", "Rank-1"), "gain"] == 9.5 and found.loc[("Ours", "Ours: Naive", "MLR-CUHK03", "Rank-1"), "gain"] == 12.4
    assert table("di_reid/table3").gains().query("over == 'Ours w/o DIL' and metric == 'Rank-1'")["gain"].item() == 6.6
    assert table("msfl/table4").gains().query("group == 'MSMT17' and over == 'ResNet50' and metric == 'Rank-1'")["doubt"].eq("wrong").all()
    assert table("jad/table7").gains().query("row == 'JAD'")["doubt"].eq("doubtful").all() and table("jad/table7").gains().query("row == 'AT'")["doubt"].eq("").all()
    assert table("aos/figure5").gains().empty and list(table("aos/figure5").gains()) == list(table("aos/table1").gains())
    for name in tables():
        assert all(set(pair) <= set(table(name).rows) for pair in table(name).claims)


def test_html():
    text = table("di_reid/table2")._repr_html_()
    assert "<s>85.9</s> (34) *" in text and text.count("<tr>") == 2 + 8 and "GAAG Table 2 quotes 34.0" in text
    assert "(g) stages lost ‡" in table("msfl/table3")._repr_html_() and "reidbench: l2" not in table("msfl/table3")._repr_html_()
    assert ">37.00<" in table("aos/table1")._repr_html_()  # as printed, not 37
    assert "<s>" not in table("jad/table7")._repr_html_() and ">90.6 *<" in table("jad/table7")._repr_html_()


# -- bad input ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad,near", [("aos/tabel1", "aos/table1"), ("AOS/table2", "aos/table2"), ("jad/table9", "jad/table"),
                                      ("direid/table3", "di_reid/table3"), ("msfl table4", "msfl/table4")])
def test_a_bad_name_offers_the_nearest(bad, near):
    with pytest.raises(ValueError, match=f"did you mean '{near}"):
        table(bad)


def test_a_name_like_none_lists_all():
    with pytest.raises(ValueError, match="there are: aos/table1"):
        table("???")


def test_bad_cells():
    with pytest.raises(ValueError, match="no row 'Samplin'.*'Sampling'"):
        table("aos/table1").cell("Samplin", "CUHK03", "mAP")
    with pytest.raises(ValueError, match="no metric 'map'.*'mAP'"):
        table("aos/table1").cell("Sampling", "CUHK03", "map")
    with pytest.raises(ValueError, match="no group 'CUHK3'"):
        table("aos/table1").cell("Sampling", "CUHK3", "mAP")


def test_bad_words_and_settings():
    with pytest.raises(ValueError, match="no word 'stratgy': did you mean 'strategy'"):
        translate("aos", (("stratgy", "sampling"),))
    with pytest.raises(ValueError, match="did you mean 'proactive'"):
        translate("jad", (("training", "proactiv"),))
    with pytest.raises(ValueError, match="no 'epoch': did you mean 'epochs'"):
        make_settings(Run("x", "y", "baseline", (), MARKET, MARKET), epoch=3)
    with pytest.raises(ModuleNotFoundError, match="this version of reidbench has no reidbench.nothing"):
        pages.find("reidbench.nothing:Thing")
    with pytest.raises(AttributeError, match="reidbench.methods.baseline has no Thing"):
        pages.find("reidbench.methods.baseline:Thing")


def test_bad_lines():
    with pytest.raises(ValueError, match="3 numbers for 2 columns"):
        parse("Ours | 1 2 3", 2)
    with pytest.raises(ValueError, match="a name twice"):
        parse("Ours | 1 2\nOurs | 1 3", 2)
    before = dict(pages.TABLES)
    with pytest.raises(ValueError, match="lines and rows do not fit: .*Other"):
        pages.add("x/table1", "x", pages.on_sets("Rank-1", MARKET), [pages.row("Ours", "aos")], "Other | 3")
    assert pages.TABLES == before


def test_frames_are_copies():
    frame = table("aos/table1").frame()
    frame.iloc[0, 0] = 0
    assert table("aos/table1").frame().iloc[0, 0] == 84.42 and isinstance(frame, pd.DataFrame)


def test_who_asks_makes_no_other_training():
    "Tables that ask from another camera train on the same pictures: one model serves them all."
    from reidbench.studies.runner import Budget, plan

    for asked in (pages.STREET_LOW, pages.STREET_DARK):
        assert asked.learnt == pages.STREET
    mlr = DataSet("MLR-mine", "mine", (), "single-gallery-shot", mlr_camera=1)
    assert mlr.learnt == replace(mlr, protocol="market")  # its pictures are others
    assert DataSet("Mine, low", "mine", (("split", 3),), "single-gallery-shot", low_camera=2).learnt == DataSet("Mine, low", "mine", (("split", 3),))
    keys = {}
    for name in ("gaag/table1", "di_reid/table1", "di_reid/table3"):
        jobs, _ = plan(pages.table(name).runs("street"), [0], Budget("small"))
        keys[name] = {job.run.row: job.key for job in jobs}
    jobs, _ = plan(matrix().runs(), [0], Budget("small"))
    whole = {job.run.row: job.key for job in jobs}
    assert whole["GAAG"] == keys["gaag/table1"]["Ours"] and whole["DI-REID"] == keys["di_reid/table1"]["Ours"] == keys["di_reid/table3"]["Ours"]
    assert len(set(keys["gaag/table1"].values())) == 6


def test_each_seed_of_mlr_viper_has_its_own_halves(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDBENCH_CACHE", str(tmp_path / "cache"))
    for camera in ("cam_a", "cam_b"):
        (tmp_path / "VIPeR" / camera).mkdir(parents=True)
        for pid in range(20):
            Image.fromarray(np.full((12, 8, 3), 10 * pid, np.uint8)).save(tmp_path / "VIPeR" / camera / f"{pid:03d}_0.bmp")
    here = next(c.run.test for c in table("gaag/table1").cells if c.group == "MLR-VIPeR" and c.runs)
    with pytest.warns(UserWarning):  # twenty people are not VIPeR's 632
        sets = [here.at(seed).load(tmp_path) for seed in range(3)]
    assert len({b.fingerprint() for b in sets}) == 3 and all(set(b.query.camid) == {1} for b in sets)
    with pytest.raises(ValueError, match="0 to 19"):
        here.at(10).load(tmp_path)
