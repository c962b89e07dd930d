"""Questions and answers from tables, lines of plain text, and the grade-school problems of GSM8K."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ..refusal import Refused
from .tables import check_encoding, files_of, lines_of, read_table
from .text import SPLITS, Row, TextData

log = logging.getLogger(__name__)

Paths = str | Path | Sequence[str]
NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
         "test": "test"}  # fmt: skip


class FileData(TextData):
    """Text from files, which are in `encoding`."""

    def __init__(
        self,
        *,
        encoding: str,
        tokenizer: str,
        vocab: int | None,
        longest_prompt: int | None,
        longest_answer: int,
        too_long: str,
        empty: str,
        buckets: bool,
        val_fraction: float,
        test_fraction: float,
        batch_size: int,
        seed: int,
        num_workers: int,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            vocab=vocab,
            longest_prompt=longest_prompt,
            longest_answer=longest_answer,
            too_long=too_long,
            empty=empty,
            buckets=buckets,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
        )
        check_encoding(encoding)
        self.encoding = encoding
        self.files: list[Path] = []

    def source(self) -> tuple[int, int]:
        return len(self.files), sum(file.stat().st_size for file in self.files)


class QAData(FileData):
    """Prompts and answers, a row of a table each (.csv, .tsv, .jsonl, .parquet, by suffix).

    path: one file, several, or patterns (`data/*.csv`). prompt, answer: names of columns; prompt=None for answers
    alone. split: a column of train | val | test; where it has no val, `val_fraction` of train is held out. Without it
    rows are divided so that no prompt is in two splits, nor anything of the column `group`.
    """

    def __init__(
        self,
        *,
        path: Paths,
        prompt: str | None = "question",
        answer: str = "answer",
        group: str | None = None,
        split: str | None = None,
        encoding: str = "utf-8",
        tokenizer: str = "bpe",
        vocab: int | None = None,
        longest_prompt: int = 512,
        longest_answer: int = 512,
        too_long: str = "refuse",
        empty: str = "refuse",
        buckets: bool = True,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            encoding=encoding,
            tokenizer=tokenizer,
            vocab=vocab,
            longest_prompt=longest_prompt,
            longest_answer=longest_answer,
            too_long=too_long,
            empty=empty,
            buckets=buckets,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
        )
        if prompt == answer:
            raise Refused(f"dataset.prompt and dataset.answer are both {answer}: name two columns, or prompt=null")
        self.path = path
        columns = {"prompt": prompt, "answer": answer, "group": group, "split": split}
        self.columns = {key: name for key, name in columns.items() if name is not None}

    def rows(self) -> list[Row]:
        self.files = files_of(self.path)
        rows = [row for file in self.files for row in self._of(file)]
        if "prompt" in self.columns and not any((row.prompt or "").strip() for row in rows):
            raise Refused(
                f"dataset.prompt={self.columns['prompt']} is empty in all {len(rows)} rows: name another column, or "
                "type dataset.prompt=null"
            )
        if blank := sum(row.prompt is not None and not row.prompt.strip() for row in rows):
            log.warning("%d of %d prompts are empty; they count as one question", blank, len(rows))
        return rows

    def _of(self, file: Path) -> list[Row]:
        rows = []
        for place, cells in read_table(file, self.columns, encoding=self.encoding):
            row = dict(zip(self.columns, cells, strict=True))
            groups = (_question(row.get("prompt", row["answer"])), *([row["group"]] if row.get("group") else []))
            split = _split(row["split"], place) if "split" in row else ""
            rows.append(Row(row["answer"], row.get("prompt"), place, groups, split))
        return rows


def _question(text: str) -> str:
    """What is the same question however it is spaced."""
    return " ".join(text.split())


def _split(written: str, place: str) -> str:
    name = NAMES.get(written.strip().lower())
    if name is None:
        raise Refused(f"{place} has the split {written!r}: write {', '.join(SPLITS)}")
    return name


class TextLinesData(FileData):
    """Plain text without prompts: each line that is not blank is an example, equal lines are in one split.

    path: one file, several, or patterns (`data/*.txt`).
    """

    def __init__(
        self,
        *,
        path: Paths,
        encoding: str = "utf-8",
        tokenizer: str = "bpe",
        vocab: int | None = None,
        longest_answer: int = 512,
        too_long: str = "refuse",
        buckets: bool = True,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            encoding=encoding,
            tokenizer=tokenizer,
            vocab=vocab,
            longest_prompt=None,
            longest_answer=longest_answer,
            too_long=too_long,
            empty="refuse",
            buckets=buckets,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
        )
        self.path = path

    def rows(self) -> list[Row]:
        self.files = files_of(self.path)
        lines = [(file, *line) for file in self.files for line in lines_of(file, self.encoding)]
        if not lines:
            raise Refused(f"dataset.path={self.path} has no line that is not blank: give a file of text")
        return [Row(line, None, f"{file}:{number}", (line,)) for file, number, line in lines]


class GSM8KData(FileData):
    """The grade-school problems of Cobbe et al. 2021: train.jsonl and test.jsonl in `root`, with `question` and
    `answer`, whose last line is `#### n`. Validation questions are held out of train.jsonl.

    answer: reasoning (the whole of it) | final (n alone).
    """

    def __init__(
        self,
        *,
        root: str | Path,
        answer: str = "reasoning",
        tokenizer: str = "bpe",
        vocab: int | None = None,
        longest_prompt: int = 512,
        longest_answer: int = 512,
        too_long: str = "refuse",
        empty: str = "refuse",
        buckets: bool = True,
        val_fraction: float = 0.1,
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            encoding="utf-8",
            tokenizer=tokenizer,
            vocab=vocab,
            longest_prompt=longest_prompt,
            longest_answer=longest_answer,
            too_long=too_long,
            empty=empty,
            buckets=buckets,
            val_fraction=val_fraction,
            test_fraction=0.0,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
        )
        if answer not in ("reasoning", "final"):
            raise Refused(f"dataset.answer={answer} is not known: type dataset.answer=reasoning or final")
        self.root, self.answer = Path(os.path.expanduser(root)), answer

    def rows(self) -> list[Row]:
        named = {split: self.root / f"{split}.jsonl" for split in ("train", "test")}
        if missing := [file.name for file in named.values() if not file.is_file()]:
            raise Refused(
                f"dataset.root={self.root} has no {' and no '.join(missing)}: type dataset.root=path/to/gsm8k, the "
                "folder of both"
            )
        self.files = list(named.values())
        return [row for split, file in named.items() for row in self._of(file, split)]

    def _of(self, file: Path, split: str) -> list[Row]:
        table = read_table(file, {"prompt": "question", "answer": "answer"}, encoding=self.encoding)
        return [Row(self._said(said), asked, place, (_question(asked),), split) for place, (asked, said) in table]

    def _said(self, answer: str) -> str:
        return answer if self.answer == "reasoning" else answer.partition("####")[2].strip()
