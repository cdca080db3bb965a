"The notebooks are clean, small, in order, and the package is what they export."
import ast
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts and "_proc" not in p.parts)
BY_HAND = {"__main__.py"}  # the files of the package that no notebook exports


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The project's notebooks and package in another place, cleaned and exported there."
    place = tmp_path_factory.mktemp("copy")
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, place)
    shutil.copytree(ROOT / "nbs", place / "nbs", symlinks=True, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "_proc"))
    (place / "reidbench").mkdir()
    for source in (ROOT / "reidbench").rglob("*.py"):
        if source.name == "__init__.py" or source.name in BY_HAND:
            target = place / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    tools = Path(sys.executable).parent
    for command in (["nbdev_clean", "--fname", "nbs"], ["nbdev_export"]):
        subprocess.run([tools / command[0], *command[1:]], cwd=place, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(place)})
    return place


def test_there_are_notebooks():
    assert len(NOTEBOOKS) > 10


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_clean(path, copy):
    stored = json.loads(path.read_text())
    cleaned = json.loads((copy / path.relative_to(ROOT)).read_text())
    assert stored == cleaned, f"{path.relative_to(ROOT)} is not clean: run nbdev_clean"


def test_package_is_what_the_notebooks_export(copy):
    ours = {p.relative_to(ROOT) for p in (ROOT / "reidbench").rglob("*.py")}
    exported = {p.relative_to(copy) for p in (copy / "reidbench").rglob("*.py")}
    assert ours == exported, f"only one side has {ours ^ exported}: run nbdev_export, remove what no notebook exports"
    different = [str(p) for p in sorted(ours) if not filecmp.cmp(ROOT / p, copy / p, shallow=False)]
    assert not different, f"{different} differ from their notebooks: run nbdev_export"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_page(path):
    "A title, a line that says what it is, no widget state, under a megabyte (three with twins), no stored error."
    book = json.loads(path.read_text())
    first = "".join(book["cells"][0]["source"])
    assert re.match(r"# .+\n\n> .+", first), "the first cell is a title and a > line"
    assert "widgets" not in book["metadata"]
    twins = any("reidbench-twin" in "".join(o.get("data", {}).get("text/html", "")) for c in book["cells"] for o in c.get("outputs", []))
    assert path.stat().st_size < (3e6 if twins else 1e6)
    outputs = [o for c in book["cells"] for o in c.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error"]
    alive = [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert not alive, "a living widget's address is stored: run the notebook with REIDBENCH_WIDGETS=static (make pages does)"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_imports_stand_alone(path):
    "The site's builder runs every cell that imports: beside other code it would run that too."
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "nbdev_export(" not in source:
            body = ast.parse(source).body
            imports = [isinstance(s, (ast.Import, ast.ImportFrom)) for s in body]
            assert all(imports) or not any(imports), f"{path.name}: give the imports of this cell a cell of their own:\n{source}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_links(path):
    "Links between pages lead somewhere."
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\(([^):#]+\.ipynb)", "".join(cell["source"])):
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_sidebar_names_every_page_once():
    listed = sorted(re.findall(r"- ([\w/]+\.ipynb)", (ROOT / "nbs" / "sidebar.yml").read_text()))
    assert listed == sorted(str(p.relative_to(ROOT / "nbs")) for p in NOTEBOOKS)


def test_readme_is_the_index():
    "README.md says what nbs/index.ipynb says."
    readme = (ROOT / "README.md").read_text()
    for cell in json.loads((ROOT / "nbs" / "index.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            for line in "".join(cell["source"]).splitlines():
                if line and "](" not in line:
                    assert line in readme, f"README.md lacks {line!r}: run make readme"
