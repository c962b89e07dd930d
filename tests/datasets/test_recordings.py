"""A folder is read once and rightly: what is cached is what was read, what is packed is what the files say."""

import logging
import os
import pickle
import pwd
import tempfile
import time
from functools import partial
from io import StringIO
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from rich.console import Console

from vaecollapse.datasets import cache as caching
from vaecollapse.datasets import recordings as reading
from vaecollapse.datasets import scan as scanning
from vaecollapse.datasets import threads
from vaecollapse.datasets.cache import Cache
from vaecollapse.datasets.recordings import CHANNELS, Found, Recording, planes_of
from vaecollapse.datasets.scan import Listing, Scan, find, name_copies, scan
from vaecollapse.datasets.signals import Files, Pack, quantise, source_of
from vaecollapse.refusal import Refused

RATE = 8000


def noise(seconds: float, seed: int = 0, width: int = 1, rate: int = RATE) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal((round(seconds * rate), width))
    return 0.9 * samples / np.abs(samples).max()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vaecollapse" / "recordings"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten recordings in two folders, of one to three channels."""
    for number in range(10):
        path = tmp_path / "sounds" / "ab"[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, noise(0.2 + 0.01 * number, number, 1 + number % 3), RATE)
    return tmp_path / "sounds"


def scanned(root: Path, cache: Cache | None = None, **settings: object) -> Scan:
    defaults = {"channels": "mean", "trim": None, "min_seconds": 0.01, "max_bad_fraction": 0.9}
    return scan(root, find(root), cache=cache or Cache(), **{**defaults, **settings})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the files that were decoded, as they are."""
    paths, examine = [], scanning.examine
    monkeypatch.setattr(
        scanning, "examine", lambda root, found, **rest: (paths.append(found.path), examine(root, found, **rest))[1]
    )
    return paths


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("trim", [None, 20.0])
def test_what_is_cached_is_what_was_read(root: Path, channels: str, trim: float | None, read: list[str]) -> None:
    (root / "bad.wav").write_bytes(b"no sound" * 100)
    nowhere = Cache()
    nowhere.folder = None
    uncached, first = (scanned(root, cache, channels=channels, trim=trim) for cache in (nowhere, Cache()))
    assert len(read) == 22
    assert scanned(root, channels=channels, trim=trim) == first == uncached
    assert len(read) == 22
    assert [type(each) for each in scanned(root, channels=channels, trim=trim).recordings[0]] == [
        type(each) for each in first.recordings[0]
    ]


def test_only_changed_files_are_read_again(root: Path, read: list[str]) -> None:
    before = scanned(root)
    read.clear()
    os.utime(root / "a/4.wav", ns=(1, 1))
    assert scanned(root) == before
    assert read == ["a/4.wav"]
    sf.write(root / "b/3.wav", noise(0.3, 99), RATE)
    sf.write(root / "b/new.wav", noise(0.3, 100), RATE)
    (root / "a/0.wav").unlink()
    after = scanned(root)
    assert sorted(read) == ["a/4.wav", "b/3.wav", "b/new.wav"]
    changed = {each.path for each in {*before.recordings} ^ {*after.recordings}}
    assert changed == {"b/3.wav", "b/new.wav", "a/0.wav"}
    read.clear()
    scanned(root, channels="left")  # another question
    scanned(root, min_seconds=0.2)  # the same
    assert len(read) == 10


def test_an_interrupted_scan_goes_on_where_it_stopped(root: Path, read: list[str], monkeypatch: pytest.MonkeyPatch):
    for number in range(40):
        (root / f"more_{number:02d}.wav").write_bytes((root / "a/0.wav").read_bytes())
    spied = scanning.examine

    def interrupted(_: Path, found: Found, **settings: object) -> Recording:
        if found.path == "more_39.wav":
            raise KeyboardInterrupt
        return spied(root, found, **settings)

    with monkeypatch.context() as stopped:
        stopped.setattr(scanning, "examine", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scanned(root)
    read.clear()
    scanned(root)
    assert "more_39.wav" in read
    assert len(read) <= 16


def test_the_index_of_a_folder_outlives_scans_of_a_part(root: Path, read: list[str]) -> None:
    whole = scanned(root)
    os.utime(root / "a/2.wav", ns=(1, 1))
    (root / "b/1.wav").unlink()
    settings = {"channels": "mean", "trim": None, "min_seconds": 0.01, "max_bad_fraction": 0.9, "cache": Cache()}
    part = scan(root, Listing(find(root).found[:3], []), **settings)
    assert part.recordings == whole.recordings[:3]
    assert [each for each in whole.recordings if each.path != "b/1.wav"] == scanned(root).recordings
    assert len(read) == 11


DAMAGES = {
    "empty": lambda text: b"",
    "cut": lambda text: text[: len(text) // 2],
    "a byte": lambda text: text[:-20] + bytes([text[-20] ^ 1]) + text[-19:],
    "something else": lambda text: b"\x80\x04 not ours",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_made_anew(root: Path, home: Path, read: list[str], damage: str) -> None:
    before = scanned(root)
    (index,) = home.glob("index-*")
    text = index.read_bytes()
    index.write_bytes(DAMAGES[damage](text))
    assert scanned(root) == before
    assert len(read) == 20
    assert index.read_bytes() == text


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def nobody(_: int) -> None:
    raise KeyError("no such user")


@pytest.mark.parametrize("trouble", ["a file", "no home", "full"])
def test_without_a_cache_everything_works_after_one_line(
    root: Path, tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = scanned(root)
    if trouble == "a file":  # a folder nobody may write to would not stop root, who may run this
        (tmp_path / "occupied").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    elif trouble == "no home":
        for name in ("XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name)
        monkeypatch.setattr(pwd, "getpwuid", nobody)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "small"))
        monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    with caplog.at_level(logging.INFO, logger="vaecollapse"):
        cache = Cache()
        assert scanned(root, cache) == wanted
        pack = packed(root, wanted.recordings, cache=cache)
    assert isinstance(pack, Pack)
    assert pack.path is None
    assert [record.message.startswith("nothing is cached") for record in caplog.records].count(True) == 1


def test_what_is_written_is_whole_or_not_there_and_what_is_old_goes(home: Path) -> None:
    cache = Cache()
    cache.store("x", {"a": 1})
    with pytest.raises(TypeError), cache.writing("x") as file:
        file.writelines([b"half", None])
    assert cache.load("x") == {"a": 1}
    assert [path.name for path in home.iterdir()] == ["x"]
    cache.store("y", {})
    for name, days in (("x", caching.KEPT_DAYS + 1), ("y", caching.KEPT_DAYS - 1)):
        os.utime(home / name, (time.time() - days * 86400,) * 2)
    cache.store("z", {})
    assert sorted(path.name for path in home.iterdir()) == ["y", "z"]
    os.utime(home / "y", (0, 0))
    cache.load("y")  # used, so kept
    cache.store("z", {})
    assert sorted(path.name for path in home.iterdir()) == ["y", "z"]


def test_folders_are_read_once_however_they_are_linked(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    names = [each.path for each in find(root).found]
    (root / "b" / "loop").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (root / "again").symlink_to(root / "a")
    (tmp_path / "elsewhere").mkdir()
    sf.write(tmp_path / "elsewhere" / "far.wav", noise(0.2, 50), RATE)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    for hidden in ("._0.wav", ".0.wav", ".trash/0.wav"):
        (root / hidden).parent.mkdir(exist_ok=True)
        (root / hidden).write_bytes(b"")
    listing = find(root)
    assert [each.path for each in listing.found] == [*names, "linked/far.wav"]
    assert not listing.bad
    for name in ("b/loop", "up", "again"):
        assert f"{name} is a link" in caplog.text


def damaged(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Plants every kind of bad file; what its reason must say. Root may read anything, so that a file and a folder
    without permission are made by an `open` and a `scandir` that refuse them."""
    whole = (root / "a/0.wav").read_bytes()
    (root / "garbage.wav").write_bytes(b"this is no sound" * 100)
    (root / "zero.wav").write_bytes(b"")
    (root / "cut.wav").write_bytes(whole[: len(whole) // 2])
    sf.write(root / "whole.flac", noise(1.0), RATE)
    for number, size in enumerate((4500, 9000)):
        (root / f"cut{number}.flac").write_bytes((root / "whole.flac").read_bytes()[:size])
    (root / "whole.flac").unlink()
    sf.write(root / "empty.wav", np.zeros(0), RATE)
    sf.write(root / "silent.wav", np.zeros(800), RATE)
    sf.write(root / "short.wav", noise(0.008), RATE)
    spot = np.arange(800) == 400
    for name, value in {"nan": np.nan, "inf": np.inf, "huge": 1e30}.items():
        sf.write(root / f"{name}.wav", np.where(spot, value, 0.1), RATE, subtype="FLOAT")
    sf.write(root / "opposed.wav", np.concatenate([noise(0.1), -noise(0.1)], 1), RATE)
    rate = bytearray(whole)
    rate[24:28] = (2**31 - 1).to_bytes(4, "little")
    (root / "rate.wav").write_bytes(bytes(rate))
    (root / "self.wav").symlink_to("self.wav")
    (root / "broken.wav").symlink_to("nothing.wav")
    os.mkfifo(root / "pipe.wav")
    (root / "closed.wav").write_bytes(whole)
    (root / "locked").mkdir()

    def refuse(really, path, *rest, **more):
        if isinstance(path, Path) and path.name in ("closed.wav", "locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, *rest, **more)

    monkeypatch.setattr("builtins.open", partial(refuse, open))
    monkeypatch.setattr(os, "scandir", partial(refuse, os.scandir))
    reasons = {"garbage.wav": "corrupt", "zero.wav": "corrupt", "cut.wav": "truncated", "empty.wav": "empty: 0 frames"}
    reasons |= {"cut0.flac": "corrupt|truncated", "cut1.flac": "corrupt|truncated", "silent.wav": "silent"}
    reasons |= {"nan.wav": "finite", "inf.wav": "finite", "huge.wav": "finite", "opposed.wav": "silent"}
    reasons |= {"short.wav": "too short: 0.008 s", "rate.wav": "sample rate", "self.wav": "Too many levels"}
    reasons |= {"broken.wav": "No such file", "pipe.wav": "no regular file", "closed.wav": "Permission denied"}
    return reasons | {"locked": "cannot be listed: Permission denied"}


def test_bad_files_are_named_with_their_reason_and_the_good_are_as_before(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = scanned(root)
    reasons = damaged(root, monkeypatch)
    for _ in range(2):  # read, and known from the cache
        after = scanned(root)
        found = {bad.path: bad.reason for bad in after.quarantine}
        assert set(found) == set(reasons)
        for path, words in reasons.items():
            assert any(word in found[path] for word in words.split("|")), (path, found[path])
            assert f"{path}: {found[path]}" in caplog.text
        assert after.recordings == before.recordings
    with pytest.raises(Refused, match=r"18 of 28 files are bad, more than max_bad_fraction=0\.5(.|\n)*cut.wav: trunc"):
        scanned(root, max_bad_fraction=0.5)


def test_a_permission_is_asked_for_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as locked:
        damaged(root, locked)
        assert "closed.wav" in {bad.path for bad in scanned(root).quarantine}
    assert "closed.wav" in {each.path for each in scanned(root).recordings}


def test_a_file_that_goes_before_it_is_read_is_set_aside(root: Path) -> None:
    listing = find(root)
    (root / "a/0.wav").unlink()
    found = scan(root, listing, channels="mean", trim=None, min_seconds=0.0, max_bad_fraction=0.5, cache=Cache())
    assert [(bad.path, bad.reason) for bad in found.quarantine] == [
        ("a/0.wav", "cannot be read: No such file or directory")
    ]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_names_that_are_no_text_are_names(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.rename(root / "a/0.wav", os.fsencode(root) + b"/a/caf\xe9.wav")
    name = os.fsdecode(b"a/caf\xe9.wav")
    for _ in range(2):
        found = scanned(root)
        assert name in {each.path for each in found.recordings}
    source = Files(root, found.recordings, sample_rate=RATE, channels="mean")
    assert source.segment([each.path for each in found.recordings].index(name), 0, 100).any()
    (root / name).write_bytes(b"")
    scanned(root)
    assert r"a/caf\xe9.wav: corrupt" in caplog.text


def test_copies_are_pointed_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    name_copies(scanned(root).recordings)
    assert "copies" not in caplog.text
    (root / "copy.wav").write_bytes((root / "a/2.wav").read_bytes())
    name_copies(scanned(root).recordings)
    assert "1 files are copies of others (copy.wav of a/2.wav" in caplog.text


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
@pytest.mark.parametrize(("trim", "pad"), [(60.0, 0.0), (60.0, 1e-5), (30.0, 1e-3)])
def test_trimming_takes_what_was_padded(tmp_path: Path, rate: int, trim: float, pad: float) -> None:
    hop = round(0.01 * rate)
    sound = noise(0.3, 1, 2, rate)
    for name, (before, after) in {"bare": (0, 0), "early": (0, 0.2), "late": (0.31, 0), "both": (0.123, 0.4)}.items():
        parts = (
            pad * noise(before, 2, 2, rate) if before else sound[:0],
            sound,
            pad * noise(after or 1e-3, 3, 2, rate),
        )
        sf.write(tmp_path / f"{name}.wav", np.concatenate(parts), rate, subtype="DOUBLE")
    for each in scanned(tmp_path, trim=trim, channels="left").recordings:
        onset = {"late": 0.31, "both": 0.123}.get(each.path[:-4], 0) * rate
        assert onset - hop <= each.start <= onset + 1
        assert onset + len(sound) - 1 <= each.start + each.frames <= onset + len(sound) + hop + 1
    assert {each.start for each in scanned(tmp_path, channels="left").recordings} == {0}


def test_trimming_leaves_a_hop(tmp_path: Path) -> None:
    for name, spot in {"first": 0, "middle": 1234, "last": 1999}.items():
        click = np.zeros(2000)
        click[spot] = 0.5
        sf.write(tmp_path / f"{name}.wav", click, RATE)
    for each in scanned(tmp_path, trim=40.0, min_seconds=0.01).recordings:
        assert each.frames == 80
        assert each.start <= {"f": 0, "m": 1234, "l": 1999}[each.path[0]] < each.start + 80


@pytest.mark.parametrize("level", [1e-6, 1e-3, 0.3, 0.99999, 1.0, 1.5, 32768.0, 1e12])
def test_no_level_clips_and_none_is_coarser_than_its_peak(level: float) -> None:
    signal = (level * noise(0.1, 3)[:, :1].T / 0.9).astype(np.float32)
    whole, exponent = quantise(signal)
    again = np.multiply(whole, np.float32(2.0 ** (exponent - 15)), dtype=np.float32)
    assert np.abs(again - signal).max() <= 0.5 * 2.0 ** (exponent - 15) <= np.abs(signal).max() / 32767
    assert np.abs(whole.astype(int)).max() >= 2**14


@pytest.mark.parametrize("loudest", [3, 1000, 32767, -32768])
def test_sixteen_bits_come_back_exactly(loudest: int) -> None:
    samples = np.array([[loudest, *range(-3, 4), loudest // 2]], np.int16)
    whole, exponent = quantise(samples.astype(np.float32) / 32768)
    assert np.array_equal(np.ldexp(whole.astype(np.float64), exponent), samples)


def packed(root: Path, recordings: list[Recording], channels: str = "mean", rate: int = RATE, **settings: object):
    files = Files(root, recordings, sample_rate=rate, channels=channels)
    return source_of(files, pack_bytes=settings.get("pack_bytes", 1e9), cache=settings.get("cache") or Cache())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Formats, rates and widths of all sorts, between silences, one far above full scale."""
    root = tmp_path_factory.mktemp("mixed")
    subtypes = {"wav": "PCM_24", "flac": "PCM_16", "ogg": "VORBIS", "aiff": "FLOAT", "mp3": "MPEG_LAYER_III"}
    for number, rate in enumerate([8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000]):
        for place, (suffix, subtype) in enumerate(subtypes.items()):
            silence = np.zeros((round(0.1 * rate), 1 + number % 2))
            sound = noise(0.5, 10 * number + place, 1 + number % 2, rate) * (20 if suffix == "aiff" else 0.7)
            samples = np.concatenate([silence, sound, silence])
            sf.write(root / f"{number}.{suffix}", samples, rate, subtype=subtype)
    return root


@pytest.mark.parametrize(("channels", "rate"), [("mean", 8000), ("left", 11025), ("stereo", 16000), ("random", 44100)])
@pytest.mark.parametrize("trim", [None, 30.0])
def test_a_pack_is_the_files_in_sixteen_bits(mixed: Path, channels: str, rate: int, trim: float | None) -> None:
    recordings = scanned(mixed, channels=channels, trim=trim).recordings
    assert len(recordings) == 40
    files = Files(mixed, recordings, sample_rate=rate, channels=channels)
    pack = packed(mixed, recordings, channels, rate)
    rng = np.random.default_rng(0)
    for number, each in enumerate(recordings):
        size, planes = each.samples(rate), planes_of(each.channels, channels)
        whole = files.segment(number, 0, size)
        assert whole.shape == (planes, size) == pack.segment(number, 0, size).shape
        for start in (0, size - 500, int(rng.integers(size - 500))):
            for some in (slice(None), slice(planes - 1, planes)):
                part, kept = (source.segment(number, start, 500, some) for source in (files, pack))
                assert np.abs(part - kept).max() <= np.abs(whole).max() / 32767 + 1e-6, each


@pytest.mark.parametrize("rate", [24000, 44100])
@pytest.mark.parametrize("suffix", ["ogg", "mp3", "flac"])
def test_a_part_is_where_it_should_be(tmp_path: Path, suffix: str, rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    time = np.arange(4 * rate) / rate
    sf.write(tmp_path / f"chirp.{suffix}", 0.5 * np.sin(2000 * time**2), rate)
    whole, _ = sf.read(tmp_path / f"chirp.{suffix}", dtype="float32")
    (each,) = (once,) = scanned(tmp_path).recordings
    monkeypatch.setattr(reading, "BLOCK", 30000)  # several reads
    os.utime(tmp_path / each.path, ns=(1, 1))
    (each,) = scanned(tmp_path).recordings
    assert each._replace(rms=0.0) == once._replace(rms=0.0)
    assert each.rms == pytest.approx(once.rms, rel=1e-12)
    files = Files(tmp_path, [each], sample_rate=rate, channels="mean")
    for start in (0, 1, 5000, rate, 3 * rate + 17):
        np.testing.assert_allclose(files.segment(0, start, 2000)[0], whole[start : start + 2000], atol=1e-6)


def test_a_pack_is_made_once_and_shared(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = scanned(root).recordings
    first = packed(root, recordings)
    (path,) = home.glob("pack-*")
    assert first.path == path
    raw = path.read_bytes()
    with monkeypatch.context() as closed:
        closed.setattr(Files, "read", full)
        again = packed(root, recordings)
        copy = pickle.loads(pickle.dumps(again))
        assert len(pickle.dumps(again)) < 2000 < len(raw)  # a worker gets the path and maps the file itself
    for number, each in enumerate(recordings):
        for source in (again, copy):
            assert np.array_equal(source.segment(number, 0, each.frames), first.segment(number, 0, each.frames))
    assert not copy.samples.flags.writeable
    path.write_bytes(raw[:-100])
    packed(root, recordings)
    assert path.read_bytes() == raw
    packed(root, recordings, rate=4000)
    packed(root, recordings, "left")
    assert len([*home.glob("pack-*")]) == 3
    assert isinstance(packed(root, recordings, pack_bytes=len(raw) - 1.0), Files)
    assert isinstance(packed(root, recordings, pack_bytes=float(len(raw))), Pack)


def test_a_pack_whose_files_went_is_no_pack(root: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    recordings = scanned(root).recordings
    (root / "b/5.wav").unlink()
    assert isinstance(packed(root, recordings), Files)
    assert "a pack of them failed: b/5.wav can no longer be read: No such file" in caplog.text
    assert not [*home.glob("pack-*"), *home.glob(".*")]


def test_many_files_come_in_order_and_say_so_when_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    assert [*threads.in_order(slow, range(50), doing="reading", chunk=3)] == [*range(50)]
    monkeypatch.setattr(threads, "PATIENCE", 0.0)
    with caplog.at_level(logging.INFO, logger="vaecollapse"):
        assert [*threads.in_order(slow, range(50), doing="reading")] == [*range(50)]
    assert [record.message for record in caplog.records] == ["reading: 1 of 50 files"]
    screen = StringIO()
    monkeypatch.setattr(threads, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=80))
    assert [*threads.in_order(slow, range(50), doing="packing")] == [*range(50)]
    assert "packing" in screen.getvalue()
    assert "50/50" in screen.getvalue()


def test_few_results_wait_for_a_slow_consumer() -> None:
    started = []
    results = threads.in_order(started.append, range(1000), doing="reading")
    assert len([next(results) for _ in range(3)]) == 3
    time.sleep(0.05)
    assert len(started) <= 3 + 3 * threads.THREADS + 1
    assert [*chain(results)] == [None] * 997
