"""vaecollapse-report on many run directories: seconds, memory and page, at first and from what was kept; and what the
page takes in Chromium, where there is one.

OMP_NUM_THREADS=1 python benchmarks/report.py [runs]
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import PROGRAM, Browser
from planted_runs import plant

# what a reader does, as an expression of the page
ACTS = {
    "filter by text": "(() => { const f = document.getElementById('filter'); f.value = 'seed=3';"
    " f.dispatchEvent(new Event('input')); })()",
    "filter by verdict": "document.querySelector('.chip').click()",
    "clear": "document.querySelector('button.clear').click()",
    "sort by R": "[...document.querySelectorAll('table.runs thead button')].find((b) => b.innerText === 'R').click()",
    "other knob": "(() => { const s = document.querySelectorAll('select.axis')[1]; s.selectedIndex = 3;"
    " s.dispatchEvent(new Event('change')); })()",
    "show all rows": "document.querySelector('button.more').click()",
    "open a run": "openRun(DATA.runs[7])",
}

# a config.yaml as long as a real one: 360 lines
PADDING = "".join(f"callback_{i}:\n  _target_: vaecollapse.callbacks.monitor.CollapseMonitor\n  every_n_steps: {i}\n"
                  "  bars:\n    half: 0.5\n    blind: 2.0\n" for i in range(64))  # fmt: skip


def made(folder: Path, count: int) -> int:
    """A sweep of two knobs at five seeds, 16 units, 600 steps; the bytes of a run."""
    for i in range(count):
        beta = 0.1 * 1.3 ** (i // 5 % 20)
        plant(folder / str(i), beta=beta, capacity=8 * (1 + i // 100), seed=i % 5, steps=600, units=16, looks=12,
              padding=PADDING)  # fmt: skip
    return sum(path.stat().st_size for path in (folder / "0").iterdir())


def timed(folder: Path, environment: dict[str, str], *typed: str) -> dict[str, float]:
    """The command in a process of its own."""
    line = [
        sys.executable,
        "-m",
        "vaecollapse",
        "report",
        f"runs={folder / 'runs'}",
        f"out={folder / 'page.html'}",
        *typed,
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - start, "processor": cpu, "memory": after.ru_maxrss / 1024,
            "page": (folder / "page.html").stat().st_size / 2**20}  # fmt: skip


def browsed(page: Path, profile: Path) -> None:
    """Milliseconds until it is drawn, and from each act until what it changes is drawn (two frames)."""
    browser = Browser(profile)
    print("\n| until | milliseconds |\n|---|---|")
    try:
        for label, width in (("drawn", 1280), ("drawn, on a phone's width", 390)):
            browser.open(page, width=width)
            drawn = browser.run("Math.round(performance.getEntriesByType('navigation')[0].domComplete)")
            print(f"| {label} | {drawn} |")
        browser.open(page)
        for label, act in ACTS.items():
            frames = "requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)))"
            took = browser.run(f"new Promise((done) => {{ const start = performance.now(); {act}; {frames}; }})")
            print(f"| {label} | {took:.0f} |")
        heap = browser.run("performance.memory.usedJSHeapSize / 2 ** 20")
        print(f"\n{heap:.0f} MB of JavaScript's heap, {len(browser.errors)} complaints of the console")
    finally:
        browser.close()


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = made(folder / "runs", count)
        root = str(Path(__file__).parents[1])
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": root}
        print(f"{count} runs of {size / 1024:.0f} kB\n")
        print("| | wall | processor | peak memory | page |\n|---|---|---|---|---|")
        for label in ("at first", "again", "after one run changed"):
            if label == "after one run changed":
                verdict = folder / "runs" / "0" / "verdict.json"
                verdict.write_text(json.dumps(json.loads(verdict.read_text()) | {"confidence": "high"}))
            found = timed(folder, environment)
            print(f"| {label} | {found['seconds']:.1f} s | {found['processor']:.1f} s | {found['memory']:.0f} MB | "
                  f"{found['page']:.1f} MB |", flush=True)  # fmt: skip
        if PROGRAM is not None:
            browsed(folder / "page.html", folder / "profile")
        if len(sys.argv) > 2:
            (folder / "page.html").replace(sys.argv[2])


if __name__ == "__main__":
    main()
