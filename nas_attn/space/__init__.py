"""Search spaces: the file, its sites and decisions, the fit and the cost of attentions."""
