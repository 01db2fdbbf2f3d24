"""De-identification on a Dask cluster: the same bytes as on one machine, over encrypted connections only."""

from __future__ import annotations

import datetime
import importlib
import ipaddress
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from deid_samples import clean, image, key_file, save, tree

from meninx.core import cluster_pool
from meninx.core.cluster_pool import ClusterAddress, _opened, _sealed, check_same, check_shared, mapped_on
from meninx.core.errors import ConfigError, DataError, Interrupted, PrivacyRefusal, UsageError
from meninx.core.pool import Stop
from meninx.core.progress import Silent
from meninx.deid.config import DeidConfig
from meninx.deid.program import versions
from meninx.deid.stage import run

pytest.importorskip("distributed")


@pytest.mark.parametrize(
    "address",
    [
        "tcp://10.0.0.3:8786",
        "tcp://scheduler:8786",
        "10.0.0.3:8786",
        "inproc://a",
        "http://127.0.0.1",
        "tcp://[::1",
        "",
    ],
)
def test_an_address_without_encryption_is_refused(address):
    with pytest.raises(PrivacyRefusal, match="encrypted"):
        ClusterAddress(address=address).check()


@pytest.mark.parametrize(
    "address", ["tls://scheduler:8786", "tcp://127.0.0.1:8786", "tcp://[::1]:1", "tcp://localhost:1"]
)
def test_encrypted_addresses_and_this_machine_are_accepted(address):
    ClusterAddress(address=address).check()


def test_settings_without_effect_are_refused():
    with pytest.raises(ConfigError, match="workers"):
        DeidConfig(scheduler="tls://a:1", workers=2)
    with pytest.raises(ConfigError, match="scheduler_ca"):
        DeidConfig(scheduler_ca=Path("a"))
    with pytest.raises(PrivacyRefusal):
        DeidConfig(scheduler="tcp://a:1")


class OneWorker:
    """A client of a cluster whose one worker answers in this process."""

    def __init__(self, answers: Callable[..., object]) -> None:
        self.answers = answers

    def run(self, function: Callable[..., object], *given: object) -> dict[str, object]:
        return {"a": self.answers(function, *given)}


@pytest.mark.parametrize(
    ("other", "told"), [("versions", "others of numpy"), ("folder", "does not see the files")]
)
def test_a_run_compares_the_program_and_the_folder_of_every_worker(tmp_path, monkeypatch, other, told):
    def answers(function, *given):
        if function is versions:
            return {**versions(), **({"numpy": "1"} if other == "versions" else {})}
        return b"", [], str(tmp_path / "elsewhere")

    monkeypatch.setattr(ClusterAddress, "connected", lambda self: nullcontext(OneWorker(answers)))
    save(image(), tmp_path / "in" / "a")
    with pytest.raises(UsageError, match=told):
        clean(tmp_path, workers=0, scheduler="tls://a:1")
    assert not (tmp_path / "out" / "deid.json").exists()


def test_items_are_sealed():
    key = bytes(range(32))
    assert b"0000123" not in _sealed(key, ("0000123",))
    assert _opened(key, _sealed(key, ("0000123",))) == ("0000123",)


def certificates(folder: Path) -> dict[str, Path]:
    """Write one self-signed certificate that is authority, server and client."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, plain))
    return {
        "scheduler_ca": folder / "cert.pem",
        "scheduler_cert": folder / "cert.pem",
        "scheduler_key": folder / "key.pem",
    }


CLUSTER = """
    import sys
    from distributed import LocalCluster, Security

    if __name__ == "__main__":
        cert, key, threads, workers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        names = {f"tls_{who}_{what}": path for who in ("scheduler", "worker", "client")
                 for what, path in (("cert", cert), ("key", key))}
        security = Security(tls_ca_file=cert, require_encryption=True, **names)
        with LocalCluster(n_workers=workers, threads_per_worker=threads, processes=True, host="127.0.0.1",
                          protocol="tls://", security=security, dashboard_address=None) as cluster:
            print(cluster.scheduler_address, flush=True)
            sys.stdin.read()
"""


@pytest.fixture
def cluster(tmp_path):
    """A function that starts a cluster of its own processes and returns the settings of a client."""
    started = []

    def start(threads: int = 1, workers: int = 2) -> dict[str, object]:
        files = certificates(tmp_path)
        (tmp_path / "cluster.py").write_text(textwrap.dedent(CLUSTER))
        words = [tmp_path / "cluster.py", files["scheduler_cert"], files["scheduler_key"], threads, workers]
        process = subprocess.Popen(
            [sys.executable, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        started.append(process)
        address = process.stdout.readline().strip()
        assert address.startswith("tls://")
        return {"scheduler": address, **files}

    yield start
    for process in started:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@pytest.mark.slow
def test_a_cluster_gives_the_same_bytes(tmp_path, cluster):
    for number in range(1, 9):
        save(image(number, study=number, PatientID=f"00{number}"), tmp_path / "in" / f"{number}")
    (tmp_path / "in" / "note.txt").write_text("no DICOM")
    key_file(tmp_path)
    clean(tmp_path, out="alone")
    result = clean(tmp_path, out="out", workers=0, **cluster())
    assert result.files_written == 8
    assert tree(tmp_path / "out" / "images") == tree(tmp_path / "alone" / "images")
    for name in ("audit.jsonl", "deid.json", "checksums.sha256", "private/journal.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.slow
def test_workers_with_threads_and_strangers_are_refused(tmp_path, cluster):
    save(image(), tmp_path / "in" / "a")
    settings = cluster(threads=2, workers=1)
    with pytest.raises(UsageError, match="several threads"):
        clean(tmp_path, workers=0, **settings)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UsageError, match="cannot be reached"):
        clean(tmp_path, workers=0, **{**settings, **certificates(other)})


WORK = """
    import os
    import time

    from contextlib import contextmanager

    opened = []

    @contextmanager
    def install(folder):
        opened.append(folder)
        try:
            yield folder
        finally:
            opened.remove(folder)

    def still_open():
        return list(opened)

    def where(here, item):
        return here

    def work(here, item):
        if item == "kills":
            os._exit(9)
        if item == "kills once" and not os.path.exists(f"{here}/mark"):
            open(f"{here}/mark", "w").close()
            os._exit(9)
        time.sleep(6 if item == "sleeps" else 0.02)
        return item, os.getpid()
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A module that workers can import, too."""
    (tmp_path / "cluster_work.py").write_text(textwrap.dedent(WORK))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1")
    return importlib.import_module("cluster_work")


def address_of(given: dict[str, object]) -> ClusterAddress:
    return DeidConfig(**given).cluster()


class _NewWorkersForEver:
    """A client of a cluster whose workers die with every item and are replaced."""

    def nthreads(self):
        return {"tls://127.0.0.1:1": 1}

    def run(self, *words, **how):
        return {}

    def cancel(self, futures):
        pass

    def submit(self, *words, **how):
        future = Future()
        future.set_result((False, "tls://127.0.0.1:1"))
        return future


def test_an_item_that_only_meets_new_workers_is_named_and_does_not_go_on_for_ever():
    given = {"stop": Stop(), "setup": nullcontext, "setup_args": ()}
    client = _NewWorkersForEver()
    assert list(mapped_on(client, len, ["x"], died=lambda item: f"died {item}", **given)) == ["died x"]
    with pytest.raises(DataError, match="died on item 1"):
        list(mapped_on(client, len, ["x"], **given))


@pytest.mark.slow
def test_dead_workers_lose_no_item_and_the_deadly_one_is_named(tmp_path, cluster, work):
    items = [*map(str, range(6)), "kills once", *map(str, range(6, 12)), "kills", *map(str, range(12, 18))]
    with address_of(cluster()).connected() as client, Stop() as stop:
        arguments = {"setup": work.install, "setup_args": (str(tmp_path),), "stop": stop}
        results = list(mapped_on(client, work.work, items, died=lambda item: ("died", item), **arguments))
        assert [first for first, _ in results if first != "died"] == [
            item for item in items if item != "kills"
        ]
        assert [second for first, second in results if first == "died"] == ["kills"]
        assert results.index(("died", "kills")) == items.index("kills")
        with pytest.raises(DataError, match="died on item 2"):
            list(mapped_on(client, work.work, ["0", "kills"], **arguments))


@pytest.mark.slow
def test_a_run_ends_when_no_worker_is_left(cluster, work, monkeypatch, tmp_path):
    monkeypatch.setattr(cluster_pool, "_GLANCE", 0.2)
    monkeypatch.setattr(cluster_pool, "_WORKERLESS", 1)
    with address_of(cluster(workers=1)).connected() as client:
        done = mapped_on(
            client, work.work, ["a", "sleeps"], stop=Stop(), setup=work.install, setup_args=(str(tmp_path),)
        )
        assert next(done)[0] == "a"
        monkeypatch.setattr(client, "nthreads", dict)
        with pytest.raises(DataError, match="no worker is left"):
            list(done)


@pytest.mark.slow
def test_two_runs_on_one_worker_keep_apart_and_leave_no_engine(tmp_path, cluster, work):

    def engines() -> list[str]:
        import gc

        gc.unfreeze()
        gc.collect()
        kinds = [type(one) for one in gc.get_objects()]
        return [kind.__name__ for kind in kinds if kind.__name__ in ("Engine", "Cleaner", "SiteKey")]

    for name in ("north", "south"):
        (tmp_path / name).mkdir()
        key_file(tmp_path / name)
        for number in range(1, 4):
            save(image(number, PatientID=f"{name}{number}"), tmp_path / name / "in" / f"{name}{number}")
    given = cluster(workers=1)
    with address_of(given).connected() as client, Stop() as stop:
        runs = [
            mapped_on(client, work.where, range(9), stop=stop, setup=work.install, setup_args=(name,))
            for name in ("a", "b")
        ]
        firsts = [next(run) for run in runs]  # both are installed
        assert [{first, *run} for first, run in zip(firsts, runs, strict=True)] == [{"a"}, {"b"}]
        assert list(client.run(work.still_open).values()) == [[]]
        with ThreadPoolExecutor(2) as threads:
            done = threads.map(
                lambda name: clean(tmp_path / name, site=name, workers=0, **given), ("north", "south")
            )
            assert [(one.files_written, one.quarantined) for one in done] == [(3, {}), (3, {})]
        assert list(client.run(engines).values()) == [[]]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_without_the_cluster(tmp_path, cluster):
    for number in range(1, 25):
        save(image(number, study=number, PatientID=f"00{number}"), tmp_path / "in" / f"{number:02d}")
    key = key_file(tmp_path)
    config = {"key": key, "site": "north"}

    class Stopping(Silent):
        seen = 0

        def advance(self, *words: object, **more: object) -> None:
            Stopping.seen += 1
            if Stopping.seen == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run(DeidConfig(**config, **cluster()), tmp_path / "in", tmp_path / "out", progress=Stopping())
    assert Stopping.seen < 24
    result = clean(tmp_path, out="out")
    assert 3 <= result.files_resumed < 24
    clean(tmp_path, out="alone")
    assert tree(tmp_path / "out" / "images") == tree(tmp_path / "alone" / "images")


@pytest.mark.slow
def test_a_folder_that_is_not_shared_and_another_version_are_refused(tmp_path, cluster, work, monkeypatch):
    with address_of(cluster()).connected() as client:
        check_shared(client, tmp_path, [tmp_path / "cluster.py"])
        hidden = tmp_path / "cluster.py"
        monkeypatch.setattr(cluster_pool, "_head", lambda path: b"another file")  # of this process alone
        with pytest.raises(UsageError, match="does not see the files"):
            check_shared(client, tmp_path, [hidden])
        assert not list(tmp_path.glob(".partial-*"))
        check_same(client, versions)
        monkeypatch.setattr(cluster_pool, "_head", None)
        (tmp_path / "other.py").write_text("import os\ndef said():\n    return {'a': str(os.getpid())}\n")
        with pytest.raises(UsageError, match="others of a"):
            check_same(client, importlib.import_module("other").said)
