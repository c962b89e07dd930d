"""How fast recordings become clips, on one core: scanning, and random 1-s crops against decoding whole files.

    python benchmarks/audio_data.py path/to/recordings

The folder's files are scanned as they are; its wav files are joined to takes of 30 s in a temporary folder, as wav and
flac at their own rate and as "wide" wav, stereo at 44.1 kHz that is mixed and brought to 16 kHz. Every crop is a whole
training example as the loader gets it: drawn, read, resampled, gated, levelled, masked. Prints markdown tables. Seconds
are those of the processor, so that other work on the machine does not count, and files are in the system's page cache;
measurements alternate, the median of five counts.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import soundfile as sf
import torch

from vaecollapse.datasets.audio import AudioFolderData
from vaecollapse.datasets.base import Visit
from vaecollapse.datasets.cache import Cache
from vaecollapse.datasets.recordings import mix
from vaecollapse.datasets.scan import find, scan
from vaecollapse.datasets.signals import resample

TAKES, SECONDS, ROUNDS, CROPS = 12, 30.0, 5, 400
SCANNING = dict(channels="mean", trim=None, min_seconds=0.0, max_bad_fraction=0.5)


class Setup:
    """A folder's dataset with clips of 1 s at `rate`, and one training visit after another."""

    def __init__(self, root: Path, *, rate: int, pack_gib: float) -> None:
        self.data = AudioFolderData(root=root, sample_rate=rate, seconds=1.0, multiple_of=1, pack_gib=pack_gib)
        self.clips = self.data.splits.train
        self.visits = 0

    def __call__(self) -> None:
        epoch, position = divmod(self.visits, len(self.clips))  # pyright: ignore[reportArgumentType]
        self.clips[Visit(position, epoch)]
        self.visits += 1


def whole_then_crop(root: Path, rate: int) -> Callable[[], None]:
    """What partial reads replace: decode a file to its end, mix, resample, cut."""
    paths, rng = sorted(root.iterdir()), np.random.default_rng(0)

    def crop() -> None:
        frames, own = sf.read(paths[rng.integers(len(paths))], dtype="float32", always_2d=True)
        signal = resample(mix(frames, "mean"), own, rate)[0]
        start = rng.integers(len(signal) - rate + 1)
        torch.from_numpy(signal[start : start + rate].copy())

    return crop


def join(root: Path, folder: Path) -> int:
    """Takes of `SECONDS` made of the folder's files, in three kinds; their sample rate."""
    files = [root / each.path for each in find(root).found if each.path.endswith(".wav")]
    rate = sf.info(files[0]).samplerate
    order = iter(np.random.default_rng(0).permutation(len(files)).tolist() * 100)
    for take in range(TAKES):
        parts, count = [], 0
        while count < SECONDS * rate:
            parts.append(sf.read(files[next(order)], dtype="float32", always_2d=True)[0][:, 0])
            count += len(parts[-1])
        signal = np.concatenate(parts)
        wide = resample(signal[None], rate, 44100)[0]
        kinds = {"wav": (signal, rate), "flac": (signal, rate), "wide.wav": (np.stack([wide, 0.5 * wide], 1), 44100)}
        for kind, (samples, own) in kinds.items():
            path = folder / kind.replace(".", "_") / f"{take}.{kind.rpartition('.')[2]}"
            path.parent.mkdir(exist_ok=True)
            sf.write(path, samples, own, subtype="PCM_16")
    return rate


def per_second(work: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """How often each can be done in a second; rounds alternate between them."""
    spent: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, (function, times) in work.items():
            started = time.process_time()
            for _ in range(times):
                function()
            spent[name].append((time.process_time() - started) / times)
    return {name: 1 / median(each) for name, each in spent.items()}


class Row(NamedTuple):
    """What was measured, the speed it should have, and the row it is compared with."""

    name: str
    speed: float
    goal: float | None
    against: str


def crops(root: Path, folder: Path) -> list[Row]:
    """Times real time."""
    rate = join(root, folder)
    whole = {kind: f"{kind} decoded whole, then cut" for kind in ("wav", "flac", "wide wav")}
    wide = folder / "wide_wav"
    plan = [
        ("wav in a pack", Setup(folder / "wav", rate=rate, pack_gib=1.0), 8 * CROPS, 20000, "wav"),
        ("wav in parts", Setup(folder / "wav", rate=rate, pack_gib=0.0), 4 * CROPS, 3000, "wav"),
        ("flac in parts", Setup(folder / "flac", rate=rate, pack_gib=0.0), CROPS, 500, "flac"),
        ("wide wav in a pack", Setup(wide, rate=16000, pack_gib=1.0), 8 * CROPS, 20000, "wide wav"),
        ("wide wav in parts", Setup(wide, rate=16000, pack_gib=0.0), CROPS, None, "wide wav"),
        (whole["wav"], whole_then_crop(folder / "wav", rate), CROPS // 4, None, "wav"),
        (whole["flac"], whole_then_crop(folder / "flac", rate), 8, None, "flac"),
        (whole["wide wav"], whole_then_crop(wide, 16000), 4, None, "wide wav"),
    ]
    found = per_second({name: (work, times) for name, work, times, _, _ in plan})
    return [Row(name, found[name], goal, whole[kind]) for name, _, _, goal, kind in plan]


def scanning(root: Path) -> list[Row]:
    """Files a second, without a cache and with one that knows all of them; and a whole setup."""
    listing, cache = find(root), Cache()
    nothing = Cache()
    nothing.folder = None

    def set_up() -> None:
        AudioFolderData(root=root).setup()

    set_up()  # fills the cache
    found = per_second({
        "scan, nothing cached": (lambda: scan(root, find(root), **SCANNING, cache=nothing), 1),
        "scan, all cached": (lambda: scan(root, find(root), **SCANNING, cache=cache), 1),
        "dataset set up, all cached": (set_up, 1),
    })  # fmt: skip
    count, first = len(listing.found), next(iter(found))
    goals = [2000, None, count]  # the last: within a second
    return [Row(name, count * found[name], goal, first) for name, goal in zip(found, goals, strict=True)]


def table(head: str, unit: str, rows: list[Row]) -> None:
    speeds = {row.name: row.speed for row in rows}
    print(f"\n| {head} | {unit} | goal | of the goal | ratio | to |\n|---|---|---|---|---|---|")
    for name, speed, goal, against in rows:
        wanted, share = ("–", "–") if goal is None else (f"{goal:,.0f}", f"{speed / goal:.2f}")
        ratio, other = ("–", "–") if name == against else (f"{speed / speeds[against]:,.1f}", against)
        print(f"| {name} | {speed:,.0f} | {wanted} | {share} | {ratio} | {other} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    root = parser.parse_args().root
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    logging.getLogger("vaecollapse").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        (takes := Path(folder, "takes")).mkdir()
        table(f"{root.name}, {len(find(root).found)} files", "files a second", scanning(root))
        table("random 1-s crops", "times real time", crops(root, takes))


if __name__ == "__main__":
    main()
