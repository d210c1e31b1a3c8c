"""One run: its request, its folder, its job and its output."""
