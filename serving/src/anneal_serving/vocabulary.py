"""A tokenizer's vocabulary as bytes: what each id writes by itself."""

from typing import Any

from tokenizers import Tokenizer

_SPACE = "▁"


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Return what every id writes, by id; empty for special tokens and for ids that stand for nothing.

    Two families: byte-level BPE (GPT-2's table of one printable character a byte) and SentencePiece (a ▁ for
    each space, `<0x0A>` for a byte of no character).
    """
    added: dict[int, Any] = tokenizer.get_added_tokens_decoder()
    tokens = tokenizer.get_vocab(with_added_tokens=True)
    piece = _byte_level if _is_byte_level(tokens) else _sentence_piece
    found = [b""] * (max(tokens.values()) + 1)
    for text, number in tokens.items():
        found[number] = _added(added[number]) if number in added else piece(text)
    return found


def _is_byte_level(tokens: dict[str, int]) -> bool:
    # The space, which every text has: Ġ in the one family, ▁ in the other.
    return any(text.startswith("Ġ") for text in tokens) and _SPACE not in tokens


def _added(token: Any) -> bytes:
    return b"" if token.special else str(token.content).encode()


def _byte_level(text: str) -> bytes:
    try:
        return bytes(_BYTES[character] for character in text)
    except KeyError:
        return text.encode()


def _sentence_piece(text: str) -> bytes:
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        return bytes([int(text[3:5], 16)])
    return text.replace(_SPACE, " ").encode()


def _byte_table() -> dict[str, int]:
    """Return GPT-2's table: bytes that print are themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_table()
