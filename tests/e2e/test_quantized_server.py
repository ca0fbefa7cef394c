"""A server whose weights are quantized while it loads answers as any other."""

import pytest

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_the_openai_client_is_answered(start_server, quantization):
    with start_server("--quantization", quantization, "--num-threads", "1") as server:
        client = server.client()
        answer = client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0)
        assert answer.choices[0].message.content == "The capital of France is Paris."
        stream = client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert text == answer.choices[0].message.content
        log = server.log.read_text()
        assert f"weights quantized to {quantization}" in log
        assert f"quantized to {quantization}, held in" in log
