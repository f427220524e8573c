"""AdmissionReview in, AdmissionReview out: `admission.k8s.io/v1`. Pure.

Strict about what is read, silent about what is not: a newer API server may say more.
Source: k8s.io/api/admission/v1, and "Dynamic Admission Control" of the Kubernetes documentation.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec

API_VERSION: Final = "admission.k8s.io/v1"
BAD_REQUEST: Final = 400
FORBIDDEN: Final = 403
MESSAGE_CHARACTERS: Final = 4096
# The API server cuts longer ones, and drops those beyond 4096 characters of all webhooks together
WARNING_CHARACTERS: Final = 240
WARNINGS: Final = 8

Text = Annotated[str, msgspec.Meta(max_length=1024)]
Operation = dict[str, object]  # one of RFC 6902


class Kind(msgspec.Struct, frozen=True):
    group: Text
    version: Text
    kind: Text


class Resource(msgspec.Struct, frozen=True):
    group: Text
    version: Text
    resource: Text


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """What the API server asks. `object` and `old_object` are as they came: whoever knows the kind reads them."""

    uid: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    kind: Kind
    resource: Resource
    operation: Text
    sub_resource: Text = ""
    namespace: Text = ""
    name: Text = ""
    dry_run: bool | None = None
    object: msgspec.Raw = msgspec.Raw(b"null")
    old_object: msgspec.Raw = msgspec.Raw(b"null")


class _Review(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    request: Request


class _Named(msgspec.Struct, frozen=True):
    uid: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class _Addressed(msgspec.Struct, frozen=True):
    """As much of a review as is needed to answer it."""

    request: _Named


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said about one request. `message` and `code` count only when it is refused."""

    allowed: bool = True
    message: str = ""
    code: int = FORBIDDEN
    patch: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()


class Unreadable(ValueError):
    """Not a review at all: there is nobody to answer to."""


class Misread(ValueError):
    """A review with something wrong in it. `uid` is that of the request."""

    def __init__(self, uid: str, message: str) -> None:
        super().__init__(message)
        self.uid = uid


_Read = TypeVar("_Read")


def read(body: bytes) -> Request:
    """The request of one AdmissionReview.

    Raises:
        Unreadable: it is no JSON, or has no uid to answer to.
        Misread: anything else is wrong with it.
    """
    try:
        found = decode(body, _Review)
    except ValueError as error:
        raise Misread(_uid(body), str(error)) from error
    if (found.api_version, found.kind) != (API_VERSION, "AdmissionReview"):
        raise Misread(found.request.uid, f"only AdmissionReview of {API_VERSION} is understood: list it first in admissionReviewVersions")
    return found.request


def decode(raw: bytes | msgspec.Raw, kind: type[_Read]) -> _Read:
    """JSON as this type. Raises ValueError, with the path of what is wrong, whatever the bytes are."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except RecursionError:
        raise ValueError("the object is nested too deeply") from None
    except msgspec.DecodeError as error:  # ValidationError is one
        raise ValueError(str(error)) from error


def _uid(body: bytes) -> str:
    try:
        return decode(body, _Addressed).request.uid
    except ValueError as error:
        raise Unreadable(f"the body is no AdmissionReview with a request.uid: {error}") from error


def answer(uid: str, verdict: Verdict) -> bytes:
    """The review that goes back."""
    response: dict[str, object] = {"uid": uid, "allowed": verdict.allowed}
    if not verdict.allowed:
        response["status"] = {"code": verdict.code, "message": cut(verdict.message, MESSAGE_CHARACTERS)}
    elif verdict.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(msgspec.json.encode(verdict.patch)).decode("ascii")
    if verdict.warnings:
        response["warnings"] = _bounded(verdict.warnings)
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})


def _bounded(warnings: Sequence[str]) -> list[str]:
    shown = [cut(warning, WARNING_CHARACTERS) for warning in warnings[:WARNINGS]]
    more = len(warnings) - len(shown)
    return [*shown, f"and {more} warnings more"] if more > 0 else shown


def cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
