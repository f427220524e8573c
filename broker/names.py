"""The words that other people rely on: the API group, labels, headers, ports. Nothing else in the house spells them out."""

from typing import Final

GROUP: Final = "aiaccess.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

HOSTS_ANNOTATION: Final = f"{GROUP}/hosts"  # on a Secret: where its owner lets the key go
INJECT: Final = f"{GROUP}/inject"  # a namespace's label, "enabled"; on a Pod an annotation, "false" = leave this one alone
DIALECTS_ANNOTATION: Final = f"{GROUP}/dialects"  # on a Pod: whose SDKs get variables; "none" = nobody's
PORT_ANNOTATION: Final = f"{GROUP}/gateway-port"  # on a Pod: where its local gateway listens
INJECTED_ANNOTATION: Final = f"{GROUP}/injected"  # on a Pod, by the webhook: what was done to it
GATEWAY_CONTAINER: Final = "aiaccess-gateway"  # SPIRE entries and network tools tell the local gateway by this name

GATEWAY_PORT: Final = 4180
BROKER_PORT: Final = 8443
ADMIN_PORT: Final = 9090
WEBHOOK_PORT: Final = 9443
PORT_MAX: Final = 65535

PLACEHOLDER_KEY: Final = "aiaccess-placeholder"  # what SDKs get so that they construct; counts as no credential

EXCHANGE_HEADER: Final = b"x-aiaccess-exchange"
SOURCE_HEADER: Final = b"x-aiaccess-source"  # gateway | broker | provider, on errors
CLAMP_HEADER: Final = b"x-aiaccess-max-output-tokens"
MODELS_PATH: Final = "/v1/models"
