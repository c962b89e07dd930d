"""What --help prints: the purpose, examples, and every key as the yaml files have it."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from . import config

TRAIN_HELP = """\
Trains a variational autoencoder and says, from measurement, whether its latent is alive: a verdict, the numbers that
decided it, and the command to try next. The run directory is outputs/train/<time>/.

usage: {name} [group=option …] [knob=value …] [nested.key=value …]

examples
  {name}
      the embedded default: generated drums
  {name} model=audio_nf regularizer=free_bits free_bits=0.005 \\
      dataset=audio_folder dataset.root=path/to/recordings
      the reference command, on a folder of short recordings
  {name} model=linear dataset=gaussian
      the exact truth, in seconds
  {name} -m regularizer=beta,free_bits seed=0,1
      a sweep: every combination, 4 runs
  {name} fail_on=[posterior_collapse,fake_rate]
      a verdict as exit code 3
  {name} logger=wandb logger.wandb.offline=true
      Weights & Biases, here without an account
  {name} model=custom model._target_=my_pkg.MyVAE +model.width=3
      your own class, importable from where you type this
  {name} --config-dir my_conf model=mine
      your own my_conf/model/mine.yaml

knobs (a model may set its own default, the command line always wins)
{knobs}
groups (* default; choose one, of detector, callback and logger also several: detector=[rate,active_units])
{groups}
  How the weight of the KL moves: coefficient@regularizer.weight=cyclical

flags
  --cfg job              print the composed configuration and stop
  --info defaults-tree   where each part of it comes from
  -m, --multirun         run every combination of comma-separated values
  --config-dir DIR       more groups and options, of your own
  -sc install=bash       the line that installs shell completion: eval "$({name} -sc install=bash)"
  --version              print the version
  --hydra-help           every other flag

exit codes
  0 done   1 refused or failed   2 wrong usage   3 a verdict listed in fail_on   130 interrupted   143 terminated
  HYDRA_FULL_ERROR=1 in the environment shows whole tracebacks."""


EVALUATE_HELP = """\
Measures a trained run from its directory alone: every reading of the latent on a split, the verdict on them, D, R and
the ELBO, the importance-weighted NLL (where the likelihood is a density), and the error of reconstructions.

usage: {name} run=DIR [key=value …]    or file=FILE, or real=DIR generated=DIR

examples
  {name} run=outputs/train/<time>
      the best checkpoint on the test split; of sounds also whether samples of the prior are collapsed or merely bad
  {name} run=outputs/train/<time> split=validation checkpoint=last
      the numbers that the training printed
  {name} run=copied "overrides=['dataset.root=/new/place']"
      the data lie elsewhere on this machine
  {name} run=outputs/train/<time> samples=1000 examples=256
      a tighter bound on fewer examples
  {name} run=theirs 'trust=[their_pkg]'
      its model is a class of theirs, which is imported
  {name} run=outputs/train/<time> members=20 mode=posterior metric=[crps,diversity]
      of rain fields: two scores of an ensemble whose z has seen the truth; all of them by the prior is the default
  {name} file=members.nc
      the scores of an ensemble in a file, with the truth beside the members
  {name} real=recordings generated=samples
      two folders of sounds: Fréchet and kernel distance, precision, recall, Vendi score, and the word
  {name} real=a generated=b metric.embedding.path=net.pt2 metric.embedding.sample_rate=16000 metric.embedding.size=512
      the same by your own network, which is executed

keys
{keys}
A run directory is data: nothing in it is executed, and its configuration may name classes of vaecollapse, torch.nn,
torch.optim and lightning.pytorch, and those of the packages in trust. The result is written to
outputs/evaluate/<time>/: evaluation.json, config.yaml, provenance.json.

exit codes
  0 done   1 refused or failed   2 wrong usage   130 interrupted   143 terminated
  HYDRA_FULL_ERROR=1 in the environment shows whole tracebacks."""


SAMPLE_HELP = """\
Writes what a trained run's latent decodes to, from its directory alone: draws from the prior, reconstructions, ways
between two examples, walks along the most informative directions. Sounds become wav or flac with a page to listen to
them on, images PNG, text text, rain fields one NetCDF of members beside the truth, anything else numbers.

usage: {name} run=DIR [key=value …]

examples
  {name} run=outputs/train/<time>
      16 draws from the prior, by the best checkpoint
  {name} run=outputs/train/<time> mode=posterior n=8 draws=5
      8 test examples, each with its reconstruction and 5 draws from its posterior
  {name} run=outputs/train/<time> mode=traverse n=4 steps=9
      the four most informative directions, two standard deviations either way
  {name} run=outputs/train/<time> n=10000 seed=1 temperature=0.8
      as many as there is room for on the disk; sample 7 is the same whatever n is
  {name} run=outputs/train/<time> n=10 mode=prior temperature=1
      of rain fields: an ensemble of 10 members for each test example, ensemble.nc
  {name} run=theirs 'trust=[their_pkg]' checkpoint=last
      its model is a class of theirs, which is imported

keys
{keys}
A run directory is data: nothing in it is executed, and its configuration may name classes of vaecollapse, torch.nn,
torch.optim and lightning.pytorch, and those of the packages in trust. The samples are written to
outputs/sample/<time>/samples/, a block at a time; what an interrupted command leaves are whole files.

exit codes
  0 done   1 refused or failed   2 wrong usage   130 interrupted   143 terminated
  HYDRA_FULL_ERROR=1 in the environment shows whole tracebacks."""


EXPORT_HELP = """\
Writes what a trained run does as programs that run without this package: encode(x) gives mean and scale of z, draw(x,
noise) a z, decode(z) an x (of audio the waveform), sample(noise) an x through the prior. Noise is standard normal and
given, so that what comes out is the same anywhere.

usage: {name} run=DIR [key=value …]

examples
  {name} run=outputs/train/<time>
      model.ts, a TorchScript file with the four functions as its methods, and export.json
  {name} run=outputs/train/<time> format=export
      encode.pt2, draw.pt2, decode.pt2 and sample.pt2 of torch.export
  {name} run=outputs/train/<time> hydra.run.dir=shared/drums checkpoint=last
      in a folder of its own, which is refused where it holds something already
  {name} run=theirs 'trust=[their_pkg]'
      its model is a class of theirs, which is imported

keys
{keys}
Each program is loaded again and compared with the run's own modules before it is written. export.json says the sample
rate, shapes, the order of the units by information, and the verdict. The result is written to outputs/export/<time>/.
Conditional models, text, and decoders that make x element by element are refused: docs/export.md.

exit codes
  0 done   1 refused or failed   2 wrong usage   130 interrupted   143 terminated
  HYDRA_FULL_ERROR=1 in the environment shows whole tracebacks."""


DIAGNOSE_HELP = """\
Says what a latent is, from whatever there is of it: a run directory, any torch model, bare arrays, a training log, or a
few numbers. A verdict, what decided it, what the evidence rules out, and what is missing.

usage: {name} run=DIR | module=PLACE data=PLACE | encode=FILE data=DIR | arrays=FILE | log=FILE | values='{{…}}'
       [key=value …]

examples
  {name} run=outputs/train/<time>
      the verdict a run has reached, finished or still training
  {name} run=outputs/train/<time> measure=true
      the same measured anew from its checkpoint
  {name} module=my_pkg.models:build data=my_pkg.data:held_out
      any torch model: build() gives an object with encode(x) → Distribution, decode(z), log_likelihood(x, decoded)
  {name} encode=enc.ts decode=dec.ts data=path/to/recordings sample_rate=44100
      somebody's audio autoencoder as TorchScript or .pt2; one file where it holds both methods, as an export of ours
  {name} arrays=posterior.npz
      mean and scale of the posterior, and what decoding cost, example by example
  {name} log=metrics.csv columns='{{rate: kl_loss}}' values='{{units: 128}}'
      a training log, with what it does not hold
  {name} values='{{rate: 12.48, units: 128, beta: 0.01}}'
      a few numbers
  {name} arrays=posterior.npz format=json fail_on=[posterior_collapse,fake_rate]
      for a script: JSON on stdout, exit code 3

keys
{keys}
A model's functions and programs are yours and run as they are; a run directory, an .npz and a log are data, and nothing
in them is executed. The result is written to outputs/diagnose/<time>/: verdict.json, config.yaml, provenance.json.
What the arrays and numbers are called: docs/diagnose.md.

exit codes
  0 done   1 refused or failed   2 wrong usage   3 a verdict listed in fail_on   130 interrupted   143 terminated
  HYDRA_FULL_ERROR=1 in the environment shows whole tracebacks."""


REPORT_HELP = """\
Shows what run directories hold on one page that needs nothing else, and no network. Of one run: the verdict with its
evidence and the next command, the KL of each unit over time, every series, alarms and decisions, samples. Of many: a
table to sort and filter, the phase diagram of any two knobs, the rate-distortion plane with its frontier, comparisons
paired by seed, and the best run's command.

usage: {name} runs=PLACE [key=value …]

examples
  {name} runs=outputs/train/<time>
      one run, finished or still training
  {name} runs='outputs/train/*'
      many; broken and foreign directories among them are named and pass
  {name} runs=outputs/multirun/<time>
      a sweep: every run below a folder
  {name} runs=[outputs/train/<time>,outputs/multirun]
      several of these
  {name} runs=outputs/multirun/<time> format=markdown
      tables for papers and pull requests, on stdout too
  {name} runs=outputs/train out=page.html
      where it is wanted; a page that is there is replaced at once

keys
{keys}
A run directory is data: nothing in it is executed, nothing is written to it, and what its files hold reaches the page
as text alone. More: docs/report.md.

exit codes
  0 done   1 refused or failed   2 wrong usage   130 interrupted   143 terminated
  HYDRA_FULL_ERROR=1 in the environment shows whole tracebacks."""


def keys_of(primary: str) -> list[tuple[str, str, str]]:
    """(key, default, meaning), as conf/<primary>.yaml has them."""
    return re.findall(
        r"^(?:  - )?(\w+): (\S+) *# (.*)$", (config.folder() / f"{primary}.yaml").read_text("utf-8"), re.M
    )


def verb_help(name: str, primary: str) -> str:
    """Purpose, examples, and every key of a verb that has them all in its primary configuration."""
    lines = [f"  {key + '=' + value:<20} {meaning}\n" for key, value, meaning in keys_of(primary)]
    texts = {"evaluate": EVALUATE_HELP, "sample": SAMPLE_HELP, "export": EXPORT_HELP, "diagnose": DIAGNOSE_HELP,
             "report": REPORT_HELP}  # fmt: skip
    return texts[primary].format(name=name, keys="".join(lines))


def train_help(name: str, sources: Sequence[Path]) -> str:
    """Purpose, examples, and every knob and group as the yaml files have them."""
    text = (config.folder() / "train.yaml").read_text("utf-8")
    defaults = {group: re.findall(r"\w+", value) for group, value in re.findall(r"^  - (\w+): (.*)$", text, re.M)}
    knobs = re.findall(r"^(\w+): (\S+) *# (.*)$", text, re.M)
    lines = [f"  {name + '=' + value:<20} {meaning}\n" for name, value, meaning in knobs]
    for option in config.options(sources)["model"]:
        file = next(path for s in sources if (path := s / "model" / f"{option}.yaml").is_file())
        values = re.findall(r"^(\w+): ([^\s#]+)", file.read_text("utf-8"), re.M)
        own = [f"{name}={value}" for name, value in values if name in config.KNOBS]
        lines += [f"  {'':<20} model={option} sets {' '.join(own)}\n"] if own else []
    groups = ""
    for group, names in config.options(sources).items():
        if group in config.EVALUATED:
            continue
        marked = (f"{n}*" if n in defaults.get(group, ()) else n for n in names)
        groups += textwrap.fill(" ".join(marked), 120, initial_indent=f"  {group:<20} ", subsequent_indent=" " * 23)
        groups += "\n"
    return TRAIN_HELP.format(name=name, knobs="".join(lines), groups=groups)
