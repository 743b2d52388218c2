"""The native engine as an extension; everything else of the package is in pyproject.toml.

Without a C++17 compiler the package installs all the same, and the backend `native` says what is missing.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("lvm_runtime/native/src")


class BuildEngine(build_ext):
    """Build with the flags of the compiler at hand; results must not depend on it, so nothing is contracted."""

    def build_extensions(self) -> None:
        """Add the flags and build."""
        unix = ["-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"]
        windows = ["/std:c++17", "/O2", "/fp:precise", "/EHsc"]
        for extension in self.extensions:
            extension.extra_compile_args = windows if self.compiler.compiler_type == "msvc" else unix
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            "lvm_runtime.native._engine",
            sources=sorted(path.as_posix() for path in SOURCES.glob("*.cpp")),
            depends=sorted(path.as_posix() for path in (*SOURCES.glob("*.h"), *SOURCES.glob("*.inl"))),
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildEngine},
)
