"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_attn.cli.options import switch

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/densenet_attn.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Debug = Annotated[bool, switch("--debug", help="Print the traceback of an error.")]
