"""The logs: nothing that a caller says can forge a line, and no live credential gets out."""

import io
import json
import logging
import sys
import threading
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import logs

CANARY = "sk-canary-0123456789"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configured(stream: io.StringIO, *secrets: str) -> logging.Logger:
    logs.configure(stream, lambda: secrets)
    return logging.getLogger("broker.test")


def test_a_machine_gets_one_json_object_a_line() -> None:
    stream = io.StringIO()
    configured(stream).warning("policy_rejected", extra={"policy": "team1/weather", "line": 3, "fatal": False})
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "broker.test",
        "event": "policy_rejected",
        "policy": "team1/weather",
        "line": 3,
        "fatal": False,
    }


def test_a_list_stays_one_and_nothing_stays_nothing() -> None:
    stream = io.StringIO()
    configured(stream, CANARY).warning("read", extra={"domains": ["a.test", f"b{CANARY}"], "problems": (1, "x"), "why": None})
    line = json.loads(stream.getvalue())
    assert (line["domains"], line["problems"], line["why"]) == (["a.test", "b[redacted]"], [1, "x"], None)


def test_a_person_reads_a_list_with_commas() -> None:
    stream = Terminal()
    configured(stream).warning("read", extra={"domains": ["a.test", "b.test"]})
    assert stream.getvalue()[8:] == " WARNING read domains=a.test, b.test\n"


def test_a_person_gets_readable_text() -> None:
    stream = Terminal()
    configured(stream).warning("policy_rejected", extra={"policy": "team1/weather"})
    assert stream.getvalue()[8:] == " WARNING policy_rejected policy=team1/weather\n"


def test_a_fact_cannot_take_the_place_of_the_head() -> None:
    stream = io.StringIO()
    configured(stream).info("event", extra={"level": "forged", "event": "forged"})
    line = json.loads(stream.getvalue())
    assert (line["level"], line["event"], line["level_"]) == ("info", "event", "forged")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal], ids=["json", "text"])
class TestBothWays:
    def test_a_credential_in_a_message_is_taken_out(self, stream: type[io.StringIO]) -> None:
        out = stream()
        configured(out, CANARY).error("sent " + CANARY)
        assert CANARY not in out.getvalue()
        assert "[redacted]" in out.getvalue()

    def test_a_credential_in_a_fact_is_taken_out(self, stream: type[io.StringIO]) -> None:
        out = stream()
        configured(out, CANARY).error("sent", extra={"headers": {"authorization": f"Bearer {CANARY}"}})
        assert CANARY not in out.getvalue()

    def test_a_credential_in_an_exception_and_its_traceback_is_taken_out(self, stream: type[io.StringIO]) -> None:
        out = stream()
        log = configured(out, CANARY)
        try:
            try:
                int(f"bad header {CANARY}")
            except ValueError as error:
                raise RuntimeError("while sending") from error
        except RuntimeError:
            log.exception("crashed")
        assert CANARY not in out.getvalue()
        assert "RuntimeError: while sending" in out.getvalue()

    def test_a_credential_that_must_be_escaped_is_taken_out_as_well(self, stream: type[io.StringIO]) -> None:
        out = stream()
        log = configured(out, 'quote"and\\slash\tkey')
        log.error("it was %s", 'quote"and\\slash\tkey')
        log.error("it was %s", ['quote"and\\slash\tkey'])
        assert "slash" not in out.getvalue()

    def test_a_credential_that_came_later_is_known(self, stream: type[io.StringIO]) -> None:
        out = stream()
        live: list[str] = []
        logs.configure(out, lambda: live)
        live.append(CANARY)
        logging.getLogger("anywhere").warning("%s", CANARY)
        assert CANARY not in out.getvalue()

    def test_an_uncaught_exception_passes_the_same_way(self, stream: type[io.StringIO]) -> None:
        out = stream()
        configured(out, CANARY)
        error = ValueError(CANARY)
        sys.excepthook(ValueError, error, None)
        assert "uncaught" in out.getvalue()
        assert CANARY not in out.getvalue()

    def test_an_uncaught_exception_of_a_thread_passes_the_same_way(self, stream: type[io.StringIO]) -> None:
        out = stream()
        configured(out, CANARY)
        threading.excepthook(threading.ExceptHookArgs((ValueError, ValueError(CANARY), None, None)))
        assert "uncaught" in out.getvalue()
        assert CANARY not in out.getvalue()

    def test_a_warning_passes_the_same_way(self, stream: type[io.StringIO]) -> None:
        out = stream()
        configured(out, CANARY)
        warnings.warn(CANARY, stacklevel=1)
        assert "py.warnings" in out.getvalue() or "UserWarning" in out.getvalue()
        assert CANARY not in out.getvalue()

    def test_a_line_that_cannot_be_formatted_is_named_but_not_shown(
        self, stream: type[io.StringIO], capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = stream()
        configured(out, CANARY).error("%d", CANARY)
        assert "could not be written" in out.getvalue()
        assert CANARY not in out.getvalue() + capsys.readouterr().err

    def test_an_interrupt_of_the_user_is_no_event(self, stream: type[io.StringIO]) -> None:
        out = stream()
        configured(out)
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert out.getvalue() == ""

    def test_the_start_says_what_listens_where_and_as_whom(self, stream: type[io.StringIO]) -> None:
        out = stream()
        configured(out)
        logs.listening("broker", "spiffe://example.org/ns/b/sa/broker", {"mtls": "0.0.0.0:8443", "admin": "127.0.0.1:9090"})
        assert len(out.getvalue().splitlines()) == 1
        for said in ("listening", "spiffe://example.org/ns/b/sa/broker", "0.0.0.0:8443", "127.0.0.1:9090"):
            assert said in out.getvalue()

    @given(text=st.text(alphabet=st.characters(), max_size=60))
    def test_no_text_can_begin_a_line_or_steer_a_terminal(self, stream: type[io.StringIO], text: str) -> None:
        out = stream()
        configured(out).warning("%s", text, extra={"model": text})
        assert out.getvalue().endswith("\n")
        assert out.getvalue()[:-1].isprintable()


@pytest.mark.parametrize("evil", ["\n", "\r", "\x1b[2J", "\x00", "\x7f", "\x85", "\u2028", "\u202e", "\ud800"])
def test_control_characters_are_escaped_on_a_terminal(evil: str) -> None:
    out = Terminal()
    configured(out).warning("model_unknown", extra={"model": f"a{evil}b"})
    line = out.getvalue().removesuffix("\n")
    assert evil[0] not in line
    assert "\\u" in line


def test_a_json_line_gives_the_text_back_as_it_was() -> None:
    out = io.StringIO()
    configured(out).warning("model_unknown", extra={"model": "a\n\u202e\x9b日本"})
    assert json.loads(out.getvalue())["model"] == "a\n\u202e\x9b日本"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_no_key_of_anybodys_takes_the_names_of_events_out_of_the_log(kind: type[io.StringIO]) -> None:
    stream = kind()
    configured(stream, "policy_rejected").warning("policy_rejected", extra={"policy": "policy_rejected of team1"})
    assert stream.getvalue().count("policy_rejected") == 1
    assert "[redacted] of team1" in stream.getvalue()


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=logs.SHORTEST_SECRET))
def test_a_key_is_taken_out_in_every_form_that_json_and_python_give_it(secret: str) -> None:
    stream = io.StringIO()
    configured(stream, secret).warning("read", extra={"as_it_is": f"<{secret}>", "json": json.dumps([secret]), "python": repr([secret])})
    line = json.loads(stream.getvalue())
    assert line["as_it_is"] == "<[redacted]>"
    assert json.dumps(secret)[1:-1] not in line["json"]
    assert repr(secret)[1:-1] not in line["python"]


def test_very_short_values_are_left_alone() -> None:
    out = io.StringIO()
    configured(out, "a", "").warning("available")
    assert json.loads(out.getvalue())["event"] == "available"


def test_debug_is_silent_unless_asked_for() -> None:
    out = io.StringIO()
    configured(out).debug("noise")
    assert out.getvalue() == ""


def test_the_style_can_be_chosen() -> None:
    out = Terminal()
    logs.configure(out, tuple, style="json")
    logging.getLogger("broker.test").info("event")
    assert json.loads(out.getvalue())["event"] == "event"


@pytest.mark.parametrize(("level", "style"), [("loud", "auto"), ("info", "yaml")])
def test_what_is_no_level_and_no_style_is_refused(level: str, style: str) -> None:
    with pytest.raises(ValueError, match=r"LOUD|yaml"):
        logs.configure(io.StringIO(), tuple, level, style)
