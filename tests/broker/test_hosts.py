"""Where a key may go: what the Secret's owner wrote, and nothing beyond it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import hosts
from broker.grant import Endpoint
from broker.hosts import InvalidHost, allows, parse_endpoint, problems

OPENAI = Endpoint("https", "api.openai.com", 443, "/v1")


def at(text: str) -> Endpoint:
    return parse_endpoint(text, "OpenAI")


def test_without_an_annotation_a_key_goes_to_its_schemas_public_host_alone():
    assert allows(None, OPENAI, "OpenAI")
    assert not allows(None, OPENAI, "Anthropic")
    assert not allows(None, OPENAI, "AWSBedrock")
    for other in (
        "https://api.openai.com:8443",
        "http://api.openai.com",
        "https://api.openai.com.evil.example",
        "https://eu.api.openai.com",
    ):
        assert not allows(None, at(other), "OpenAI")


@pytest.mark.parametrize(
    ("annotation", "endpoint", "allowed"),
    [
        ("api.openai.com", "https://api.openai.com/v1", True),
        (" API.openai.com. , b.example", "https://api.openai.com/x", True),
        ("api.openai.com", "https://api.openai.com:8443", False),
        ("openai.com", "https://api.openai.com", False),
        ("openai.com", "https://evilopenai.com", False),
        ("api.openai.com:8443", "https://api.openai.com:8443", True),
        ("api.openai.com:8443", "https://api.openai.com", False),
        ("api.openai.com", "http://api.openai.com:443", False),
        ("http://llm.team1.svc", "http://llm.team1.svc", True),
        ("http://llm.team1.svc:11434", "http://llm.team1.svc:11434", True),
        ("http://llm.team1.svc", "https://llm.team1.svc:80", False),
        ("*.openai.azure.com", "https://a.openai.azure.com", True),
        ("*.openai.azure.com", "https://a.b.openai.azure.com", True),
        ("*.openai.azure.com", "https://openai.azure.com", False),
        ("*.openai.azure.com", "https://xopenai.azure.com", False),
        ("*.openai.azure.com:444", "https://a.openai.azure.com:444", True),
        ("[::1]:8443", "https://[0::1]:8443", True),
        ("", "https://api.openai.com", False),
        (",,", "https://api.openai.com", False),
        ("*", "https://api.openai.com", False),
        ("https://api.openai.com", "https://api.openai.com", False),
        ("api.openai.com/v1, api.openai.com", "https://api.openai.com", True),
        ("*.*.com", "https://api.openai.com", False),
        ("api.openai.com:x", "https://api.openai.com", False),
    ],
)
def test_an_entry_covers_what_it_says(annotation: str, endpoint: str, *, allowed: bool):
    assert allows(annotation, at(endpoint), "OpenAI") is allowed


def test_an_entry_that_cannot_be_read_is_told():
    assert problems("api.openai.com, *.x.example") == ()
    assert problems(None) == ()
    assert len(problems("a b, https://x, *, a:0, a:70000, [1]")) == 6
    assert problems(", ".join(["a.example"] * 65))[0].startswith("has 65 entries")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://api.openai.com", Endpoint("https", "api.openai.com", 443, "/v1")),
        ("https://API.openai.com./", Endpoint("https", "api.openai.com", 443, "/v1")),
        ("https://x.example:8443/a/b/", Endpoint("https", "x.example", 8443, "/a/b")),
        ("http://ollama.team1.svc:11434", Endpoint("http", "ollama.team1.svc", 11434, "/v1")),
        ("https://[2001:db8::1]/v1", Endpoint("https", "2001:db8::1", 443, "/v1")),
    ],
)
def test_an_endpoint_is_read_with_its_defaults(text: str, expected: Endpoint):
    assert at(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "api.openai.com",
        "ftp://x",
        "https://",
        "https://user@x",
        "https://user:pass@x",
        "https://x?key=1",
        "https://x#f",
        "https://x/../v1",
        "https://x/a//b",
        "https://x/%2e%2e",
        "https://x/a b",
        "https://x\\@y",
        "https://x:0",
        "https://x:65536",
        "https://x:٣",
        "https://127.1",
        "https://2130706433",
        "https://0x7f000001",
        "https://0177.0.0.1",
        "https://ex ample",
        "https://exämple.com",
        "https://x..y",
        "https://-x",
        "https://x/v1\n",
        "https://" + "a." * 130 + "a",
        "https://[::1",
        "https://[x]",
        "HTTPS://x",
    ],
)
def test_what_is_no_plain_endpoint_is_refused(text: str):
    with pytest.raises(InvalidHost):
        at(text)


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True).filter(
    lambda label: not label.isdigit() and not label.startswith("0x")
)


@given(st.lists(labels, min_size=1, max_size=4), st.lists(labels, min_size=2, max_size=4))
def test_a_suffix_never_crosses_a_label(host: list[str], suffix: list[str]):
    endpoint = at(f"https://{'.'.join(host)}")
    expected = len(host) > len(suffix) and host[-len(suffix) :] == suffix
    assert allows(f"*.{'.'.join(suffix)}", endpoint, "OpenAI") is expected


@given(st.text(max_size=60))
def test_any_annotation_is_read_without_failing(annotation: str):
    assert allows(annotation, OPENAI, "OpenAI") in (True, False)
    assert isinstance(hosts.problems(annotation), tuple)


@given(st.text(max_size=60).map("https://".__add__))
def test_any_endpoint_is_read_or_refused_and_what_is_read_reads_the_same_again(text: str):
    try:
        endpoint = at(text)
    except InvalidHost:
        return
    assert at(str(endpoint)) == endpoint
