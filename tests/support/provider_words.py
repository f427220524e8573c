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

RESPONDED = (
    b'{"id":"resp_1","object":"response","created_at":1,"model":"gpt-real","status":"%b","error":null,"incomplete_details":null,'
    b'"instructions":null,"metadata":{},"parallel_tool_calls":true,"temperature":1.0,"tool_choice":"auto","tools":[],"top_p":1.0,'
    b'"output":[%b],"usage":%b}'
)
SAID = (
    b'{"type":"message","id":"msg_1","role":"assistant","status":"completed",'
    b'"content":[{"type":"output_text","text":"hi","annotations":[],"logprobs":[]}]}'
)
RESPONSE_USAGE = (
    b'{"input_tokens":5,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":2,'
    b'"output_tokens_details":{"reasoning_tokens":0},"total_tokens":7}'
)
RESPONSE_WHOLE = RESPONDED % (b"completed", SAID, RESPONSE_USAGE)
_PLACE = b'"item_id":"msg_1","output_index":0,"content_index":0'


def _response_event(number: int, kind: bytes, members: bytes) -> bytes:
    return b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b}\n\n' % (kind, kind, number, members)


RESPONSE_EVENTS = (
    _response_event(0, b"response.created", b'"response":' + RESPONDED % (b"in_progress", b"", b"null")),
    _response_event(
        1,
        b"response.output_item.added",
        b'"output_index":0,"item":{"type":"message","id":"msg_1","role":"assistant","status":"in_progress","content":[]}',
    ),
    _response_event(2, b"response.content_part.added", _PLACE + b',"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]}'),
    _response_event(3, b"response.output_text.delta", _PLACE + b',"delta":"hi","logprobs":[]'),
    _response_event(4, b"response.output_text.done", _PLACE + b',"text":"hi","logprobs":[]'),
    _response_event(
        5, b"response.content_part.done", _PLACE + b',"part":{"type":"output_text","text":"hi","annotations":[],"logprobs":[]}'
    ),
    _response_event(6, b"response.output_item.done", b'"output_index":0,"item":' + SAID),
    _response_event(7, b"response.completed", b'"response":' + RESPONSE_WHOLE),
)
RESPONSE = json_answer(RESPONSE_WHOLE)
RESPONSE_STREAM = sse_answer(*RESPONSE_EVENTS)
