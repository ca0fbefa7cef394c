"""Two calls as Hermes and Qwen models write them."""

PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ROME = '<tool_call>\n{"name": "get_time", "arguments": {"city": "Rome", "dst": [true, null, 1.5e-3, {}]}}\n</tool_call>'
CALLED_PARIS = ("get_weather", {"city": "Paris"})
CALLED_ROME = ("get_time", {"city": "Rome", "dst": [True, None, 0.0015, {}]})
