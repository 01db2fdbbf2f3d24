"""The way back: what turns pseudonyms into patients again, sealed for the key's holder or for a broker.

:mod:`.sealing` writes the escrow of an archive and removes what is plain, :mod:`.reidentify` opens it.
"""
