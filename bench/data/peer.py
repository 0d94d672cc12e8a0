"""What others do, in the environment of peers: `python peer.py datasketch|text-dedup|datasets documents.json [folder]`.

Prints {"seconds": CPU time, and "groups": the group of each document, or "tokens"}; reading is not counted.
"""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BANDS, ROWS = 42, 6
WIDTH = 5
LENGTH = 2048


def by_datasketch(texts: list[str]) -> list[int]:
    """Join each document with what datasketch's index, of as many bands, finds for it."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    roots = list(range(len(texts)))
    word = re.compile(r"\w+")
    for number, text in enumerate(texts):
        words = word.findall(text)
        shingles = {
            " ".join(words[place : place + WIDTH]).encode() for place in range(max(1, len(words) - WIDTH + 1))
        }
        signature = MinHash(num_perm=BANDS * ROWS)
        signature.update_batch(shingles)
        for other in index.query(signature):
            join(roots, number, other)
        index.insert(number, signature)
    return [root(roots, number) for number in range(len(texts))]


def by_text_dedup(texts: list[str]) -> list[int]:
    """Join what shares a band, with text-dedup's own hashing of a document and its union-find, on one process."""
    from collections import defaultdict

    from text_dedup.minhash import embed_func
    from text_dedup.utils import UnionFind, xxh3_32hash

    prime, limit = np.uint32((1 << 32) - 5), np.uint32((1 << 32) - 1)
    rng = np.random.RandomState(42)
    count = BANDS * ROWS
    permutations = (
        rng.randint(1, prime, size=count, dtype=np.uint32),
        rng.randint(0, prime, size=count, dtype=np.uint32),
    )
    ranges = [(band * ROWS, (band + 1) * ROWS) for band in range(BANDS)]
    tables: list[dict[bytes, set[int]]] = [defaultdict(set) for _ in ranges]
    for number, text in enumerate(texts):
        found = embed_func(
            text, number, num_perm=count, ngram_size=WIDTH, min_length=1, hashranges=ranges, permutations=permutations,
            hash_func=xxh3_32hash, dtype=np.uint32, max_hash=limit, modulo_prime=prime,
        )  # fmt: skip
        for key, table in zip(found["__signatures__"], tables, strict=True):
            table[key].add(number)
    groups = UnionFind()
    for table in tables:
        for cluster in table.values():
            for other in cluster:
                groups.union(min(cluster), other)
    return [groups.find(number) for number in range(len(texts))]


def by_datasets(texts: list[str], folder: str) -> int:
    """Tokenise with datasets.map in batches, and cut the concatenation into rows, as Transformers' examples do."""
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    datasets.disable_caching()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokenise(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        ids = tokenizer(batch["text"], add_special_tokens=False)["input_ids"]
        return {"input_ids": [[*row, tokenizer.eos_token_id] for row in ids]}

    def group(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = [number for row in batch["input_ids"] for number in row]
        return {"input_ids": [joined[place : place + LENGTH] for place in range(0, len(joined), LENGTH)]}

    rows = datasets.Dataset.from_dict({"text": texts})
    rows = rows.map(tokenise, batched=True, remove_columns=["text"]).map(group, batched=True)
    return sum(len(row) for row in rows["input_ids"])


def root(roots: list[int], number: int) -> int:
    """Return the least number of a document's group."""
    while roots[number] != number:
        number = roots[number]
    return number


def join(roots: list[int], one: int, other: int) -> None:
    """Make one group of two."""
    one, other = root(roots, one), root(roots, other)
    roots[max(one, other)] = min(one, other)


if __name__ == "__main__":
    documents = json.loads(Path(sys.argv[2]).read_text())
    work: Any = {"datasketch": by_datasketch, "text-dedup": by_text_dedup, "datasets": by_datasets}[
        sys.argv[1]
    ]
    work(documents[:2], *sys.argv[3:])  # imports are no part of the work
    started = time.process_time()
    result = work(documents, *sys.argv[3:])
    named = {"tokens": result} if isinstance(result, int) else {"groups": [int(group) for group in result]}
    print(json.dumps({"seconds": time.process_time() - started, **named}))
