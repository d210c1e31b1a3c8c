"""The table of data sources is a mapping from names to records."""

from nas_attn import DATA

for source in DATA.values():
    print(f"{source.form:15} {source.summary}")
