"""The command line: commands, options and listings; no logic."""
