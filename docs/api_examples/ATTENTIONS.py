"""The catalogue is a mapping from names to records."""

from nas_attn import ATTENTIONS

entry = ATTENTIONS["cbam"]
print(entry.formula)
print([option.name for option in entry.options])
gates_channels_only = [name for name in ATTENTIONS if "channel" in ATTENTIONS[name].summary]
