"""Who a patient is, and under which pseudonym: site key, issuers, lookup tables, registry."""
