"""Persons and secrets become placeholders; what only looks like them stays."""

import pytest

from anneal_trainers.corpus.personal import redacted

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "expected", "found"),
    [
        ("mail a.b+c@mail.org now", "mail <EMAIL_1> now", {"email": 1}),
        ("a@x.org, b@x.org, a@x.org", "<EMAIL_1>, <EMAIL_2>, <EMAIL_1>", {"email": 2}),
        ("host = '93.184.216.34'", "host = '<IP_1>'", {"ip": 1}),
        ("to 2a00:1450:4001:81b::200e now", "to <IP_1> now", {"ip": 1}),
        (f"key = '''{KEY}'''", "key = '''<KEY_1>'''", {"key": 1}),
        ("id = AKIAIOSFODNN7ABCDEFG;", "id = <KEY_1>;", {"key": 1}),
        ("t = ghp_" + "a1B2" * 9, "t = <KEY_1>", {"key": 1}),
        ('password = "hunter2!xQz9"', 'password = "<SECRET_1>"', {"secret": 1}),
        ("'api_key': 'k3J9sQ0pLmZ7'", "'api_key': '<SECRET_1>'", {"secret": 1}),
    ],
)
def test_what_is_personal_becomes_a_placeholder(text: str, expected: str, found: dict[str, int]) -> None:
    result = redacted([text])
    assert result.texts == (expected,)
    assert dict(result.found) == found
    assert redacted(result.texts).texts == result.texts


def test_a_value_has_one_placeholder_in_all_texts_of_a_document() -> None:
    assert redacted(["a@x.org b@x.org", "b@x.org"]).texts == ("<EMAIL_1> <EMAIL_2>", "<EMAIL_2>")


@pytest.mark.parametrize(
    "text",
    [
        "192.168.1.1 10.0.0.1 127.0.0.1 8.8.8.8 203.0.113.7 999.1.1.1 1.2.3.4.5",
        "a[1::2] std::fe ::1 2001:db8::1 12:30:45 2001:4860:4860::8888",
        "me@example.com root@localhost @decorator a@b",
        'password = "xxxxxxxx" token = "${API_TOKEN}" secret = "aaaaaaaaaa"',
        "name = 'k3J9sQ0pLmZ7'",
        "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----",
        "",
    ],
)
def test_what_names_nobody_stays(text: str) -> None:
    assert redacted([text]).texts == (text,)
