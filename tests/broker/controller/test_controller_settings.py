"""What a controller is told of the brokers reaches what it says of policies."""

import pytest

from broker import config
from broker.controller.running import policy_settings


@pytest.mark.parametrize(("given", "seals"), [(None, None), ("true", True), ("false", False)])
def test_statuses_know_of_sealing_keys_what_the_operator_said_and_no_more(given, seals):
    values = {switch.name: switch.value(given if switch.name == "brokers_seal" else None, {}) for switch in config.CONTROLLER}
    assert policy_settings(config.ControllerSettings(**values)).seals is seals
