"""Text from files: what any format holds comes out the same, and what is wrong with one is said in a sentence."""

import csv
import json
import logging
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA

from vaecollapse.datasets.buckets import wasted
from vaecollapse.datasets.tables import read_table
from vaecollapse.datasets.text import TextData
from vaecollapse.datasets.text_files import GSM8KData, QAData, TextLinesData
from vaecollapse.refusal import Refused

ROWS = [
    {"question": "Say «Ω», \"twice\".", "answer": "Ω,\nΩ", "n": "1.50"},
    {"question": "a; b\tc | d", "answer": " spaces kept \r\n", "n": "-7"},
    {"question": "\U0001f937\u2028 and \x85?", "answer": "\t'", "n": "3"},
    *({"question": f"{n} + 1", "answer": str(n + 1), "n": str(n)} for n in range(40)),
]  # fmt: skip
NUMBERS = {name: "question" if name == "prompt" else name for name in ("prompt", "answer", "n")}


def write(file: Path, rows: list[dict]) -> Path:
    """The rows as the suffix says."""
    if file.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        typed = [{**row, "n": float(row["n"])} for row in rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(typed), file)
    elif file.suffix == ".jsonl":
        said = [json.dumps({**row, "n": 0}).replace('"n": 0', f'"n": {row["n"]}') for row in rows]
        file.write_text("\n\n".join(said) + "\n", encoding="utf-8")
    else:
        with file.open("w", newline="", encoding="utf-8-sig") as opened:  # with a byte-order mark
            writer = csv.DictWriter(opened, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ";")
            writer.writeheader()
            writer.writerows(rows)
    return file


def table(tmp_path: Path, text: str | bytes, name: str = "t.csv") -> Path:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path / name


def qa(path: object, **settings: object) -> QAData:
    return QAData(**{"path": str(path), "tokenizer": "bytes", **settings})


def told(data: TextData, split: str) -> list[tuple[str, str]]:
    batch = data.examples(split, 10_000)
    return list(zip(data.prompt_text(batch.context), data.text(batch.x), strict=True))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_tells_the_same(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"t.{suffix}", ROWS)
    cells = [cells for _, cells in read_table(file, NUMBERS, encoding="utf-8")]
    assert [tuple(each[:2]) for each in cells] == [(row["question"], row["answer"]) for row in ROWS]
    numbers = [float(row["n"]) for row in ROWS]
    assert [float(each[2]) for each in cells] == numbers
    assert suffix == "parquet" or [each[2] for each in cells] == [row["n"] for row in ROWS]
    data = qa(file)
    every = [pair for split in ("train", "validation", "test") for pair in told(data, split)]
    assert sorted(every) == sorted((row["question"], row["answer"]) for row in ROWS)
    assert data.fingerprint()["files"] == 1
    assert data.fingerprint()["bytes"] == file.stat().st_size


def test_several_files_and_patterns_are_one_set_and_each_is_read_once(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.csv", ROWS[:20]), write(tmp_path / "b.jsonl", ROWS[20:])
    whole = qa(write(tmp_path / "whole.csv", ROWS))
    again = tmp_path / ".." / tmp_path.name / "a.csv"
    for path in ([str(first), str(second)], [str(tmp_path / "[ab].*"), str(first), str(again)]):
        data = QAData(path=path, tokenizer="bytes")
        assert data.fingerprint()["files"] == 2
        assert data.fingerprint()["hash"] == whole.fingerprint()["hash"]
        assert told(data, "test") == told(whole, "test")


def test_no_question_is_in_two_splits_nor_what_shares_a_group(tmp_path: Path) -> None:
    rows = [{"question": f"{n % 30}  ?" if n % 2 else f"{n % 30} ?", "answer": str(n), "topic": str(n % 30 // 3)}
            for n in range(120)]  # fmt: skip
    file = write(tmp_path / "t.csv", rows)
    for column, key in ((None, lambda asked: asked.split()[0]), ("topic", lambda asked: int(asked.split()[0]) // 3)):
        data = qa(file, group=column, val_fraction=0.2)
        sets = [{key(asked) for asked, _ in told(data, split)} for split in ("train", "validation", "test")]
        assert sum(map(len, sets)) == len(set.union(*sets))
        assert all(sets)


def test_given_splits_are_kept_and_validation_is_held_out_where_there_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["Train", "dev", "test"]
    rows = [{"question": f"q{n}", "answer": str(n), "part": names[n % 3]} for n in range(60)]
    parts = [told(qa(write(tmp_path / "t.csv", rows), split="part"), s) for s in ("train", "validation", "test")]
    assert [sorted(int(answer) % 3 for _, answer in part) for part in parts] == [[n] * 20 for n in range(3)]
    for row in rows:
        row["part"] = "test" if row["part"] == "test" else "train"
    rows += [{"question": asked, "answer": "again", "part": "train"} for asked in ("q2", "q5 ")]
    with caplog.at_level(logging.WARNING):
        held = qa(write(tmp_path / "u.csv", rows), split="part")
        sizes = [len(told(held, split)) for split in ("train", "validation", "test")]
    assert sizes == [38, 4, 20]
    assert "2 questions are in more than one of the given splits (such as q2)" in caplog.text


def test_a_group_in_two_given_splits_and_empty_prompts_are_said_with_their_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"question": f"q{n}" if n > 2 else " ", "answer": str(n), "topic": str(n // 8), "part": "train"}
            for n in range(24)]  # fmt: skip
    rows[-1]["part"] = "test"
    qa(write(tmp_path / "t.csv", rows), group="topic", split="part").setup()
    assert "1 groups are in more than one of the given splits (such as 2)" in caplog.text
    assert "3 of 24 prompts are empty" in caplog.text


def test_answers_alone_and_lines_have_no_prompt(tmp_path: Path) -> None:
    file = table(tmp_path, "\ufeffone\r\n\r\n \ntwo\u2028 and a half\n" + "three\n" * 3 + "four\nfive")
    data = TextLinesData(path=str(file), tokenizer="bytes", val_fraction=0.3, test_fraction=0.2)
    said = [data.text(data.examples(split, 99).x) for split in ("train", "validation", "test")]
    assert sorted(chain(*said)) == ["five", "four", "one", *["three"] * 3, "two\u2028 and a half"]
    assert sum("three" in part for part in said) == 1
    assert "context_shape" not in data.facts
    assert data.facts["context_length"] == data.facts["event_shape"][0] + 2
    bare = qa(write(tmp_path / "t.csv", ROWS), prompt=None)
    assert bare.examples("train", 2).context is None


def test_only_the_training_split_teaches_the_tokenizer(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "answer": "abcabc" if n < 40 else "zyxzyx", "split": "train" if n < 40 else "test"}
            for n in range(60)]  # fmt: skip
    data = qa(write(tmp_path / "t.csv", rows), split="split", tokenizer="bpe")
    known, unknown = data.tokenizer.encode(["abcabc", "zyxzyx"])
    assert (len(known), len(unknown)) == (1, 6)


@pytest.mark.parametrize(
    ("name", "text", "settings", "words"),
    [
        ("t.csv", "question,reply\na,b\n", {}, "answer=answer is no column of .*csv, which has question, reply: ty"),
        ("t.csv", "question,answer,answer\na,b,c\n", {}, "answer=answer is more than one column"),
        ("t.csv", "question,answer\n", {}, "has no rows below its header"),
        ("t.csv", "", {}, r"t\.csv has no rows: "),
        ("t.csv", "question,answer\na,b\nc,d,e\n", {}, "3 fields in line 3, not the 2 of its header"),
        ("t.csv", 'question,answer\na,b\nc,"d\ne\n', {}, "table from line 3 on"),
        ("t.csv", b"question,answer\na,caf\xc3\xa9\nb,caf\xe9\n", {}, r"byte 0xe9 in line 3 \(byte 29\).*latin-1"),
        ("t.csv", "question,answer\na,b\n".encode("utf-16"), {}, "type dataset.encoding=utf-16"),
        ("t.csv", "question,answer\na,b\n", {"encoding": "utf-99"}, "encoding=utf-99 is not known"),
        ("t.csv", "question,answer\na,b\n", {"encoding": "rot13"}, "encoding=rot13 is not known.*utf-8"),
        ("t.csv", "question,answer\na,b\n", {"encoding": "undefined"}, "encoding=undefined is not known"),
        ("t.csv", "question,answer\na,b\n", {"encoding": "a\0"}, "is not known"),
        ("t.csv", "question,answer\na,b\n", {"encoding": "punycode"}, "cannot be read as punycode"),
        ("t.csv", "question,answer\na,caf\xe9\n", {"encoding": "ascii"}, "no ascii.*dataset.encoding=utf-8"),
        ("t.csv", "question,answer\n" + "ab,cd\n" * 999, {"encoding": "utf-16"}, "which has .{60}…: type"),
        ("t.csv", ",".join(f"c{n}" for n in range(99)) + "\n", {}, "which has c0, .*, c39 and 59 more: type"),
        ("t.csv", "question,answer,s\n" + "a,b,train\n" * 3, {"split": "s"}, "1 group.*name the split of each row"),
        ("t.csv", "question,answer\n,a\n,b\n", {}, r"prompt=question is empty in all 2 rows.*prompt=null"),
        ("t.csv", "question,answer\na,\nb,c\nd, \n", {}, r"2 of 3 rows have no answer \(.*:2, .*:4\).*empty=skip"),
        ("t.csv", "question,answer\na,\n", {"empty": "skip"}, "1 of 1 rows have no answer"),
        ("t.csv", "question,answer\na,b\na,c\na,d\n", {}, r"3 rows are 1 group\(s\) of rows with the same question"),
        ("t.csv", "question,answer,s\na,b,test\nc,d,test\n", {"split": "s"}, "0 train, 0 val, 2 test rows"),
        ("t.csv", "question,answer,s\na,b,train\nc,d,later\n", {"split": "s"}, "csv:3 has the split 'later'.*train, v"),
        ("t.csv", "question,answer\na,b\n", {"prompt": "answer"}, "both answer"),
        ("t.csv", "question,answer\na,b\n", {"longest_prompt": 1}, "longest_prompt=1 tokens are too few"),
        ("t.jsonl", '{"question": "a", "answer": "b"}\n\n{"question": "a"\n', {}, r"no JSON in line 3 \("),
        ("t.jsonl", '{"question": "a", "answer": "b"}\n["c"]\n', {}, "a list in line 2, not an object"),
        ("t.jsonl", '{"question": "a", "answer": ["b"]}\n', {}, r"jsonl:1 has a list in answer"),
        ("t.jsonl", '{"question": "a", "answer": "\\ud83d"}\n', {}, r"half a character \(\\ud83d\) in answer"),
        ("t.jsonl", "[" * 100_000, {}, "no JSON in line 1"),
        ("t.parquet", "PAR1", {}, "cannot be read as Parquet"),
        ("t.xlsx", "", {}, r"suffix \.xlsx: give files of \.csv, \.tsv, \.jsonl"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(tmp_path: Path, name: str, text: str | bytes, settings: dict, words: str) -> None:
    file = table(tmp_path, text, name)
    with pytest.raises(Refused, match=words) as refused:
        qa(file, **settings).setup()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("absent.csv", r"absent\.csv names no file"),
        ("*.tsv", r"\*\.tsv names no file"),
        (".", r"is a folder: name its files, such as"),
        ("", "is empty: type"),
    ],
)
def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path, path: str, words: str) -> None:
    place = str(tmp_path / path) if path else ""
    for data in (qa(place), TextLinesData(path=place)):
        with pytest.raises(Refused, match=words):
            data.setup()
    with pytest.raises(Refused, match=r"no train\.jsonl and no test\.jsonl"):
        GSM8KData(root=str(tmp_path)).setup()


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_missing_column_names_those_there_are_in_every_format(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"t.{suffix}", ROWS)
    with pytest.raises(Refused, match=r"dataset\.answer=reply is no column of .*, which has question, answer, n: type"):
        qa(file, prompt=None, answer="reply").setup()


def test_parquet_without_its_library_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Refused, match=r"pip install 'vaecollapse\[text\]', or give the table as CSV"):
        qa(table(tmp_path, "", "t.parquet")).setup()


def test_null_and_numbers_are_text_and_empty_answers_can_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f'{{"question": {n}, "answer": {n}.50}}' for n in range(20)]
    lines += ['{"question": "a", "answer": null}', '{"question": "b", "answer": NaN}', '{"question": "b"}',
              '{"question": true, "answer": false}']  # fmt: skip
    file = table(tmp_path, "\n".join(lines), "t.jsonl")
    data = qa(file, empty="skip", test_fraction=0.0)
    pairs = dict(told(data, "train") + told(data, "validation"))
    assert pairs == {"true": "false", **{str(n): f"{n}.50" for n in range(20)}}
    assert data.left_out == [(f"{file}:{line}", "no answer") for line in (21, 22, 23)]
    assert "3 of 24 rows have no answer and are left out" in caplog.text


@pytest.mark.parametrize(("what", "kept"), [("prompt", "7890"), ("answer", "1234")])
def test_what_is_too_long_is_refused_or_cut_with_its_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str, kept: str
) -> None:
    rows = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(9)]
    rows.append({"question": "1234567890", "answer": "1234567890"})
    file = write(tmp_path / "t.csv", rows)
    limits = {f"longest_{what}": 4}
    with pytest.raises(Refused, match=f"1 of 10 {what}s are longer than dataset.longest_{what}=4 .*too_long=truncate"):
        qa(file, **limits).setup()
    data = qa(file, **limits, too_long="truncate")
    every = {pair[what == "answer"] for split in ("train", "validation", "test") for pair in told(data, split)}
    assert kept in every
    assert f"they lose their {'start' if what == 'prompt' else 'end'}" in caplog.text
    assert data.facts["context_shape" if what == "prompt" else "event_shape"] == (4,)


def test_gsm8k_comes_back_with_little_padding() -> None:
    folder = DATA / "gsm8k"
    if not folder.is_dir():
        pytest.skip(f"GSM8K is not at {folder}")
    gsm8k = GSM8KData(root=str(folder), tokenizer="bytes", longest_prompt=1024, longest_answer=1280)
    assert [len(split) for split in gsm8k.splits] == [6726, 747, 1319]
    given = [json.loads(line) for line in (gsm8k.root / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(told(gsm8k, "test")) == sorted((row["question"], row["answer"]) for row in given)
    order = [int(position) for position in gsm8k.train_dataloader().sampler]
    assert wasted(gsm8k.lengths(gsm8k.splits.train), np.array(order), gsm8k.batch_size) < 0.1


def test_the_final_answer_of_gsm8k_is_what_follows_the_marks(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "answer": f"so {n}+1 = {n + 1}\n#### {n + 1}"} for n in range(30)]
    for split in ("train", "test"):
        lines = "\n".join(json.dumps({**row, "question": split + row["question"]}) for row in rows)
        table(tmp_path, lines, f"{split}.jsonl")
    short, whole = (
        told(GSM8KData(root=str(tmp_path), answer=answer, tokenizer="bytes"), "test")
        for answer in ("final", "reasoning")
    )
    assert [(asked, said.rpartition(" ")[2]) for asked, said in whole] == short
    assert len({said for _, said in short}) == 30


def test_a_number_that_is_missing_in_parquet_is_no_answer(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    numbers = [float("nan"), *map(float, range(9))]
    table_ = pyarrow.table({"question": [f"q{n}" for n in range(10)], "answer": numbers})
    pyarrow.parquet.write_table(table_, tmp_path / "t.parquet")
    with pytest.raises(Refused, match=r"1 of 10 rows have no answer \(.*parquet:1\)"):
        qa(tmp_path / "t.parquet").setup()
