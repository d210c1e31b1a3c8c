"""Attention over channels and pixels together: scSE and BAM."""
