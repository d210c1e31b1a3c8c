"""The page of the Python API: each public name by its docstring, with an example that the tests run."""

from __future__ import annotations

import ast
from pathlib import Path

import nas_attn
import nas_attn.callbacks
import nas_attn.cost
import nas_attn.explain
import nas_attn.testing
from generators.markdown import block

EXAMPLES = Path(__file__).parents[1] / "api_examples"
MODULES = {
    "callbacks": nas_attn.callbacks,
    "cost": nas_attn.cost,
    "explain": nas_attn.explain,
    "testing": nas_attn.testing,
}
"""Public modules beside the package itself."""

GROUPS = {
    "Search": ("search", "Run", "load_run"),
    "Models": ("build_model", "load_model", "save_model", "auxiliary_loss", "create_attention"),
    "Spaces and placements": ("SearchSpace", "Placement", "Attention", "Site", "Place"),
    "Catalogues": ("ATTENTIONS", "BACKBONES", "DATA"),
    "Adding to the catalogues": (),
}
"""Headings of the page; a public name that stands in none of them comes under the last."""


def pages() -> dict[str, str]:
    """Return the page by its path."""
    parts = [
        "# Python API",
        "Every public name of `nas_attn`, and of its public modules `nas_attn.callbacks`, `nas_attn.cost`, "
        "`nas_attn.explain` and `nas_attn.testing`. Importing the package is quick: torch, Optuna and Ray are loaded "
        "with the first name that needs them.",
    ]
    for title, names in _grouped().items():
        parts += [f"## {title}", *(_one(name) for name in names)]
    for module in MODULES:
        parts += [f"## nas_attn.{module}", *(_one(name) for name in public_names() if name.startswith(f"{module}."))]
    return {"api.md": "\n\n".join(parts)}


def public_names() -> list[str]:
    """Return every public name, as `create_attention` or `cost.measure`."""
    inner = [f"{module}.{name}" for module, found in MODULES.items() for name in found.__all__]
    return [*nas_attn.__all__, *inner]


def example(name: str) -> tuple[str, str]:
    """Return the sentence and the code of a name's example. Raises: FileNotFoundError if there is none."""
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    sentence = ast.get_docstring(tree)
    assert sentence, f"the example of {name} must begin with a sentence"
    return sentence, text.split('"""', 2)[2].strip()


def _grouped() -> dict[str, list[str]]:
    grouped = {title: [name for name in names if name in nas_attn.__all__] for title, names in GROUPS.items()}
    known = {name for names in grouped.values() for name in names}
    grouped[list(grouped)[-1]] += [name for name in nas_attn.__all__ if name not in known]
    return grouped


def _one(name: str) -> str:
    sentence, written = example(name)
    return "\n\n".join([f"::: nas_attn.{name}", f"**Example.** {sentence}", block(written, "python")])
