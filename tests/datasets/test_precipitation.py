"""Laws of reading rain: how a file is written does not matter, what it says does, what cannot be is one sentence."""

import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

from vaecollapse.datasets import crops
from vaecollapse.datasets.grids import areas, block_means, match, rain_unit
from vaecollapse.datasets.precipitation import PrecipitationData
from vaecollapse.datasets.series import Series
from vaecollapse.refusal import Refused

TIMES, HEIGHT, WIDTH, FACTOR = 60, 24, 32, 4
LAT, LON = 40 + 0.5 * np.arange(HEIGHT), -10 + 0.5 * np.arange(WIDTH)
DAYS = {"units": "days since 2001-01-01", "calendar": "standard"}


def rain(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = rng.gamma(0.7, 8.0, (TIMES, HEIGHT, WIDTH)) * (rng.random((TIMES, HEIGHT, WIDTH)) < 0.6)
    return np.round(drawn, 1).astype(np.float32)


def dataset(
    values: np.ndarray | None = None, *, units: str = "mm/day", days: object = None, **attributes
) -> xarray.Dataset:
    values = rain() if values is None else values
    axes = {
        "time": ("time", np.arange(len(values), dtype=float) if days is None else np.asarray(days, float), DAYS),
        "lat": ("lat", LAT, {"units": "degrees_north"}),
        "lon": ("lon", LON, {"units": "degrees_east"}),
    }
    said = {key: value for key, value in {"units": units, **attributes}.items() if value}
    return xarray.Dataset({"pr": (("time", "lat", "lon"), values, said)}, axes)


def stored(folder: Path, content: xarray.Dataset, name: str = "rain.nc", **settings) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith(".zarr"):
        content.to_zarr(path, **settings)
    else:
        content.to_netcdf(path, **{"engine": "h5netcdf", **settings})
    return path


def read(path: Path | str, **settings) -> PrecipitationData:
    given = {"crop": {"size": 8}, "predictors": {"factor": FACTOR}, "split": {"gap": 2}}
    return PrecipitationData(target={"path": str(path)}, **{**given, **settings})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("plain"), dataset())


@pytest.fixture(scope="module")
def data(plain: Path) -> PrecipitationData:
    return read(plain)


def everything(data: PrecipitationData) -> dict:
    """Every example by where it lies, south to north."""
    found = {}
    for name in ("train", "validation", "test"):
        count = len(getattr(data.splits, name))
        batch = getattr(data.splits, name).__getitems__(range(count))
        for position in range(count):
            place = data.place(name, position)
            turn = -1 if place.y[0] > place.y[-1] else 1
            pair = torch.stack([batch.x[position, 0], batch.context[position, 0]]).numpy()[:, ::turn]
            found[name, round(place.time, 6), min(place.y), min(place.x)] = pair
    return found


# ---- what a file looks like


def packed(folder: Path) -> Path:
    scale = {"dtype": "int16", "scale_factor": 0.1, "add_offset": 5.0, "_FillValue": -9999}
    return stored(folder, dataset(), encoding={"pr": scale})


def in_two_files(folder: Path) -> str:
    whole = dataset()
    stored(folder, whole.isel(time=slice(40, None)), "a.nc")
    stored(folder, whole.isel(time=slice(0, 40)), "b.nc")
    return f"{folder}/*.nc"


def with_copies(folder: Path) -> Path:
    return stored(folder, dataset().isel(time=[*range(TIMES), 7, 30]))


FORMS = {
    "dimensions in another order": lambda d: stored(d, dataset().transpose("lon", "time", "lat")),
    "latitude descending": lambda d: stored(d, dataset().isel(lat=slice(None, None, -1))),
    "times unsorted": lambda d: stored(d, dataset().isel(time=np.random.default_rng(0).permutation(TIMES))),
    "times twice": with_copies,
    "packed integers": packed,
    "an axis of length 1": lambda d: stored(d, dataset().expand_dims("height", 1)),
    "NetCDF 3": lambda d: stored(d, dataset(), engine="scipy"),
    "Zarr": lambda d: stored(d, dataset(), "rain.zarr"),
    "several files": in_two_files,
    "kg m-2 s-1": lambda d: stored(d, dataset(rain() / 86400, units="kg m-2 s-1")),
    "metres a day": lambda d: stored(d, dataset(rain() / 1000, units="m")),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_a_file_looks_like_does_not_matter(form: str, tmp_path: Path, data: PrecipitationData) -> None:
    found, wanted = everything(read(FORMS[form](tmp_path))), everything(data)
    assert set(found) == set(wanted)
    for key, pair in found.items():
        np.testing.assert_allclose(pair, wanted[key], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian"])
def test_calendars_are_kept(calendar: str, tmp_path: Path) -> None:
    content = dataset()
    content["time"].attrs["calendar"] = calendar
    found = read(stored(tmp_path, content))
    assert found.axes["time"] == {"name": "time", "units": "days since 2001-01-01", "calendar": calendar}
    assert found.place("train", 0).time in range(TIMES)


@pytest.mark.parametrize(
    ("unit", "step", "mm", "name"),
    [
        ("kg m**-2 s**-1", 3600, 86400, "mm/day"), ("mm hr^-1", 60, 1, "mm/h"), ("mm per day", 60, 1, "mm/day"),
        ("m s-1", 60, 86400e3, "mm/day"), ("m", 3600, 1000, "mm/h"), ("mm", 86400, 1, "mm/day"),
        ("kg m-2", 10800, 1, "mm/3h"),
    ],
)  # fmt: skip
def test_units(unit: str, step: float, mm: float, name: str) -> None:
    found = rain_unit(unit, float(step), where="pr")
    assert (found.factor, found.unit) == (pytest.approx(mm), name)


# ---- what it says


def test_the_condition_is_the_area_weighted_mean_in_mm(data: PrecipitationData) -> None:
    batch = data.examples("train", 40)
    for position in range(40):
        area = torch.from_numpy(data.areas("train", position))
        assert area[0, 0] / area[-1, 0] == pytest.approx(
            np.cos(np.radians(data.place("train", position).y[0]))
            / np.cos(np.radians(data.place("train", position).y[-1]))
        )
        pooled = torch.nn.functional.avg_pool2d(area * batch.x[position].double(), FACTOR)
        pooled /= torch.nn.functional.avg_pool2d(area[None], FACTOR)
        repeated = pooled.repeat_interleave(FACTOR, 1).repeat_interleave(FACTOR, 2)
        torch.testing.assert_close(batch.context[position, :1].double(), repeated, rtol=1e-5, atol=1e-6)


def test_area_means_are_exact_where_they_are_known() -> None:
    """A field equal to the sine of latitude: its mean over the sphere's north half is ½."""
    edges = np.linspace(0, 90, 91)
    centres = (edges[1:] + edges[:-1]) / 2
    field = np.sin(np.radians(edges)).reshape(-1, 1)
    field = ((field[1:] + field[:-1]) / 2).repeat(90, 1)
    area = areas(centres, np.arange(90.0), sphere=True)
    assert block_means(field, area, 90).item() == pytest.approx(0.5, abs=1e-12)


ANGLES = {
    "no units": lambda d: d,
    "a standard name": lambda d: d.rename(lat="j", lon="i").assign_coords(
        j=("j", LAT, {"standard_name": "latitude"}), i=("i", LON, {"standard_name": "longitude"})
    ),
    "another spelling": lambda d: d.assign_coords(lat=("lat", LAT, {"units": "Degrees_North"})),
}


@pytest.mark.parametrize("case", ANGLES)
def test_latitude_is_an_angle_however_it_says_so(case: str, tmp_path: Path, data: PrecipitationData) -> None:
    content = dataset().assign_coords(lat=("lat", LAT), lon=("lon", LON))
    found = read(stored(tmp_path, ANGLES[case](content)))
    np.testing.assert_array_equal(found.areas("train", 0), data.areas("train", 0))


def test_cells_without_a_coordinate_are_alike(tmp_path: Path) -> None:
    assert np.ptp(read(stored(tmp_path, dataset().drop_vars(["lat", "lon"]))).areas("train", 0)) == 0


def test_an_example_can_be_put_back(data: PrecipitationData, plain: Path) -> None:
    with xarray.open_dataset(plain, engine="h5netcdf", decode_times=False) as file:
        for name in ("train", "test"):
            batch = data.examples(name, 20)
            for position in range(len(batch.x)):
                place = data.place(name, position)
                there = file.pr.sel(time=place.time, lat=place.y, lon=place.x)
                np.testing.assert_array_equal(batch.x[position, 0].numpy(), there.values)


@pytest.mark.parametrize("by", ["time_block", "region", "year"])
def test_splits_are_apart_by_the_gap(by: str, tmp_path: Path) -> None:
    content = dataset(np.concatenate([rain(seed) for seed in range(3)]), days=12 * np.arange(3 * TIMES))
    found = read(stored(tmp_path, content), split={"by": by, "gap": 3}, crop={"size": 4})
    record, windows, chosen, *_ = found.found
    for one, other in ((0, 1), (0, 2), (1, 2)):
        moments, numbers = zip(*(chosen.examples[split].T for split in (one, other)), strict=True)
        if by == "region":
            columns = [np.array([windows[number].column for number in np.unique(part)]) for part in numbers]
            assert np.abs(columns[0][:, None] - columns[1]).min() >= 4 + 3
        else:
            days = [record.target.times.numbers[np.unique(part)] for part in moments]
            assert np.abs(days[0][:, None] - days[1]).min() > 12 * 3


def test_statistics_are_of_training_alone(data: PrecipitationData, tmp_path: Path) -> None:
    values = rain()
    held = sorted({int(key[1]) for key in everything(data) if key[0] != "train"})
    values[held] *= 3
    changed = read(stored(tmp_path, dataset(values)))
    assert changed.facts["transform"].hash == data.facts["transform"].hash
    assert changed.facts["p99"] == data.facts["p99"]
    values[next(int(key[1]) for key in everything(data) if key[0] == "train")] *= 3
    assert read(stored(tmp_path, dataset(values), "b.nc")).facts["transform"].hash != data.facts["transform"].hash


def test_statistics_are_what_numpy_says(data: PrecipitationData) -> None:
    batch, transform = data.examples("train", 10**6), data.facts["transform"]
    z, c = transform(batch.x), transform.condition(batch.context)
    for standardised in (z, c):
        assert float(standardised.mean()) == pytest.approx(0, abs=1e-4)
        assert float(standardised.std()) == pytest.approx(1, abs=1e-3)
    wet = batch.x[batch.x >= data.facts["wet"]]
    assert data.facts["p99"] == pytest.approx(float(np.quantile(wet.numpy(), 0.99)), rel=0.01)
    torch.testing.assert_close(transform.inverse(z), batch.x, rtol=1e-3, atol=1e-4)
    x = torch.tensor([[[0.5, 3.0]]], requires_grad=True)
    transform(x).sum().backward()
    torch.testing.assert_close(x.grad.log(), transform.log_slope(x.detach()))


# ---- lazily


def test_lazy_and_held_crops_are_the_same_in_any_process(plain: Path, data: PrecipitationData) -> None:
    lazy = read(plain, cache_gib=0.0)
    assert isinstance(lazy.splits.train, crops.Crops)
    workers = read(plain, cache_gib=0.0, num_workers=2)
    for one, two, three in zip(*(each.val_dataloader() for each in (data, lazy, workers)), strict=True):
        for field in ("x", "context"):
            assert torch.equal(getattr(one, field), getattr(two, field))
            assert torch.equal(getattr(one, field), getattr(three, field))


def test_a_worker_of_a_process_that_reads_on_is_not_disturbed(tmp_path: Path, data: PrecipitationData) -> None:
    """Zarr's threads and HDF5's files do not survive a fork; the parent reads before, between and after."""
    for path in (stored(tmp_path, dataset()), stored(tmp_path, dataset(), "rain.zarr")):
        lazy = read(path, cache_gib=0.0, num_workers=1)
        before = lazy.examples("test", 4)
        for number, batch in enumerate(lazy.val_dataloader()):
            wanted = data.examples("validation", len(batch.x), start=16 * number)
            assert torch.equal(batch.x, wanted.x)
            assert torch.equal(lazy.examples("test", 4).x, before.x)


def test_no_read_is_larger_than_a_chunk_and_a_visit_reads_its_crop(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "CELLS", 5 * HEIGHT * WIDTH)
    sizes, box = [], Series._box
    monkeypatch.setattr(Series, "_box", lambda *given: sizes.append(box(*given).size) or box(*given))
    lazy = read(plain, cache_gib=0.0)
    lazy.setup()
    assert max(sizes) <= 5 * HEIGHT * WIDTH
    sizes.clear()
    lazy.splits.train.__getitems__([0, 5])
    assert sizes == [64, 64]


PASSES = {
    "splits by equal blocks": ({"split": {"gap": 0}}, 1),
    "by region": ({"split": {"by": "region", "gap": 0}, "crop": {"size": 4}}, 1),
    "by year": ({"split": {"by": "year", "gap": 2}}, 1),
    "shares of the rain": ({"split": {"gap": 2}}, 2),
    "it fits": ({"split": {"gap": 0}, "cache_gib": 1.0}, 1),
}


@pytest.mark.parametrize("case", PASSES)
def test_a_record_is_read_once_where_its_splits_do_not_follow_its_rain(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is read in, training's statistics are the same to the bit."""
    monkeypatch.setattr(crops, "CELLS", 7 * 8 * 160)
    narrow = dataset(days=20 * np.arange(TIMES)).isel(lat=slice(8))
    wide = narrow.pad(lon=(0, 128), mode="wrap").assign_coords(lon=np.arange(160.0))
    settings, passes = PASSES[case]
    path, cells, box = stored(tmp_path, wide), [], Series._box
    monkeypatch.setattr(Series, "_box", lambda *given: cells.append(box(*given).size) or box(*given))
    lazy = read(path, **{"cache_gib": 0.0, **settings})
    lazy.setup()
    assert (passes - 1) * wide.pr.size < sum(cells) <= passes * wide.pr.size
    held = read(path, **{**settings, "cache_gib": 1.0})
    assert lazy.facts["transform"].hash == held.facts["transform"].hash
    assert lazy.facts["p99"] == held.facts["p99"]


def test_training_under_a_mask_waits_for_all_times(tmp_path: Path) -> None:
    path = stored(tmp_path, dataset(holed([3, 4])))
    lazy, held = (read(path, split={"gap": 0}, cache_gib=gib) for gib in (0.0, 1.0))
    assert lazy.examples("train", 400).mask is not None
    assert lazy.facts["transform"].hash == held.facts["transform"].hash


# ---- masks and gaps


def holed(at: object) -> np.ndarray:
    values = rain()
    values[:, :6, :6] = np.nan
    values[:, 8:16, 8:16] = np.nan
    values[at, 3, 20] = np.nan
    return values


def test_cells_that_are_never_seen_are_masked_and_gaps_left_out(tmp_path: Path) -> None:
    found = read(stored(tmp_path, dataset(holed([3, 4]))), crop={"size": 8, "min_wet_fraction": 0.0})
    assert dict(map(reversed, found.left_out))["with cells missing at some times"].startswith("2 of")
    assert dict(map(reversed, found.left_out))["outside the coverage"].startswith(f"{TIMES} of")
    batch = found.examples("train", 10**6)
    assert not batch.x[~batch.mask].any()
    places = [found.place("train", position) for position in range(len(batch.x))]
    corner = [position for position, place in enumerate(places) if (place.y[0], place.x[0]) == (LAT[0], LON[0])]
    assert len(corner) > 5
    assert not batch.mask[corner][:, 0, :6, :6].any()
    assert batch.mask[corner].sum() == len(corner) * (64 - 36)
    kept = batch.x[corner[0], 0, :4, 4:8].double().numpy()
    area = found.areas("train", corner[0])[:4, 4:8]
    valid = batch.mask[corner[0], 0, :4, 4:8].numpy()
    assert float(batch.context[corner[0], 0, 0, 4]) == pytest.approx((kept * area)[valid].sum() / area[valid].sum())
    with pytest.raises(Refused, match=r"2 crops .* first at 2001-01-04 .* dataset.mask=auto"):
        read(stored(tmp_path, dataset(holed([3, 4])), "b.nc"), mask="error").setup()


def test_dry_crops_are_left_out_by_their_coarse_rain(tmp_path: Path) -> None:
    values = rain()
    values[:30] = 0
    values[:30, 0, 0] = 0.5  # too little to make a coarse cell of 16 wet
    found = read(stored(tmp_path, dataset(values)), split={"by": "region", "gap": 0}, crop={"size": 4})
    assert min(key[1] for key in everything(found)) >= 30


# ---- predictors and fixed fields


def coarse(lon: np.ndarray, days: np.ndarray | None = None, **more) -> xarray.Dataset:
    """A field that says where and when it is: 1000·time + 10·latitude + longitude of its cell."""
    lat = LAT.reshape(-1, FACTOR).mean(1)
    days = np.arange(TIMES, dtype=float) if days is None else days
    east = (lon + 180) % 360 - 180
    values = 1000 * days[:, None, None] + 10 * lat[:, None] + east
    axes = {"time": ("time", days, DAYS), "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": "degrees_east"})}  # fmt: skip
    return xarray.Dataset({"psl": (("time", "lat", "lon"), values.astype(np.float32))}, axes)


BLOCKS = LON.reshape(-1, FACTOR).mean(1)


@pytest.mark.parametrize("circle", [False, True], ids=["as the target", "0 to 360"])
def test_predictors_lie_where_the_target_does(circle: bool, plain: Path, tmp_path: Path) -> None:
    content = coarse(BLOCKS % 360 if circle else BLOCKS)
    content = content.sortby("lon") if circle else content.isel(lat=slice(None, None, -1))
    content = content.isel(time=slice(4, None))
    predictors = {"mode": "file", "path": str(stored(tmp_path, content)), "vars": ["psl"], "factor": FACTOR}
    statics = xarray.Dataset(
        {"elevation": (("lat", "lon"), 10 * LAT[:, None] + LON)},
        {"lat": LAT, "lon": ("lon", LON % 360 if circle else LON, {"units": "degrees_east"})},
    ).sortby("lon")
    found = read(plain, predictors=predictors,
                 statics={"path": str(stored(tmp_path, statics, "fixed.nc")), "vars": ["elevation"]})  # fmt: skip
    assert found.facts["channels"] == ("psl", "elevation")
    assert found.facts["context_shape"] == (2, 8, 8)
    assert min(key[1] for key in everything(found)) == 4
    for position in range(30):
        place, context = found.place("train", position), found.examples("train", 1, start=position).context[0]
        lat, lon = (each.reshape(-1, FACTOR).mean(1).repeat(FACTOR) for each in (place.y, place.x))
        np.testing.assert_allclose(context[0], 1000 * place.time + 10 * lat[:, None] + lon, rtol=1e-6)
        np.testing.assert_allclose(context[1], 10 * place.y[:, None] + place.x, rtol=1e-6)


def test_a_day_with_two_fields_is_not_taken_for_two_days(tmp_path: Path) -> None:
    """Of a daily record with one field more at noon, and predictors with one more on another day."""
    target = dataset(days=[*range(6), 5.5, *range(6, TIMES - 1)])
    path = str(stored(tmp_path, coarse(BLOCKS, days=np.array([*range(9), 8.5, *range(9, TIMES - 1)])), "coarse.nc"))
    found = read(stored(tmp_path, target), predictors={"mode": "file", "path": path, "vars": ["psl"], "factor": FACTOR})
    batch = found.examples("train", 10**6)
    for position in range(len(batch.x)):
        assert float(batch.context[position, 0, 0, 0]) // 1000 == found.place("train", position).time


def test_blocks_may_begin_within_the_target() -> None:
    found = match(np.arange(20.0), np.array([-0.5, 3.5, 7.5, 11.5, 15.5, 19.5]), name="y", what="it")
    assert (found.positions.tolist(), found.factor, found.offset) == ([1, 2, 3, 4], 4, 2)


# ---- what cannot be


def refusal(path: Path | str, **settings) -> str:
    with pytest.raises(Refused) as error:
        read(path, **settings).setup()
    assert "\n" not in str(error.value)
    return str(error.value)


def truncated(folder: Path) -> Path:
    content = stored(folder, dataset()).read_bytes()
    (folder / "rain.nc").write_bytes(content[: len(content) * 2 // 3])
    return folder / "rain.nc"


def other_calendars(folder: Path) -> str:
    content = dataset(days=100 + np.arange(TIMES))
    content["time"].attrs = {**DAYS, "calendar": "noleap"}
    stored(folder, dataset(), "a.nc"), stored(folder, content, "b.nc")
    return f"{folder}/*.nc"


def other_grid(folder: Path) -> str:
    stored(folder, dataset(), "a.nc"), stored(folder, dataset(days=100 + np.arange(TIMES)).isel(lat=slice(8)), "b.nc")
    return f"{folder}/*.nc"


def twice_different(folder: Path) -> Path:
    return stored(folder, dataset(days=[*range(TIMES - 1), 5]))


BAD = {
    "unknown unit": (lambda d: stored(d, dataset(units="dBZ")), {}, ["'dBZ'", "dataset.target.units=", "mm/h"]),
    "no unit": (lambda d: stored(d, dataset(units="")), {}, ["says no units", "dataset.target.units=mm/h"]),
    "no such variable": (lambda d: stored(d, dataset().rename(pr="tp")), {}, ["no variable 'pr'", "it has tp"]),
    "no file": (lambda d: d / "none.nc", {}, ["none.nc is not there"]),
    "no match": (lambda d: f"{d}/*.nc", {}, ["is not there"]),
    "a folder": (lambda d: d, {}, ["no Zarr store", "*.nc"]),
    "no NetCDF": (lambda d: shutil.copy(__file__, d / "rain.nc"), {}, ["neither NetCDF nor Zarr"]),
    "truncated": (truncated, {}, ["cannot be read", "copy or download it again"]),
    "times twice": (twice_different, {}, ["2001-01-06 00:00:00 twice", "remove one"]),
    "calendars": (other_calendars, {}, ["noleap, standard", "of one"]),
    "grids": (other_grid, {}, ["b.nc has another lat"]),
    "no time": (lambda d: stored(d, dataset().isel(time=0, drop=True)), {}, ["none of which is time"]),
    "a member axis": (lambda d: stored(d, xarray.concat([dataset()] * 2, "member")), {}, ["2 of member"]),
    "negative": (lambda d: stored(d, dataset(rain() - 1)), {}, ["never negative", "_FillValue"]),
    "fill value": (lambda d: stored(d, dataset(np.where(rain() > 60, 1e20, rain()))), {}, ["1e+20 mm", "_FillValue"]),
    "all NaN": (lambda d: stored(d, dataset(rain() * np.nan)), {}, ["0 crops", "outside the coverage"]),
    "all dry": (lambda d: stored(d, dataset(rain() * 0)), {}, ["0 crops", "drier", "min_wet_fraction"]),
    "crop too large": (lambda d: stored(d, dataset()), {"crop": {"size": 28}}, ["24 x 32", "dataset.crop.size=24"]),
    "crop no multiple": (lambda d: stored(d, dataset()), {"crop": {"size": 10}}, ["dataset.crop.size=8"]),
    "gap too wide": (lambda d: stored(d, dataset()), {"split": {"gap": 60}}, ["0 crops", "dataset.split.gap"]),
    "one year": (lambda d: stored(d, dataset()), {"split": {"by": "year"}}, ["1 years", "time_block"]),
    "per cell": (lambda d: stored(d, dataset()), {"transform": {"scope": "per_cell"}}, ["dataset.crop.size=null"]),
    "fitted elsewhere": (lambda d: stored(d, dataset()), {"transform": {"fit_on": "all"}}, ["type train"]),
    "unknown key": (lambda d: stored(d, dataset()), {"crop": {"sise": 8}}, ["dataset.crop.sise", "size"]),
    "no dates": (lambda d: stored(d, dataset().drop_vars("time")), {}, ["says no dates", "time has no coordinate"]),
    "text": (lambda d: stored(d, dataset().assign(pr=lambda x: x.pr.astype(str))), {}, ["holds no numbers"]),
    "longitude with a hole": (lambda d: stored(d, dataset().isel(lon=[*range(4), *range(20, 32)])), {}, ["jumps from"]),
    "latitude in a zigzag": (lambda d: stored(d, dataset().isel(lat=[1, 0, *range(2, 24)])), {}, ["neither rises"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_one_sentence(case: str, tmp_path: Path) -> None:
    make, settings, words = BAD[case]
    sentence = refusal(make(tmp_path), **settings)
    assert all(word in sentence for word in words), sentence


PREDICTORS = {
    "too small": (coarse(BLOCKS[1:]), ["covers lon", "dataset.predictors all of it"]),
    "no common time": (coarse(BLOCKS, days=1000 + np.arange(TIMES)), ["no time in common", "2001-01-01"]),
    "no whole blocks": (coarse(np.linspace(-12, 8, 7)), ["no whole blocks"]),
    "missing": (coarse(BLOCKS).where(False), ["with predictors missing"]),
    "fill value": (coarse(BLOCKS).where(coarse(BLOCKS).time != 5, 1e20), ["psl", "1e+20", "_FillValue"]),
}


@pytest.mark.parametrize("case", PREDICTORS)
def test_predictors_that_do_not_fit_are_one_sentence(case: str, plain: Path, tmp_path: Path) -> None:
    content, words = PREDICTORS[case]
    path = str(stored(tmp_path, content, "coarse.nc"))
    sentence = refusal(plain, predictors={"mode": "file", "path": path, "vars": ["psl"], "factor": FACTOR})
    assert all(word in sentence for word in words), sentence


def test_per_cell_statistics_of_the_whole_grid(plain: Path) -> None:
    found = read(plain, crop={"size": None}, transform={"scope": "per_cell"})
    batch, transform = found.examples("train", 10**6), found.facts["transform"]
    assert found.facts["event_shape"] == (1, HEIGHT, WIDTH)
    torch.testing.assert_close(transform(batch.x).mean(0), torch.zeros(1, HEIGHT, WIDTH), rtol=0, atol=1e-4)


def test_a_real_radar_record_by_region(mrms: Path) -> None:
    found = PrecipitationData(target={"path": str(mrms)}, crop={"size": 128}, split={"by": "region"})
    assert found.facts["unit"] == "mm/h"
    assert 1 < found.effective.moments < 12
    assert all(len(split) for split in found.splits)
    west = {name: {min(found.place(name, i).x) for i in range(len(getattr(found.splits, name)))} for name in
            ("train", "validation", "test")}  # fmt: skip
    assert len(set(chain(*west.values()))) == sum(map(len, west.values()))
