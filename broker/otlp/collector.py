"""The way to the collector: its own rules, and how its last request ended."""

from typing import Any

import requests


class Collector(requests.Session):
    """Takes nothing from the environment but what OpenTelemetry's variables say.

    Else a proxy's variable, a .netrc, or REQUESTS_CA_BUNDLE, which wins over OTEL_EXPORTER_OTLP_CERTIFICATE, would decide who gets it.

    why: a status or the kind of an error; never a text that anybody else wrote, which may quote a header.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.why = ""

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        try:
            answer = super().request(*args, **kwargs)
        except Exception as fault:
            self.why = type(fault).__name__
            raise
        self.why = str(answer.status_code)
        return answer
