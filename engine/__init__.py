"""The engine: scheduler, paged KV cache, models and workers. It knows token ids only: no HTTP, no text."""
