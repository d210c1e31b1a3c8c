"""Where the rows of a ledger lie, and how they are read and written."""
