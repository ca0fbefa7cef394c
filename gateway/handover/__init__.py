"""One server takes over from another, and no connection is refused meanwhile: ``penstock upgrade``.

``command`` is the user's side. It speaks to the running server over a unix socket (``control``), which starts the new
process (``successor``). That one knows its ``predecessor`` by an inherited socket; over it comes the listening socket.
``stand_in`` is what the first process becomes in the end.
"""
