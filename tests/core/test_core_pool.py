"""The process pool: results in order, a stop between items, no silent death, no orphans."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pool_jobs
import pytest

from meninx.core import pool
from meninx.core.errors import DataError, Interrupted
from meninx.core.pool import AHEAD, Stop, mapped

HERE = Path(__file__).parent


def test_results_come_in_order_and_items_are_taken_as_they_are_needed():
    taken: list[int] = []

    def items():
        for number in range(40):
            taken.append(number)
            yield number

    with Stop() as stop:
        results = mapped(pool_jobs.square, items(), workers=2, stop=stop)
        assert next(results) == 0
        assert len(taken) == 2 * AHEAD
        assert list(results) == [number**2 for number in range(1, 40)]


def test_an_error_of_an_item_is_raised_at_its_place():
    for workers in (1, 2):
        with Stop() as stop:
            results = mapped(pool_jobs.fail_on_three, range(6), workers=workers, stop=stop)
            assert [next(results) for _ in range(3)] == [0, 1, 2]
            with pytest.raises(ValueError, match="item three"):
                next(results)


def test_setup_happens_once_in_every_process_and_its_error_is_its_own():
    with Stop() as stop:
        found = list(
            mapped(
                pool_jobs.recall,
                range(9),
                workers=2,
                stop=stop,
                setup=pool_jobs.remembered,
                setup_args=("x",),
            )
        )
        assert found == [f"{number}x1" for number in range(9)]
        broken = mapped(
            pool_jobs.nothing,
            range(3),
            workers=2,
            stop=stop,
            setup=pool_jobs.broken_setup,
            setup_args=("key is bad",),
        )
        with pytest.raises(DataError, match="key is bad"):
            list(broken)


def test_calls_in_two_threads_keep_their_contexts_and_close_them():
    contexts: list[list[str]] = []

    @contextmanager
    def watched(word: str) -> Iterator[list[str]]:
        with pool_jobs.remembered(word) as words:
            contexts.append(words)
            yield words

    def call(word: str) -> list[str]:
        both.wait(5)
        with Stop() as stop:
            return list(
                mapped(pool_jobs.recall, range(40), workers=1, stop=stop, setup=watched, setup_args=(word,))
            )

    both = threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(call, "ab"))
    for word, results in zip("ab", found, strict=True):
        assert [result.rstrip("0123456789") for result in results] == [f"{n}{word}" for n in range(40)]
    assert contexts == [[], []]  # closed


def test_a_call_that_is_left_early_closes_its_context():
    contexts: list[list[str]] = []

    @contextmanager
    def watched() -> Iterator[list[str]]:
        with pool_jobs.remembered("x") as words:
            contexts.append(words)
            yield words

    with Stop() as stop:
        results = mapped(pool_jobs.recall, range(3), workers=1, stop=stop, setup=watched)
        next(results)
        assert contexts != [[]]
        results.close()
    assert contexts == [[]]


def test_a_dead_worker_is_named_by_the_number_of_its_item():
    with Stop() as stop, pytest.raises(DataError, match="item 4 "):
        list(mapped(pool_jobs.die_on_three, range(8), workers=2, stop=stop))


def test_items_that_kill_their_worker_get_a_result_and_the_others_go_on():
    with Stop() as stop:
        found = list(mapped(pool_jobs.die_on_odd, range(6), workers=2, stop=stop, died=pool_jobs.minus))
    assert found == [0, -1, 2, -3, 4, -5]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_an_idle_worker_that_is_killed_does_not_hang_the_others():
    """An idle worker waits with the lock of the queue in its hands.

    Killed there, it leaves the lock taken for good.
    """
    with Stop() as stop:
        results = mapped(time.sleep, [0] * 12 + [1.0], workers=3, stop=stop)
        next(results)
        time.sleep(0.7)
        for worker in multiprocessing.active_children():
            if "pipe" in Path(f"/proc/{worker.pid}/wchan").read_text() if Path("/proc").is_dir() else True:
                os.kill(worker.pid, signal.SIGKILL)
                break
        ended = threading.Event()
        threading.Thread(
            target=lambda: ended.wait(20) or os.kill(os.getpid(), signal.SIGABRT), daemon=True
        ).start()
        assert len(list(results)) == 12
        ended.set()


def _killing(numbers):
    """Yield numbers and kill every worker after the first one of them was given away."""
    for number in numbers:
        yield number
        if number == 0:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)


# The thread of an executor may look at its table of processes while a new one is entered (Python 3.11).
# It has given up its items by then, so that nothing is lost.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_worker_that_is_killed_while_starting_costs_nothing():
    with Stop() as stop:
        assert list(mapped(pool_jobs.square, _killing(range(4)), workers=2, stop=stop)) == [0, 1, 4, 9]
    assert not multiprocessing.active_children()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_workers_that_are_always_killed_while_starting_are_not_taken_for_an_unguarded_script(monkeypatch):
    start = pool._Process.start

    def killed(process):
        start(process)
        process.kill()

    monkeypatch.setattr(pool._Process, "start", killed)
    with Stop() as stop, pytest.raises(DataError, match="killed while they started") as caught:
        list(mapped(pool_jobs.square, range(4), workers=2, stop=stop))
    assert "__main__" not in str(caught.value)
    assert not multiprocessing.active_children()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_worker_that_starts_while_the_others_are_ended_is_ended_too(monkeypatch):
    """The executor overlooks a process that starts after it ended the others, and waits for it for good."""
    start, begun = pool._Process.start, []

    def late(process):
        begun.append(process)
        if len(begun) == 2:  # the first one dies, and the executor notices, before this one is known to it
            os.kill(begun[0].pid, signal.SIGKILL)
            time.sleep(0.5)
        start(process)

    monkeypatch.setattr(pool._Process, "start", late)
    with Stop() as stop:
        assert list(mapped(pool_jobs.square, range(6), workers=2, stop=stop)) == [0, 1, 4, 9, 16, 25]
    assert not multiprocessing.active_children()


def test_a_worker_that_cannot_be_given_its_orders_is_a_dead_worker(monkeypatch):
    start, begun = pool._Process.start, []

    def broken(process):
        begun.append(process)
        if len(begun) == 2:
            raise BrokenPipeError(32, "Broken pipe")
        start(process)

    monkeypatch.setattr(pool._Process, "start", broken)
    with Stop() as stop:
        assert list(mapped(pool_jobs.square, range(6), workers=2, stop=stop)) == [0, 1, 4, 9, 16, 25]
    assert not multiprocessing.active_children()


def _stopped_at_the_first(items: int, workers: int, found: list[int]) -> None:
    with Stop() as stop:
        for result in mapped(pool_jobs.slow, range(items), workers=workers, stop=stop):
            found.append(result)
            stop.wanted = True


def test_a_stop_yields_what_is_in_flight():
    for workers in (1, 2):
        found: list[int] = []
        with pytest.raises(Interrupted):
            _stopped_at_the_first(1000, workers, found)
        assert found == list(range(len(found)))
        assert len(found) <= 2 * AHEAD


def test_no_item_begins_after_a_stop_while_one_takes_long(tmp_path: Path):
    """Two processes: the first item takes two seconds, in which the other one could do two others."""

    def stop_soon() -> None:
        while not any(tmp_path.iterdir()):  # the processes start
            time.sleep(0.02)
        stop.wanted = True

    with Stop() as stop, ThreadPoolExecutor(1) as threads:
        threads.submit(stop_soon)
        arguments = {"workers": 2, "setup": pool_jobs.in_folder, "setup_args": (str(tmp_path),)}
        with pytest.raises(Interrupted):
            list(mapped(pool_jobs.marked, range(100), stop=stop, **arguments))
    assert len(list(tmp_path.iterdir())) <= 2


def test_a_stop_is_told_at_once_and_in_spite_of_a_terminal_that_is_gone():
    told: list[str] = []

    def gone(line: str) -> None:
        told.append(line)
        raise OSError

    with Stop(gone) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.wanted
        assert told == ["stopping: what is in work is finished, and nothing further begins"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert len(told) == 1


def test_a_stop_is_heard_after_the_last_item_was_given_away():
    found: list[int] = []
    with pytest.raises(Interrupted):
        _stopped_at_the_first(8, 2, found)
    assert 1 <= len(found) < 8


def test_the_main_process_does_not_grow_with_the_number_of_items():
    with Stop() as stop:
        results = mapped(pool_jobs.square, range(3000), workers=2, stop=stop)
        for _ in range(500):
            next(results)
        tracemalloc.start()
        try:
            for _ in range(200):
                next(results)
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(2000):
                next(results)
            assert tracemalloc.get_traced_memory()[0] - before < 100_000
        finally:
            tracemalloc.stop()
            results.close()


def _script(tmp_path: Path, body: str, **how: Any) -> subprocess.Popen[str]:
    path = tmp_path / "script.py"
    path.write_text(
        "import pool_jobs, os, sys\nfrom meninx.core.pool import Stop, mapped\n" + textwrap.dedent(body)
    )
    search = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    pipe, variables = subprocess.PIPE, {**os.environ, "PYTHONPATH": search}
    return subprocess.Popen(
        [sys.executable, str(path)], stdout=pipe, stderr=pipe, text=True, env=variables, **how
    )


LOOP = """
    from meninx.core.errors import Interrupted
    if __name__ == "__main__":
        try:
            with Stop() as stop:
                for pid in mapped(pool_jobs.process, range(10000), workers=2, stop=stop):
                    print(pid, flush=True)
        except Interrupted:
            print("stopped", flush=True)
            sys.exit(130)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_to_the_main_process_stops_cleanly(tmp_path: Path, name: str):
    if not hasattr(signal, name):
        pytest.skip("no such signal here")
    main = _script(tmp_path, LOOP)
    workers = {int(main.stdout.readline()) for _ in range(6)}
    main.send_signal(getattr(signal, name))
    out, _ = main.communicate(timeout=20)
    assert main.returncode == 130
    assert out.splitlines()[-1] == "stopped"
    assert not [pid for pid in workers if _alive(pid)]


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
def test_workers_that_are_starting_say_nothing_when_a_terminal_interrupts_all_processes(tmp_path: Path):
    body = LOOP.replace(
        'if __name__ == "__main__":', 'os.write(2, b"imported\\n")\n    if __name__ == "__main__":'
    )
    main = _script(tmp_path, body, process_group=0)
    assert main.stderr.readline() == "imported\n"  # by the main process; two workers follow
    time.sleep(0.3)
    os.killpg(main.pid, signal.SIGINT)
    out, errors = main.communicate(timeout=60)
    assert main.returncode == 130
    assert out.splitlines()[-1] == "stopped"
    assert "Traceback" not in errors


def test_a_third_signal_ends_workers_and_program_at_once(tmp_path: Path):
    """The interpreter waited for ever for workers whose end the third signal had interrupted."""
    main = _script(tmp_path, LOOP.replace("pool_jobs.process", "pool_jobs.hour"))
    workers = {int(main.stderr.readline()) for _ in range(2)}
    for _ in range(3):
        main.send_signal(signal.SIGINT)
        time.sleep(0.4)
    main.communicate(timeout=20)
    assert main.returncode != 0
    assert not [pid for pid in workers if _alive(pid)]


def test_workers_end_when_the_main_process_is_killed(tmp_path: Path):
    main = _script(tmp_path, LOOP)
    workers = {int(main.stdout.readline()) for _ in range(6)}
    main.kill()
    main.communicate(timeout=10)  # whoever reads stdout is not left blocked either
    until = time.monotonic() + 5
    while any(map(_alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in workers if _alive(pid)]


def test_a_script_without_a_guard_is_told_so(tmp_path: Path):
    main = _script(
        tmp_path, "with Stop() as stop:\n    list(mapped(pool_jobs.square, range(3), workers=2, stop=stop))\n"
    )
    _, errors = main.communicate(timeout=30)
    assert main.returncode == 1
    assert errors.rstrip().splitlines()[-1].startswith("meninx.core.errors.UsageError")
    assert "__main__" in errors.rstrip().splitlines()[-1]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return not Path("/proc").is_dir()
