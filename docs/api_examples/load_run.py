"""Everything that a run folder knows, for an analysis of your own; a running search is not disturbed."""

from nas_attn import load_run

run = load_run("runs/densenet_attn")
for trial in run.search:
    print(trial.number, trial.state, trial.value, trial.placement)
values = [trial.value for trial in run.retrain if trial.label == "none"]
