"""Search spaces: the file, its sites and choices, what fits and what it costs."""
