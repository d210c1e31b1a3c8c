"""The settings of the images: where they are, how files become pixels, how they are split, what is refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field as Rule

from nas_attn.config.groups import DATA
from nas_attn.files import MOST_PIXELS
from nas_attn.validation import Setting, Strict

OF_READING = ("pixel_range", "background", "frames", "max_pixels", "allow_blank", "drop_duplicates")
"""Keys of the settings of how files are read, and which are accepted."""

Fraction = Annotated[float, Rule(ge=0.0, le=1.0)]


class DataConfig(Strict):
    """The images, their size and their split."""

    name: Annotated[
        str,
        Rule(min_length=1, description="Data source: its name, or NAME:PATH if it reads a path of yours."),
        Setting(DATA, name="data", table="data", metavar="SOURCE"),
    ] = "digits"
    root: Annotated[
        str,
        Rule(min_length=1, description="Folder of torchvision's data sets, also for downloads."),
        Setting(DATA, name="data_root", metavar="FOLDER"),
    ] = "data"
    download: Annotated[bool, Rule(description="Download a data set that is missing."), Setting(DATA)] = False
    image_size: Annotated[
        int | None,
        Rule(ge=4, le=2048, description="Height and width of the images in pixels."),
        Setting(DATA, table="data", unset="the data's own"),
    ] = None
    channels: Annotated[
        Literal[1, 3] | None,
        Rule(description="1 converts the images to grey, 3 to colour."),
        Setting(DATA, unset="the data's own"),
    ] = None
    split: Annotated[
        tuple[Fraction, Fraction, Fraction] | None,
        Rule(strict=False, description="Shares of train, validation and test: percent on the command line, 10/20/70."),
        Setting(DATA, table="data", metavar="N/N/N", unset="the data's own; digits 10/20/70"),
    ] = None
    seed: Annotated[int, Rule(ge=0, description="Seed of the split.")] = 0
    strict: Annotated[
        bool,
        Rule(description="Stop at the first damaged image instead of skipping it by name."),
        Setting(DATA, name="strict_data"),
    ] = False
    pixel_range: Annotated[
        str | None,
        Rule(
            min_length=1,
            description="Values in the image files that become black and white, such as 0:4095 for 12 bits in 16-bit "
            "files.",
        ),
        Setting(DATA, metavar="LOW:HIGH", unset="0:255 for 8 bits a channel, otherwise found in the files and stated"),
    ] = None
    background: Annotated[
        str,
        Rule(min_length=1, description="Colour behind transparent images: white, black or #rrggbb."),
        Setting(DATA, metavar="COLOUR"),
    ] = "white"
    frames: Annotated[
        Literal["first", "all"],
        Rule(
            description="Of a file with several frames or pages, read the first one, or each as an image of its class; "
            "these stay together in one part of a split."
        ),
        Setting(DATA),
    ] = "first"
    max_pixels: Annotated[
        int,
        Rule(ge=1, le=10**12, description="Largest number of pixels of an image file; a larger one is not read."),
        Setting(DATA),
    ] = MOST_PIXELS
    allow_blank: Annotated[
        bool,
        Rule(description="Accept sets, parts and classes whose images are all alike, or nearly without contrast."),
        Setting(DATA),
    ] = False
    drop_duplicates: Annotated[
        bool,
        Rule(
            description="Remove images of validation and test that an earlier part has too, and all copies of an image "
            "that has two labels."
        ),
        Setting(DATA),
    ] = False
