"""One line in somebody else's project: CollapseMonitor on a LightningModule nobody here wrote."""

import json

import lightning.pytorch as pl
import pytest
import torch
from planted import gaussian_data, optimum
from torch import nn
from torch.distributions import Normal
from torch.utils.data import DataLoader, TensorDataset

from vaecollapse import CollapseMonitor, config
from vaecollapse.callbacks.intervention import carried_out, intervene, knobs_of
from vaecollapse.callbacks.probes import own_probe
from vaecollapse.datasets.gaussian import GaussianData
from vaecollapse.elbo import Progress
from vaecollapse.loading import load_weights
from vaecollapse.prescriptions import STATES
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant, Linear
from vaecollapse.regularizers.free_bits import FreeBits
from vaecollapse.run import Run
from vaecollapse.search import Search
from vaecollapse.tasks import train
from vaecollapse.training import Training


class TheirVAE(pl.LightningModule):
    """The VAE of a hundred repositories: mu and logvar heads, mean-reduced loss, a batch that is a tuple."""

    def __init__(self, weight: float, units: int = 4) -> None:
        super().__init__()
        self.weight = weight
        self.encoder, self.decoder = nn.Linear(8, 2 * units), nn.Linear(units, 8)

    def posterior(self, batch):
        mu, logvar = self.encoder(batch[0]).chunk(2, 1)
        return Normal(mu, (0.5 * logvar).exp())

    def training_step(self, batch, index):
        q = self.posterior(batch)
        kl = torch.distributions.kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean()
        return 0.5 * (self.decoder(q.rsample()) - batch[0]).square().sum(1).mean() + self.weight * kl

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


LATENTS = dict(latents=lambda module, batch: module.posterior(batch))
DECODER = dict(decode=lambda module, z: module.decoder(z), distance=lambda x, y: 0.5 * (x - y).square().sum(-1))
DENSITY = dict(decode=lambda module, z: Normal(module.decoder(z), torch.tensor(1.0)))


def watched(weight: float, epochs: int = 30, directory=None, **functions) -> CollapseMonitor:
    torch.manual_seed(0)
    loaders = [
        DataLoader(TensorDataset(gaussian_data(1024, seed=s).float(), torch.arange(1024)), 128, shuffle=s == 0)
        for s in (0, 1)
    ]
    monitor = CollapseMonitor(directory=directory, every_n_steps=40, **functions)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[monitor],
        logger=False,
        barebones=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(TheirVAE(weight), *loaders)
    return monitor


@pytest.mark.parametrize(
    ("weight", "functions", "state"),
    [
        (0.5, LATENTS | DECODER, "healthy"),
        (0.5, LATENTS | DENSITY, "healthy"),
        (8.0, LATENTS | DECODER, "posterior_collapse"),
        (8.0, LATENTS, "posterior_collapse"),
        (0.5, LATENTS, "inconclusive"),
    ],
)
def test_a_foreign_module_gets_its_verdict(weight: float, functions: dict, state: str) -> None:
    verdict = watched(weight, **functions).verdict
    assert verdict is not None and verdict.verdict == state, verdict


def test_the_price_of_a_nat_finds_the_weight_without_the_config() -> None:
    verdict = watched(0.5, epochs=60, **LATENTS, **DECODER).verdict
    assert verdict is not None
    price = verdict.readings["price_of_a_nat"]
    assert abs(price.value - 0.5) < 0.05 + 2 * price.se


def test_a_foreign_density_is_held_against_what_the_data_offer() -> None:
    """One unit of four is left, in a model that would have paid for more; and no command of ours is printed."""

    first = torch.arange(4) < 1

    def one(module, batch):
        q = module.posterior(batch)
        return Normal(torch.where(first, q.mean, 0.0), torch.where(first, q.stddev, 1.0))

    monitor = watched(0.25, latents=one, decode=lambda module, z: Normal(module.decoder(z * first), torch.tensor(1.0)))
    _, _, facts = monitor.evidence
    assert facts.forecast >= 3 and facts.beta_effective > 0 and not facts.ours
    assert monitor.verdict.verdict == "partial_collapse"
    assert not any(move.overrides or move.command for move in monitor.verdict.prescriptions)


def test_its_traces_are_a_run_directory(tmp_path) -> None:
    watched(0.5, epochs=10, directory=str(tmp_path), **LATENTS, **DECODER)
    assert json.loads((tmp_path / "verdict.json").read_text())["readings"]["gap"]["n"] == 512
    header, *rows = (tmp_path / "units.csv").read_text().splitlines()
    assert header == "epoch,step,unit,reading,value" and {row.split(",")[3] for row in rows} >= {
        "kl",
        "sigma",
        "var_mean",
    }
    assert all(json.loads(line)["event"] in ("alarm", "verdict") for line in (tmp_path / "events.jsonl").open())


def test_watching_does_not_change_the_training() -> None:
    """Same weights with and without it: it reads in its own random state."""
    finals = []
    for functions in (LATENTS, LATENTS | DECODER):
        monitor = watched(0.5, epochs=3, **functions)
        finals.append(
            {name: value.clone() for name, value in monitor.probes["training"].vae.module.state_dict().items()}
        )
    torch.manual_seed(0)
    loaders = [
        DataLoader(TensorDataset(gaussian_data(1024, seed=s).float(), torch.arange(1024)), 128, shuffle=s == 0)
        for s in (0, 1)
    ]
    alone = TheirVAE(0.5)
    pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(alone, *loaders)
    for watched_state in finals:
        assert all(torch.equal(value, watched_state[name]) for name, value in alone.state_dict().items())


@pytest.mark.parametrize(
    ("functions", "hint"),
    [
        ({}, "latents"),
        (LATENTS | {"decode": DECODER["decode"]}, "distance"),
        ({"latents": lambda module, batch: module.encoder(batch[0])}, "Distribution"),
    ],
)
def test_missing_functions_are_asked_for(functions: dict, hint: str) -> None:
    with pytest.raises(Refused, match=hint):
        watched(0.5, epochs=2, **functions)


def test_a_foreign_flow_is_read_by_its_draws() -> None:
    """A posterior without a closed form of mean or KL: no reading needs one."""
    squash = torch.distributions.transforms.AffineTransform(0.1, 2.0)

    def flowing(module, batch):
        q = module.posterior(batch)
        return torch.distributions.TransformedDistribution(torch.distributions.Independent(q, 1), [squash])

    verdict = watched(0.5, epochs=20, latents=flowing, decode=lambda module, z: module.decoder((z - 0.1) / 2),
                      distance=DECODER["distance"]).verdict  # fmt: skip
    assert verdict is not None and verdict.readings["gap"].status == "material"
    assert verdict.readings["dead_units"].value is None


def test_without_a_validation_loader_nothing_is_acquitted() -> None:
    torch.manual_seed(0)
    monitor = CollapseMonitor(**LATENTS, **DECODER)
    trainer = pl.Trainer(max_epochs=20, accelerator="cpu", callbacks=[monitor], logger=False,
                         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(TheirVAE(0.5), DataLoader(TensorDataset(gaussian_data(1024).float()), 128, shuffle=True))
    assert monitor.verdict is not None and monitor.verdict.verdict == "inconclusive"


@pytest.mark.parametrize("examples", [600, 20_000])
def test_what_the_monitor_holds_does_not_grow_with_the_data(examples: int) -> None:
    data = GaussianData(examples=examples, val_examples=examples, batch_size=64)
    module = Training(vae=optimum(5, e=1.0), regularizer=Beta(weight=Constant(value=1.0)), optimizer=torch.optim.Adam)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        probe = own_probe(module, loader, 512, 256, {})
        held = sum(block.x.numel() * block.x.element_size() for block in probe.blocks)
        assert held == 512 * 8 * probe.blocks[0].x.element_size()


def test_on_alarm_stop_ends_training_where_collapse_is_forecast(tmp_path) -> None:
    line = ["model=linear", "beta=8", "dataset.examples=400", "max_epochs=50", "trainer.accelerator=cpu",
            "callback.collapse_monitor.on_alarm=stop", f"logger.csv.directory={tmp_path}"]  # fmt: skip
    train(config.compose(line), tmp_path, line)
    events = Run(tmp_path).lines("events.jsonl")
    assert {"alarm": "forecast_collapse", "step": 0}.items() <= events[0].items()
    assert max(row["step"] for row in Run(tmp_path).lines("metrics.jsonl")) < 40
    found = Search("selection", STATES, 0.0, 100.0).judged(tmp_path)  # whatever its verdict, a search does not take it
    assert found == (300.0, False, "the alarm forecast_collapse stopped it; it has no selection")
    with pytest.raises(Refused, match="none of warn, stop, intervene"):
        CollapseMonitor(on_alarm="shout")


# ---- interventions


def regularizer(name: str) -> Beta | FreeBits:
    if name == "beta":
        return Beta(weight=Linear(value=4.0, warmup=0.5))
    return FreeBits(weight=Linear(value=4.0, warmup=0.5), floor=0.5)


@pytest.mark.parametrize(
    ("alarm", "name", "moved"),
    [
        ("fading", "beta", [("beta", 4.0, 0.4)]),
        ("forecast_collapse", "free_bits", [("beta", 4.0, 0.4)]),
        ("variance_collapse", "beta", [("beta", 4.0, 40.0)]),
    ],
)
def test_the_first_prescription_that_is_live_is_carried_out(alarm: str, name: str, moved: list) -> None:
    priced = regularizer(name)
    moves, others = intervene(alarm, priced, 4.0, floored=name == "free_bits")
    assert [tuple(move) for move in moves] == moved
    assert priced.weight(Progress(10, 10)) == moved[0][2] and priced.weight.end == 4.0
    assert not any(knobs_of(other) for other in others)  # a ramp that is over, say, takes a run of its own


def test_a_floor_is_lifted_and_what_cannot_all_be_done_is_not_begun() -> None:
    priced = regularizer("free_bits")
    assert [tuple(m) for m in carried_out(priced, {"free_bits": 0.0, "beta": 1.0})] == [
        ("free_bits", 0.5, 0.0),
        ("beta", 4.0, 1.0),
    ]
    plain = regularizer("beta")
    assert [m.knob for m in carried_out(plain, {"free_bits": 0.0, "beta": 1.0})] == ["beta"]
    assert carried_out(plain, {"beta": 2.0, "free_bits": 0.1}) == []
    assert plain.weight.value == 1.0


def test_interventions_go_on_until_something_is_forecast_to_live(tmp_path) -> None:
    """A thousand times the price: three moves, and the verdict, the audit and preflight.json know the last price."""
    line = ["model=linear", "beta=1000", "dataset.examples=800", "max_epochs=60", "trainer.accelerator=cpu",
            f"logger.csv.directory={tmp_path}", "callback.collapse_monitor.on_alarm=intervene"]  # fmt: skip
    outcome = train(config.compose(line), tmp_path, line)
    events = [row for row in Run(tmp_path).lines("events.jsonl") if row["event"] == "intervention"]
    assert [move["new"] for event in events for move in event["moves"]] == [100.0, 10.0, 1.0]
    assert outcome.diagnosis.verdict == "healthy"
    assert Run(tmp_path).read("preflight.json")["beta"] == 1.0


def test_an_intervention_revives_what_was_forecast_to_collapse_and_says_so(tmp_path, caplog) -> None:
    """At twelve times what the first direction is worth: left alone z dies, a tenth of it leaves a living one."""
    line = ["model=linear", "beta=12", "dataset.examples=800", "max_epochs=60", "trainer.accelerator=cpu",
            f"logger.csv.directory={tmp_path}", "callback.collapse_monitor.every_n_steps=20"]  # fmt: skip
    asked = [*line, "callback.collapse_monitor.on_alarm=intervene"]
    with caplog.at_level("WARNING", logger="vaecollapse"):
        outcome = train(config.compose(asked), tmp_path, asked)
    assert "beta from 12 to 1.2" in caplog.text
    assert outcome.diagnosis.readings["information_rank"].value >= 2
    (event,) = [row for row in Run(tmp_path).lines("events.jsonl") if row["event"] == "intervention"]
    assert event["moves"] == [{"knob": "beta", "old": 12.0, "new": 1.2}] and event["step"] == 0
    assert any("warmup=0.5" in command and f"init_from={tmp_path}" in command for command in event["commands"])
    kept = load_weights(tmp_path / "checkpoints" / "healthy.ckpt")
    assert 0 < kept.step <= Run(tmp_path).lines("metrics.jsonl")[-1]["step"]
    assert float(kept.state["regularizer.weight._extra_state"]) == 1.2
    assert not (tmp_path / "checkpoints" / ".healthy.ckpt.part").exists()
    again = [*line, f"init_from={tmp_path}", "max_epochs=1"]
    with caplog.at_level("INFO", logger="vaecollapse"):
        train(config.compose(again), tmp_path / "fork", again)
    assert "healthy.ckpt" in caplog.text
