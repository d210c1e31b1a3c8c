"""The code of a user: what it consists of, how it is told apart from a changed one, and the process that it shares."""
