"""A ledger whose tables another version of Optuna wrote is refused in one sentence, and stays as it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from engine import empty_database

from nas_attn.errors import RunError
from nas_attn.study.storage.sqlite import close_storage, open_storage


def altered(folder: Path, statement: str) -> Path:
    """Return a ledger after a statement."""
    path = folder / "study.db"
    path.write_bytes(empty_database())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    return path


def revision(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_the_schema_of_this_version_is_read(tmp_path):
    path = altered(tmp_path, "SELECT 1")
    close_storage(open_storage(path))
    assert revision(path).startswith("v3")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            "alembic_version SET version_num = 'v99.0.0.a'",
            "have v99.0.0.a, which a newer version wrote: upgrade optuna",
        ),
        (
            "alembic_version SET version_num = 'v2.6.0.a'",
            "have v2.6.0.a of an older version: make a copy of the database, migrate it by `optuna storage upgrade "
            "--storage sqlite:///{path}`",
        ),
        ("version_info SET schema_version = 99", "must have version 12 of Optuna's schema, but have 99: upgrade"),
        ("version_info SET schema_version = 11", "must have version 12 of Optuna's schema, but have 11: upgrade"),
    ],
)
def test_another_schema_is_refused_in_one_sentence_and_stays(tmp_path, change, sentence):
    path = altered(tmp_path, f"UPDATE {change}")
    before = revision(path)
    with pytest.raises(RunError) as refused:
        open_storage(path)
    assert str(refused.value).startswith(f"The tables of {path} must have ")
    assert sentence.format(path=path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert revision(path) == before
