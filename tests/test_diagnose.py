"""`vaecollapse-diagnose`: what each input says, that inputs agree, and what is refused in one sentence."""

import io
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from planted import Planted, blind, collapsed, constant, gaussian_data, informative, optimum, verdict_on
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal
from torch.utils.data import DataLoader, TensorDataset

from vaecollapse import cli, config, diagnose, tasks
from vaecollapse.batch import Batch
from vaecollapse.detectors.conditions import derangements
from vaecollapse.evidence import arrays as bare
from vaecollapse.evidence import given, logs
from vaecollapse.evidence.models import from_model
from vaecollapse.refusal import Refused
from vaecollapse.vae import VAE

ROOT = Path(__file__).parents[1]
PLANTED = [
    (collapsed, blind, "posterior_collapse"),
    (constant, blind, "fake_rate"),
    (informative, blind, "bypassed_latent"),
]


def recorded(vae: VAE, x: Tensor, **more: Any) -> dict[str, Any]:
    """What a user would save of a model."""
    batch = Batch(x, index=torch.arange(len(x)))
    with torch.no_grad():
        elbo = vae.elbo(batch, seed=0)
        q: Any = elbo.posterior
        order = derangements(len(x), 1, (0, 0))[0]
        mean_z = elbo.z.mean(0).expand_as(elbo.z)
        return {
            "mean": q.base_dist.loc.numpy(),
            "scale": q.base_dist.scale.numpy(),
            "distortion": elbo.distortion.numpy(),
            "distortion_permuted": vae.distortion(batch, elbo.z[order]).numpy(),
            "distortion_at_mean": vae.distortion(batch, q.base_dist.loc).numpy(),
            "distortion_mean_z": vae.distortion(batch, mean_z).numpy(),
            "normalised": 1,
            **more,
        }


# ---- arrays


@pytest.mark.parametrize(("encoder", "decoder", "state"), PLANTED)
def test_arrays_say_what_the_model_says(encoder, decoder, state: str) -> None:
    vae, x = Planted(encoder, decoder), gaussian_data(600)
    verdict, whole = diagnose(arrays=recorded(vae, x)), verdict_on(vae, x)
    assert verdict.verdict == whole.verdict == state
    for name in ("rate", "dead_units", "sigma_median", "sigma_min", "information_rank", "active_units", "mi"):
        assert verdict.readings[name].value == pytest.approx(whole.readings[name].value, abs=1e-9), name
        assert verdict.readings[name].status == whole.readings[name].status


def test_the_shortcut_is_the_price_of_a_nat_where_d_is_quadratic() -> None:
    verdict = diagnose(arrays=recorded(optimum(5, e=0.7, beta=2.0), gaussian_data(4000)))
    price = verdict.readings["price_of_a_nat"]
    assert price.value == pytest.approx(2.0, abs=4 * price.se)
    assert price.se < 0.2


def test_an_autoencoder_is_known_from_its_arrays_alone() -> None:
    verdict = diagnose(arrays=recorded(optimum(5, e=1e-6, beta=1e-6), gaussian_data(600)))
    assert verdict.verdict == "variance_collapse"


@pytest.mark.parametrize("spread", ["scale", "log_variance"])
def test_both_ways_to_write_sigma_are_one(spread: str) -> None:
    whole = recorded(optimum(3, e=1.0), gaussian_data(300))
    given_ = dict(whole)
    if spread == "log_variance":
        given_["log_variance"] = 2 * np.log(given_.pop("scale"))
    one, other = diagnose(arrays=whole), diagnose(arrays=given_)
    for name, finding in one.readings.items():
        if finding.value is not None:
            assert other.readings[name].value == pytest.approx(finding.value, rel=1e-6, abs=1e-9), name


def test_a_split_is_two_probes() -> None:
    x = gaussian_data(1200)
    whole = recorded(optimum(3, e=1.0), x, split=np.array(["train"] * 600 + ["validation"] * 600))
    verdict = diagnose(arrays=whole)
    assert verdict.readings["gap"].n == verdict.readings["train/gap"].n == 600
    half = {name: part[600:] for name, part in whole.items() if name not in ("normalised", "split")}
    alone = diagnose(arrays={**half, "normalised": 1})
    assert verdict.readings["rate"].value == pytest.approx(alone.readings["rate"].value)
    only = {name: part[:600] for name, part in whole.items() if name != "normalised"}
    assert diagnose(arrays={**only, "normalised": 1}).verdict != "healthy", "training examples acquit nobody"


def test_a_prior_of_its_own_is_what_sigma_is_measured_against() -> None:
    """z and prior scaled together: nothing changes. A prior for each example is a condition's."""
    whole = recorded(optimum(3, e=1.0), gaussian_data(500))
    moved = {**whole, "mean": 5 * whole["mean"] + 2, "scale": 5 * whole["scale"]}
    for shape in ((3,), (500, 3)):
        prior = {"prior_mean": np.full(shape, 2.0), "prior_scale": np.full(shape, 5.0)}
        one, other = diagnose(arrays=whole), diagnose(arrays=moved | prior)
        assert one.verdict == other.verdict
        for name in ("rate", "sigma_median", "active_units", "price_of_a_nat", "information_rank"):
            assert other.readings[name].value == pytest.approx(one.readings[name].value, rel=1e-9), name


def test_a_group_is_a_condition() -> None:
    """z tells the group and nothing else: I(x; z) is ln 2, I(x; z | group) is 0."""
    label = np.arange(800) % 2
    mean = np.stack([4.0 * label - 2.0, 1e-12 * np.arange(800)], 1)  # so that no two are copies
    whole = {"mean": mean, "scale": np.full((800, 2), 0.5)}
    assert diagnose(arrays=whole).readings["mi"].value == pytest.approx(np.log(2), abs=0.02)
    assert diagnose(arrays={**whole, "group": label}).readings["mi"].value == pytest.approx(0, abs=1e-9)
    words = np.array(["a", "b"])[label]
    assert diagnose(arrays={**whole, "group": words}).readings["mi"].value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("floor", "pinned"), [(2.0, True), (2.2, True), (0.5, False)])
def test_a_floor_is_read_from_arrays_as_from_a_run(floor: float, pinned: bool) -> None:
    verdict = diagnose(arrays=recorded(Planted(constant, blind), gaussian_data(600), floor=floor, beta=1.0))
    assert ("rate_pinned" in verdict.mechanisms) == pinned
    assert verdict.readings["floor"].value == floor


@pytest.mark.parametrize(("normalised", "status"), [(1, "material"), (0, "absent"), (None, "undecided")])
def test_where_it_is_not_said_what_d_is_only_what_both_sizes_say_counts(normalised, status: str) -> None:
    """A gap of 0.5 is material in nats, and below 2 % of D."""
    noise = np.random.default_rng(0).normal(0, 0.1, 600)
    whole = {"mean": noise[:, None], "scale": np.ones((600, 1)), "distortion": np.full(600, 100.0),
             "distortion_permuted": 100.5 + noise}  # fmt: skip
    verdict = diagnose(arrays=whole if normalised is None else {**whole, "normalised": normalised})
    assert verdict.readings["gap"].status == status


def test_spatial_latents_and_few_examples_limit_what_is_said() -> None:
    rng = np.random.default_rng(0)
    whole = {"mean": rng.normal(size=(40, 4, 8, 8)), "scale": np.full((40, 4, 8, 8), 0.3)}
    verdict = diagnose(arrays=whole)
    assert verdict.readings["units"].value == 256
    assert "fewer examples (40) than units (256)" in " ".join(verdict.findings)
    assert verdict.verdict == "inconclusive"


def ok() -> dict[str, Any]:
    return {"mean": np.zeros((20, 3)), "scale": np.ones((20, 3))}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ok().items() if key != name}


def broken(name: str, at: tuple, number: float) -> dict[str, Any]:
    whole = ok()
    whole[name][at] = number
    return whole


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (without("mean"), "mean is missing"),
        (without("scale"), r"scale \(σ\) or log_variance is missing"),
        ({**ok(), "log_variance": np.zeros((20, 3))}, "leave one of them out"),
        ({**ok(), "scale": np.ones((20, 4))}, r"mean has shape \(20, 3\) but scale \(20, 4\)"),
        ({**ok(), "scale": np.ones(20)}, "but scale"),
        ({**ok(), "mean": np.zeros(20), "scale": np.ones(20)}, r"\(N, \*unit\) is needed"),
        ({**ok(), "mean": np.zeros((0, 3)), "scale": np.ones((0, 3))}, r"\(N, \*unit\) is needed"),
        ({"mean": np.zeros((1, 3)), "scale": np.ones((1, 3))}, "one example says nothing"),
        (broken("scale", (2, 1), -0.1), "scale has 1 values of 0 or less.*ln σ²"),
        (broken("scale", (2, 1), 0.0), "scale has 1 values of 0 or less"),
        (broken("mean", (7, 1), np.nan), "mean has 1 of 60 numbers that are not finite, the first at position 7"),
        (broken("mean", (7, 1), np.inf), "not finite"),
        ({"mean": np.zeros((20, 3)), "log_variance": np.full((20, 3), 1e4)}, "is no ln σ²"),
        ({**ok(), "distortion_permuted": np.zeros(20)}, "is compared with distortion, which is missing"),
        ({**ok(), "distortion": np.zeros(19)}, "one number for each of 20 examples"),
        ({**ok(), "distortion": np.zeros((20, 1))}, "one number for each of 20 examples"),
        ({**ok(), "prior_scale": np.zeros(3)}, "prior_scale has 3 values of 0 or less"),
        ({**ok(), "prior_mean": np.zeros(4)}, "prior_mean has shape"),
        ({**ok(), "split": np.array(["tset"] * 20)}, "split has 'tset'"),
        ({**ok(), "kl": np.zeros(20)}, "leave kl out"),
        ({"samples": np.zeros((20, 16, 3))}, "samples come with kl"),
        ({"samples": np.zeros((20, 3)), "kl": np.zeros(20)}, "samples has shape"),
        ({**ok(), "bta": np.ones(())}, r"bta \(did you mean beta\?\)"),
        ({**ok(), "beta": np.ones(3)}, "beta is one number"),
        ({**ok(), "beta": -1.0}, "beta cannot be below 0"),
        ({**ok(), "free_bits_form": "hinges"}, r"did you mean hinge\?"),
        ({**ok(), "mean": np.array([["a"]])}, "where numbers are needed"),
        ({**ok(), "mean": np.array([[object()]])}, "where numbers are needed"),
        ({}, "mean is missing"),
    ],
)
def test_arrays_that_do_not_fit_are_one_sentence(content: dict, words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        diagnose(arrays=content)
    assert "\n" not in str(caught.value)


def test_arrays_that_mean_nothing_here_are_named() -> None:
    assert "hidden_states_of_layer_3" in " ".join(diagnose(arrays={**ok(), "hidden_states_of_layer_3": 1}).findings)


def npz(path: Path, **content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in content.items():
            archive.writestr(f"{name}.npy", raw)
    return path


def header(shape: tuple, dtype: str = "<f8") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


def test_a_pickle_in_an_npz_is_not_loaded(tmp_path) -> None:
    class Planter:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    file = npz(tmp_path / "a.npz", mean=header((1,), "|O") + pickle.dumps(Planter()))
    with pytest.raises(Refused, match="holds Python objects, which are not loaded"):
        diagnose(arrays=file)
    assert not (tmp_path / "ran").exists()


def test_what_an_npz_claims_is_checked_before_memory_is_asked_for(tmp_path) -> None:
    """10 GB in the header of a file of some bytes, and 20 GB of zeros that compress to little."""
    file = npz(tmp_path / "a.npz", mean=header((1_250_000_000,)) + b"\0" * 64)
    with pytest.raises(Refused, match="claims 10,000,000,000 bytes where 64 are"):
        diagnose(arrays=file)


def test_a_bomb_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}[name])
    file = npz(tmp_path / "a.npz", mean=header((100_000,)) + b"\0" * 800_000)
    with pytest.raises(Refused, match="more than a quarter of this machine's memory"):
        diagnose(arrays=file)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 torn", pickle.dumps([1])])
def test_what_is_no_npz_is_one_sentence(tmp_path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(Refused, match=r"a\.npz is not read .*: give the \.npz that numpy\.savez wrote"):
        diagnose(arrays=tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **ok())
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:-100])
    with pytest.raises(Refused):
        diagnose(arrays=tmp_path / "b.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_says_what_its_arrays_say(tmp_path, save) -> None:
    whole = recorded(optimum(3, e=1.0), gaussian_data(300))
    save(tmp_path / "a.npz", **whole)
    assert diagnose(arrays=tmp_path / "a.npz").readings == diagnose(arrays=whole).readings


# ---- a log


def table(tmp_path: Path, rows: list[str], head: str = "step,rate", name: str = "log.csv") -> Path:
    file = tmp_path / name
    file.write_text("\n".join([head, *rows]) + "\n")
    return file


def test_the_last_tenth_is_averaged_and_said(tmp_path) -> None:
    file = table(tmp_path, [f"{i},{float(i)}" for i in range(100)])
    log = logs.read_log(file)
    assert log.values["rate"] == pytest.approx(94.5)
    assert "the last 10 of 100 rows of rate" in " ".join(log.notes)


@pytest.mark.parametrize(("slope", "settled"), [(0.0, True), (0.5, False), (-0.5, False)])
def test_the_trend_over_the_last_fifth_is_told_from_noise(tmp_path, slope: float, settled: bool) -> None:
    rng = np.random.default_rng(0)
    moved = []
    for _ in range(20):
        rates = 20 + slope * np.linspace(0, 60, 300) + rng.normal(0, 1.5, 300)
        moved.append(logs.read_log(table(tmp_path, [f"{i},{r}" for i, r in enumerate(rates)])).unsettled)
    assert all(0 <= each < 0.2 for each in moved) == settled or not settled
    assert (np.mean(moved) < 0.05) == settled


def test_broken_lines_are_left_out_and_counted(tmp_path) -> None:
    file = table(tmp_path, ["1,2.0", "2", "3,abc", "4,2.0,9", "", '5,"2.0', "6,2.0", "7,\0", "8,2.0"])
    verdict = diagnose(log=file)
    assert verdict.readings["rate"].value == 2
    assert "5 of the log's 8 lines cannot be read and are left out" in " ".join(verdict.findings)


def test_a_log_that_breaks_off_or_turns_into_something_else_is_read_so_far(tmp_path) -> None:
    file = table(tmp_path, [f"{i},3.0" for i in range(50)])
    file.write_bytes(file.read_bytes() + b"50,3.\xff\xfe\n" + b"51," + b"9" * 2**21 + b"\n")
    log = logs.read_log(file)
    assert log.values["rate"] == 3
    assert "2 of the log's 52 lines" in " ".join(log.notes)


@pytest.mark.parametrize(
    ("head", "columns", "words"),
    [
        ("step,kl_loss", None, "has no column rate.*it has step, kl_loss; say which it is with columns="),
        ("step,kl_mean_per_unit", None, r"has no column units \(or a column rate\)"),
        ("step,kl_loss", {"rate": "kl_los"}, r"kl_los \(did you mean kl_loss\?\) is no column"),
        ("step,rate", {"raet": "rate"}, r"columns\.raet \(did you mean rate\?\)"),
        ("step,rate", {"rate": ""}, "is no column of log="),
    ],
)
def test_a_needed_column_is_named(tmp_path, head: str, columns, words: str) -> None:
    with pytest.raises(Refused, match=words):
        diagnose(log=table(tmp_path, ["1,2"], head), columns=columns)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"step,rate\n", "has 0 rows that can be read"),
        (b"step,rate\n1,x\n", "has 0 rows that can be read"),
        (b"\xff\xfe\x00", "is no text"),
        (b"a" * (2**20 + 2), "is a line of more than 1 MB"),
        (b'{"a": 1}\n' + b"{" * (2**21), "has no column rate"),
        (b"{}\n{}\n", "has no column rate"),
    ],
)
def test_what_is_no_log_is_one_sentence(tmp_path, content: bytes, words: str) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(Refused, match=words):
        diagnose(log=tmp_path / "log.csv")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_any_separator(tmp_path, separator: str) -> None:
    file = table(tmp_path, [separator.join(["1", "2.5"])] * 9, separator.join(["step", "rate"]))
    assert logs.read_log(file).values["rate"] == 2.5


def test_json_lines_and_blanks(tmp_path) -> None:
    rows = [{"step": i, "loss/kl": 4.0} if i % 2 else {"step": i, "mi": 0.01} for i in range(40)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"loss/kl": 4')
    verdict = diagnose(log=tmp_path / "m.jsonl", columns={"rate": "loss/kl", "mutual_information": "mi"})
    assert verdict.readings["rate"].value == 4
    assert verdict.verdict == "fake_rate"
    assert "1 of the log's 41 lines" in " ".join(verdict.findings)


def test_a_log_that_ends_in_nan_has_diverged(tmp_path) -> None:
    file = table(tmp_path, [f"{i},{'nan' if i > 80 else 3.0}" for i in range(100)])
    assert diagnose(log=file).verdict == "diverged"


def test_values_add_to_a_log_what_it_does_not_hold(tmp_path) -> None:
    file = table(tmp_path, ["1,0.022"] * 30, "step,kl_mean_per_unit")
    assert diagnose(log=file, values={"units": 1536}).readings["rate"].value == pytest.approx(33.792)


# ---- numbers


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "values is a map"),
        ({"raet": 1}, r"raet \(did you mean rate\?\)"),
        ({"rate": "many"}, "rate=many is no finite number"),
        ({"rate": float("nan")}, "rate=nan is no finite number"),
        ({"rate": True}, "is no finite number"),
        ({"rate": 1, "units": 0}, "units=0 is no count"),
        ({"rate": 1, "units": 1.5}, "units=1.5 is no count"),
        ({"rate": 1, "floor": -1}, "floor=-1 cannot be below 0"),
        ({"rate": 1, "distortion_kind": "l3"}, "is none of nll, l1, l2, other"),
        ({"rate": 1, "free_bits_form": "hing"}, r"did you mean hinge\?"),
        ({"rate": 1, "diversity_at_temperature": 3}, "is no map of temperatures"),
        ({"rate": 1, "diversity_at_temperature": {"hot": 3}}, "a temperature=hot is no finite number"),
        ({"units": 3}, "values has no rate"),
        ({"kl_mean_per_unit": 0.1}, "values has no units"),
        ({"train/rate": 1, "val/rate": 2}, "given twice"),
        ({"foo/rate": 1}, "is no name"),
    ],
)
def test_numbers_that_cannot_be_are_one_sentence(values: dict, words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        diagnose(values=values)
    assert "\n" not in str(caught.value)


def test_a_map_of_columns_is_a_map() -> None:
    with pytest.raises(Refused, match="columns is a map"):
        given.checked_columns(["rate"])


def test_every_name_is_read_and_turns_up() -> None:
    values: dict[str, Any] = {name: 0.5 for name in given.NAMES if name not in (*given.TEXTS, *given.OTHER)}
    values |= {"units": 4, "examples": 700, "mutual_information_examples": 512, "event_size": 784}
    values |= {"distortion_kind": "l2", "distortion_reduction": "mean", "free_bits_form": "hinge"}
    values |= {"free_bits_groups": 2, "diversity_at_temperature": {3: 0.2}}
    readings = diagnose(values=values).readings
    wanted = {*given.ANY, *given.POSITIVE, "units", "event_size", "free_bits_groups", "diversity_at_3", "mi_ceiling",
              "mi", "beta_effective", "kl_over_floor", "fb_percent", "floor_saturation", "weight_declared"}  # fmt: skip
    assert wanted - {"mutual_information", "step", "gap_se"} <= set(readings)
    assert readings["gap"].se == 0.5


@pytest.mark.parametrize("more", [{}, {"gap_se": 0.01}, {"gap_se": 0.01, "examples": 5000}])
def test_a_gap_needs_its_error_and_its_n(more: dict) -> None:
    readings = diagnose(values={"rate": 5, "gap": 2.0, "distortion_kind": "nll", **more}).readings
    assert (readings["gap"].status == "material") == (len(more) == 2)


def test_a_number_never_acquits() -> None:
    values = {"rate": 12.0, "units": 16, "gap": 5.0, "gap_se": 0.1, "examples": 5000, "mutual_information": 5.0,
              "mutual_information_examples": 4096, "distortion_kind": "nll", "active_units": 16}  # fmt: skip
    assert diagnose(values=values).verdict != "healthy"


def test_numbers_that_contradict_each_other_are_said() -> None:
    verdict = diagnose(values={"rate": 0.022, "kl_mean_per_unit": 0.022, "units": 1536})
    assert "one of them is weighted, or averaged" in " ".join(verdict.findings)


# ---- a model that is not ours


class Foreign(nn.Module):
    """Knows nothing of us: a tensor out of its decoder, dropout in it."""

    def __init__(self, informed: bool = True) -> None:
        super().__init__()
        self.scale, self.informed = nn.Parameter(torch.tensor(0.5)), informed
        self.drop = nn.Dropout(0.9)

    def encode(self, x: Tensor):
        return Normal(2 * x[:, :4], self.scale.expand(len(x), 4))

    def decode(self, z: Tensor) -> Tensor:
        return self.drop(torch.cat([z / 2 * self.informed, torch.zeros_like(z)], 1))


def data(n: int = 600, seed: int = 0) -> Tensor:
    return gaussian_data(n, seed=seed).float()


@pytest.mark.parametrize(
    "examples",
    [
        data(),
        data().numpy(),
        list(data().split(100)),
        DataLoader(TensorDataset(data(), torch.zeros(600)), batch_size=7),
        TensorDataset(data()),
        [{"image": part, "label": torch.zeros(len(part))} for part in data().split(50)],
        (part for part in data().split(64)),
        lambda: data(),
        {"held_out": data()},
    ],
    ids=lambda each: type(each).__name__,
)
def test_any_loader_will_do(examples) -> None:
    readings = diagnose(module=Foreign(), data=examples, examples=600).readings
    assert readings["gap"].n == 600
    assert readings["gap"].status == "material"


def test_a_model_in_training_mode_is_read_in_evaluation_mode_and_left_as_it_was() -> None:
    module = Foreign().train()
    verdict = diagnose(module=module, data=data())
    assert "in training mode" in " ".join(verdict.findings)
    assert module.training
    assert module.drop.training
    assert not any(p.grad is not None for p in module.parameters())
    again = diagnose(module=module.eval(), data=data())
    assert again.readings == verdict.readings
    assert "in training mode" not in " ".join(again.findings)


def test_functions_in_a_map_find_the_module_behind_them() -> None:
    module = Foreign().train()
    functions = {"encode": module.encode, "decode": lambda z: module.decode(z)}
    verdict = diagnose(module=functions, data=data())
    assert "in training mode" in " ".join(verdict.findings)
    assert verdict.readings == diagnose(module=(module, functions), data=data()).readings


def test_the_density_or_distance_is_the_users() -> None:
    module = Foreign().eval()

    def log_likelihood(x, decoded):
        return Normal(decoded, 1.0).log_prob(x)

    def distance(x, decoded):
        return (x - decoded).abs().mean(1)

    both = {"encode": module.encode, "decode": module.decode}
    nats = from_model({**both, "log_likelihood": log_likelihood}, data())
    assert nats.facts.distortion_kind == "nll"
    assert "distance_between_examples" not in nats.held_out
    far = from_model({**both, "distance": distance}, data())
    assert far.held_out["distance_between_examples"].value > 0
    dense = from_model({**both, "decode": lambda z: Independent(Normal(module.decode(z), 1.0), 1)}, data())
    assert dense.held_out["distortion"].value == pytest.approx(nats.held_out["distortion"].value, rel=1e-6)


def test_a_condition_is_handed_on_where_it_is_taken() -> None:
    """z tells the condition alone: permuted within it, z is worth nothing."""
    label = (torch.arange(600) % 2).float()[:, None]
    x = torch.cat([label, data(600)[:, :1]], 1)

    class Conditional:
        def encode(self, x, c):
            return Normal(c.expand(len(c), 2), torch.full((len(c), 2), 0.1))

        def decode(self, z, c):
            return Independent(Normal(torch.cat([c, torch.zeros_like(c)], 1), 1.0), 1)

    pairs = TensorDataset(x, label)
    readings = diagnose(module=Conditional(), data=pairs, examples=600).readings
    assert readings["gap"].status == "absent"
    assert readings["mi"].value == pytest.approx(0, abs=1e-6)
    with pytest.raises(Refused, match="encode takes a condition, but the data have none"):
        diagnose(module=Conditional(), data=x)


def test_two_splits_are_two_probes() -> None:
    verdict = diagnose(module=Foreign().eval(), data=(data(seed=1), data()))
    assert verdict.readings["gap"].n == verdict.readings["train/gap"].n == 512
    assert diagnose(module=optimum(3, e=1.0), data={"train": gaussian_data(600)}).verdict == "inconclusive"


def test_copies_buy_no_evidence() -> None:
    assert diagnose(module=Foreign().eval(), data=data(30).repeat(20, 1)).readings["gap"].n == 30


class Half:
    """A model of which one thing is wrong."""

    def __init__(self, **wrong: Any) -> None:
        good = {"encode": Foreign().eval().encode, "decode": Foreign().eval().decode}
        for name, function in (good | wrong).items():
            setattr(self, name, function)


def raising(*_):
    raise KeyError("weights.pt")


@pytest.mark.parametrize(
    ("module", "examples", "words"),
    [
        (raising, data(), r"raising\(\) raised KeyError: 'weights.pt'"),
        (3, data(), "a int has no encode"),
        ({"decode": raising}, data(), "has no encode"),
        (Half(encode=3), data(), "encode is a int and no function"),
        (Half(encode=raising), data(), r"encode of \(256, 8\) raised KeyError"),
        (Half(encode=lambda x: (x, x)), data(), "encode.x. gives a tuple.*Normal"),
        (Half(encode=lambda x: Normal(0.0, 1.0)), data(), "its first axis must be the examples"),
        (Half(encode=lambda x: Normal(x[:3], 1.0)), data(), "its first axis must be the examples"),
        (Half(encode=lambda x: Normal(x * float("nan"), 1.0)), data(), "encode gives a distribution whose parameters"),
        (
            Half(encode=lambda x: Normal(x[:, :4] * float("nan"), 1.0, validate_args=False)),
            data(),
            "z is not finite for 256",
        ),
        (Half(encode=lambda x: Independent(Bernoulli(torch.zeros_like(x)), 1)), data(), "posterior cannot be read"),
        (Half(decode=raising), data(), "decode of .* raised KeyError"),
        (Half(decode=lambda z: z[:, :1]), data(), "is not of the shape of x"),
        (Half(decode=lambda z: "x"), data(), "decode.z. gives a str"),
        (Half(decode=lambda z: z.repeat(1, 2) * float("nan")), data(), "what decoding costs is not finite"),
        (Half(log_likelihood=lambda x, y: torch.tensor(3.0)), data(), "one number for all"),
        (Half(log_likelihood=lambda x, y: torch.zeros(3)), data(), r"has shape \(3,\)"),
        (Half(distance=lambda x, y: 3.0), data(), "one number for all"),
        (Half(), [], "data gives no examples"),
        (Half(), 3, "data is a int"),
        (Half(), "nowhere:loader", "cannot be imported from here"),
        (Half(), "json", "names no function"),
        (Half(), raising, "raised KeyError"),
        (Half(), ["words"], "data yields str"),
        (Half(), data() * float("inf"), "hold numbers that are not finite"),
        (Half(), data(1), "one example"),
        (Half(), torch.zeros(600, 8), "copies of one"),
        (Half(), (data(), torch.zeros(600)), "two tensors of different shapes"),
        (Half(), (raising(i) if i else data(9) for i in range(2)), "data raised KeyError while it was read"),
    ],
)
def test_what_a_model_or_its_data_do_wrong_is_one_sentence(module, examples, words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        diagnose(module=module, data=examples)
    assert "\n" not in str(caught.value)


def test_without_a_decoder_it_convicts_or_abstains() -> None:
    assert diagnose(module={"encode": Foreign().encode}, data=data()).verdict == "inconclusive"
    dead = {"encode": lambda x: Normal(torch.zeros(len(x), 3), torch.ones(len(x), 3))}
    assert diagnose(module=dead, data=data()).verdict == "posterior_collapse"


# ---- a run


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    typed = ["model=linear", "max_epochs=2", f"logger.csv.directory={folder}", "trainer.accelerator=cpu"]
    tasks.train(config.compose(typed), folder, typed)
    return folder


@pytest.fixture
def run(honest, tmp_path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "run"))


def test_a_finished_run_says_what_it_said(run) -> None:
    verdict = diagnose(run=run)
    content = json.loads((run / "verdict.json").read_text())
    assert verdict.verdict == content["verdict"]
    assert verdict.findings == content["findings"]
    assert {name: f.value for name, f in verdict.readings.items()} == {
        name: reading["value"] for name, reading in content["readings"].items()
    }


@pytest.mark.parametrize("events", [True, False])
def test_a_live_run_says_its_latest_word(run, events: bool) -> None:
    (run / ".running").touch()
    (run / "verdict.json").unlink()
    if not events:
        (run / "events.jsonl").unlink(missing_ok=True)
    verdict = diagnose(run=run)
    assert verdict.confidence == "low"
    assert "not finished" in " ".join(verdict.findings)
    if not events:
        assert verdict.verdict == "too_early"
    assert verdict.readings["rate"].value > 0


def test_a_run_that_ended_early_has_not_said_its_last_word(run) -> None:
    plan = json.loads((run / "preflight.json").read_text())
    (run / "preflight.json").write_text(json.dumps({**plan, "steps": 2 * plan["steps"]}))
    assert f"of {2 * plan['steps']}): this is its latest partial verdict" in " ".join(diagnose(run=run).findings)


@pytest.mark.parametrize(
    "content",
    ['{"verdict": "splendid"}', '{"verdict": 3}', "[]", "{", '{"readings": []}', '{"verdict": "healthy", "more": 1}'],
)
def test_a_verdict_that_is_none_is_one_sentence(run, content: str) -> None:
    (run / "verdict.json").write_text(content)
    try:
        assert "not finished" in " ".join(diagnose(run=run).findings) or content == "[]"
    except Refused as refusal:
        assert "verdict.json" in str(refusal)  # noqa: PT017


def test_a_strangers_verdict_does_not_steer_the_terminal(run) -> None:
    content = json.loads((run / "verdict.json").read_text())
    content["findings"] = ["\x1b[2Jall is well"]
    (run / "verdict.json").write_text(json.dumps(content))
    assert "\x1b" not in " ".join(diagnose(run=run).findings)


@pytest.mark.parametrize("line", ["rm -rf /", "vaecollapse-train; rm -rf /", "vaecollapse-train $(reboot)", "'"])
def test_a_strangers_command_is_not_offered(run, line: str) -> None:
    content = json.loads((run / "verdict.json").read_text())
    assert len(diagnose(run=run).prescriptions) == len(content["prescriptions"]) > 0
    content["prescriptions"] = [{"command": line, "why": "trust me"}]
    (run / "verdict.json").write_text(json.dumps(content))
    assert diagnose(run=run).prescriptions == []


def test_a_run_measured_anew_is_an_evaluation(run, tmp_path) -> None:
    content = diagnosed(tmp_path, f"run={run}", "measure=true", "split=validation", "checkpoint=last")
    told = json.loads((run / "verdict.json").read_text())
    assert content["verdict"] == told["verdict"]
    assert content["readings"]["gap"]["value"] == pytest.approx(told["readings"]["gap"]["value"], rel=1e-9)
    assert (tmp_path / "out" / "evaluation.json").exists()


def test_its_own_metrics_are_a_log(run) -> None:
    verdict = diagnose(log=run / "metrics.jsonl")
    assert verdict.readings["rate"].value > 0
    assert verdict.confidence == "low"


# ---- the command


def composed(*typed: str):
    config.register()
    with hydra.initialize_config_dir(str(config.folder()), job_name="diagnose", version_base="1.3"):
        cfg = hydra.compose("diagnose", list(typed))
    config.check_diagnosis(cfg)
    return cfg


def diagnosed(folder: Path, *typed: str) -> dict:
    """The content of verdict.json."""
    tasks.diagnose(composed(*typed), folder / "out", typed)
    return json.loads((folder / "out" / "verdict.json").read_text(), parse_constant=pytest.fail)


def command(monkeypatch, folder: Path, *typed: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", [cli.DIAGNOSE, *typed])
    try:
        return cli.diagnose()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


def test_the_command_prints_the_table_and_leaves_a_directory(tmp_path, monkeypatch, capsys) -> None:
    np.savez(tmp_path / "a.npz", **recorded(Planted(constant, blind), gaussian_data(600)))
    assert command(monkeypatch, tmp_path, "arrays=a.npz") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("fake_rate  ") for line in lines)
    (directory,) = (tmp_path / "outputs" / "diagnose").iterdir()
    assert {path.name for path in directory.iterdir()} == {"config.yaml", "overrides.txt", "provenance.json",
                                                           "verdict.json"}  # fmt: skip
    assert len(json.loads((directory / "provenance.json").read_text())["sha256"]) == 64
    assert lines[-1].endswith(f"outputs/diagnose/{directory.name}")


def test_json_is_alone_on_stdout_and_a_listed_verdict_is_exit_code_3(tmp_path, monkeypatch, capsys) -> None:
    typed = ["values={rate: 0.001, units: 16}", "format=json", "fail_on=[posterior_collapse,fake_rate]"]
    assert command(monkeypatch, tmp_path, *typed) == 3
    content = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert content["verdict"] == "posterior_collapse"
    assert content["readings"]["rate"]["value"] == 0.001
    assert command(monkeypatch, tmp_path, *typed[:2], "fail_on=healthy") == 0


def test_maps_are_typed_as_hydra_reads_them(tmp_path) -> None:
    values = "values={rate: 12.48, units: 128, diversity_at_temperature: {3: 0.0517}, val/active_units: 3}"
    assert diagnosed(tmp_path, values)["readings"]["diversity_at_3"]["value"] == 0.0517
    file = table(tmp_path, ["1,3.0"] * 20, "step,loss/kl")
    assert diagnosed(tmp_path, f"log={file}", "columns={rate: loss/kl}")["readings"]["rate"]["value"] == 3


def test_a_module_is_found_where_it_is_typed(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "their_models.py").write_text(
        "import torch\nfrom torch.distributions import Normal\n"
        "class Build:\n"
        "    def encode(self, x): return Normal(torch.zeros(len(x), 2), torch.ones(len(x), 2))\n"
        "    def decode(self, z): return torch.zeros(len(z), 3)\n"
        "def loader(): return torch.randn(600, 3, generator=torch.Generator().manual_seed(0))\n"
        "def broken(): raise OSError('no checkpoint at weights.pt')\n"
    )
    typed = ["module=their_models:Build", "data=their_models:loader", "examples=600", "format=json"]
    assert command(monkeypatch, tmp_path, *typed) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "posterior_collapse"
    assert command(monkeypatch, tmp_path, "module=their_models:broken", *typed[1:]) == 1
    said = capsys.readouterr().err
    assert "broken() raised OSError: no checkpoint at weights.pt" in said
    assert len(said.splitlines()) == 1
    sys.modules.pop("their_models")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "none is given"),
        (["run=x", "log=y"], "run and log are given"),
        (["arrays=x", "values={rate: 1}"], "arrays and values are given"),
        (["run=nowhere"], "is no folder"),
        (["arrays=nowhere.npz"], "is no file: give the .npz"),
        (["arrays=."], "is a folder"),
        (["log=nowhere.csv"], "is no file: give the .csv"),
        (["module=a:b"], "give data="),
        (["module=a.b", "data=a:b"], "names no function"),
        (["module=no_such_pkg:b", "data=a:b"], "cannot be imported"),
        (["data=a:b", "values={rate: 1}"], "data belongs to module"),
        (["columns={rate: kl}", "values={rate: 1}"], "columns belongs to log"),
        (["measure=true", "values={rate: 1}"], "measure belongs to run"),
        (["split=train", "values={rate: 1}"], "split is of a run that is measured"),
        (["values={raet: 1}"], "did you mean rate?"),
        (["values=3"], "values is a map"),
        (["valeus={rate: 1}"], "did you mean values?"),
        (["values={rate: 1}", "format=jsno"], "did you mean json?"),
        (["values={rate: 1}", "fail_on=[healty]"], "did you mean healthy?"),
        (["values={rate: 1}", "examples=1"], "examples must be at least 2"),
        (["values={rate: 1}", "examples=64"], "examples is how many of data"),
        (["values={rate: 1}", "seed=3"], "seed is of the noise"),
        (["values={rate: 1"], "cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_refusal_is_a_sentence_exit_code_1_and_no_directory(tmp_path, monkeypatch, capfd, typed, said) -> None:
    assert command(monkeypatch, tmp_path, *typed) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert all(line.startswith("vaecollapse-diagnose: ") for line in err.splitlines())
    assert not list(tmp_path.glob("outputs/diagnose/*"))


@pytest.mark.parametrize("typed", [[], ["run=nowhere"], ["values={raet: 1}"], ["log=x"], ["--help"]])
def test_nothing_heavy_is_imported_before_the_input_is_valid(typed, tmp_path) -> None:
    program = (
        "import sys\nfrom vaecollapse.cli import diagnose\n"
        f"sys.argv = ['vaecollapse-diagnose', *{typed!r}]\n"
        "try:\n    diagnose()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'lightning', 'torchmetrics', 'numpy') if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_help_names_every_key_with_its_meaning(capsys, monkeypatch, tmp_path) -> None:
    assert command(monkeypatch, tmp_path, "--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n  {key}=" in text for key in config.DiagnoseSchema.__dataclass_fields__)


def test_the_pages_commands_compose_and_name_what_is_read() -> None:
    page = (ROOT / "docs" / "diagnose.md").read_text("utf-8")
    assert all(f"`{name}`" in page for name in (*given.NAMES, *bare.NAMES))
    text = page + (ROOT / "README.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith(f"{cli.DIAGNOSE} ")]
    assert len(lines) >= 5
    for line in lines:
        cfg = composed(*shlex.split(re.sub(r" #.*", "", line))[1:])
        assert given.one_input({name: cfg[name] for name in given.INPUTS})
