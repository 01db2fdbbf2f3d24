from __future__ import annotations

import subprocess
import sys

import pytest

import meninx.deid
import meninx.metrics


@pytest.mark.parametrize("package", [meninx.deid, meninx.metrics])
def test_every_public_name_is_there(package):
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no_such"):
        package.no_such  # noqa: B018


def test_importing_a_package_loads_nothing_heavy():
    code = (
        "import sys, meninx.deid, meninx.metrics; print(sorted({'numpy', 'pydicom', 'torch'} & "
        "set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
