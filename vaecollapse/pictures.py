"""Arrays as pictures: spectrograms on one grid, heat maps, written as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from .files import whole

# Perceptually uniform, dark to bright, readable without colour: anchors of matplotlib's "inferno" (CC0).
ANCHORS = np.array(
    [
        [0, 0, 4],
        [40, 11, 84],
        [101, 21, 110],
        [159, 42, 99],
        [212, 72, 66],
        [245, 125, 21],
        [250, 193, 39],
        [252, 255, 164],
    ]
)

NO_DATA = np.array([128, 128, 128], np.uint8)
SIDE = 112  # pixels of a map's longer side, at least


def coloured(values: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """0 dark to 1 bright; values outside are clipped."""
    at = np.clip(values, 0, 1) * (len(ANCHORS) - 1)
    return np.stack([np.interp(at, np.arange(len(ANCHORS)), channel) for channel in ANCHORS.T], -1).astype(np.uint8)


def heat_map(values: Float[np.ndarray, "rows columns"], *, least: int = 256) -> UInt8[np.ndarray, "height width 3"]:
    """0 and below dark, the largest number bright; each one a block, so that either side has `least` pixels or more.

    >>> heat_map(np.array([[0.0, 0.5], [1.0, 0.0]])).shape
    (256, 256, 3)
    """
    top = max(float(values[np.isfinite(values)].max(initial=0)), 1e-12)
    rows, columns = (-(-least // count) for count in values.shape)
    return coloured(np.nan_to_num(values / top, posinf=1)).repeat(rows, axis=0).repeat(columns, axis=1)


def spectrogram(
    waveform: Float[np.ndarray, " time"], *, size: int = 256, range_db: float = 70.0, peak: float | None = None
) -> UInt8[np.ndarray, "bins frames 3"]:
    """STFT magnitude in decibels re `peak` (the clip's own, if None), low frequencies at the bottom."""
    padded = np.pad(np.asarray(waveform, dtype=np.float64), size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 4] * np.hanning(size)
    magnitude = np.abs(np.fft.rfft(frames, axis=1)).T[::-1]
    top = peak or max(float(magnitude.max()), 1e-12)
    return coloured(1 + 20 * np.log10(np.maximum(magnitude / top, 1e-12)) / range_db)


def grid(
    rows: Sequence[Sequence[UInt8[np.ndarray, "height width 3"]]], *, gap: int = 4
) -> UInt8[np.ndarray, "total wide 3"]:
    """Pictures of one size in rows, a light gap between them; short rows are filled with the gap's colour."""
    height, width = rows[0][0].shape[:2]
    columns = max(map(len, rows))
    sheet = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 235, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width] = picture
    return sheet


def named_rows(rows: Mapping[str, Sequence[UInt8[np.ndarray, "height width 3"]]]) -> UInt8[np.ndarray, "total wide 3"]:
    """Pictures of one size in rows, each with its name at the left."""
    sheet, font = grid(list(rows.values())), ImageFont.load_default(13)
    names = [name.replace("_", " ") for name in rows]
    strip = Image.new("RGB", (12 + max(int(font.getlength(name)) for name in names), sheet.shape[0]), (235, 235, 235))
    high = (sheet.shape[0] + 4) / len(names)
    for number, name in enumerate(names):
        ImageDraw.Draw(strip).text((5, number * high + (high - 4) / 2), name, (20, 20, 20), font, anchor="lm")
    return np.concatenate([np.asarray(strip), sheet], axis=1)


def fields(
    planes: Sequence[Float[np.ndarray, "height width"]], *, least: int = SIDE
) -> list[UInt8[np.ndarray, "tall wide 3"]]:
    """Amounts as maps of one scale, by square roots: 0 is black, the most of them all white. Grey where any of them has
    no number. Each cell is a block, so that the longer side has `least` pixels or more."""
    every = np.stack(planes)
    valid, top = np.logical_and.reduce(~np.isnan(every)), max(float(np.nan_to_num(every).max()), 1e-9)
    return [field(np.sqrt(np.nan_to_num(plane).clip(0) / top), valid, least=least) for plane in planes]


def field(
    shares: Float[np.ndarray, "height width"], valid: Bool[np.ndarray, "height width"], *, least: int = SIDE
) -> UInt8[np.ndarray, "tall wide 3"]:
    """0 dark to 1 bright, grey where there are no data; each cell a square of whole pixels."""
    pixels = np.where(np.expand_dims(valid, -1), coloured(shares), NO_DATA)
    times = max(1, -(-least // max(valid.shape)))
    return pixels.repeat(times, 0).repeat(times, 1)


def write_png(path: Path, picture: UInt8[np.ndarray, "height width 3"]) -> None:
    """Writes atomically: a reader sees the whole picture or none."""
    with whole(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
