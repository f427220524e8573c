"""The URL of a Redis is read strictly, and never repeated with its password."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.ledger.database import CannotOpen
from broker.ledger.redis_target import Address, Target, parse_target

CANARY = "canary-of-the-quota-store"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", Target((Address("localhost", 6379),), tls=False)),
        ("redis://10.0.0.1:7000/3", Target((Address("10.0.0.1", 7000),), tls=False, database=3)),
        ("redis://[::1]:7000", Target((Address("::1", 7000),), tls=False)),
        ("redis://[::1]", Target((Address("::1", 6379),), tls=False)),
        ("rediss://a:7000,b,c:7002/", Target((Address("a", 7000), Address("b", 6379), Address("c", 7002)), tls=True)),
        ("rediss://broker:p%40ss%3A@r", Target((Address("r", 6379),), tls=True, user="broker", password="p@ss:")),
        ("redis://:only@r", Target((Address("r", 6379),), tls=False, password="only")),
        ("redis+unix:///run/redis/s%20ock", Target((Address("/run/redis/s ock", 0),), tls=False)),
        (
            "rediss://broker@r?password-file=/p&ca-file=/ca&cert-file=/c&key-file=/k",
            Target(
                (Address("r", 6379),),
                tls=True,
                database=0,
                user="broker",
                password_file=Path("/p"),
                ca_file=Path("/ca"),
                cert_file=Path("/c"),
                key_file=Path("/k"),
            ),
        ),
    ],
)
def test_what_a_url_says(url, expected):
    assert parse_target(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://r:0",
        "redis://r:65536",
        "redis://r:x",
        "redis://a,,b",
        "redis://r/db",
        "redis://r/0?ssl_cert_reqs=none",
        "rediss://r/0?ca-file=",
        "redis://r/0?ca-file=/ca",
        "redis://r#0",
        "redis://[::1",
        f"rediss://u:{CANARY}@r?password-file=/p",
        f"rediss://u:{CANARY}#@r",
        f"rediss:/u:{CANARY}@r",
        f"http://u:{CANARY}@r",
        "redis+unix://host/path",
        "redis+unix://",
    ],
)
def test_what_is_not_understood_is_refused_without_being_repeated(url):
    with pytest.raises(CannotOpen) as refusal:
        parse_target(url)
    assert CANARY not in str(refusal.value)


@given(st.text())
def test_any_text_after_the_scheme_is_a_target_or_refused(text):
    try:
        target = parse_target(f"rediss://{text}")
    except CannotOpen:
        return
    assert all(seed.host and 0 < seed.port < 65536 for seed in target.seeds)


def test_a_password_is_in_no_text_of_a_target():
    target = parse_target(f"rediss://broker:{CANARY}@r:7000/2")
    assert str(target) == "rediss://broker@r:7000/2"
    assert CANARY not in repr(target)


@pytest.mark.parametrize(
    ("url", "danger"),
    [
        ("redis://u:p@r", "without TLS"),
        ("rediss://r", "without a user"),
        ("rediss://:p@r", "without a user"),
        ("rediss://u@r", "without a user"),
        ("rediss://u:p@r", ""),
        ("rediss://u@r?password-file=/p", ""),
        ("redis+unix:///s", ""),
    ],
)
def test_what_is_dangerous_about_a_target(url, danger):
    assert parse_target(url).danger.startswith(danger)
    assert bool(parse_target(url).danger) == bool(danger)


def test_a_password_file_is_read_when_it_is_needed_and_a_missing_one_is_named(tmp_path):
    target = parse_target(f"rediss://u@r?password-file={tmp_path}/p")
    with pytest.raises(CannotOpen, match=f"{tmp_path}/p"):
        target.read_password()
    (tmp_path / "p").write_text("first\n")
    assert target.read_password() == "first"
    (tmp_path / "p").write_text("second")
    assert target.read_password() == "second"


def test_tls_files_that_are_missing_are_refused(tmp_path):
    with pytest.raises(CannotOpen, match="ca-file"):
        parse_target(f"rediss://u@r?ca-file={tmp_path}/none").tls_context()
