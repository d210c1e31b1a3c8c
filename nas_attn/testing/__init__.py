"""The contract suite of attention modules, for the tests of plug-ins too. This file only re-exports it."""

from nas_attn.testing.suite import CHECKS, Check, attention_checks

__all__ = ["CHECKS", "Check", "attention_checks"]
