"""Who runs trials: Ray Tune on many workers, or this process."""
