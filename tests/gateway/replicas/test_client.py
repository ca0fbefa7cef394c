from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest
import uvloop
import zmq

from engine.messages import Abort, FromEngine, Heartbeat, decode_to_engine, encode
from gateway.replicas.client import Client, MalformedFrameError


class Peer:
    """The engine's end, as ``engine.channel`` makes it, blocking."""

    def __init__(self, endpoint: str) -> None:
        self.socket = zmq.Context.instance().socket(zmq.PAIR)
        self.socket.linger = 1000
        self.socket.connect(endpoint)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client(zmq.Context.instance(), 0, 3)
    yield client
    client.close()


async def test_the_endpoint_is_private_new_and_gone_afterwards() -> None:
    clients = [Client(zmq.Context.instance(), 0, epoch) for epoch in (1, 2)]
    paths = [Path(client.endpoint.removeprefix("ipc://")) for client in clients]
    assert paths[0].parent != paths[1].parent
    assert all(stat.S_IMODE(path.parent.stat().st_mode) == 0o700 for path in paths)
    for client in clients:
        client.close()
        client.close()
    assert not any(path.parent.exists() for path in paths)


async def test_the_path_is_gone_once_the_engine_has_spoken(client: Client) -> None:
    """So that kill -9 of the gateway leaves nothing behind; the connection stays."""
    folder = Path(client.endpoint.removeprefix("ipc://")).parent
    peer = Peer(client.endpoint)
    heard: list[FromEngine] = []
    receiving = asyncio.create_task(client.receive(heard.append))
    for step in range(2):
        peer.socket.send(encode(Heartbeat(step=step, pending=0)))
        await eventually(lambda count=step + 1: len(heard) == count)
        assert not folder.exists()
    client.send(Abort(id="a", attempt=1))
    assert decode_to_engine(await asyncio.to_thread(peer.socket.recv)) == Abort(id="a", attempt=1)
    receiving.cancel()
    peer.socket.close()


async def test_a_long_temporary_folder_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    client = Client(zmq.Context.instance(), 0, 1)
    assert client.endpoint.startswith("ipc:///tmp/penstock-")
    assert not list(long.iterdir())
    client.close()


async def exchange() -> list[int]:
    client = Client(zmq.Context.instance(), 0, 3)
    peer = Peer(client.endpoint)
    heard: list[FromEngine] = []
    for step in range(100):
        peer.socket.send(encode(Heartbeat(step=step, pending=0)))
    receiving = asyncio.create_task(client.receive(heard.append))
    await eventually(lambda: len(heard) == 100)
    client.send(Abort(id="a", attempt=1))
    assert decode_to_engine(await asyncio.to_thread(peer.socket.recv)) == Abort(id="a", attempt=1)
    receiving.cancel()
    peer.socket.close()
    client.close()
    client.send(Abort(id="a", attempt=1))
    return [message.step for message in heard if isinstance(message, Heartbeat)]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_both_ways_in_order_on_either_event_loop(run: Callable[[Coroutine[None, None, list[int]]], list[int]]) -> None:
    assert run(exchange()) == list(range(100))


async def test_a_frame_that_is_no_message_is_an_error(client: Client) -> None:
    peer = Peer(client.endpoint)
    peer.socket.send(encode(Abort(id="a", attempt=1)))  # the other direction's
    with pytest.raises(MalformedFrameError):
        await asyncio.wait_for(client.receive(lambda _: None), 5)
    peer.socket.close()


@pytest.mark.parametrize("after", [0, 1, 3, 16, 20, 40])
async def test_cancelling_the_receiver_loses_no_frame(client: Client, after: int) -> None:
    """Not even one that has arrived in the very turn in which the receiver is cancelled."""
    peer = Peer(client.endpoint)
    for step in range(40):
        peer.socket.send(encode(Heartbeat(step=step, pending=0)))
    heard: list[FromEngine] = []

    def deliver(message: FromEngine) -> None:
        heard.append(message)
        if len(heard) == after:
            receiving.cancel()

    receiving = asyncio.create_task(client.receive(deliver))
    if not after:
        receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    await asyncio.sleep(0.05)
    assert receiving.cancelled() and after <= len(heard) < 40 + (after == 40)
    await client.receive_rest(heard.append)
    assert [message.step for message in heard if isinstance(message, Heartbeat)] == list(range(40))
    peer.socket.close()


async def test_many_messages_do_not_keep_the_event_loop(client: Client) -> None:
    peer = Peer(client.endpoint)
    for step in range(200):
        peer.socket.send(encode(Heartbeat(step=step, pending=0)))
    await asyncio.sleep(0.2)
    heard: list[FromEngine] = []
    receiving = asyncio.create_task(client.receive(heard.append))
    seen = []
    while len(heard) < 200:
        await asyncio.sleep(0)
        seen.append(len(heard))
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) <= 32
    receiving.cancel()
    peer.socket.close()


async def test_no_message_is_overlooked_between_two_sends(client: Client) -> None:
    """Each answer is sent by the peer as soon as it hears, so it may come while the next one is sent."""
    peer = Peer(client.endpoint)
    heard: list[FromEngine] = []
    receiving = asyncio.create_task(client.receive(heard.append))

    def echo() -> None:
        peer.socket.send(encode(Heartbeat(step=0, pending=0)))
        for step in range(1, 401):
            peer.socket.recv()
            peer.socket.send(encode(Heartbeat(step=step, pending=0)))

    echoing = asyncio.create_task(asyncio.to_thread(echo))
    await eventually(lambda: len(heard) == 1)  # connected
    for number in range(200):
        client.send(Abort(id="a", attempt=1))
        client.send(Abort(id="a", attempt=1))
        await eventually(lambda count=2 * number + 3: len(heard) == count)
    await echoing
    receiving.cancel()
    peer.socket.close()


async def test_a_fault_of_the_listener_is_raised(client: Client) -> None:
    def deliver(message: FromEngine) -> None:
        raise ValueError("no")

    peer = Peer(client.endpoint)
    peer.socket.send(encode(Heartbeat(step=1, pending=0)))
    with pytest.raises(ValueError, match="no"):
        await asyncio.wait_for(client.receive(deliver), 5)
    peer.socket.close()


async def test_a_send_without_a_peer_does_not_wait(client: Client) -> None:
    client.send(Abort(id="a", attempt=1))


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError
