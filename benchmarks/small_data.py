"""What few recordings do to a latent: the learning curve over dataset.fraction, groups held out whole, a tiny folder.

    python benchmarks/small_data.py path/to/speech path/to/drum_machines

The reference command at equal optimizer steps. `speech` is a folder of {digit}_{speaker}_{index}.wav, `drum_machines`
one with a subfolder a machine. Prints a markdown table; the value of z on training and on held-out examples stands side
by side, and the distortions with it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from vaecollapse.diagnosis import Verdict
from vaecollapse.run import Run

STEPS = 528  # about: whole epochs
SPEECH = {
    "speech, 1 % (21)": ("dataset.fraction=0.01", 2),
    "speech, 5 % (105)": ("dataset.fraction=0.05", 7),
    "speech, 25 % (525)": ("dataset.fraction=0.25", 33),
    "speech, all (2100)": ("dataset.fraction=1", 132),
    "speech, by speaker": ("dataset.split_by=_([a-z]+)_", 132),
}
DRUMS = {
    "drum machines, by file": ("dataset.split_by=file", 4),
    "drum machines, by machine": ("dataset.split_by=([A-Z]+-[0-9]+)/", 3),
    "drum machines, by file, beta 1": ("beta=1", 4),
}


def train(name: str, option: str, epochs: int, folder: Path, extra: list[str]) -> Verdict:
    directory = folder / "".join(c if c.isalnum() else "_" for c in name)
    command = [sys.executable, "-m", "vaecollapse", "train", "model=audio_nf", "dataset=audio_folder",
               option if "(" not in option else f"{option.partition('=')[0]}='{option.partition('=')[2]}'",
               f"max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}",
               "~callback.samples", f"hydra.run.dir={directory}", *extra]  # fmt: skip
    subprocess.run(command, check=True)
    return Verdict.from_dict(Run(directory).read("verdict.json"))


def row(name: str, verdict: Verdict) -> str:
    def cell(reading: str) -> str:
        found = verdict.readings[reading]
        return f"{found.value:.3g} ± {1.96 * (found.se or 0):.1g} ({found.n})"

    shown = ("train/gap", "gap", "train/distortion", "distortion")
    return f"| {name} | `{verdict.verdict}` | {' | '.join(map(cell, shown))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech")
    parser.add_argument("drum_machines")
    parser.add_argument("--folder", type=Path, default=Path("outputs/small_data"))
    given = parser.parse_args()
    lines = []
    for root, runs, more in ((given.speech, SPEECH, []), (given.drum_machines, DRUMS,
                             ["dataset.sample_rate=16000", "dataset.seconds=0.5"])):  # fmt: skip
        for name, (option, share) in runs.items():
            epochs = STEPS // share
            verdict = train(name, option, epochs, given.folder, [f"dataset.root={root}", *more])
            lines.append(row(name, verdict))
    print("\n| data | verdict | gap, training | gap, held out | D, training | D, held out |\n|" + "---|" * 6)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
