"""The cases of `nas_attn.testing`: an entry with options that fit, other values of each option, random weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice, product

import torch
from torch import Tensor, nn

from nas_attn.attention.entry import Context, Entry, Option, Options, construct
from nas_attn.attention.options import check_options, context_at, resolve_options, why_not
from nas_attn.errors import SpaceError
from nas_attn.placement import Convolution, Site, Value

Size = tuple[int, int]

NUM_CLASSES = 3
_MAP = (6, 5)
_CHANNELS = (16, 32, 64, 128, 256)
_FEW = {"reduction": 4}
"""Replaces defaults for wide networks: a hidden width of 1 may be dead, and then every later layer is too."""

_INTS = (2, 7, 3, 8, 5, 4, 12, 1)
"""Integers to try: of 16 channels, reductions by 7 and by 8 both leave 2, and must be one model."""

_FLOATS = (0.5, 1.0, 0.0, 0.1, 2.0)
"""Numbers to try: an eps or a minimum of this size has a visible effect."""


@dataclass(frozen=True)
class Case:
    """One entry with options that fit.

    Args:
        options: As written by a user.
        changed: The option under test, or an empty string.
        reference: The options with another value of the one under test.
        replaced: The convolution that the attention replaces.
    """

    entry: Entry
    channels: int
    options: Options = field(default_factory=dict)
    changed: str = ""
    reference: Options = field(default_factory=dict)
    replaced: Convolution | None = None

    def __str__(self) -> str:
        plain = asdict(plain_convolution(self.channels))
        here = asdict(self.replaced) if self.replaced else plain
        place = {name: value for name, value in here.items() if value != plain[name]}
        changed = {name: value for name, value in self.options.items() if name == self.changed}
        differences = ",".join(f"{name}={value}" for name, value in (place | changed).items())
        return f"{self.entry.name}-{differences}" if differences else self.entry.name

    @property
    def map(self) -> Size:
        """A rectangular map that is large enough."""
        least = self.entry.smallest_map
        return max(_MAP[0], least + 1), max(_MAP[1], least)

    def site(self, size: Size | None = None) -> Site:
        """Return a site of the entry's first kind."""
        return Site("here", self.entry.kinds[0], "here", self.channels, *(size or self.map), "stage1", self.replaced)

    def context(self, size: Size | None = None) -> Context:
        """Return the context that the model builder would pass."""
        return context_at(self.site(size), NUM_CLASSES)

    @cached_property
    def resolved(self) -> dict[str, Value]:
        """The options that the model builder would pass."""
        return resolve_options(self.entry, self.channels, self.options, self.context())

    def fits(self, size: Size | None = None) -> bool:
        """Return whether the options are valid and fit these channels and this map."""
        try:
            check_options(self.entry, self.options, "")
        except SpaceError:
            return False
        return why_not(self.entry, self.site(size), self.options) is None

    def construct(self, options: Options, size: Size | None = None) -> nn.Module:
        """Return the module with exactly these options and its own initialisation, in train mode."""
        module: nn.Module = construct(self.entry, self.channels, options, self.context(size))
        return module

    def fresh(self, size: Size | None = None) -> nn.Module:
        """Return the module with its own initialisation, in train mode, seeded."""
        torch.manual_seed(0)
        return self.construct(self.resolved, size)

    def build(self, size: Size | None = None, salt: int = 0) -> nn.Module:
        """Return the module with random parameters and buffers, in eval mode."""
        return randomised(self.construct(self.resolved, size), salt).eval()

    def inputs(self, n: int = 2, size: Size | None = None) -> list[Tensor]:
        """Return random inputs, seeded."""
        channels = self.channels if self.replaced is None else self.replaced.in_channels
        return [_random(f"input {index}", (n, channels, *(size or self.map))) for index in range(self.entry.n_inputs)]

    def shape_out(self, n: int, size: Size) -> tuple[int, ...]:
        """Return the shape that the output must have."""
        if "head" in self.entry.kinds:
            return (n, self.channels, 1, 1)
        stride = 1 if self.replaced is None else self.replaced.stride
        return (n, self.channels, *(-(-length // stride) for length in size))

    def sizes(self) -> tuple[Size, ...]:
        """Return sizes of maps that the options fit, from the entry's smallest on: square, rectangular, odd."""
        least = self.entry.smallest_map
        sizes = ((least, least), (least, least + 2), (least + 3, least), (least + 4, least + 2))
        return tuple(size for size in sizes if self.fits(size))


def cases_of(entry: Entry, channels: int | None = None) -> list[Case]:
    """Return the base (options that fit), then other convolutions, then the base with each other value of each option.

    An option that has no effect in the base is tested with another option changed too, such that it has one.

    Raises: SpaceError if no options fit.
    """
    base = _base(entry, channels)
    return [base, *_other_convolutions(base), *(case for option in entry.options for case in _changes(base, option))]


def randomised(module: nn.Module, salt: int = 0) -> nn.Module:
    """Fill parameters and buffers with random numbers, seeded by names, shapes and `salt`; return the module.

    Vectors are positive, so that no variance is negative and no ReLU is dead; weights keep the scale of activations.
    """
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            values = _random(f"{name} {salt}", tuple(tensor.shape))
            if tensor.dim() > 0:
                is_vector = tensor.numel() == len(tensor)
                values = values.abs() + 0.1 if is_vector else values * 2.0 / tensor[0].numel() ** 0.5
            tensor.copy_(values)
    return module


def plain_convolution(channels: int) -> Convolution:
    """Return the most common convolution: 3x3, without bias."""
    return Convolution(channels, channels, bias=False)


def candidates(option: Option) -> Iterator[Value]:
    """Yield values to test, not all of which are valid."""
    yield from {"bool": (True, False), "int": _INTS, "float": _FLOATS, "str": ()}[option.type]
    yield from option.choices
    yield from (None,) if option.optional else ()
    for end in (option.low, option.high):
        if end is not None:
            yield int(end) if option.type == "int" else end


def _base(entry: Entry, channels: int | None) -> Case:
    """Return the fitting case that is nearest to the defaults, with the fewest channels."""
    for width in _CHANNELS if channels is None else (channels,):
        found = _nearest_fit(entry, width, plain_convolution(width) if "conv" in entry.kinds else None)
        if found:
            return found
    raise SpaceError(f"No options of '{entry.name}' fit {channels or _CHANNELS[-1]} channels: pass `channels=`.")


def _nearest_fit(entry: Entry, channels: int, replaced: Convolution | None) -> Case | None:
    cases = (Case(entry, channels, options, replaced=replaced) for options in _near_defaults(entry))
    return next((case for case in cases if case.fits()), None)


def _near_defaults(entry: Entry) -> Iterator[dict[str, Value]]:
    """Yield the defaults, then with integers halved, the fewest halvings first."""
    starts = {option.name: _start(option) for option in entry.options}
    numbers = {name: value for name, value in starts.items() if isinstance(value, int) and not isinstance(value, bool)}
    halvings = product(*(range(max(value, 1).bit_length()) for value in numbers.values()))
    for counts in sorted(islice(halvings, 10_000), key=sum):
        halved = {name: value >> n for (name, value), n in zip(numbers.items(), counts, strict=True)}
        yield starts | halved


def _start(option: Option) -> Value:
    few = _FEW.get(option.name, option.default)
    return few if option.type == "int" and not option.choices and option.default is not None else option.default


def _other_convolutions(base: Case) -> list[Case]:
    """Return the entry in place of a strided convolution that doubles the channels, and of a grouped, dilated one."""
    if base.replaced is None:
        return []
    half, groups = max(base.channels // 2, 1), 2 - base.channels % 2
    wider = Convolution(half, base.channels, stride=2)
    grouped = Convolution(base.channels, base.channels, dilation=2, groups=groups)
    return [case for conv in (wider, grouped) if (case := _nearest_fit(base.entry, base.channels, conv))]


def _changes(base: Case, option: Option) -> list[Case]:
    """Return the base with other values of one option; if none has an effect there, with another option changed too."""
    for reference in (base, *_companions(base, option)):
        found = [case for case in _with_each(reference, option) if case.resolved != reference.resolved]
        if found:
            return found if option.choices or option.type == "bool" else found[:2]
    return _with_each(base, option)[:1]  # no value has an effect: the check `option` then fails


def _companions(base: Case, option: Option) -> Iterator[Case]:
    for other in base.entry.options:
        for value in candidates(other):
            case = replace(base, options={**base.options, other.name: value})
            if other.name != option.name and case.fits():
                yield case


def _with_each(reference: Case, option: Option) -> list[Case]:
    """Return the case with each other value of one option that fits."""
    values = {repr(value): value for value in candidates(option)}
    cases = [
        replace(reference, options={**reference.options, option.name: value}, changed=option.name)
        for key, value in values.items()
        if key != repr(reference.options[option.name])
    ]
    return [replace(case, reference=reference.options) for case in cases if case.fits()]


def _random(name: str, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {shape}".encode()))
    return torch.randn(shape, generator=generator)
