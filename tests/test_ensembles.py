"""Ensembles on disk: what is written is read, whoever wrote it, and scored."""

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_rain import rain

from vaecollapse.ensembles.reading import Stored
from vaecollapse.ensembles.scoring import scores
from vaecollapse.metrics.crps import CRPS
from vaecollapse.metrics.diversity import EnsembleDiversity
from vaecollapse.metrics.fields import Fields
from vaecollapse.metrics.mass_bias import MassBias
from vaecollapse.metrics.rank_histogram import RankHistogram
from vaecollapse.refusal import Refused
from vaecollapse.writers import netcdf
from vaecollapse.writers.base import Made
from vaecollapse.writers.ensembles import EnsembleWriter, Frame
from vaecollapse.writers.netcdf import Ensemble, Places, write

xr = pytest.importorskip("xarray")
AXES = {
    "time": {"name": "time", "units": "days since 2001-01-01", "calendar": "noleap"},
    "y": {"name": "lat", "units": "degrees_north", "standard_name": "latitude"},
    "x": {"name": "lon", "units": "degrees_east", "standard_name": "longitude"},
}


def ensemble(windows: int = 2, times: int = 30, count: int = 3, size: int = 8, **more: Any) -> Ensemble:
    """Every pair of a window and a time but one, in no order, with a masked corner."""
    n = windows * times
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))[1:].numpy()
    fields = rain(count + 1, n, size=size, seed=2).numpy()[:, order]
    fields[:, :, :2, 0] = np.nan
    window, moment = order // times, order % times
    lat, lon = 40.0 + np.arange(size) * 0.5, np.arange(size) * 0.5
    places = Places(
        31.0 * moment + 0.5, lat + 5.0 * window[:, None], lon + 5.0 * window[:, None], window,
        moment // 10, 100 + np.arange(n - 1), AXES, attributes={"cell_methods": "time: mean"}, **more,
    )  # fmt: skip
    return Ensemble(fields[1:], fields[0], places)


def whole(stored: Stored, times: int = 7) -> tuple[Fields, torch.Tensor]:
    """All parts, in the order of positions."""
    parts = list(stored.parts(times))
    columns = zip(*(part[0][:6] for part in parts), strict=True)
    order = torch.cat([part.index for part, _ in parts if part.index is not None]).argsort()
    real = Fields(*(torch.cat(column)[order] for column in columns))
    return real, torch.cat([members for _, members in parts], 1)[:, order]


@pytest.mark.parametrize("windows", [1, 2])
def test_what_is_written_is_read(tmp_path: Path, windows: int) -> None:
    given = ensemble(windows)
    write(tmp_path / "new" / "members.nc", given)
    stored = Stored(tmp_path / "new" / "members.nc")
    real, members = whole(stored)
    assert np.array_equal(members.numpy(), given.members, equal_nan=True)
    assert np.array_equal(real.values.numpy(), given.truth, equal_nan=True)
    for field, values in (
        ("block", given.places.block),
        ("place", given.places.window),
        ("index", given.places.position),
    ):
        assert np.array_equal(getattr(real, field).numpy(), values)
    assert np.allclose(real.area[:, :, 0].numpy(), np.cos(np.radians(given.places.y)))
    assert (stored.unit, stored.blocks, stored.count) == ("mm/day", "blocks as the file has them", 3)
    assert os.listdir(tmp_path / "new") == ["members.nc"]


def test_coordinates_and_attributes_are_cfs_and_kept(tmp_path: Path) -> None:
    write(tmp_path / "one.nc", ensemble(1, about={"mode": "prior", "temperature": 1.0}))
    with xr.open_dataset(tmp_path / "one.nc") as found:
        assert found["pr"].dims == ("member", "time", "lat", "lon")
        assert found["pr_truth"].dims == ("time", "lat", "lon")
        assert found["lat"].attrs == {"units": "degrees_north", "standard_name": "latitude"}
        assert found["pr"].attrs["cell_methods"] == "time: mean" and found["pr"].attrs["units"] == "mm/day"
        assert found.attrs["Conventions"].startswith("CF-") and found.attrs["mode"] == "prior"
        assert found["member"].attrs["standard_name"] == "realization"
        assert found["time"].dt.calendar == "noleap"
        assert found["time"].values[1].isoformat() == "2001-02-01T12:00:00"
    write(tmp_path / "two.nc", ensemble(2))
    with xr.open_dataset(tmp_path / "two.nc") as found:
        assert found["pr"].dims == ("member", "window", "time", "y", "x")
        assert found["lat"].dims == ("window", "y")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "members.nc"
    write(path, ensemble(1))
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, ensemble(1, about={"mode": object()}))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["members.nc"]


def members_of(given: Ensemble, count: int, part: int = 8) -> Iterator[Made]:
    """`count` members of every field in turn, so many samples at a time."""
    size, cells = given.truth.shape[0], given.truth.shape[1:]
    for start in range(0, count * size, part):
        numbers = np.arange(start, min(start + part, count * size))
        fields = np.ones((len(numbers), 1, *cells), np.float32) * (1 + numbers // size)[:, None, None, None]
        yield Made(start, {"sample": fields})


def writer_of(given: Ensemble, folder: Path) -> EnsembleWriter:
    writer = EnsembleWriter(folder, frame=lambda split: Frame(given.places, lambda rows: given.truth[list(rows)]))
    writer.begin("test", {"mode": "prior"})
    return writer


@pytest.mark.parametrize(("samples", "whole_members"), [(40, 0), (59, 1), (150, 2)])
def test_an_interrupted_sampling_leaves_the_members_that_are_whole(tmp_path: Path, samples, whole_members) -> None:
    given = ensemble(2)

    def interrupted() -> None:
        with writer_of(given, tmp_path) as writer:
            for made in members_of(given, 4, part=1):
                if made.start == samples:
                    assert [name[0] for name in os.listdir(tmp_path)] == ["."], "it has its name when it is whole"
                    raise KeyboardInterrupt
                writer.add(made)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == ["ensemble.nc"] * bool(whole_members)
    if whole_members:
        with xr.open_dataset(tmp_path / "ensemble.nc") as found:
            assert found["member"].values.tolist() == list(range(whole_members))
            missing = np.isnan(found["pr_truth"].values)
            for number, member in enumerate(found["pr"].values):
                assert (
                    np.array_equal(np.isnan(member), missing) and np.nanmin(member) == np.nanmax(member) == number + 1
                )


def test_more_members_take_no_more_memory(tmp_path: Path) -> None:
    given, peaks = ensemble(2, 4, size=64), []
    for count in (1, 2, 22):  # what the first imports is none of it
        tracemalloc.start()
        with writer_of(given, tmp_path / str(count)) as writer:
            for made in members_of(given, count):
                writer.add(made)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 20 * given.truth.nbytes / 4


def foreign(times: int = 12, *, start: str = "2001-01-01", freq: str = "D") -> Any:
    """Somebody else's: other names, another order of dimensions, a descending latitude, another unit."""
    fields = rain(4, times, size=6, seed=4).numpy().astype(np.float64)
    lat = xr.Variable("north", np.linspace(60, 0, 6), {"units": "degrees_north"})
    return xr.Dataset(
        {
            "tp": (("day", "north", "east", "number"), fields[1:].transpose(1, 2, 3, 0), {"units": "m day**-1"}),
            "tp_obs": (("north", "day", "east"), 1000 * fields[0].transpose(1, 0, 2) / 86400, {"units": "kg m-2 s-1"}),
            "z": (("north", "east"), fields[0, 0]),
        },
        {"day": ("day", xr.date_range(start, periods=times, freq=freq), {"standard_name": "time"}), "north": lat,
         "east": ("east", np.arange(6.0), {"axis": "X"})},
    )  # fmt: skip


def test_anybodys_file_is_read_by_names_and_attributes(tmp_path: Path) -> None:
    given = foreign()
    given.to_netcdf(tmp_path / "theirs.nc", engine="h5netcdf")
    stored = Stored(tmp_path / "theirs.nc")
    real, members = whole(stored)
    fields = 1000 * rain(4, 12, size=6, seed=4)
    stored.close()
    one_more = given.assign(tp=given.tp.expand_dims("height", 1)).rename(north="j")  # an axis of length 1
    one_more["j"].attrs = {"standard_name": "latitude"}
    one_more.to_netcdf(tmp_path / "also.nc", engine="h5netcdf")
    also, made = whole(Stored(tmp_path / "also.nc"))
    assert torch.equal(made, members) and torch.equal(also.area, real.area)
    assert torch.allclose(members, fields[1:], rtol=1e-5)
    assert torch.allclose(real.values, fields[0], rtol=1e-5)
    assert real.area[0, :, 0].tolist() == pytest.approx(np.cos(np.radians(np.linspace(60, 0, 6))).tolist())


@pytest.mark.parametrize(
    ("times", "freq", "blocks", "count"),
    [
        (8, "D", "one block: all within 10 days", 1),
        (60, "D", "blocks are 10 days of time", 6),
        (60, "W", "blocks are 41 days of time", 10),
        (90, "MS", "blocks are years", 8),
    ],
)
def test_blocks_are_as_long_as_independence_needs(tmp_path: Path, times, freq, blocks, count) -> None:
    foreign(times, freq=freq).to_netcdf(tmp_path / "theirs.nc", engine="h5netcdf")
    stored = Stored(tmp_path / "theirs.nc")
    assert stored.blocks.startswith(blocks)
    assert len(np.unique(stored.block)) == count


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.drop_vars("tp_obs"), "has no truth, a variable with (day, east, north): there are tp, z"),
        (lambda d: d.isel(number=0), "none of which is member"),
        (lambda d: d.rename(number="k"), "none of which is member: name one member or realization"),
        (lambda d: d.assign(tp2=d.tp), "may have its members in tp or tp2: type variable=tp"),
        (lambda d: d.assign(tp=d.tp.assign_attrs(units="furlong")), "tp of"),
        (lambda d: d.assign(tp=d.tp.assign_attrs(units="mm/h")), "members of"),
        (lambda d: d.assign_coords(day=d.day.where(d.day != d.day[3])), "without a time"),
    ],
)
def test_what_does_not_tell_is_refused_in_a_sentence(tmp_path: Path, change, words) -> None:
    change(foreign()).to_netcdf(tmp_path / "theirs.nc", engine="h5netcdf")
    with pytest.raises(Refused) as sentence:
        Stored(tmp_path / "theirs.nc")
    assert words in str(sentence.value) and "\n" not in str(sentence.value)


def test_a_torn_file_no_file_and_negative_rain_are_refused(tmp_path: Path) -> None:
    given = foreign()
    given["tp"] = given["tp"] - 0.1
    given.to_netcdf(tmp_path / "theirs.nc", engine="h5netcdf")
    with pytest.raises(Refused, match="rain is never negative"):
        whole(Stored(tmp_path / "theirs.nc"))
    given["tp"] = given["tp"].where(given["tp"] > 0.01, 1e20).assign_attrs(units="m day**-1")
    given.to_netcdf(tmp_path / "filled.nc", engine="h5netcdf")
    with pytest.raises(Refused, match=r"tp of .* is 1e\+23 mm somewhere: declare that as its _FillValue"):
        whole(Stored(tmp_path / "filled.nc"))
    foreign().to_zarr(tmp_path / "torn.zarr")
    pieces = [path for path in (tmp_path / "torn.zarr" / "tp").rglob("*") if path.is_file()]
    piece = max(pieces, key=lambda path: path.stat().st_size)
    piece.write_bytes(piece.read_bytes()[:100])
    with pytest.raises(Refused, match=r"tp of .*torn\.zarr cannot be read to its end"):
        whole(Stored(tmp_path / "torn.zarr"))
    content = (tmp_path / "theirs.nc").read_bytes()
    (tmp_path / "torn.nc").write_bytes(content[: len(content) // 2])
    with pytest.raises(Refused, match=r"torn\.nc cannot be read as NetCDF"):
        Stored(tmp_path / "torn.nc")
    with pytest.raises(Refused, match="is not there"):
        Stored(tmp_path / "none.nc")


def test_a_file_is_scored_as_its_fields_are(tmp_path: Path) -> None:
    given = ensemble()
    write(tmp_path / "members.nc", given)
    metrics = {"crps": CRPS, "mass_bias": MassBias, "rank_histogram": RankHistogram, "diversity": EnsembleDiversity}
    stored = Stored(tmp_path / "members.nc")
    found = scores(stored, {name: make() for name, make in metrics.items()}, times=7)
    real, members = whole(stored)
    direct = []
    for make in metrics.values():
        metric = make()
        metric.update(real, members)
        direct += metric.scores()
    for ours, theirs in zip(found, direct, strict=True):
        assert (ours.name, *ours[3:5]) == (theirs.name, *theirs[3:5])
        for one, other in ((ours.value, theirs.value), (ours.se, theirs.se)):
            assert one == (None if other is None else pytest.approx(other, rel=1e-5)), ours.name
    one = scores(Stored(tmp_path / "members.nc"), {"diversity": EnsembleDiversity()},
                 analogs=lambda index: rain(4, len(index), size=8, seed=9))  # fmt: skip
    assert {each.name: each for each in one}["diversity_ratio"].value == pytest.approx(1, abs=0.1)


def test_one_member_is_scored_where_one_is_enough(tmp_path: Path) -> None:
    write(tmp_path / "one.nc", ensemble(count=1))
    found = {each.name: each for each in scores(Stored(tmp_path / "one.nc"), {"crps": CRPS(), "mass_bias": MassBias()})}
    assert found["mass_bias"].value is not None
    assert found["crps"].value is None and found["crps"].note == "needs more members than 1"


def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5netcdf", None)
    with pytest.raises(Refused, match=r"pip install 'vaecollapse\[spatial\]'"):
        netcdf.xarray()
