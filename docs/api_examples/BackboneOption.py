"""An option with its range; a value outside it is refused before anything is built."""

from nas_attn import BackboneOption

width = BackboneOption("width", 32, "int", "channels of all maps", low=2, high=512)
stem = BackboneOption("stem", "small", "str", "which first layer", choices=("small", "imagenet"))
