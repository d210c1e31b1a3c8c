"""What to try next, and the ledger of what was tried."""
