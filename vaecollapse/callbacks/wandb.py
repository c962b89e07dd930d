"""What only W&B can do: alerts, which reach a phone, and histograms over the latent units."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from ..prescriptions import MEANING
from .monitor import CollapseMonitor, Look


class WandbDashboard(Callback):
    """Hands every alarm, every change of the verdict and the KL of each unit to the W&B loggers of this run.

    An alert is sent at most once a minute for each title (W&B's own limit). Does nothing without a CollapseMonitor.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        import wandb

        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]

        def hear(look: Look) -> None:
            for logger in loggers:
                run = logger.experiment
                for name, values in look.series.items():
                    histogram = wandb.Histogram(values.ravel().tolist())
                    run.log({f"val/units/{name}": histogram, "trainer/global_step": look.step})
                for alarm in sorted(look.alarms):
                    run.alert(title=f"alarm {alarm}", text=f"step {look.step}", level="WARN")
                if look.changed and look.verdict is not None:
                    said = f"step {look.step}: {MEANING[look.verdict.verdict]}. {'. '.join(look.verdict.findings)}"
                    run.alert(title=f"verdict {look.verdict.verdict}", text=said, level="INFO")

        for monitor in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(monitor, CollapseMonitor) and loggers and trainer.is_global_zero:
                monitor.listeners.append(hear)
