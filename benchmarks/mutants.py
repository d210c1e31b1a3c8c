"""Mutation testing: of the core's small faults, drawn at random, how many do the tests notice? Goal: at least 90 %.

Run: `python benchmarks/mutants.py [--number 300] [--seed 0] [--room study] [--at nas_attn/study/stages.py:227]`,
nightly or by hand; it needs the extra `mutants`. A mutant is one small change of one file. Each is written into a copy
of the tree, never into the checkout, and the tests of its room run there until one fails.

Most operators are cosmic-ray's, which works on the source text: it reaches properties, decorated functions and
constants, which mutmut 3 leaves out. Three of our own remove a call, remove a keyword argument, and turn `in` around.
Annotations are not mutated. Tests run in a fork of this process, which has imported the large packages once.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code, use_mutation
from mutant_operators import OPERATORS

ROOT = Path(__file__).resolve().parent.parent

PRELOADED = ("optuna", "pytest", "scipy.stats", "sqlalchemy", "torch", "torch.fx", "torchvision")
"""Packages that are imported once, before the forks."""

TEST_SECONDS = 60
"""Time limit of one test: a mutant may loop for ever."""

MEMORY = 8 * 2**30
"""Limit on the memory of one test process, in bytes: a mutant may allocate for ever."""


@dataclass(frozen=True)
class Room:
    """A part of the core, and the tests that state its rules.

    Args:
        sources: Files and folders to mutate.
        tests: Test files, those that find most mutants in the shortest time first.
        left_out: Tests of these files that take long, or measure time.
    """

    sources: tuple[str, ...]
    tests: tuple[str, ...]
    left_out: tuple[str, ...] = ()


ROOMS = {
    "study": Room(
        ("nas_attn/study",),
        (
            "tests/test_samplers.py",
            "tests/test_stages_rules.py",
            "tests/test_ledger_rules.py",
            "tests/test_study_rules.py",
        ),
    ),
    "space": Room(
        tuple(f"nas_attn/space/{name}.py" for name in ("bound", "decision", "file", "fit", "patterns", "search_space")),
        (
            "tests/test_space_rules.py",
            "tests/test_space.py",
            "tests/test_space_one_of.py",
            "tests/test_space_file.py",
            "tests/test_shorthands.py",
        ),
        (
            "tests/test_space.py::test_the_shipped_spaces_bind_to_the_real_networks",
            "tests/test_space.py::test_a_placement_its_cost_and_its_check_take_less_than_a_third_of_a_millisecond",
        ),
    ),
    "schema": Room(("nas_attn/space/schema.py",), ("tests/test_space_file.py",)),
    "published": Room(
        ("nas_attn/space/published.py",),
        ("tests/test_space_rules.py", "tests/test_published.py", "tests/test_published_arms.py"),
        (
            "tests/test_published_arms.py::test_a_published_network_is_an_arm_of_the_comparison",
            "tests/test_published.py::test_it_trains_with_a_gradient_to_every_attention",
        ),
    ),
    "insertion": Room(
        ("nas_attn/model/insert.py", "nas_attn/model/build.py"),
        (
            "tests/test_insertion_rules.py",
            "tests/test_model.py",
            "tests/test_model_starts.py",
            "tests/test_model_swaps.py",
        ),
        ("tests/test_model_swaps.py::test_copies_pickles_exports_and_files_compute_the_same",),
    ),
    "statistics": Room(("nas_attn/statistics.py",), ("tests/test_statistics.py",)),
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Args:
        path: The file, relative to the root.
        occurrence: Number of the operator's place in the file.
        old, new: The line before and after, without its indent.
    """

    room: str
    path: str
    line: int
    operator: str
    occurrence: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.old} -> {self.new} [{self.operator}]"


@dataclass(frozen=True)
class Place:
    """A place in a file that an operator can change; Python may refuse what it makes."""

    room: str
    path: str
    line: int
    operator: str
    occurrence: int

    def mutant(self) -> Mutant | None:
        """Return the mutant, or None if it cannot be compiled, or is the same program."""
        source = (ROOT / self.path).read_text()
        mutated = mutate_code(source, OPERATORS[self.operator](), self.occurrence)
        try:
            if ast.dump(ast.parse(mutated)) == ast.dump(ast.parse(source)):
                return None
        except SyntaxError:
            return None
        old, new = source.splitlines(), mutated.splitlines()
        after = new[self.line - 1].strip() if len(new) == len(old) else "(removed)"
        return Mutant(
            self.room, self.path, self.line, self.operator, self.occurrence, old[self.line - 1].strip(), after
        )


def places_in(room: str, path: Path) -> Iterator[Place]:
    """Yield every place of a file; annotations, and the `*` before keyword-only parameters, stay as they are."""
    source = path.read_text()
    nodes, kept = list(ast_nodes(get_ast(source))), _annotations(source)
    kept += [(n.start_pos, n.end_pos) for n in nodes if n.type == "operator" and n.parent.type == "parameters"]
    for name, operator in OPERATORS.items():
        places = [place for node in nodes for place in operator().mutation_positions(node)]
        for occurrence, (start, _) in enumerate(places):
            if not any(first <= start < last for first, last in kept):
                yield Place(room, str(path.relative_to(ROOT)), start[0], name, occurrence)


def every_place() -> list[Place]:
    """Return the places of all rooms, in a fixed order."""
    found = []
    for room, parts in ROOMS.items():
        for source in parts.sources:
            path = ROOT / source
            files = sorted(path.glob("*.py")) if path.is_dir() else [path]
            found += [place for file in files for place in places_in(room, file)]
    return found


def draw(places: list[Place], number: int, seed: int) -> list[Mutant]:
    """Return `number` mutants at random, each equally likely; the first few are a random draw too."""
    shuffled = random.Random(seed).sample(places, len(places))
    return list(islice((mutant for place in shuffled if (mutant := place.mutant()) is not None), number))


def run_tests(tree: Path, room: Room) -> str:
    """Run the tests of a room in a fork; return `survived`, `killed` or `timeout`."""
    log = tree.parent / "output.txt"
    child = os.fork()
    if child == 0:
        _be_a_test_process(tree, room, log)
    deadline = time.monotonic() + 20 * TEST_SECONDS
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout"
        time.sleep(0.02)
    if status == 0:
        return "survived"
    return "timeout" if "Failed: Timeout" in log.read_text(errors="replace") else "killed"


def _be_a_test_process(tree: Path, room: Room, log: Path) -> None:
    """Run pytest in the copy, and end this process with its exit code."""
    code = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        with log.open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        os.environ["PYTHONPATH"] = str(tree)
        import pytest

        tests = [name for name in room.tests if Path(name).exists()]
        left_out = [f"--deselect={name}" for name in room.left_out]
        options = ["-x", "-q", "-n0", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}", "--tb=short"]
        code = int(pytest.main([*options, *left_out, *tests]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def check_left_out(room: Room) -> None:
    """Check that the tests that a room leaves out exist: pytest deselects any name in silence. Raises: SystemExit."""
    for name in room.left_out:
        file, _, test = name.partition("::")
        if f"def {test}(" not in (ROOT / file).read_text():
            raise SystemExit(f"A room may leave out tests that exist, but got {name}: correct its name in ROOMS.")


def copy_tree(folder: Path) -> Path:
    """Copy the files of the checkout that git does not ignore, changed or not, into `folder`."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    tree = folder / "tree"
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    return tree


def judge(drawn: list[Mutant]) -> dict[Mutant, str]:
    """Return the outcome of every mutant, or after Ctrl-C of those so far.

    It refuses to start if the unchanged tree fails its tests.
    """
    outcomes: dict[Mutant, str] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = copy_tree(Path(folder))
        os.environ["TMPDIR"] = tempfile.tempdir = folder  # what a killed test leaves ends with it
        sys.pycache_prefix, sys.dont_write_bytecode = str(Path(folder) / "compiled"), False
        for name in {mutant.room: None for mutant in drawn}:
            check_left_out(ROOMS[name])
            if run_tests(tree, ROOMS[name]) != "survived":
                output = (Path(folder) / "output.txt").read_text()
                raise SystemExit(f"The tests of {name} fail without a mutant:\n{output}")
        sys.dont_write_bytecode = True  # the mutants read what the unchanged tree has compiled, and add nothing to it
        try:
            for number, mutant in enumerate(drawn, 1):
                with use_mutation(tree / mutant.path, OPERATORS[mutant.operator](), mutant.occurrence):
                    outcomes[mutant] = run_tests(tree, ROOMS[mutant.room])
                print(f"{number}/{len(drawn)} {outcomes[mutant]:8} {mutant}", flush=True)
        except KeyboardInterrupt:
            print(f"Interrupted after {len(outcomes)} of {len(drawn)} mutants.")
    return outcomes


def main() -> None:
    """Draw mutants, run the tests on each, and print a table of the rooms and the list of the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=300, help="Number of mutants to draw.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the draw.")
    parser.add_argument("--room", choices=ROOMS, help="Draw from this room only.")
    parser.add_argument("--at", metavar="FILE:LINE", action="append", help="Run all mutants of this line; repeatable.")
    chosen = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    for name in PRELOADED:
        importlib.import_module(name)
    places = [place for place in every_place() if chosen.room in (None, place.room)]
    if chosen.at:
        places = [place for place in places if f"{place.path}:{place.line}" in chosen.at]
    outcomes = judge(draw(places, len(places) if chosen.at else chosen.number, chosen.seed))
    print(f"\n{'room':12}{'places':>8}{'drawn':>7}{'killed':>8}{'timeout':>9}{'survived':>10}")
    for room in [*ROOMS, None]:
        counts = Counter(outcome for mutant, outcome in outcomes.items() if room in (None, mutant.room))
        n_places = sum(room in (None, place.room) for place in places)
        row = f"{counts.total():>7}{counts['killed']:>8}{counts['timeout']:>9}{counts['survived']:>10}"
        print(f"{room or 'together':12}{n_places:>8}{row}")
    if outcomes:
        share = 1 - Counter(outcomes.values())["survived"] / len(outcomes)
        print(f"\nNoticed (killed or out of time): {share:.1%} of {len(outcomes)}. Survivors:")
    print("\n".join(f"  {mutant}" for mutant, outcome in outcomes.items() if outcome == "survived"))


def _annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the first position and the one behind the last of every annotation; lines count from 1."""
    nodes = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            nodes.append(node.annotation)
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in nodes if n is not None]


if __name__ == "__main__":
    main()
