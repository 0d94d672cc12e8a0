"""Licence headers: the comment that a file begins with, when it speaks of a licence or a copyright.

What comes before it and is no prose stays: a first line for the system or an interpreter (`#!`, `<?php`), a Python
or Emacs coding line.
"""

import re

_FIRST_LINES = re.compile(
    r"(?:\ufeff)?(?:#!.*\n|<\?php[^\n]*\n|<\?xml[^\n]*\n|[ \t]*#.*coding[:=].*\n|[ \t]*\n)*"
)
_COMMENT = re.compile(
    r"(?:/\*.*?\*/[ \t]*\n?"
    r"|<!--.*?-->[ \t]*\n?"
    r"|\(\*.*?\*\)[ \t]*\n?"
    r"|\{-.*?-\}[ \t]*\n?"
    r"|(?:[ \t]*(?:#(?!include|define|if|pragma|!)|//|--|;|%|\.\.)[^\n]*(?:\n|\Z))+)",
    re.DOTALL,
)
_LEGAL = re.compile(
    r"licen[sc]e|copyright|\(c\)\s*\d{4}|©|SPDX-|all rights reserved|redistribut|warrant", re.IGNORECASE
)


def without_header(text: str) -> str:
    """Return `text` without the licence header it begins with, or itself where it has none."""
    first = _FIRST_LINES.match(text)
    begin = end = first.end() if first else 0
    while (comment := _COMMENT.match(text, end)) and _LEGAL.search(comment[0]):
        end = comment.end()
        while text.startswith(("\n", "\r\n"), end):
            end += 1 + (text[end] == "\r")
    return text[:begin] + text[end:] if end > begin else text
