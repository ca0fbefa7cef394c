"""``/v1/status``: what is told, and to whom."""

from __future__ import annotations

import base64

from http_for_tests import serving

from engine.messages import PoolPicture, SequencePicture
from gateway.admission import Keys
from observability.records import EngineState

STATE = EngineState(running=1, waiting=2, blocks_used=3, blocks_total=8)
PICTURE = PoolPicture(state=STATE, stride=2, cells=bytes([7, 7, 1, 0]), sequences=[SequencePicture(7, 20, 16, 5, 3)])


async def look() -> dict[int, PoolPicture]:
    return {0: PICTURE, 1: PICTURE}


async def test_it_tells_of_every_replica():
    async with serving(look=look) as server:
        server.lifecycle.queued_requests = 4
        status = (await server.client.get("/v1/status")).json()
    assert (status["model"], status["version"], status["ready"], status["queued"]) == ("org/model", "1.2.3", True, 4)
    first, second, third = status["replicas"]
    assert base64.b64decode(first["pool"].pop("cells")) == PICTURE.cells
    sequence = {"owner": 7, "prompt_tokens": 20, "cached_tokens": 16, "output_tokens": 5, "blocks": 3}
    counts = {"running": 1, "waiting": 2, "blocks_used": 3, "blocks_total": 8, "block_size": 16, "stride": 2}
    assert first["pool"] == counts | {"sequences": [sequence]}
    assert second == {"replica": 1, "up": False, "draining": False, "pool": None}, "an old picture of a lost engine"
    assert third == {"replica": 2, "up": True, "draining": False, "pool": None}, "it has not answered"


async def test_it_needs_a_key_where_there_are_keys():
    async with serving(look=look, keys=Keys.load(["k"])) as server:
        assert (await server.client.get("/v1/status")).status_code == 401
        headers = {"authorization": "Bearer k"}
        assert (await server.client.get("/v1/status", headers=headers)).status_code == 200
