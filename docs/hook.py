"""The hooks that mkdocs calls while it builds the site: the generated pages, which stand in no file, and a label."""

from __future__ import annotations

from pathlib import Path

from generators.pages import fill, pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

COPIED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages that stand at the root of the repository: path in the site, and there."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    fill(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and those that stand at the root of the repository."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    root = Path(config.config_file_path).parent
    for path, source in COPIED.items():
        files.append(File.generated(config, path, abs_src_path=str(root / source)))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Name the theme's search dialog, for readers who hear the page."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')
