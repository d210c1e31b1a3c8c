"""The pages of the site that are generated from the package's tables, models and docstrings; no mkdocs in here."""
