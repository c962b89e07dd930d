"""How fast sounds become numbers and numbers become scores, on one core.

    OMP_NUM_THREADS=1 python benchmarks/audio_metrics.py

1-s clips of noise through the log-mel embedding, then every score of conf/metric/audio.yaml on two sets of 10 000 rows.
Prints markdown tables. Seconds are those of the processor, so that other work on the machine does not count.
"""

import argparse
import time
from statistics import median

import torch
import yaml
from hydra.utils import instantiate

from vaecollapse import config
from vaecollapse.listening.log_mel import LogMelStatistics
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("clips", 10_000), ("dimensions", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
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
