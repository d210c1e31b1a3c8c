"""Site tables made by hand, so that tests of spaces need no network."""

from __future__ import annotations

from nas_attn.placement import Site, SiteTable


def make_table(*sites: Site, name: str = "densenet", n_parameters: int = 20_000, n_macs: int = 1_000_000) -> SiteTable:
    return SiteTable(name, 10, 1, 8, n_parameters, n_macs, sites)


def make_site(name: str, channels: int, size: int, stage: str, kind: str = "output") -> Site:
    return Site(name, kind, f"features.{name}", channels, size, size, stage)


def densenet_table() -> SiteTable:
    """Three blocks of four layers, growth rate 8, a stem of 32 channels, images of 8x8."""
    return make_table(
        make_site("denseblock1.layer1", 8, 8, "stage1"),
        make_site("denseblock1", 64, 8, "stage1"),
        make_site("transition1", 32, 4, "stage2"),
        make_site("denseblock2", 64, 4, "stage2"),
        make_site("transition2", 32, 2, "stage3"),
        make_site("denseblock3", 64, 2, "stage3"),
    )


def resnet_table() -> SiteTable:
    """ResNet-18 with a small stem at 32x32: four stages of two blocks."""
    sites = []
    for stage, (channels, size) in enumerate([(64, 32), (128, 16), (256, 8), (512, 4)], 1):
        for block in (1, 2):
            place = f"stage{stage}.block{block}"
            sites += [
                make_site(f"{place}.{kind}", channels, size, f"stage{stage}", kind)
                for kind in ("branch", "shortcut", "output")
            ]
    return make_table(*sites, name="resnet18", n_parameters=11_173_962, n_macs=555_422_720)
