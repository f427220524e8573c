"""What the SDK logs stays out of our log: it may quote a header."""

import logging

from requests.exceptions import InvalidHeader

from broker.otlp.quiet import hushed

SDK = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")


def test_no_line_of_the_sdk_or_of_its_http_client_reaches_our_log(caplog):
    with hushed():
        SDK.error("Failed to export %s batch code: %s, reason: %s", "spans", None, InvalidHeader("header value: 'Bearer sk-canary'"))
        logging.getLogger("urllib3.connectionpool").warning("retrying %s", "sk-canary")
    assert caplog.records == []


def test_afterwards_logging_is_as_it_was(caplog):
    with hushed():
        pass
    SDK.warning("heard")
    assert [record.message for record in caplog.records] == ["heard"]
