"""What seals an id opens it, for the same owner as the same kind; anything else is refused, and the refusal does not say why."""

import os
import re
import string
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import fields, replace

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.sealing import RAW_ID_CHARS, SEALED_CHARS, Home, Key, Kind, NotYours, Seals, Unsealable
from broker.sealing.seals import PURPOSE, VERSION

OWNER = "spiffe://example.org/ns/team1/sa/weather-agent"
HOME = Home("team1", "gpt-4o", "team1/openai", "https://api.openai.com:443/v1", "gpt-4o-2024-05-13")
RAW = "resp_68af4030592c81938ec0a5fbab4a3e9f05438e46b5f69a3b"
KEY, NEXT_KEY = Key(bytes(range(64))), Key(bytes(range(1, 65)))
SEALS = Seals([KEY])

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)
owners = st.text(alphabet=string.ascii_letters + "/:.-", min_size=1, max_size=60)
homes = st.builds(Home, texts, texts, texts, texts, texts)
kinds = st.sampled_from(Kind)
visible = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "/")
raws = st.text(alphabet=visible, min_size=1, max_size=80).filter(lambda raw: raw.strip("."))


def refused(seals: Seals, owner: str, kind: Kind, sealed: str) -> bool:
    """That it is, and by an error that is like every other one."""
    with pytest.raises(NotYours) as caught:
        seals.open(owner, kind, sealed)
    error = caught.value
    return (type(error), error.args, error.__cause__, error.__context__) == (NotYours, (), None, None)


def blob_of(sealed: str) -> bytes:
    text = sealed.partition("_")[2]
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sealed_of(prefix: str, blob: bytes) -> str:
    return f"{prefix}_{urlsafe_b64encode(blob).decode().rstrip('=')}"


@given(owners, kinds, homes, raws)
def test_what_was_sealed_opens_for_its_owner(owner, kind, home, raw):
    assert SEALS.open(owner, kind, SEALS.seal(owner, kind, home, raw)) == (home, raw)


@given(owners, kinds, homes, raws)
def test_the_same_id_is_sealed_alike_by_every_broker_with_the_key(owner, kind, home, raw):
    assert SEALS.seal(owner, kind, home, raw) == Seals([Key(bytes(range(64))), NEXT_KEY]).seal(owner, kind, home, raw)


@given(st.data())
def test_no_bit_of_a_sealed_id_can_be_changed(data):
    sealed = SEALS.seal(OWNER, data.draw(kinds), HOME, data.draw(raws))
    bits = data.draw(st.integers(0, 8 * len(sealed) - 1))
    place, bit = divmod(bits, 8)
    altered = sealed[:place] + chr(ord(sealed[place]) ^ 1 << bit) + sealed[place + 1 :]
    assert all(refused(SEALS, OWNER, kind, altered) for kind in Kind)


def test_no_bit_at_all_of_one_sealed_id_can_be_changed():
    sealed = SEALS.seal(OWNER, Kind.RESPONSE, HOME, RAW)
    for place, sign in enumerate(sealed):
        for bit in range(8):
            altered = sealed[:place] + chr(ord(sign) ^ 1 << bit) + sealed[place + 1 :]
            assert refused(SEALS, OWNER, Kind.RESPONSE, altered), altered


@given(raws)
def test_no_other_text_of_the_same_bytes_opens(raw):
    """Base64 leaves up to four bits of its last sign unused, may be padded, and some readers pass over what is not of its alphabet."""
    sealed = SEALS.seal(OWNER, Kind.ITEM, HOME, raw)
    last = [sealed[:-1] + sign for sign in string.ascii_letters + string.digits + "-_" if sign != sealed[-1]]
    others = [*last, sealed + "=", sealed + "==", sealed + "\n", sealed + " ", sealed[:-4] + "." + sealed[-4:]]
    assert all(refused(SEALS, OWNER, Kind.ITEM, other) for other in others)


@given(owners, owners, raws)
@example(OWNER, OWNER + "/", RAW)
@example("a", "aa", RAW)
def test_nobody_else_opens_it(owner, other, raw):
    sealed = SEALS.seal(owner, Kind.RESPONSE, HOME, raw)
    assert owner == other or refused(SEALS, other, Kind.RESPONSE, sealed)


@pytest.mark.parametrize("made", Kind)
@pytest.mark.parametrize("taken", Kind)
def test_it_opens_as_its_own_kind_alone(made, taken):
    sealed = SEALS.seal(OWNER, made, HOME, RAW)
    assert (SEALS.open(OWNER, made, sealed) == (HOME, RAW)) if made is taken else refused(SEALS, OWNER, taken, sealed)


def test_what_stands_before_it_belongs_to_it():
    sealed = SEALS.seal(OWNER, Kind.RESPONSE, HOME, RAW)
    assert refused(SEALS, OWNER, Kind.RESPONSE, "msg_" + sealed.partition("_")[2])


@given(st.sampled_from(fields(Home)), texts)
def test_an_id_of_another_home_is_another_one_and_says_which_home(field, text):
    other = replace(HOME, **{field.name: text})
    one, two = SEALS.seal(OWNER, Kind.RESPONSE, HOME, RAW), SEALS.seal(OWNER, Kind.RESPONSE, other, RAW)
    assert (one == two) is (other == HOME)
    assert SEALS.open(OWNER, Kind.RESPONSE, two)[0] == other


@given(st.data())
def test_parts_of_two_sealed_ids_are_no_third_one(data):
    """The tag of one before the rest of the other, cut anywhere: what one owner may put together from his own."""
    one, two = (blob_of(SEALS.seal(OWNER, Kind.RESPONSE, HOME, raw)) for raw in (RAW, RAW[:-1] + "0"))
    cut = data.draw(st.integers(6, len(one) - 1))
    forged = one[:cut] + two[cut:]
    assert forged in (one, two) or refused(SEALS, OWNER, Kind.RESPONSE, sealed_of("resp", forged))


def test_one_of_another_version_is_refused_even_when_it_was_sealed_with_the_key():
    version, *_ = VERSION
    blob = blob_of(SEALS.seal(OWNER, Kind.RESPONSE, HOME, RAW))
    assert refused(SEALS, OWNER, Kind.RESPONSE, sealed_of("resp", bytes([version + 1]) + blob[1:]))


def test_one_sealed_for_another_purpose_with_the_same_key_is_refused():
    plaintext = msgspec.msgpack.encode((*(getattr(HOME, field.name) for field in fields(Home)), RAW))
    owner, kind = OWNER.encode(), Kind.RESPONSE.encode()
    of_ours = VERSION + KEY.id + KEY.encrypt(plaintext, [PURPOSE, owner, kind, b"resp"])
    assert SEALS.open(OWNER, Kind.RESPONSE, sealed_of("resp", of_ours)) == (HOME, RAW)  # so only the purpose differs below
    for others in ([b"another", owner, kind, b"resp"], [PURPOSE, owner + kind, b"", b"resp"], [PURPOSE, owner, kind], []):
        blob = VERSION + KEY.id + KEY.encrypt(plaintext, others)
        assert refused(SEALS, OWNER, Kind.RESPONSE, sealed_of("resp", blob))


@given(st.text(max_size=100))
@example("")
@example("_")
@example("resp_")
@example(RAW)
@example("resp_AQ")
@example("résp_" + "A" * 90)
@example("resp_" + "A" * 90)
@example("resp_\ud800")
@example("resp_" + "é" * 90)
def test_what_was_never_sealed_is_refused(text):
    assert refused(SEALS, OWNER, Kind.RESPONSE, text)


@given(st.binary(max_size=120))
def test_bytes_under_the_id_of_the_key_are_refused(blob):
    assert refused(SEALS, OWNER, Kind.RESPONSE, sealed_of("resp", VERSION + KEY.id + blob))


def test_nothing_is_decrypted_of_what_is_too_long(monkeypatch):
    asked = []
    monkeypatch.setattr(Key, "decrypt", lambda *args: asked.append(args))
    start = SEALS.seal(OWNER, Kind.RESPONSE, HOME, RAW)
    assert refused(SEALS, OWNER, Kind.RESPONSE, start + "A" * (SEALED_CHARS + 4))
    assert asked == []


@pytest.mark.parametrize(
    ("raw", "prefix"),
    [
        ("resp_1", "resp"),
        ("msg_abc_def", "msg"),
        ("rs_1", "rs"),
        ("cntr_1", "cntr"),
        ("chatcmpl-9xYz", "chatcmpl"),
        ("file-abc", "file"),
        ("Resp_1", "id"),
        ("a1_1", "id"),
        ("_1", "id"),
        ("0123", "id"),
        ("resp", "id"),
        ("abcdefghijklmnop_1", "abcdefghijklmnop"),
        ("abcdefghijklmnopq_1", "id"),
    ],
)
def test_it_keeps_the_prefix_that_programs_look_at(raw, prefix):
    sealed = SEALS.seal(OWNER, Kind.ITEM, HOME, raw)
    assert re.fullmatch(rf"{prefix}_[A-Za-z0-9_-]+", sealed)
    assert SEALS.open(OWNER, Kind.ITEM, sealed) == (HOME, raw)


@pytest.mark.parametrize(
    "raw", ["", ".", "..", "...", "a/b", "/", "../x", "a b", "a\nb", "a\0", "a\x7f", "é", "a\n", "x" * (RAW_ID_CHARS + 1)], ids=repr
)
def test_an_id_that_could_lead_elsewhere_in_a_path_is_not_sealed(raw):
    with pytest.raises(Unsealable):
        SEALS.seal(OWNER, Kind.ITEM, HOME, raw)


def test_the_longest_id_can_be_sealed_and_one_whose_home_is_too_long_not():
    raw = "resp_" + "x" * (RAW_ID_CHARS - 5)
    sealed = SEALS.seal(OWNER, Kind.ITEM, HOME, raw)
    assert SEALS.open(OWNER, Kind.ITEM, sealed) == (HOME, raw)
    longest = replace(HOME, endpoint="x" * (len(HOME.endpoint) + (SEALED_CHARS - len(sealed)) * 3 // 4 - 2))
    assert SEALS.open(OWNER, Kind.ITEM, SEALS.seal(OWNER, Kind.ITEM, longest, raw)) == (longest, raw)
    with pytest.raises(Unsealable, match="2048"):
        SEALS.seal(OWNER, Kind.ITEM, replace(HOME, endpoint="x" * 1500), raw)


def test_nothing_of_a_home_or_a_raw_id_can_be_read_in_a_sealed_id():
    canary = "canary-7b1e"
    sealed = SEALS.seal(OWNER, Kind.RESPONSE, Home(*[canary] * 5), canary)
    blob = blob_of(sealed)
    assert canary.encode() not in blob
    assert canary not in sealed


def test_without_an_owner_nothing_is_sealed_or_opened():
    with pytest.raises(ValueError, match="owner"):
        SEALS.seal("", Kind.RESPONSE, HOME, RAW)
    with pytest.raises(ValueError, match="owner"):
        SEALS.open("", Kind.RESPONSE, RAW)


def test_without_a_key_there_are_no_seals():
    with pytest.raises(ValueError, match="no key"):
        Seals([])


def test_a_rotation_with_overlap_loses_nothing_at_any_replica():
    """The procedure of docs/install.md: the new key last, then first, then alone; two replicas, of which one is always a step behind."""
    old, both, turned, new = (KEY,), (KEY, NEXT_KEY), (NEXT_KEY, KEY), (NEXT_KEY,)
    of_old = Seals(old).seal(OWNER, Kind.RESPONSE, HOME, RAW)
    of_new = Seals(new).seal(OWNER, Kind.RESPONSE, HOME, RAW)
    for ahead, behind in ((both, old), (turned, both), (new, turned)):
        for sealing, opening in ((ahead, behind), (behind, ahead)):
            made = Seals(sealing).seal(OWNER, Kind.RESPONSE, HOME, RAW)
            if (sealing, opening) == (turned, new):
                assert made == of_new
            assert Seals(opening).open(OWNER, Kind.RESPONSE, made) == (HOME, RAW)
    assert Seals(turned).open(OWNER, Kind.RESPONSE, of_old) == (HOME, RAW)
    assert refused(Seals(new), OWNER, Kind.RESPONSE, of_old)
    assert of_old != of_new


def test_replaced_keys_are_those_of_the_next_call():
    seals = Seals([KEY])
    before = seals.seal(OWNER, Kind.RESPONSE, HOME, RAW)
    seals.replace([NEXT_KEY])
    assert refused(seals, OWNER, Kind.RESPONSE, before)
    assert seals.seal(OWNER, Kind.RESPONSE, HOME, RAW) == Seals([NEXT_KEY]).seal(OWNER, Kind.RESPONSE, HOME, RAW)
    with pytest.raises(ValueError, match="no key"):
        seals.replace([])
    assert seals.open(OWNER, Kind.RESPONSE, seals.seal(OWNER, Kind.RESPONSE, HOME, RAW)) == (HOME, RAW)


def test_a_key_of_the_same_id_but_other_bytes_opens_nothing(monkeypatch):
    """Four bytes name a key; they do not make it one."""
    stranger = Key(os.urandom(64))
    sealed = SEALS.seal(OWNER, Kind.RESPONSE, HOME, RAW)
    monkeypatch.setattr(stranger, "id", KEY.id)
    assert refused(Seals([stranger]), OWNER, Kind.RESPONSE, sealed)


def test_no_repr_shows_a_key():
    secret = bytes(range(64))
    for shown in (repr(KEY), repr(SEALS), str(KEY), f"{SEALS}"):
        assert secret.hex()[:16] not in shown
        assert str(secret)[2:20] not in shown
    assert repr(SEALS) == f"Seals({KEY.id.hex()})"
    assert repr(KEY) == f"Key({KEY.id.hex()})"
