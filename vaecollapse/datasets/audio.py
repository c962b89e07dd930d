"""A folder of recordings as a dataset: one sample rate, one clip length, one level, three disjoint splits."""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np

from ..refusal import Refused
from ..writers.base import Writer
from ..writers.sounds import SoundWriter
from .base import Splits, VAEData, check_fractions, partition, partition_groups
from .cache import Cache
from .clips import Augment, Clips
from .manifest import SPLITS, Row, listed, read_manifest
from .recordings import CHANNELS, RATES, Recording, shown
from .scan import Scan, find, name_copies, scan
from .signals import Files, Pack, source_of

log = logging.getLogger(__name__)

LONGEST = 2**23  # samples of a clip: longer ones are no one-shots, and are read whole

PEAK, RMS = 0.95, 0.1  # levels that `normalise` brings a recording to
HIGHEST = 16000  # Hz that a folder's own rate is taken up to


def groups_of(names: Sequence[str], pattern: str) -> list[str]:
    """The group each path belongs to: what the regex's one group matches in its path below the root."""
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise Refused(
            f"split_by={pattern!r} is no regex ({error}); type split_by=file or one such as '_(\\w+)_'"
        ) from error
    if regex.groups != 1:
        raise Refused(
            f"split_by={pattern!r} has {regex.groups} groups; mark the part that names the group with one ( )"
        )
    matches = [regex.search(name) for name in names]
    for name, match in zip(names, matches, strict=True):
        if match is None or match[1] is None:
            raise Refused(f"split_by={pattern!r} does not match {shown(name)}; type a regex that matches every file")
    return [match[1] for match in matches if match]


def commonest_rate(recordings: Sequence[Recording]) -> int:
    """Hz: the most frequent sample rate (the lower of two), at most `HIGHEST`."""
    rates = Counter(each.sample_rate for each in recordings)
    return min(HIGHEST, max(rates, key=lambda rate: (rates[rate], -rate)))


class AudioFolderData(VAEData):
    """Recordings below `root` (wav, flac, ogg, aiff, mp3) as clips (time,) in float32 with a mask.

    manifest: a CSV of the files to use, with their `split` and `group` if wanted (see `read_manifest`); without a row
    in val, `val_fraction` of those in train is held out. sample_rate: Hz; the most frequent in the folder, at most 16
    kHz, if None. seconds: clip length; the 95th percentile of durations if None; rounded up to `multiple_of` samples
    either way. min_seconds: shorter recordings are left out. channels: mean | left | random (one per visit, the same
    at each evaluation) | stereo (clips are (2, time), of the first two). trim: both ends of a recording are cut off
    where they stay this many dB below its peak, in steps of 10 ms; None leaves them. normalise: peak (each recording
    to 0.95; levels of takes say little of the sound, and a distance with a floor hardly hears the quiet ones) | rms (to
    −20 dB, at most that peak) | none. split_by: file, or a regex whose one group (speaker, pack) is kept in one split.
    fraction: share of the training split that is used, nested. crop: random | start, of long recordings in training.
    gain_db, polarity, shift (seconds, into the padding): augmentation of training. pack_gib: up to this size,
    recordings are kept in int16 at `sample_rate` in the user's cache folder (`Pack`), beyond it parts are read from the
    files. max_bad_fraction: more unusable files than this are refused.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        manifest: str | Path | None = None,
        sample_rate: int | None = None,
        seconds: float | None = None,
        min_seconds: float = 0.01,
        multiple_of: int = 1024,
        channels: str = "mean",
        trim: float | None = None,
        normalise: str = "peak",
        split_by: str = "file",
        val_fraction: float = 0.2,
        test_fraction: float = 0.1,
        fraction: float = 1.0,
        crop: str = "random",
        gain_db: float = 0.0,
        polarity: bool = False,
        shift: float = 0.0,
        max_bad_fraction: float = 0.1,
        pack_gib: float = 1.0,
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        check_fractions(val_fraction, test_fraction, fraction)
        choices = {"channels": CHANNELS, "normalise": ("peak", "rms", "none"), "crop": ("random", "start")}
        for name, value in (("channels", channels), ("normalise", normalise), ("crop", crop)):
            if value not in choices[name]:
                raise Refused(f"{name}={value} is not known; type {name}= one of {', '.join(choices[name])}")
        numbers = {"sample_rate": sample_rate, "seconds": seconds, "multiple_of": multiple_of, "trim": trim}
        for name, value in numbers.items():
            if value is not None and value <= 0:
                raise Refused(f"{name}={value} must be above 0; leave it out for the default")
        if sample_rate is not None and not RATES[0] <= sample_rate <= RATES[1]:
            raise Refused(f"sample_rate={sample_rate} Hz is none of recordings; type sample_rate=16000, say")
        for name, value in (
            ("max_bad_fraction", max_bad_fraction),
            ("gain_db", gain_db),
            ("shift", shift),
            ("pack_gib", pack_gib),
            ("min_seconds", min_seconds),
        ):
            if value < 0:
                raise Refused(f"{name}={value:g} must not be negative; type {name}=0 to switch it off")
        if not str(root):
            raise Refused("dataset.root is empty; type dataset.root=path/to/recordings")
        self.root = Path(os.path.expanduser(root))
        self.manifest = Path(os.path.expanduser(manifest)) if manifest else None
        self.sample_rate, self.seconds, self.multiple_of = sample_rate, seconds, multiple_of
        self.min_seconds, self.channels, self.trim = min_seconds, channels, None if trim is None else float(trim)
        self.normalise, self.split_by = normalise, split_by
        self.val_fraction, self.test_fraction, self.fraction = val_fraction, test_fraction, fraction
        self.crop, self.gain_db, self.polarity, self.shift = crop, gain_db, polarity, shift
        self.max_bad_fraction, self.pack_gib = max_bad_fraction, pack_gib
        self._scan: Scan | None = None
        self._rate, self._length = 0, 0

    @property
    def scanned(self) -> Scan:
        """The folder's recordings and quarantine; sets up on first use."""
        self.setup()
        assert self._scan is not None
        return self._scan

    @property
    def facts(self) -> dict[str, object]:
        self.setup()
        shape = (2, self._length) if self.channels == "stereo" else (self._length,)
        return {"event_shape": shape, "sample_rate": self._rate}

    def writer(self, folder: Path, form: str | None = None) -> Writer:
        """wav or flac, and a page to listen to them on."""
        self.setup()
        return SoundWriter(folder, form, rate=self._rate)

    def fingerprint(self) -> dict[str, object]:
        """Usable files, their bytes, and a hash of their paths and contents."""
        recordings, digest = self.scanned.recordings, hashlib.sha256()
        for recording in recordings:
            digest.update(os.fsencode(recording.path) + f"\0{recording.digest}\n".encode())
        return {"files": len(recordings), "bytes": sum(each.size for each in recordings), "hash": digest.hexdigest()}

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Every file that is not used, by path, with the reason."""
        return [(shown(path), reason) for path, reason in self.scanned.quarantine]

    def make_splits(self) -> Splits:
        cache = Cache()
        rows = read_manifest(self.manifest, self.root) if self.manifest else []
        self._scan = scan(
            self.root,
            listed(rows, self.manifest, self.root) if self.manifest else find(self.root),
            channels=self.channels,
            trim=self.trim,
            min_seconds=self.min_seconds,
            max_bad_fraction=self.max_bad_fraction,
            cache=cache,
        )
        recordings = self._scan.recordings
        name_copies(recordings)
        self._rate = rate = self.sample_rate or commonest_rate(recordings)
        sizes = [each.samples(rate) for each in recordings]
        self._length = self._length_for(sizes)
        if self._length > LONGEST:
            raise Refused(
                f"clips of {self._length / rate:.0f} s at {rate} Hz are too long for one latent vector each; type "
                "dataset.seconds=2, say, for random crops of that length"
            )
        self._describe(recordings, sizes)
        of = {row.path: row for row in rows}
        train, validation, test = self._parts(recordings, of)
        files = Files(self.root, recordings, sample_rate=rate, channels=self.channels)
        source = source_of(files, pack_bytes=self.pack_gib * 2**30, cache=cache)
        train = train[: ceil(self.fraction * len(train))]
        return Splits(*(self._clips(source, recordings, sizes, part) for part in (train, validation, test)))

    def _length_for(self, sizes: Sequence[int]) -> int:
        wanted = float(np.percentile(sizes, 95)) if self.seconds is None else self.seconds * self._rate
        return max(1, ceil(round(wanted / self.multiple_of, 6))) * self.multiple_of

    def _describe(self, recordings: Sequence[Recording], sizes: Sequence[int]) -> None:
        rates = Counter(each.sample_rate for each in recordings)
        histogram = ", ".join(f"{rate} Hz: {rates[rate]}" for rate in sorted(rates))
        hours = sum(sizes) / self._rate / 3600
        log.info("%d recordings, %.3g h (%s)", len(recordings), hours, histogram)
        seconds, long = self._length / self._rate, sum(size > self._length for size in sizes)
        said = "clips of %d samples (%.3f s at %d Hz); %d recordings are longer and cropped, the others padded"
        log.info(said, self._length, seconds, self._rate, long)

    def _parts(
        self, recordings: Sequence[Recording], rows: Mapping[str, Row]
    ) -> tuple[list[int], list[int], list[int]]:
        """Which recordings go where, in an order keyed by the seed; copies of one file stay together, or held-out
        readings would be taken on what was trained on."""
        names, digests = [each.path for each in recordings], [each.digest for each in recordings]
        groups = self._groups(names, rows)
        if any(row.split for row in rows.values()):
            parts = self._given_parts([rows[name].split for name in names], groups)
        else:
            copies = digests if len(set(digests)) < len(digests) else []
            if copies and len(set(copies)) < 2 + (self.test_fraction > 0):
                raise Refused(
                    f"the {len(names)} recordings are copies of {len(set(copies))}, too few for training and held-out "
                    "ones; give more recordings, or test_fraction=0"
                )
            parts = self._drawn_parts(range(len(names)), groups or copies, self.test_fraction)
        held_out = {digests[number] for part in parts[1:] for number in part}
        if twice := [names[number] for number in parts[0] if digests[number] in held_out]:
            log.warning(
                "%d training recordings are also held out (%s): held-out readings tell of what was trained on",
                len(twice), shown(twice[0]),
            )  # fmt: skip
        if groups:
            sets = [{groups[number] for number in part} for part in parts]
            for name, members in zip(("training", "validation", "test"), sets, strict=True):
                log.info("%s groups: %s", name, ", ".join(sorted(members)) or "none")
            if sum(map(len, sets)) > len(set.union(*sets)):
                log.warning("some groups are in more than one split of %s: they tell of each other", self.manifest)
        return parts

    def _groups(self, names: Sequence[str], rows: Mapping[str, Row]) -> list[str]:
        """The group of each recording, from the manifest or the regex; none where files are divided one by one."""
        grouped = any(row.group for row in rows.values())
        if grouped and self.split_by != "file":
            raise Refused(
                f"split_by={self.split_by!r} and the column group of dataset.manifest={self.manifest} both name "
                "groups; type split_by=file"
            )
        if grouped:
            return [rows[name].group for name in names]
        return [] if self.split_by == "file" else groups_of(names, self.split_by)

    def _given_parts(self, splits: Sequence[str], groups: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
        """The manifest's splits; without any `val`, a share of `train` is held out for it."""
        order = np.random.default_rng(self.seed).permutation(len(splits)).tolist()
        train, validation, test = ([number for number in order if splits[number] == name] for name in SPLITS)
        if len(train) < 2:
            raise Refused(f"dataset.manifest={self.manifest} has {len(train)} rows of split train; give it 2 or more")
        if not validation:
            train, validation, _ = self._drawn_parts(train, groups, 0.0)
        return train, validation, test

    def _drawn_parts(
        self, numbers: Sequence[int], groups: Sequence[str], test: float
    ) -> tuple[list[int], list[int], list[int]]:
        if groups:
            chosen = [groups[number] for number in numbers]
            parts = partition_groups(chosen, validation=self.val_fraction, test=test, seed=self.seed)
        else:
            parts = partition(len(numbers), validation=self.val_fraction, test=test, seed=self.seed)
        train, validation, tested = ([numbers[place] for place in part] for part in parts)
        return train, validation, tested

    def _clips(
        self, source: Pack | Files, recordings: Sequence[Recording], sizes: Sequence[int], part: Sequence[int]
    ) -> Clips:
        shift = int(self.shift * self._rate)
        return Clips(
            source,
            recordings=recordings,
            numbers=part,
            sizes=sizes,
            gains=[self._gain(each) for each in recordings],
            channels=self.channels,
            length=self._length,
            seed=self.seed,
            augment=Augment(crop=self.crop == "random", gain_db=self.gain_db, polarity=self.polarity, shift=shift),
        )

    def _gain(self, recording: Recording) -> float:
        if self.normalise == "none":
            return 1.0
        loudest = PEAK / recording.peak
        return loudest if self.normalise == "peak" else min(RMS / recording.rms, loudest)
