"""A run directory from a stranger: what it holds is never carried out, and each refusal is one sentence."""

import os
import pickle
import resource
import shutil
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vaecollapse import config, tasks
from vaecollapse.loading import check_target, checkpoint_of, fill, load_weights, read_config, read_json, run_directory
from vaecollapse.models.linear import LinearVAE
from vaecollapse.refusal import Refused

WATCHED = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect")
started: list[str] = []
sys.addaudithook(lambda event, _: started.append(event) if event in WATCHED else None)


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    """A run of two epochs, as the training leaves it."""
    folder = tmp_path_factory.mktemp("honest") / "runs" / "1"
    typed = ["model=linear", "max_epochs=2", f"logger.csv.directory={folder}", "trainer.accelerator=cpu"]
    tasks.train(config.compose(typed), folder, typed)
    return folder


@pytest.fixture
def run(honest, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(honest, tmp_path / "run"))


@pytest.fixture
def marker(tmp_path) -> Path:
    """What a payload would make."""
    return tmp_path / "executed"


def spoil(run: Path, change: dict[str, Any]) -> None:
    """Sets dotted keys of config.yaml to plain values."""
    content = yaml.safe_load((run / "config.yaml").read_text())
    for path, value in change.items():
        node = content
        *parents, last = path.split(".")
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    (run / "config.yaml").write_text(yaml.dump(content))


def refusal(call, *arguments: Any) -> str:
    """The one sentence; nothing is started and no file is made, changed or removed."""
    folder = next(Path(a) for a in arguments if isinstance(a, Path))
    root = folder.parents[1] if folder.suffix else folder.parent
    before, begun = snapshot(root), len(started)
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert started[begun:] == []
    assert snapshot(root) == before
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.isprintable()
    return sentence


def snapshot(folder: Path) -> dict[str, float]:
    return {str(path): path.lstat().st_mtime for path in folder.rglob("*") if "__pycache__" not in str(path)}


# ---- what a training writes is read back


def test_an_honest_run_is_read_as_it_was_written(honest):
    assert read_config(honest) == OmegaConf.load(honest / "config.yaml")
    for which in ("best", "last"):
        weights = load_weights(checkpoint_of(honest, which))
        whole = torch.load(honest / "checkpoints" / f"{which}.ckpt", weights_only=True)
        assert (weights.epoch, weights.step) == (whole["epoch"], whole["global_step"])
        assert list(weights.state) == list(whole["state_dict"])
        assert all(torch.equal(weights.state[name], whole["state_dict"][name]) for name in weights.state)


@pytest.mark.parametrize(
    "typed",
    [
        ["model=audio_nf", "logger=[csv,wandb,tensorboard]", "optimizer=adamw"],
        ["model=audio", "regularizer=free_bits", "coefficient@regularizer.weight=cyclical", "prior=nsf"],
        ["dataset=audio_folder", "dataset.root='odd: #name'", "likelihood=laplace", "posterior=iaf"],
    ],
    ids=" ".join,
)
def test_every_kind_of_configuration_of_ours_is_read_back(typed, tmp_path):
    cfg = config.compose(typed)
    for logger in cfg.logger.values():
        logger.update({key: "there" for key, value in logger.items_ex(resolve=False) if "hydra:" in str(value)})
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    assert read_config(tmp_path) == OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))


# ---- configurations that would run something


PLACES = ["model", "dataset", "regularizer", "detector.rate", "callback.progress", "model.likelihood", "logger.csv",
          "trainer", "optimizer", "elsewhere"]  # fmt: skip


def test_a_payload_below_is_real(marker):
    instantiate({"_target_": "torch.utils.collect_env.run", "command": f"touch {marker}"})
    assert marker.exists()


@pytest.mark.parametrize("path", PLACES)
def test_no_place_takes_a_function(run, marker, path):
    spoil(run, {path: {"_target_": "os.system", "command": f"touch {marker}"}})
    assert f"{path}._target_: os.system is of a package" in refusal(read_config, run)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("os.system", "was not imported"),
        ("builtins.exec", "was not imported"),
        ("torch.hub.load", "was not imported"),
        ("torch.load", "was not imported"),
        ("torch.utils.collect_env.run", "was not imported"),
        ("vaecollapse.tasks.train", "is a function and no class"),
        ("torch.nn.init.zeros_", "is a function and no class"),
        ("vaecollapse.run.Run", "is no class that a run builds"),
        ("torch.nn.Parameter", "is no class that a run builds"),
        ("vaecollapse.detectors.base.Metric", "is no class that a run builds"),
        ("vaecollapse.tasks.subprocess.Popen", "cannot be imported"),
        ("torch.nn.modules.os.system", "cannot be imported"),
        ("torch.nn..Linear", "names no class"),
        ("subprocess", "was not imported"),
        ("", "names no class"),
        (["os", "system"], "names no class"),
        (None, "names no class"),
    ],
    ids=str,
)
def test_a_target_that_is_no_class_of_a_run_is_refused(run, marker, target, said):
    spoil(run, {"callback.more": {"_target_": target, "command": f"touch {marker}"}})
    sentence = refusal(read_config, run)
    assert said in sentence
    assert "callback.more._target_" in sentence
    assert not marker.exists()


@pytest.mark.parametrize(
    "target",
    ["lightning.pytorch.Trainer", "vaecollapse.callbacks.monitor.CollapseMonitor", "torch.optim.Adam",
     "lightning.pytorch.loggers.CSVLogger", "vaecollapse.datasets.gaussian.GaussianData"],
)  # fmt: skip
def test_what_is_built_into_a_model_is_a_module(run, target):
    """A logger or a callback among its parts would make folders when it is built."""
    spoil(run, {"model.likelihood": {"_target_": target, "directory": str(run / "made"), "save_dir": "made"}})
    assert "is no class that a run builds at model.likelihood" in refusal(read_config, run)


@pytest.mark.parametrize("wrap", [lambda node: [node], lambda node: [[{"deep": [node]}]], lambda node: {"a": [node]}])
def test_a_target_does_not_hide_in_lists(run, marker, wrap):
    spoil(run, {"dataset.eigenvalues": wrap({"_target_": "os.system", "command": f"touch {marker}"})})
    assert "os.system is of a package" in refusal(read_config, run)


@pytest.mark.parametrize(
    ("key", "value"),
    [("_args_", ["x"]), ("_convert_", "all"), ("_recursive_", False), ("_partial_", False), ("_partial_", "true")],
)
def test_hydras_other_keys_are_refused_but_for_the_form_of_ours(run, key, value):
    spoil(run, {f"model.{key}": value})
    assert f"has {key} at model" in refusal(read_config, run)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a${oc.decode:1}", "${seed}"])
@pytest.mark.parametrize("path", ["dataset.seed", "extra.deep", "model.latent_dim"])
def test_an_interpolation_is_never_resolved(run, text, path):
    spoil(run, {path: text})
    assert f"has an interpolation at {path}" in refusal(read_config, run)


@pytest.mark.parametrize("line", ['"\\x24{oc.env:HOME}": 1', 'x: "\\x24{oc.env:HOME}"', "x: [1, '${oc.env:HOME}']"])
def test_an_interpolation_does_not_hide_behind_escapes(run, line):
    with (run / "config.yaml").open("a") as file:
        file.write(f"{line}\n")
    assert "has an interpolation at" in refusal(read_config, run)


PARTS = "model: {}\ndataset: {}\nregularizer: {}\n"
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "anchors or aliases"),
        ("a: &a [*a]\n", "anchors or aliases"),
        ("a: " + "[" * 5000, "nested deeper"),
        ("a: " + "{b: " * 5000, "nested deeper"),
        ("a: " + "1" * 20_000, "longer than"),
        ("# " + "x" * 2**20, "larger than 1 MB"),
        ("a: !!python/object/apply:os.system ['touch executed']", "is not read"),
        ("a: !!python/name:os.system", "is not read"),
        ("a: !<x%1B[2J> 1", "is not read"),
        (PARTS + '"\\e[2J": "${a}"', "has an interpolation at '\\x1b[2J'"),
        (PARTS + "a: !!binary aGVsbG8=", "has tags"),
        (PARTS + "a: !!set {x, y}", "has tags"),
        (PARTS + "a: !!omap [x: 1]", "has tags"),
        (PARTS + "a: [1, '???']", "has no value at a.1"),
        ("{", "is not read"),
        ("[1, 2]", "has no model"),
        ("", "has no model"),
        ("model: {a: 1}\ndataset: {}\nregularizer: {}\n", "names no class at model"),
    ],
    ids=lambda value: value[:20],
)
def test_yaml_that_is_no_configuration_is_refused(run, text, said):
    (run / "config.yaml").write_text(text)
    assert said in refusal(read_config, run)


def test_bytes_that_are_no_text_are_refused(run):
    (run / "config.yaml").write_bytes(b"\xff\xfe\x00model")
    assert "cannot be read" in refusal(read_config, run)


# ---- trust


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    """A package whose import leaves a mark."""
    (tmp_path / "their_pkg.py").write_text(
        f"open({str(tmp_path / 'executed')!r}, 'w').close()\n"
        "from vaecollapse.models.linear import LinearVAE\nfrom subprocess import Popen\n"
        "class Theirs(LinearVAE):\n    pass\nclass Other:\n    pass\ndef make(**_):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "their_pkg"
    sys.modules.pop("their_pkg", None)


def test_a_class_of_theirs_is_imported_only_where_they_are_trusted(run, package, marker):
    spoil(run, {"model._target_": f"{package}.Theirs"})
    assert f"type trust=[{package}]" in refusal(read_config, run)
    assert not marker.exists()
    assert read_config(run, [package]).model._target_ == f"{package}.Theirs"
    assert marker.exists()


@pytest.mark.parametrize(
    ("name", "said"), [("make", "no class"), ("Other", "no class that"), ("Popen", "no class that")]
)
def test_trust_is_for_classes_of_a_run(package, name, said):
    with pytest.raises(Refused, match=said):
        check_target(f"{package}.{name}", "model", [package])


def test_the_interpreters_own_modules_are_offered_to_nobodys_trust():
    with pytest.raises(Refused, match="trust nothing in this directory"):
        check_target("os.system", "model")


# ---- checkpoints


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_in_a_checkpoint_is_never_run(run, marker):
    file = run / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": {"vae.x": Payload(marker)}, "epoch": 0, "global_step": 0}, file)
    sentence = refusal(load_weights, file)
    assert "system" in sentence
    assert str(file) in sentence
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists(), "it was a real one"


def entries(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rezip(file: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]), "truncated"),
        (lambda file: file.write_bytes(b""), "truncated"),
        (lambda file: file.write_bytes(pickle.dumps({"state_dict": {}})), "is no checkpoint"),
        (lambda file: file.write_bytes(b"#!/bin/sh\n" + file.read_bytes()), "did not write"),
        (lambda file: rezip(file, entries(file), zipfile.ZIP_DEFLATED), "compressed"),
        (lambda file: rezip(file, {**entries(file), "archive/../../evil": b"x"}), "lead out"),
        (lambda file: rezip(file, {**entries(file), "/archive/evil": b"x"}), "lead out"),
        (lambda file: rezip(file, {**entries(file), "archive\\..\\evil": b"x"}), "lead out"),
        (lambda file: rezip(file, {**entries(file), "other/data.pkl": b"x"}), "did not write"),
        (lambda file: rezip(file, {"archive/version": b"3"}), "did not write"),
        (lambda file: rezip(file, {**entries(file), "archive/data.pkl": b"garbage"}), "cannot be loaded"),
        (lambda file: torch.save([1, 2], file), "no state_dict"),
        (lambda file: torch.save({"state_dict": {"vae.x": 3}}, file), "no state_dict"),
        (lambda file: torch.save({"state_dict": {"vae.x": torch.empty(3, device="meta")}}, file), "no state_dict"),
        (lambda file: torch.save({"state_dict": {"vae.x": torch.eye(3).to_sparse()}}, file), "no state_dict"),
        (lambda file: torch.save({"state_dict": {}, "epoch": "x", "global_step": 1}, file), "which epoch"),
    ],
)
def test_a_file_that_is_no_checkpoint_of_torchs_is_refused(run, damage, said):
    file = run / "checkpoints" / "last.ckpt"
    damage(file)
    sentence = refusal(load_weights, file)
    assert said in sentence
    assert str(file) in sentence


def test_a_directory_that_claims_ten_gigabytes_allocates_none(run):
    file = run / "checkpoints" / "last.ckpt"
    content = bytearray(file.read_bytes())
    place, patched = content.find(b"PK\x01\x02"), 0
    while place >= 0 and patched < 3:
        content[place + 20 : place + 28] = struct.pack("<II", 3_500_000_000, 3_500_000_000)
        place, patched = content.find(b"PK\x01\x02", place + 4), patched + 1
    file.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "claims 10,500," in refusal(load_weights, file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB"


def test_a_tensor_that_claims_ten_gigabytes_of_storage_allocates_none(run):
    class Storage:
        pass

    class Claim:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, (2_500_000_000,), (1,), False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", torch.FloatStorage, "0", "cpu", 2_500_000_000) if isinstance(thing, Storage) else None

    file = run / "checkpoints" / "last.ckpt"
    with file.with_suffix(".pkl").open("wb") as written:
        Pickler(written, protocol=2).dump({"state_dict": {"vae.x": Claim()}, "epoch": 0, "global_step": 0})
    data = file.with_suffix(".pkl").read_bytes()
    rezip(file, {"a/data.pkl": data, "a/byteorder": b"little", "a/data/0": b"\0" * 64, "a/version": b"3\n"})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "cannot be loaded as weights" in refusal(load_weights, file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB"


def model(units: int = 5) -> LinearVAE:
    from vaecollapse.distributions.likelihoods import NormalLikelihood

    return LinearVAE(event_shape=(8,), latent_dim=units, likelihood=NormalLikelihood()).double()


def test_weights_fill_the_model_that_wrote_them(honest):
    weights, vae = load_weights(checkpoint_of(honest)), model()
    fill(vae, weights, "vae.")
    assert all(torch.equal(tensor, weights.state[f"vae.{name}"]) for name, tensor in vae.state_dict().items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state, r"vae\.log_variance is \(5,\) in the checkpoint and \(4,\) in the model"),
        (lambda state: {}, r"vae\.log_variance is not in the checkpoint"),
        (lambda state: {"vae.log_variance": torch.zeros(1).expand(10**12)}, r"is \(1000000000000,\) in the checkpoint"),
        (lambda state: {"vae." + n: t for n, t in model(4).state_dict().items()} | {"vae.more": torch.zeros(1)},
         r"vae\.more is not in the model"),
        (lambda state: {"vae." + n: t / 0 for n, t in model(4).state_dict().items()}, "not finite"),
    ],
)  # fmt: skip
def test_another_models_weights_are_refused_with_the_first_difference(honest, change, said):
    weights = load_weights(checkpoint_of(honest))
    with pytest.raises(Refused, match=said):
        fill(model(units=4), weights._replace(state=change(weights.state)), "vae.")


# ---- directories


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path, honest):
    assert "is no folder" in refusal(run_directory, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "has no config.yaml" in refusal(run_directory, tmp_path / "empty")
    assert f"of those in it, such as {honest.parent}" in refusal(run_directory, honest.parent)


@pytest.mark.parametrize(("removed", "said"), [(["best"], "type checkpoint=last"), (["best", "last"], "wait for its")])
def test_a_run_without_a_checkpoint_is_one_sentence(run, removed, said):
    for name in removed:
        (run / "checkpoints" / f"{name}.ckpt").unlink()
    assert said in refusal(checkpoint_of, run)


@pytest.mark.parametrize("name", ["config.yaml", "provenance.json", "checkpoints", "checkpoints/best.ckpt"])
@pytest.mark.parametrize("kind", ["out", "circle"])
def test_a_link_that_leads_out_is_refused(run, honest, name, kind):
    file = run / name
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    file.symlink_to(honest / name if kind == "out" else file)
    if kind == "circle" and name != "checkpoints/best.ckpt":
        return  # such a file does not exist
    call = {"c": read_config, "p": lambda run: read_json(run, "provenance.json")}
    read = checkpoint_of if name.startswith("checkpoints") else call[name[0]]
    said = "leads out of the run directory" if kind == "out" else "cannot be found"
    assert said in refusal(read, run)


def test_a_link_within_the_run_is_followed(run):
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "checkpoints" / "last.ckpt").symlink_to("best.ckpt")
    assert load_weights(checkpoint_of(run, "last")).state


def test_a_pipe_is_not_waited_for(run):
    (run / "config.yaml").unlink()
    os.mkfifo(run / "config.yaml")
    assert "no regular file" in refusal(read_config, run)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\udcff"])
def test_json_that_is_none_is_refused(run, text):
    (run / "provenance.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "provenance.json" in refusal(read_json, run, "provenance.json")
