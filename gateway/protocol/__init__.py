"""OpenAI's wire formats: strict request schemas, and the shapes of answers. Nothing here does HTTP."""
