"""Redaction: secrets go, what only looks like one stays, and no text takes long."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.redact import MARK, redact, redact_json

# Made-up values in the form of real ones, put together so that no scanner takes this file for a leak.
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM_BODY = (
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\nMzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDu=="
)

SECRETS = [
    ("curl -H 'Authorization: Bearer abcdef1234567890'", "abcdef1234567890"),
    ("Authorization: Basic dXNlcjpwYXNzd29yZA==\nAccept: */*", "dXNlcjpwYXNzd29yZA"),
    ("Proxy-Authorization: Digest username=bob, response=6629fae4", "6629fae4"),
    ("the header was `Bearer ya-1234567890`", "ya-1234567890"),
    ("Set-Cookie: session=8d7f6a5b4c; Path=/", "8d7f6a5b4c"),
    ("ANTHROPIC_API_KEY=" + "sk-ant-api03-Abc_def-ghi", "Abc_def-ghi"),
    ("key is sk-" + "proj-1234567890abcdefghij.", "1234567890abcdefghij"),
    ("AWS says AKIA" + "IOSFODNN7EXAMPLE ok", "IOSFODNN7EXAMPLE"),
    ("temporary: ASIA" + "IOSFODNN7EXAMPLE", "IOSFODNN7EXAMPLE"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY", "wJalrXUtnFEMI"),
    ("git clone https://x-access-token:ghs_" + "0123456789abcdefABCDEF@github.com/a/b", "0123456789abcdef"),
    ("token ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a", "16C7e42F292c"),
    ("github_pat_" + "11ABCDEFG0abcdefghijkl_mnopqrstuvwx", "11ABCDEFG0"),
    ("glpat-" + "ABCdef123456_-7890", "ABCdef123456"),
    ("xoxb-" + "123456789012-abcdefghijkl", "123456789012"),
    ("https://hooks.slack.com/services/" + "T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX", "B00000000"),
    ("AIza" + "SyA1234567890abcdefghijklmnopqrstuvw", "SyA1234567890"),
    ("npm_" + "abcdefghijklmnopqrstuvwxyz0123456789", "abcdefghijkl"),
    ("hf_" + "abcdefghijklmnopqrstuvwxyzABCD", "abcdefghijkl"),
    (f"cookie jar {JWT} end", "dozjgNryP4J3"),
    ('{"password": "hunter2"}', "hunter2"),
    ('{"password":"hun\\"ter2","user":"bob"}', "ter2"),
    ('printed {\\"db_password\\": \\"hunter2\\", \\"user\\": \\"bob\\"}', "hunter2"),
    ("{'client_secret': 'abc-def-ghi'}", "abc-def-ghi"),
    ("password: hunter2", "hunter2"),
    ("DB_PASSWORD=hunter2 psql", "hunter2"),
    ("export DB_PASS='two words'", "two words"),
    ("MYSQL_PWD=hunter2", "hunter2"),
    ("PASSWORD=12345", "12345"),
    ("refreshToken: 1//0gabcdef", "0gabcdef"),
    ("mysql --password hunter2 --host db", "hunter2"),
    ("gh auth login --with-token=abcdefg1", "abcdefg1"),
    ("curl -u bob:hunter2 https://x", "hunter2"),
    ("sshpass -p hunter2 ssh host", "hunter2"),
    ("machine x login bob password hunter2", "hunter2"),
    ("postgres://bob:hunter2@db.example/app", "hunter2"),
    ("DATABASE_URL=mongodb+srv://bob:p%40ss@c.example/?w=1", "p%40ss"),
    ("redis://:hunter2@cache:6379/0", "hunter2"),
    ("Server=db;User=bob;Password=hunter2;Encrypt=yes", "hunter2"),
    ("https://x.example/f?sig=abcDEF12345&n=1", "abcDEF12345"),
    ("https://x.example/f?access_token=abcDEF12345&n=1", "abcDEF12345"),
    (f"-----BEGIN RSA PRIVATE KEY-----\n{PEM_BODY}\n-----END RSA PRIVATE KEY-----\nafter", "MIIEvQIBADAN"),
    (f"-----BEGIN PRIVATE KEY-----\n{PEM_BODY}\n-----END PRIVATE KEY-----", "VMvDu"),
    (json.dumps(f"-----BEGIN OPENSSH PRIVATE KEY-----\n{PEM_BODY}"), "MzEfYyjiWA4R4"),
    ("1→-----BEGIN EC PRIVATE KEY-----\n2→" + PEM_BODY.replace("\n", "\n3→"), "MzEfYyjiWA4R4"),
    ("-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: 1\n\n" + PEM_BODY, "MzEfYyjiWA4R4"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS, ids=[text[:30] for text, _ in SECRETS])
def test_a_secret_goes_wherever_it_stands(text, secret):
    for around in (text, f"before {text}\nafter", json.dumps({"command": text})):
        shown = redact(around)
        assert secret not in shown
        assert MARK in shown


@pytest.mark.parametrize(
    "text",
    [
        "input_tokens: 812, output_tokens=4096",
        '{"usage": {"cache_read_input_tokens": 12345}, "token_type": "Bearer"}',
        "def login(password: str, token: str | None = None) -> bool:",
        "password = getpass.getpass()",
        "API_KEY=$ANTHROPIC_API_KEY",
        "password: ${DB_PASSWORD}",
        "password: ********",
        "password: None",
        "PWD=/home/bob OLDPWD=/tmp",
        "password_file: /run/secrets/db",
        "Enter passphrase for key: ",
        "risk-assessment-2024-quarterly-report",
        "sk-learn-style-estimator-interface",
        "http://localhost:8080/path@v2",
        "see https://example.com/a:b",
        "git@github.com:owner/repository.git",
        "docker run -u 1000:1000 image",
        "Tests: 5 pass: 3 fail: 2",
        "the bearer authentication scheme",
        "the secret of a good night's sleep",
        "grep -- '-----BEGIN PRIVATE KEY-----' *.pem",
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "toolu_9ca95477e8434f86b1391e96",
        "session e89dd8e6-8f2d-4638-b225-38d97e9ebac8",
        "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG",
    ],
)
def test_what_only_looks_like_a_secret_stays(text):
    assert redact(text) == text


def test_what_stands_around_a_secret_stays():
    assert redact('{"user": "bob", "password": "hunter2", "port": 5432}') == (
        '{"user": "bob", "password": "[redacted]", "port": 5432}'
    )
    assert redact("postgres://bob:hunter2@db/app") == "postgres://bob:[redacted]@db/app"
    assert redact("A=1 API_KEY=abcdef1 B=2") == "A=1 API_KEY=[redacted] B=2"


def test_given_secrets_go_in_every_spelling():
    secret = 'top "secret" ü/1'
    assert redact(f"x {secret} y", [secret]) == "x [redacted] y"
    assert redact(json.dumps({"x": secret}), [secret]) == '{"x": "[redacted]"}'
    assert redact("https://h/?q=top%20%22secret%22%20%C3%BC%2F1", [secret]) == "https://h/?q=[redacted]"
    assert redact("longer-secret and longer", ["longer", "longer-secret"]) == "[redacted] and [redacted]"
    assert redact("a b c", ["a", ""]) == "a b c"


def test_json_is_taken_apart_and_put_together_again():
    payload = {
        "session_id": "e89dd8e6-8f2d-4638-b225-38d97e9ebac8",
        "tool_input": {"command": "PGPASSWORD=hunter2 psql", "timeout": 5, "env": {"API_TOKEN": "abc", "A": "b"}},
        "list": ["a", "sk-ant-" + "12345678", None, True, 1.5],
        "password": 12345,
        "tokens": 12,
        "passwords": ["one", "two"],
        "credentials": {"user": "bob"},
    }
    assert redact_json(payload) == {
        "session_id": "e89dd8e6-8f2d-4638-b225-38d97e9ebac8",
        "tool_input": {"command": "PGPASSWORD=[redacted] psql", "timeout": 5, "env": {"API_TOKEN": MARK, "A": "b"}},
        "list": ["a", MARK, None, True, 1.5],
        "password": MARK,
        "tokens": 12,
        "passwords": [MARK, MARK],
        "credentials": {"user": MARK},
    }


PIECES = [
    *("password", "token", "=", ": ", '"', "'", "\\", "\n", "eyJ", ".", "sk-", "://", ":", "@", "a", "1", " ", "-u "),
    *("Bearer ", "-----BEGIN PRIVATE KEY-----", "-----END", "İ", "=$", "Authorization"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_redacting_twice_changes_nothing_more(text):
    once = redact(text)
    assert redact(once) == once


@given(st.text(max_size=200))
def test_any_text_is_survived(text):
    assert isinstance(redact(text), str)


@given(st.text("0123456789abcdef", min_size=8, max_size=40), st.text("abc .,", max_size=20))
def test_a_password_in_json_never_shows(password, around):
    assert password not in redact(around + json.dumps({"password": password}) + around)


@pytest.mark.parametrize(
    "piece",
    ["x", "eyJ", "password", "password=", "password \t", "token\\", "sk-", "-----BEGIN PRIVATE KEY-----\n", "://a:",
     "Bearer ", "Basic a-", "Authorization: \\", "login ", " -u a:", ",a", "1→", 'secret="a\\', "ghp_", "QUJD"],
)  # fmt: skip
def test_a_megabyte_of_anything_comes_to_an_end(piece):
    """A pattern that backtracks would take hours here."""
    text = piece * (1_000_000 // len(piece))
    assert len(redact(text)) <= len(text) + len(text) // len(piece) * len(MARK)


def test_a_secret_is_found_at_the_end_of_five_megabytes():
    text = "An ordinary line of a log, with a key: value and a url http://h:80/x\n" * 80_000
    assert redact(text + "password=hunter2") == text + "password=[redacted]"
