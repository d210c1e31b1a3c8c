"""What the options of each attention do to its widths and its cost, as closed forms: no torch.

Functions by entry: `NAME_parameters` and `NAME_macs` as `Entry` states them, `NAME_misfit` for options that
cannot hold, `NAME_idle` for options without effect.
"""
