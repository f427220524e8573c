"""An AIAccessPolicy with action Limit: what it must have, and what does not belong to it."""

import pytest
from support.worlds import access, documents

from broker.objects import AccessPolicy


def only(text: str) -> AccessPolicy:
    (document,) = documents(text)
    assert isinstance(document, AccessPolicy)
    return document


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("{action: Limit}", {"spec.quotas": "is required with action Limit"}),
        ("{action: Limit, quotas: []}", {"spec.quotas": "without quotas it limits nothing"}),
        (
            "{action: Limit, quotas: [{name: q, concurrent: 1}], features: [Files], maxStreamDuration: 1h}",
            {"spec.features": "action Limit grants nothing", "spec.maxStreamDuration": "leave it out"},
        ),
        ("{action: Limit, quotas: [{name: q, concurrent: 1}], subjects: []}", {"spec.subjects": "must have at least 1 entry"}),
        ("{action: Limit, quotas: [{name: q, concurrent: 1, overridable: 1}]}", {"spec.quotas[0].overridable": "must be true or false"}),
        ("{action: Allow, quotas: []}", {"spec": "names nobody"}),
        ("{action: Deny}", {"spec": "names nobody"}),
    ],
)
def test_a_wrong_limit_says_what_to_do(spec: str, told: dict[str, str]):
    found = {fault.path: fault.message for fault in only(access(spec=spec)).about.faults}
    assert list(found) == list(told)
    for path, words in told.items():
        assert words in found[path]


def test_a_limit_may_name_nobody_in_particular_and_every_model():
    policy = only(access(spec="{action: Limit, quotas: [{name: q, tokens: 1, per: Day, overridable: true}]}"))
    assert policy.about.faults == ()
    assert (policy.spec.subjects, policy.spec.models, policy.spec.quotas[0].overridable) == (None, None, True)
