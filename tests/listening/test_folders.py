"""Two folders of sounds on the command line: what is heard, what is kept, and every kind of bad input."""

import json
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import soundfile as sf
import torch
from planted_sounds import tones

from vaecollapse import config, tasks
from vaecollapse.cli import evaluate as evaluate_command
from vaecollapse.listening import hearing
from vaecollapse.listening.embedding import Embedding
from vaecollapse.listening.log_mel import LogMelStatistics
from vaecollapse.listening.whitening import Whitening
from vaecollapse.refusal import Refused

FEW = "metric=[embedding,fad,vendi]"


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(folder: Path, waveforms: list[np.ndarray], rate: int = 8000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, waveform in enumerate(waveforms):
        sf.write(folder / f"{number:03d}.wav", waveform, rate, subtype="FLOAT")
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "real", tones(40)), write(tmp_path / "made", tones(40, 1))


def composed(*typed: str) -> Any:
    config.register()
    with hydra.initialize_config_dir(str(config.folder()), job_name="evaluate", version_base="1.3"):
        cfg = hydra.compose("evaluate", list(typed))
    config.check_evaluation(cfg)
    return cfg


def compared(folders: tuple[Path, Path], *typed: str) -> Any:
    real, generated = folders
    out = real.parent / "out"
    return tasks.compare_folders(composed(f"real={real}", f"generated={generated}", FEW, *typed), out, typed).heard


def test_the_command_prints_scores_and_the_word_and_writes_both(folders, tmp_path, monkeypatch, capsys) -> None:
    real, generated = folders
    monkeypatch.setattr("sys.argv", ["vaecollapse-evaluate", f"real={real}", f"generated={generated}",
                                     f"hydra.run.dir={tmp_path}/out"])  # fmt: skip
    assert evaluate_command() == 0
    shown = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    names = ["fad", "fad_share", "fad_infinity", "kernel_distance", "precision", "recall", "vendi_ratio", "vendi"]
    assert [score["name"] for score in content["scores"]] == names
    assert all(name in shown for name in names)
    assert content["set"]["word"] in ("alike", "undecided") and content["set"]["word"] in shown
    assert content["scores"][0]["n"] == 20 and "20 of each at once" in shown


def test_rates_are_brought_together_and_said(folders, tmp_path) -> None:
    wide = write(tmp_path / "wide", [np.repeat(each, 2) for each in tones(40)], 16000)
    found = compared((folders[0], wide))
    assert "at 8000 Hz" in found.what
    assert any("40 at 16000 Hz: resampled to 8000 Hz" in said for said in found.said)


def test_what_is_no_audio_cannot_be_heard_or_is_odd_is_counted_and_said(folders, tmp_path) -> None:
    real, made = folders
    (made / "notes.txt").write_text("no audio")
    (made / "broken.wav").write_bytes(b"RIFF")
    sf.write(made / "nan.wav", np.full(800, np.nan, np.float32), 8000, subtype="FLOAT")
    sf.write(made / "short.wav", 0.5 * np.ones(20, np.float32), 8000)
    for number in range(3):
        (made / f"copy{number}.wav").write_bytes((made / "000.wav").read_bytes())
    (made / "stolen.wav").write_bytes((real / "007.wav").read_bytes())
    (real / "twice.wav").write_bytes((real / "000.wav").read_bytes())
    found = compared((real, made), "metric.embedding.dimensions=16")
    said = "\n".join(found.said)
    for words in ("1 files of", "are no audio and left out", "2 of 47 audio files", "1 corrupt, 1 not finite",
                  "1 of 41 clips", "are copies of others and left out", "3 of 45 generated clips are copies of other",
                  "1 generated clips are copies of real ones", "1 generated clips are shorter than a"):  # fmt: skip
        assert words in said, (words, said)


def test_few_clips_for_their_dimensions_are_said(folders) -> None:
    assert not any("fewer than twice" in said for said in compared(folders).said)
    net = exported(folders[0].parent / "net.pt", 24)
    found = compared(folders, *net)
    assert any("20 clips at once are fewer than twice the 24 dimensions" in said for said in found.said)
    assert "fewer clips than dimensions, covariances of rank 19" in found.scores[0].note


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["real=a"], "generated is missing"),
        (["real=a", "generated=b", "run=c"], "give one of the two"),
        (["real=a", "generated=b", "file=c.nc"], "give one of the two"),
        (["real=a", "generated=b", "mode=prior"], "mode is of a run's own samples"),
    ],
)
def test_what_two_folders_cannot_mean_is_refused(typed, words) -> None:
    with pytest.raises(Refused, match=words):
        composed(*typed)


def test_folders_without_sounds_are_refused_by_their_own_name(folders, tmp_path) -> None:
    real, _ = folders
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match=r"generated=.*empty holds no audio files"):
        compared((real, tmp_path / "empty"))
    with pytest.raises(Refused, match=r"real=.*nowhere does not exist"):
        compared((tmp_path / "nowhere", real))
    silent = write(tmp_path / "silent", [np.zeros(800, np.float32)])
    with pytest.raises(Refused, match=r"generated=.*silent holds no usable audio"):
        compared((real, silent))
    with pytest.raises(Refused, match="metric names no score of sounds"):
        compared(folders, "metric=[crps]")


def test_one_clip_is_too_few_and_says_so(folders, tmp_path) -> None:
    found = compared((folders[0], write(tmp_path / "one", tones(1))))
    assert found.judged is None and "there are 40 and 1" in found.scores[0].note


# ---- the cache


def test_a_clip_is_heard_once_by_its_content_and_again_by_another_embedding(folders, monkeypatch) -> None:
    heard: list[int] = []

    class Counted(LogMelStatistics):
        def __call__(self, x):
            heard.append(len(x))
            return super().__call__(x)

    monkeypatch.setattr("vaecollapse.listening.embedding.LogMelStatistics", Counted)
    first = compared(folders)
    assert len(heard) == 80
    (folders[1] / "000.wav").rename(folders[1] / "renamed.wav")
    assert [score.value for score in compared(folders).scores] == [score.value for score in first.scores]
    assert len(heard) == 80
    sf.write(folders[1] / "001.wav", tones(1, 9)[0], 8000, subtype="FLOAT")
    compared(folders)
    assert len(heard) == 81
    compared(folders, "metric.embedding.mels=20")
    assert len(heard) == 161


def test_damaged_numbers_are_made_anew(folders, tmp_path) -> None:
    first = compared(folders)
    for path in (tmp_path / "cache").rglob("embedding-*.npz"):
        path.write_bytes(path.read_bytes()[:-5])
        assert hearing.recalled(hearing.Cache(), path.name) == {}
    assert compared(folders).scores == first.scores


# ---- the log-mel embedding


def test_statistics_are_the_clips_own_and_know_its_level_above_the_dither() -> None:
    hear, (tone, *_) = LogMelStatistics(sample_rate=8000), tones(1)
    loud = hear(torch.from_numpy(tone))
    assert torch.equal(loud, hear(torch.from_numpy(tone))) and loud.shape == (240,)
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    assert (hear(10 * noise) - hear(noise))[:40].mean() == pytest.approx(np.log(10), rel=1e-2)
    silent = hear(torch.zeros(4000))
    assert torch.allclose(hear(1e-6 * torch.from_numpy(tone)), hear(torch.zeros(len(tone))), atol=0.05)
    assert torch.isfinite(hear(torch.zeros(1))).all() and silent[:40].std() < 1


@pytest.mark.parametrize("knob", [{"mels": 20}, {"dither": -30.0}, {"seconds": 0.05}, {"dimensions": 2},
                                  {"sample_rate": 4000}])  # fmt: skip
def test_no_knob_of_the_embedding_is_dead(folders, knob) -> None:
    ((name, value),) = knob.items()
    assert compared(folders, f"metric.embedding.{name}={value}").scores != compared(folders).scores


def test_whitened_rows_have_variance_about_one_and_few_clips_few_directions() -> None:
    rows = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 5, 3, 2, 1, 0.5])
    white = Whitening.of(rows, 4)(rows)
    assert torch.allclose(torch.cov(white.T), torch.eye(4).double(), atol=0.02)
    view = Embedding().view(24)
    assert view is not None and view(rows[:24])(rows[:7]).shape == (7, 3)
    copies = Whitening.of(rows[:1].expand(30, -1), 4)(rows)
    assert torch.isfinite(copies).all()


# ---- their own network


class Means(torch.nn.Module):
    """Means of `size` parts of a clip."""

    def __init__(self, size: int, spoilt: bool = False) -> None:
        super().__init__()
        self.size, self.spoilt = size, spoilt

    def forward(self, x):
        parts = torch.nn.functional.adaptive_avg_pool1d(x.abs(), self.size)
        return parts.sqrt() * (float("nan") if self.spoilt else 1.0)


def exported(path: Path, size: int, *, spoilt: bool = False) -> list[str]:
    """The overrides for a network saved here."""
    if path.suffix == ".pt2":
        torch.export.save(torch.export.export(Means(size), (torch.zeros(1, 800),)), path)
    else:
        torch.jit.save(torch.jit.trace(Means(size, spoilt), torch.zeros(1, 800)), path)
    return [f"metric.embedding.path={path}", f"metric.embedding.size={size}", "metric.embedding.sample_rate=8000"]


def test_both_kinds_of_network_give_the_same_scores(folders, tmp_path) -> None:
    traced, program = exported(tmp_path / "net.pt", 5), exported(tmp_path / "net.pt2", 5)
    scores = [compared(folders, *each, "metric.embedding.seconds=0.1").scores for each in (traced, program)]
    assert [each.value for each in scores[0]] == pytest.approx([each.value for each in scores[1]], rel=1e-4)
    with pytest.raises(Refused, match=r"does not take a clip of .*declare it with metric\.embedding\.seconds"):
        compared(folders, *program)


def test_a_network_that_is_not_what_was_declared_is_refused(folders, tmp_path) -> None:
    path, _, rate = exported(tmp_path / "net.pt", 5)
    with pytest.raises(Refused, match=r"gives \(1, 5\) for one clip, and metric\.embedding\.size=7 is declared"):
        compared(folders, path, rate, "metric.embedding.size=7")
    with pytest.raises(Refused, match=r"no number for 40 of 40 clips, such as 000\.wav"):
        compared(folders, *exported(tmp_path / "nan.pt", 5, spoilt=True))
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(Refused, match=r"neither a \.pt2 of torch.export nor a TorchScript file"):
        compared(folders, f"metric.embedding.path={tmp_path}/text.pt", rate, "metric.embedding.size=5")
    for asked, words in (({"path": "x.pt", "size": 5}, "sample_rate is missing"), ({"size": 5}, "path=net.pt2"),
                         ({"path": "x.pt", "size": 5, "sample_rate": 1, "mels": 8}, "of the log-mel embedding"),
                         ({"seconds": 0.0}, "above 0"), ({"dither": 3.0}, "below the peak")):  # fmt: skip
        with pytest.raises(Refused, match=words):
            Embedding(**asked)
