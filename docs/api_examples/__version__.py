"""The version, which every run folder also states."""

from nas_attn import __version__

print(__version__)
