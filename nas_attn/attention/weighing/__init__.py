"""What the attentions of the catalogue weighed in a forward pass."""
