"""Personal data and secrets: e-mail addresses, public IP addresses, keys, tokens and passwords.

What is found becomes a placeholder, the same one for the same value within a document of one or more texts: <EMAIL_1>, <KEY_2>. Addresses
that name nobody stay: private ranges, documentation ranges, public name servers.
"""

import functools
import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NAME_SERVERS = frozenset(
    {
        "1.0.0.1",
        "1.1.1.1",
        "8.8.4.4",
        "8.8.8.8",
        "9.9.9.9",
        "149.112.112.112",
        "208.67.220.220",
        "208.67.222.222",
        "2001:4860:4860::8844",
        "2001:4860:4860::8888",
        "2606:4700:4700::1001",
        "2606:4700:4700::1111",
        "2620:fe::fe",
    }
)
_EXAMPLES = re.compile(
    r"@(?:.*\.)?example(?:\.(?:com|org|net|edu))?$|\.(?:example|invalid|test|localhost)$", re.I
)
_PLACEHOLDERS = re.compile(
    r"^(?:x+|\*+|\.+|<.*>|\$\{?.*|%.*|\{.*|.*(?:example|changeme|your|dummy|secret|password).*)$", re.I
)
_TOKENS = (
    r"AKIA[0-9A-Z]{16}"  # Amazon Web Services
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}"
    r"|glpat-[A-Za-z0-9_-]{20,}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}"  # Slack
    r"|AIza[0-9A-Za-z_-]{35}"  # Google
    r"|[sr]k_live_[0-9A-Za-z]{20,}"  # Stripe
    r"|SG\.[\w-]{16,}\.[\w-]{16,}"  # SendGrid
    r"|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"  # JSON Web Token
)
_MIN_ENTROPY = 3.0
"""Bits a character: below it a quoted value is a word rather than a secret (detect-secrets' limit for hex)."""


@dataclass(frozen=True)
class Redacted:
    """A document's texts with placeholders, and how many values of each kind they stand for."""

    texts: tuple[str, ...]
    found: Counter[str]


@dataclass(frozen=True)
class _Kind:
    name: str
    needs: tuple[str, ...]
    """A document without any of these holds nothing of the kind; finding out so is cheap."""
    pattern: re.Pattern[str]
    wanted: Callable[[str], bool]


def _public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global and address.lower() not in NAME_SERVERS
    except ValueError:
        return False


def _secret(value: str) -> bool:
    return _PLACEHOLDERS.match(value) is None and _entropy(value) >= _MIN_ENTROPY


def _entropy(value: str) -> float:
    """Return Shannon's entropy of a text's characters, in bits a character."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


_KINDS = (
    _Kind(
        "KEY",
        ("-----BEGIN",),
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----.*?-----END [A-Z0-9 ]+-----", re.DOTALL
        ),
        lambda value: True,
    ),
    _Kind(
        "KEY",
        ("AKIA", "gh", "glpat-", "xox", "AIza", "k_live_", "SG.", "hf_", "npm_", "pypi-", "eyJ"),
        re.compile(rf"(?<![A-Za-z0-9_])(?:{_TOKENS})(?![A-Za-z0-9])"),
        lambda value: True,
    ),
    _Kind(
        "SECRET",
        ("assw", "ASSW", "ecret", "ECRET", "oken", "OKEN", "key", "Key", "KEY", "pwd", "PWD"),
        re.compile(r"(?<=[\"'])[^\"'\s]{8,128}(?=[\"'])"),
        _secret,
    ),
    _Kind(
        "EMAIL",
        ("@",),
        re.compile(
            r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,8}[A-Za-z]{2,24}(?![\w-])"
        ),
        lambda value: _EXAMPLES.search(value) is None,
    ),
    _Kind("IP", (".",), re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)"), _public),
    # Global unicast addresses alone (2000::/3): shorter ones look like slices and scopes.
    _Kind(
        "IP",
        (":",),
        re.compile(r"(?<![\w:.])[23][0-9a-fA-F]{3}:(?:[0-9a-fA-F]{0,4}:){1,6}[0-9a-fA-F]{0,4}(?![\w:.])"),
        _public,
    ),
)
_ASSIGNED = re.compile(
    r"(?:passw(?:or)?d|pwd|secret|token|api_?key|access_?key|auth_?key)\w*[\"']?\s*(?:=|:|=>|:=)\s*$",
    re.IGNORECASE,
)


def redacted(texts: Sequence[str]) -> Redacted:
    """Return the texts of a document with placeholders for what they hold of persons and secrets."""
    found: Counter[str] = Counter()
    numbers: dict[tuple[str, str], int] = {}
    return Redacted(tuple(_text(text, numbers, found) for text in texts), found)


def _text(text: str, numbers: dict[tuple[str, str], int], found: Counter[str]) -> str:
    for kind in _KINDS:
        if any(part in text for part in kind.needs):
            text = kind.pattern.sub(functools.partial(_placeholder, kind, numbers, found), text)
    return text


def _placeholder(
    kind: _Kind, numbers: dict[tuple[str, str], int], found: Counter[str], match: re.Match[str]
) -> str:
    value = match[0]
    if not kind.wanted(value) or (kind.name == "SECRET" and not _is_assigned(match)):
        return value
    if (kind.name, value) not in numbers:
        numbers[kind.name, value] = 1 + sum(name == kind.name for name, _ in numbers)
        found[kind.name.lower()] += 1
    return f"<{kind.name}_{numbers[kind.name, value]}>"


def _is_assigned(match: re.Match[str]) -> bool:
    """Whether what stands before the opening quote gives a value to a name that speaks of a secret."""
    line = match.string[max(0, match.start() - 81) : match.start() - 1]
    return _ASSIGNED.search(line) is not None
