"""The records of the search: sites of a backbone, attentions with options, and placements of attentions at sites."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from nas_attn.errors import SpaceError, nearest, unknown

Value = int | float | bool | str | None

KINDS = ("output", "pre", "branch", "shortcut", "hidden", "conv", "merge", "head")
SWAPPED = ("conv", "merge", "head")
"""Kinds of site at which an attention replaces a module."""

WIRINGS = ("gate", "residual", "concat", "addend")
BLOCK_WIRINGS = ("concat_three",)
"""Wirings that replace the addition of a whole block."""

STARTS = ("own", "identity")


@dataclass(frozen=True)
class Shape:
    """The input and output of a network: (N, in_channels, image_size, image_size) -> (N, num_classes).

    Args:
        num_classes: Logits of the network: one per class, or with the recipe's `one_logit` one for two classes; 0 for
            a network of the user's whose output is no row of logits, such as a map, or several outputs.
        image_size: Height and width of the images in pixels.
    """

    num_classes: int
    in_channels: int
    image_size: int


@dataclass(frozen=True)
class Convolution:
    """A convolution that an attention may replace; with its padding it keeps the map size up to its stride.

    Args:
        in_channels, out_channels: Channels of its input and output.
        kernel_size, stride, dilation, groups: Equal in both directions.
        bias: Whether it has a bias.
        norm: Path of the batch norm that follows; an attention that has a norm replaces it too.
        relu: Whether a ReLU follows.
    """

    in_channels: int
    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    norm: str | None = None
    relu: bool = True


@dataclass(frozen=True)
class Site:
    """A named place in a backbone where something can be inserted.

    Args:
        name: Unique in its backbone, counted from 1: `denseblock2`, `stage3.block2.branch`.
        kind: One of `KINDS`.
        module: Path in the backbone of the module whose output is used, that is replaced, or of the opened block.
        channels, height, width: Shape (N, channels, height, width) of the tensor at the site; at a `head`, of the input
            of the pooling; at a `conv`, the channels of its output and the map size of its input.
        stage: The site's stage, e.g. `stage3`; the sites of a stage have maps of one size in most networks.
        replaced: The replaced convolution, at a site of kind `conv`.
        enters: Whether the tensor is the input of the module, a convolution, and not its output.
    """

    name: str
    kind: str
    module: str
    channels: int
    height: int
    width: int
    stage: str
    replaced: Convolution | None = None
    enters: bool = False

    @property
    def is_path(self) -> bool:
        """Whether the site is named by the path of its module, as in a user's own network."""
        return f"{self.name}.".startswith(f"{self.module}.")

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Site:
        """Read the output of `dataclasses.asdict`."""
        replaced = record.get("replaced")
        return cls(**{**record, "replaced": Convolution(**replaced) if replaced else None})


@dataclass(frozen=True)
class SiteTable:
    """The sites of one backbone at one input shape, in the order of the data flow, and the plain network's cost.

    Units: `n_parameters` counts trainable parameters; `n_macs` multiply-adds of convolutions and matrix products
    for one image.

    Args:
        built_in: Paths of the network's built-in squeeze-and-excitation modules.
        lacks: Kind of site -> reason why the network, or some of its blocks, has no such site.
        refusals: Name of a module, or of an edge of a block, in a user's own network -> reason why it is no site.
        extra: Further sites, which a pattern with "*" matches only if it spells their word: `stem`, `features`,
            `before_conv`.
        order: Names of all sites in the order of the data flow; empty if there are no further ones.
        aliases: `stem`, `stem.pool` or `features` -> the name that this place has as a site.
        before_conv: Names of the sites whose tensor enters one convolution, and that alone.
        doubles: Path of a module in a user's own network -> the site around it that has the same tensor.
        squashed: Warning for a network that does not return logits; empty for others.
    """

    backbone: str
    num_classes: int
    in_channels: int
    image_size: int
    n_parameters: int
    n_macs: int
    sites: tuple[Site, ...]
    built_in: tuple[str, ...] = ()
    lacks: Mapping[str, str] = field(default_factory=dict, compare=False)
    refusals: Mapping[str, str] = field(default_factory=dict, compare=False)
    extra: tuple[Site, ...] = ()
    order: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict, compare=False)
    before_conv: tuple[str, ...] = ()
    doubles: Mapping[str, str] = field(default_factory=dict, compare=False)
    squashed: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in ("built_in", "order", "before_conv"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def shape(self) -> Shape:
        """The input and output of the network."""
        return Shape(self.num_classes, self.in_channels, self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Return the table in plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> SiteTable:
        """Read the output of `to_dict`. Raises: KeyError or TypeError for anything else."""
        listed = {"sites": record["sites"], "extra": record.get("extra", ())}
        return cls(**{**record, **{name: tuple(map(Site.from_dict, sites)) for name, sites in listed.items()}})

    @cached_property
    def every_site(self) -> tuple[Site, ...]:
        """All sites in the order of the data flow, with those that only a spelled pattern matches."""
        rank = {name: index for index, name in enumerate(self.order)}
        return tuple(sorted((*self.sites, *self.extra), key=lambda site: rank.get(site.name, 0)))

    def sites_with(self, names: Collection[str]) -> tuple[Site, ...]:
        """Return the sites, and of the further ones those with these names, in the order of the data flow."""
        left_out = {site.name for site in self.extra} - set(names)
        return tuple(site for site in self.every_site if site.name not in left_out)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its sites."""
        found = {site.kind for site in self.sites}
        return tuple(kind for kind in KINDS if kind in found)

    @property
    def listing(self) -> str | None:
        """The command that lists the sites; None for a backbone without a name."""
        known = ":" in self.backbone or not all(site.is_path for site in self.sites)
        return f"nas-attn sites {self.backbone}" if known else None

    @property
    def output(self) -> str:
        """The network's output in words."""
        if not self.num_classes:
            return "own outputs"
        return "one logit" if self.num_classes == 1 else f"{self.num_classes:,} classes"

    @property
    def stacking(self) -> str | None:
        """Warning for a network with built-in squeeze-and-excitation; None without."""
        if not self.built_in:
            return None
        shown = ", ".join(self.built_in[:3]) + (", ..." if len(self.built_in) > 3 else "")
        return (
            f"'{self.backbone}' has {len(self.built_in)} built-in squeeze-and-excitation modules ({shown}), and "
            "attention is added to them: replace = 'se' in the backbone removes them."
        )

    def site(self, name: str) -> Site:
        """Return a site by name. Raises: SpaceError with the reason why it is no site, or with the nearest name."""
        if name in self.doubles:
            return replace(self.site(self.doubles[name]), name=name)
        own = self.aliases.get(name, name)
        for site in (*self.sites, *self.extra):
            if site.name == own:
                return site
        block, _, kind = name.rpartition(".")
        refusal = self.refusals.get(name) or (self.refusals.get(block) if kind in KINDS else None)
        if refusal:
            raise SpaceError(f"Nothing can be placed at '{name}' of backbone '{self.backbone}': {refusal}.")
        if "*" in name:
            raise SpaceError(
                f"A placement must name each site, but got '{name}' for backbone '{self.backbone}': use patterns in "
                "space files only."
            )
        absent = self.no_site_of(kind)
        if absent:
            raise SpaceError(f"Unknown site '{name}' in backbone '{self.backbone}': {absent}")
        known = [*(site.name for site in self.sites), *self.further_like(kind)]
        in_block = any(other.startswith(f"{block}.") for other in known)
        why = f" ({self.lacks[kind]})" if in_block and kind in self.lacks else ""
        raise SpaceError(unknown("site", name, known, f"backbone '{self.backbone}'{why}", self.listing))

    def further_like(self, word: str) -> list[str]:
        """Return the names of further sites, and aliases, whose last word is nearly this one."""
        names = [*(site.name for site in self.extra), *self.aliases]
        near = nearest(word, sorted({name.rpartition(".")[2] for name in names}))
        return [name for name in names if name.rpartition(".")[2] == near]

    def no_site_of(self, kind: str) -> str | None:
        """Return the end of a message on a kind of which there is no site; None if there is one, or no such kind."""
        if kind not in KINDS or kind in self.kinds:
            return None
        why = f" ({self.lacks[kind]})" if kind in self.lacks else ""
        return f"none of its sites is of kind '{kind}'{why}; its kinds are {', '.join(self.kinds)}."


@dataclass(frozen=True)
class Survey:
    """The site table of a network, and the sites that need care.

    Args:
        copied: Sites whose tensor is modified in place later; an attention there works on copies, since its gradient
            may need its input and its output.
        untrainable: Reason why the network cannot be trained, if any; such a survey is not cached on disk.
    """

    table: SiteTable
    copied: frozenset[str] = frozenset()
    untrainable: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the survey in plain JSON."""
        return {"table": self.table.to_dict(), "copied": sorted(self.copied)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Survey:
        """Read the output of `to_dict`. Raises: KeyError or TypeError for anything else."""
        return cls(SiteTable.from_dict(record["table"]), frozenset(record["copied"]))


@dataclass(frozen=True)
class Attention:
    """One entry of the catalogue with its options, how it joins at its site, and how it starts.

    Args:
        wiring: One of `WIRINGS` or `BLOCK_WIRINGS`, see `nas_attn.model.insert.Insert`.
        start: `own`: initialised as by its authors; `identity`: the network's initial output is that of the plain one.
    """

    name: str
    options: Mapping[str, Value] = field(default_factory=dict)
    wiring: str = "gate"
    start: str = "own"

    def __post_init__(self) -> None:
        for noun, word, words in (("wiring", self.wiring, (*WIRINGS, *BLOCK_WIRINGS)), ("start", self.start, STARTS)):
            if word not in words:
                raise SpaceError(unknown(noun, word, words))
        object.__setattr__(self, "options", dict(sorted(self.options.items())))

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.options.items()), self.wiring, self.start))

    def __str__(self) -> str:
        shown = [f"{name}={value}" for name, value in self.options.items()]
        shown += [f"{word}={value}" for word, value in self._joining().items()]
        return f"{self.name}({', '.join(shown)})" if shown else self.name

    def to_dict(self) -> dict[str, Value]:
        """Return `{"name": ..., option: value, ...}`; the default wiring and the own start are left out."""
        return {"name": self.name, **self.options, **self._joining()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Attention:
        """Read the output of `to_dict`. Raises: SpaceError if there is no name, or a value is not a single value."""
        options = dict(record)
        name = options.pop("name", None)
        wiring, start = options.pop("wiring", "gate"), options.pop("start", "own")
        if not isinstance(name, str):
            raise SpaceError(f"An attention must have a name, but got {dict(record)!r}: write {{'name': 'cbam'}}.")
        for option, value in options.items():
            if not isinstance(value, int | float | bool | str | None):
                raise SpaceError(f"Option '{option}' of '{name}' must be a single value, but got {value!r}.")
        return cls(name, options, wiring, start)

    def _joining(self) -> dict[str, Value]:
        """Return wiring and start if they differ from the defaults."""
        usual = {"wiring": "gate", "start": "own"}
        return {word: getattr(self, word) for word in usual if getattr(self, word) != usual[word]}


@dataclass(frozen=True)
class Placement:
    """Site -> attention; a site that is not named has no attention.

    Two placements are equal if they have the same attentions with the same written options. Placements of equal models
    have equal keys only once defaults are filled in and options without effect removed: see `BoundSpace.resolve`.
    """

    attentions: Mapping[str, Attention] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = {site: entry for site, entry in sorted(self.attentions.items()) if entry.name != "none"}
        object.__setattr__(self, "attentions", kept)

    def __hash__(self) -> int:
        return hash(self.canonical)

    def __len__(self) -> int:
        return len(self.attentions)

    def __iter__(self) -> Iterator[str]:
        return iter(self.attentions)

    def __getitem__(self, site: str) -> Attention:
        return self.attentions[site]

    def __str__(self) -> str:
        if not self.attentions:
            return "no attention"
        sites: dict[Attention, list[str]] = {}
        for site, attention in self.attentions.items():
            sites.setdefault(attention, []).append(site)
        return "; ".join(f"{attention} at {', '.join(names)}" for attention, names in sites.items())

    @cached_property
    def canonical(self) -> str:
        """One line of JSON, the same for equal placements."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits of the SHA-256 of `canonical`."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, dict[str, Value]]:
        """Return `{site: {"name": ..., option: value}}`."""
        return {site: attention.to_dict() for site, attention in self.attentions.items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Mapping[str, Any]]) -> Placement:
        """Read the output of `to_dict`. Raises: SpaceError with the site of an invalid entry."""
        if not isinstance(record, Mapping):
            raise SpaceError(f"A placement must map sites to attentions, but got {record!r}.")
        attentions = {}
        for site, entry in record.items():
            if not isinstance(entry, Mapping):
                raise SpaceError(f"Site '{site}' must have an attention such as {{'name': 'cbam'}}, but got {entry!r}.")
            attentions[site] = Attention.from_dict(entry)
        return cls(attentions)

    def to_json(self) -> str:
        """Return the placement as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Placement:
        """Read the output of `to_json`. Raises: SpaceError if the text is not JSON."""
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpaceError(f"A placement must be JSON, but line {error.lineno} is not: {error.msg}.") from error
        return cls.from_dict(record)


NONE = Placement()
"""The placement without any attention."""
