"""The W&B workspace as code: python -m vaecollapse.dashboard entity=… project=… [x=beta y=free_bits name=… out=…]

Saves a workspace of a project's runs; that needs a key (`wandb login`). With `out=FILE` what would be saved is written
there as JSON, and nothing is sent. Its panels show only what runs with `logger=wandb` log.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .files import whole
from .prescriptions import MEANING, STATES
from .refusal import Refused

TYPED = {"entity": "", "project": "vaecollapse", "name": "collapse", "x": "beta", "y": "free_bits", "out": ""}
EXTRA = "the workspace comes with an extra: pip install -c constraints.txt '.[dashboard]'"
STEP, VERDICT, GAP, RANK = "trainer/global_step", "collapse/verdict", "val/latent/gap", "val/latent/information_rank"
RATE, DISTORTION, SELECTION = "val/latent/rate", "val/distortion", "val/selection"
# the report's colours: Okabe and Ito's
COLOURS = {
    "posterior_collapse": "#D55E00",
    "fake_rate": "#E69F00",
    "bypassed_latent": "#CC79A7",
    "overfit": "#CC79A7",
    "decoder_variance_collapse": "#0072B2",
    "variance_collapse": "#0072B2",
    "prior_hole": "#56B4E9",
    "over_compressed": "#56B4E9",
    "partial_collapse": "#F0E442",
    "underfit": "#E69F00",
    "inert_penalty": "#F0E442",
    "rate_pinned": "#F0E442",
    "diverged": "#000000",
    "too_early": "#999999",
    "healthy": "#009E73",
    "inconclusive": "#999999",
}


def typed(argv: Sequence[str]) -> dict[str, str]:
    """What the command line says. Raises Refused where it cannot be meant."""
    said = {name: value for name, _, value in (word.partition("=") for word in argv)}
    if unknown := [word for word in argv if word.partition("=")[0] not in TYPED or not word.partition("=")[2]]:
        raise Refused(f"{unknown[0]} is not known: type some of {', '.join(f'{name}=…' for name in TYPED)}")
    if not said.get("entity") and not said.get("out"):
        raise Refused("entity has no value: type entity=…, a W&B user or team, or out=workspace.json to write a file")
    return TYPED | said


def workspace(*, entity: str, project: str, name: str, x: str, y: str) -> Any:
    """A wandb_workspaces Workspace of a project's runs; `x` and `y` are the knobs of its phase diagram."""
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces import expr
    except ImportError as error:
        raise Refused(EXTRA) from error
    lowest = expr.Ordering(expr.Summary(SELECTION), ascending=True)
    columns = ["verdict", "confidence", GAP, RANK, RATE, DISTORTION, SELECTION]
    pinned = [*(f"summary:{each}" for each in columns), f"config:{x}", f"config:{y}"]
    parts = {"Verdicts": verdicts(wr, x, y), "Latent": latent(wr), "Objective": objective(wr), "Samples": samples(wr)}
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        auto_generate_panels=False,
        sections=[ws.Section(name=each, panels=panels, is_open=True) for each, panels in parts.items()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(order=[lowest], pinned_columns=pinned),
    )


def verdicts(wr: Any, x: str, y: str) -> list[Any]:
    """The table of verdicts, the phase diagram, the rate–distortion plane, and what the colours mean."""
    last = len(STATES) - 1
    gradient = [wr.GradientPoint(color=COLOURS[word], offset=100 * i / last) for i, word in enumerate(STATES)]
    coloured = {"z": wr.SummaryMetric(VERDICT), "range_z": (0, last), "gradient": gradient,
                "legend_template": "${run:displayName} ${summary:verdict}"}  # fmt: skip
    plane = {"x": wr.SummaryMetric(RATE), "y": wr.SummaryMetric(DISTORTION)}
    ends = [*(wr.Config(knob) for knob in (x, y, "latent_dim", "lr")),
            *(wr.SummaryMetric(each) for each in (RATE, RANK, GAP, SELECTION, VERDICT))]  # fmt: skip
    columns = [wr.ParallelCoordinatesPlotColumn(each) for each in ends]
    key = "\n".join(f"- {i} **{word}**: {MEANING[word]}" for i, word in enumerate(STATES))
    return [
        wr.WeavePanelSummaryTable(table_name="verdict/table", layout=wr.Layout(w=24, h=10)),
        wr.ScatterPlot(title=f"phase diagram: {x}, {y}", x=wr.Config(x), y=wr.Config(y), log_x=True, **coloured),
        wr.ScatterPlot(title="rate and distortion", **plane, **coloured),
        wr.ParallelCoordinatesPlot(title="knobs to verdicts", gradient=gradient, columns=columns),
        wr.MarkdownPanel(markdown=f"`{VERDICT}` is the place of the verdict in this list:\n{key}"),
    ]


def latent(wr: Any) -> list[Any]:
    """What z is worth and how much of it is alive, over the steps; the KL of each unit; the evidence of each run."""
    lines = {
        "value of z": [GAP, "train/latent/gap"],
        "information rank": [RANK],
        "rate R and I(x; z), nats": [RATE, "val/latent/mi"],
        "active and dead units": ["val/latent/active_units", "val/latent/dead_units"],
        "verdict and alarm": [VERDICT, "collapse/alarm"],
    }
    return [
        *plots(wr, lines),
        wr.MediaBrowser(title="KL of each unit", media_keys=["val/units/kl_map"], num_columns=2),
        wr.WeavePanelSummaryTable(table_name="verdict/readings", layout=wr.Layout(w=24, h=10)),
    ]


def objective(wr: Any) -> list[Any]:
    """The loss's terms and the weights that were applied."""
    lines = {
        "distortion D": ["train/distortion", DISTORTION],
        "objective and its penalty": ["train/objective/total", "train/objective/penalty"],
        "weight of the KL, applied and declared": ["train/objective/weight_applied", "train/objective/weight_declared"],
        "selection value": [SELECTION],
        "learning rate": ["train/lr"],
    }
    return plots(wr, lines)


def plots(wr: Any, lines: dict[str, list[str]]) -> list[Any]:
    return [wr.LinePlot(title=title, x=STEP, y=list(names)) for title, names in lines.items()]


def samples(wr: Any) -> list[Any]:
    """What a run has to hear, to look at or to read."""
    kinds = {"examples": ["examples"], "spectrograms": ["spectrograms"], "sounds": ["real", "reconstruction", "prior"]}
    media = [
        wr.MediaBrowser(title=title, media_keys=[f"samples/{name}" for name in names]) for title, names in kinds.items()
    ]
    return [*media, wr.WeavePanelSummaryTable(table_name="samples/examples", layout=wr.Layout(w=24, h=10))]


def write(board: Any, file: Path) -> None:
    """What would be saved, as JSON: of the library's own private form, of the version that constraints.txt pins."""
    with whole(file) as temporary:
        temporary.write_text(json.dumps(board._spec, indent=1) + "\n", encoding="utf-8")


def save(board: Any) -> str:
    """Sends it; returns its address. Raises Refused where W&B does not take it."""
    import wandb

    try:
        return board.save().url
    except (wandb.Error, ValueError, OSError) as error:
        why = (str(error).splitlines() or ["no reason given"])[0]
        raise Refused(f"W&B did not take it ({why}): log in with `wandb login`, or write a file with out=…") from error


def main(argv: Sequence[str]) -> int:
    try:
        said = typed(argv)
        out = said.pop("out")
        board = workspace(**said | {"entity": said["entity"] or "entity"})
        if out:
            write(board, Path(out))
        print(out or save(board))
    except (Refused, OSError) as error:
        print(f"vaecollapse.dashboard: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
