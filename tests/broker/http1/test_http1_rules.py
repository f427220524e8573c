import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BadRequest, BrokerError, HeadersTooLarge, MethodNotAllowed, NotLocal, TooLarge
from broker.http1 import rules

GET = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"


def read(raw, **limits):
    return rules.read(raw, **({"header_count": 64, "body_bytes": 1000} | limits))


def with_headers(*headers, host=b"a"):
    return read(b"POST /v1/x HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (host, b"".join(header + b"\r\n" for header in headers)))


# -- where the head ends
def test_the_end_of_the_head_is_after_its_empty_line():
    assert rules.end_of_head(GET + b"body\r\n\r\n", 1000) == len(GET)


@pytest.mark.parametrize("cut", [1, 10, len(GET) - 3, len(GET) - 1])
def test_a_head_that_is_not_complete_has_no_end_yet(cut):
    assert rules.end_of_head(GET[:cut], 1000) == 0


def test_a_head_of_exactly_the_limit_passes_and_a_byte_more_does_not():
    assert rules.end_of_head(GET, len(GET)) == len(GET)
    with pytest.raises(HeadersTooLarge):
        rules.end_of_head(GET, len(GET) - 1)


def test_a_bad_byte_is_found_before_the_end_of_the_head_is():
    with pytest.raises(BadRequest):
        rules.end_of_head(b"GET /\0", 1000)


def test_bytes_after_the_head_are_not_judged():
    assert rules.end_of_head(GET + b"\0\n\r\xff", 1000) == len(GET)


@given(st.binary(max_size=300), st.integers(1, 200))
def test_a_longer_prefix_never_takes_a_refusal_back(raw, limit):
    def verdict(end):
        try:
            return rules.end_of_head(raw[:end], limit)
        except BrokerError as error:
            return error.code

    verdicts = [verdict(end) for end in range(len(raw) + 1)]
    decided = next((n for n, verdict in enumerate(verdicts) if verdict), len(verdicts))
    assert len(set(verdicts[decided:])) <= 1


# -- what a head says
def test_a_head_is_read_into_its_parts():
    head = read(
        b"POST /v1beta/models/a%2Fb:go?alt=sse&x=%20 HTTP/1.1\r\nHOST: Example.test:8443\r\n"
        b"Content-Type: Application/JSON ; charset=utf-8\r\nContent-Length: 12 \r\nX-Any: Thing\r\nExpect: 100-Continue\r\n"
        b"Connection: Keep-Alive, CLOSE\r\nContent-Encoding: identity\r\n\r\n"
    )
    assert (head.method, head.path, head.query) == ("POST", "/v1beta/models/a%2Fb:go", "alt=sse&x=%20")
    assert (head.host, head.content_type, head.length, head.chunked) == (b"example.test:8443", b"application/json", 12, False)
    assert (head.keep, head.expect) == (False, True)
    assert (b"x-any", b"Thing") in head.headers


def test_an_ordinary_head_keeps_the_connection_and_has_no_body():
    head = read(GET)
    assert (head.keep, head.expect, head.length, head.chunked, head.content_type) == (True, False, 0, False, b"")


@pytest.mark.parametrize(
    "host", [b"a", b"a.test", b"a.test:1", b"127.0.0.1:65535", b"[::1]", b"[::ffff:1.2.3.4]:80", b"xn--bcher-kva.test"]
)
def test_names_and_addresses_are_hosts(host):
    assert with_headers(host=host).host == host


@pytest.mark.parametrize(
    "host",
    [b"", b"a b", b"a/b", b"a,b", b"a@b", b"-a", b"a-", b"a:", b"a:123456", b"a:x", b"[::1", b"[::g]", b"http://a", b"a:1:2", b"a_b"],
)
def test_anything_else_is_no_host(host):
    with pytest.raises(BadRequest):
        with_headers(host=host)


def test_two_framings_are_refused_even_if_the_parser_were_to_let_them_through():
    head = rules.Head("POST", "/", "", [(b"host", b"a"), (b"transfer-encoding", b"chunked"), (b"content-length", b"2")])
    with pytest.raises(BadRequest, match="exclude each other"):
        rules._weigh(head, 1000, underscores=False)


def test_a_length_of_exactly_the_limit_passes_and_one_more_does_not():
    assert with_headers(b"Content-Length: 1000").length == 1000
    with pytest.raises(TooLarge):
        with_headers(b"Content-Length: 1001")


def test_header_count_is_a_limit():
    raw = GET[:-2] + b"X: y\r\n" * 3 + b"\r\n"
    assert len(read(raw, header_count=4).headers) == 4
    with pytest.raises(HeadersTooLarge):
        read(raw, header_count=3)


@pytest.mark.parametrize("fold", [b" ", b"\t"])
def test_a_folded_header_is_refused_before_the_parser_sees_it(fold):
    with pytest.raises(BadRequest, match="folded"):
        with_headers(b"X: a\r\n" + fold + b"b")


@pytest.mark.parametrize("method", [b"PUT", b"HEAD", b"OPTIONS", b"PATCH", b"get", b"X-Y"])
def test_other_methods_are_not_served(method):
    with pytest.raises(MethodNotAllowed):
        read(GET.replace(b"GET", method))


@pytest.mark.parametrize("name", sorted(rules.CREDENTIALS))
def test_a_credential_may_be_there_once(name):
    with_headers(name + b": x")
    with pytest.raises(BadRequest, match="more than one"):
        with_headers(name + b": x", name.upper() + b": x")


@pytest.mark.parametrize("name", [b"x_api_key", b"X_Team", b"_", b"x-api_key"])
def test_no_headers_name_has_an_underscore_and_the_refusal_names_it(name):
    with pytest.raises(BadRequest, match=f"the header {name.decode().lower()} has '_'"):
        with_headers(name + b": x")


def test_an_underscore_in_a_value_does_no_harm():
    with_headers(b"X-Arch: x86_64")


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"GET /v1/messages?x=1 HTTP/1.1\r\nbroken", "/v1/messages"),
        (b"PUT /v1/messages HTTP/1.1\r\n", "/v1/messages"),
        (b"GET http://evil.test/ HTTP/1.1\r\n", ""),
        (b"GET /v1/mess\xc3\xa4ges HTTP/1.1\r\n", ""),
        (b"\x16\x03\x01", ""),
        (b"", ""),
    ],
)
def test_a_refusal_knows_the_path_where_there_is_one(raw, path):
    assert rules.path_of(raw) == path


def test_a_target_that_was_judged_once_is_judged_the_same_again():
    for _ in range(2):
        assert read(GET).path == "/v1/models"
        with pytest.raises(BadRequest):
            read(GET.replace(b"/v1/models", b"/v1/../models"))


def test_a_long_target_is_judged_too():
    assert len(read(GET.replace(b"models", b"m" * 500)).path) == 504
    with pytest.raises(BadRequest):
        read(GET.replace(b"models", b"m" * 500 + b"/../x"))


@given(st.text(alphabet="/.%2eEfF5cC;\\:@+?#ab_-m\0", max_size=30))
def test_no_path_that_passes_can_climb_or_name_a_host(tail):
    try:
        head = read(b"GET /v1/models/%b HTTP/1.1\r\nHost: a\r\n\r\n" % tail.encode())
    except BrokerError:
        return
    assert head.path.startswith("/v1/models/")
    low = head.path.lower()
    assert not any(bad in low for bad in ("..", "//", "%2e", "%5c", "%00", "%25", "%23", "%3f", "\\", ";", "#", "?", "\0"))


# -- the doors
@pytest.mark.parametrize("kind", [b"application/json", b"Multipart/Form-Data; boundary=x", b"application/json;charset=utf-8"])
def test_bodies_of_programs_pass(kind):
    rules.judge_remote(with_headers(b"Content-Type: " + kind, b"Content-Length: 2"))


@pytest.mark.parametrize(
    "kind", [b"text/plain", b"application/x-www-form-urlencoded", b"application/jsonx", b"", b"application/json, text/plain"]
)
@pytest.mark.parametrize("framing", [b"Content-Length: 2", b"Transfer-Encoding: chunked"])
def test_bodies_that_a_page_can_send_do_not(kind, framing):
    with pytest.raises(BadRequest):
        rules.judge_remote(with_headers(b"Content-Type: " + kind, framing))


def test_without_a_body_no_type_is_needed():
    rules.judge_remote(with_headers(b"Content-Type: text/plain", b"Content-Length: 0"))


@pytest.mark.parametrize("host", [b"127.0.0.1:4180", b"localhost:4180", b"[::1]:4180", b"LocalHost:4180"])
def test_the_local_door_has_three_names(host):
    rules.local_judge(4180)(with_headers(host=host))


@pytest.mark.parametrize(
    "host",
    [b"127.0.0.1", b"localhost", b"localhost:80", b"127.0.0.2:4180", b"localhost.:4180", b"evil.test:4180", b"127.0.0.1.evil.test:4180"],
)
def test_the_local_door_has_no_other(host):
    with pytest.raises((NotLocal, BadRequest)):
        rules.local_judge(4180)(with_headers(host=host))


@pytest.mark.parametrize("header", [b"Origin: null", b"ORIGIN: http://localhost:4180", b"Sec-Fetch-Site: none"])
def test_the_local_door_serves_no_pages(header):
    with pytest.raises(NotLocal):
        rules.local_judge(4180)(with_headers(header, host=b"localhost:4180"))


def test_what_programs_send_of_fetch_is_accepted():
    rules.local_judge(4180)(with_headers(b"Sec-Fetch-Mode: cors", host=b"localhost:4180"))
