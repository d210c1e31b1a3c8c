"""A run for the search and one below it for each trial; needs `pip install "nas_attn[mlflow]"`."""

from nas_attn import NasAttnError
from nas_attn.callbacks import MLflow

try:
    callback = MLflow(experiment="attention", tracking_uri="sqlite:///mlflow.db")
except NasAttnError as error:  # MLflow is not installed
    print(error)
