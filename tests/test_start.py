"Starting is fast, and nothing heavy is imported before it is needed."
import time


def test_import_is_light(python):
    found = python("import sys, time; t = time.perf_counter(); import reidbench; t = time.perf_counter() - t; print(t, 'torch' in sys.modules, reidbench.__version__)")
    seconds, torch, version = found.stdout.split()
    assert float(seconds) < 0.3 and torch == "False" and version[0].isdigit()


def test_help_is_fast(python):
    times = []
    for _ in range(5):
        start = time.perf_counter()
        found = _help(python)
        times.append(time.perf_counter() - start)
        assert found.returncode == 0 and all(word in found.stdout for word in ("tour", "data", "train", "evaluate"))
    assert min(times) < 0.5, times


def _help(python):
    return python("import sys, runpy; sys.argv = ['reidbench', '--help']; runpy.run_module('reidbench', run_name='__main__')")


def test_help_imports_no_torch(python):
    found = python("import sys\nsys.argv = ['reidbench', '--help']\nfrom reidbench.__main__ import main\ntry:\n    main()\nexcept SystemExit:\n    print('torch' in sys.modules)")
    assert found.stdout.strip().endswith("False")


def test_the_workbench_imports_what_it_shows(python):
    "Packages that take seconds and that its first page does not use."
    heavy = ("torchvision", "torch._dynamo", "nbformat", "jsonschema", "sklearn", "umap", "scipy.stats", "onnx")
    found = python(f"import sys\nfrom reidbench.methods.baseline import shipped_identity\nfrom reidbench.methods.gaag import Adjuster\nfrom reidbench.widgets import Workbench\nshipped_identity()\nprint([m for m in {heavy!r} if m in sys.modules])")
    assert found.stdout.strip() == "[]", found.stdout + found.stderr


def test_a_program_that_ends_while_widgets_work_ends_well(python):
    "Python kills daemon threads when it ends; one killed within torch would end the program with it."
    found = python("""
import time
from reidbench.widgets import AttackTable, Workbench
page, table = Workbench(), AttackTable(begin=False)
table.given = {name: (lambda embed, images, **more: (time.sleep(0.5), images)[1]) for name in table.given}
table.compute()
assert table.work.thread is not None and any(part.work.thread for part in page.widgets.values())
""")
    assert found.returncode == 0 and not found.stderr, (found.returncode, found.stderr)
