import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")


LONG = ("test_studies_processes", "test_studies", "test_training", "test_gaag", "test_di_reid", "test_aos")  # files of minutes


def pytest_collection_modifyitems(items):
    "Long files first: two processes that take a file each (`-n 2 --dist loadfile --no-loadscope-reorder`) end together."
    items.sort(key=lambda item: (item.path.stem not in LONG, item.path.parent.name != "browser"))


def pytest_terminal_summary(terminalreporter):
    "A machine without a browser tests the rest, and says so where it cannot be overlooked; CI has one."
    skipped = [r for r in terminalreporter.stats.get("skipped", ()) if "no Chromium found" in str(r.longrepr)]
    if skipped:
        terminalreporter.section("NOT TESTED: widgets in a browser", red=True)
        terminalreporter.write_line(f"{len(skipped)} tests were skipped: {skipped[0].longrepr[-1]}")


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def python():
    "Run a piece of Python in a process of its own, from the repository's source: (code, *arguments) -> CompletedProcess."
    import subprocess

    def run(code, *arguments, launcher=(), **options):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
        body = [code] if str(code).endswith(".py") else ["-c", code]
        return subprocess.run([sys.executable, *launcher, *body, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300, **options)

    return run


LEFT = """
import atexit, os
from pathlib import Path

@atexit.register
def left():  # the first that is registered is the last that runs
    if "RANK" in os.environ:
        threads = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
        Path(__file__).with_name(os.environ["RANK"]).write_text(" ".join(t for t in threads if "gloo" in t))
"""


@pytest.fixture(scope="session")
def processes(python, tmp_path_factory):
    "Run a script alone or in several processes under torchrun: (number, script, *arguments) -> CompletedProcess. None may fail, nor end with threads of gloo's: those may abort it."

    def run(number, script, *arguments):
        folder = tmp_path_factory.mktemp("left")
        (folder / "sitecustomize.py").write_text(LEFT)
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)) if number > 1 else ()
        done = python(script, *arguments, launcher=launcher, env={"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])})
        assert done.returncode == 0, done.stderr[-3000:]
        if number > 1:
            assert [(folder / str(rank)).read_text() for rank in range(number)] == [""] * number, "gloo's threads at the end of Python"
        return done

    return run


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    "A tiny benchmark of two-coloured pictures: 8 training and 4 test people, 3 cameras, 2 pictures each."
    import numpy as np
    import pandas as pd
    from PIL import Image

    from reidbench.data.people import Benchmark

    folder, rng, rows = tmp_path_factory.mktemp("colours"), np.random.default_rng(0), []
    for pid in range(12):
        top, bottom = rng.uniform(40, 220, (2, 3))
        for camid in range(3):
            for k in range(2):
                picture = np.where(np.arange(32)[:, None, None] < 17, top, bottom) * (0.8 + 0.15 * camid) + rng.normal(0, 14, (32, 16, 3))
                path = folder / f"{pid:04d}_c{camid}_{k}.png"
                Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)
                rows.append(dict(path=str(path), pid=pid, camid=camid))
    people = pd.DataFrame(rows)
    test = people[people.pid >= 8]
    return Benchmark("colours", people[people.pid < 8], test[test.camid == 0], test[test.camid != 0])
