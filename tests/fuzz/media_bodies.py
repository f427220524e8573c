"""Forms with sound, and bodies that ask for pictures: what goes out is what was judged, one of each, for one model.

What goes out is read by another parser (Python's own, for mail), which is as lenient as one can be: it must find what we judged, and
nothing else. What came in is cut by a reader of a few lines that knows nothing of ours.
"""

import re
from email.parser import BytesParser
from email.policy import HTTP
from typing import Final

from fuzz.request_bodies import GRANTED, MODEL, Pairs, names, parsed

from broker.chat import UNBOUNDED, Options
from broker.dialects import openai_images, openai_transcriptions, openai_translations
from broker.errors import BadRequest, FeatureNotGranted
from broker.forms import Form

FORM_WORDS = (
    *("multipart/form-data; boundary=B\n", 'multipart/form-data; boundary="B"\n', "--B", "--B--", "\r\n", "\n", "\r", "\r\n\r\n", " ", ";"),
    *(
        'Content-Disposition: form-data; name="model"',
        'Content-Disposition: form-data; name="file"; filename="a.wav"',
        "Content-Type: ",
        "x",
    ),
    *(
        'name="prompt"',
        "name=model",
        '; filename="',
        "filename*=utf-8''b",
        "audio/wav",
        "text/plain; charset=",
        "utf-8",
        "utf-7",
        '"',
        "\\",
    ),
    *("multipart/mixed; boundary=C", "Content-Length: 1", "Content-Transfer-Encoding: base64", "response_format", "stream", "true", "text"),
    *('Content-Disposition: form-data; name="stream"', "known_speaker_references[]", "data:,x", "\0", "\t", "é", ":"),
)
IMAGE_WORDS = (
    *(
        '{"model":"m"',
        ',"prompt":"p"',
        ',"n":',
        "1",
        "2",
        "null",
        "true",
        "false",
        '"png"',
        '"gif"',
        ',"output_format":',
        ',"stream":',
        "}",
    ),
    *(
        ',"response_format":',
        '"url"',
        '"b64_json"',
        ',"svg":{"model":"x"}',
        ',"batch_size":4',
        ',"partial_images":',
        "0",
        "\\u006e",
        "\\ud800",
    ),
    *(',"size":"1024x1024"', ',"models":["x"]', ',"unheard_of":', "[" * 60, "1e999", ',"model":"n"', ',"n":1', "1.0", ","),
)
MEANT: Final = "fedcba9876543210fedcba9876543210"
NAME: Final = re.compile(rb';[ \t]*(?:filename=(?:"[^"]*"|[^;\r]*)[ \t]*;[ \t]*)?name=(?:"([^"]+)"|([^; \t\r]+))', re.IGNORECASE)


def check_form(data: bytes) -> None:
    """The first line is the Content-Type."""
    content_type, _, body = data.partition(b"\n")
    for dialect in (openai_transcriptions, openai_translations):
        try:
            question = dialect.read(body, content_type)
        except (BadRequest, FeatureNotGranted):
            continue
        assert question.demand(50, 4096) == UNBOUNDED
        came = cut(body)
        assert [value for name, value in came if name == "model"] == [question.model.encode()], "not the one model that is there"
        form = question.body(MODEL.replace('"', ""), GRANTED, Options())
        assert isinstance(form, Form)
        went = sent(form)
        assert [name for name, _ in went] == [name for name, _ in came]
        for (name, before), (_, after) in zip(came, went, strict=True):
            assert after == (MODEL.replace('"', "").encode() if name == "model" else before)


def cut(body: bytes) -> list[tuple[str, bytes]]:
    boundary = body[: body.index(b"\r\n")]
    pieces = (b"\r\n" + body).split(b"\r\n" + boundary)[1:-1]
    found: list[tuple[str, bytes]] = []
    for piece in pieces:
        head, _, value = piece.partition(b"\r\n\r\n")
        name = NAME.search(head)
        assert name, "accepted a part without a name"
        found.append(((name[1] or name[2]).decode(), value))
    return found


def sent(form: Form) -> list[tuple[str, bytes]]:
    body = b"".join(form.pieces(MEANT))
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: multipart/form-data; boundary=%b\r\n\r\n%b" % (MEANT.encode(), body))
    found: list[tuple[str, bytes]] = []
    for part in message.iter_parts():
        value = part.get_payload(decode=True)
        assert isinstance(value, bytes)
        found.append((str(part.get_param("name", header="content-disposition")), value))
    return found


def check_images(data: bytes) -> None:
    try:
        question = openai_images.read(data)
    except (BadRequest, FeatureNotGranted):
        return
    try:
        written = parsed(data)
    except RecursionError:
        return  # what is not judged may lie deeper than Python's json reads; it passes as it came
    assert isinstance(written, Pairs), "accepted what is no object"
    assert len(names(written)) == len(set(names(written))), "accepted a key twice"
    body = {name: value for name, value in written if value is not None and value is not False}
    assert set(body) <= openai_images.KNOWN
    assert body.get("n", "1") == "1"
    assert body.get("output_format", "png") in ("png", "webp", "jpeg")
    assert body.get("response_format", "b64_json") == "b64_json"
    assert isinstance(body["prompt"], str)
    assert "stream" not in body
    assert question.demand(50, 4096) == UNBOUNDED
    after = parsed(question.body(MODEL, GRANTED, Options()))
    assert isinstance(after, Pairs)
    assert dict(after) == {**dict(written), "model": MODEL}
