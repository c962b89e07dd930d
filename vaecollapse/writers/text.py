"""Samples of text: to be read, and line by line for a program."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from ..files import append
from .base import Made, Seen, Writer

Words = Callable[[Int[Tensor, "rows time"]], list[str]]  # of each row of tokens


class TextWriter(Writer):
    """`samples.txt`, each sample under its number and prompt, and `samples.jsonl`, one object each; of a format that is
    asked for, that alone. `text` and `prompt_text` turn tokens into text."""

    formats = ("txt", "jsonl")
    glances = True

    def __init__(self, folder: Path, form: str | None = None, *, text: Words, prompt_text: Words) -> None:
        super().__init__(folder, form)
        self.kinds = self.formats if form is None else (form,)
        self.text, self.prompt_text = text, prompt_text

    @property
    def first(self) -> Path:
        return self.folder / f"samples.{self.kinds[0]}"

    def add(self, made: Made) -> None:
        rows = self.rows(made)
        if "jsonl" in self.kinds:
            lines = [{"number": made.start + place, **row} for place, row in enumerate(rows)]
            append(
                self.folder / "samples.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            )
        if "txt" in self.kinds:
            append(
                self.folder / "samples.txt", "".join(page(made.start + place, row) for place, row in enumerate(rows))
            )

    def rows(self, made: Made) -> list[dict[str, str]]:
        """The texts of each sample by column, the prompt first."""
        columns = {name: self.text(torch.from_numpy(tokens)) for name, tokens in made.columns.items()}
        if made.context is not None:
            columns = {"prompt": self.prompt_text(torch.from_numpy(made.context)), **columns}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def seen(self, made: Made) -> Seen:
        return Seen(texts=[{name: readable(text) for name, text in row.items()} for row in self.rows(made)])

    def finish(self) -> None:
        """Nothing is held."""


def page(number: int, row: dict[str, str]) -> str:
    """One sample as it is read: its columns side by side, further lines of a text under the first.

    >>> print(page(7, {"prompt": "2 + 3", "draw_1": "five\\nor 5"}), end="")
    000007
      prompt  2 + 3
      draw 1  five
              or 5
    <BLANKLINE>
    """
    width = max(map(len, row))
    lines = [f"{number:06d}"]
    for name, text in row.items():
        head, *rest = readable(text).split("\n")
        lines += [f"  {name.replace('_', ' '):<{width}}  {head}", *(f"{'':{width + 4}}{line}" for line in rest)]
    return "\n".join(line.rstrip() for line in lines) + "\n\n"


def readable(text: str) -> str:
    """Without what would steer a terminal: a model may write anything."""
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)
