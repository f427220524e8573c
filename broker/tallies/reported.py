"""Usage as OpenAI's dialects report it, again and again in one stream: of each figure the most that was said. Pure."""

from broker.chat import Usage
from broker.metering import as_object, count


class Reported:
    """What was reported so far.

    usage: None as long as nothing was, and for good once a report made no sense.

    Args:
        prompt: the dialect's name for the tokens of the prompt. Those that were cached stand below `<prompt>_details`.
        output: its name for those that were written.
    """

    __slots__ = ("_output", "_prompt", "_spoilt", "usage")

    def __init__(self, prompt: str, output: str) -> None:
        self._prompt = prompt
        self._output = output
        self._spoilt = False
        self.usage: Usage | None = None

    def add(self, reported: object) -> None:
        """One more report, or none."""
        said = as_object(reported)
        if said.get(self._prompt) is None and said.get(self._output) is None:
            return
        prompt, output = count(said.get(self._prompt)), count(said.get(self._output))
        total = said.get("total_tokens")
        whole = 0 if total is None else count(total)
        if prompt is None or output is None or whole is None or self._spoilt:
            self._spoilt = True
            self.usage = None
            return
        output = max(output, whole - prompt)  # reasoning that stands beside the output is in the total
        cached = count(as_object(said.get(f"{self._prompt}_details")).get("cached_tokens")) or 0
        before = self.usage or Usage(0, 0)
        prompt = max(prompt, before.input_tokens)
        self.usage = Usage(prompt, max(output, before.output_tokens), min(prompt, max(cached, before.cached_tokens)))
