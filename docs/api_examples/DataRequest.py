"""A reader of your own is called with it, and can be tested with one."""

from pathlib import Path

from nas_attn import DATA, DataRequest

read_digits = DATA["digits"].reader
dataset = read_digits(DataRequest())
request = DataRequest(path=Path("tiles"), image_size=64, progress=lambda done, total: print(f"{done} of {total}"))
