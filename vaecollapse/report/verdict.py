"""What a run said of itself: its verdict with the evidence, so far or at the end, and its events."""

import json
from collections.abc import Mapping
from typing import Any

from .. import loading
from ..labels import BESIDE, written
from ..prescriptions import MEANING, STATES
from .series import is_number

TEXTS = ("mechanisms", "findings", "refuted", "missing")
LONGEST_TEXT = 2000  # characters of an event
COUNTS = ("information_rank",)  # of directions: the size that matters is of each one's nats, on no axis of counts
Record = dict[str, Any]


def shown(content: Mapping) -> Record | None:
    """What of a verdict.json is shown; None where it is no verdict of this version."""
    try:
        if content["verdict"] not in STATES or content["confidence"] not in ("high", "medium", "low"):
            return None
        readings = {str(name): cells(str(name), reading) for name, reading in content["readings"].items()}
        deciding = [str(name) for name in content["deciding"]]
        others = [name for name in readings if name not in deciding and name not in BESIDE]
        found = {key: [str(line) for line in content[key]] for key in TEXTS}
        values = {str(name): each["value"] for name, each in content["readings"].items() if is_number(each["value"])}
        commands = [[p["command"], str(p["why"])] for p in content["prescriptions"] if loading.is_ours(p["command"])]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    absent = {name: list(written(name, None, None, None, "undefined", "")) for name in deciding}
    return {
        "verdict": content["verdict"],
        "confidence": content["confidence"],
        "meaning": MEANING[content["verdict"]],
        "deciding": [readings.get(name, absent[name]) for name in deciding],
        "beside": [readings[n] for n in BESIDE if n in readings and n not in deciding and told(readings[n])],
        "others": [readings[n] for n in others if told(readings[n])],
        **found,
        "commands": commands,
        "values": values,
        "limits": {
            f"val/latent/{name}": r["threshold"]
            for name, r in content["readings"].items()
            if name not in COUNTS and r["status"] != "measured" and is_number(r["threshold"])
        },
    }


def told(row: list[str]) -> bool:
    """Is there something to say? (Without a flow the KL per unit is exact.)"""
    return row[1] != "–" and row[4] != "exact"


def cells(name: str, reading: Mapping) -> list[str]:
    value, se, threshold = (reading[key] for key in ("value", "se", "threshold"))
    value, se, threshold = (each if is_number(each) else None for each in (value, se, threshold))
    return list(written(name, value, se, threshold, str(reading["status"]), str(reading["note"])))


def partial(last: Mapping, series: Mapping) -> Record:
    """What a run that has not ended has said so far: its last verdict, and its last readings."""
    state = last.get("to", "too_early")
    state = state if state in STATES else "inconclusive"
    latest = {name.removeprefix("val/latent/"): values[-1] for name, (_, values) in series.items()
              if name.startswith("val/latent/")}  # fmt: skip
    row = {name: list(written(name, value, None, None, "measured", "so far")) for name, value in latest.items()}
    deciding = [row[name] for name in ("gap", "rate", "information_rank") if name in row]
    said = last.get("findings")
    return {
        "verdict": state, "confidence": "low", "meaning": MEANING[state], "deciding": deciding,
        "beside": [row[name] for name in BESIDE if name in row and row[name] not in deciding], "others": [],
        "mechanisms": [], "findings": [str(line) for line in said] if isinstance(said, list) else [], "refuted": [],
        "missing": ["the end of training, or its checkpoint measured now: vaecollapse-diagnose measure=true"],
        "commands": [], "limits": {}, "values": {name: value for name, value in latest.items() if value is not None},
    }  # fmt: skip


def event_row(event: Mapping) -> list[Any]:
    """[step, kind, text]."""
    step, word = event.get("step"), str(event.get("event", ""))
    if word == "alarm":
        text = str(event.get("alarm", ""))
    elif word == "verdict":
        said = event.get("findings")
        text = "; ".join([str(event.get("to")), *map(str, said if isinstance(said, list) else [])])
    else:
        rest = {key: value for key, value in event.items() if key not in ("step", "epoch", "event")}
        words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in rest.items()}
        text = ", ".join(f"{key} {word}" for key, word in words.items())
    return [step if is_number(step) else None, word, text[:LONGEST_TEXT]]
