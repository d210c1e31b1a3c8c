"""The stages of a run: proposals, planned runs and the ledger of all trials."""
