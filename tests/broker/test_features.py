import pytest

from broker import features
from broker.errors import FeatureNotGranted
from broker.grant import Feature


def test_what_was_granted_passes() -> None:
    features.require(frozenset(), frozenset())
    features.require(frozenset({Feature.STORAGE}), frozenset({Feature.STORAGE, Feature.FILES}))


def test_a_refusal_names_all_that_the_policys_owner_must_grant() -> None:
    with pytest.raises(FeatureNotGranted, match=r"features: \[HostedTools, RemoteMedia\]"):
        features.require(frozenset({Feature.REMOTE_MEDIA, Feature.HOSTED_TOOLS, Feature.STORAGE}), frozenset({Feature.STORAGE}))


def test_every_feature_can_be_explained() -> None:
    assert features.MEANING.keys() == set(Feature)


def test_a_raw_id_and_an_unknown_kind_say_that_no_policy_can_help() -> None:
    assert "no policy can grant" in str(features.refuse_id("file_id"))
    assert features.refuse_id("file_id").param == "file_id"
    refusal = features.refuse_unknown("x" * 100, "tools.type")
    assert "no policy can grant" in str(refusal)
    assert "x" * 65 not in str(refusal)
