"""Any order and any partition of the files into deliveries gives the same pseudonyms, and merges nobody."""

from __future__ import annotations

import itertools
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.core.errors import DataError
from meninx.deid.identity.identity_registry import IdentityRegistry
from meninx.deid.identity.issuer_policy import IssuerPolicy
from meninx.deid.identity.keys import SiteKey, normal
from meninx.deid.identity.lookup import read_lookup
from meninx.deid.identity.pseudonyms import Pseudonyms, Resolver
from meninx.dicomfile.refusals import Refused

KEY = SiteKey(bytes(range(64)), "north")
NAMES = Pseudonyms(KEY)
ISSUERS = ("", "X", " x ", "Y", "Ｙ", "Z", "north", "site", "east")
FILES = st.lists(
    st.tuples(st.sampled_from(("7", " 7", "07", "a", "A", "")), st.sampled_from(ISSUERS)), max_size=24
)
POLICIES = st.builds(
    IssuerPolicy,
    st.just("north"),
    st.sampled_from(("site", "separate", "listed")),
    st.sampled_from(("site", "quarantine")),
    st.dictionaries(st.sampled_from(("x", "y", "east")), st.sampled_from(("", "east")), max_size=3),
)


@st.composite
def deliveries(draw) -> tuple[list[tuple[str, str]], list[list[int]], list[list[int]]]:
    """Files, and two ways in which they arrive."""
    files = draw(FILES)
    ways = []
    for _ in range(2):
        order, cuts = draw(st.permutations(range(len(files)))), draw(st.sets(st.integers(0, len(files))))
        edges = [0, *sorted(cuts), len(files)]
        ways.append([order[a:b] for a, b in itertools.pairwise(edges)])
    return files, *ways


def result(files, way, policy, path) -> dict[int, str]:
    """File -> pseudonym, as far as the file is admitted; every delivery opens the registry anew."""
    resolver, found = Resolver(NAMES, policy), {}
    for delivery in way:
        registry = IdentityRegistry(path, KEY, policy)
        for number in delivery:
            patient_id, issuer = files[number]
            try:
                patient = resolver.patient(patient_id, issuer, f"1.2.{number}")
            except Refused:
                continue
            if registry.admit(patient_id, issuer, patient.domain, patient.pseudonym) is None:
                found[number] = patient.pseudonym
    return found


def meant(policy: IssuerPolicy, issuer: str) -> str:
    """Return whose patient a file means, from the words of the policy alone; empty where it does not say."""
    name = normal(issuer)
    if not name:
        return ""
    listed = {**{issuer: domain or "north" for issuer, domain in policy.domains.items()}, "north": "north"}
    return listed.get(name, name if policy.rule == "separate" else f"unlisted {name}")


@settings(max_examples=60, deadline=None)
@given(deliveries(), POLICIES)
def test_every_order_and_partition_gives_the_same_pseudonyms(tmp_path_factory, case, policy):
    files, *ways = case
    folder = tmp_path_factory.mktemp("registries")
    first, second = (result(files, way, policy, folder / str(number)) for number, way in enumerate(ways))
    for number in first.keys() & second.keys():
        assert first[number] == second[number]
    for found in (first, second):
        people: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for number, pseudonym in found.items():
            patient_id, issuer = files[number]
            people[pseudonym].add((meant(policy, issuer), normal(patient_id)))
        for same in people.values():
            assert len({patient_id for _, patient_id in same}) == 1
            assert len({whose for whose, _ in same} - {""}) <= 1
    issuers = {normal(issuer) for _, issuer in files} - {"", "north"}
    # An issuer that the policy does not list, under the name of a domain that it declares for another one,
    # may be either: such files are kept out, and which of them come first depends on the order.
    unclear = (issuers - policy.domains.keys()) & set(policy.domains.values())
    if issuers <= policy.domains.keys() or (policy.rule == "separate" and not unclear):
        assert first.keys() == second.keys()  # nobody is kept out where the policy names everybody


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("7", " 7", "07", "a-123", "A-123")),
            st.sampled_from(ISSUERS),
            st.sampled_from(("S-1", "s-1", "S-2", "S-3", "07", "7", "xA123", "Ann Lee")),
        ),
        max_size=5,
    ),
    POLICIES,
    st.sampled_from(",;\t"),
)
def test_a_table_that_is_read_gives_each_person_a_new_id_of_their_own(tmp_path_factory, rows, policy, sign):
    path = tmp_path_factory.mktemp("tables") / "t.csv"
    lines = [("old_patient_id", "issuer", "new_patient_id"), *rows]
    path.write_text("\n".join(sign.join(line) for line in lines) + "\n", encoding="utf-8")
    try:
        table, message = read_lookup(path, policy), ""
    except DataError as error:
        table, message = None, str(error)
    if table is None:
        assert "row" in message
        assert not any(new in message for _, _, new in rows if len(new) > 3)
        return
    new_ids = [normal(new) for new in table.patients.values()]
    assert len(new_ids) == len(set(new_ids))
    assert not {old for _, old in table.patients} & set(new_ids)
    resolver = Resolver(NAMES, policy, table, strict=True)
    for old, issuer, new in rows:
        if normal(issuer):
            assert resolver.patient(old, issuer).pseudonym == new
