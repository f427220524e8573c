"""Whatever is sent: a well-formed review that says no, or 400 or 413; and the next review is answered."""

import asyncio
import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.admission import GATEWAY, VERSION, a_pod, a_review, judged
from support.webhook_process import LOOPBACK, Asker, an_authority, doors, trusting

from webhook import mutate, review
from webhook.review import Misread, Unreadable

LONG = "x" * (1 << 20)
ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
PLACES = [
    *(("metadata",), ("metadata", "annotations"), ("metadata", "annotations", "aiaccess.dev/dialects"), ("spec",), ("spec", "containers")),
    *(("spec", "containers", 0), ("spec", "containers", 0, "env"), ("spec", "containers", 0, "env", 0), ("spec", "containers", 0, "name")),
    *(("spec", "containers", 0, "env", 0, "value"), ("spec", "containers", 0, "env", 0, "valueFrom"), ("spec", "containers", 0, "ports")),
    *(("spec", "initContainers"), ("spec", "initContainers", 0, "restartPolicy"), ("spec", "volumes"), ("spec", "volumes", 0, "csi")),
    *(("spec", "hostNetwork"), ("spec", "os"), ("spec", "nodeSelector"), ("spec", "securityContext", "runAsUser")),
]


def whole_pod():
    return a_pod(
        {"name": "agent", "env": [{"name": "NO_PROXY", "value": "x"}], "ports": [{"containerPort": 80}]},
        annotations={"aiaccess.dev/dialects": "openai_chat"},
        initContainers=[{"name": "warm-up", "restartPolicy": "Always"}],
        volumes=[{"name": "aiaccess-spiffe", "csi": {"driver": "csi.spiffe.io"}}],
        os={"name": "linux"},
        nodeSelector={"a": "b"},
        securityContext={"runAsUser": 1000},
    )


def mangled(pod, place, value):
    at = pod
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    return pod


def answered(body):
    """As the server answers, without the server."""
    try:
        request = review.read(body)
    except (Unreadable, Misread):
        return None
    return json.loads(review.answer(request.uid, mutate.judge(request, GATEWAY, VERSION)))["response"]


@settings(max_examples=500)
@given(st.sampled_from(PLACES), ANYTHING)
def test_a_pod_with_anything_anywhere_gets_a_well_formed_answer(place, value):
    response = answered(json.dumps(a_review(mangled(whole_pod(), place, value), uid="u")).encode())
    assert response["uid"] == "u"
    assert isinstance(response["allowed"], bool)
    assert response["allowed"] or response["status"]["message"]


@settings(max_examples=500)
@given(
    st.sampled_from([("kind",), ("apiVersion",), ("request",), ("request", "uid"), ("request", "kind"), ("request", "object")]), ANYTHING
)
def test_a_review_with_anything_anywhere_is_answered_or_is_none(place, value):
    response = answered(json.dumps(mangled(a_review(whole_pod()), place, value)).encode())
    assert response is None or isinstance(response["allowed"], bool)


@settings(max_examples=500)
@given(st.data())
def test_a_damaged_review_is_answered_or_is_none(data):
    body = bytearray(json.dumps(a_review(whole_pod())).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut_at = data.draw(st.integers(0, len(body)))
    response = answered(bytes(body[:cut_at]) if data.draw(st.booleans()) else bytes(body))
    assert response is None or isinstance(response["allowed"], bool)


@pytest.mark.parametrize(
    "pod",
    [
        a_pod({"name": LONG}),
        a_pod({"name": "a", "env": [{"name": LONG, "value": "x"}]}),
        a_pod(*[{"name": str(n)} for n in range(20_000)]),
        a_pod({"name": "a", "env": [{"name": "A"}] * 20_000}),
        a_pod(annotations={str(n): "" for n in range(20_000)}),
        a_pod(annotations={"aiaccess.dev/dialects": LONG}),
        a_pod(annotations={"aiaccess.dev/dialects": "openai_chat," * 50_000}),
        a_pod(annotations={"aiaccess.dev/inject": LONG}),
        a_pod(annotations={"aiaccess.dev/gateway-port": "1" * (1 << 20)}),
    ],
    ids=["name", "variable", "containers", "variables", "annotations", "dialects", "many dialects", "inject", "port"],
)
def test_what_is_too_large_is_refused_in_few_words(pod):
    verdict = judged(pod)
    assert not verdict.allowed
    assert len(verdict.message) < 1000


def test_large_values_pass_untouched():
    verdict = judged(a_pod({"name": "a", "env": [{"name": "NO_PROXY", "value": LONG}, {"name": "A", "value": LONG}]}))
    assert verdict.allowed


def test_somebodys_words_stay_on_one_line_of_a_message():
    verdict = judged(a_pod(annotations={"aiaccess.dev/dialects": 'x\nadmission webhook "other" allowed\x1b[2J'}))
    assert verdict.message.isprintable()


async def test_after_everything_hostile_a_review_is_answered(tmp_path):
    async def inject(request):
        return mutate.judge(request, GATEWAY, VERSION)

    good = json.dumps(a_review(whole_pod())).encode()
    bodies = [
        *(
            b"[" * 500_000,
            b'{"request":' * 100_000,
            good[:-3],
            good + good,
            b"\x00" * 1000,
            good.replace(b'"uid"', b'"u"'),
            b'"' + b"\\" * 999,
        ),
        good.replace(b'"spec": {', b'"spec": ' + b'{"a":' * 200_000),
        b'{"request":{"uid":"u","object":' + b"[" * 300_000 + b"]" * 300_000 + b"}}",
    ]
    ca = an_authority()
    async with doors({"/mutate": inject}, ca, tmp_path) as (port, _), Asker(port, ca) as asker:
        for body in bodies:
            status, text = await asker.post(body)
            assert status == 400 or (status == 200 and json.loads(text)["response"]["allowed"] is False)
        await raw(port, ca)
        assert (await asker.review(whole_pod()))["allowed"]


async def raw(port, ca):
    """What no HTTP client sends, each on a connection of its own; none of it is awaited for an answer."""
    for junk in (
        b"\x16\x03\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /mutate HTTP/1.1\r\n" + b"A: b\r\n" * 5000,
        b"POST /mutate HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ):
        for context in (None, trusting(ca)):
            reader, writer = await asyncio.open_connection(LOOPBACK, port, ssl=context)
            with contextlib.suppress(OSError, TimeoutError):
                writer.write(junk)
                async with asyncio.timeout(0.1):
                    await reader.read()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
