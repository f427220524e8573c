"""Objects for tests that run the whole product: one namespace, one provider of each dialect on loopback, policies to taste."""


def routing(port: int, *, extra: str = "", models: str = "") -> str:
    return f"""
apiVersion: v1
kind: Secret
metadata: {{name: key, namespace: team1, annotations: {{aiaccess.dev/hosts: "http://127.0.0.1:{port}"}}}}
stringData: {{api-key: "${{env:KEY}}"}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: routing, namespace: team1}}
spec:
  providers:
  - name: openai
    schema: OpenAI
    endpoint: http://127.0.0.1:{port}/v1
    credentials: {{type: APIKey, secretRef: {{name: key}}}}
    timeouts: {{connect: 1s, firstByte: 1s, idle: 1s}}
  - name: anthropic
    schema: Anthropic
    endpoint: http://127.0.0.1:{port}
    credentials: {{type: APIKey, secretRef: {{name: key}}}}
    timeouts: {{connect: 1s, firstByte: 1s, idle: 1s}}
  - name: keyless
    schema: OpenAI
    endpoint: http://127.0.0.1:{port}/v1
    credentials: {{type: APIKey, secretRef: {{name: absent}}}}
  - name: nowhere
    schema: OpenAI
    endpoint: http://127.0.0.1:1/v1
{extra}
  models:
  - {{name: gpt, backends: [{{provider: openai, model: gpt-real}}], defaultOutputTokens: 50}}
  - {{name: claude, backends: [{{provider: anthropic, model: claude-real}}], defaultOutputTokens: 50}}
  - {{name: both, backends: [{{provider: openai, model: gpt-real}}, {{provider: anthropic, model: claude-real}}], defaultOutputTokens: 50}}
  - {{name: secretless, backends: [{{provider: keyless, model: x}}]}}
  - {{name: unreachable, backends: [{{provider: nowhere, model: x}}], defaultOutputTokens: 50}}
  - {{name: ungranted, backends: [{{provider: openai, model: x}}]}}
{models}
"""


def access(
    *, name: str = "agents", subject: str = "spiffe://example.org/ns/team1/sa/agent", models: str = "", quotas: str = "[]", extra: str = ""
) -> str:
    return f"""---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: {name}, namespace: team1}}
spec:
  subjects: [{{spiffeID: "{subject}"}}]
  models: [{models or "gpt, claude, both, secretless, unreachable"}]
  quotas: {quotas}
{extra}
"""
