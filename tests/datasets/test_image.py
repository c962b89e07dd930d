"""Laws of images: what a file says is checked before it is believed, values are in [0, 1], splits share no copies."""

import gzip
import io
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vaecollapse.datasets.image import BINARIZE, Binarize, DigitsData
from vaecollapse.datasets.image_files import MOST_PIXELS, SUFFIXES
from vaecollapse.datasets.image_folder import ImageFolderData
from vaecollapse.datasets.image_idx import IDXData
from vaecollapse.refusal import Refused

SPLITS = ("train", "validation", "test")


def picture(seed: int = 0, height: int = 10, width: int = 8, planes: int = 1) -> np.ndarray:
    shape = (height, width) if planes == 1 else (height, width, planes)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array: np.ndarray, kind: int = 8, shape: tuple[int, ...] | None = None) -> bytes:
    shape = array.shape if shape is None else shape
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape) + array.tobytes()


def pixels(count: int = 20) -> np.ndarray:
    return np.stack([picture(seed) for seed in range(count)])


def all_of(data) -> torch.Tensor:
    return torch.cat([data.examples(split, 10_000).x for split in SPLITS])


# Values


@pytest.mark.parametrize("how", BINARIZE)
def test_values_are_zero_to_one_and_binary_where_asked(how: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(idx(pixels()))
    for data in (DigitsData(binarize=how), IDXData(images=tmp_path / "a", binarize=how)):
        x = all_of(data)
        assert x.dtype == torch.float32 and x.min() == 0 and x.max() == 1
        assert (((x == 0) | (x == 1)).all() == (how != "none")).item()


def test_stochastic_binarisation_has_the_greys_as_its_mean_and_is_the_same_at_every_visit() -> None:
    grey = np.full((3000, 1, 4, 4), 51, np.uint8)  # x = 0.2
    binary = Binarize("stochastic", 0)(grey, range(3000), 255)
    assert abs(binary.mean() - 0.2) < 0.005
    assert not (binary[0] == binary[1:]).all((1, 2, 3)).all(), "each image draws its own"
    again = Binarize("stochastic", 0)(grey[:2], [7, 3], 255)
    np.testing.assert_array_equal(again, binary[[7, 3]])
    assert (Binarize("stochastic", 1)(grey, range(3000), 255) != binary).any()
    assert (Binarize("stochastic", 0, stream=1)(grey, range(3000), 255) != binary).any()
    levels = np.arange(17, dtype=np.uint8).reshape(17, 1, 1, 1)
    np.testing.assert_array_equal(Binarize("threshold", 0)(levels, range(17), 16), levels > 8)


def test_digits_are_all_there_once() -> None:
    data = DigitsData(binarize="none")
    x = all_of(data)
    assert len(x) == 1797 == len({row.numpy().tobytes() for row in x})
    assert len(data.splits.validation) >= 500
    assert data.splits.train.labels.bincount().min() > 80
    assert torch.equal(x * 16, (x * 16).round())
    assert DigitsData(seed=1).fingerprint() == data.fingerprint()


def test_an_example_is_the_same_alone_in_a_batch_and_in_another_process() -> None:
    split = DigitsData(binarize="stochastic").splits.train
    batch = split.__getitems__([5, 2])
    assert torch.equal(batch.x[1], split[2].x) and batch.index.tolist() == [5, 2]
    assert torch.equal(pickle.loads(pickle.dumps(split))[2].x, split[2].x)


# IDX


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("shape", [(20, 10, 8), (20, 1, 10, 8), (20, 10, 8, 3), (20, 3, 10, 8)])
def test_an_idx_file_reads_back_plain_or_gzipped(shape: tuple[int, ...], zipped: bool, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "images.any"  # what it is shows in its first bytes, not in its name
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    data = IDXData(images=path, val_fraction=0.3, test_fraction=0.2)
    expected = array if shape[-1] != 3 else array.transpose(0, 3, 1, 2)
    expected = expected.reshape(20, -1, 10, 8)
    assert data.facts == {"event_shape": expected.shape[1:]}
    assert [len(split) for split in data.splits] == [10, 6, 4]
    got = {tuple(row.flatten().mul(255).round().int().tolist()) for row in all_of(data)}
    assert got == {tuple(row.flatten().tolist()) for row in expected}


def test_test_images_and_labels_of_their_own(tmp_path: Path) -> None:
    array, other = pixels(), pixels(5)[:, ::-1]
    for name, content in (("train", array), ("test", other), ("labels", np.arange(20)), ("more", np.arange(5))):
        (tmp_path / name).write_bytes(idx(content.astype(np.uint8)))
    data = IDXData(
        images=tmp_path / "train",
        test_images=tmp_path / "test",
        labels=tmp_path / "labels",
        test_labels=tmp_path / "more",
        val_fraction=0.25,
    )
    assert [len(split) for split in data.splits] == [15, 5, 5]
    x = data.examples("train", 15).x[:, 0].mul(255).round().byte().numpy()
    np.testing.assert_array_equal(x, array[data.splits.train.labels.numpy()])
    assert data.splits.test.labels.tolist() == list(range(5))
    assert data.fingerprint()["files"] == 2
    assert data.fingerprint()["hash"] != IDXData(images=tmp_path / "train").fingerprint()["hash"]
    with pytest.raises(Refused, match="5 labels for 20 images"):
        IDXData(images=tmp_path / "train", labels=tmp_path / "more").setup()
    (tmp_path / "wide").write_bytes(idx(np.zeros((5, 10, 9), np.uint8)))
    with pytest.raises(Refused, match="10 x 9"):
        IDXData(images=tmp_path / "train", test_images=tmp_path / "wide").setup()


WHOLE = idx(pixels())
DAMAGED = {
    "no file": (None, "is no file"),
    "empty": (b"", "starts with nothing"),
    "bad magic": (b"\x89PNG" + WHOLE, "starts with 89 50 4e 47"),
    "unknown kind": (WHOLE[:2] + b"\x07" + WHOLE[3:], "no IDX file"),
    "floats": (idx(pixels().astype(">f4"), kind=13), "float32 values, not unsigned bytes"),
    "labels": (idx(np.arange(9, dtype=np.uint8)), "holds labels"),
    "two dimensions": (idx(np.zeros((4, 4), np.uint8)), "array of 2 dimensions"),
    "five planes": (idx(np.zeros((9, 5, 8, 8), np.uint8)), "no side is 1 or 3 planes"),
    "truncated header": (WHOLE[:9], "within its header"),
    "no images": (idx(np.zeros((0, 8, 8), np.uint8)), "is empty"),
    "truncated": (WHOLE[:-1], "claims 1600 bytes of data but holds 1599"),
    "bytes after the end": (WHOLE + b"x", "holds 1601"),
    "huge claim": (idx(pixels(), shape=(2**32 - 1, 2**32 - 1, 2**32 - 1)), "more than the 4"),
    "large claim": (idx(pixels(), shape=(2**22, 30, 30)), "holds 1600"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_idx_file_is_refused_in_one_sentence_before_anything_is_allocated(
    case: str, zipped: bool, tmp_path: Path
) -> None:
    content, sentence = DAMAGED[case]
    path = tmp_path / "images"
    if content is not None:
        path.write_bytes(gzip.compress(content) if zipped else content)
    if zipped and case == "bytes after the end":
        sentence = "holds more"
    tracemalloc.start()
    with pytest.raises(Refused) as refused:
        IDXData(images=path).setup()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
    assert peak < 2**26


@pytest.mark.parametrize("cut", [2, 30, 200, -7, -3])
def test_a_cut_or_corrupted_gzip_file_is_refused(cut: int, tmp_path: Path) -> None:
    whole = gzip.compress(WHOLE)
    corrupt = bytearray(whole)
    corrupt[cut] ^= 0xFF
    for content in (whole[:cut], bytes(corrupt)):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(Refused) as refused:
            IDXData(images=tmp_path / "a").setup()
        assert "\n" not in str(refused.value)


def test_mnist_is_read_whole(mnist: Path) -> None:
    data = IDXData(images=mnist, val_fraction=0.2, test_fraction=0.1)
    assert data.facts == {"event_shape": (1, 28, 28)}
    assert [len(split) for split in data.splits] == [7000, 2000, 1000]
    assert abs(float(data.examples("train", 7000).x.mean()) - 0.1325) < 0.002


# Folders and archives


def save(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def folder_of(root: Path, count: int = 20, **shape) -> Path:
    for number in range(count):
        save(root / f"class{number % 4}" / f"{number:02d}.png", picture(number, **shape))
    return root


def zipped(root: Path) -> Path:
    archive = root.parent / f"{root.name}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(root.rglob("*.*")):
            file.write(path, f"../../{path.relative_to(root)}")  # a name that would lead out of any folder
    return archive


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_a_folder_and_its_archive_hold_the_same_images(cache_gib: float, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "images")
    seen = []
    for place in (root, zipped(root)):
        data = ImageFolderData(root=place, cache_gib=cache_gib)
        assert data.facts == {"event_shape": (1, 10, 8)}
        assert [len(split) for split in data.splits] == [14, 4, 2]
        seen.append(all_of(data))
        split = pickle.loads(pickle.dumps(data.splits.train))
        assert torch.equal(split[3].x, data.splits.train[3].x)
    expected = {picture(number).tobytes() for number in range(20)}
    for x in seen:
        assert {row.mul(255).round().byte().numpy().tobytes() for row in x} == expected
    assert not list(tmp_path.rglob("*.extracted")) and len(list(tmp_path.iterdir())) == 2, "nothing is extracted"


@pytest.mark.parametrize("workers", [0, 2])
def test_images_read_at_each_visit_come_through_loader_processes(workers: int, tmp_path: Path) -> None:
    archive = zipped(folder_of(tmp_path / "images"))
    data = ImageFolderData(root=archive, cache_gib=0.0, batch_size=4, num_workers=workers)
    x = torch.cat([batch.x for batch in data.train_dataloader()])
    assert {row.numpy().tobytes() for row in x} == {row.numpy().tobytes() for row in data.examples("train", 99).x}


def test_different_sizes_are_refused_with_two_files_or_scaled(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "images")
    save(root / "odd.png", picture(99, 30, 40))
    with pytest.raises(Refused) as refused:
        ImageFolderData(root=root).setup()
    assert "class0/00.png of 10 x 8 and odd.png of 30 x 40" in str(refused.value)
    assert "dataset.size=8" in str(refused.value)
    for size, shape in ((8, (1, 8, 8)), ([12, 9], (1, 12, 9))):
        data = ImageFolderData(root=root, size=size)
        assert data.facts == {"event_shape": shape}
        assert all_of(data).shape == (21, *shape)


def test_scaling_cuts_the_centre_and_averages(tmp_path: Path) -> None:
    wide = np.zeros((16, 32), np.uint8)
    wide[:, 8:16], wide[:, 16:24], wide[:, 24:] = 100, 200, 255
    for number in range(4):
        save(tmp_path / f"{number}.png", wide)
        save(tmp_path / f"other{number}.png", picture(number, 16, 32))
    data = ImageFolderData(root=tmp_path, size=4)
    x = all_of(data)[:, 0].mul(255)
    flat = [row for row in x if (row.std(0) < 1).all()]
    assert len(flat) == 4
    assert (flat[0][0] - torch.tensor([100.0, 100, 200, 200])).abs().max() < 20, "the outer quarters are cut off"


MODES: dict[str, tuple[Callable[[Image.Image], Image.Image], bool]] = {
    "grey": (lambda image: image, True),
    "bits": (lambda image: image.convert("1"), True),
    "palette": (lambda image: image.convert("RGB").convert("P"), False),
    "colour": (lambda image: image.convert("RGB"), False),
    "alpha": (lambda image: image.convert("RGBA"), False),
    "16 bits": (lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 257), True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", ["auto", "grey", "rgb"])
def test_every_mode_of_pixels_becomes_grey_or_colour(mode: str, channels: str, tmp_path: Path) -> None:
    change, grey = MODES[mode]
    for number in range(6):
        change(Image.fromarray((picture(number) > 127).astype(np.uint8) * 255)).save(tmp_path / f"{number}.png")
    data = ImageFolderData(root=tmp_path, channels=channels)
    one_plane = channels == "grey" or (channels == "auto" and grey)
    assert data.facts == {"event_shape": (1 if one_plane else 3, 10, 8)}
    got = {(row[0] > 0.5).numpy().tobytes() for row in all_of(data)}
    assert got == {(picture(number) > 127).tobytes() for number in range(6)}


def test_what_is_transparent_lies_over_white(tmp_path: Path) -> None:
    for number in range(5):
        rgba = np.dstack([picture(number, planes=3), np.zeros((10, 8), np.uint8)])
        rgba[0, 0, 3] = 255
        save(tmp_path / f"{number}.png", rgba)
    x = all_of(ImageFolderData(root=tmp_path))
    assert (x[:, :, 1:] == 1).all() and (x[:, :, 0, 0] != 1).any()


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".pbm", ".ppm"}))
def test_every_format_is_read_upright(suffix: str, tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"{number}{suffix.upper()}", picture(number, 16, 16))
    assert ImageFolderData(root=tmp_path).facts == {"event_shape": (1 if suffix != ".webp" else 3, 16, 16)}
    if suffix == ".jpg":
        turned = Image.Exif()
        turned[0x0112] = 6  # the camera lay on its side
        for number in range(4):
            save(tmp_path / f"{number}{suffix.upper()}", picture(number, 16, 24), exif=turned)
        assert ImageFolderData(root=tmp_path).facts == {"event_shape": (1, 24, 16)}


def png(width: int, height: int, rows: int = 1) -> bytes:
    """A PNG whose header claims any size, of a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes((width + 1) * rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def broken() -> dict[str, bytes]:
    whole = io.BytesIO()
    Image.fromarray(picture(0, 32, 32)).save(whole, format="PNG")
    cut = whole.getvalue()
    return {
        "empty.png": b"",
        "text.jpg": b"no image at all",
        "truncated.png": cut[: len(cut) // 2],
        "bomb.png": png(60_000, 60_000),
        "large.png": png(9000, 9000),
        "script.bmp": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_unreadable_files_and_bombs_are_left_out_with_their_reasons(
    packed: bool, cache_gib: float, tmp_path: Path
) -> None:
    root = folder_of(tmp_path / "images", 60)
    for name, content in broken().items():
        (root / name).write_bytes(content)
    (root / ".hidden.png").write_bytes(b"junk")
    tracemalloc.start()
    data = ImageFolderData(root=zipped(root) if packed else root, cache_gib=cache_gib)
    reasons = {Path(path).name: reason for path, reason in data.left_out}
    assert tracemalloc.get_traced_memory()[1] < MOST_PIXELS
    tracemalloc.stop()
    assert set(reasons) == set(broken())
    assert "empty" in reasons["empty.png"] and "pixels" in reasons["bomb.png"] and "pixels" in reasons["large.png"]
    assert all_of(data).shape == (60, 1, 10, 8)
    with pytest.raises(Refused, match=r"max_bad_fraction=0\.05"):
        ImageFolderData(root=root, max_bad_fraction=0.05).setup()


def test_an_entry_that_unpacks_to_more_than_it_says_or_is_locked_is_left_out(tmp_path: Path) -> None:
    archive = zipped(folder_of(tmp_path / "images", 30))
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        first, second, third = file.infolist()[:3]
    content[first.header_offset + 60 + len(first.filename)] ^= 0xFF  # data that do not match their checksum
    at = content.rindex(second.filename.encode()) - 46  # its entry in the directory
    content[at + 8] |= 1  # encrypted
    at = content.rindex(third.filename.encode()) - 46
    content[at + 24 : at + 28] = struct.pack("<I", 2**31)  # claims 2 GiB
    archive.write_bytes(bytes(content))
    data = ImageFolderData(root=archive)
    assert {path for path, _ in data.left_out} == {first.filename, second.filename, third.filename}
    assert "larger than 256 MiB" in dict(data.left_out)[third.filename]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"PK\x03\x04 no archive", "cannot be read as a zip archive"), (None, "does not exist")],
)
def test_a_root_that_is_neither_folder_nor_archive_is_refused(content, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Refused, match=sentence):
        ImageFolderData(root=path).setup()


def test_places_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("readme.txt", "no images")
        file.writestr("__MACOSX/._0.png", "metadata")
    for place in ("empty", "a.zip"):
        with pytest.raises(Refused, match="holds no image files"):
            ImageFolderData(root=tmp_path / place).setup()


def test_folders_and_groups_stay_in_one_split_and_copies_too(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "images", 40)

    def names(data: ImageFolderData) -> list[set[str]]:
        data.setup()
        known = [each.path for each in data._pictures]
        return [{known[number] for number in split.numbers} for split in data.splits]

    parts = names(ImageFolderData(root=root, split_by="folder"))
    folders = [{name.split("/")[0] for name in part} for part in parts]
    assert sum(map(len, folders)) == 4 == len(set.union(*folders))
    parts = names(ImageFolderData(root=root, split_by=r"(\d)\.png"))
    endings = [{name[-5] for name in part} for part in parts]
    assert sum(map(len, endings)) == 10
    for number in range(40):
        (root / f"copy{number}.png").write_bytes((root / f"class{number % 4}" / f"{number:02d}.png").read_bytes())
    data = ImageFolderData(root=root)
    data.setup()
    digests = [{data._pictures[number].digest for number in split.numbers} for split in data.splits]
    assert sum(map(len, digests)) == 40


def test_a_second_look_reads_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vaecollapse.datasets.image_folder as module

    root, read = folder_of(tmp_path / "images"), []
    examine = module.examine
    monkeypatch.setattr(module, "examine", lambda place, found: read.append(found.path) or examine(place, found))
    first = ImageFolderData(root=root).fingerprint()
    assert len(read) == 20
    assert ImageFolderData(root=root).fingerprint() == first and len(read) == 20
    save(root / "class0" / "00.png", picture(77))
    assert ImageFolderData(root=root).fingerprint() != first and len(read) == 21


def test_images_that_go_away_while_training_end_it_in_a_sentence(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "images")
    data = ImageFolderData(root=root, cache_gib=0.0)
    data.setup()
    for path in root.rglob("*.png"):
        path.unlink()
    with pytest.raises(Refused, match="went away while training"):
        data.examples("train", 2)


@pytest.mark.parametrize(
    "options",
    [{"size": 0}, {"size": [8]}, {"size": [8, -1]}, {"channels": "cmyk"}, {"binarize": "yes"}, {"cache_gib": -1.0},
     {"max_bad_fraction": -0.1}, {"val_fraction": 0.0}, {"root": ""}],
)  # fmt: skip
def test_impossible_options_are_refused(options: dict, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        ImageFolderData(**{"root": tmp_path, **options})


def test_omniglot_is_read_out_of_its_archive(omniglot: Path) -> None:
    data = ImageFolderData(root=omniglot, size=28, split_by=r"background_small1/([^/]+)/")
    assert data.facts == {"event_shape": (1, 28, 28)}
    assert sum(len(split) for split in data.splits) == 2720 and not data.left_out
    assert 0.8 < float(data.examples("train", 200).x.mean()) < 0.98, "black strokes on white"
