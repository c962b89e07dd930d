"""What is written is what was made: whole files, the same bytes, whatever blocks it came in and wherever it stopped."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from vaecollapse.files import append, whole
from vaecollapse.refusal import Refused
from vaecollapse.writers.base import Made, Writer
from vaecollapse.writers.images import ImageWriter
from vaecollapse.writers.numbers import SHARD, NumbersWriter, shards
from vaecollapse.writers.sheets import MOST
from vaecollapse.writers.sounds import FRAMES, PAGE, SoundWriter

RNG = np.random.default_rng(0)
EVENTS = {"numbers": (3,), "sounds": (512,), "images": (1, 8, 9)}


def writer(kind: str, folder: Path, form: str | None = None) -> Writer:
    if kind == "sounds":
        return SoundWriter(folder, form, rate=8000)
    return {"numbers": NumbersWriter, "images": ImageWriter}[kind](folder, form)


def blocks(kind: str, count: int, size: int) -> list[Made]:
    rng = np.random.default_rng(1)
    both = {name: rng.random((count, *EVENTS[kind]), dtype=np.float32) for name in ("real", "reconstruction")}
    return [Made(at, {name: each[at : at + size] for name, each in both.items()}) for at in range(0, count, size)]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(("kind", "form"), [("numbers", "npz"), ("numbers", "csv"), ("sounds", "wav"),
                                            ("sounds", "flac"), ("images", "png")])  # fmt: skip
def test_the_bytes_do_not_depend_on_the_blocks(kind, form, tmp_path):
    for size in (1, 4, 11):
        with writer(kind, tmp_path / str(size), form) as each:
            for made in blocks(kind, 11, size):
                each.add(made)
    first, second, third = (content(tmp_path / str(size)) for size in (1, 4, 11))
    assert first == second == third
    assert not [name for name in first if name.startswith(".")]
    assert list(first) == sorted(first)


@pytest.mark.parametrize("kind", EVENTS)
def test_what_is_interrupted_or_fails_leaves_whole_files_and_shows_them(kind, tmp_path):
    def interrupted() -> None:
        with writer(kind, tmp_path) as each:
            each.add(blocks(kind, 5, 5)[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    names = set(content(tmp_path))
    assert not [name for name in names if name.startswith(".")]
    shown = {"numbers": "samples_000000.npz", "sounds": "index.html", "images": "sheet.png"}[kind]
    assert shown in names
    if kind == "numbers":
        assert len(shards(tmp_path)["real"]) == 5


@pytest.mark.parametrize("kind", EVENTS)
def test_another_format_is_refused_with_those_there_are(kind, tmp_path):
    with pytest.raises(Refused, match=r"format=mp3 .* type (npz or csv|wav or flac|png)"):
        writer(kind, tmp_path, "mp3")


def test_numbers_come_back_as_they_were_shard_by_shard(tmp_path):
    values = RNG.standard_normal((SHARD + 40, 3))
    with NumbersWriter(tmp_path) as each:
        for at in range(0, len(values), 100):
            each.add(Made(at, {"sample": values[at : at + 100]}))
            assert len(each.held) <= SHARD
    assert [path.name for path in sorted(tmp_path.glob("*.npz"))] == ["samples_000000.npz", f"samples_{SHARD:06d}.npz"]
    np.testing.assert_array_equal(shards(tmp_path)["sample"], values)
    rows = list(csv.reader((tmp_path / "samples.csv").open()))
    assert rows[0] == ["sample", "column", "x0", "x1", "x2"]
    np.testing.assert_array_equal(np.array([row[2:] for row in rows[1:]], dtype=float), values)


def test_what_is_too_wide_for_a_table_has_none(tmp_path):
    with NumbersWriter(tmp_path) as each:
        each.add(Made(0, {"sample": RNG.standard_normal((2, 500))}))
    assert list(content(tmp_path)) == ["samples_000000.npz"]


@pytest.mark.parametrize(("form", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16")])
def test_a_sound_comes_back_to_16_bits_however_long_and_beyond_one_is_cut(form, subtype, tmp_path):
    waveform = np.sin(np.arange(3 * FRAMES + 17) / 20)[None].repeat(2, 0) * [[0.5], [2.0]]
    with SoundWriter(tmp_path, form, rate=8000) as each:
        each.add(Made(0, {"sample": waveform[None]}))
    file = tmp_path / f"000000_sample.{form}"
    assert sf.info(file).subtype == subtype
    back, rate = sf.read(file)
    assert rate == 8000
    np.testing.assert_allclose(back.T, np.clip(waveform, -1, 1), atol=2**-14)


def test_the_pages_have_a_player_for_every_file_and_lead_from_one_to_the_next(tmp_path):
    count = PAGE + 3
    with writer("sounds", tmp_path) as each:
        for made in blocks("sounds", count, 50):
            each.add(made)
    pages = [(tmp_path / name).read_text("utf-8") for name in ("index.html", "index_2.html")]
    played = re.findall(r'src="([^"]+\.wav)"', "".join(pages))
    assert sorted(played) == sorted(path.name for path in tmp_path.glob("*.wav"))
    assert len(played) == 2 * count
    assert 'href="index_2.html"' in pages[0]
    assert 'href="index.html"' in pages[1]
    assert not re.search(r"https?:|<script", "".join(pages)), "needs nothing but the files beside it"
    linked = re.findall(r'(?:src|href)="([^"]+)"', "".join(pages))
    assert all((tmp_path / name).exists() for name in linked)


def test_a_picture_is_its_pixels_and_the_sheet_holds_no_more_than_fit(tmp_path):
    images = RNG.random((MOST + 20, 3, 8, 9))
    with ImageWriter(tmp_path) as each:
        each.add(Made(0, {"sample": images}))
    shown = np.asarray(Image.open(tmp_path / "000007_sample.png")).transpose(2, 0, 1)
    np.testing.assert_allclose(shown / 255, images[7], atol=0.5 / 255 + 1e-9)
    assert each.sheet.count == MOST
    height, width, _ = np.asarray(Image.open(tmp_path / "sheet.png")).shape
    assert width < 8 * (9 * 7 + 5)
    assert height < MOST / 8 * (8 * 7 + 5)


# ---- files


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fails() -> None:
        with whole(file) as temporary:
            temporary.write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fails()
    assert content(tmp_path) == {"a.txt": b"old"}
    with whole(file, sync=True) as temporary:
        temporary.write_text("new")
    assert content(tmp_path) == {"a.txt": b"new"}


def test_lines_are_added_whole_or_not_at_all(tmp_path):
    import resource
    import signal

    file = tmp_path / "a.txt"
    append(file, "one\n")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            append(file, "a line that is too long\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_text() == "one\n"
