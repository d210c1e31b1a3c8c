"""One run: its settings, its folder, its stages and its output."""
