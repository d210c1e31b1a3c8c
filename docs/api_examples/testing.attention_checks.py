"""The checks that the catalogue's own attentions pass, for an attention of yours; in a test, parametrise over them."""

from nas_attn.testing import attention_checks

for check in attention_checks("simam"):
    if check.name in ("shape", "gradient", "smallest_map"):
        check.run()
