"""What leaves toward a provider, and what is kept from coming back. The doors' tests have the refusals; these have the bytes."""

import asyncio

import pytest
from support.fake_provider import LAST_CHUNK, FakeProvider, chunk, json_answer, sse_head
from support.web_ca import web_server_context

from broker.addresses import HostList, Off, parse_hosts
from broker.credentials import Credential, SecretRef
from broker.errors import Busy, NoBackend, ProviderTimeout
from broker.forms import Form, Part, read
from broker.grant import Endpoint, Provider
from broker.names import PLACEHOLDER_KEY
from broker.upstream import Answer, Failed, Upstream, refused

CANARY = "sk-canary-0123456789"
REF = SecretRef("team1", "key", "api-key")
LOOPBACK = parse_hosts(["127.0.0.1"])


def provider(port: int, kind: str = "OpenAI", auth: str = "APIKey", *, host: str = "127.0.0.1", scheme: str = "http", **more) -> Provider:
    secret = REF if auth in ("APIKey", "Inline") else None
    return Provider("team1", "p", kind, Endpoint(scheme, host, port, "/v1"), auth, secret, connect_s=2, first_byte_s=2, idle_s=2, **more)


class Calling:
    """An upstream whose secret is the canary, let go to the hosts of the annotation."""

    def __init__(self, port: int, annotation: str | None = None, allowed: HostList = LOOPBACK) -> None:
        self.secret: Credential | None = Credential(CANARY)
        self.annotation = f"http://127.0.0.1:{port}" if annotation is None else annotation
        self.upstream = Upstream(lambda _: (self.secret, self.annotation), allowed, Off())

    async def __aenter__(self) -> Upstream:
        return self.upstream

    async def __aexit__(self, *_: object) -> None:
        await self.upstream.close()


async def send(upstream: Upstream, to: Provider, headers=(), body: bytes = b"{}", path: str = "/chat/completions") -> Answer:
    return await upstream.send(to, path, list(headers), body)


async def failure(waits) -> Failed:
    with pytest.raises(Failed) as caught:
        await waits
    return caught.value


@pytest.mark.parametrize(
    ("kind", "header", "value"),
    [("OpenAI", b"authorization", b"Bearer "), ("Anthropic", b"x-api-key", b""), ("Mistral", b"authorization", b"Bearer ")],
)
async def test_exactly_one_credential_goes_out_and_it_is_ours(kind, header, value):
    theirs = [(b"authorization", b"Bearer theirs"), (b"x-api-key", b"theirs"), (b"api-key", b"theirs"), (b"x-goog-api-key", b"theirs")]
    async with FakeProvider(json_answer(b"{}")) as there, Calling(there.port) as upstream:
        got = await send(upstream, provider(there.port, kind), theirs)
        assert await got.whole() == b"{}"
        (seen,) = there.seen
        assert seen.header(header) == value + CANARY.encode()
        assert not any(b"theirs" in v for _, v in seen.headers)


async def test_of_the_callers_headers_only_those_that_the_provider_needs_go_on():
    mine = [
        (b"anthropic-version", b"2099-01-01"),
        (b"anthropic-beta", b"b"),
        (b"x-forwarded-for", b"1"),
        (b"idempotency-key", b"k"),
        (b"host", b"evil"),
    ]
    async with FakeProvider(json_answer(b"{}")) as there, Calling(there.port) as upstream:
        await send(upstream, provider(there.port, "Anthropic"), mine)
        (seen,) = there.seen
        assert {n for n, _ in seen.headers} == {
            *(b"host", b"content-type", b"accept-encoding", b"user-agent", b"content-length"),
            *(b"anthropic-version", b"anthropic-beta", b"x-api-key"),
        }
        assert seen.header(b"host") == f"127.0.0.1:{there.port}".encode()
        assert seen.header(b"accept-encoding") == b"identity"
        assert seen.header(b"anthropic-version") == b"2099-01-01"


async def test_headers_of_the_object_are_added_and_a_default_fills_a_gap():
    async with FakeProvider(json_answer(b"{}")) as there, Calling(there.port) as upstream:
        await send(upstream, provider(there.port, "Anthropic", headers=(("x-team", "one"),)))
        assert there.seen[0].header(b"x-team") == b"one"
        assert there.seen[0].header(b"anthropic-version") == b"2023-06-01"


async def test_passthrough_hands_on_the_callers_own_credential_and_none_of_ours():
    async with FakeProvider(json_answer(b"{}")) as there, Calling(there.port) as upstream:
        to = provider(there.port, auth="Passthrough")
        await send(upstream, to, [(b"authorization", b"Bearer own"), (b"x-api-key", b"second")])
        await send(upstream, to, [(b"authorization", b"Bearer " + PLACEHOLDER_KEY.encode())])
        assert there.seen[0].header(b"authorization") == b"Bearer own"
        assert there.seen[0].header(b"x-api-key") is None
        assert there.seen[1].header(b"authorization") is None


async def test_a_changed_secret_is_used_for_the_next_request():
    async with FakeProvider(json_answer(b"{}")) as there, Calling(there.port) as upstream:
        calling = Calling(there.port)
        for value in ("sk-first-000000", "sk-second-00000"):
            calling.secret = Credential(value)
            await send(calling.upstream, provider(there.port))
        await calling.upstream.close()
        assert [seen.header(b"authorization") for seen in there.seen] == [b"Bearer sk-first-000000", b"Bearer sk-second-00000"]
        assert upstream.opened == 0


@pytest.mark.parametrize("annotation", ["", "api.openai.com", "http://127.0.0.1:1", "127.0.0.1"])
async def test_a_key_goes_to_no_host_that_its_owner_did_not_name(annotation):
    async with FakeProvider(json_answer(b"{}")) as there, Calling(there.port, annotation) as upstream:
        failed = await failure(send(upstream, provider(there.port)))
        assert (failed.cause, type(failed.refusal)) == ("ConnectFailure", NoBackend)
        assert "does not let it go" in str(failed.refusal)
        assert there.connections == 0


async def test_a_key_that_is_gone_sends_nothing():
    async with FakeProvider(json_answer(b"{}")) as there:
        calling = Calling(there.port)
        calling.secret = None
        failed = await failure(send(calling.upstream, provider(there.port)))
        assert (failed.cause, type(failed.refusal)) == ("ConnectFailure", NoBackend)
        assert "missing" in str(failed.refusal)
        assert there.connections == 0


@pytest.mark.parametrize("own_service", [False, True])
async def test_an_address_that_the_operator_did_not_list_is_not_connected_to(own_service, caplog):
    async with FakeProvider(json_answer(b"{}")) as there, Calling(there.port, allowed=HostList()) as upstream:
        for _ in range(2):
            failed = await failure(send(upstream, provider(there.port, own_service=own_service)))
            assert (failed.cause, failed.billable) == ("ConnectFailure", False)
            assert "no connection to its address" in str(failed.refusal)
        assert there.connections == 0
        (said,) = [record.reason for record in caplog.records if record.msg == "address_refused"]
        assert "loopback" in said
        assert "--allow-hosts" in said


async def test_the_address_that_was_judged_is_the_one_that_is_used(monkeypatch):
    """A name that answers differently at a second look-up gains nothing: there is none."""
    asked = []

    async def resolve(host, port, **_):
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "169.254.169.254"
        return [(2, 1, 6, "", (address, port))]

    async with FakeProvider(json_answer(b"{}")) as there:
        upstream = Upstream(lambda _: (Credential(CANARY), f"http://rebinding.test:{there.port}"), parse_hosts(["rebinding.test"]), Off())
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        got = await send(upstream, provider(there.port, host="rebinding.test"))
        assert got.status == 200
        assert asked == ["rebinding.test"]
        await upstream.close()


async def test_a_service_that_is_an_alias_of_another_namespaces_is_not_connected_to(monkeypatch, caplog):
    dialled = []

    async def resolve(host, port, **_):
        return [(2, 1, 6, "vault.vault.svc.cluster.local", ("10.1.2.3", port))]

    async def connect(_, host, *more, **options):
        dialled.append(host)
        raise OSError

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    monkeypatch.setattr(loop, "create_connection", connect)
    upstream = Upstream(lambda _: (Credential(CANARY), "http://ollama.team1.svc:8200"), HostList(), Off())
    failed = await failure(send(upstream, provider(8200, host="ollama.team1.svc", own_service=True)))
    assert (failed.cause, dialled) == ("ConnectFailure", [])
    assert [record.reason.split(":")[0] for record in caplog.records] == ["ollama.team1.svc is an alias (ExternalName)"]
    await upstream.close()


async def test_connections_are_reused():
    async with FakeProvider(json_answer(b"{}")) as there, Calling(there.port) as upstream:
        for _ in range(5):
            await (await send(upstream, provider(there.port))).whole()
        assert (there.connections, upstream.opened, upstream.reused) == (1, 1, 4)


async def test_a_certificate_that_nobody_vouches_for_gets_no_key():
    async with (
        FakeProvider(json_answer(b"{}"), tls=web_server_context("localhost")) as there,
        Calling(there.port, f"localhost:{there.port}") as upstream,
    ):
        calling = Upstream(lambda _: (Credential(CANARY), f"localhost:{there.port}"), parse_hosts(["localhost"]), Off())
        failed = await failure(send(calling, provider(there.port, host="localhost", scheme="https")))
        assert failed.cause == "ConnectFailure"
        assert there.seen == []
        await calling.close()
        assert upstream.opened == 0


@pytest.mark.parametrize("cut", range(1, len(CANARY)))
async def test_a_credential_that_comes_back_in_two_pieces_is_held_too(cut):
    secret = CANARY.encode()
    gate = asyncio.Event()
    answer = (sse_head(), chunk(b"data: " + secret[:cut]), gate, chunk(secret[cut:] + b"\n\n"), LAST_CHUNK)
    async with FakeProvider(answer) as there, Calling(there.port) as upstream:
        got = await send(upstream, provider(there.port))
        await got.piece()
        gate.set()

        async def read() -> None:
            while await got.piece():
                pass

        failed = await failure(read())
        assert (failed.cause, failed.billable) == ("Malformed", True)
        assert "withheld" in str(failed.refusal)


async def test_what_a_provider_says_in_headers_is_cut_to_what_callers_need():
    headers = [
        (b"set-cookie", b"a=b"),
        (b"openai-organization", b"org-ours"),
        (b"x-request-id", b"r1"),
        (b"server", b"x"),
        (b"request-id", CANARY.encode()),
    ]
    async with FakeProvider(json_answer(b"{}", headers=headers)) as there, Calling(there.port) as upstream:
        got = await send(upstream, provider(there.port))
        assert got.passed_headers == [(b"x-request-id", b"r1")]


async def test_an_answer_that_is_compressed_unasked_is_refused():
    async with FakeProvider(json_answer(b"\x1f\x8b", headers=[(b"content-encoding", b"gzip")])) as there, Calling(there.port) as upstream:
        failed = await failure(send(upstream, provider(there.port)))
        assert failed.cause == "Malformed"
        assert "compressed" in str(failed.refusal)


async def test_silence_after_the_head_is_a_timeout():
    async with FakeProvider((sse_head(), "hang")) as there, Calling(there.port) as upstream:
        got = await send(upstream, provider(there.port))
        failed = await failure(got.piece())
        assert (failed.cause, type(failed.refusal), failed.billable) == ("Timeout", ProviderTimeout, True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"7", 7.0), (b"604800", 604800.0), (b"", None), (b"soon", None), (b"-1", None), (b"99999999", None), (b"1.5", None)],
)
async def test_a_retry_after_is_believed_when_it_is_a_plain_number(text, seconds):
    async with FakeProvider(json_answer(b"{}", 429, [(b"retry-after", text)])) as there, Calling(there.port) as upstream:
        to = provider(there.port)
        got = await send(upstream, to)
        failed = await refused(to, got)
        assert (failed.refusal.code, failed.refusal.retry_after_s) == ("provider_rate_limited", seconds)
        assert (failed.cause, failed.retry_after_s, failed.billable) == (429, seconds, False)


async def test_answers_that_are_kept_whole_are_bounded_together_until_they_are_let_go():
    async with FakeProvider(json_answer(b"x" * 600)) as there:
        upstream = Upstream(lambda _: (Credential(CANARY), f"http://127.0.0.1:{there.port}"), LOOPBACK, Off(), answers_bytes=1000)
        first, second = await send(upstream, provider(there.port)), await send(upstream, provider(there.port))
        assert len(await first.whole()) == 600
        with pytest.raises(Busy):
            await second.whole()
        second.close()
        first.close()
        third = await send(upstream, provider(there.port))
        assert len(await third.whole()) == 600
        third.close()
        await upstream.close()


async def test_one_caller_who_is_slow_to_read_keeps_room_from_nobody_else():
    async with FakeProvider(json_answer(b"x" * 450)) as there:
        upstream = Upstream(lambda _: (Credential(CANARY), f"http://127.0.0.1:{there.port}"), LOOPBACK, Off(), answers_bytes=1000)
        first, second, other = [await send(upstream, provider(there.port)) for _ in range(3)]
        first.whose = second.whose = "spiffe://example.org/ns/team1/sa/slow"
        other.whose = "spiffe://example.org/ns/team2/sa/agent"
        assert len(await first.whole()) == 450
        with pytest.raises(Busy):
            await second.whole()
        second.close()
        assert len(await other.whole()) == 450
        first.close()
        again = await send(upstream, provider(there.port))
        again.whose = first.whose
        assert len(await again.whole()) == 450
        again.close()
        other.close()
        await upstream.close()


async def test_a_form_goes_out_between_boundaries_that_nobody_could_know():
    sound = bytes(range(256)) * 1000
    form = Form([Part("model", memoryview(b"m")), Part("file", memoryview(sound), "a.wav", "audio/wav")])
    async with FakeProvider(json_answer(b"{}")) as there, Calling(there.port) as upstream:
        for _ in range(2):
            await send(upstream, provider(there.port), [(b"content-type", b"multipart/form-data; boundary=theirs")], body=form)
        types = [seen.header(b"content-type") for seen in there.seen]
        assert len(set(types)) == 2
        for seen, content_type in zip(there.seen, types, strict=True):
            assert seen.header(b"content-length") == b"%d" % len(seen.body)
            assert [(part.name, part.filename, bytes(part.value)) for part in read(seen.body, content_type)] == [
                ("model", None, b"m"),
                ("file", "a.wav", sound),
            ]
