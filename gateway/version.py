"""The project's version, read by ``pyproject.toml``, ``penstock --version`` and ``/version``."""

# Never between 0.18.2 and 0.19: transformers probes the distribution that owns the import name
# `kernels` and would take a version in that range for Hugging Face's package of that name.
VERSION = "0.1.0"
