"""The prompt and output lengths of the reference's table, one at a time and eight at once, the endpoint beside llama.cpp."""

from report import Figure

from serve.contestants import GATEWAY, SAME_BITS, Contestant
from serve.measure import rate
from serve.workload import Prompts

TABLE = ((16, 8), (64, 32), (256, 128), (1024, 512))
"""Tokens of prompt and answer."""
SIDES = (GATEWAY, SAME_BITS)
FEWEST = 128
"""Tokens of answers of one measurement, at least: short answers are asked for several times."""


def figures(everyone: dict[str, Contestant], prompts: Prompts) -> list[Figure]:
    """Ask both sides in turns, once a row."""
    made = []
    for prompt, tokens in TABLE:
        for streams in (1, 8):
            count = max(streams, FEWEST // tokens)
            job = prompts.job(prompt, tokens, count, streams)
            for name in SIDES:
                answers = everyone[name].run(prompts.fresh(job))
                given = sum(answer.tokens for answer in answers) / count
                what = f"{prompt}/{tokens}, {streams} at once, {name}"
                made.append(Figure(f"{what} ({given:.0f} tokens an answer)", rate(answers), "tokens/s"))
                print(f"{what}: {made[-1].value:.1f} tokens/s", flush=True)
    return made
