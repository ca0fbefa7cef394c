"""Connections between the gateway and its engines: what a unix socket under ZeroMQ does, and no more.

Messages of one direction arrive in their order, each after a delay. What an engine has said waits in its process
until the kernel has it: a kill loses it, a stop delays it. What has departed arrives, whatever becomes of the
process. The gateway's end has ZeroMQ's interface, so that the production ``Client`` runs over it; its file descriptor
tells of an arrival once, and any call to the socket takes the notice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import zmq
from sim_event_loop import GatewayLoop
from sim_kernel import Kernel


class Network:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.random = kernel.stream("network")
        self._bound: dict[str, GatewaySocket] = {}
        self._descriptors = 0

    def delay(self, usual: float) -> float:
        """Mostly short, and now and then ten times as long."""
        return self.random.expovariate(1 / usual) if self.random.random() < 0.95 else self.random.uniform(0, 10 * usual)

    def new_descriptor(self) -> int:
        self._descriptors += 1
        return self._descriptors

    def bind(self, endpoint: str, socket: GatewaySocket) -> None:
        assert endpoint not in self._bound, "an endpoint is of one incarnation alone"
        self._bound[endpoint] = socket

    def unbind(self, socket: GatewaySocket) -> None:
        self._bound = {endpoint: bound for endpoint, bound in self._bound.items() if bound is not socket}

    def connect(self, endpoint: str, line: EngineLine) -> None:
        """Where nobody listens, what is said is lost."""
        socket = self._bound.get(endpoint)
        if socket is not None:
            line.peer, socket.peer = socket, line
            socket.flush()


class Context:
    """Stands for a ``zmq.Context`` of a gateway process."""

    def __init__(self, network: Network, loop: GatewayLoop) -> None:
        self._network = network
        self._loop = loop
        self.sockets: list[GatewaySocket] = []

    def socket(self, kind: int) -> GatewaySocket:
        assert kind == zmq.PAIR
        socket = GatewaySocket(self._network, self._loop)
        self.sockets.append(socket)
        return socket


class GatewaySocket:
    """The bound end."""

    def __init__(self, network: Network, loop: GatewayLoop) -> None:
        self._network = network
        self._loop = loop
        self._descriptor = network.new_descriptor()
        self._arrived: deque[bytes] = deque()
        self._noticed = False
        self._unsent: list[bytes] = []
        self._in_flight: deque[bytes] = deque()
        """In their order, which those that arrive at one moment keep."""
        self._last_arrival = 0.0
        self.peer: EngineLine | None = None
        self.linger = -1
        self.closed = False

    def set_hwm(self, value: int) -> None:
        assert value == 0

    def bind(self, endpoint: str) -> None:
        self._network.bind(endpoint, self)

    def fileno(self) -> int:
        return self._descriptor

    def send(self, frame: bytes, flags: int) -> None:
        assert flags == zmq.NOBLOCK and not self.closed
        self._noticed = False
        self._unsent.append(frame)
        self.flush()

    def flush(self) -> None:
        """What was said before the engine had connected waits for it."""
        peer = self.peer
        if peer is None:
            return
        for frame in self._unsent:
            delay = self._network.delay(0.0002)
            self._last_arrival = max(self._last_arrival, self._network.kernel.now + delay)
            self._in_flight.append(frame)
            self._network.kernel.at(self._last_arrival, lambda: peer.arrive(self._in_flight.popleft()))
        self._unsent.clear()

    def recv(self, flags: int) -> bytes:
        assert flags == zmq.NOBLOCK and not self.closed
        self._noticed = False
        if not self._arrived:
            raise zmq.Again
        return self._arrived.popleft()

    def arrive(self, frame: bytes) -> None:
        if self.closed or self._loop.dead:
            return
        self._arrived.append(frame)
        if not self._noticed:
            self._noticed = True
            self._loop.call_soon(self._notify)

    def _notify(self) -> None:
        if self._noticed:
            self._loop.notify(self._descriptor)

    def close(self) -> None:
        self.closed = True
        if self._linger_is_zero:
            self._unsent.clear()
        self._network.unbind(self)

    @property
    def _linger_is_zero(self) -> bool:
        return self.linger == 0


class EngineLine:
    """The engine's end: frames that it has said and that have not departed, and where they go."""

    def __init__(self, network: Network, arrived: Callable[[bytes], None]) -> None:
        self._network = network
        self._arrived = arrived
        self._held: deque[bytes] = deque()
        self._in_flight: deque[bytes] = deque()
        self._departing = False
        self._last_arrival = 0.0
        self.peer: GatewaySocket | None = None
        self.blocked = False
        """Stopped, or without a word for other reasons: nothing departs."""
        self.cut = False
        """The process is dead."""
        self.on_empty: Callable[[], None] | None = None

    def arrive(self, frame: bytes) -> None:
        if not self.cut:
            self._arrived(frame)

    def send(self, frame: bytes) -> None:
        self._held.append(frame)
        self._go_on()

    def block(self, blocked: bool) -> None:
        self.blocked = blocked
        self._go_on()

    def lose(self) -> int:
        """Dead at once: what has not departed never does. Gives how many frames."""
        lost = len(self._held)
        self._held.clear()
        self.cut = True
        return lost

    def flush_and(self, then: Callable[[], None]) -> None:
        """For an exit in order."""
        if self._held:
            self.on_empty = then
        else:
            then()

    def _go_on(self) -> None:
        if self._held and not self._departing and not self.blocked:
            self._departing = True
            self._network.kernel.after(self._network.delay(0.0002), self._depart)

    def _depart(self) -> None:
        self._departing = False
        if self.cut or self.blocked or not self._held:
            return
        frame = self._held.popleft()
        kernel, peer = self._network.kernel, self.peer
        if peer is not None:
            self._last_arrival = max(self._last_arrival, kernel.now + min(self._network.delay(0.0003), 0.02))
            self._in_flight.append(frame)
            kernel.at(self._last_arrival, lambda: peer.arrive(self._in_flight.popleft()))
        self._go_on()
        if not self._held and self.on_empty is not None:
            then, self.on_empty = self.on_empty, None
            then()
