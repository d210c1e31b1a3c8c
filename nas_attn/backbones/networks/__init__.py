"""The networks themselves: torchvision's, and those that no library has."""
