"""How arms are compared: predictions to contributions, crossed variances, contrasts, looks, and the answer."""
