"""What is taken out of a text: everything that has the shape of a key, an e-mail address, a telephone or a card number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.otlp.redaction import CARD, EMAIL, KEY, PHONE, cleaner, redact

KEYS = [  # made up, each as its service makes them
    "sk-proj-Ab3dEf6hIj9kLmNoPqRsTuVwXyZ012345678",
    "sk-ant-api03-abcdefghijklmnopqrstuvwxyzABCDEFG-hijklmno",
    "sk-canary-4f1e0c7a9b2d",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "github_pat_11ABCDEFG0abcdefghijklmnop",
    "glpat-ABCdef123456_-xyzABC",
    "xoxb-1234567890-abcdefghij",
    "AKIAIOSFODNN7EXAMPLE",
    "AIzaSyA-abcdefghijklmnopqrstuvwxyz01234",
    "hf_abcdefghijklmnopqrstuvwxyz",
    "npm_abcdefghijklmnopqrstuvwxyz0123456789",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "SG.abcdefghijkl.mnopqrstuvwxyz0123",
    "hvs.CAESIJabcdefghijklmnopqrstuvwxyz",
    "3f786850e387550fdab836ed7e6dc881de23001b",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY0",
    "f47ac10b-58cc-4372-a567-0e02b2c3d479",
]
AROUND = st.text(st.characters(codec="utf-8", exclude_categories=("Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Pc", "Pd", "Cs")), max_size=40)
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize("key", KEYS)
@given(before=AROUND, after=AROUND)
def test_a_key_is_taken_out_wherever_it_stands(key, before, after):
    assert key not in redact(f"{before} {key} {after}")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "around",
    [
        "the key is '{}'",
        '{{"api_key": "{}"}}',
        "KEY={}",
        "https://host/?key={}&a=b",
        "({})",
        "a\n{}\nb",
        "{}.",
        r'"a\n{}\n"',
        r'"\u0022{}\u0022"',
    ],
)
def test_a_key_is_taken_out_of_what_people_and_programs_write(key, around):
    said = redact(around.format(key))
    assert not any(key[at : at + 10] in said for at in range(len(key) - 9))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("password: hunter2", f"password: {KEY}"),
        ('{"password": "hunter two"}', f'{{"password": {KEY}}}'),
        ("export SECRET_KEY='abcd efgh'", f"export SECRET_KEY={KEY}"),
        ("the passphrase is 'correct horse batt", f"the passphrase is {KEY}"),
        ("Authorization: Bearer abc.def-123", f"Authorization: Bearer {KEY}"),
        ("postgres://user:hunter2@db:5432/x", f"postgres://{KEY}@db:5432/x"),
        (f"here: {PEM} done", f"here: {KEY} done"),
        (f"cut: {PEM[:60]}", f"cut: {KEY}"),
        ("write to jane.doe+x@mail.example.co.uk today", f"write to {EMAIL} today"),
        ("card 4111 1111 1111 1111 please", f"card {CARD} please"),
        ("card 4111111111111111.", f"card {CARD}."),
        ("call +49 30 123456-78", f"call {PHONE}"),
        ("call (555) 010-9999 now", f"call {PHONE} now"),
    ],
)
def test_it_is_taken_out_and_the_rest_stays(text, said):
    assert redact(text) == said


@pytest.mark.parametrize(
    "text",
    [
        "The weather in Paris is 21.5 degrees, on 2026-11-21 at 08:00.",
        "def compute_the_running_average_of_all(values): return sum(values) / len(values)",
        "https://example.org/docs/getting-started/with-the-inference-broker",
        "max_tokens: 4096, temperature=0.7, n: 3",
        "1234567890123 is thirteen digits and no card; 20261121 is a day",
        "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamtengesellschaft",
        "Grüße aus Köln — 東京の天気は？",
    ],
)
def test_what_people_write_stays(text):
    assert redact(text) == text


@given(st.text(max_size=300))
def test_nothing_that_somebody_writes_breaks_it(text):
    assert isinstance(redact(text), str)


@pytest.mark.parametrize(
    "hostile", ["a" * 20_000, "1 " * 10_000, "1" * 20_000, "token=" * 4_000, "a@" * 10_000, "eyJa." * 5_000, "://a:" * 5_000]
)
def test_a_text_that_is_made_to_be_slow_comes_to_an_end(hostile):
    assert isinstance(redact(hostile), str)


def test_a_live_credential_is_taken_out_whatever_it_looks_like():
    clean = cleaner(lambda: ["correct horse", "abc"])
    assert clean("it was correct horse battery, abc") == f"it was {KEY} battery, abc"


def test_live_credentials_are_asked_for_each_time():
    live = ["first word"]
    clean = cleaner(lambda: live)
    live[0] = "second word"
    assert clean("first word, second word") == f"first word, {KEY}"
