"""What reads runs: evaluate, sample, export, diagnose, report."""

import os
import sys
from pathlib import Path
from typing import cast

from .codes import DIAGNOSE, EVALUATE, EXPORT, FAIL_ON, REPORT, SAMPLE
from .process import typed_of
from .session import VerbSession
from .showing import (
    show_comparison,
    show_diagnosis,
    show_evaluation,
    show_log,
    show_samples,
    show_scores,
    show_tables,
)


class EvaluateSession(VerbSession):
    """Measures a run."""

    name, primary = EVALUATE, "evaluate"

    def attempt(self, cfg, directory: Path) -> None:
        from hydra.core.hydra_config import HydraConfig

        from .. import loading

        overrides = typed_of(HydraConfig.get())
        if self.is_sweep():
            self.say(f"job {HydraConfig.get().job.num}: {' '.join(overrides)}")
        self.check(cfg)
        if not (cfg.get("file") or cfg.get("real")):
            loading.run_directory(cfg.run)
        show_log()
        if cfg.trust and os.getcwd() not in sys.path:  # else nothing of the folder one stands in is imported
            sys.path.append(os.getcwd())
        self.carry_out(cfg, directory, overrides)

    def check(self, cfg) -> None:
        from .. import config

        config.check_evaluation(cfg)

    def carry_out(self, cfg, directory: Path, overrides: list[str]) -> None:
        if cfg.file:
            from ..tasks import score_file

            show_scores(score_file(cfg, directory, overrides))
            return
        if cfg.real:
            from ..tasks import compare_folders

            show_comparison(compare_folders(cfg, directory, overrides))
            return
        from ..tasks import evaluate as task

        show_evaluation(task(cfg, directory, overrides))


class SampleSession(EvaluateSession):
    """Writes samples of a run."""

    name, primary = SAMPLE, "sample"

    def check(self, cfg) -> None:
        from .. import config

        config.check_evaluation(cfg, config.SampleSchema)

    def carry_out(self, cfg, directory: Path, overrides: list[str]) -> None:
        from ..tasks import sample as task

        show_samples(task(cfg, directory, overrides))


class ExportSession(EvaluateSession):
    """Writes a run's functions as programs."""

    name, primary = EXPORT, "export"

    def check(self, cfg) -> None:
        from .. import config

        config.check_evaluation(cfg, config.ExportSchema)

    def carry_out(self, cfg, directory: Path, overrides: list[str]) -> None:
        from ..table import export_table
        from ..tasks import export as task

        outcome = task(cfg, directory, overrides)
        show_tables(outcome.directory, export_table(outcome.what, outcome.files))


class DiagnoseSession(VerbSession):
    """Judges whatever there is of a latent."""

    name, primary = DIAGNOSE, "diagnose"

    def attempt(self, cfg, directory: Path) -> None:
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        from .. import config, loading
        from ..evidence import given

        overrides = typed_of(HydraConfig.get())
        if self.is_sweep():
            self.say(f"job {HydraConfig.get().job.num}: {' '.join(overrides)}")
        config.check_diagnosis(cfg)
        which = given.check(cast(dict, OmegaConf.to_container(cfg, resolve=True)))
        if which == "run":
            loading.run_directory(cfg.run)
        show_log()
        # a module is the user's own, as its name was typed; of a stranger's run nothing here is imported unless trusted
        if (which == "module" or cfg.distance or cfg.trust) and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        from ..tasks import diagnose as task

        outcome = task(cfg, directory, overrides)
        show_diagnosis(outcome, cfg.format)
        if outcome.verdict.verdict in config.listed(cfg.fail_on):
            self.codes.add(FAIL_ON)


class ReportSession(VerbSession):
    """Shows what run directories hold."""

    name, primary = REPORT, "report"

    def attempt(self, cfg, directory: Path) -> None:
        from hydra.core.hydra_config import HydraConfig

        from .. import config

        overrides = typed_of(HydraConfig.get())
        config.check_report(cfg)
        from ..report import report as task

        runs = [str(each) for each in config.listed(cfg.runs)]
        found = task(runs, directory, form=cfg.format, out=cfg.out, cache=cfg.cache, command=overrides)
        file = found.file.relative_to(Path.cwd()) if found.file.is_relative_to(Path.cwd()) else found.file
        if found.text is None:
            print(f"\n{'report':>10}  {found.what}\n{'open':>10}  {file}", flush=True)
            return
        print(found.text, end="", flush=True)
        self.say(f"{found.what}, in {file}")
