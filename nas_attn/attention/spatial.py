"""Attention over pixels: SimAM and LSKA."""
