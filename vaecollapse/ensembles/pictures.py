"""What an ensemble looks like: maps, rank histogram, spectra, and diversity as z is drawn wider."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..files import whole
from ..metrics.base import Metric
from ..metrics.diversity import diversity
from ..metrics.fields import cleaned
from ..metrics.rank_histogram import RankHistogram
from ..metrics.spectrum import SpectrumDistance
from ..pictures import field, grid
from .charts import Axis, Line, bars, plot, spanned
from .scoring import Source

TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 3.0)
SHOWN, LOOKED_AT = 6, 32  # members on a map; fields of which three are chosen, and that temperatures are swept on
STRIP = 22  # pixels of the line above a column


class Picture(NamedTuple):
    """A file of the folder `pictures`, whole, with what stands above and below it."""

    file: str
    title: str
    caption: str
    content: bytes


def write(folder: Path, pictures: Sequence[Picture]) -> None:
    """The files, then `pictures.json`: a list of {file, title, caption} in the order to be shown."""
    if not pictures:
        return
    folder.mkdir(parents=True, exist_ok=True)
    said = [{key: getattr(each, key) for key in ("file", "title", "caption")} for each in pictures]
    index = json.dumps(said, indent=1, ensure_ascii=False).encode()
    for name, content in [*((each.file, each.content) for each in pictures), ("pictures.json", index)]:
        with whole(folder / name) as temporary:
            temporary.write_bytes(content)


def of_metrics(metrics: Mapping[str, Metric]) -> list[Picture]:
    """What the metrics have summed, as far as they were asked for."""
    found = []
    for metric in metrics.values():
        if isinstance(metric, RankHistogram) and len(metric.by_block()[0]):
            found.append(rank_histogram(metric))
        if isinstance(metric, SpectrumDistance) and len(metric.by_block()[0]):
            found.append(spectra(metric))
    return found


# ---- maps


def maps(
    source: Source, *, coarse: Callable[[Int[Tensor, " n"]], Float[Tensor, "n height width"]] | None = None,
    called: str = "coarse",
) -> list[Picture]:  # fmt: skip
    """Of a wet, a middling and a dry field among the first: the condition (`called`), the truth, members, their mean
    and their standard deviation. None where nothing can be shown."""
    part = next(iter(source.parts(LOOKED_AT)), None)
    if part is None or not len(part[0].values):
        return []
    real, members, valid = cleaned(*part)
    chosen = three(real.values, valid)
    fields = [real.values[None], members[:SHOWN], members.mean(0)[None]]
    names = ["truth", *(f"member {number + 1}" for number in range(len(members[:SHOWN]))), "mean", "spread"]
    if coarse is not None:
        fields, names = [coarse(real.labels("index"))[None].to(real.values), *fields], [called, *names]
    spread = members.std(0, correction=min(1, len(members) - 1))
    rows = [_row([f[:, at] for f in fields], spread[at], valid[at]) for at in chosen]
    high = ", ".join(f"{float(torch.cat([f[:, at] for f in fields]).max()):.3g}" for at in chosen)
    said = (
        f"Black is 0 mm; each row has one scale, white its most ({high} {real.unit}), by square roots; the spread, the "
        "members' standard deviation, has its own. Grey: no data."
    )
    return [Picture("maps.png", "A wet, a middling and a dry field", said, _png(_titled(grid(rows), names)))]


def three(truth: Float[Tensor, "n height width"], valid: Tensor) -> list[int]:
    """The wettest, the middle and the driest of the fields; fewer where there are fewer.

    >>> three(torch.tensor([1.0, 5.0, 2.0, 0.0, 3.0])[:, None, None], torch.ones(5, 1, 1))
    [1, 2, 3]
    """
    order = (truth.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)).argsort(descending=True).tolist()
    return list(dict.fromkeys([order[0], order[len(order) // 2], order[-1]]))


def _row(fields: Sequence[Tensor], spread: Tensor, valid: Tensor) -> list[UInt8[np.ndarray, "height width 3"]]:
    together = torch.cat(list(fields))
    shown = [*(together / together.max().clamp(min=1e-9)), spread / spread.max().clamp(min=1e-9)]
    return [field(each.clamp(min=0).sqrt().numpy(), valid.numpy()) for each in shown]


def _titled(sheet: UInt8[np.ndarray, "tall wide 3"], names: Sequence[str]) -> UInt8[np.ndarray, "total wide 3"]:
    """A line of names above the columns."""
    strip = Image.new("RGB", (sheet.shape[1], STRIP), (235, 235, 235))
    drawing, wide = ImageDraw.Draw(strip), (sheet.shape[1] + 4) / len(names)
    for number, name in enumerate(names):
        drawing.text((number * wide + 3, 3), name, fill=(20, 20, 20), font=ImageFont.load_default(13))
    return np.concatenate([np.asarray(strip), sheet])


def _png(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


# ---- charts


def rank_histogram(metric: RankHistogram) -> Picture:
    """The share of truths at each rank among the members."""
    shares = metric.histogram().tolist()
    level, size = 1 / len(shares), len(shares)
    y = Axis("share of truths", 0.0, 1.1 * max(*shares, level))
    x = Axis(f"rank of the truth among {size - 1} members", -0.5, size - 0.5)
    said = (
        "Flat where truth and members are draws of one law. High at both ends: members too much alike; at the left: "
        "they rain too much, or drizzle where it is dry. Ties, such as dry cells, are broken at random."
    )
    return Picture("rank_histogram.svg", "Rank histogram", said, bars(x, y, shares, level, "flat").encode())


def spectra(metric: SpectrumDistance) -> Picture:
    """Mean power by wavenumber, of the members and of the truth."""
    sums = metric.by_block()[1].sum(0) / max(int(metric.times), 1)
    made, true = (part.tolist() for part in sums.chunk(2))
    waves = [float(number) for number in range(1, len(true) + 1)]
    lines = [Line(name, [*zip(waves, each, strict=True)]) for name, each in (("members", made), ("truth", true))]
    x = Axis("waves across the field", 1.0, float(len(true)), log=True)
    y = spanned("power", [*made, *true], log=True)
    said = (
        "Radially averaged power. Members below the truth at the right are blurred: they lack fine structure; above "
        "it, they are noise."
    )
    return Picture("spectra.svg", "Spectra", said, plot(x, y, lines).encode())


def of_temperatures(draw: Callable[[str, float], Source]) -> list[Picture]:
    """Diversity of the members against the factor on the noise of z, both modes; `draw` makes the ensemble of a mode
    and a temperature."""
    found = {mode: [(t, diversity_of(draw(mode, t))) for t in TEMPERATURES] for mode in ("prior", "posterior")}
    own = [(t, value) for t, value in found["prior"] if value > 0]
    lines = [Line(f"{mode} mode", points) for mode, points in found.items()]
    if own:
        first, value = own[0]
        lines.append(Line("T²", [(t, value * (t / first) ** 2) for t in TEMPERATURES], dashed=True))
    values = [value for points in found.values() for _, value in points]
    y = spanned("diversity", [*values, *(min(1.0, each[1]) for line in lines[2:] for each in line.points)], log=True)
    said = (
        "1 − mean pairwise cosine of the members. T²: what a smooth decoder does to small noise, drawn through prior "
        "mode's first point. Flat: the density's own noise makes members differ, or nothing does."
    )
    lines = [line._replace(points=[p for p in line.points if p[1] <= y.high]) for line in lines]
    chart = plot(Axis("temperature", TEMPERATURES[0] / 1.1, TEMPERATURES[-1] * 1.1, log=True), y, lines)
    return [Picture("temperature.svg", "Diversity against temperature", said, chart.encode())]


def diversity_of(source: Source) -> float:
    """The mean over times of the first part; 0 where it is not defined."""
    _, members, _ = cleaned(*next(iter(source.parts(LOOKED_AT))))
    value = diversity(members).value
    value = value[torch.isfinite(value)]
    return max(0.0, float(value.mean())) if len(value) else 0.0
