"""Optional libraries: import one, or say which pip command brings it here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lvm_runtime.errors import BackendUnavailable
from lvm_runtime.system.imports import load

_ROOT = Path(__file__).parents[2]


def pip_command(extra: str) -> str:
    """Return the pip command for an extra such as "torch": of this checkout, or of the installed package.

    >>> pip_command("torch").startswith("pip install")
    True
    """
    if _is_checkout():
        return f"pip install -e '.[{extra}]' in {_ROOT}"
    return f"pip install 'lvm_runtime[{extra}]'"


def build_command() -> str:
    """Return the pip command that builds the compiled parts: those of this checkout, or of the installed package.

    >>> build_command().startswith("pip install")
    True
    """
    if _is_checkout():  # which is what was imported, also where a copy of it is installed
        return f"pip install -e . in {_ROOT}"
    return "pip install --force-reinstall --no-binary lvm_runtime lvm_runtime"


def _is_checkout() -> bool:
    return (_ROOT / "pyproject.toml").is_file()


def installed(module: str) -> bool:
    """Say whether `module` can be found, without importing it; of a part, the package that it is in is imported.

    >>> installed("numpy.linalg"), installed("no_such_package.part")
    (True, False)
    """
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is a part of
        return False


def require(extra: str, what: str, *modules: str) -> Any:
    """Import `modules` and return the first; BackendUnavailable, with the pip command, for the first that is missing.

    `extra` is the one that brings them and `what` is what needs them, such as "training".
    """
    found = []
    for name in modules:
        try:
            found.append(load(name))
        except ImportError as error:
            absent = isinstance(error, ModuleNotFoundError) and error.name == name
            reason = "" if absent else f", which cannot be imported here ({error})"
            raise BackendUnavailable(f"{what} needs {name}{reason}; install it with: {pip_command(extra)}") from error
    return found[0]
