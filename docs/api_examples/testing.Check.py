"""One check of one entry; it raises AssertionError, in one sentence, unless it holds."""

from nas_attn.testing import Check, attention_checks

first: Check = attention_checks("eca")[0]
print(first, first.entry, first.name)
first.run()
