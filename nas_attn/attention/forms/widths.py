"""Hidden widths and divisors, shared by several attentions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nas_attn.attention.entry import Context, Options


def whole(options: Options, name: str) -> int:
    """Return an option that is a whole number."""
    value = options[name]
    assert isinstance(value, int), f"option '{name}' must be a whole number here, but is {value!r}"
    return value


def hidden_width(channels: int, options: Options) -> int:
    """Return the hidden width of a bottleneck."""
    return max(_min_hidden(options), channels // whole(options, "reduction"))


def reduction_misfit(channels: int, options: Options, context: Context) -> str | None:
    """Return why a reduction is too large for the channels, or None; with a `min_hidden` above 1 none is."""
    if "reduction" not in options or whole(options, "reduction") <= channels or _min_hidden(options) > 1:
        return None
    return refused_reduction(channels, whole(options, "reduction"), f"reduction={channels}")


def refused_reduction(channels: int, reduction: int, works: str) -> str:
    """Return the message for a reduction that is too large."""
    return (
        f"reduction <= channels must hold, but got reduction={reduction}, channels={channels}; "
        f"the nearest that works: {works}."
    )


def divisor_misfit(option: str, parts: int = 1) -> Callable[[int, Options, Context], str | None]:
    """Return the check that `parts` times an option divides the channels."""
    subject = option if parts == 1 else f"{parts} * {option}"

    def misfit(channels: int, options: Options, context: Context) -> str | None:
        if options[option] is None:
            return f"{parts} must divide the channels, but got channels={channels}." if channels % parts else None
        value = whole(options, option)
        if channels % (parts * value) == 0:
            return None
        works = nearest_divisors(channels // parts, value) if channels % parts == 0 else []
        rule = f"{subject} must divide the channels, but got {option}={value}, channels={channels}"
        hint = f"; {near(option, works)}." if works else f", which {parts} does not divide."
        return rule + hint

    return misfit


def nearest_divisors(number: int, wanted: int) -> list[int]:
    """Return the largest divisor of `number` below `wanted` and the smallest above, where they exist."""
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    return [n for n in divisors if n < wanted][-1:] + [n for n in divisors if n > wanted][:1]


def near(option: str, works: list[int]) -> str:
    """Return "the nearest that work: groups=2 or 4".

    >>> near("groups", [2, 4]), near("heads", [8])
    ('the nearest that work: groups=2 or 4', 'the nearest that works: heads=8')
    """
    verb = "works" if len(works) == 1 else "work"
    return f"the nearest that {verb}: {option}={' or '.join(map(str, works))}"


def largest_divisor(number: int, most: int) -> int:
    """Return the largest divisor of `number` up to `most`, at least 1."""
    return max((n for n in range(1, min(most, number) + 1) if number % n == 0), default=1)


def filled(kernel: int, *sizes: int | None) -> int:
    """Return the kernel size that maps up to these sizes can fill: beyond it, weights meet padding alone.

    >>> filled(7, 2, 2), filled(7, 8, 8), filled(7, None)
    (3, 7, 7)
    """
    known = [size for size in sizes if size is not None]
    return min(kernel, 2 * max(known) - 1) if known else kernel


def smallest_alike(kernel: int, table: Mapping[int, tuple[int, int, int]], *sizes: int | None) -> int:
    """Return the smallest kernel of a table that is the same function on maps up to these sizes.

    Args:
        table: Kernel size -> the local kernel, the dilated kernel, and its dilation.
    """

    def reach(kernel: int) -> tuple[int, int, int]:
        local, dilated, dilation = table[kernel]
        largest = max([size for size in sizes if size is not None], default=local * dilated * dilation)
        taps = min(dilated, 2 * ((largest - 1) // dilation) + 1)
        return filled(local, largest), taps, dilation if taps > 1 else 1

    return next(other for other in sorted(table) if reach(other) == reach(kernel))


def strided(size: int, context: Context) -> int:
    """Return the output height or width of the replaced convolution, which changes the size only by its stride."""
    stride = 1 if context.replaced is None else context.replaced.stride
    return -(-size // stride)


def _min_hidden(options: Options) -> int:
    return whole(options, "min_hidden") if "min_hidden" in options else 1
