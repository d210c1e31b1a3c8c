"""The public face: pinned, cheap to import, and the same in every order of import."""

from __future__ import annotations

import ast
import importlib
import os
from pathlib import Path

import pytest

import nas_attn

PUBLIC = [
    "ATTENTIONS",
    "BACKBONES",
    "DATA",
    "Attention",
    "Backbone",
    "BackboneOption",
    "Context",
    "DataRequest",
    "DataSource",
    "Entry",
    "ImageDataset",
    "LabelledImages",
    "NasAttnError",
    "Option",
    "Place",
    "Placement",
    "PlacementSampler",
    "Run",
    "SearchSpace",
    "Site",
    "__version__",
    "auxiliary_loss",
    "build_model",
    "create_attention",
    "load_model",
    "load_run",
    "register_attention",
    "register_backbone",
    "register_data",
    "save_model",
    "search",
]


def test_the_public_api_is_pinned():
    assert nas_attn.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(nas_attn))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_resolves_to_what_its_home_defines(name):
    found = getattr(nas_attn, name)
    if name != "__version__":
        assert found is getattr(importlib.import_module(nas_attn._HOMES[name]), name)


def test_editors_see_the_same_names_and_homes_as_the_interpreter(root: Path):
    tree = ast.parse((root / "nas_attn" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {name.name: node.module for node in block.body for name in node.names}
    assert imported == nas_attn._HOMES
    assert set(imported) | {"__version__"} == set(nas_attn.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'nas_attn' has no attribute 'serch'"):
        _ = nas_attn.serch


def test_importing_the_package_or_its_command_line_loads_nothing_heavy(run_python):
    heavy = "torch", "torchvision", "optuna", "ray", "pydantic", "sklearn", "matplotlib", "numpy"
    code = f"import nas_attn, nas_attn.cli.commands, sys; print(sorted(set({heavy}) & set(sys.modules)))"
    done = run_python("-c", code)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


ORDERS = (
    "import nas_attn",
    "import nas_attn.run.job",
    "import nas_attn.cli.commands; import nas_attn.run.job",
    "from nas_attn.run.job import run_command",
    "from nas_attn import search",
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_search_is_the_function_in_every_order_of_import(run_python):
    """Each order is imported in a fork of a process that has imported other people's packages alone."""
    code = f"""
import os, sys
import numpy, pydantic, typer
for first in {ORDERS}:
    if not os.fork():
        import nas_attn
        exec(first)
        from nas_attn import search
        import nas_attn.run.job
        os._exit(not (callable(search) and search is nas_attn.search is nas_attn.run.job.search))
    assert "nas_attn" not in sys.modules
    print(os.wait()[1], first)
"""
    done = run_python("-c", code)
    assert done.stdout.splitlines() == [f"0 {first}" for first in ORDERS], done.stderr


def test_no_module_is_called_like_a_public_name(root: Path):
    modules = {path.stem for path in (root / "nas_attn").iterdir()}  # importing one would hide the name
    assert not modules & set(PUBLIC)
