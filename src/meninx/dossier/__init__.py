"""The egress dossier: one signed folder from which an output checker can decide on the release of a model.

======================  ==============================================================================
``evidence``            copies and extracts of records, from the run folders into the dossier
``facts``               one fact with its file and digest; ``model_facts``, ``privacy_facts``,
                        ``audit_facts`` and ``data_facts`` derive all of them from the evidence alone
``derivation``          ``dossier.json`` from the evidence, also when ``meninx verify`` repeats it
``cautions``            what speaks against a release, before all numbers
``headings``            headings of norms, with the facts that speak to them
``identifier_search``   the search for patients' identifiers in what is about to be written
``dossier_page``        the same facts for people, as HTML; ``dossier_pdf``: as PDF
``crate``               the files as RO-Crate metadata; ``schema``: JSON schema; ``signature``: Ed25519
``stage``               all of this, in one folder that appears as a whole
======================  ==============================================================================
"""

from meninx.core.lazy import callable_package

callable_package(__name__, "meninx.api", "dossier")  # meninx.dossier(...) is the public function
