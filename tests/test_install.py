"""Both ways of installing find the shipped spaces from any folder, and an editable install sees an edit at once."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

PARTS = ("pyproject.toml", "README.md", "LICENSE", "nas_attn", "search_spaces")


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, free to be edited."""
    copy = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        source = root / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, copy / part)
    return copy


LISTING = """
import nas_attn
from nas_attn.space.file import available_spaces
print(nas_attn.__file__, *(path.name for path in available_spaces().values()), sep="\\n")
"""


def spaces_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "search_spaces").glob("*.toml"))


def built(run_python, checkout: Path, kind: str, folder: Path) -> Path:
    """Build a wheel of a kind as pip does, by the hook of the build backend; return its path."""
    code = f"import hatchling.build; hatchling.build.build_{kind}({str(folder)!r})"
    done = run_python("-c", code, cwd=checkout)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("nas_attn-*.whl")
    return wheel


def test_a_wheel_carries_the_spaces_and_finds_them_from_any_folder(checkout, tmp_path, run_python):
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheel = built(run_python, checkout, "wheel", wheels)
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(Path(name).name for name in names if name.startswith("nas_attn/search_spaces/")) == sorted(
        path.name for path in (checkout / "search_spaces").iterdir()
    )
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"nas_attn"}
    assert "nas_attn/py.typed" in names
    assert {
        f"nas_attn/space/published/{path.name}" for path in (checkout / "nas_attn/space/published").iterdir()
    } <= set(names)
    pip = "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-compile"
    assert run_python(*pip, "--target", site, wheel).returncode == 0

    elsewhere = {"cwd": tmp_path, "env": {"PYTHONPATH": str(site)}}
    listed = run_python("-c", LISTING, **elsewhere)
    assert (listed.returncode, listed.stderr) == (0, "")
    where, *spaces = listed.stdout.splitlines()
    assert Path(where).is_relative_to(site)
    assert spaces == spaces_of(checkout)


def test_an_editable_install_copies_nothing_and_sees_an_edit_at_once(checkout, tmp_path, run_python):
    wheel = built(run_python, checkout, "editable", tmp_path)
    with zipfile.ZipFile(wheel) as content:
        (path,) = [name for name in content.namelist() if ".dist-info/" not in name]
        linked = content.read(path).decode().strip()
    assert Path(linked).resolve() == checkout.resolve()

    elsewhere = {"cwd": tmp_path, "env": {"PYTHONPATH": linked}}
    title = "from nas_attn import SearchSpace; print(SearchSpace.load('densenet_attn').title)"
    before = run_python("-c", title, **elsewhere).stdout.strip()
    file = checkout / "search_spaces" / "densenet_attn.toml"
    file.write_text(file.read_text().replace(before, "An edited title"))
    assert before
    assert run_python("-c", title, **elsewhere).stdout.strip() == "An edited title"
