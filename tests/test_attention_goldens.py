"""The modules agree with published code on the tensors that it computed, and every entry has something independent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from attention_cases import GOLDENS, read_golden, with_weights_of
from torch import nn

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.create import create_attention
from nas_attn.attention.entry import Context, Options

BOTTLENECK = ["reduce.weight", "reduce.bias", "expand.weight", "expand.bias"]
LINEAR = ["weight", "bias"]
NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
NON_LOCAL = [
    *[f"g.{name}" for name in LINEAR],
    *[f"out.{name}" for name in LINEAR],
    *[f"norm.{name}" for name in NORM],
    *[f"{layer}.{name}" for layer in ("theta", "phi") for name in LINEAR],
]
LAYOUTS = (torch.contiguous_format, torch.channels_last)


@dataclass(frozen=True)
class Golden:
    """What a golden file is compared with.

    Args:
        names: Our names of the file's weights, in the file's order; empty where ours are in that order too.
        context: What the module needs beyond its channels.
    """

    entry: str
    options: Options = field(default_factory=dict)
    channels: int = 64
    names: tuple[str, ...] = ()
    context: Context | None = None

    def build(self) -> nn.Module:
        """The module as the golden's code was built."""
        return create_attention(self.entry, self.channels, context=self.context, **self.options)


FILES = {
    "se_conv_bias_r16": Golden("se"),
    "se_linear_nobias_r16": Golden("se", {"bias": False}),
    "cbam_r16": Golden("cbam"),
    "cbam_r8_hard_sigmoid": Golden("cbam", {"reduction": 8, "gate": "hard_sigmoid", "spatial_norm": False}),
    "gam_r4_replicate": Golden(
        "gam",
        {"reduction": 4, "padding_mode": "replicate"},
        names=(
            *[f"channel.{name}" for name in BOTTLENECK],
            *[f"spatial.{layer}.{name}" for layer in ("conv1", "conv2") for name in LINEAR],
            *[f"spatial.{layer}.{name}" for layer in ("norm1", "norm2") for name in NORM],
        ),
    ),
    "bam_r16_product": Golden("bam"),
    "eca_k3": Golden("eca", {"kernel_size": 3}),
    "gct_l2": Golden("gct"),
    "triplet_k7": Golden("triplet"),
    "aff_r4": Golden("aff"),
    "iaff_r4_fixed": Golden("iaff"),
    "sk_g32_r16_L32": Golden("sk"),
    "deform_v1": Golden("deform", channels=32),
    "gc_r16": Golden("gc"),
    "non_local_r2": Golden("non_local", names=(*NON_LOCAL,)),
    "cot_k3": Golden("cot"),
    "split_attention_r2": Golden("split_attention"),
    "split_attention_r4_g2": Golden("split_attention", {"radix": 4, "groups": 2}),
    "bot_h4": Golden(
        "bot",
        names=(*[f"{layer}.weight" for layer in ("query", "key", "value")], "columns", "rows"),
        context=Context(height=7, width=9),
    ),
    "pam_r8": Golden(
        "pam", names=("gamma", *[f"{layer}.{name}" for layer in ("query", "key", "value") for name in LINEAR])
    ),
    "cam": Golden("cam"),
    "fca_top16": Golden("fca", context=Context(height=14, width=14)),
    "non_local_r2_subsample": Golden("non_local", {"subsample": True}, names=(*NON_LOCAL,)),
    "double_attention_plain": Golden("double_attention", {"descriptors": 24}),
    "ese_hard_sigmoid": Golden("ese"),
    "polarized_parallel": Golden("polarized"),
    "polarized_sequential": Golden("polarized", {"layout": "sequential"}),
    "epsa_g16": Golden("epsa"),
    "nam_channel": Golden("nam"),
    "nam_both": Golden("nam", {"branches": "both"}, context=Context(height=14, width=14)),
    "lka_k21": Golden("lka", {"form": "gate"}),
    "lka_k21_attention": Golden("lka", {"form": "attention"}),
    "lka_k21_block": Golden("lka", {"form": "block"}),
}


def rows_of_readme(heading: str) -> Iterator[list[str]]:
    """The cells of the table below a heading of goldens/README.md."""
    section = (GOLDENS / "README.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


@pytest.mark.parametrize("name", FILES)
def test_output_equals_the_published_code(name: str) -> None:
    golden, module = read_golden(name), FILES[name].build()
    with_weights_of(golden, module, FILES[name].names)
    if golden["cls"] == "cbam_block":  # its spatial input is [mean, max], ours [max, mean]
        with torch.no_grad():
            module.spatial.conv.weight.copy_(module.spatial.conv.weight.flip(1))

    assert sum(parameter.numel() for parameter in module.parameters()) == golden["num_params"]
    pairs = [(golden["inputs"], golden["output"]), (golden["inputs_rect"], golden["output_rect"])]
    for inputs, output in [pair for pair in pairs if pair[0]]:
        for layout in LAYOUTS:
            found = module(*(x.contiguous(memory_format=layout) for x in inputs))
            assert found.is_contiguous(memory_format=layout)
            torch.testing.assert_close(found, output, rtol=1e-4, atol=1e-5)


def test_every_golden_is_compared_and_listed_with_its_entry_and_source() -> None:
    assert {path.stem for path in GOLDENS.glob("*.pt")} == set(FILES)
    listed = {file.strip("`").removesuffix(".pt"): rest for file, *rest in rows_of_readme("Files")}
    assert listed.keys() == FILES.keys()
    for name, (entry, code, commit) in listed.items():
        golden = read_golden(name)
        assert entry == f"`{FILES[name].entry}`", name
        assert commit == (golden["commit"] or "-"), name
        assert commit == "-" or f"{golden['repo']} `{golden['path']}`" in code, name


def test_every_entry_has_a_golden_or_a_plain_recomputation_that_is_named() -> None:
    plain = {entry.strip("`"): test.strip("`") for entry, test, _ in rows_of_readme("Entries without a file")}
    with_file = {golden.entry for golden in FILES.values()}
    assert [name for name in ATTENTIONS.own if name not in with_file | plain.keys()] == []
    assert plain.keys() & with_file == set()
    for entry, test in plain.items():
        file, _, function = test.partition("::")
        source = (GOLDENS.parent / file.removeprefix("tests/")).read_text()
        assert re.search(rf"^def {function}\(", source, re.MULTILINE), f"{entry}: {test}"


def test_cbam_sees_the_order_of_its_pooled_inputs() -> None:
    golden = read_golden("cbam_r16")
    module = with_weights_of(golden, create_attention("cbam", 64))
    with torch.no_grad():
        module.spatial.conv.weight.copy_(module.spatial.conv.weight.flip(1))

    assert (module(golden["inputs"][0]) - golden["output"]).abs().mean() > 0.05
