"""Whether folders are as meninx wrote them: digests, records that belong together, epsilon computed again from its ledger."""
