"""Text data on real questions: learning byte pairs, padding with and without buckets, and how fast batches come.

    OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false python benchmarks/text_data.py path/to/gsm8k

`gsm8k` is the folder of train.jsonl and test.jsonl. Padding is the share of padded tokens over an epoch of training,
prompts and answers together, each batch as long as its longest. Seconds are the processor's.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vaecollapse.datasets.buckets import wasted
from vaecollapse.datasets.text_files import GSM8KData
from vaecollapse.datasets.tokenizers import BPE

SIZES = (16, 32, 64)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    done = work()
    return time.process_time() - began, done


def padding(root: str, tokenizer: str, answer: str) -> str:
    """A row: padding of an epoch by batch size, with and without buckets."""
    cells = []
    data = GSM8KData(root=root, tokenizer=tokenizer, answer=answer, longest_prompt=2048, longest_answer=2048)
    lengths = data.splits.train.lengths  # type: ignore[attr-defined]
    for data.batch_size in SIZES:
        for data.buckets in (True, False):
            order = np.array([int(position) for position in data.train_dataloader().sampler])
            cells.append(f"{100 * wasted(lengths, order, data.batch_size):.1f}")
    return f"| {tokenizer}, {answer} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gsm8k")
    root = parser.parse_args().gsm8k
    data = GSM8KData(root=root)
    rows = [row for row in data.rows() if row.split == "train"]
    texts = [text for row in rows for text in (row.prompt, row.answer) if text]
    learned, tokenizer = seconds(lambda: BPE.trained(texts, 2048))
    told, tokens = seconds(lambda: tokenizer.encode(texts))
    size = sum(len(text.encode()) for text in texts)
    count = sum(map(len, tokens))
    print(f"2048 tokens learned from {len(rows)} problems, {size / 1e6:.1f} MB, in {learned:.1f} s")
    print(f"encoded in {told:.1f} s, {size / count:.2f} bytes per token")
    setting_up, _ = seconds(data.setup)
    loader = data.train_dataloader()
    passing, seen = seconds(lambda: [(len(batch.x), int(batch.mask.sum())) for batch in loader])
    examples, spoken = map(sum, zip(*seen, strict=True))
    print(f"set up in {setting_up:.1f} s")
    print(f"batches of {data.batch_size}: {examples / passing:.0f} examples, {spoken / passing:.0f} tokens per second")
    columns = [f"{size}{'' if bucketed else ', none'}" for size in SIZES for bucketed in (True, False)]
    print(f"| padding, % | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for tokenizer, answer in (("bpe", "reasoning"), ("bpe", "final"), ("bytes", "reasoning")):
        print(padding(root, tokenizer, answer))


if __name__ == "__main__":
    main()
