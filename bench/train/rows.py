"""Rows with the lengths of the reference's five-task mix: mean 687 tokens, 95% below 2,196, at most 4,096.

Lengths are log-normal and cut at the limit, which those numbers determine. Where a run must be short, all lengths are
scaled with the capacity, so that the fill of packs and the waste of padding stay those of the full size. Ids are
real text (the quick start's rows through the model's tokenizer), as a loss of noise would show nothing.
"""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

FULL = 4096
P95 = 2196
MEAN = 708
"""Of the distribution that is cut at FULL, after which the mean is 687."""
Z95 = 1.6448536269514722
"""The 95% quantile of the normal distribution."""
PROMPT = (0.3, 0.7)
"""Share of a row that is prompt and so not learned: uniform between these, half on average."""


def sigma_mu() -> tuple[float, float]:
    """Return the log-normal's parameters from mean = exp(mu + sigma^2 / 2) and p95 = exp(mu + Z95 sigma).

    Subtracting the logarithms leaves sigma^2 / 2 - Z95 sigma + ln(p95 / mean) = 0, of which the smaller root is
    the less skewed distribution.
    """
    sigma = Z95 - np.sqrt(Z95**2 - 2 * np.log(P95 / MEAN))
    return float(sigma), float(np.log(MEAN) - sigma**2 / 2)


def lengths(count: int, capacity: int, seed: int) -> np.ndarray:
    """Return lengths of `count` rows, scaled from the full size to `capacity`, at least 8 tokens each."""
    sigma, mu = sigma_mu()
    drawn = np.random.default_rng(seed).lognormal(mu, sigma, count) * capacity / FULL
    return np.clip(np.rint(drawn), 8, capacity).astype(np.int64)


def token_stream(model: Path, texts: list[Path]) -> np.ndarray:
    """Return the ids of all texts of JSON lines, one after another."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    lines = [json.loads(line) for path in texts for line in path.read_text().splitlines()]
    whole = "\n".join(str(value) for row in lines for value in row.values() if isinstance(value, str))
    return np.asarray(tokenizer.encode(whole).ids, np.int64)


def write(
    folder: Path, name: str, stream: np.ndarray, sizes: np.ndarray, *, seed: int, all_learned: bool
) -> None:
    """Write rows of the given sizes, cut from the stream at random places, as `name`.npz."""
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    places = generator.integers(0, len(stream) - sizes)
    ids = np.concatenate([stream[p : p + n] for p, n in zip(places, sizes, strict=True)])
    learned = np.ones(len(ids), bool)
    shares = np.zeros(len(sizes)) if all_learned else generator.uniform(*PROMPT, len(sizes))
    for start, size, share in zip(offsets[:-1], sizes, shares, strict=True):
        learned[start : start + max(1, int(share * size))] = False
    np.savez(folder / f"{name}.npz", ids=ids, learned=learned, offsets=offsets)
