"""What the SDK logs stays out of our log: it may quote a header."""

import logging

from requests.exceptions import InvalidHeader

from broker.otlp.quiet import hushed

SDK = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")


def test_no_line_of_the_sdk_reaches_our_log_and_what_is_kept_of_it_quotes_nobody(caplog):
    with hushed() as reasons:
        SDK.error("Failed to export %s batch code: %s, reason: %s", "spans", None, InvalidHeader("header value: 'Bearer sk-canary'"))
        assert reasons.last == "InvalidHeader"
        SDK.error("Failed to export %s batch code: %s, reason: %s", "spans", 400, "a reason that the collector wrote: sk-canary")
        assert reasons.last == "400"
        SDK.warning("Transient error %s encountered while exporting %s batch, retrying in %.2fs.", "Service Unavailable", "spans", 1.0)
        assert reasons.last == "Service Unavailable"
        logging.getLogger("urllib3.connectionpool").warning("retrying %s", "sk-canary")
    assert caplog.records == []


def test_afterwards_logging_is_as_it_was(caplog):
    with hushed():
        pass
    SDK.warning("heard")
    assert [record.message for record in caplog.records] == ["heard"]
