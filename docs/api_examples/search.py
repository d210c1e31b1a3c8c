"""The whole search, as `nas-attn search` runs it; the settings have the command line's names."""

from nas_attn import search

run = search("lenet_attn", out="runs/from_python", trials=24, epochs=25, executor="local")
print(run.folder / "report.html")
print(run.best["recommended"], run.best["placement"])
