"""The operators of `mutants.py`: a selection of cosmic-ray's, and three of our own."""

from __future__ import annotations

import parso
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

COSMIC_RAY = (
    "AddNot",
    "ExceptionReplacer",
    "NumberReplacer",
    "RemoveDecorator",
    "ReplaceAndWithOr",
    "ReplaceBinaryOperator_Add_Sub",
    "ReplaceBinaryOperator_BitAnd_BitOr",
    "ReplaceBinaryOperator_BitOr_BitAnd",
    "ReplaceBinaryOperator_Div_Mul",
    "ReplaceBinaryOperator_FloorDiv_Mul",
    "ReplaceBinaryOperator_Mod_Mul",
    "ReplaceBinaryOperator_Mul_Div",
    "ReplaceBinaryOperator_Pow_Mul",
    "ReplaceBinaryOperator_Sub_Add",
    "ReplaceBreakWithContinue",
    "ReplaceComparisonOperator_Eq_NotEq",
    "ReplaceComparisonOperator_GtE_Gt",
    "ReplaceComparisonOperator_GtE_Lt",
    "ReplaceComparisonOperator_Gt_GtE",
    "ReplaceComparisonOperator_Gt_LtE",
    "ReplaceComparisonOperator_IsNot_Is",
    "ReplaceComparisonOperator_Is_IsNot",
    "ReplaceComparisonOperator_LtE_Gt",
    "ReplaceComparisonOperator_LtE_Lt",
    "ReplaceComparisonOperator_Lt_GtE",
    "ReplaceComparisonOperator_Lt_LtE",
    "ReplaceComparisonOperator_NotEq_Eq",
    "ReplaceContinueWithBreak",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_USub",
    "ZeroIterationForLoop",
)
"""Each operator is replaced by its opposite and its neighbour; cosmic-ray's others make the same faults once more."""


class RemoveCall(Operator):
    """Replaces a statement that is a call by `pass`."""

    def mutation_positions(self, node):
        """Yield the position of the call, if the node is such a statement."""
        if node.type == "simple_stmt" and _is_call(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node, index):
        """Return the statement without its call."""
        call = node.children[0]
        node.children[0] = parso.python.tree.Keyword("pass", call.start_pos, call.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls):
        """No examples: cosmic-ray asks for them in its own tests only."""
        return ()


class RemoveKeywordArgument(Operator):
    """Leaves a keyword argument out of a call."""

    def mutation_positions(self, node):
        """Yield the position of each keyword argument of the call."""
        for argument in self._keywords(node):
            yield argument.start_pos, argument.end_pos

    def mutate(self, node, index):
        """Return the arguments without the one at `index`, and without its comma."""
        place = node.children.index(self._keywords(node)[index])
        comma = place + 1 < len(node.children) and node.children[place + 1].type == "operator"
        del node.children[place : place + (2 if comma and node.type == "arglist" else 1)]
        return node

    @staticmethod
    def _keywords(node):
        if node.type not in ("arglist", "trailer"):
            return []
        return [child for child in node.children if child.type == "argument" and child.children[1] == "="]

    @classmethod
    def examples(cls):
        """No examples: cosmic-ray asks for them in its own tests only."""
        return ()


class ReplaceMembership(Operator):
    """Replaces `in` by `not in`, and the other way round."""

    def mutation_positions(self, node):
        """Yield the position of the operator, if the node is such a comparison."""
        if node.type == "comparison" and self._word(node) in ("in", "not in"):
            yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node, index):
        """Return the opposite comparison."""
        node.children[1] = parso.parse(" not in" if self._word(node) == "in" else " in")
        return node

    @staticmethod
    def _word(node):
        return " ".join(node.children[1].get_code().split())

    @classmethod
    def examples(cls):
        """No examples: cosmic-ray asks for them in its own tests only."""
        return ()


OPERATORS: dict[str, type[Operator]] = {
    **{name: get_operator(f"core/{name}") for name in COSMIC_RAY},
    **{operator.__name__: operator for operator in (RemoveCall, RemoveKeywordArgument, ReplaceMembership)},
}


def _is_call(node: parso.tree.NodeOrLeaf) -> bool:
    return (
        node.type in ("atom_expr", "power")
        and node.children[-1].type == "trailer"
        and node.children[-1].children[0] == "("
    )
