"""Negative sampling on the device: pools of candidates, samplers that choose from them, models that learn from it."""

from recbole_oov.sampler.choice import Choice, PoolBatch, Sampler, get_sampler, register_sampler, sampler_names
from recbole_oov.sampler.pools import NegativePools

__all__ = [
    "Choice",
    "NegativePools",
    "PoolBatch",
    "Sampler",
    "get_sampler",
    "register_sampler",
    "sampler_names",
]
