"""What a plug-in's `places` function returns for each site of its network."""

from nas_attn import Place


def places(network):
    return [Place("stage1.output", "output", "stages.0", stage="stage1")]
