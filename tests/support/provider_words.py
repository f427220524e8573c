"""What a provider of each dialect says when all is well: "hi", for 5 input and 2 output tokens."""

from support.fake_provider import json_answer, sse_answer

USAGE_TOKENS = 7
CHAT = json_answer(
    b'{"id":"c","object":"chat.completion","created":1,"model":"gpt-real","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}'
)
MESSAGE = json_answer(
    b'{"id":"m","type":"message","role":"assistant","model":"claude-real","content":[{"type":"text","text":"hi"}],'
    b'"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":2}}'
)
CHAT_EVENTS = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-real","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n',
    b'data: {"id":"c","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\n',
    b"data: [DONE]\n\n",
)
BEGINNING = (
    b'{"id":"m","type":"message","role":"assistant","model":"claude-real","content":[],'
    b'"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":1}}'
)
MESSAGE_EVENTS = (
    b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n' % BEGINNING,
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}\n\n',
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":2}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
)
CHAT_STREAM = sse_answer(*CHAT_EVENTS)
MESSAGE_STREAM = sse_answer(*MESSAGE_EVENTS)
