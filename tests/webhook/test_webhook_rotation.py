"""What the authority and its certificate should be at a time."""

import base64
import datetime as dt
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from webhook import rotation
from webhook.authority import new_authority, new_leaf
from webhook.rotation import OVERLAP, Holding

RSA_KEY = rsa.generate_private_key(65537, 2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
NOW = dt.datetime(2026, 11, 21, 12, 0, tzinfo=dt.UTC)
NAMES = ("webhook.inference-broker.svc", "127.0.0.1")
DAY = dt.timedelta(days=1)
TICK = dt.timedelta(seconds=1)
FIRST = rotation.first(NAMES, NOW)


def after(it, *times):
    for time in times:
        it = rotation.following(it, NAMES, time)
    return it


def test_nothing_is_due_at_first():
    assert after(FIRST, NOW, NOW + DAY, NOW + 3 * DAY) is FIRST


def test_a_certificate_is_renewed_at_half_its_life_by_the_same_authority():
    later = after(FIRST, NOW + 3.5 * DAY + TICK)
    assert later.authority == FIRST.authority
    assert later.leaf != FIRST.leaf
    assert later.leaf.ends == NOW + 10.5 * DAY + TICK
    assert later.leaf.signed_by(FIRST.authority.certificate)


def test_other_names_are_another_certificate():
    later = rotation.following(FIRST, ("other.svc",), NOW)
    assert later.leaf.names() == ("other.svc",)
    assert later.authority == FIRST.authority


def test_the_next_authority_is_published_before_it_signs_anything():
    begins = NOW + 60 * DAY + TICK
    staged = after(FIRST, begins)
    assert staged.next is not None
    assert staged.authority == FIRST.authority
    assert staged.leaf.signed_by(FIRST.authority.certificate)
    assert {FIRST.authority.certificate, staged.next.certificate} == set(certificates(staged.published))
    assert after(staged, begins + OVERLAP - TICK) is staged


def test_the_next_authority_takes_over_and_the_one_before_stays_published():
    staged = after(FIRST, NOW + 61 * DAY)
    taken = after(staged, NOW + 61 * DAY + OVERLAP)
    assert taken.authority == staged.next
    assert taken.leaf.signed_by(staged.next.certificate)
    assert taken.next is None
    assert set(certificates(taken.published)) == {staged.next.certificate, FIRST.authority.certificate}
    assert staged.leaf.ends <= taken.previous_until  # whoever still serves the earlier one is believed


def test_the_one_before_goes_when_all_that_it_signed_has_ended():
    taken = after(FIRST, NOW + 61 * DAY, NOW + 61 * DAY + OVERLAP)
    assert certificates(after(taken, taken.previous_until - TICK).published)[1:] == [FIRST.authority.certificate]
    assert certificates(after(taken, taken.previous_until).published) == [taken.authority.certificate]


def test_two_rotations_in_one_week_keep_both_earlier_authorities():
    taken = after(FIRST, NOW + 61 * DAY, NOW + 61 * DAY + OVERLAP)
    again = after(rotation.with_next(taken, NOW + 62 * DAY), NOW + 62 * DAY + OVERLAP)
    assert certificates(again.published)[1:] == [taken.authority.certificate, FIRST.authority.certificate]


def test_a_successor_that_is_on_its_way_is_not_made_twice():
    staged = rotation.with_next(FIRST, NOW)
    assert rotation.with_next(staged, NOW + TICK) is staged


def test_after_a_long_sleep_the_published_successor_takes_over_or_all_begins_anew():
    staged = after(FIRST, NOW + 61 * DAY)
    assert after(staged, NOW + 100 * DAY).authority == staged.next
    assert after(staged, NOW + 400 * DAY).authority not in (staged.next, FIRST.authority)
    anew = after(FIRST, NOW + 90 * DAY)
    assert anew.leaf.ends == NOW + 97 * DAY
    assert certificates(anew.published) == [anew.authority.certificate]


def test_near_the_end_of_its_authority_a_certificate_is_not_made_again_and_again():
    authority = new_authority(NOW - 89 * DAY)
    late = Holding(authority, new_leaf(authority, NAMES, NOW - DAY), next=new_authority(NOW), next_from=NOW + 2 * DAY)
    assert late.leaf.ends == authority.ends
    assert after(late, NOW) is late


@pytest.mark.parametrize("days", range(0, 200, 7))
def test_at_every_time_the_certificate_is_good_and_its_authority_published(days):
    it = FIRST
    for day in range(days + 1):
        now = NOW + day * DAY
        it = after(it, now)
        assert it.leaf.signed_by(it.authority.certificate)
        assert it.authority.certificate in it.published
        assert it.leaf.begins <= now < it.leaf.ends


# -- in a Secret


def test_it_comes_back_from_a_secret_as_it_was():
    staged = after(FIRST, NOW + 61 * DAY)
    taken = after(staged, NOW + 61 * DAY + OVERLAP)
    for it in (FIRST, staged, taken):
        assert rotation.read(rotation.write(it)) == it


@pytest.mark.parametrize(
    "change",
    [
        {"tls.crt": None},
        {"ca.key": None},
        {"tls.crt": "!"},
        {"tls.key": rotation.write(FIRST)["ca.key"]},
        {"ca.key": rotation.write(FIRST)["tls.key"]},
        {"tls.crt": rotation.write(FIRST)["ca.crt"], "tls.key": rotation.write(FIRST)["ca.key"]},
        {"ca.key": base64.b64encode(RSA_KEY).decode()},
        {"tls.crt": base64.b64encode(b"no certificate").decode()},
        {"ca.crt": base64.b64encode(b"").decode()},
        {"next-from": base64.b64encode(b"2026-11-21T12:00:00+00:00").decode()},
        {"next-from": base64.b64encode(b"tomorrow").decode(), "next-ca.crt": "", "next-ca.key": ""},
        {"previous-until": base64.b64encode(b"2026-11-21T12:00:00").decode(), "previous-ca.crt": ""},
        {"previous-until": base64.b64encode(b"\xff").decode(), "previous-ca.crt": ""},
    ],
)
def test_a_secret_that_holds_something_else_is_told(change):
    data = {name: text for name, text in (rotation.write(FIRST) | change).items() if text is not None}
    with pytest.raises(ValueError, match="does not hold an authority and a certificate"):
        rotation.read(data)


@pytest.mark.parametrize("data", [None, {}, [], "text"])
def test_an_empty_secret_is_told(data):
    with pytest.raises(ValueError, match="does not hold"):
        rotation.read(data)


def test_no_key_is_in_a_repr_or_in_what_is_published():
    staged = rotation.with_next(FIRST, NOW)
    assert "PRIVATE" not in repr(replace(staged, previous=FIRST.authority.certificate))
    assert b"PRIVATE" not in staged.published


def certificates(text):
    end = b"-----END CERTIFICATE-----\n"
    return [part + end for part in text.split(end) if part]
