"""Published networks as placements in a backbone; `published/*.toml` holds the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.options import check_options
from nas_attn.backbones.catalog import check_backbone, check_shape
from nas_attn.backbones.site_table import site_table
from nas_attn.errors import SpaceError, unknown
from nas_attn.placement import Attention, Placement, SiteTable
from nas_attn.space.file import Names, key_and_place, place_of_rule, read_toml, shown
from nas_attn.space.fit import Cost, placement_cost, resolve_placement
from nas_attn.space.patterns import covered, no_match
from nas_attn.validation import Strict, validate

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


class SiteRecord(Strict):
    """One `[[sites]]` table of a published network.

    Args:
        match: Patterns of site names, and shorthands, as in a space file.
        attention: The attention at these sites, as in a placement: name, options ("auto" for None), wiring, start.
    """

    match: Names
    attention: dict[str, Any]


class PublishedFile(Strict):
    """The content of a file in `published/`.

    Args:
        source: The paper and the location of its authors' code.
        note: Further remarks, such as rounded totals.
        departs: How the network differs from that of the source, or the source's code from its text.
        published_parameters: Exact number of trainable parameters that the paper states or its authors' code has.
    """

    title: Text
    source: Text
    note: Text | None = None
    departs: Text | None = None
    published_parameters: Count | None = None
    num_classes: Count
    in_channels: Count
    image_size: Count
    backbone: dict[str, Any]
    sites: Annotated[tuple[SiteRecord, ...], Field(strict=False, min_length=1)]


@dataclass(frozen=True)
class Published:
    """A published network, rebuilt as a placement in a backbone of the catalogue.

    Args:
        name: Name of the file without its suffix.
        where: Name of the file in messages.
        backbone: The backbone's name with the values of all its options.
        sites: Patterns of site names, with the attention at these sites.
    """

    name: str
    where: str
    title: str
    source: str
    note: str | None
    departs: str | None
    published_parameters: int | None
    num_classes: int
    in_channels: int
    image_size: int
    backbone: Mapping[str, Any]
    sites: tuple[tuple[tuple[str, ...], Attention], ...]

    @cached_property
    def table(self) -> SiteTable:
        """The sites of its backbone at its own input shape."""
        shape = {"num_classes": self.num_classes, "in_channels": self.in_channels}
        return site_table(self.backbone, **shape, image_size=self.image_size)

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters of the network as built here."""
        return self.cost().n_parameters

    def cost(self) -> Cost:
        """Return the cost of the network as published."""
        return placement_cost(self.table, self.placement())

    def placement(self, table: SiteTable | None = None) -> Placement:
        """Return the placement over the sites of its backbone.

        Args:
            table: The backbone's sites at another input shape, or with another stem; None uses the network's own.
        Raises: SpaceError if the table is another backbone's, or an attention does not fit at this shape.
        """
        table = self.table if table is None else table
        if table.backbone != self.backbone["name"]:
            raise SpaceError(
                f"Published network '{self.name}' is a placement in backbone '{self.backbone['name']}', but this "
                f"backbone is '{table.backbone}'."
            )
        placed: dict[str, Attention] = {}
        for number, (patterns, attention) in enumerate(self.sites, 1):
            for pattern in patterns:
                kinds = attention_entry(attention.name).kinds
                sites = covered(pattern, table, kinds)
                if not sites:
                    place = place_of_rule(number, self.where)
                    raise SpaceError(no_match(pattern, table, kinds, place, table.listing))
                for name in (site.name for site in sites):
                    if name in placed:
                        raise SpaceError(f"A site must be matched once, but '{name}' is matched twice in {self.where}.")
                    placed[name] = attention
        placement = Placement(placed)
        resolve_placement(table, placement)
        return placement


def available_published() -> dict[str, Path]:
    """Return the files of the published networks by name."""
    return {path.stem: path for path in sorted(Path(__file__).with_name("published").glob("*.toml"))}


def load_published(name: str) -> Published:
    """Return a published network. Raises: SpaceError that names the nearest one, or the fault in its file."""
    files = available_published()
    if name not in files:
        raise SpaceError(unknown("published network", name, files))
    return read_published(files[name])


def read_published(path: Path) -> Published:
    """Return the network that a file describes. Raises: SpaceError, in one sentence that names the file."""
    where = shown(path)
    record = validate(PublishedFile, read_toml(path), where, SpaceError, key_and_place)
    backbone = check_backbone(record.backbone, f"[backbone] of {where}")
    shape = {"num_classes": record.num_classes, "in_channels": record.in_channels}
    check_shape(backbone, **shape, image_size=record.image_size)
    sites = tuple(
        (site.match, _attention(site.attention, place_of_rule(number, where)))
        for number, site in enumerate(record.sites, 1)
    )
    facts = record.model_dump(exclude={"backbone", "sites"})
    return Published(name=path.stem, where=where, backbone=backbone, sites=sites, **facts)


def _attention(record: Mapping[str, Any], place: str) -> Attention:
    """Return the attention of a `[[sites]]` table. Raises: SpaceError if it is invalid."""
    try:
        attention = Attention.from_dict({key: None if value == "auto" else value for key, value in record.items()})
    except SpaceError as error:
        raise SpaceError(f"In {place}: {error}") from None
    check_options(attention_entry(attention.name, place), attention.options, place)
    return attention
