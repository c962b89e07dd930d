"""Precipitation records (NetCDF, Zarr) as crops with their coarse condition, read lazily, split by blocks with gaps."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..refusal import Refused
from .base import Splits, check_fractions
from .blocks import Effective, effective_size
from .choosing import DRY, KEPT, Chosen, choose, planned
from .crops import Crops, Record, Seen, Window, look_through
from .fields import Facts, FieldData, HeldFields, Place, Statistics, check_transform
from .gathering import Passed, read
from .grids import Rain
from .opening import open_record
from .precipitation_options import Crop, Predictors, Split, Statics, Target, Transform, options

log = logging.getLogger(__name__)


class PrecipitationData(FieldData):
    """Fields of `target` cut into crops, each with its condition; see `Target` and the others for what they take.

    What crops are of a split, their statistics and which of them are used is settled at `setup`, in one pass over the
    record. It takes another where the record exceeds `cache_gib` and its splits are shares of its rain (a short one),
    cells of training have no value, or the crops that are used do fit. After that a crop is read when it is visited,
    or, up to `cache_gib` for all of them, held in memory. Crops are chosen by the rain of their *coarse* cells, which
    the model is given: so chosen, held-out truth and samples can be compared. mask auto: cells without a value at any
    time are masked, and crops with cells that have one only sometimes are left out; error: such crops are refused. Rain
    is never interpolated.
    """

    def __init__(
        self,
        *,
        target: Mapping[str, Any],
        predictors: Mapping[str, Any] | None = None,
        statics: Mapping[str, Any] | None = None,
        mask: str = "auto",
        crop: Mapping[str, Any] | None = None,
        split: Mapping[str, Any] | None = None,
        transform: Mapping[str, Any] | None = None,
        cache_gib: float = 1.0,
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        self.target = options(Target, target, "target")
        self.predictors = options(Predictors, predictors or {}, "predictors")
        self.statics, self.crop = options(Statics, statics or {}, "statics"), options(Crop, crop or {}, "crop")
        self.split, self.transform = (
            options(Split, split or {}, "split"),
            options(Transform, transform or {}, "transform"),
        )
        self.mask, self.cache_gib = mask, cache_gib
        check_fractions(self.split.val_fraction, self.split.test_fraction)
        check_transform(**self.transform._asdict())
        self._check()
        self._found: tuple[Record, list[Window], Chosen, Effective, str] | None = None

    def _check(self) -> None:
        for key, value, choices in (
            ("predictors.mode", self.predictors.mode, ("coarsen", "file")),
            ("predictors.join", self.predictors.join, ("inner",)),
            ("mask", self.mask, ("auto", "error")),
            ("split.by", self.split.by, ("year", "time_block", "region")),
        ):
            if value not in choices:
                raise Refused(f"dataset.{key}={value} is not known; type dataset.{key}={' or '.join(choices)}")
        if self.predictors.factor < 1 or self.split.gap < 0 or self.cache_gib < 0:
            raise Refused(
                f"predictors.factor={self.predictors.factor}, split.gap={self.split.gap}, cache_gib={self.cache_gib:g}:"
                " type a factor of 1 or more, a gap and cache_gib of 0 or more"
            )
        if not 0 <= self.crop.min_wet_fraction <= 1:
            raise Refused(
                f"dataset.crop.min_wet_fraction={self.crop.min_wet_fraction:g} is no share; type one in 0 to 1"
            )
        size, factor = self.crop.size, self.predictors.factor
        if size is not None and (size < factor or size % factor):
            raise Refused(
                f"dataset.crop.size={size} is no multiple of dataset.predictors.factor={factor}; type "
                f"dataset.crop.size={max(1, round(size / factor)) * factor}"
            )

    # ---- what is known after `setup`

    @property
    def found(self) -> tuple[Record, list[Window], Chosen, Effective, str]:
        """The record, where crops are cut, which of them are used, what they are worth, and a hash of the fields."""
        self.setup()
        assert self._found is not None
        return self._found

    @property
    def effective(self) -> Effective:
        """How many independent moments and places the crops' means are worth (see `effective_size`)."""
        return self.found[3]

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """How many crops are not used, and why."""
        chosen = self.found[2]
        return [(f"{count} of {chosen.counts.sum()} crops", reason) for count, reason in chosen.why()]

    def fingerprint(self) -> dict[str, object]:
        """Files of the target and the predictors, their bytes, and a hash of the fields as they were read, in mm."""
        record, digest = self.found[0], self.found[4]
        files = {path for each in (record.target, *record.predictors) for path in each.paths}
        inner = [each for path in files for each in ([path] if path.is_file() else path.rglob("*"))]
        size = sum(each.stat().st_size for each in inner if each.is_file())
        return {"files": len(files), "bytes": size, "hash": digest}

    @property
    def axes(self) -> dict[str, dict[str, Any]]:
        target = self.found[0].target
        said = {key: {"name": axis.name, **axis.attributes} for key, axis in (("y", target.y), ("x", target.x))}
        return {"time": {"name": "time", "units": target.times.units, "calendar": target.times.calendar}, **said}

    def place(self, split: str, position: int) -> Place:
        record, windows, *_ = self.found
        moment, number = self._example(split, position)
        target, (rows, columns) = record.target, record.cells(windows[number])
        return Place(float(target.times.numbers[moment]), target.y.centres[rows], target.x.centres[columns], number)

    def areas(self, split: str, position: int) -> np.ndarray:
        """Relative areas of the cells of an example."""
        record, windows, *_ = self.found
        return record.area[record.cells(windows[self._example(split, position)[1]])]

    def block(self, split: str, position: int) -> int:
        return int(self.found[2].block[self._example(split, position)])

    def _example(self, split: str, position: int) -> tuple[int, int]:
        moment, number = self.found[2].examples[("train", "validation", "test").index(split)][position]
        return int(moment), int(number)

    # ---- how it comes about

    def make_splits(self) -> Splits:
        record, rain = open_record(self.target, self.predictors, self.statics, self.crop)
        if self.split.by != "region" and len(record.target) < 3:
            raise Refused(f"the target has {len(record.target)} times, too few to split; type dataset.split.by=region")
        windows = record.windows()
        digest = hashlib.sha256(repr((record.target.times.seconds.tolist(), rain.unit)).encode())
        digest.update(record.fixed.tobytes())
        channels = len(record.predictors) / record.factor**2
        room = record.area.size * len(record.target) * 4 * (1 + channels) <= self.cache_gib * 2**30
        plan = None if room else planned(record, windows, self.split, self.seed)
        passed = Passed(record, windows, self._statistics(record, rain), room, plan, self.crop.min_wet_fraction)
        seen = look_through(record, windows, digest, passed)
        chosen = choose(
            record, windows, seen,
            wet=self.crop.min_wet_fraction, mask=self.mask, split=self.split, seed=self.seed,
        )  # fmt: skip
        effective = effective_size(np.log1p(seen.mean[:, chosen.windows]))
        self._describe(chosen, effective, rain)
        record = record._replace(fixed=self._filled(record.fixed, seen))
        self._found = record, windows, chosen, effective, digest.hexdigest()
        masked = any(seen.never[record.cells(windows[number])].any() for number in chosen.windows)
        passed.finish(chosen, seen)
        return self._fitted(record, windows, chosen, rain, masked, passed)

    def _describe(self, chosen: Chosen, effective: Effective, rain: Rain) -> None:
        log.info("%d of %d crops are used, in %s", chosen.counts[KEPT], chosen.counts.sum(), rain.unit)
        for count, reason in chosen.why():
            log.info("%d crops are left out, %s", count, reason)
        times, places = len(chosen.block), len(chosen.windows)
        log.info(
            "effective sample size: at most %.3g independent moments of %d times %.3g places of %d (from the crops' "
            "means: Bayley & Hammersley 1946, Bretherton et al. 1999)",
            effective.moments, times, effective.places, places,
        )  # fmt: skip
        memory = times / effective.moments
        if self.split.by == "time_block" and self.split.gap < memory - 1:
            log.warning(
                "dataset.split.gap=%d is shorter than the record's memory of %.3g steps: held-out crops tell of what "
                "was trained on; type dataset.split.gap=%d, or dataset.split.by=region",
                self.split.gap, memory, int(np.ceil(memory)),
            )  # fmt: skip
        if self.predictors.mode == "file" and chosen.counts[DRY]:
            log.warning(
                "crops are chosen by their own rain, which these predictors do not tell: for scores of samples type "
                "dataset.crop.min_wet_fraction=0"
            )

    def _filled(self, fixed: np.ndarray, seen: Seen) -> np.ndarray:
        """Fixed fields, which need a value where the target ever has one."""
        if (bad := np.isnan(fixed) & ~seen.never).any():
            name = self.statics.vars[int(np.argwhere(bad)[0, 0])]
            raise Refused(f"{name} of dataset.statics is missing where the target is not; fill it, 0 for the sea say")
        return np.nan_to_num(fixed)

    def _fitted(
        self, record: Record, windows: list[Window], chosen: Chosen, rain: Rain, masked: bool, passed: Passed
    ) -> Splits:
        """The splits, held in memory where they fit, and the statistics of training."""
        if self.transform.scope == "per_cell" and len(chosen.windows) > 1:
            raise Refused(
                "dataset.transform.scope=per_cell needs crops of one place; type dataset.crop.size=null for the whole "
                "grid, or dataset.transform.scope=global"
            )
        names = [*(self.predictors.vars if record.predictors else [f"{self.target.var} coarse"])]
        names += self.statics.vars if self.statics.path else []
        stores = self._stores([len(each) for each in chosen.examples], len(names), record.sides, masked)
        statistics = passed.statistics if passed.whole else self._statistics(record, rain)
        if stores or not passed.whole:
            read(record, windows, chosen.examples, None if passed.whole else statistics, stores, passed.frames)
        transform, p99 = statistics.transform(self.transform.std_floor), statistics.quantile(0.99)
        self._known = Facts(record.sides, record.factor, tuple(names), rain.unit, rain.wet, transform, p99)
        log.info("statistics of training: hash %s, P99 of wet cells %.4g %s", transform.hash[:12], p99, rain.unit)
        return Splits(*(stores or [Crops(record, windows, each, masked=masked) for each in chosen.examples]))

    def _statistics(self, record: Record, rain: Rain) -> Statistics:
        """Empty ones."""
        per_cell, logged = self.transform.scope == "per_cell", self.transform.name == "log1p_zscore"
        rainy = [logged and each for each in record.rainy] + [False] * len(record.fixed)
        return Statistics(log=logged, context_log=rainy, per_cell=per_cell, wet=rain.wet)

    def _stores(self, counts: Sequence[int], channels: int, sides: tuple[int, int], masked: bool) -> list[HeldFields]:
        """Room for all crops; none where they are too many."""
        if sum(counts) * sides[0] * sides[1] * (4 * (1 + channels) + masked) > self.cache_gib * 2**30:
            return []
        return [
            HeldFields(
                torch.zeros(count, 1, *sides),
                torch.zeros(count, channels, *sides),
                torch.zeros(count, 1, *sides, dtype=torch.bool) if masked else None,
            )
            for count in counts
        ]
