from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from deid_samples import image, images, key_file, save


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("guarded", [False, True])
def test_a_script_without_a_guard_is_told_what_it_lacks(tmp_path, guarded, dry_run):
    for number in range(4):
        save(image(number), tmp_path / "in" / f"Quillfeather{number}")
    key = key_file(tmp_path)
    script = f"""
        from meninx import api
        {'if __name__ == "__main__":' if guarded else "if True:"}
            result = api.deidentify("in", "out", key="{key.name}", workers=2, dry_run={dry_run})
            print(result.files_read)
    """
    (tmp_path / "mine.py").write_text(textwrap.dedent(script))
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    written = 4 if guarded and not dry_run else 0
    assert len(images(tmp_path / "out")) == written
    if guarded:
        assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")
        return
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert 'expected a script that calls this below `if __name__ == "__main__":`' in last
    assert "or use workers=1" in last
    assert "Quillfeather" not in done.stderr
