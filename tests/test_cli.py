"The command line: what the user can mend is one sentence, and every setting and option of a set is within reach."
import json
import re
import shutil
import warnings

import pytest
from PIL import Image
from typer.testing import CliRunner

from reidbench.cli import app, setting, settings_from

RUN = CliRunner()


def say(*words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return RUN.invoke(app, [str(w) for w in words])


def refused(*words):
    "The one sentence of a command that fails."
    result = say(*words)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), (result.output, result.exception)
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in result.output
    return lines[0]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    "One set in Market-1501's layout: 4 people, 2 cameras, 2 pictures each; two to learn from."
    root = tmp_path_factory.mktemp("sets")
    for pid in range(1, 5):
        for cam in (1, 2):
            for frame in (1, 2):
                part = "bounding_box_train" if pid < 3 else "query" if frame == 1 else "bounding_box_test"
                path = root / "tiny" / part / f"{pid:04d}_c{cam}s1_{frame:06d}_01.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 32), (60 * pid, 40 * cam, 90)).save(path)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch

    from reidbench.nets.identity import IdentityNet
    from reidbench.nets.weights import save_model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_model(folder / "model.safetensors", IdentityNet("resnet10", 2), size=[64, 32], method="baseline")
    return folder


def test_home_is_home_in_a_value_as_well(sets, model, monkeypatch, tmp_path):
    "A shell expands ~ where a word begins, not behind an =."
    monkeypatch.setenv("HOME", str(sets))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, sets / "model", dirs_exist_ok=True)
    result = say("evaluate", "~/model", "tiny", "--root=~", "--out=~/figures.json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert (sets / "figures.json").is_file() and not list(tmp_path.iterdir())


# -- errors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("words,says", [
    (("train", "--epochs", "0", "street"), "--epochs: name the set first, then the settings: reidbench train street --epochs 20"),
    (("train", "--epochs=0", "street"), "--epochs=0: name the set first"),
    (("study", "--epochs", "1", "aos/table1"), "--epochs: name the table first, then the settings: reidbench study aos/table1 --epochs 20")],
    ids=["train", "train =", "study"])
def test_a_setting_before_the_name_is_told(words, says):
    assert says in refused(*words)


def test_where_results_cannot_go_is_told_before_the_work(tmp_path, sets, model, monkeypatch):
    monkeypatch.setattr("reidbench.cli._evaluate", None)  # would be called, and fail
    assert f"--out {tmp_path}: is a folder" in refused("evaluate", model, "tiny", "--root", sets, "--out", tmp_path)
    (tmp_path / "file").write_text("mine")
    assert "file: is a file; name a folder" in refused("tour", "--folder", tmp_path / "file")


def test_files_in_the_way_are_one_sentence(tmp_path, sets, model):
    (tmp_path / "file").write_text("mine")
    for folder, says in (("file", "File exists"), ("file/x", "Not a directory")):
        assert re.fullmatch(rf"error: .*{folder}.*: {says}", refused("train", "tiny", "--root", sets, "--small", "--folder", tmp_path / folder))
    assert re.fullmatch(r"error: .*file: File exists", refused("evaluate", model, "tiny", "--root", sets, "--device", "cpu", "--out", tmp_path / "file/x.json"))
    assert re.fullmatch(r"error: .*file.*: (File exists|Not a directory)", refused("data", "build", "--root", tmp_path / "file", "--identities", 4))
    assert (tmp_path / "file").read_text() == "mine"


def test_another_street_says_how_to_replace_it_in_a_terminal(tmp_path):
    build = ["data", "build", "--root", tmp_path, "--identities", 4, "--images", 2, "--size", "64x32", "--workers", 1]
    assert say(*build).exit_code == 0
    assert "(in a terminal --overwrite)" in refused(*build, "--seed", 1)
    assert say(*build, "--seed", 1, "--train", 3, "--overwrite").exit_code == 0
    made = json.loads((tmp_path / "street/street.json").read_text())["arguments"]
    assert (made["identities"], made["seed"], made["images"], made["size"], made["train"]) == (4, 1, 2, [64, 32], 3)
    assert all(f"error: --size: {wrong!r} is no list of whole numbers" in refused(*build, "--size", wrong)
               for wrong in ("big", "64.5x32", "")) and "give (height, width)" in refused(*build, "--size", "64")
    checked = say("data", "check", "street", "--root", tmp_path)
    assert checked.exit_code == 0 and "4 people, seed 1" in checked.output
    assert say("data", "check", "street", "--root", tmp_path, *(w for pair in ("identities=4", "images=2", "size=64x32", "train=3", "seed=1")
                                                                for w in ("--set", pair))).exit_code == 0
    assert refused("data", "check", "street", "--root", tmp_path, "--set", "identities=many").startswith("error: --set identities=many: ")
    assert "built with other arguments" in refused("data", "check", "street", "--root", tmp_path, "--set", "seed=2", "--set", "workers=1")


def test_what_cannot_be_is_said_before_anything_is_embedded(sets, model, monkeypatch):
    from reidbench.nets import identity

    monkeypatch.setattr(identity, "retrieve", lambda *args, **options: pytest.fail("it was embedded"))
    search = ["evaluate", model, "tiny", "--root", sets]
    assert refused(*search, "--metric", "cosin") == "error: --metric cosin: give euclidean or cosine"
    assert refused(*search, "--protocol", "markt").startswith("error: --protocol markt: give market or ")
    assert refused(*search, "--batch", "0").startswith("error: --batch 0: give 1 or more")
    assert refused(*search, "--device", "foo").startswith("error: device 'foo' is not known")


def test_a_file_of_no_model_that_embeds_gives_no_advice_that_is_no_python(tmp_path, sets):
    from reidbench.nets.weights import shipped

    says = refused("evaluate", shipped("resolution"), "tiny", "--root", sets)
    assert "trained by 'gaag-adjuster'" in says and "reidbench.methods" not in says


# -- settings -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["epochs", "lr", "p", "milestones", "size", "frozen-statistics", "trackers", "dropout"])
def test_none_is_no_value_of_a_setting_that_has_none(name):
    from reidbench.methods.baseline import BaselineSettings

    for text in ("none", "None", "null"):
        with pytest.raises(ValueError, match=f"--{name}: '{text}' is not a .*the default is"):
            setting(BaselineSettings, name, text)


def test_none_where_it_means_something():
    from reidbench.methods.baseline import BaselineSettings
    from reidbench.methods.di_reid import DIREIDSettings
    from reidbench.methods.gaag import GAAGSettings

    s = settings_from(BaselineSettings(device="cpu", processes=1, clip=2.0),
                      [w for n in ("weights", "margin", "device", "processes", "clip") for w in (f"--{n}", "none")])
    assert (s.weights, s.margin, s.device, s.processes, s.clip) == (None,) * 5
    s = settings_from(GAAGSettings(), ["--strength", "none", "--low-cameras", "none", "--adjuster-clip", "none", "--widths", "narrow"])
    assert (s.strength, s.low_cameras, s.adjuster_clip) == (None, None, None) and s.widths == GAAGSettings(widths="narrow").widths != GAAGSettings().widths
    assert setting(GAAGSettings, "adjuster-clip", "2.5") == ("adjuster_clip", 2.5)  # `float | None`
    assert setting(DIREIDSettings, "supervision", "none") == ("supervision", "none")  # a word of its own there


def test_tuples_of_words_and_of_numbers():
    from reidbench.methods.baseline import BaselineSettings
    from reidbench.methods.gaag import GAAGSettings
    from reidbench.methods.msfl import MSFLSettings

    read = lambda kind, name, text: setting(kind, name, text)[1]
    assert read(BaselineSettings, "trackers", "tensorboard") == ("tensorboard",) and read(BaselineSettings, "trackers",
                                                                                          "tensorboardx, wandb") == ("tensorboardx", "wandb")
    assert read(MSFLSettings, "stages", "layer1,layer3") == ("layer1", "layer3") and read(BaselineSettings, "trackers", "max2x") == ("max2x",)
    assert read(BaselineSettings, "size", "128x64") == read(BaselineSettings, "size", "128 x 64") == read(BaselineSettings, "size", "128,64") == (128, 64) and read(BaselineSettings, "milestones", "") == ()
    assert read(GAAGSettings, "strength", "1.5,4") == (1.5, 4) and read(GAAGSettings, "reread-range", "-1.5,1e0") == (-1.5, 1.0) and read(GAAGSettings, "low-cameras", "3,6") == (3, 6)
    for kind, name, text in ((BaselineSettings, "size", "big"), (BaselineSettings, "size", "128x"), (BaselineSettings, "milestones", "3,late"),
                             (GAAGSettings, "low-cameras", "front")):
        with pytest.raises(ValueError, match=f"--{name}: '{text}' is not a tuple"):
            setting(kind, name, text)


# -- what a set's reader takes --------------------------------------------------------------------------------------
def test_the_options_of_a_set_are_within_reach(tmp_path):
    for pid in range(6):
        for side, angle in (("cam_a", 0), ("cam_b", 90)):
            path = tmp_path / "VIPeR" / side / f"{pid:03d}_{angle}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 16)).save(path)
    check = ["data", "check", "viper", "--root", tmp_path]
    found = say(*check, "--set", "split=3", "--set", "seed=7")
    assert found.exit_code == 0 and "split 3 of 20, seed 7" in found.output
    assert "it takes split, seed" in refused(*check, "--set", "protocol=classic")
    assert "from 0 to 19" in refused(*check, "--set", "split=20") and "from 0 to 19" in refused(*check, "--set", "split=first")
    assert refused(*check, "--set", "seed=lucky").startswith("error: --set seed=lucky: ")
    for words in ("split", "split=", "=3"):
        assert "give key=value" in refused(*check, "--set", words)
    assert "it takes split, seed" in refused("train", "viper", "--root", tmp_path, "--small", "--set", "foo=1")
    assert "it takes split, seed" in refused("evaluate", "resnet18", "viper", "--root", tmp_path, "--set", "foo=1", "--size", "32x16")


def test_train_without_progress(sets, monkeypatch):
    from reidbench.core.record import Record
    from reidbench.methods import baseline

    asked = []
    monkeypatch.setattr(baseline, "train", lambda benchmark, settings, folder, quiet=False: (asked.append((len(benchmark.train), settings.epochs, folder, quiet)), (None, Record("baseline")))[1])
    for words in ((), ("--quiet",)):
        assert say("train", sets / "tiny", "--small", "--epochs", 2, *words).exit_code == 0
    assert [a[3] for a in asked] == [False, True] and asked[0][:2] == (8, 2) and str(asked[0][2]).endswith("tiny-strong")


@pytest.mark.parametrize("option", ["--root", "--data"])
def test_study_takes_root_too(tmp_path, option):
    (tmp_path / "here").mkdir()
    says = refused("study", "aos/table1", "--on", "tiny", option, tmp_path / "here")
    assert "no folder of that name in" in says and str(tmp_path / "here") in says


def test_the_state_of_a_study_renders_nothing(tmp_path):
    "Not even the second town of the sample set."
    done = say("study", "jad/table2", "--on", "street", "--budget", "small", "--state", "--root", tmp_path / "data", "--folder", tmp_path / "study")
    assert done.exit_code == 0 and "Street, second town" in done.output and "waiting" in done.output
    assert not list(tmp_path.rglob("*.jpg")) and not (tmp_path / "data").exists()


@pytest.mark.parametrize("typed,meant", [("--row", "--rows"), ("--bugdet", "--budget"), ("--onn", "--on"), ("--epoch", "--epochs"), ("--datta", "--data")])
def test_a_mistyped_option_may_be_the_commands_own(tmp_path, typed, meant):
    assert f"no setting {typed}; did you mean {meant}?" in refused("study", "aos/table1", "--on", "street", "--state", "--root", tmp_path, "--folder",
                                                                   tmp_path, typed, "1")


def test_of_several_processes_the_first_tells(tmp_path, monkeypatch):
    from reidbench.studies.runner import Study

    study = ["study", "aos/table1", "--budget", "small", "--root", tmp_path, "--folder", tmp_path / "study"]
    monkeypatch.setattr(Study, "run", lambda self, *rest: self)
    assert say(*study).exit_code == 1 and "cannot run" in say(*study).output  # no set is there
    monkeypatch.setattr(Study, "states", lambda self: pytest.fail("it looked"))
    monkeypatch.setenv("RANK", "1")
    assert (say(*study).exit_code, say(*study).output) == (0, "")


@pytest.mark.parametrize("words", [("aos/table1", "--on", "street"), ("jad/table2",), ("matrix",)])
def test_another_set_that_nothing_takes(tmp_path, words):
    assert "--other market1501: nothing takes it" in refused("study", *words, "--other", "market1501", "--state", "--root", tmp_path, "--folder", tmp_path)


def test_no_rows_are_not_all_rows(tmp_path):
    assert "rows: give at least one" in refused("study", "aos/table1", "--on", "street", "--state", "--root", tmp_path, "--folder", tmp_path, "--rows", "")


def test_a_mistyped_option_of_a_training_too(sets):
    assert "no setting --presets; did you mean --preset?" in refused("train", "tiny", "--root", sets, "--presets", "strong")
