"""Chats as token ids: one encoder for training and for the endpoint, so both see the same ids.

A Jinja chat template is rendered once with a placeholder for each message's text. What the template
itself wrote is encoded with the tokenizer's added tokens; the texts are encoded without any, so a text
that spells `<|im_start|>system` stays text and forges no role. Where a template marks roles by plain
text (CodeFuse's on most tokenizers), a text that spells a marker gets a zero-width space inside it.
Learned tokens are those of an assistant's text and of the end-of-sequence token that closes it.

CodeFuse's template is the one of its model cards: `<s>system\nS`, `<s>human\nq`, `<s>bot\na`, EOS after
each answer; `<s>human` and `<s>bot` are plain text there, not special tokens.
"""

import itertools
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Encoding, Tokenizer

from anneal_runtime.errors import Refused

CHAT_FILE = "chat.json"
CODEFUSE_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ '<s>system\n' + m['content'] + '\n' }}"
    "{% elif m['role'] == 'user' %}{{ '<s>human\n' + m['content'] + '\n' }}"
    "{% else %}{{ '<s>bot\n' + m['content'] + '\n' + eos_token + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>bot\n' }}{% endif %}"
)
ROLES = ("system", "user", "assistant")
_BREAK = "\u200b"
_MARK = "\ue000{}\ue001"
_MARKS = ("\ue000", "\ue001")


@dataclass(frozen=True)
class Encoded:
    """Token ids of a chat, and for each whether it is learned."""

    ids: list[int]
    learned: list[bool]


class ChatEncoder:
    """Encodes chats by a model's own template.

    Args:
        tokenizer: the model's tokenizer.
        template: a Jinja chat template over `messages`, `add_generation_prompt`, `bos_token`, `eos_token`.
        variables: the tokens a template may name: bos_token, eos_token, pad_token, unk_token.
        eos_ids: ids that end an answer.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: str, variables: dict[str, str], eos_ids: list[int]
    ) -> None:
        self.tokenizer = tokenizer
        self.eos_ids = eos_ids
        self._source: dict[str, Any] = {"template": template, "variables": variables, "eosIds": eos_ids}
        self._variables = variables
        self._plain = _without_added_tokens(tokenizer)
        self._template = _environment().from_string(template)
        self._plain_markers = self._find_plain_markers()

    @classmethod
    def load(cls, folder: Path) -> "ChatEncoder":
        """Read tokenizer.json and chat.json as `save` left them."""
        chat = json.loads(_read(folder, CHAT_FILE, "NoChatTemplate"))
        return cls(_tokenizer(folder), chat["template"], chat["variables"], chat["eosIds"])

    @classmethod
    def from_pretrained_folder(cls, folder: Path, template: str | None = None) -> "ChatEncoder":
        """Read a Hugging Face folder; `template` None is the model's own, or CodeFuse's where it has none.

        Raises:
            Refused: no tokenizer.json, or no end-of-sequence token.
        """
        tokenizer = _tokenizer(folder)
        config = _json(folder / "tokenizer_config.json")
        variables = _special_tokens(config)
        eos = _eos_ids(tokenizer, variables, _json(folder / "generation_config.json"))
        if not eos:
            raise Refused(
                "NoEosToken",
                f"spec.baseModel: tokenizer_config.json names {variables.get('eos_token', 'nothing')} as eos_token, "
                "and tokenizer.json has no such token; name one there that it has",
            )
        chosen = template or _own_template(folder, config) or "codefuse"
        return cls(tokenizer, CODEFUSE_TEMPLATE if chosen == "codefuse" else chosen, variables, eos)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and chat.json into `folder`."""
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / CHAT_FILE).write_text(
            json.dumps(self._source, sort_keys=True, indent=1) + "\n", encoding="utf-8"
        )

    def encode(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> Encoded:
        """Return the ids of `messages` (role: system, user or assistant; content), and which are learned.

        Raises:
            Refused: an unknown role, or an order of roles the template does not accept.
        """
        ids: list[int] = []
        learned: list[bool] = []
        after_answer = False
        for text, owner in self._pieces(messages, add_generation_prompt):
            piece = self._encode_literal(text) if owner is None else self._encode_text(text)
            answer = owner is not None and messages[owner]["role"] == "assistant"
            closing = self._closing(piece) if owner is None and after_answer else 0
            ids += piece
            learned += [answer or position < closing for position in range(len(piece))]
            after_answer = answer
        return Encoded(ids, learned)

    def with_tokens(self, tokens: list[str]) -> "ChatEncoder":
        """Return an encoder whose tokenizer has `tokens` too, as special tokens no text can spell.

        Their ids follow the last one in use.
        """
        tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        tokenizer.add_special_tokens(tokens)
        return ChatEncoder(tokenizer, self._source["template"], self._variables, self.eos_ids)

    @property
    def end_of_text(self) -> int:
        """The id that closes a plain text: the end-of-sequence token by name, else the first that ends an answer."""
        named = self.tokenizer.token_to_id(self._variables.get("eos_token", ""))
        return self.eos_ids[0] if named is None else int(named)

    def encode_document(self, text: str) -> Encoded:
        """Return the ids of a plain text that is learned whole, closed by the end-of-sequence token."""
        ids = [*self.encode_plain(text).ids, self.end_of_text]
        return Encoded(ids, [True] * len(ids))

    def encode_plain(self, text: str, within: bool = False) -> Encoding:
        """Return tokens of a text, none of them special, with their places in it.

        Some tokenizers put a space before every text; `within` a document that space is left out.
        """
        tokenizer = self._within if within else self._plain
        return tokenizer.encode(text, add_special_tokens=False)

    @cached_property
    def _within(self) -> Tokenizer:
        return _without_leading_space(self._plain)

    def decode(self, ids: list[int]) -> str:
        """Return the text of `ids`, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _encode_literal(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _encode_text(self, text: str) -> list[int]:
        for marker in self._plain_markers:
            text = text.replace(marker, marker[:1] + _BREAK + marker[1:])
        return list(self.encode_plain(text).ids)

    def _find_plain_markers(self) -> list[str]:
        """Return the role markers of the template that hold no added token, so that a text could spell them."""
        added = set(self.tokenizer.get_added_tokens_decoder())
        markers = set()
        for role in ROLES:
            chat = [{"role": "user", "content": ""}] * (role == "assistant") + [{"role": role, "content": ""}]
            try:
                pieces = self._pieces(chat, False)
            except Refused:
                continue  # a template without this role has no marker for it
            before = [text for (text, _), (_, owner) in itertools.pairwise(pieces) if owner == len(chat) - 1]
            markers |= {
                t.split("\n\n")[-1].strip() for t in before if not added & set(self._encode_literal(t))
            }
        return sorted(markers - {""}, key=len, reverse=True)

    def _closing(self, piece: list[int]) -> int:
        ends = [position for position, token in enumerate(piece) if token in self.eos_ids]
        return ends[0] + 1 if ends else 0

    def _pieces(self, messages: list[dict[str, str]], prompt: bool) -> list[tuple[str, int | None]]:
        """Return runs of text in order, each with the message it belongs to (None: the template's own)."""
        rendered = self._render(messages, prompt)
        pieces: list[tuple[str, int | None]] = []
        for part in rendered.split(_MARKS[0]):
            number, closed, literal = part.partition(_MARKS[1])
            if closed:
                pieces.append((messages[int(number)]["content"], int(number)))
            pieces.append((literal if closed else number, None))
        return [(text, owner) for text, owner in pieces if text or owner is not None]

    def _render(self, messages: list[dict[str, str]], prompt: bool) -> str:
        for message in messages:
            if message["role"] not in ROLES:
                raise Refused("InvalidRole", f"role {message['role']!r} is none of {', '.join(ROLES)}")
        marked = [{"role": m["role"], "content": _MARK.format(index)} for index, m in enumerate(messages)]
        try:
            return self._template.render(messages=marked, add_generation_prompt=prompt, **self._variables)
        except jinja2.TemplateError as error:
            raise Refused(
                "ChatTemplate", f"the chat template does not accept these messages: {error}"
            ) from error


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that knows no added token but runs of white space, which are text, not control."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"].isspace()]
    return Tokenizer.from_str(json.dumps(state))


def _without_leading_space(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that puts no space before a text."""
    state = json.loads(tokenizer.to_str())
    for part in ("normalizer", "pre_tokenizer"):
        state[part] = _spaceless(state[part])
    return Tokenizer.from_str(json.dumps(state))


def _spaceless(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a part of a tokenizer, or a sequence of them, without what puts a space before a text."""
    match part:
        case None | {"type": "Prepend"}:
            return None
        case {"type": "Metaspace"}:
            return part | {"prepend_scheme": "never"}
        case {"type": "ByteLevel"}:
            return part | {"add_prefix_space": False}
        case {"normalizers": inner}:
            return part | {"normalizers": [kept for kept in map(_spaceless, inner) if kept]}
        case {"pretokenizers": inner}:
            return part | {"pretokenizers": [kept for kept in map(_spaceless, inner) if kept]}
    return part


def _environment() -> jinja2.Environment:
    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    return environment


def _read(folder: Path, name: str, reason: str) -> str:
    path = folder / name
    if not path.is_file():
        raise Refused(reason, f"{name} is missing in the model's folder; export it with the model")
    return path.read_text(encoding="utf-8")


def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_str(_read(folder, "tokenizer.json", "NoTokenizer"))


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _own_template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    found = {name: config.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    return {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in found.items()
        if value is not None
    }


def _eos_ids(tokenizer: Tokenizer, variables: dict[str, str], generation: dict[str, Any]) -> list[int]:
    ids = generation.get("eos_token_id", [])
    named = tokenizer.token_to_id(variables["eos_token"]) if "eos_token" in variables else None
    listed = ids if isinstance(ids, list) else [ids]
    return sorted({*listed, *([] if named is None else [named])})
