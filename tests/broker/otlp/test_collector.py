"""The way to the collector: the environment of the process decides nothing of it, and what is kept of an error quotes nobody."""

import asyncio

import pytest
from requests.exceptions import InvalidHeader
from support.otlp_receiver import Receiver, protobuf

from broker.otlp.collector import Collector


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_no_variable_of_the_http_client_leads_it_elsewhere(monkeypatch, variable):
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    way = Collector()
    async with Receiver(lambda _: protobuf(b"", 503)) as collector:
        answer = await asyncio.to_thread(way.request, "POST", f"{collector.url}/v1/traces", data=b"")
        way.close()
    assert (answer.status_code, way.why) == (503, "503")
    assert way.merge_environment_settings("https://collector", {}, None, None, None)["verify"] is True


def test_an_error_that_quotes_a_header_is_kept_by_its_kind_alone():
    way = Collector()
    with pytest.raises(InvalidHeader):
        way.request("POST", "http://127.0.0.1:1", headers={"authorization": "Bearer sk-canary\n"})
    assert way.why == "InvalidHeader"
