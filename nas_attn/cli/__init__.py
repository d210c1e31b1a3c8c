"""The command line: commands, options, lists; no logic."""
