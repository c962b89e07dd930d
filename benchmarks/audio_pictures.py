"""Pictures of sets of runs, as SVG that fetches nothing: two readings against one another, a map of verdicts, and one
reading a panel. Every seed is a dot, the mean of a row a bar or a ring."""

import html
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from vaecollapse.comparison import Trial
from vaecollapse.report import knobs

Runs = Mapping[str, Sequence[Trial]]
ROWS = ("#0072B2", "#009E73", "#E69F00", "#CC79A7", "#D55E00")  # Okabe and Ito's, as in the report
STATES = {"healthy": ("#009E73", "alive"), "posterior_collapse": ("#D55E00", "dead"), "prior_hole": ("#56B4E9", "hole"),
          "fake_rate": ("#E69F00", "fake"), "partial_collapse": ("#F0E442", "partly"),
          "bypassed_latent": ("#CC79A7", "bypassed"), "overfit": ("#CC79A7", "overfit"),
          "over_compressed": ("#56B4E9", "squeezed")}  # fmt: skip
UNKNOWN = ("#bbbbbb", "?")
SIDE, TOP, FOOT, LEGEND = 70, 50, 50, 190


def scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """From [low, high] onto [start, stop], straight; a single value goes to the middle.

    >>> scale(1.0, 3.0, 10.0, 20.0)(2.0)
    15.0
    """
    if high == low:
        return lambda _: (start + stop) / 2
    return lambda value: start + (stop - start) * (value - low) / (high - low)


def document(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" '
        'font-size="12">', f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
        text(12, 22, title, 'font-size="15"'), *parts, "</svg>", ""])  # fmt: skip


def text(x: float, y: float, said: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{html.escape(said)}</text>'


def dot(x: float, y: float, colour: str, size: float = 4) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}" fill-opacity="0.7"/>'


def ends(values: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest with a tenth of their distance around, and 0 where it is near."""
    low, high = min(values), max(values)
    room = 0.1 * (high - low)
    return (0.0 if 0 <= low < 0.3 * high else low - room), high + room


def of(trials: Sequence[Trial], name: str) -> list[float]:
    return [each.readings[name] for each in trials if name in each.readings]


def plane(title: str, runs: Runs, across: tuple[str, str], up: tuple[str, str], *, size: float = 420) -> str:
    """Two readings, each a pair of its name and what is written at its axis: a dot a seed, a ring at a row's mean."""
    places = [ends([value for trials in runs.values() for value in of(trials, name)]) for name, _ in (across, up)]
    x = scale(*places[0], SIDE, SIDE + size)
    y = scale(*places[1], TOP + size, TOP)
    parts = [f'<path d="M{SIDE} {TOP}V{TOP + size}H{SIDE + size}" fill="none" stroke="#888"/>',
             text(SIDE + size, TOP + size + 34, across[1], 'text-anchor="end"'), text(8, TOP - 10, up[1])]  # fmt: skip
    parts += [text(x(value), TOP + size + 16, f"{value:.3g}", 'text-anchor="middle"') for value in places[0]]
    parts += [text(SIDE - 6, y(value) + 4, f"{value:.3g}", 'text-anchor="end"') for value in places[1]]
    for number, (label, trials) in enumerate(runs.items()):
        colour = ROWS[number % len(ROWS)]
        points = [(each.readings[across[0]], each.readings[up[0]]) for each in trials]
        parts += [dot(x(a), y(b), colour) for a, b in points]
        a, b = (statistics.fmean(point[axis] for point in points) for axis in (0, 1))
        parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="9" fill="none" stroke="{colour}" stroke-width="3"/>',
                  dot(SIDE + size + 24, TOP + 20 * number, colour, 6),
                  text(SIDE + size + 36, TOP + 4 + 20 * number, label)]  # fmt: skip
    return document(SIDE + size + LEGEND, TOP + size + FOOT, title, parts)


def panels(title: str, runs: Runs, names: Mapping[str, str], *, wide: float = 90, tall: float = 220) -> str:
    """One panel for each reading: a row's seeds as dots over its name, their mean as a bar."""
    parts = []
    for panel, (name, heading) in enumerate(names.items()):
        left = SIDE + panel * (wide * len(runs) + SIDE)
        low, high = ends([0.0, *(value for trials in runs.values() for value in of(trials, name))])
        y = scale(low, high, TOP + 10 + tall, TOP + 10)
        parts += [text(left, TOP, heading, 'font-weight="bold"'),
                  f'<path d="M{left} {y(0.0):.1f}h{wide * len(runs)}" stroke="#888"/>']  # fmt: skip
        parts += [text(left - 6, y(value) + 4, f"{value:.3g}", 'text-anchor="end"') for value in (0.0, high)]
        for number, (label, trials) in enumerate(runs.items()):
            x, values, colour = left + wide * (number + 0.5), of(trials, name), ROWS[number % len(ROWS)]
            mean = statistics.fmean(values)
            parts += [dot(x, y(value), colour, 5) for value in values]
            parts += [f'<path d="M{x - 18:.1f} {y(mean):.1f}h36" stroke="{colour}" stroke-width="3"/>',
                      text(x, TOP + tall + 30, label, 'text-anchor="middle"')]  # fmt: skip
    return document(SIDE + len(names) * (wide * len(runs) + SIDE), TOP + tall + FOOT, title, parts)


def maps(title: str, runs: Runs, across: str, down: str, panel: str, shown: Mapping[str, str]) -> str:
    """A map of verdicts for each level of `panel`: columns are the levels of `across`, rows those of `down`; in a cell
    the commonest verdict, how many of its runs reached it, and the means of `shown`. Rows of `runs` are named by their
    overrides, such as `capacity=4 latent_dim=8`."""
    set_ = [(dict(part.split("=") for part in label.split()), trials) for label, trials in runs.items()]
    (columns, at), (lines, on), (boards, under) = (
        knobs.levels(key, [float(point[key]) for point, _ in set_]) for key in (across, down, panel)
    )
    parts, wide, tall = [], 96.0, 54.0
    for board, level in enumerate(boards):
        left = SIDE + 20 + board * (wide * len(columns) + SIDE)
        parts += [text(left, TOP + 4, f"{panel} {level}", 'font-weight="bold"')]
        parts += [text(left + wide * (i + 0.5), TOP + 24 + tall * len(lines) + 16, f"{across} {word}",
                       'text-anchor="middle"') for i, word in enumerate(columns)]  # fmt: skip
        here = [i for i, place in enumerate(under) if place == board]
        words = [(at[i], on[i], trial) for i in here for trial in set_[i][1]]
        counts = knobs.phase([x for x, _, _ in words], [y for _, y, _ in words], [t.verdict for _, _, t in words])
        for (x, y), found in counts.items():
            trials = [trial for a, b, trial in words if (a, b) == (x, y)]
            parts += cell(left + wide * x, TOP + 24 + tall * y, wide, tall, found, trials, shown)
    parts += [text(8, TOP + 24 + tall * (i + 0.5), f"{down.replace('latent_dim', 'units')} {word}")
              for i, word in enumerate(lines)]  # fmt: skip
    width = SIDE + 20 + len(boards) * (wide * len(columns) + SIDE)
    return document(width, TOP + 24 + tall * len(lines) + FOOT, title, parts)


def cell(
    x: float, y: float, wide: float, tall: float, found: Counter, trials: Sequence[Trial], shown: Mapping[str, str]
) -> list[str]:
    (word, number), *_ = found.most_common()
    colour, short = STATES.get(word, UNKNOWN)
    said = short + (f" {number}/{len(trials)}" if len(trials) > 1 else "")
    middle = 'text-anchor="middle"'
    lines = [f"{heading} {statistics.fmean(of(trials, name)):.2g}" for name, heading in shown.items()]
    return [f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide - 3:.0f}" height="{tall - 3:.0f}" fill="{colour}" '
            f'fill-opacity="0.55"><title>{word}</title></rect>',
            *(text(x + wide / 2, y + 15 + 15 * i, line, middle) for i, line in enumerate([said, *lines]))]  # fmt: skip
