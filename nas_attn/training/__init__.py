"""One trial: its context, its batches, its loop."""
