"""The contract suite of attention modules, for authors of plug-ins too: every check as a record with a `run` method.

The whole test file of a plug-in:

    from nas_attn.testing import attention_checks

    @pytest.mark.parametrize("check", attention_checks(MY_ENTRY), ids=str)
    def test_my_gate(check):
        check.run()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.entry import Entry
from nas_attn.errors import SpaceError, unknown
from nas_attn.testing import checks, transforms
from nas_attn.testing.cases import Case, cases_of

Rule = Callable[[Case], None]


@dataclass(frozen=True)
class Check:
    """One check of one entry.

    Args:
        name: Key of the check in `CHECKS`, which `Entry.exceptions` may name.
        entry: Name of the entry.
        variant: Options that differ from the base, e.g. `cbam-order=parallel`; the entry's name for the base.
        run: Raises AssertionError, with one sentence, if the check fails.
    """

    name: str
    entry: str
    variant: str
    run: Callable[[], None]

    def __str__(self) -> str:
        return f"{self.variant}-{self.name}"


CHECKS: dict[str, tuple[Rule, Literal["places", "variants", "options"]]] = {
    "record": (checks.record, "places"),
    "shape": (checks.shape, "variants"),
    "finite": (checks.finite, "variants"),
    "gradient": (checks.gradient, "variants"),
    "bias_gradient": (checks.bias_gradient, "variants"),
    "training": (checks.training, "variants"),
    "derivative": (checks.derivative, "variants"),
    "smallest_map": (checks.smallest_map, "places"),
    "one_image": (checks.one_image, "variants"),
    "dtype": (checks.dtype, "variants"),
    "autocast": (checks.autocast, "variants"),
    "channels_last": (checks.channels_last, "variants"),
    "views": (checks.views, "variants"),
    "input_untouched": (checks.input_untouched, "variants"),
    "overwritable": (checks.overwritable, "variants"),
    "independent": (checks.independent, "variants"),
    "repeatable": (checks.repeatable, "variants"),
    "seeded": (checks.seeded, "variants"),
    "deepcopy": (checks.copied, "variants"),
    "pickle": (checks.pickled, "variants"),
    "state_dict": (checks.state_dict, "variants"),
    "compile": (checks.compiled, "places"),
    "export": (checks.exported, "places"),
    "float16": (transforms.float16, "variants"),
    "trace": (transforms.traced, "variants"),
    "fx": (transforms.symbolic, "variants"),
    "second_derivative": (transforms.second_derivative, "variants"),
    "vmap": (transforms.mapped, "variants"),
    "option": (checks.changed_option, "options"),
    "idle": (checks.idle_options, "variants"),
    "resolve": (checks.resolved_options, "variants"),
    "auto": (checks.auto_values, "places"),
    "cost": (checks.cost, "variants"),
    "auxiliary": (checks.auxiliary, "places"),
    "identity_start": (checks.identity_start, "places"),
}
"""Every check: its rule, and whether it runs on the base options in each place, every variant, or every change."""


def attention_checks(entry: Entry | str, *, channels: int | None = None) -> list[Check]:
    """Return every check of an entry, over its base options and each other value of each option.

    Args:
        entry: A record, which need not be registered, or a name in the catalogue.
        channels: Number of channels; None is the first of 16, 32, ..., 256 at which options fit.

    Raises: SpaceError if no options fit, or if the entry's exceptions name an unknown check.
    """
    entry = attention_entry(entry) if isinstance(entry, str) else entry
    for name in entry.exceptions:
        if name not in CHECKS:
            raise SpaceError(unknown("check", name, CHECKS, f"the exceptions of '{entry.name}'"))
    cases = cases_of(entry, channels)
    found: list[Check] = []
    for name, (rule, over) in CHECKS.items():
        chosen = [case for case in cases if over == "variants" or bool(case.changed) == (over == "options")]
        if name in entry.exceptions:
            found.append(Check(name, entry.name, entry.name, partial(_must_fail, name, rule, chosen)))
        else:
            found += [Check(name, entry.name, str(case), partial(_run, rule, case)) for case in chosen]
    return found


def _run(rule: Rule, case: Case) -> None:
    """Run a check. Raises: AssertionError, also in place of any exception of the module."""
    try:
        rule(case)
    except AssertionError as error:
        raise AssertionError(f"{case}: {error}.") from error
    except Exception as error:  # a plug-in's module may raise anything
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error


def _must_fail(name: str, rule: Rule, cases: Sequence[Case]) -> None:
    """Run a check that is among the entry's exceptions: it must fail for at least one case."""
    for case in cases:
        try:
            _run(rule, case)
        except AssertionError:
            return
    raise AssertionError(
        f"'{name}' is among the entry's exceptions and must fail, but it passes: remove the exception."
    )
