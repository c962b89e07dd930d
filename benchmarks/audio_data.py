"""How fast recordings become clips, on one core: scanning, and random 1-s crops against decoding whole files.

    python benchmarks/audio_data.py path/to/recordings

The folder's wav files are scanned as they are, and joined to takes of 30 s in a temporary folder, as wav and flac at
their own rate and as stereo at 44.1 kHz. Every crop is a whole training example as the loader gets it: drawn, read,
resampled, gated, levelled, masked. Prints a markdown table; measurements alternate, the median of five counts.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

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
            started = time.perf_counter()
            for _ in range(times):
                function()
            spent[name].append((time.perf_counter() - started) / times)
    return {name: 1 / median(each) for name, each in spent.items()}


def crops(root: Path, folder: Path) -> list[tuple[str, float, float | None]]:
    rate = join(root, folder)
    pack = Setup(folder / "wav", rate=rate, pack_gib=1.0)
    wide = folder / "wide_wav"
    found = per_second({
        f"pack, {rate} Hz": (pack, 8 * CROPS),
        f"wav in parts, {rate} Hz": (Setup(folder / "wav", rate=rate, pack_gib=0.0), 4 * CROPS),
        f"flac in parts, {rate} Hz": (Setup(folder / "flac", rate=rate, pack_gib=0.0), CROPS),
        "pack, 16000 Hz of stereo at 44100": (Setup(wide, rate=16000, pack_gib=1.0), 8 * CROPS),
        "wav in parts, stereo at 44100 Hz to 16000": (Setup(wide, rate=16000, pack_gib=0.0), CROPS),
        f"wav whole, then cut, {rate} Hz": (whole_then_crop(folder / "wav", rate), CROPS // 4),
        f"flac whole, then cut, {rate} Hz": (whole_then_crop(folder / "flac", rate), 8),
        "wav whole, then cut, stereo at 44100 Hz to 16000": (whole_then_crop(wide, 16000), 4),
    })  # fmt: skip
    goals = [20000, 3000, 500, 20000, None, None, None, None]
    return [(name, speed, goal) for (name, speed), goal in zip(found.items(), goals, strict=True)]


def scanning(root: Path) -> list[tuple[str, float, float | None]]:
    """Files per second, without a cache and with one that knows all of them; and a setup with both."""
    listing, cache = find(root), Cache()
    count, nothing = len(listing.found), Cache()
    nothing.folder = None
    data = lambda: AudioFolderData(root=root).setup()  # noqa: E731
    scan(root, listing, **SCANNING, cache=cache)
    data()
    found = per_second({
        "scan, nothing cached": (lambda: scan(root, find(root), **SCANNING, cache=nothing), 1),
        "scan, all cached": (lambda: scan(root, find(root), **SCANNING, cache=cache), 1),
        "dataset set up, all cached": (data, 1),
    })  # fmt: skip
    goals = [2000, None, count]  # within a second
    return [(name, count * speed, goal) for (name, speed), goal in zip(found.items(), goals, strict=True)]


def table(head: str, rows: list[tuple[str, float, float | None]]) -> None:
    print(f"\n| {head} | goal | of the goal | of the last row |\n|---|---|---|---|---|")
    for name, speed, goal in rows:
        wanted, share = ("–", "–") if goal is None else (f"{goal:,.0f}", f"{speed / goal:.2f}")
        print(f"| {name} | {speed:,.0f} | {wanted} | {share} | {speed / rows[-1][1]:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    root = parser.parse_args().root
    torch.set_num_threads(1)
    logging.getLogger("vaecollapse").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        (takes := Path(folder, "takes")).mkdir()
        table("scan | files a second", scanning(root))
        table("random 1-s crops | times real time", crops(root, takes))


if __name__ == "__main__":
    main()
