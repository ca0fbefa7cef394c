"""From an accepted request to a stream of events: request state, detokenizing, stop strings, SSE."""
