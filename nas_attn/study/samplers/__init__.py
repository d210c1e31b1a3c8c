"""Samplers that propose placements, schedulers that stop trials early, and their tables."""
