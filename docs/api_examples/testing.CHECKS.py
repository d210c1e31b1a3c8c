"""The names of all checks; an entry names in `exceptions` those that cannot hold for it."""

from nas_attn.testing import CHECKS

print(sorted(CHECKS))
