"""A folder comes through whole: the same sound from every format, bad files named, nobody in two splits."""

import os
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch._utils import ExceptionWrapper

from vaecollapse.datasets.audio import AudioFolderData
from vaecollapse.datasets.base import Visit
from vaecollapse.datasets.signals import Files, Pack, resample
from vaecollapse.refusal import Refused

RATE = 8000
SPLITS = ["train", "val", "test"]
DRUM_MACHINES = Path(__file__).parents[3] / "shared" / "data" / "drum_machines"


def tone(frequency: float, seconds: float, rate: int = RATE, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return 0.2 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


@pytest.fixture(autouse=True)
def cached(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty tones at 8 kHz, from 0.1 to 0.48 s; the first letter is one of four people."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(20):
        sf.write(folder / f"{'abcd'[number % 4]}_{number:02d}.wav", tone(300 + 20 * number, 0.1 + 0.02 * number), RATE)
    return folder


def folder(root: Path, **settings: object) -> AudioFolderData:
    data = AudioFolderData(**{"root": root, "seed": 0, **settings})
    data.setup()
    return data


def by_path(data: AudioFolderData) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {
        path: (split[position].x, split[position].mask)
        for split in data.splits
        for position, path in enumerate(split.paths)
    }


FORMATS = {
    "pcm8": ("wav", "PCM_U8", 0.03),
    "pcm16": ("wav", "PCM_16", 1e-4),
    "pcm24": ("wav", "PCM_24", 1e-6),
    "float": ("wav", "FLOAT", 1e-6),
    "flac": ("flac", "PCM_16", 1e-4),
    "aiff": ("aiff", "PCM_16", 1e-4),
    "ogg": ("ogg", "VORBIS", 0.1),
    "mp3": ("mp3", "MPEG_LAYER_III", 0.2),
}


@pytest.mark.parametrize("gib", [0.0, 1.0])
def test_every_format_gives_the_same_sound(tmp_path: Path, gib: float) -> None:
    signal = tone(440, 0.5) * np.hanning(4000)
    for name, (suffix, subtype, _) in FORMATS.items():
        sf.write(tmp_path / f"{name}.{suffix}", signal, RATE, subtype=subtype)
    data = folder(tmp_path, normalise="none", seconds=0.5, multiple_of=4000, pack_gib=gib)
    assert not data.scanned.quarantine
    for path, (x, _) in by_path(data).items():
        tolerance = max(FORMATS[Path(path).stem][2], 5e-5 * gib)  # a pack has 16 bits
        wanted = torch.from_numpy(signal).float()
        assert (x - wanted).norm() / wanted.norm() < tolerance, path


@pytest.mark.parametrize("source", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("target", [8000, 16000])
def test_resampling_keeps_frequency_level_and_duration(source: int, target: int) -> None:
    def resampled(frequency: float) -> np.ndarray:
        return resample(tone(frequency, 1.0, source, level=0.7).astype(np.float32)[None], source, target)[0]

    out = resampled(1000)
    assert len(out) == target
    middle = out[target // 4 : target // 2] * np.hanning(target // 4)
    peak = np.abs(np.fft.rfft(middle, 8 * len(middle))).argmax() * target / (8 * len(middle))
    assert peak == pytest.approx(1000, abs=2)
    assert np.sqrt(2) * out[target // 4 : target // 2].std() == pytest.approx(0.7, rel=5e-3)
    above = resampled(0.62 * target)
    assert source <= 1.3 * target or np.abs(above[1000:-1000]).max() < 0.01  # nothing folds back


@pytest.mark.parametrize("sample_rate", [8000, 16000, 11025])
def test_parts_read_from_disk_are_those_of_the_pack(tmp_path: Path, sample_rate: int) -> None:
    for number, rate in enumerate([8000, 22050, 44100, 48000, 16000, 8000]):
        stereo = np.random.default_rng(number).uniform(-0.5, 0.5, (round(0.6 * rate), 2))
        sf.write(tmp_path / f"{number}.wav", stereo, rate, subtype="FLOAT")
    packed, parts = (folder(tmp_path, sample_rate=sample_rate, seconds=0.1, pack_gib=gib) for gib in (1.0, 0.0))
    assert isinstance(packed.splits.train.source, Pack)
    assert isinstance(parts.splits.train.source, Files)
    for left, right in zip(packed.splits, parts.splits, strict=True):
        for position in range(len(left)):
            for key in (position, Visit(position, 0), Visit(position, 7)):
                torch.testing.assert_close(left[key].x, right[key].x, atol=4e-5, rtol=0)  # 16 bits
                assert torch.equal(left[key].mask, right[key].mask)


def test_nine_rates_in_one_folder_sound_alike(tmp_path: Path) -> None:
    rates = [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000]
    for rate in rates:
        sf.write(tmp_path / f"{rate}.wav", tone(1000, 0.5, rate), rate, subtype="FLOAT")
    data = folder(tmp_path, sample_rate=16000, seconds=0.512, normalise="none")
    clips = by_path(data)
    assert len(clips) == 9
    wanted = torch.from_numpy(tone(1000, 0.5, 16000)).float()
    for path, (x, mask) in clips.items():
        assert int(mask.sum()) == 8000, path
        assert (x[1000:7000] - wanted[1000:7000]).abs().max() < 5e-3, path


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Eight recordings of two channels, a ninth of one and a tenth whose right one is silent."""
    for number in range(8):
        sides = np.stack([tone(300 + 10 * number, 0.3), tone(500 + 10 * number, 0.3)], 1)
        sf.write(tmp_path / f"{number}.wav", sides, RATE, subtype="FLOAT")
    sf.write(tmp_path / "mono.wav", tone(700, 0.3), RATE, subtype="FLOAT")
    sf.write(tmp_path / "half.wav", np.stack([tone(800, 0.3), np.zeros(2400)], 1), RATE, subtype="FLOAT")
    return tmp_path


def sides(root: Path, path: str) -> np.ndarray:
    return sf.read(root / path, dtype="float32", always_2d=True)[0].T


@pytest.mark.parametrize("gib", [0.0, 1.0])
@pytest.mark.parametrize("channels", ["mean", "left", "stereo"])
def test_channels_are_kept_as_asked(wide: Path, channels: str, gib: float) -> None:
    data = folder(wide, channels=channels, normalise="none", pack_gib=gib)
    assert data.facts["event_shape"] == ((2, 3072) if channels == "stereo" else (3072,))
    for path, (x, mask) in by_path(data).items():
        left, right = (sides(wide, path)[side] for side in (0, -1))
        wanted = {"mean": (left + right) / 2, "left": left, "stereo": np.stack([left, right])}[channels]
        assert x.shape == mask.shape == data.facts["event_shape"]
        np.testing.assert_allclose(x[mask].reshape(wanted.shape), wanted, atol=2e-5)


@pytest.mark.parametrize("gib", [0.0, 1.0])
def test_a_random_channel_is_one_that_sounds_and_stands_still_in_evaluation(wide: Path, gib: float) -> None:
    data, again = (folder(wide, channels="random", normalise="none", pack_gib=gib) for _ in range(2))
    drawn: dict[str, set[int]] = {}

    def channel(path: str, x: torch.Tensor) -> int:
        apart = np.abs(sides(wide, path) - x[:2400].numpy()).max(1)
        assert apart.min() < 2e-5
        return int(apart.argmin())

    for split, same in zip(data.splits, again.splits, strict=True):
        for position, path in enumerate(split.paths):
            assert torch.equal(split[position].x, split[position].x)
            assert torch.equal(split[position].x, same[position].x)
            visits = [Visit(position, epoch) for epoch in range(12)]
            assert all(torch.equal(split[visit].x, same[visit].x) for visit in visits)
            drawn[path] = {channel(path, split[key].x) for key in visits}
            drawn["evaluation"] = drawn.get("evaluation", set()) | {channel(path, split[position].x)}
    assert drawn.pop("mono.wav") == drawn.pop("half.wav") == {0}
    assert set(map(frozenset, drawn.values())) == {frozenset({0, 1})}


def test_copies_of_a_file_stay_in_one_split(tmp_path: Path) -> None:
    """Held-out readings on what was trained on would hide an overfit."""
    for number in range(40):
        for copy in range(3):
            sf.write(tmp_path / f"{number}_{copy}.wav", noise(0.1, seed=number), RATE)
    data = folder(tmp_path, seconds=0.1)
    contents = [{split[i].x.numpy().tobytes() for i in range(len(split))} for split in data.splits]
    assert sum(map(len, contents)) == 40 == len(set.union(*contents))
    assert [len(split) for split in data.splits] == [84, 24, 12]


@pytest.mark.parametrize("gib", [0.0, 1.0])
def test_trimming_takes_the_silence_and_nothing_else(root: Path, tmp_path: Path, gib: float) -> None:
    (tmp_path / "padded").mkdir()
    for path in root.iterdir():
        samples, _ = sf.read(path)
        sf.write(tmp_path / "padded" / path.name, np.concatenate([np.zeros(1600), samples, np.zeros(4000)]), RATE)
    bare, padded = by_path(folder(root)), by_path(folder(tmp_path / "padded", trim=60.0, pack_gib=gib))
    for path, (x, mask) in padded.items():
        assert abs(int(mask.sum()) - int(bare[path][1].sum())) <= 80
        torch.testing.assert_close(x[:700], bare[path][0][:700], atol=1e-4, rtol=0)
    assert by_path(folder(tmp_path / "padded"))["a_00.wav"][0].shape == (10240,)


def test_bad_files_change_nothing_for_the_good(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = by_path(folder(root))
    (root / "cut.wav").write_bytes((root / "a_00.wav").read_bytes()[:800])
    sf.write(root / "nan.wav", np.where(np.arange(800) == 400, np.nan, 0.1), RATE, subtype="FLOAT")
    (root / "._a_00.wav").write_bytes(b"Mac OS X")
    (root / "notes.txt").write_text("not audio")
    data = folder(root)
    assert [bad.path for bad in data.scanned.quarantine] == ["cut.wav", "nan.wav"]
    assert "2 of 22 files are left out" in caplog.text
    after = by_path(data)
    assert set(after) == set(before)
    assert all(torch.equal(after[path][0], before[path][0]) for path in before)
    with pytest.raises(Refused, match=r"2 of 22 files are bad(.|\n)*cut.wav: truncated(.|\n)*nan.wav: not finite"):
        folder(root, max_bad_fraction=0.05)


@pytest.fixture
def leaving(root: Path) -> tuple[AudioFolderData, AudioFolderData, str]:
    """The folder read in parts, and again after one training file has gone."""
    whole, less = (folder(root, pack_gib=0.0, seconds=0.1, gain_db=6.0) for _ in range(2))
    return whole, less, whole.splits.train.paths[3]


def test_in_place_of_a_file_that_went_comes_another(
    root: Path, leaving: tuple[AudioFolderData, AudioFolderData, str], caplog: pytest.LogCaptureFixture
) -> None:
    whole, less, path = leaving
    keys = [2, 4, *(Visit(position, epoch) for position in (2, 4) for epoch in range(3))]
    wanted = [whole.splits.train[key].x for key in keys]
    (root / path).unlink()
    train = less.splits.train
    stood_in = [train[Visit(3, epoch)] for epoch in range(3)]
    assert all(int(batch.index) == 3 for batch in stood_in)
    assert len({batch.x.numpy().tobytes() for batch in stood_in}) == 3
    assert [caplog.text.count(words) for words in (f"{path} can no longer be read", "stands in")] == [1, 1]
    again = folder(root, pack_gib=0.0, seconds=0.1, gain_db=6.0, max_bad_fraction=0.5).splits.train
    assert path not in again.paths  # gone before the start: left out
    assert all(torch.equal(train[key].x, x) for key, x in zip(keys, wanted, strict=True))
    assert all(torch.equal(train[Visit(3, epoch)].x, batch.x) for epoch, batch in enumerate(stood_in))
    frames, _ = sf.read(root / train.paths[4], 1024, dtype="float32")
    assert torch.corrcoef(torch.stack([train[3].x[:900], torch.from_numpy(frames[:900])]))[0, 1] > 0.99


@pytest.mark.parametrize("change", ["shorter", "garbage", "other rate"])
def test_a_file_that_changed_is_one_that_went(
    root: Path, leaving: tuple[AudioFolderData, AudioFolderData, str], change: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, less, path = leaving
    if change == "garbage":
        (root / path).write_bytes(b"no sound" * 1000)
    else:
        sf.write(root / path, tone(300, 0.05 if change == "shorter" else 2), 8000 if change == "shorter" else 16000)
    assert less.splits.train[3].x.isfinite().all()
    assert f"{path} {'can no longer' if change == 'garbage' else 'is no longer what it was'}" in caplog.text


def test_a_folder_that_went_stops_with_a_sentence(root: Path) -> None:
    data = folder(root, pack_gib=0.0)
    shutil.rmtree(root)
    sentence = r"^the recordings went away while training: \w_\d\d.wav .* start again$"
    with pytest.raises(Refused, match=sentence):
        next(iter(data.train_dataloader()))
    try:
        data.splits.train[0]
    except Refused:
        handed_over = ExceptionWrapper(where="in worker process 0")  # as a loader's worker does, which dies slowly
    with pytest.raises(Refused, match=sentence):
        handed_over.reraise()


def table(tmp_path: Path, *rows: str, name: str = "manifest.csv", encoding: str = "utf-8") -> Path:
    (tmp_path / name).write_text("\n".join(rows), encoding=encoding)
    return tmp_path / name


@pytest.mark.parametrize(("comma", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_a_manifest_says_which_files_and_which_split(root: Path, tmp_path: Path, comma: str, encoding: str) -> None:
    splits = {f"{'abcd'[number % 4]}_{number:02d}.wav": SPLITS[number % 3] for number in range(12)}
    rows = [comma.join([split, str(root / path) if split == "val" else path, "x"]) for path, split in splits.items()]
    manifest = table(tmp_path, comma.join(["split", "path", "note"]), *rows, "", encoding=encoding)
    for seed in range(2):
        parts = folder(root, manifest=manifest, seed=seed).splits
        found = {path: name for name, part in zip(SPLITS, parts, strict=True) for path in part.paths}
        assert found == splits
    half = folder(root, manifest=manifest, fraction=0.5, seed=1).splits
    assert half.train.paths == parts.train.paths[:2]
    assert half.test.paths == parts.test.paths


def test_a_manifest_without_validation_gives_some_of_its_training(root: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in root.iterdir())
    rows = [f"{name},{'test' if name[0] == 'd' else 'train'},{name[0]}" for name in names]
    parts = folder(root, manifest=table(tmp_path, "path,split", *[row[:-2] for row in rows])).splits
    assert [len(part) for part in parts] == [12, 3, 5]
    parts = folder(root, manifest=table(tmp_path, "path,split,group", *rows)).splits
    people = [{path[0] for path in part.paths} for part in parts]
    assert people[2] == {"d"}
    assert [len(each) for each in people] == [2, 1, 1]


def test_a_manifest_may_name_groups(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = sorted(path.name for path in root.iterdir())
    parts = folder(root, manifest=table(tmp_path, "path,group", *[f"{name},{name[3]}" for name in names])).splits
    digits = [{path[3] for path in part.paths} for part in parts]
    assert sum(map(len, digits)) == 10
    rows = [f"{name},g{name[0]},{SPLITS[number % 2]}" for number, name in enumerate(names)]
    folder(root, manifest=table(tmp_path, "path,group,split", *rows))
    assert "some groups are in more than one split" in caplog.text
    with pytest.raises(Refused, match=r"both name groups; type split_by=file"):
        folder(root, split_by=r"^(\w)_", manifest=tmp_path / "manifest.csv")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "has the columns none; name one path"),
        (["file,split", "a_00.wav,train"], "has the columns file, split; name one path"),
        (["path"], "has no rows"),
        (["path,split", "a_00.wav"], "has 1 fields in row 2, not 2"),
        (["path,split", "a_00.wav,dev"], "has the split 'dev'; write train, val, test"),
        (["path,split", "a_00.wav,train", "b_01.wav,"], "leaves split empty in some rows"),
        (["path", "a_00.wav", "./a_00.wav"], "names a_00.wav 2 times"),
        (
            ["path", "a_00.wav", "x.wav", "y.wav"],
            "'x.wav' and 1 more, not found.*holds 20 audio files such as a_00.wav",
        ),
        (["path,split", "a_00.wav,train", "b_01.wav,train", "c_02.wav,val", "d_03.wav,train"], None),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    root: Path, tmp_path: Path, rows: list[str], words: str | None
) -> None:
    manifest = table(tmp_path, *rows)
    if words is None:
        assert [len(split) for split in folder(root, manifest=manifest).splits] == [3, 1, 0]
        return
    with pytest.raises(Refused, match=words):
        folder(root, manifest=manifest)


def test_a_manifest_that_is_no_table_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read \\(No such file"):
        folder(root, manifest=tmp_path / "nothing.csv")
    with pytest.raises(Refused, match="no text in UTF-8"):
        folder(root, manifest=root / "a_00.wav")


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_names_that_are_no_text_train_like_others(root: Path) -> None:
    before = by_path(folder(root))
    os.rename(root / "d_03.wav", os.fsencode(root) + b"/d_\xff3.wav")
    data = folder(root, pack_gib=0.0, split_by=r"^(\w)_")
    assert data.fingerprint()["files"] == 20
    after = by_path(data)
    assert torch.equal(after[os.fsdecode(b"d_\xff3.wav")][0], before["d_03.wav"][0])


def test_a_stream_without_its_length_is_whole(root: Path) -> None:
    raw = bytearray((root / "a_00.wav").read_bytes())
    raw[40:44] = b"\xff" * 4  # the data chunk of a writer that could not seek back
    (root / "piped.wav").write_bytes(bytes(raw))
    clips = by_path(folder(root))
    assert torch.equal(clips["piped.wav"][0], clips["a_00.wav"][0])


@pytest.mark.parametrize("split_by", ["file", r"^(\w)_", r"(\d)\.wav"])
def test_splits_divide_the_folder(root: Path, split_by: str) -> None:
    data = folder(root, split_by=split_by)
    parts = [split.paths for split in data.splits]
    assert sorted(chain(*parts)) == sorted(path.name for path in root.iterdir())
    assert parts == [split.paths for split in folder(root, split_by=split_by, batch_size=3).splits]
    assert parts != [split.paths for split in folder(root, split_by=split_by, seed=1).splits]
    if split_by.startswith("^"):
        people = [{path[0] for path in part} for part in parts]
        assert all(people)
        assert sum(map(len, people)) == 4


def test_fraction_is_nested_and_leaves_the_held_out_splits_alone(root: Path) -> None:
    whole, half, tenth = (folder(root, fraction=share).splits for share in (1.0, 0.5, 0.15))
    assert (len(half.train), len(tenth.train)) == (7, 3)
    assert whole.train.paths[:7] == half.train.paths
    assert half.train.paths[:3] == tenth.train.paths
    assert whole[1].paths == half[1].paths == tenth[1].paths
    assert whole[2].paths == half[2].paths == tenth[2].paths


def test_short_clips_are_padded_with_zeros_under_the_mask(root: Path) -> None:
    data = folder(root)
    (length,) = data.facts["event_shape"]
    assert length == 4096  # the 95th percentile is 3688 samples
    for path, (x, mask) in by_path(data).items():
        count = 800 + 160 * int(path[2:4])
        assert torch.equal(mask, torch.arange(length) < count)
        assert not x[~mask].any()
        assert x.abs().max() == pytest.approx(0.95, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"multiple_of": 500}, 4000),
        ({"seconds": 0.2}, 2048),
        ({"seconds": 0.256}, 2048),
        ({"sample_rate": 16000}, 8192),
        ({"sample_rate": 4000, "multiple_of": 1}, 1844),
    ],
)
def test_length_follows_seconds_rate_and_stride(root: Path, settings: dict, shape: int) -> None:
    assert folder(root, **settings).facts["event_shape"] == (shape,)


def test_the_commonest_rate_is_taken_up_to_16_khz(root: Path) -> None:
    for number in range(5):
        sf.write(root / f"fast_{number}.wav", tone(300, 0.2, 44100), 44100)
    assert folder(root).facts["sample_rate"] == 8000
    for number in range(30):
        sf.write(root / f"faster_{number}.wav", tone(300, 0.2, 48000), 48000)
    assert folder(root).facts["sample_rate"] == 16000


@pytest.mark.parametrize(("normalise", "level"), [("peak", 0.95), ("rms", 0.1 * 2**0.5), ("none", None)])
def test_normalisation_brings_recordings_to_one_level(tmp_path: Path, normalise: str, level: float | None) -> None:
    for number in range(6):
        sf.write(tmp_path / f"{number}.wav", tone(400, 0.25, level=0.01 * 2**number), RATE, subtype="FLOAT")
    for path, (x, _) in by_path(folder(tmp_path, normalise=normalise)).items():
        assert x.abs().max() == pytest.approx(level or 0.01 * 2 ** int(path[0]), rel=1e-3)


@pytest.fixture
def takes(tmp_path: Path) -> Path:
    """Eight recordings of 2 s: silence but for noise between 1.0 and 1.8 s."""
    for number in range(8):
        signal = np.concatenate([np.zeros(8000), noise(0.8, number), np.zeros(1600)])
        sf.write(tmp_path / f"{number}.wav", signal, RATE, subtype="FLOAT")
    return tmp_path


def test_long_recordings_are_cropped_by_seed_epoch_and_position(takes: Path) -> None:
    first, again, other = (folder(takes, seconds=0.128, seed=seed).splits.train for seed in (0, 0, 1))
    crops = [first[Visit(2, epoch)].x for epoch in range(8)]
    assert [torch.equal(again[Visit(2, epoch)].x, crops[epoch]) for epoch in reversed(range(8))] == [True] * 8
    assert len({crop.numpy().tobytes() for crop in crops}) >= 6
    assert not torch.equal(other[Visit(2, 0)].x, crops[0])
    assert torch.equal(first[2].x, again[2].x)


def test_crops_avoid_silence(takes: Path) -> None:
    data = folder(takes, seconds=0.128)
    visits = [data.splits.train[Visit(position, epoch)].x for position in range(5) for epoch in range(20)]
    heard = torch.stack([x.any() for x in visits]).float().mean()
    assert heard > 0.9  # 46 % of single draws, 1 − 0.54⁴ of four


def test_a_crop_from_the_start_holds_the_start(root: Path) -> None:
    data = folder(root, seconds=0.1, multiple_of=400, crop="start", normalise="none").splits.train
    for position, path in enumerate(data.paths):
        wanted, _ = sf.read(root / path, 800, dtype="float32")
        for key in (position, Visit(position, 5)):
            torch.testing.assert_close(data[key].x, torch.from_numpy(wanted), atol=1e-6, rtol=0)


def test_augmentation_touches_training_visits_alone_and_each_knob_acts(root: Path) -> None:
    plain = folder(root, seconds=0.6).splits.train
    for knob, value in {"gain_db": 12.0, "polarity": True, "shift": 0.05}.items():
        changed = folder(root, seconds=0.6, **{knob: value}).splits.train
        ratios, delays = [], []
        for epoch in range(12):
            before, after = plain[Visit(1, epoch)], changed[Visit(1, epoch)]
            delay = int(after.mask.int().argmax())
            delays.append(delay)
            count = int(before.mask.sum())
            assert int(after.mask.sum()) == count
            moved, loudest = after.x[delay : delay + count], before.x[:count].abs().argmax()
            ratios.append(float(moved[loudest] / before.x[loudest]))
            torch.testing.assert_close(moved, ratios[-1] * before.x[:count], atol=1e-5, rtol=1e-4)
        assert torch.equal(plain[1].x, changed[1].x)
        gains = 20 * np.log10(np.abs(ratios))
        assert (np.ptp(gains) > 6 and np.abs(gains).max() <= 12.01) if knob == "gain_db" else np.ptp(gains) < 1e-3
        assert (min(ratios) < 0) is (knob == "polarity")
        assert (len(set(delays)) > 5 and max(delays) <= 400) if knob == "shift" else set(delays) == {0}


def test_fingerprint_is_of_the_content(root: Path) -> None:
    before = folder(root).fingerprint()
    assert before == folder(root, batch_size=3, seed=5, pack_gib=0.0).fingerprint()
    assert before["files"] == 20
    assert before["bytes"] == sum(path.stat().st_size for path in root.iterdir())
    sf.write(root / "a_00.wav", tone(301, 0.1), RATE)
    assert folder(root).fingerprint()["hash"] != before["hash"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"root": "nowhere"}, "does not exist"),
        ({"root": ""}, "root is empty"),
        ({"channels": "both"}, "channels= one of mean, left, stereo, random"),
        ({"trim": -60.0}, "trim=-60.0 must be above 0"),
        ({"min_seconds": -1.0}, "min_seconds=0 to switch"),
        ({"normalise": "loud"}, "normalise= one of"),
        ({"crop": "middle"}, "crop= one of"),
        ({"sample_rate": 0}, "sample_rate=0 must be above 0"),
        ({"seconds": -1.0}, "seconds=-1.0 must be above 0"),
        ({"gain_db": -1.0}, "gain_db=0"),
        ({"fraction": 0.0}, "fraction=0.5"),
        ({"split_by": r"\w_\d+"}, "has 0 groups"),
        ({"split_by": r"(\w)_(\d+)"}, "has 2 groups"),
        ({"split_by": "("}, "is no regex"),
        ({"split_by": r"^(a)_"}, "does not match b_01.wav"),
        ({"split_by": r"(_)"}, r"1 group\(s\) \(_\) for 3 splits"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_remedy(root: Path, settings: dict, words: str) -> None:
    with pytest.raises(Refused, match=words):
        folder(**{"root": root, **settings})


def test_folders_without_usable_audio_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no audio files"):
        folder(tmp_path)
    sf.write(tmp_path / "silent.wav", np.zeros(800), RATE)
    with pytest.raises(Refused, match=r"no usable audio(.|\n)*silent.wav: silent"):
        folder(tmp_path, max_bad_fraction=1.0)
    with pytest.raises(Refused, match="is a file"):
        folder(tmp_path / "silent.wav")


def test_fsdd_comes_through_whole(fsdd: Path) -> None:
    data = folder(fsdd, split_by="file")
    assert data.facts == {"event_shape": (6144,), "sample_rate": 8000}
    assert tuple(len(split) for split in data.splits) == (2100, 600, 300)
    assert not data.scanned.quarantine
    durations = [recording.frames / recording.sample_rate for recording in data.scanned.recordings]
    assert np.median(durations) == pytest.approx(0.42, abs=0.005)
    assert (min(durations), max(durations)) == pytest.approx((0.14, 2.28), abs=0.01)
    masks = data.examples("validation", 600).mask
    assert masks.float().sum(1).median() / 8000 == pytest.approx(0.42, abs=0.02)
    speakers = folder(fsdd, split_by=r"\d_(\w+)_\d+")
    people = [{path.split("_")[1] for path in split.paths} for split in speakers.splits]
    assert [len(each) for each in people] == [4, 1, 1]
    assert len(set.union(*people)) == 6


def test_drum_machines_of_mixed_rates_come_through() -> None:
    if not DRUM_MACHINES.is_dir():
        pytest.skip(f"the drum machines are not at {DRUM_MACHINES}")
    data = folder(DRUM_MACHINES)
    assert data.facts == {"event_shape": (17408,), "sample_rate": 16000}
    assert len(data.scanned.recordings) == 72
    assert not data.scanned.quarantine
    machines = folder(DRUM_MACHINES, split_by=r"^([\w-]+)/").splits
    assert sum(len({path.split("/")[0] for path in split.paths}) for split in machines) == 4
