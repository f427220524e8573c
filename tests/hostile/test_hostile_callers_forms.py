"""Forms that two parsers could read in two ways, that are many or large in the wrong place, or slow: refused at both doors, and nobody waits.

What an honest form is, and each single fault, is in tests/broker/test_forms.py; here they meet real processes.
"""

import asyncio

import pytest
from support.hostile_requests import ask, at
from support.hostile_run import each
from support.raw_http import statuses

both = pytest.mark.parametrize("door", ["broker", "gateway"])

HEAD = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: @\r\nContent-Type: %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
TYPE = b"multipart/form-data; boundary=B"


def part(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'--B\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name, more, value)


def request(body: bytes, content_type: bytes = TYPE) -> bytes:
    return HEAD % (content_type, len(body)) + body


MODEL, SOUND, END = part(b"model", b"gpt"), part(b"file", b"RIFF", b'; filename="a.wav"'), b"--B--\r\n"
OTHER = part(b"model", b"ungranted")
HONEST = request(MODEL + SOUND + END)

FORMS = {
    "two models": request(MODEL + OTHER + SOUND + END),
    "a second model by another spelling": request(MODEL + OTHER.replace(b'"model"', b"model") + SOUND + END),
    "a second model in capitals": request(MODEL + OTHER.replace(b"model", b"MODEL") + SOUND + END),
    "a second model in brackets": request(MODEL + OTHER.replace(b"model", b"model[]") + SOUND + END),
    "a second model that is a file": request(MODEL + part(b"model", b"ungranted", b'; filename="m"') + SOUND + END),
    "a second model by an extended name": request(MODEL + OTHER.replace(b'name="model"', b"name*=utf-8''model") + SOUND + END),
    "a second model before the form": request(OTHER[5:] + MODEL + SOUND + END),
    "a second model behind the form": request(MODEL + SOUND + END + OTHER + END),
    "a second form behind the form": request(MODEL + SOUND + END + MODEL + SOUND + END),
    "a form within a form": request(MODEL + SOUND.replace(b"\r\n\r\n", b"\r\nContent-Type: multipart/mixed; boundary=C\r\n\r\n") + END),
    "base64": request(MODEL.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + SOUND + END),
    "UTF-7": request(MODEL.replace(b"\r\n\r\n", b"\r\nContent-Type: text/plain; charset=utf-7\r\n\r\n") + SOUND + END),
    "a charset for all": request(part(b"_charset_", b"utf-16") + MODEL + SOUND + END),
    "bare LFs": request((MODEL + SOUND + END).replace(b"\r\n", b"\n")),
    "no last boundary": request(MODEL + SOUND),
    "two boundaries": request(MODEL + SOUND + END, TYPE + b"; boundary=C"),
    "a long boundary": request((MODEL + SOUND + END).replace(b"--B", b"--" + b"B" * 71), TYPE + b"B" * 70),
    "another boundary": request(MODEL + SOUND + END, b"multipart/form-data; boundary=C"),
    "a JSON body": request(b'{"model":"gpt"}'),
    "a form that says it is JSON": request(MODEL + SOUND + END, b"application/json"),
    "a thousand parts": request(MODEL * 1000 + SOUND + END),
    "a million boundaries": request(b"--B\r\n" * 1_000_000),
    "a head of a megabyte": request(MODEL.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n") + SOUND + END),
    "ten thousand headers": request(MODEL.replace(b"\r\n\r\n", b"\r\nX: y" * 10_000 + b"\r\n\r\n") + SOUND + END),
    "a field of a megabyte": request(MODEL + part(b"prompt", b"x" * (1 << 20)) + SOUND + END),
    "nearly boundaries": request(b"\r\n--" * 2_000_000),
}


@both
async def test_what_two_parsers_could_read_in_two_ways_is_refused_as_a_form_too(doors, tally, door):
    async def one(name: str) -> None:
        with tally.tried("forms", at=door):
            got = await doors.send(door, at(FORMS[name], doors.port(door)))
            assert statuses(got) == [400]
            assert b'"bad_request"' in got
            assert doors.provider.seen == []

    await each(FORMS, one)


@both
async def test_an_honest_form_passes(doors, door):
    """Without this the rest would prove nothing."""
    assert statuses(await doors.send(door, at(HONEST, doors.port(door)))) == [200]
    (seen,) = doors.provider.seen
    assert seen.target == "/v1/audio/transcriptions"
    assert b"--B" not in seen.body


@both
async def test_a_chat_is_not_asked_as_a_form(doors, tally, door):
    with tally.tried("forms", at=door):
        raw = HONEST.replace(b"/v1/audio/transcriptions", b"/v1/chat/completions")
        got = await doors.send(door, at(raw, doors.port(door)))
        assert statuses(got) == [400]
        assert doors.provider.seen == []


@both
async def test_large_forms_keep_nobody_waiting(doors, tally, door):
    """Judging 31 MiB that look like boundaries all along takes the broker less time than anybody minds."""
    body = MODEL + part(b"file", b"\r\n--" * ((31 << 20) // 4), b'; filename="a.wav"') + END
    with tally.tried("forms", at=door):
        large = asyncio.create_task(doors.send(door, at(request(body), doors.port(door))))
        small = await doors.send(door, at(ask("openai", b"gpt"), doors.port(door)))
        assert statuses(small) == [200]
        assert statuses(await large) == [200]
        assert max(len(seen.body) for seen in doors.provider.seen) > 31 << 20
