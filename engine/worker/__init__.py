"""One rank: its device, weights, KV cache and sampler."""

from engine.worker.own_kernels import require_own_kernels

require_own_kernels()
