"""What a run's training and network are by content, and whether those of a repeated command are the same."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from nas_attn.backbones.own_network import OwnNetwork
from nas_attn.errors import ConfigError
from nas_attn.training.context import load_train
from nas_attn.user_code.content import Content, content_of

CONTENTS = "contents"
"""Key of `config.json` with the content of the run's training and network."""

MOST_NAMED = 5
"""Number of differences that a sentence names."""

_WHAT = {"train": "training", "network": "network"}


def contents_of(train: Any, network: OwnNetwork | None, backbone: Mapping[str, Any]) -> dict[str, Content]:
    """Return what a custom training and a user's own network are, each under its name; empty for the built-in ones.

    Args:
        train: A callable or its path `module:function`; None for the built-in training.
        network: A network in memory; None for one that the backbone names.
        backbone: Of the space; one with an `import` is the user's own.
    """
    found = {}
    if train is not None:
        found["train"] = content_of(load_train(train) if isinstance(train, str) else train)
    if network is not None:
        found["network"] = network.content()
    elif "import" in backbone:
        source = _imported(str(backbone["import"]))
        if source is not None:
            found["network"] = content_of(source)
    return found


def changes(stored: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return how training and network differ from those that a run was begun with, by name; equal ones are left out.

    Args:
        stored, config: Content of `config.json`, as the run was begun and of the repeated command. What an older
            version did not record is not compared.
    """
    before, now = _stored(stored), _stored(config)
    found = {name: before[name].changes(content) for name, content in now.items() if name in before}
    return {name: words for name, words in found.items() if words}


def in_words(changed: Mapping[str, Iterable[str]]) -> str:
    """Return differences of training and network for use in a sentence."""
    parts = []
    for name, found in changed.items():
        words = list(found)
        more = f", and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
        parts.append(f"another {_WHAT[name]}: {'; '.join(words[:MOST_NAMED])}{more}")
    return "; ".join(parts)


def with_state(stored: Mapping[str, Any], now: Mapping[str, Content]) -> dict[str, Any]:
    """Return the contents in plain JSON, with the parts that are known to change while the run trains."""
    before = _stored(stored)
    merged = {
        name: Content(content.parts, content.code, content.unread, before[name].state if name in before else ())
        for name, content in now.items()
    }
    return {name: content.to_dict() for name, content in merged.items()}


def used_since(config: Mapping[str, Any], after: Mapping[str, Content]) -> dict[str, Any]:
    """Return the contents of `config.json` with what differs after the training as state, in plain JSON."""
    before = _stored(config)
    found = {name: content.used(after[name]) if name in after else content for name, content in before.items()}
    return {name: content.to_dict() for name, content in found.items()}


def notes_on_unread(now: Mapping[str, Content]) -> list[str]:
    """Return a sentence on the parts of training and network that have no content to compare."""
    notes = []
    for name, content in now.items():
        if content.unread:
            more = f" and {len(content.unread) - MOST_NAMED} more" if len(content.unread) > MOST_NAMED else ""
            notes.append(
                f"Whether these parts of the {_WHAT[name]} are the same in a repeated command cannot be checked, since "
                f"they have no content to compare: {', '.join(content.unread[:MOST_NAMED])}{more}."
            )
    return notes


def notes_on_begun(begun: Mapping[str, Any] | None, now: Mapping[str, Content]) -> list[str]:
    """Return what a user must know of the training of the run that is continued.

    Args:
        begun: Its `config.json`; None for a new run.
    """
    before = _stored(begun or {})
    notes = []
    for name, content in now.items() if begun is not None else ():
        if name not in before:
            notes.append(
                f"This run was begun by a version that did not record its {_WHAT[name]} by content: whether it is "
                "the same cannot be checked, and it is continued."
            )
            continue
        found = before[name].changes(content)
        if found:
            notes.append(f"The run is continued with {in_words({name: found})}.")
        unknown = [words for words in before[name].unknown(content) if words not in content.unread]
        if unknown:
            names = ", ".join(unknown)
            notes.append(f"Another version of Python began this run, so these cannot be compared: {names}.")
    return notes


def _stored(config: Mapping[str, Any]) -> dict[str, Content]:
    records = config.get(CONTENTS)
    try:
        return {name: Content.from_dict(record) for name, record in dict(records or {}).items()}
    except (KeyError, TypeError, ValueError):
        return {}


def _imported(path: str) -> Any:
    """Return the function of a backbone's `import`; the sites were read from it before. None if it is not there."""
    module, _, name = path.partition(":")
    try:
        return getattr(sys.modules.get(module), name, None) or load_train(path)
    except ConfigError:
        return None
