"""Federated training: hospitals train one network together, and no image leaves a hospital.

:mod:`.simulate` runs a study in one process. A real one takes four groups of modules:

========================  ============================================================================
forming                   from a folder of the coordinator to a study that every site has approved
``config``                settings of a study; ``policy``: what a site allows, ``code_hash``: what it runs
``study``                 the coordinator's folder and the study file; ``site_folder``: the folder of a site
``enrolment``             sites and keys (``enrolment_keys``, ``authority``)
``approval``              what a site signs; ``approval_page``: what it reads before
``consortium``            these steps as the command line takes them; ``site_doctor``: checks before a start
``audit_log``             what a site or the coordinator did, chained and signed
------------------------  ----------------------------------------------------------------------------
protocol                  one study from its first to its last round, whatever carries its messages
``messages``              requests and replies; ``exchange``: what carries them, as the rounds see it
``strategies``            from the sum of a round to the next common model
``vector``                the common weights; ``weight_layout``: their order, ``first_model``: the first
``contribution``          what a site gives to a round (``encodings``: as numbers that are added up)
``aggregation_methods``   one record per way to add up; the sides: ``aggregators`` (plain), ``masked_sides``,
                          ``shares_sides``, ``encrypted_sides`` over ``secure_sides`` and ``history_file``
``rounds``                the coordinator's rounds; ``study_state``: where a study stands, on disk
``agent``                 a site's answers; ``site_rounds``: what it checks, ``site_budget``: what it spends
``study_record``          ``federated.json``, what a study did
``assembly``              the two ends of a study, put together from what all sites signed
------------------------  ----------------------------------------------------------------------------
carrying                  the same messages between processes, over one https port
``envelope``              signed bodies; ``mailbox``: short messages, ``line``: the site's connection
``flower``                Flower, which no other module imports; ``carrier``: mailbox and Flower together
``listener``              the public port; ``connections``: both ends, ready to use
``coordinator_process``   serves a study; ``site_process``: takes part; ``processes``: one per folder
------------------------  ----------------------------------------------------------------------------
watching                  what people see of a study that runs
``events``                what happened; ``event_words``: in sentences
``study_status``          how the study stands; ``study_watch``: keeps it up while a process runs
``status_page``           the same for a browser (``status_server``), terminal (``status_terminal``) and
                          Prometheus (``status_metrics``)
========================  ============================================================================

``pooling`` serves the baselines of a simulation. The protocol of secure aggregation itself is
:mod:`meninx.secagg`.
"""
