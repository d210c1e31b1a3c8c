"""The backbones, their sites, and how a residual block is opened."""
