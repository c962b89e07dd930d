"""How fast sounds become numbers and numbers become scores, on one core.

    OMP_NUM_THREADS=1 python benchmarks/audio_metrics.py
    OMP_NUM_THREADS=1 python benchmarks/audio_metrics.py --recordings path/to/recordings --count 150

1-s clips of noise through the log-mel embedding, then every score of conf/metric/audio.yaml on two sets of 10 000 rows.
With recordings: how often the interval of real against real holds 0, over draws of two disjoint sets of `count`, and
what the difference is in the mean. Prints markdown tables. Seconds are those of the processor, so that other work
on the machine does not count.
"""

import argparse
import time
from statistics import median

import torch
import yaml
from hydra.utils import instantiate

from vaecollapse import config
from vaecollapse.datasets.cache import Cache
from vaecollapse.listening.embedding import Embedding
from vaecollapse.listening.hearing import both
from vaecollapse.listening.log_mel import LogMelStatistics
from vaecollapse.listening.scoring import T
from vaecollapse.listening.sounds import Folder
from vaecollapse.metrics.frechet import frechet_distance
from vaecollapse.metrics.sets import SetMetric

ROUNDS, CLIPS = 5, 300


def embedding(rate: int) -> float:
    """1-s clips a second."""
    hear, clips = LogMelStatistics(sample_rate=rate), 0.1 * torch.randn(16, rate)
    hear(clips[0])
    spent = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for number in range(CLIPS):
            hear(clips[number % 16])
        spent.append((time.process_time() - started) / CLIPS)
    return 1 / median(spent)


def metrics() -> dict[str, SetMetric]:
    folder = config.folder() / "metric"
    names = yaml.safe_load((folder / "audio.yaml").read_text("utf-8"))["defaults"]
    built = {name: instantiate(yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8"))[name]) for name in names}
    return {name: each for name, each in built.items() if isinstance(each, SetMetric)}


def coverage(root: str, count: int, draws: int) -> None:
    """A row for each score of real clips against other real ones."""
    cache, embedding = Cache(), Embedding()
    folder = Folder.of(root, "recordings", cache)
    sounds = folder.sounds(folder.rate, embedding.samples(folder.rate)).distinct()
    rows, _ = both(embedding, sounds, sounds, rate=folder.rate, cache=cache)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(draws):
        places = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        for name, metric in metrics().items():
            metric.seed = seed
            metric.update(rows[places[:count]], rows[places[count : 2 * count]])
            first, *_ = metric.scores(embedding.view(count))
            found.setdefault(name, []).append(((first.value or 0.0) - (first.truth or 0.0), T * (first.se or 0.0)))
    print(f"| score, {count // 2} against {count // 2} of {len(rows)} | inside | value − real | half-width |")
    print("|---|---|---|---|")
    for name, each in found.items():
        apart, wide = torch.tensor(each, dtype=torch.float64).T
        inside, error = float((apart.abs() <= wide).double().mean()), float(apart.std()) / draws**0.5
        print(f"| {name} | {inside:.2f} | {float(apart.mean()):+.2g} ± {1.96 * error:.2g} | {float(wide.mean()):.2g} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("clips", 10_000), ("dimensions", 32), ("count", 150), ("draws", 60)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--recordings")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.recordings:
        coverage(given.recordings, given.count, given.draws)
        return
    print("| sample rate (Hz) | 1-s clips a second and core | goal |\n|---|---|---|")
    for rate in (8000, 16000, 44100):
        print(f"| {rate} | {embedding(rate):,.0f} | {'1,000' if rate <= 16000 else '–'} |")
    real, generated = torch.randn(2, given.clips, given.dimensions, generator=torch.Generator().manual_seed(0))
    started = time.process_time()
    frechet_distance(real, generated)
    print(
        f"\n| score | CPU seconds | first value |\n|---|---|---|\n| one FAD | {time.process_time() - started:.3f} | |"
    )
    for name, metric in metrics().items():
        started = time.process_time()
        metric.update(real, generated)
        (first, *_) = metric.scores()
        print(f"| {name}, {metric.splits} halves of {first.n} | {time.process_time() - started:.1f} | "
              f"{first.value:.4g} ± {2.093 * (first.se or 0.0):.2g}, real {first.truth:.4g} |")  # fmt: skip


if __name__ == "__main__":
    main()
