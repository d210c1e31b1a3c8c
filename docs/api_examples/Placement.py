"""Which attention sits at which site; the JSON form stands in `best.json`."""

from nas_attn import Placement

placement = Placement.from_dict({"stage3.block1.branch": {"name": "cbam", "reduction": 8}})
assert Placement.from_json(placement.to_json()) == placement
print(placement)  # cbam(reduction=8) at stage3.block1.branch
print(placement.key)  # equal placements have equal keys
