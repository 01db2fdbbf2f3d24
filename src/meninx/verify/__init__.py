"""Checks of folders that meninx wrote: digests, consistent records, epsilon computed again from the ledger."""
