"""The gateway: one asyncio process that speaks HTTP, templates, tokenizes, detokenizes and supervises engines."""
