"What the benchmarks share: interleaved pairs, medians of ratios, peak memory, peers from the package registry."
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

PEERS = Path(__file__).resolve().parent.parent / "outputs" / "peers"


def seconds(call):
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def pairs(ours, theirs, n, warm=False):
    "Median seconds of both and the median ratio, run in turns; `warm`: each once before."
    if warm:
        ours(), theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(n)]
    a, b = zip(*times)
    return statistics.median(a), statistics.median(b), statistics.median(y / x for x, y in times)


def line(what, ours, theirs, ratio, wanted="", width=74):
    print(f"{what:<{width}} {ours:8.3f} s {theirs:8.3f} s {ratio:7.2f}x  {wanted}", flush=True)


def pip(*args):
    "The package registry's ordinary client."
    subprocess.run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *args], check=True, capture_output=True)


def peer(name, version):
    "A package from the registry, without what it asks for besides, imported; None where it cannot be had."
    place = PEERS / name
    try:
        if not place.is_dir():
            pip("install", "--no-deps", "--target", str(place), f"{name}=={version}")
        sys.path.append(str(place))
        return importlib.import_module(name)
    except (subprocess.CalledProcessError, OSError, ImportError) as error:
        print(f"not to be had: {name} ({type(error).__name__}: {error})", file=sys.stderr)


def peak_memory():
    "The largest resident size of this process, gigabytes."
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would hold the parent's peak too
        return next(int(row.split()[1]) for row in status.read_text().splitlines() if row.startswith("VmHWM")) * 1024 / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def alone(script, *args):
    "Run a job of a benchmark in a process of its own: (what it printed as JSON in its last line, None), or (None, what went wrong)."
    ran = subprocess.run([sys.executable, script, *map(str, args)], capture_output=True, text=True)
    if ran.returncode:
        return None, (ran.stderr.strip().splitlines() or [f"exit {ran.returncode}"])[-1]
    return json.loads(ran.stdout.strip().splitlines()[-1]), None
