"""Forms: what real clients write is read, what could be read in two ways is not, and what goes out is what was judged."""

import asyncio
import subprocess
from dataclasses import replace
from email.parser import BytesParser
from email.policy import HTTP
from functools import cache

import aiohttp
import httpx2
import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from support.aimock import NODE

from broker.errors import BadRequest
from broker.forms import HEAD_BYTES, OCTETS, PARTS_MAX, TEXT_BYTES, Form, Part, read

TYPE = b"multipart/form-data; boundary=B"
SOUND = bytes(range(256)) * 3 + b"\r\n--\r\n--almost\r\n"
OURS = "0123456789abcdef0123456789abcdef"


def field(name, value, *headers):
    return b"--B\r\n" + b"\r\n".join((b'Content-Disposition: form-data; name="%b"' % name, *headers)) + b"\r\n\r\n" + value + b"\r\n"


MODEL = field(b"model", b"m")
END = b"--B--\r\n"


def seen(parts):
    return [(part.name, part.filename, part.media_type, bytes(part.value)) for part in parts]


def written(parts, boundary=OURS):
    return b"".join(Form(parts).pieces(boundary))


# -- real clients
def by_httpx():
    asked = httpx2.Request("POST", "http://x", data={"model": "m", "list[]": ["a", "b"]}, files={"file": ('a é".wav', SOUND, "audio/wav")})
    return asked.headers["content-type"].encode(), asked.read()


def by_urllib3():
    fields = [("model", "m"), ("list[]", "a"), ("list[]", "b"), ("file", ('a é".wav', SOUND, "audio/wav"))]
    body, content_type = urllib3.encode_multipart_formdata(fields)
    return content_type.encode(), body


def by_aiohttp():
    class Sink:
        def __init__(self):
            self.body = b""

        async def write(self, data):
            self.body += bytes(data)

    async def make():
        form = aiohttp.FormData()
        form.add_field("model", "m")
        form.add_field("list[]", "a")
        form.add_field("list[]", "b")
        form.add_field("file", SOUND, filename='a é".wav', content_type="audio/wav")
        payload, sink = form(), Sink()
        await payload.write(sink)
        return payload.headers["Content-Type"].encode(), sink.body

    return asyncio.run(make())


@cache
def by_node():
    script = """
    const form = new FormData();
    form.append("model", "m"); form.append("list[]", "a"); form.append("list[]", "b");
    form.append("file", new Blob([Buffer.from(process.argv[1], "hex")], {type: "audio/wav"}), 'a é".wav');
    const asked = new Request("http://x", {method: "POST", body: form});
    asked.arrayBuffer().then(body => console.log(asked.headers.get("content-type") + "\\n" + Buffer.from(body).toString("hex")));
    """
    said = subprocess.run([NODE, "-e", script, SOUND.hex()], capture_output=True, text=True, check=True, timeout=60).stdout
    content_type, body = said.splitlines()
    return content_type.encode(), bytes.fromhex(body)


CLIENTS = {"httpx": by_httpx, "urllib3": by_urllib3, "aiohttp": by_aiohttp, "Node.js": by_node}


@pytest.mark.parametrize("client", CLIENTS)
def test_what_a_client_writes_is_read(client):
    content_type, body = CLIENTS[client]()
    *fields, file = read(body, content_type)
    assert [(part.name, part.text()) for part in fields] == [("model", "m"), ("list[]", "a"), ("list[]", "b")]
    assert (file.name, file.media_type, bytes(file.value)) == ("file", "audio/wav", SOUND)
    assert file.filename.endswith(".wav")


WRITTEN_BY = {
    ".NET, which quotes nothing": b"--B\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model\r\n\r\nm\r\n--B\r\nContent-Type: audio/wav\r\nContent-Disposition: form-data; name=file; filename=a.wav\r\n\r\nx\r\n--B--\r\n",
    "OkHttp, which says lengths": b'--B\r\nContent-Disposition: form-data; name="model"\r\nContent-Length: 1\r\n\r\nm\r\n--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\nContent-Length: 1\r\n\r\nx\r\n--B--\r\n',
    "curl": b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nx\r\n--B--\r\n',
    "Go": b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nx\r\n--B--\r\n',
    "one that ends without an end of line": b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--B\r\nContent-Disposition:form-data;filename="a.wav";name="file"\r\ncontent-type:AUDIO/Wav;codecs=1\r\n\r\nx\r\n--B--',
}


@pytest.mark.parametrize("client", WRITTEN_BY)
def test_what_another_client_is_known_to_write_is_read(client):
    model, file = seen(read(WRITTEN_BY[client], TYPE))
    assert (model[0], model[1], model[3]) == ("model", None, b"m")
    assert file == ("file", "a.wav", "audio/wav", b"x")


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data; boundary=B",
        b'Multipart/Form-Data;boundary="B"',
        b"multipart/form-data ; Boundary=B ",
    ],
)
def test_a_boundary_may_be_quoted(content_type):
    assert [part.name for part in read(MODEL + END, content_type)] == ["model"]


@pytest.mark.parametrize("boundary", [b"x" * 70, b"'()+_,-./:=?0", b"----WebKitFormBoundary7MA4YWxkTrZu0gW"])
def test_every_boundary_of_the_rfc_is_taken_but_one_with_a_space(boundary):
    body = (MODEL + END).replace(b"--B", b"--" + boundary)
    assert [part.name for part in read(body, b'multipart/form-data; boundary="%b"' % boundary)] == ["model"]


BOUNDARIES = {
    "none": b"multipart/form-data",
    "an empty one": b"multipart/form-data; boundary=",
    "71 letters": b"multipart/form-data; boundary=" + b"B" * 71,
    "a space": b'multipart/form-data; boundary="B B"',
    "a space at the end": b'multipart/form-data; boundary="B "',
    "a quote inside": b'multipart/form-data; boundary="B\\"B"',
    "half a quote": b'multipart/form-data; boundary="B',
    "two": b"multipart/form-data; boundary=B; boundary=C",
    "an extended one": b"multipart/form-data; boundary*=utf-8''B",
    "one in pieces": b"multipart/form-data; boundary*0=B; boundary*1=C",
    "a charset besides": b"multipart/form-data; charset=utf-7; boundary=B",
    "a charset behind": b"multipart/form-data; boundary=B; charset=utf-8",
    "a comma and another type": b"multipart/form-data; boundary=B, application/json",
    "beyond ASCII": b"multipart/form-data; boundary=B\xc3\xa9",
    "a tab inside": b"multipart/form-data; boundary=B\tB",
    "percent": b"multipart/form-data; boundary=%42",
}


@pytest.mark.parametrize("what", BOUNDARIES)
def test_a_boundary_that_can_be_read_in_two_ways_is_refused(what):
    with pytest.raises(BadRequest, match="boundary=B"):
        read(MODEL + END, BOUNDARIES[what])


@pytest.mark.parametrize("content_type", [b"", b"application/json", b"multipart/mixed; boundary=B", b"multipart/form-data-x; boundary=B"])
def test_what_is_no_form_is_told_to_be_one(content_type):
    with pytest.raises(BadRequest, match="multipart/form-data"):
        read(MODEL + END, content_type)


FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"'
REFUSED = {
    "nothing": (b"", "begin with its first boundary"),
    "something before the first boundary": (b"hello\r\n" + MODEL + END, "nothing before it"),
    "an empty line before the first boundary": (b"\r\n" + MODEL + END, "nothing before it"),
    "another boundary": ((MODEL + END).replace(b"--B", b"--C"), "that Content-Type names"),
    "no part": (END, "in a line with something else"),
    "no last boundary": (MODEL, "cut off"),
    "half a last boundary": (MODEL + b"--B-", "something else"),
    "half a last boundary and a line's end": (MODEL + b"--B-\r\n", "something else"),
    "a last boundary behind a bare LF": (MODEL[:-2] + b"\n" + END, "cut off"),
    "text behind the last boundary": (MODEL + END + b"bye", "nothing after it"),
    "an empty line behind the last boundary": (MODEL + END + b"\r\n", "nothing after it"),
    "a second form behind the last boundary": (MODEL + END + MODEL + END, "nothing after it"),
    "an LF behind the last boundary": (MODEL + b"--B--\n", "nothing after it"),
    "blanks behind a boundary": (MODEL.replace(b"--B\r\n", b"--B \r\n") + END, "something else"),
    "a bare LF behind a boundary": (MODEL.replace(b"--B\r\n", b"--B\n") + END, "something else"),
    "a boundary that begins a line of a value": (field(b"model", b"m\r\n--Bx") + END, "something else"),
    "no head": (b"--B\r\n\r\nm\r\n" + END, "no head"),
    "an empty part": (b"--B\r\n\r\n" + END, "no head"),
    "a head without an end": (b'--B\r\nContent-Disposition: form-data; name="model"\r\n' + END, "no head"),
    "a head that is too long": (field(b"model", b"m", b"Content-Type: text/plain;" + b"x" * HEAD_BYTES) + END, "no head"),
    "a head of bare LFs": (MODEL.replace(b"\r\n\r\n", b"\n\n") + END, "no head"),
    "a bare LF between headers": (field(b"model", b"m", b"X: y\nContent-Type: text/plain") + END, "on one line"),
    "a bare CR in a header": (field(b"model", b"m", b"Content-Type: text/plain\rX: y") + END, "on one line"),
    "a folded header": (field(b"model", b"m", b"Content-Type: text/plain;\r\n charset=utf-8") + END, "on one line"),
    "a NUL in a header": (field(b"model", b"m", b"Content-Type: text/plain\0") + END, "on one line"),
    "a header without a colon": (field(b"model", b"m", b"nonsense") + END, "on one line"),
    "a space before the colon": (field(b"model", b"m", b"Content-Type : text/plain") + END, "on one line"),
    "no Content-Disposition": (b"--B\r\nContent-Type: text/plain\r\n\r\nm\r\n" + END, "no Content-Disposition"),
    "two Content-Dispositions": (field(b"model", b"m", FILE) + END, "content-disposition twice"),
    "two Content-Types": (field(b"model", b"m", b"Content-Type: text/plain", b"content-type: text/plain") + END, "twice"),
    "an attachment": (MODEL.replace(b"form-data", b"attachment") + END, "no Content-Disposition"),
    "nothing but parameters": (MODEL.replace(b"form-data; ", b"; ") + END, "no Content-Disposition"),
    "no name": (MODEL.replace(b'; name="model"', b"") + END, "no Content-Disposition"),
    "an empty name": (field(b"", b"m") + END, "no Content-Disposition"),
    "a name beyond ASCII": (field("modèl".encode(), b"m") + END, "no Content-Disposition"),
    "a long name": (field(b"m" * 65, b"m") + END, "no Content-Disposition"),
    "two names": (MODEL.replace(b'name="model"', b'name="prompt"; name="model"') + END, "nothing besides"),
    "an extended name": (MODEL.replace(b'name="model"', b"name*=utf-8''model") + END, "nothing besides"),
    "a name in single quotes with a space": (MODEL.replace(b'name="model"', b"name='mo del'") + END, "no Content-Disposition"),
    "an escaped quote in a name": (MODEL.replace(b'"model"', b'"mo\\"del"') + END, "no Content-Disposition"),
    "filename*": (MODEL.replace(b'name="model"', b'name="file"; filename="a.wav"; filename*=utf-8\'\'b.wav') + END, "filename' alone"),
    "two filenames": (MODEL.replace(b'name="model"', b'name="file"; filename="a"; filename="b"') + END, "nothing besides"),
    "a size": (MODEL.replace(b'name="model"', b'name="model"; size=1') + END, "nothing besides"),
    "base64": (field(b"model", b"bQ==", b"Content-Transfer-Encoding: base64") + END, "content-transfer-encoding"),
    "an encoding that changes nothing": (field(b"model", b"m", b"Content-Transfer-Encoding: 8bit") + END, "content-transfer-encoding"),
    "gzip": (field(b"model", b"m", b"Content-Encoding: gzip") + END, "content-encoding"),
    "a header of another kind": (field(b"model", b"m", b"X-Model: n") + END, "x-model"),
    "a wrong length": (field(b"model", b"m", b"Content-Length: 2") + END, "Content-Length"),
    "a length with a sign": (field(b"model", b"m", b"Content-Length: +1") + END, "Content-Length"),
    "a form within": (field(b"model", b"m", b"Content-Type: multipart/mixed; boundary=C") + END, "form of its own"),
    "a message within": (field(b"model", b"m", b"Content-Type: message/rfc822") + END, "form of its own"),
    "UTF-7": (field(b"model", b"m", b"Content-Type: text/plain; charset=utf-7") + END, "encoded in UTF-8"),
    "UTF-16": (field(b"model", b"m", b'Content-Type: text/plain; charset="utf-16"') + END, "encoded in UTF-8"),
    "two charsets": (field(b"model", b"m", b"Content-Type: text/plain; charset=utf-8; charset=utf-7") + END, "encoded in UTF-8"),
    "a field that is JSON": (field(b"model", b"m", b"Content-Type: application/json") + END, "encoded in UTF-8"),
    "a type that is none": (field(b"model", b"m", b"Content-Type: text") + END, "TYPE/SUBTYPE"),
    "too many parts": (MODEL * (PARTS_MAX + 1) + END, f"more than {PARTS_MAX}"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(what):
    body, why = REFUSED[what]
    with pytest.raises(BadRequest, match=why):
        read(body, TYPE)


def test_as_many_parts_as_may_be_are_read():
    assert len(read(MODEL * PARTS_MAX + END, TYPE)) == PARTS_MAX


FILENAMES = {
    b"a.wav": "a.wav",
    b"../../etc/passwd": ".._.._etc_passwd",
    b"C:\\x.wav".replace(b"\\", b"/"): "C__x.wav",
    "für dich.mp3".encode(): "f_r_dich.mp3",
    b"a%22%0d%0aX: y.wav": "a_22_0d_0aX__y.wav",
    b"\xff\xfe.wav": "__.wav",
    b"": "_",
    b"x" * 300 + b".flac": "x" * 95 + ".flac",
}


@pytest.mark.parametrize("given_name", FILENAMES)
def test_of_a_filename_only_plain_letters_are_left(given_name):
    (part,) = read(b'--B\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\nx\r\n--B--' % given_name, TYPE)
    assert part.filename == FILENAMES[given_name]


TEXTS = {
    "a file": (Part("p", memoryview(b"x"), "a"), "has a filename"),
    "too long": (Part("p", memoryview(b"x" * (TEXT_BYTES + 1))), "longer than"),
    "no UTF-8": (Part("p", memoryview(b"\xff")), "UTF-8"),
    "half a pair": (Part("p", memoryview(b"\xed\xa0\x80")), "UTF-8"),
    "a NUL": (Part("p", memoryview(b"a\0b")), "NUL"),
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_field_is_a_short_text_in_utf8(what):
    part, why = TEXTS[what]
    with pytest.raises(BadRequest, match=why) as caught:
        part.text()
    assert caught.value.param == "p"


def test_the_bytes_of_a_file_are_never_copied():
    body = MODEL + field(b"file", b"x" * (1 << 20)).replace(b'name="file"', b'name="file"; filename="a.wav"') + END
    model, file = read(body, TYPE)
    assert file.value.obj is body
    before, value, after = Form([model, file]).pieces(OURS)
    assert value is file.value
    assert len(before) + len(after) < 500


names = st.text("abcdefgh_[]", min_size=1, max_size=12)
values = st.binary(max_size=80) | st.lists(
    st.sampled_from([b"\r\n", b"--", b"B", b"--B", b"\n", b"\r", OURS.encode()[:8], b"x"]), max_size=8
).map(b"".join)
some_parts = st.lists(
    st.builds(
        lambda name, value, filename, kind: Part(name, memoryview(value), filename, kind if filename is not None else ""),
        names,
        values,
        st.none() | st.text("abc.-_", min_size=1, max_size=9),
        st.sampled_from(["audio/wav", "application/octet-stream"]),
    ),
    min_size=1,
    max_size=5,
)


@given(some_parts)
def test_what_is_written_is_read_as_it_was_meant(parts):
    content_type = f"multipart/form-data; boundary={OURS}".encode()
    assert seen(read(written(parts), content_type)) == seen(parts)


@given(st.lists(st.tuples(names, st.text("abc é\n", max_size=20)), min_size=1, max_size=5))
def test_what_is_written_is_read_by_another_parser_as_it_was_meant(fields):
    body = written([Part(name, memoryview(value.encode())) for name, value in fields])
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: multipart/form-data; boundary=%b\r\n\r\n" % OURS.encode() + body)
    found = [
        (part.get_param("name", header="content-disposition"), part.get_payload(decode=True).decode()) for part in message.iter_parts()
    ]
    assert found == fields


@given(some_parts, st.binary(max_size=4), st.data())
def test_no_change_of_one_place_makes_a_form_mean_something_else_to_the_provider(parts, new, data):
    """Refused, or what goes out has the parts that were judged: whatever the caller's boundary can do, ours is not in reach."""
    body = written(parts, "B")
    at = data.draw(st.integers(0, len(body)))
    changed = body[:at] + new + body[at + data.draw(st.integers(0, 4)) :]
    try:
        judged = read(changed, TYPE)
    except BadRequest:
        return
    sent = written(judged)
    assert sent.count(b"--" + OURS.encode()) == len(judged) + 1
    meant = [replace(part, media_type="" if part.filename is None else part.media_type or OCTETS) for part in judged]
    assert seen(read(sent, f"multipart/form-data; boundary={OURS}".encode())) == seen(meant)
