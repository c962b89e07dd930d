"""How long every score of conf/metric/precipitation.yaml takes: 1000 fields of 64 × 64 cells, ten members.

`OMP_NUM_THREADS=1 python benchmarks/precipitation_scores.py`
"""

import argparse
import time

import torch
import yaml
from hydra.utils import instantiate

from vaecollapse import config
from vaecollapse.metrics.fields import FieldMetric, Fields


def metrics() -> dict[str, FieldMetric]:
    folder = config.folder() / "metric"
    names = yaml.safe_load((folder / "precipitation.yaml").read_text("utf-8"))["defaults"]
    return {name: instantiate(yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8"))[name]) for name in names}


def rain(count: int, times: int, size: int) -> torch.Tensor:
    """Thresholded Gaussian fields, two cells in five wet."""
    white = torch.randn(count, times, size, size, generator=torch.Generator().manual_seed(0))
    wave = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size))
    smooth = torch.fft.irfft2(torch.fft.rfft2(white) * torch.exp(-((8 * wave) ** 2)), s=(size, size))
    return 5 * (smooth / smooth.std() - 0.25).clamp(min=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("members", 10), ("times", 1000), ("size", 64), ("part", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    fields = rain(2 * given.members + 1, given.times, given.size)
    of = torch.arange(given.times)
    real = Fields(fields[0], block=of * 20 // given.times, index=of, reference=fields[1 + given.members :])
    members, total = fields[1 : 1 + given.members], 0.0
    print("| metric | CPU seconds | first score |\n|---|---|---|")
    for name, metric in metrics().items():
        started = time.process_time()
        for start in range(0, given.times, given.part):
            rows = slice(start, start + given.part)
            metric.update(real.at(rows), members[:, rows])
        first, *_ = metric.scores()
        spent = time.process_time() - started
        total += spent
        error = "" if first.se is None else f" ± {first.se:.2g}"
        print(f"| {name} | {spent:.2f} | {first.name} {first.value:.4g}{error} |")
    print(f"| all | {total:.1f} | |")


if __name__ == "__main__":
    main()
