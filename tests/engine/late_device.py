"""A GPU in the place of ``torch.cuda``: nothing is computed before somebody waits for the stream it was launched on.

Tensors are a CPU's. Each operation on them is queued, and what it is to give holds NaN until then. A graph holds the
operations that were recorded, not the function that called them; recorded operations are not computed.
"""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Stream:
    def __init__(self, device=None):
        self._launched, self._done = [], 0

    def launch(self, operation):
        self._launched.append(operation)

    @property
    def end(self):
        return len(self._launched)

    def run(self, until):
        while self._done < until:
            self._done += 1
            self._launched[self._done - 1]()

    def wait_stream(self, other):
        until = other.end
        self.launch(lambda: other.run(until))


class LateDevice(TorchDispatchMode):
    """What is done inside ``with`` is done on it."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.streams = [Stream()]
        self.current = self.streams[0]
        self.pinned, self.graphs = set(), []
        self.stalls = 0
        """Times that the host had to wait, but for events."""
        self._recording = None
        self._running = False
        device = self

        class Event:
            def record(self):
                self._at = device.current, device.current.end

            def synchronize(self):
                if hasattr(self, "_at"):  # CUDA too takes one that was not recorded for passed.
                    device.run(*self._at)

        class Graph:
            def __init__(self):
                self.operations = []
                device.graphs.append(self)

            def replay(self):
                for operation in self.operations:
                    device.current.launch(operation)

        for name, value in {
            "Stream": self._stream, "Event": Event, "CUDAGraph": Graph, "current_stream": lambda: self.current,
            "stream": self._on, "graph": self._capture, "graph_pool_handle": object,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)

    def run(self, stream, until):
        self._running = True
        try:
            stream.run(until)
        finally:
            self._running = False

    def finish(self, *, last_first=False):
        """Compute all that was launched, stream by stream; where one does not wait for another it comes too early."""
        for stream in reversed(self.streams) if last_first else self.streams:
            self.run(stream, stream.end)

    def _stream(self, device):
        self.streams.append(Stream())
        return self.streams[-1]

    @contextmanager
    def _on(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def _capture(self, graph, *, pool, stream):
        before, self.current, self._recording = self.current, stream, graph
        graph.pool = pool
        try:
            yield
        finally:
            self._recording = None
        self.current = before  # As in torch, where a capture that fails does not come here.

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if self._running:
            return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            if self._recording is not None:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.stalls += 1
            self.run(self.current, self.current.end)
            return func(*args, **kwargs)
        alias = func._schema.returns[0].alias_info
        if alias is not None and alias.is_write:
            if func is torch.ops.aten.copy_.default and not (args[2:] == (True,) or kwargs.get("non_blocking")):
                self.stalls += args[0].data_ptr() in self.pinned
            self._launch(lambda: func(*args, **kwargs))
            return args[0]
        pinned = kwargs.pop("pin_memory", False)
        found = func(*args, **kwargs)
        if alias is None:
            for each in tree_leaves(found):
                each.fill_(torch.nan if each.is_floating_point() else -1)
            if pinned:
                self.pinned.add(found.data_ptr())
            if not func._schema.name.startswith("aten::empty"):
                self._launch(lambda: _write(found, func(*args, **kwargs)))
        return found

    def _launch(self, operation):
        if self._recording is not None:
            self._recording.operations.append(operation)
        else:
            self.current.launch(operation)


def _write(memory, found):
    for old, new in zip(tree_leaves(memory), tree_leaves(found), strict=True):
        old.copy_(new)
