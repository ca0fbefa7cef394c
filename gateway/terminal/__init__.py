"""Commands that talk to a running server: ``penstock chat``, ``penstock top`` and ``penstock bench``."""
