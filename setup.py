"""The native engine as an extension; everything else of the package is in pyproject.toml.

Without a C++17 compiler the package installs all the same, and the backend `native` says what is missing. One build
serves every Python from 3.11 on, by the stable ABI, which has buffers since then and does not know free threads.
"""

import os
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("lvm_runtime/native/src")
LONGEST = FOLDER / "path_plain.cpp"  # takes as long as all the others together, so it begins first
STABLE = sys.version_info >= (3, 11) and not sysconfig.get_config_var("Py_GIL_DISABLED")


class BuildEngine(build_ext):
    """Build with the flags of the compiler at hand, several files at a time.

    Results must not depend on the compiler, so nothing is contracted.
    """

    def build_extensions(self) -> None:
        """Add the flags and build."""
        unix = ["-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"]
        windows = ["/std:c++17", "/O2", "/fp:precise", "/EHsc"]
        for extension in self.extensions:
            extension.extra_compile_args = windows if self.compiler.compiler_type == "msvc" else unix
        compile_some = self.compiler.compile

        def compile_all(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(chain.from_iterable(pool.map(lambda one: compile_some([one], **options), sources)))

        if self.compiler.compiler_type == "unix":
            self.compiler.compile = compile_all
        for other in FOLDER.parent.glob("_engine.c*"):  # of one Python alone, which would import it instead
            other.unlink()
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            "lvm_runtime.native._engine",
            sources=[p.as_posix() for p in sorted(FOLDER.glob("*.cpp"), key=lambda p: (p != LONGEST, p))],
            depends=sorted(path.as_posix() for path in (*FOLDER.glob("*.h"), *FOLDER.glob("*.inl"))),
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE else [],
            py_limited_api=STABLE,
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildEngine},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
