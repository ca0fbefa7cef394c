"""A load generator: requests over HTTP to any server that speaks OpenAI's API, and figures of how they went."""
