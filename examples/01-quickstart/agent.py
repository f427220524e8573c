# ruff: noqa: INP001, PLC0415, T201  a script that talks to people, and imports one SDK a step
"""An agent as anybody would write it. No key and no URL in here: the SDKs read both from the environment, and the key is none.

python agent.py ask gpt-4o-mini | stream gpt-4o-mini | anthropic claude-haiku | models | insist gpt-4o-mini
"""

import sys

PROMPT = "Will it rain in Lisbon tomorrow? Answer in one sentence."
CALLED_WRONGLY = 2
REFUSED = 3


def ask(model: str) -> None:
    from openai import OpenAI

    answer = OpenAI().chat.completions.create(model=model, max_tokens=60, messages=[{"role": "user", "content": PROMPT}])
    print(answer.choices[0].message.content)


def stream(model: str) -> None:
    from openai import OpenAI

    pieces = 0
    with OpenAI().chat.completions.create(
        model=model, max_tokens=60, stream=True, messages=[{"role": "user", "content": PROMPT}]
    ) as events:
        for event in events:
            if event.choices and event.choices[0].delta.content:
                pieces += 1
                print(event.choices[0].delta.content, end="", flush=True)
    print(f" [in {pieces} pieces]")


def anthropic(model: str) -> None:
    from anthropic import Anthropic

    answer = Anthropic().messages.create(model=model, max_tokens=60, messages=[{"role": "user", "content": PROMPT}])
    print("".join(block.text for block in answer.content if block.type == "text"))


def models() -> None:
    from openai import OpenAI

    print(", ".join(sorted(model.id for model in OpenAI().models.list())))


def insist(model: str) -> None:
    """Ask until somebody says no."""
    from openai import OpenAI

    client = OpenAI()
    for number in range(1, 51):
        raw = client.chat.completions.with_raw_response.create(model=model, max_tokens=200, messages=[{"role": "user", "content": PROMPT}])
        print(f"answer {number}, {raw.headers['x-ratelimit-remaining-tokens']} tokens left")


STEPS = {"ask": ask, "stream": stream, "anthropic": anthropic, "models": models, "insist": insist}


def main() -> int:
    step, *arguments = sys.argv[1:] or [""]
    if step not in STEPS or len(arguments) != (step != "models"):
        print(__doc__.splitlines()[-1], file=sys.stderr)
        return CALLED_WRONGLY
    try:
        STEPS[step](*arguments)
    except Exception as error:  # noqa: BLE001  two SDKs, each with exceptions of its own
        headers, body = getattr(getattr(error, "response", None), "headers", {}), getattr(error, "body", None)
        wait = f" retry-after={headers['retry-after']}" if "retry-after" in headers else ""
        said = body.get("error", body) if isinstance(body, dict) else {"message": str(error)}
        print(f"{type(error).__name__} {getattr(error, 'status_code', '')}{wait}: {said.get('message')}")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
