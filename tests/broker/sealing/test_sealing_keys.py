"""The text of a file of keys: what is taken, and what is said of what is not."""

import base64
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.sealing import BadKeys, Key, parse_keys
from broker.sealing.keys import DISTINCT_BYTES, KEYS, MAKE_ONE


def line(secret: bytes) -> bytes:
    return base64.b64encode(secret) + b"\n"


ONE, TWO = os.urandom(64), os.urandom(64)


def ids(text: bytes) -> list[bytes]:
    return [key.id for key in parse_keys(text)]


def test_keys_come_in_the_order_of_the_file_and_comments_say_nothing():
    text = b"# the one that seals\n" + line(ONE) + b"\n  \n# of before\r\n  " + line(TWO)
    assert ids(text) == [Key(ONE).id, Key(TWO).id]


def test_a_file_that_does_not_end_its_last_line_and_one_with_dos_ends_have_the_same_keys():
    assert ids(line(ONE).rstrip()) == ids(line(ONE)) == ids(line(ONE).replace(b"\n", b"\r\n")) == [Key(ONE).id]


def test_what_the_documents_say_makes_a_key_that_is_taken():
    made = subprocess.run(["bash", "-o", "pipefail", "-c", MAKE_ONE], capture_output=True, check=True, timeout=20).stdout
    assert len(ids(made)) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "there is no key in it; make one with: "),
        (b"\n  \n# a comment alone\n", "there is no key in it; make one with: "),
        (line(ONE[:32]), "line 1 has 32 bytes; a key has 64; make a key with: "),
        (b"# first\n" + line(ONE + b"x"), "line 2 has 65 bytes; a key has 64; make a key with: "),
        (line(ONE) + b"not base64!\n", "line 2 is not base64; make a key with: "),
        (base64.b64encode(ONE)[:-2], "line 1 is not base64; make a key with: "),
        (base64.urlsafe_b64encode(b"\xff" * 64), "line 1 is not base64; make a key with: "),
        (b"\xff\xfe\x00binary", "line 1 is not base64; make a key with: "),
        (line(bytes(64)), "line 1 is not random: most of its bytes repeat; make a key with: "),
        (line(ONE[:16] * 4), "line 1 is not random: most of its bytes repeat; make a key with: "),
        (
            line(b"correct horse battery staple, correct horse battery staple, okay"),
            "line 1 is not random: most of its bytes repeat; make ",
        ),
        (line(ONE) + line(TWO) + line(ONE), "line 3 is a key that is there already; take one of them out"),
        (b"".join(line(os.urandom(64)) for _ in range(KEYS + 1)), "line 9 is one key too many, 8 are allowed; take out old ones"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_what_to_do(text, says):
    with pytest.raises(BadKeys) as caught:
        parse_keys(text)
    assert str(caught.value).startswith(says)


def test_as_many_keys_as_are_allowed_are_taken():
    assert len(ids(b"".join(line(os.urandom(64)) for _ in range(KEYS)))) == KEYS


@given(st.integers(0, 63), st.binary(min_size=1, max_size=20))
def test_no_part_of_a_key_is_in_what_is_said_of_it(cut, more):
    """Broken as by a slip of the hand: a piece missing, something typed into it, or the whole of it twice."""
    written = base64.b64encode(ONE)
    for broken in (written[:cut], written[:cut] + more + written[cut:], written + written, line(ONE) * 2):
        try:
            parse_keys(broken)
        except BadKeys as wrong:
            said = f"{wrong!r} {wrong.__cause__!r}".encode()
            assert not any(written[i : i + 8] in said or ONE[i : i + 6] in said for i in range(0, 56, 4))


@given(st.binary(max_size=400))
def test_any_bytes_are_keys_or_bad_keys(text):
    try:
        count, said = len(parse_keys(text)), ""
    except BadKeys as wrong:
        count, said = 1, str(wrong)
    assert 1 <= count <= KEYS
    assert said.isprintable()


def test_random_keys_are_never_taken_for_weak_ones():
    """Of 64 random bytes, fewer than DISTINCT_BYTES are different with a chance that one may forget: by the exact count."""
    ways = [1] + [0] * 64  # ways[k]: of so many draws, those with k different bytes, of 256**draws
    for _ in range(64):
        ways = [0, *(ways[k] * k + ways[k - 1] * (256 - (k - 1)) for k in range(1, 65))]
    assert sum(ways) == 256**64
    assert sum(ways[:DISTINCT_BYTES]) * 10**15 < 256**64
