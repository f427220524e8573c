"""AdmissionReview in, AdmissionReview out."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.admission import a_pod, a_review

from webhook import review
from webhook.review import Misread, Unreadable, Verdict


def sent(**changes):
    return json.dumps({**a_review(a_pod()), **changes}).encode()


def response_to(verdict):
    return json.loads(review.answer("u-1", verdict))["response"]


def test_a_review_of_an_api_server_is_read():
    request = review.read(json.dumps(a_review(a_pod(), uid="u-1", name="agent", dryRun=True, subResource="status")).encode())
    assert (request.uid, request.operation, request.namespace, request.name) == ("u-1", "CREATE", "team1", "agent")
    assert (request.kind.kind, request.resource.resource, request.sub_resource, request.dry_run) == ("Pod", "pods", "status", True)


def test_the_object_is_handed_on_as_it_came():
    assert json.loads(bytes(review.read(sent()).object)) == a_pod()


def test_fields_of_a_newer_api_server_are_passed_over():
    assert review.read(json.dumps(a_review(a_pod(), novelty={"deep": [1]})).encode()).uid


@pytest.mark.parametrize(
    ("request_fields", "says"),
    [
        ({"operation": 1}, "$.request.operation"),
        ({"kind": "Pod"}, "$.request.kind"),
        ({"kind": {"group": "", "version": "v1"}}, "$.request.kind"),
        ({"namespace": ["team1"]}, "$.request.namespace"),
        ({"namespace": "n" * 2000}, "$.request.namespace"),
        ({"dryRun": "yes"}, "$.request.dryRun"),
        ({"resource": None}, "$.request.resource"),
    ],
)
def test_a_field_of_another_type_is_named_to_who_asked(request_fields, says):
    with pytest.raises(Misread, match=says.replace("$", r"\$")) as caught:
        review.read(json.dumps(a_review(a_pod(), uid="u-1", **request_fields)).encode())
    assert caught.value.uid == "u-1"


@pytest.mark.parametrize("changes", [{"apiVersion": "admission.k8s.io/v1beta1"}, {"kind": "Review"}, {"apiVersion": ""}])
def test_another_version_is_refused_by_its_uid(changes):
    with pytest.raises(Misread, match="list it first in admissionReviewVersions"):
        review.read(sent(**changes))


@pytest.mark.parametrize("body", [b"", b"null", b"{", b"[]", b'"x"', b"{}", b'{"request":null}', b'{"request":{"uid":""}}', b"\x00"])
def test_what_has_no_uid_is_unreadable(body):
    with pytest.raises(Unreadable):
        review.read(body)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"request":{"uid":"u","object":' + b"["])
def test_no_depth_of_nesting_is_a_defect(opening):
    with pytest.raises((Unreadable, Misread)):
        review.read(opening * 100_000)


def test_an_object_nested_too_deeply_is_refused_by_its_uid():
    body = sent().replace(b'"status": {}', b'"status": ' + b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises((Unreadable, Misread)):
        review.read(body)


@given(st.binary(max_size=200))
def test_no_bytes_are_a_defect(body):
    with pytest.raises((Unreadable, Misread)):
        review.read(body)


def test_what_passes_says_so_and_no_more():
    assert response_to(Verdict()) == {"uid": "u-1", "allowed": True}


def test_a_patch_goes_as_base64_of_json():
    patch = ({"op": "add", "path": "/a", "value": "ü"},)
    response = response_to(Verdict(patch=patch))
    assert response["patchType"] == "JSONPatch"
    assert json.loads(base64.b64decode(response["patch"], validate=True)) == list(patch)


def test_a_refusal_has_its_code_and_its_reason_and_never_a_patch():
    response = response_to(Verdict(allowed=False, code=403, message="no", patch=({"op": "add", "path": "/a", "value": 1},)))
    assert response == {"uid": "u-1", "allowed": False, "status": {"code": 403, "message": "no"}}


def test_messages_and_warnings_are_cut_to_what_an_api_server_shows():
    response = response_to(Verdict(allowed=False, message="m" * 10_000, warnings=("w" * 1000,) * 20))
    assert len(response["status"]["message"]) == review.MESSAGE_CHARACTERS
    assert [len(warning) for warning in response["warnings"][:-1]] == [review.WARNING_CHARACTERS] * review.WARNINGS
    assert response["warnings"][-1] == "and 12 warnings more"


def test_the_answer_says_its_own_kind_and_version():
    answer = json.loads(review.answer("u-1", Verdict()))
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
