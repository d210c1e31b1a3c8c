"""The cost of each attention in closed form, and the rules of its options: no torch.

Functions per entry: `NAME_parameters` and `NAME_macs` as described by `Entry`, `NAME_misfit` for options that do not
fit, `NAME_idle` for options without effect.
"""
