"""The small types that several kinds share: names, URLs, durations, money."""

from typing import Annotated, Final

from msgspec import Meta

from broker.objects import duration
from broker.objects.reading import Part

LABEL: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
TRUST_DOMAIN: Final = r"^[a-z0-9._-]{1,255}$"
MODEL: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,252}$"
MONEY: Final = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"

INT32: Final = 2**31 - 1
INT64: Final = 2**63 - 1

_A_LABEL: Final = "a DNS label: lower-case letters, digits and dashes, at most 63"
_A_SUBDOMAIN: Final = "a DNS name: lower-case letters, digits, dashes and dots, at most 253"
_A_MODEL: Final = "a model's name: a letter or digit, then letters, digits and . _ : / @ + -, at most 253 in all"

Label = Annotated[str, Meta(pattern=LABEL, max_length=63, extra={"must": _A_LABEL})]
Subdomain = Annotated[str, Meta(pattern=SUBDOMAIN, max_length=253, extra={"must": _A_SUBDOMAIN})]
SecretKey = Annotated[
    str, Meta(pattern=r"^[-._a-zA-Z0-9]{1,253}$", max_length=253, extra={"must": "a key of a Secret: letters, digits, - _ ."})
]
TrustDomain = Annotated[
    str,
    Meta(pattern=TRUST_DOMAIN, max_length=255, extra={"must": "a trust domain: lower-case letters, digits, dots, dashes and underscores"}),
]
ModelName = Annotated[str, Meta(pattern=MODEL, max_length=253, extra={"must": _A_MODEL})]
Money = Annotated[
    str,
    Meta(
        pattern=MONEY, max_length=16, extra={"must": 'US dollars as a decimal in quotes, such as "2.50": at most 9 digits, then at most 6'}
    ),
]
Text = Annotated[str, Meta(min_length=1, max_length=1024)]

_A_DURATION: Final = "a duration such as 500ms, 5s or 1h30m"
Minute = Annotated[str, Meta(pattern=duration.PATTERN, max_length=32, extra={"must": _A_DURATION, "longest": "60s"})]
Hour = Annotated[str, Meta(pattern=duration.PATTERN, max_length=32, extra={"must": _A_DURATION, "longest": "1h"})]
Day = Annotated[str, Meta(pattern=duration.PATTERN, max_length=32, extra={"must": _A_DURATION, "longest": "24h"})]


class TargetRef(Part, frozen=True, kw_only=True):
    """A Gateway that the policy is rendered for as well."""

    group: Annotated[Subdomain, Meta(description="API group of the Gateway, gateway.networking.k8s.io")]
    kind: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?$",
            max_length=63,
            description="Gateway",
            extra={"must": "a kind, such as Gateway"},
        ),
    ]
    name: Annotated[Subdomain, Meta(description="name of the Gateway")]
